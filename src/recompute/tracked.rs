//! One tracked key, packed: a million of them lie in memory. Pure.
//!
//! What a key shares with others is kept once ([`Kinds`]), and what an entry shares with its key is not kept twice: an
//! entry that counts always has its key's own lease and version.

use std::collections::HashMap;

use crate::{
    change::{Lsn, Position, SourceTime},
    entry::{Fingerprint, Lease, Meta, Stamp},
    key::Key,
};

/// In seconds.
const HALF_LIFE: f32 = 300.0;
/// No entry that expires does so then.
const NEVER: i64 = i64::MAX;

/// One tracked key.
#[derive(Debug, Clone)]
pub(super) struct Tracked {
    key: Key,
    lease_counter: u64,
    mark: u64,
    /// The last stamp issued for the key, of whatever kind.
    pub(super) stamp: Stamp,
    /// The last version issued for the key.
    pub(super) version: u64,
    entry_stamp: Stamp,
    as_of: u64,
    as_of_time: i64,
    snapshot: Stamp,
    insert: Lsn,
    digest: u64,
    modified: i64,
    expires: i64,
    lease_term: u32,
    kind: u32,
    cost_us: u32,
    bytes: u32,
    /// Reads of late: halved every [`HALF_LIFE`] …
    heat: f32,
    /// … since this, in seconds of kck's own clock.
    heat_at: u32,
    flags: u8,
}

/// What is either so or not.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(super) enum Flag {
    /// The track record is known to be durable.
    Recorded = 1,
    /// Not firm when the connection was lost: stale until recomputed (R10).
    Doubtful = 2,
    /// Read since its last refresh.
    Hot = 4,
    /// There is an entry.
    Kept = 8,
    /// Its entry is none any more, though it may stand in: what it was made from is not, or it has expired.
    Outdated = 16,
    /// What is being computed is outdated as it arrives.
    Touched = 32,
}

/// Where the two bits begin that say which reading of a warm query named the key.
const WARM_AT: u8 = 6;

impl Tracked {
    /// A key without an entry, of which nothing was issued but this stamp.
    pub(super) fn new(key: Key, lease: Lease, stamp: Stamp) -> Self {
        Self {
            key,
            lease_counter: lease.counter,
            lease_term: lease.term,
            mark: Position::default().packed(),
            stamp,
            version: 0,
            entry_stamp: Stamp(0),
            as_of: 0,
            as_of_time: 0,
            snapshot: Stamp(0),
            insert: Lsn(0),
            digest: 0,
            modified: 0,
            expires: NEVER,
            kind: 0,
            cost_us: 0,
            bytes: 0,
            heat: 0.0,
            heat_at: 0,
            flags: 0,
        }
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    pub(super) fn lease(&self) -> Lease {
        Lease { term: self.lease_term, counter: self.lease_counter }
    }

    pub(super) fn set_lease(&mut self, lease: Lease) {
        (self.lease_term, self.lease_counter) = (lease.term, lease.counter);
    }

    pub(super) fn mark(&self) -> Position {
        Position::unpack(self.mark)
    }

    pub(super) fn set_mark(&mut self, mark: Position) {
        self.mark = mark.packed();
    }

    pub(super) fn is(&self, flag: Flag) -> bool {
        self.flags & flag as u8 != 0
    }

    pub(super) fn set(&mut self, flag: Flag, to: bool) {
        if to {
            self.flags |= flag as u8;
        } else {
            self.flags &= !(flag as u8);
        }
    }

    /// Which reading of a warm query named the key, by turns 1 and 2; 0: none.
    pub(super) fn warm(&self) -> u8 {
        self.flags >> WARM_AT
    }

    pub(super) fn set_warm(&mut self, reading: u8) {
        self.flags = self.flags & ((1 << WARM_AT) - 1) | (reading & 3) << WARM_AT;
    }

    pub(super) fn is_hot_or_warm(&self) -> bool {
        self.is(Flag::Hot) || self.warm() != 0
    }

    /// Whether its entry is what it says to be: nothing that it was made from is gone, or could have been taken back.
    pub(super) fn is_sound(&self) -> bool {
        !self.is(Flag::Doubtful) && !self.is(Flag::Outdated)
    }

    pub(super) fn has_entry(&self) -> bool {
        self.is(Flag::Kept)
    }

    /// Where its entry stands in the source's history; as far as nothing is known if there is none.
    pub(super) fn as_of(&self) -> Position {
        if self.has_entry() { Position::unpack(self.as_of) } else { Position::default() }
    }

    /// What the statement of its entry saw of the log.
    pub(super) fn insert(&self) -> Option<Lsn> {
        self.has_entry().then_some(self.insert)
    }

    /// When its entry was computed.
    pub(super) fn computed(&self) -> Option<SourceTime> {
        self.has_entry().then_some(SourceTime(self.as_of_time))
    }

    pub(super) fn cost_us(&self) -> u32 {
        self.cost_us
    }

    /// How long its entry's body is.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.bytes)
    }

    /// Reads of late, at `seconds` of kck's own clock.
    pub(super) fn heat(&self, seconds: u32) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "ages of reads are short")]
        let age = seconds.saturating_sub(self.heat_at) as f32;
        self.heat * (-age / HALF_LIFE).exp2()
    }

    /// One read more.
    pub(super) fn heat_up(&mut self, seconds: u32) {
        (self.heat, self.heat_at) = (self.heat(seconds) + 1.0, seconds);
    }

    /// Its entry, if there is one.
    pub(super) fn meta(&self, kinds: &Kinds) -> Option<Meta> {
        let kind = kinds.get(self.kind).filter(|_| self.has_entry())?;
        Some(Meta {
            stamp: self.entry_stamp,
            lease: self.lease(),
            as_of: self.as_of(),
            as_of_time: SourceTime(self.as_of_time),
            snapshot: self.snapshot,
            insert: self.insert,
            fingerprint: kind.fingerprint,
            shape: kind.shape,
            digest: self.digest,
            version: self.version,
            modified: SourceTime(self.modified),
            expires: (self.expires != NEVER).then_some(SourceTime(self.expires)),
            cost_us: self.cost_us,
            bytes: self.bytes,
        })
    }

    /// This is its entry from now on, of the key's own lease; its version is the last that was issued.
    pub(super) fn keep(&mut self, meta: &Meta, kinds: &mut Kinds) {
        self.let_go(kinds);
        self.kind = kinds.add(Kind { fingerprint: meta.fingerprint, shape: meta.shape });
        self.entry_stamp = meta.stamp;
        self.as_of = meta.as_of.packed();
        self.as_of_time = meta.as_of_time.0;
        self.snapshot = meta.snapshot;
        self.insert = meta.insert;
        self.digest = meta.digest;
        self.version = meta.version;
        self.modified = meta.modified.0;
        self.expires = meta.expires.map_or(NEVER, |expires| expires.0);
        self.cost_us = meta.cost_us;
        self.bytes = meta.bytes;
        self.set(Flag::Kept, true);
    }

    /// It has no entry any more.
    pub(super) fn let_go(&mut self, kinds: &mut Kinds) {
        if self.has_entry() {
            kinds.remove(self.kind);
            self.set(Flag::Kept, false);
            self.bytes = 0;
        }
    }
}

/// What an entry answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub(super) fingerprint: Fingerprint,
    pub(super) shape: Fingerprint,
}

/// The few that there are, each with how many entries are of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Kinds {
    by_number: Vec<(Kind, u32)>,
    numbers: HashMap<Kind, u32>,
    free: Vec<u32>,
    last: u32,
}

impl Kinds {
    pub(super) fn get(&self, number: u32) -> Option<Kind> {
        self.by_number.get(number as usize).map(|(kind, _)| *kind)
    }

    fn add(&mut self, kind: Kind) -> u32 {
        // Most often it is that of the one before.
        if let Some((last, entries)) = self.by_number.get_mut(self.last as usize)
            && *last == kind
            && *entries > 0
        {
            *entries += 1;
            return self.last;
        }
        self.last = self.find_or_add(kind);
        self.last
    }

    fn find_or_add(&mut self, kind: Kind) -> u32 {
        if let Some(number) = self.numbers.get(&kind) {
            if let Some((_, entries)) = self.by_number.get_mut(*number as usize) {
                *entries += 1;
            }
            return *number;
        }
        let number = match self.free.pop() {
            Some(number) => {
                if let Some(place) = self.by_number.get_mut(number as usize) {
                    *place = (kind, 1);
                }
                number
            }
            None => {
                self.by_number.push((kind, 1));
                // One for each entry would still fit.
                u32::try_from(self.by_number.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.numbers.insert(kind, number);
        number
    }

    fn remove(&mut self, number: u32) {
        let Some((kind, entries)) = self.by_number.get_mut(number as usize) else { return };
        *entries -= 1;
        if *entries == 0 {
            self.numbers.remove(kind);
            self.free.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Epoch;
    use proptest::prelude::*;

    fn meta() -> impl Strategy<Value = Meta> {
        let numbers = (any::<u64>(), any::<i64>(), any::<u64>(), any::<i64>(), any::<u32>());
        let kind = (0u8..3, 0u8..3);
        let at = (0u8..=127, 0u64..1 << 56, prop::option::of(0i64..i64::MAX), any::<u32>());
        (numbers, kind, at).prop_map(
            |((stamp, time, digest, modified, cost_us), (one, other), at)| Meta {
                stamp: Stamp(stamp),
                lease: Lease { term: 3, counter: 1 << 40 },
                as_of: Position { epoch: Epoch(at.0), lsn: Lsn(at.1) },
                as_of_time: SourceTime(time),
                snapshot: Stamp(stamp / 2),
                insert: Lsn(digest / 3),
                fingerprint: Fingerprint([one; 16]),
                shape: Fingerprint([other; 16]),
                digest,
                version: stamp / 5,
                modified: SourceTime(modified),
                expires: at.2.map(SourceTime),
                cost_us,
                bytes: at.3,
            },
        )
    }

    proptest! {
        /// What is packed comes out as it went in, and kinds are counted.
        #[test]
        fn gives_back_what_it_keeps(metas in prop::collection::vec(meta(), 1..20)) {
            let mut kinds = Kinds::default();
            let lease = Lease { term: 3, counter: 1 << 40 };
            let mut tracked: Vec<Tracked> = (0..3)
                .map(|_| Tracked::new(Key::new("p", ["1"]), lease, Stamp(1)))
                .collect();
            for (turn, meta) in metas.iter().enumerate() {
                let one = &mut tracked[turn % 3];
                one.keep(meta, &mut kinds);
                let kept = one.meta(&kinds);
                prop_assert_eq!(kept.as_ref(), Some(meta));
                prop_assert_eq!(one.as_of(), meta.as_of);
            }
            let of: std::collections::HashSet<Kind> = tracked
                .iter()
                .filter_map(|one| one.meta(&kinds))
                .map(|meta| Kind { fingerprint: meta.fingerprint, shape: meta.shape })
                .collect();
            prop_assert_eq!(kinds.numbers.len(), of.len());
            for one in &mut tracked {
                one.let_go(&mut kinds);
                prop_assert_eq!(one.meta(&kinds), None);
            }
            prop_assert!(kinds.numbers.is_empty() && kinds.by_number.len() <= 4);
        }
    }

    #[test]
    fn a_record_is_small() {
        assert!(size_of::<Tracked>() <= 144, "{} bytes", size_of::<Tracked>());
        assert_eq!(size_of::<Option<Tracked>>(), size_of::<Tracked>());
    }

    #[test]
    fn flags_and_warmth_do_not_touch_each_other() {
        let mut one = Tracked::new(Key::new("p", ["1"]), Lease::default(), Stamp(1));
        one.set(Flag::Hot, true);
        one.set_warm(2);
        one.set(Flag::Recorded, true);
        one.set_warm(1);
        one.set(Flag::Hot, false);
        assert!(one.is(Flag::Recorded) && !one.is(Flag::Hot) && !one.is(Flag::Doubtful));
        assert_eq!(one.warm(), 1);
        one.set_warm(0);
        assert!(one.is(Flag::Recorded) && one.warm() == 0);
    }
}
