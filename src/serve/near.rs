//! The near cache: key, form and stamp → an answer's bytes, in this process.
//!
//! It holds bytes only. Whether they are fresh is the ledger's word, given with the stamp that the bytes must
//! have (R5), so a commit that marks a key costs nothing here. What was made of the bytes (another form, deflated
//! bytes) is kept beside them, made once a stamp.

use std::{
    hash::{Hash, Hasher},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use quick_cache::{
    DefaultHashBuilder, Equivalent, OptionsBuilder, Weighter, sync::Cache, sync::DefaultLifecycle,
};

use crate::{entry::Stamp, key::Key};

use super::{form::Form, pack::Packed};

/// A shard takes no answer larger than itself, so few shards: each has room for a large answer.
const SHARDS: usize = 16;

/// What an entry costs beside its texts: hash slot, list links, two handles.
const OVERHEAD_BYTES: usize = 128;

/// Answer bytes by key, bounded by bytes; what was not read for long goes first.
#[derive(Debug)]
pub struct Near {
    cache: Cache<Place, Stamped, Weight>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// Where bytes lie.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place(Key, Form, bool);

/// The same, looked for.
struct Sought<'k>(&'k Key, Form, bool);

impl Hash for Sought<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
        self.1.hash(state);
        self.2.hash(state);
    }
}

impl Equivalent<Place> for Sought<'_> {
    fn equivalent(&self, place: &Place) -> bool {
        *self.0 == place.0 && (self.1, self.2) == (place.1, place.2)
    }
}

#[derive(Debug, Clone)]
struct Stamped {
    stamp: Stamp,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    Plain(Bytes),
    Packed(Packed),
}

#[derive(Debug, Clone)]
struct Weight;

impl Weighter<Place, Stamped> for Weight {
    fn weight(&self, place: &Place, stamped: &Stamped) -> u64 {
        let bytes = match &stamped.body {
            Body::Plain(bytes) => bytes.len(),
            Body::Packed(packed) => packed.bytes(),
        };
        (place.0.as_str().len() + bytes + OVERHEAD_BYTES) as u64
    }
}

/// How the cache does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that are held.
    pub bytes: u64,
    /// Bytes that may be.
    pub capacity: u64,
    /// Answers and what was made of them.
    pub entries: u64,
    /// Looks that found the bytes.
    pub hits: u64,
    /// Looks that did not.
    pub misses: u64,
}

impl Near {
    /// An empty cache for this many bytes of keys and answers.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes / 1024).unwrap_or(usize::MAX).clamp(1, 10_000_000);
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .estimated_items_capacity(items)
            .weight_capacity(bytes)
            .build()
            .expect("both capacities are given");
        let hasher = DefaultHashBuilder::default();
        Self {
            cache: Cache::with_options(options, Weight, hasher, DefaultLifecycle::default()),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    fn look(&self, key: &Key, form: Form, packed: bool, stamp: Stamp) -> Option<Body> {
        let found = self.cache.get(&Sought(key, form, packed));
        found.filter(|stamped| stamped.stamp == stamp).map(|stamped| stamped.body)
    }

    /// The bytes of exactly this stamp.
    #[must_use]
    pub fn get(&self, key: &Key, stamp: Stamp) -> Option<Bytes> {
        let found = self.formed(key, Form::Json, stamp);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// The bytes of exactly this stamp in another form.
    #[must_use]
    pub fn formed(&self, key: &Key, form: Form, stamp: Stamp) -> Option<Bytes> {
        match self.look(key, form, false, stamp)? {
            Body::Plain(bytes) => Some(bytes),
            Body::Packed(_) => None,
        }
    }

    /// The same, deflated.
    #[must_use]
    pub fn packed(&self, key: &Key, form: Form, stamp: Stamp) -> Option<Packed> {
        match self.look(key, form, true, stamp)? {
            Body::Packed(packed) => Some(packed),
            Body::Plain(_) => None,
        }
    }

    /// Keeps the bytes of a stamp in place of those of any other.
    pub fn insert(&self, key: Key, form: Form, stamp: Stamp, bytes: Bytes) {
        self.cache.insert(Place(key, form, false), Stamped { stamp, body: Body::Plain(bytes) });
    }

    /// Keeps deflated bytes in place of any other.
    pub fn insert_packed(&self, key: Key, form: Form, stamp: Stamp, packed: Packed) {
        self.cache.insert(Place(key, form, true), Stamped { stamp, body: Body::Packed(packed) });
    }

    /// Whether bytes of this key are held, of whatever stamp; no look that counts.
    #[must_use]
    pub fn holds(&self, key: &Key) -> bool {
        self.cache.contains_key(&Sought(key, Form::Json, false))
    }

    /// How it does.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            bytes: self.cache.weight(),
            capacity: self.cache.capacity(),
            entries: self.cache.len() as u64,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::from_stored(text)
    }

    #[test]
    fn gives_bytes_of_the_same_stamp_only() {
        let near = Near::new(1 << 20);
        near.insert(key("p/1"), Form::Json, Stamp(2), Bytes::from_static(b"[]"));
        assert_eq!(near.get(&key("p/1"), Stamp(2)), Some(Bytes::from_static(b"[]")));
        assert_eq!(near.get(&key("p/1"), Stamp(1)), None);
        assert_eq!(near.get(&key("p/1"), Stamp(3)), None);
        assert_eq!(near.get(&key("p/2"), Stamp(2)), None);
    }

    #[test]
    fn forms_lie_beside_each_other() {
        let near = Near::new(1 << 20);
        near.insert(key("p/1"), Form::Json, Stamp(2), Bytes::from_static(b"[]"));
        near.insert(key("p/1"), Form::Csv, Stamp(2), Bytes::from_static(b"a"));
        near.insert_packed(key("p/1"), Form::Csv, Stamp(2), Packed::of(b"a"));
        assert_eq!(near.formed(&key("p/1"), Form::Csv, Stamp(2)), Some(Bytes::from_static(b"a")));
        assert!(near.packed(&key("p/1"), Form::Csv, Stamp(2)).is_some());
        assert!(near.packed(&key("p/1"), Form::Json, Stamp(2)).is_none());
        assert_eq!((near.usage().entries, near.usage().hits), (3, 0));
        assert!(near.holds(&key("p/1")) && !near.holds(&key("p/2")));
    }

    #[test]
    fn stays_within_its_bytes() {
        let near = Near::new(1 << 20);
        for number in 0..10_000 {
            near.insert(
                key(&format!("p/{number}")),
                Form::Json,
                Stamp(1),
                Bytes::from(vec![b'x'; 1024]),
            );
        }
        assert!((1..=1 << 20).contains(&near.usage().bytes), "{}", near.usage().bytes);
    }

    #[test]
    fn no_room_is_no_fault() {
        let near = Near::new(0);
        near.insert(key("p/1"), Form::Json, Stamp(1), Bytes::from_static(b"[]"));
        assert_eq!(near.get(&key("p/1"), Stamp(1)), None);
    }
}
