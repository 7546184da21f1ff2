//! The near cache: key and stamp → answer bytes, in this process.
//!
//! It holds bytes only. Whether they are fresh is the ledger's word, given with the stamp that the bytes must
//! have (R5), so a commit that marks a key costs nothing here.

use bytes::Bytes;
use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter, sync::Cache, sync::DefaultLifecycle,
};

use crate::{entry::Stamp, key::Key};

/// A shard takes no answer larger than itself, so few shards: each has room for a large answer.
const SHARDS: usize = 16;

/// What an entry costs beside its texts: hash slot, list links, two handles.
const OVERHEAD_BYTES: usize = 128;

/// Answer bytes by key, bounded by bytes; what was not read for long goes first.
#[derive(Debug)]
pub struct Near {
    cache: Cache<Key, Stamped, Weight>,
}

#[derive(Debug, Clone)]
struct Stamped {
    stamp: Stamp,
    body: Bytes,
}

#[derive(Debug, Clone)]
struct Weight;

impl Weighter<Key, Stamped> for Weight {
    fn weight(&self, key: &Key, stamped: &Stamped) -> u64 {
        (key.as_str().len() + stamped.body.len() + OVERHEAD_BYTES) as u64
    }
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
        Self { cache: Cache::with_options(options, Weight, hasher, DefaultLifecycle::default()) }
    }

    /// The bytes of exactly this stamp.
    #[must_use]
    pub fn get(&self, key: &Key, stamp: Stamp) -> Option<Bytes> {
        self.cache.get(key).filter(|stamped| stamped.stamp == stamp).map(|stamped| stamped.body)
    }

    /// Keeps the bytes of a stamp in place of those of any other.
    pub fn insert(&self, key: Key, stamp: Stamp, body: Bytes) {
        self.cache.insert(key, Stamped { stamp, body });
    }

    /// Forgets a key.
    pub fn remove(&self, key: &Key) {
        self.cache.remove(key);
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
        near.insert(key("p/1"), Stamp(2), Bytes::from_static(b"[]"));
        assert_eq!(near.get(&key("p/1"), Stamp(2)), Some(Bytes::from_static(b"[]")));
        assert_eq!(near.get(&key("p/1"), Stamp(1)), None);
        assert_eq!(near.get(&key("p/1"), Stamp(3)), None);
        assert_eq!(near.get(&key("p/2"), Stamp(2)), None);
    }

    #[test]
    fn a_removed_key_is_gone() {
        let near = Near::new(1 << 20);
        near.insert(key("p/1"), Stamp(2), Bytes::from_static(b"[]"));
        near.remove(&key("p/1"));
        assert_eq!(near.get(&key("p/1"), Stamp(2)), None);
    }

    #[test]
    fn stays_within_its_bytes() {
        let near = Near::new(1 << 20);
        for number in 0..10_000 {
            near.insert(key(&format!("p/{number}")), Stamp(1), Bytes::from(vec![b'x'; 1024]));
        }
        assert!((1..=1 << 20).contains(&near.cache.weight()), "{}", near.cache.weight());
    }

    #[test]
    fn no_room_is_no_fault() {
        let near = Near::new(0);
        near.insert(key("p/1"), Stamp(1), Bytes::from_static(b"[]"));
        assert_eq!(near.get(&key("p/1"), Stamp(1)), None);
    }
}
