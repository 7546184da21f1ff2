//! Expiries of keys that are read → when each is computed again, before anybody meets the miss. Pure.
//!
//! XFetch (Vattani, Chierichetti, Lowenstein, VLDB 2015): a refresh comes `cost × beta × -ln(random)` before the
//! expiry, so that keys that expire together are not computed together. What computing takes comes on top: the refresh
//! has to be over by then.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use crate::{change::SourceTime, entry::Meta, key::Key};

use super::schedule::unit;

/// More is earlier, and more computing.
const BETA: f64 = 1.0;
/// What queueing a refresh and writing its answer may take, beside the statement.
const MARGIN: Duration = Duration::from_millis(250);
/// Keys whose expiry is watched; of more some simply expire.
const KEYS_MAX: usize = 100_000;

/// When an entry is computed again at the latest moment that spares readers the miss; `random` in [0, 1). Never
/// before half of its time has passed.
#[must_use]
pub fn early_at(
    computed: SourceTime,
    expires: SourceTime,
    cost: Duration,
    random: f64,
) -> SourceTime {
    let most = expires.0.saturating_sub(computed.0).max(0) / 2;
    let lead =
        cost.mul_f64(BETA * -(1.0 - random).ln()).saturating_add(cost).saturating_add(MARGIN);
    let lead = i64::try_from(lead.as_micros()).unwrap_or(i64::MAX).min(most);
    SourceTime(expires.0.saturating_sub(lead))
}

/// Keys by when they are computed again. Entries may have changed since they came in: whoever takes a key out looks.
#[derive(Debug, Clone, Default)]
pub struct Early {
    by_time: BTreeSet<(SourceTime, Key)>,
}

impl Early {
    /// An entry is read and expires: it is computed again in time. Whether it is the first of all comes back.
    pub fn watch(&mut self, key: &Key, meta: &Meta) -> bool {
        let Some(at) = self.due(key, meta).filter(|_| self.by_time.len() < KEYS_MAX) else {
            return false;
        };
        let first = self.first().is_none_or(|first| at < first);
        self.by_time.insert((at, key.clone()));
        first
    }

    /// When an entry is computed again, if it expires: always the same for the same entry, so that it comes in once.
    #[must_use]
    pub fn due(&self, key: &Key, meta: &Meta) -> Option<SourceTime> {
        let mut hash = DefaultHasher::new();
        (key.as_str(), meta.stamp.0).hash(&mut hash);
        let cost = Duration::from_micros(meta.cost_us.into());
        // What something had expired of as it was computed would be due at once, again and again.
        let expires = meta.expires.filter(|expires| meta.as_of_time < *expires)?;
        Some(early_at(meta.as_of_time, expires, cost, unit(hash.finish())))
    }

    /// When the first of them is due.
    #[must_use]
    pub fn first(&self) -> Option<SourceTime> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// The first that is due by now, and since when.
    pub fn take(&mut self, now: SourceTime) -> Option<(SourceTime, Key)> {
        if self.first()? > now {
            return None;
        }
        self.by_time.pop_first()
    }

    /// How many are watched.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_time.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_time.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Stamp;

    const HOUR: i64 = 3_600_000_000;

    /// Of what it was made from something had just expired: the next is no better, until that is long past.
    #[test]
    fn what_had_expired_when_it_was_computed_is_not_computed_again_for_it() {
        let (mut early, key) = (Early::default(), Key::new("p", []));
        let expires = Some(SourceTime(HOUR));
        let meta = Meta { as_of_time: SourceTime(HOUR + 1), expires, ..Meta::default() };
        assert!(!early.watch(&key, &meta));
        assert_eq!(early.take(SourceTime(HOUR + 2)), None);
    }

    /// The same numbers on every machine.
    fn randoms(count: usize) -> impl Iterator<Item = f64> {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        std::iter::repeat_with(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            unit(state)
        })
        .take(count)
    }

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "statistics")]
    fn the_lead_is_exponential_above_what_computing_takes() {
        let cost = Duration::from_millis(200);
        let least = i64::try_from((cost + MARGIN).as_micros()).unwrap();
        let above: Vec<i64> = randoms(20_000)
            .map(|random| HOUR - early_at(SourceTime(0), SourceTime(HOUR), cost, random).0 - least)
            .collect();
        assert!(above.iter().all(|lead| *lead >= 0));
        let mean = above.iter().sum::<i64>() as f64 / 20_000.0;
        assert!((mean / 200_000.0 - 1.0).abs() < 0.05, "{mean}");
        // Half of an exponential lies below ln 2 of its mean.
        let below = above.iter().filter(|lead| **lead < 138_629).count();
        assert!((9_700..10_300).contains(&below), "{below}");
    }

    #[test]
    fn no_more_than_half_of_its_time_is_given_up() {
        let at = early_at(SourceTime(0), SourceTime(1000), Duration::from_secs(9), 0.99);
        assert_eq!(at, SourceTime(500));
        assert_eq!(early_at(SourceTime(5), SourceTime(1), Duration::ZERO, 0.0), SourceTime(1));
    }

    #[test]
    fn what_is_due_comes_first_and_once() {
        let mut early = Early::default();
        let meta = |expires| Meta {
            as_of_time: SourceTime(0),
            expires: Some(SourceTime(expires)),
            stamp: Stamp(7),
            ..Meta::default()
        };
        let (a, b) = (Key::new("p", ["a"]), Key::new("p", ["b"]));
        assert!(!early.watch(&a, &Meta::default()), "it never expires");
        assert!(early.watch(&a, &meta(2 * HOUR)));
        assert!(early.watch(&b, &meta(HOUR)));
        early.watch(&a, &meta(2 * HOUR));
        assert_eq!(early.len(), 2);
        assert_eq!(early.take(SourceTime(HOUR / 2)), None);
        let mut take = |now| early.take(SourceTime(now)).map(|(_, key)| key);
        assert_eq!(take(HOUR), Some(b));
        assert_eq!(take(HOUR), None);
        assert_eq!(take(3 * HOUR), Some(a));
        assert!(early.is_empty());
    }
}
