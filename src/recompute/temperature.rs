//! What time means to tracked keys: which are warm, which are overdue, which are computed again before they expire.

use crate::{
    change::{Lsn, SourceTime},
    key::Key,
    product::Product,
};

use super::{ledger::Ledger, schedule::Punctual, tracked::Tracked};

/// How a key that a warm query names came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Warmed {
    /// Its entry is fresh.
    Fresh,
    /// It has to be computed.
    Wanting,
    /// There is no room to track it.
    NoRoom,
}

/// Keys looked at for one that can go.
pub(super) const LOOKED_AT: usize = 64;

impl Ledger {
    /// Whether a warm query names the key.
    #[must_use]
    pub fn is_warm(&self, key: &Key) -> bool {
        self.keys.get(key).is_some_and(|tracked| tracked.warm() != 0)
    }

    /// Whether the key was read since its last refresh, or is warm.
    #[must_use]
    pub fn is_hot_or_warm(&self, key: &Key) -> bool {
        self.keys.get(key).is_some_and(Tracked::is_hot_or_warm)
    }

    /// How many keys are warm.
    #[must_use]
    pub fn warm(&self) -> usize {
        self.warm
    }

    /// This reading of a warm query, told from the one before, names the key: it is tracked from now on, while there
    /// are less than `most`. Its track record is written before its first entry is.
    pub(super) fn warm_up(&mut self, key: &Key, reading: u8, most: usize) -> Warmed {
        if !self.is_tracked(key) {
            if self.len() >= most {
                return Warmed::NoRoom;
            }
            self.track(key);
        }
        if let Some(tracked) = self.keys.get_mut(key) {
            let was = tracked.warm();
            tracked.set_warm(reading);
            self.warm += usize::from(was == 0);
            if was == 0
                && let Some(meta) = self.keys.meta(key)
            {
                self.early.watch(key, &meta);
            }
        }
        let fresh = self.standing(key).is_some_and(|standing| standing.fresh);
        if fresh { Warmed::Fresh } else { Warmed::Wanting }
    }

    /// Of these keys those that the newest reading of their warm query does not name are as any other.
    pub(super) fn cool_down<'a>(&mut self, keys: impl IntoIterator<Item = &'a Key>, reading: u8) {
        for key in keys {
            if let Some(tracked) = self.keys.get_mut(key).filter(|tracked| tracked.warm() != 0)
                && tracked.warm() != reading
            {
                tracked.set_warm(0);
                self.warm -= 1;
            }
        }
    }

    /// When entries of this product are overdue; `None`: never.
    pub fn judge(&mut self, product: &str, punctual: Option<Punctual>) {
        if let Some(state) = self.products.get_mut(product) {
            state.punctual = punctual;
        }
    }

    /// Whether the product's schedule should have computed again what was computed then.
    #[must_use]
    pub fn is_overdue(&self, product: &str, computed: SourceTime, now: Option<SourceTime>) -> bool {
        let punctual = self.products.get(product).and_then(|state| state.punctual);
        punctual.is_some_and(|punctual| punctual.is_overdue(computed, now))
    }

    /// At most so many keys of a product, from this text on.
    pub(super) fn some_from(&self, product: &str, from: &str, most: usize) -> Vec<Key> {
        self.keys_from(product, from).take(most).cloned().collect()
    }

    /// Whether what is kept of a key was computed before this, or nothing is.
    pub(super) fn is_older(&self, key: &Key, than: SourceTime) -> bool {
        let computed = self.keys.get(key).and_then(Tracked::computed);
        computed.is_none_or(|computed| computed < than)
    }

    /// When the first key is to be computed again before it expires.
    pub(super) fn first_early(&self) -> Option<SourceTime> {
        self.early.first()
    }

    /// The next key that is to be computed again now, before it expires: read or warm, and of the entry that it was
    /// watched for.
    pub(super) fn take_early(&mut self, now: SourceTime) -> Option<Key> {
        while let Some((at, key)) = self.early.take(now) {
            let Some(tracked) = self.keys.get(&key) else { continue };
            let due = self.keys.meta_of(tracked).and_then(|meta| self.early.due(&key, &meta));
            if tracked.is_hot_or_warm() && due == Some(at) {
                return Some(key);
            }
        }
        None
    }

    /// Whether what is computed of a product now is kept, and the product is this one still: a key of another has no
    /// meaning here.
    pub(super) fn keeps(&self, product: &Product, visible: Lsn) -> bool {
        let name = product.name();
        let state = self.products.get(name);
        state.is_some_and(|state| state.terms.fingerprint == product.fingerprint)
            && !self.has_left(name)
            && self.is_cached(name, visible)
    }

    /// A key to let go of, to make room: of some that were not looked at lately the one that is read least, none that a
    /// warm query names, and none that is `spared`. `None`: among those there is none; the next call looks at others.
    pub fn coldest(&mut self, seconds: u32, spared: impl Fn(&Key) -> bool) -> Option<Key> {
        let mut coldest: Option<((f32, bool), &Key)> = None;
        let mut hand = self.hand;
        let numbers = self.keys.around(self.hand);
        let tracked = numbers.filter_map(|number| Some((number, self.keys.at(number)?)));
        for (number, tracked) in tracked.take(LOOKED_AT) {
            hand = number.saturating_add(1);
            // One without an entry is most often being computed.
            let rank = (tracked.heat(seconds), !tracked.has_entry());
            if tracked.warm() == 0
                && coldest.is_none_or(|(least, _)| rank < least)
                && !spared(tracked.key())
            {
                coldest = Some((rank, tracked.key()));
            }
        }
        let coldest = coldest.map(|(_, key)| key.clone());
        self.hand = hand;
        coldest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        change::{Epoch, Position},
        entry::{Fingerprint, Stamp},
        recompute::ledger::{Computed, Terms},
    };

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(Epoch(1), 1, Stamp(1000), 1000);
        let terms = Terms {
            fingerprint: Fingerprint([1; 16]),
            shape: Fingerprint([0; 16]),
            certified: false,
        };
        ledger.product("p", terms, Position::default());
        ledger
    }

    fn key(n: u8) -> Key {
        Key::new("p", [n.to_string().as_str()])
    }

    fn keep(ledger: &mut Ledger, key: &Key, time: i64, expires: Option<i64>) {
        let (lease, _) = ledger.track(key);
        let computed = Computed {
            lease,
            as_of: Position { epoch: ledger.epoch(), lsn: Lsn(5) },
            connection: ledger.connection(),
            time: SourceTime(time),
            snapshot: Stamp(0),
            insert: Lsn(5),
            fingerprint: Fingerprint([1; 16]),
            shape: Fingerprint([0; 16]),
            digest: 0,
            expires: expires.map(SourceTime),
            cost_us: 1,
            bytes: 1,
        };
        ledger.accept(key, &computed);
    }

    #[test]
    fn a_warm_query_names_keys_until_it_does_not() {
        let mut ledger = ledger();
        keep(&mut ledger, &key(1), 0, None);
        assert_eq!(ledger.warm_up(&key(1), 1, 3), Warmed::Fresh);
        assert_eq!(ledger.warm_up(&key(2), 1, 3), Warmed::Wanting);
        assert_eq!(ledger.warm_up(&key(2), 1, 3), Warmed::Wanting, "named twice");
        assert_eq!(ledger.warm_up(&key(3), 1, 2), Warmed::NoRoom);
        assert!(ledger.is_warm(&key(2)) && ledger.is_tracked(&key(2)) && !ledger.is_hot(&key(2)));
        assert_eq!((ledger.warm(), ledger.len()), (2, 2));
        ledger.warm_up(&key(1), 2, 3);
        ledger.cool_down(&[key(1), key(2), key(3)], 2);
        assert!(ledger.is_warm(&key(1)) && !ledger.is_warm(&key(2)));
        assert_eq!((ledger.warm(), ledger.len()), (1, 2), "it is tracked still");
        let forget = ledger.untrack(&key(1)).unwrap();
        ledger.forget(&forget);
        assert_eq!(ledger.warm(), 0);
    }

    #[test]
    fn cold_keys_go_before_warm_ones() {
        let mut ledger = ledger();
        ledger.warm_up(&key(1), 1, 9);
        keep(&mut ledger, &key(2), 0, None);
        for _ in 0..20 {
            assert_eq!(ledger.coldest(0, |_| false), Some(key(2)));
        }
    }

    #[test]
    fn only_what_is_read_or_warm_is_computed_before_it_expires() {
        const HOUR: i64 = 3_600_000_000;
        let mut ledger = ledger();
        for n in 1..=3 {
            keep(&mut ledger, &key(n), 0, Some(HOUR));
        }
        assert!(ledger.read(&key(1), 0), "it is the first");
        assert!(!ledger.read(&key(1), 0), "once");
        ledger.warm_up(&key(2), 1, 9);
        assert_eq!(ledger.take_early(SourceTime(HOUR / 4)), None);
        let mut due = vec![];
        while let Some(key) = ledger.take_early(SourceTime(HOUR)) {
            due.push(key);
        }
        due.sort();
        assert_eq!(due, [key(1), key(2)]);
        keep(&mut ledger, &key(1), HOUR, Some(2 * HOUR));
        ledger.read(&key(1), 0);
        keep(&mut ledger, &key(1), HOUR + 1, Some(3 * HOUR));
        assert_eq!(ledger.take_early(SourceTime(2 * HOUR)), None, "it was computed meanwhile");
    }

    #[test]
    fn a_mark_makes_stale_what_is_not_overdue() {
        let mut ledger = ledger();
        keep(&mut ledger, &key(1), 500, None);
        let (then, next) = (SourceTime(900), SourceTime(800));
        ledger.judge("p", Some(Punctual { owed: SourceTime(400), then, next }));
        assert!(!ledger.is_overdue("p", SourceTime(500), Some(SourceTime(899))));
        assert!(ledger.is_overdue("p", SourceTime(500), Some(SourceTime(900))));
        assert!(ledger.standing(&key(1)).unwrap().fresh);
        ledger.mark([(&key(1), Lsn(6))]);
        assert!(!ledger.standing(&key(1)).unwrap().fresh);
    }
}
