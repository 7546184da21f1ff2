//! Held: keys that wait until the keys that they depend on are computed. A state machine without I/O or clock.
//!
//! Invariant: a key is held no longer than its limit from when it first was, whatever happens to the others: it goes
//! when each of them has been computed once, however often they are stale again.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::key::Key;

/// The longest that a key is held.
const HELD_MOST: Duration = Duration::from_secs(10);

/// A key that may go, not before some time.
pub(super) type Free = (Key, Option<Instant>);

/// Who waits for whom.
#[derive(Debug, Default)]
pub(super) struct Held {
    keys: HashMap<Key, Waits>,
    /// The same by the key that is waited for.
    by_need: HashMap<Key, HashSet<Key>>,
    /// The same by when they go in any case.
    until: BTreeSet<(Instant, Key)>,
}

#[derive(Debug)]
struct Waits {
    on: HashSet<Key>,
    until: Instant,
    not_before: Option<Instant>,
}

impl Held {
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.keys.contains_key(key)
    }

    /// How many keys are waited for.
    #[cfg(test)]
    pub(super) fn needs(&self) -> usize {
        self.by_need.len()
    }

    /// The key goes when these have been computed.
    pub(super) fn hold(
        &mut self,
        key: &Key,
        on: HashSet<Key>,
        not_before: Option<Instant>,
        now: Instant,
    ) {
        for need in &on {
            self.by_need.entry(need.clone()).or_default().insert(key.clone());
        }
        let waits = self.keys.entry(key.clone()).or_insert_with(|| {
            let until = now + HELD_MOST;
            self.until.insert((until, key.clone()));
            Waits { on: HashSet::new(), until, not_before }
        });
        waits.on.extend(on);
    }

    /// This one was computed, or will not be: who waited for nothing else may go.
    pub(super) fn computed(&mut self, need: &Key) -> Vec<Free> {
        let waiting = self.by_need.remove(need).unwrap_or_default();
        let free = waiting.into_iter().filter(|key| {
            self.keys.get_mut(key).is_some_and(|waits| {
                waits.on.remove(need);
                waits.on.is_empty()
            })
        });
        let free: Vec<Key> = free.collect();
        free.into_iter().filter_map(|key| self.remove(&key)).collect()
    }

    /// Those that have been held long enough.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<Free> {
        let mut free = Vec::new();
        while let Some((_, key)) = self.until.first().filter(|(until, _)| *until <= now).cloned() {
            free.extend(self.remove(&key));
        }
        free
    }

    /// When the first of them has been held long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.until.first().map(|(until, _)| *until)
    }

    /// It need not be computed any more, or goes now.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Free> {
        let waits = self.keys.remove(key)?;
        self.until.remove(&(waits.until, key.clone()));
        for need in &waits.on {
            if let Some(waiting) = self.by_need.get_mut(need) {
                waiting.remove(key);
                if waiting.is_empty() {
                    self.by_need.remove(need);
                }
            }
        }
        Some((key.clone(), waits.not_before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name, [])
    }

    fn on(names: &[&str]) -> HashSet<Key> {
        names.iter().map(|name| key(name)).collect()
    }

    fn names(free: Vec<Free>) -> Vec<String> {
        let mut names: Vec<String> = free.into_iter().map(|(key, _)| key.to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_diamond_goes_from_top_to_bottom() {
        let (mut held, now) = (Held::default(), Instant::now());
        held.hold(&key("left"), on(&["top"]), None, now);
        held.hold(&key("right"), on(&["top"]), None, now);
        held.hold(&key("bottom"), on(&["left", "right"]), None, now);
        assert_eq!(names(held.computed(&key("top"))), ["left", "right"]);
        assert!(held.computed(&key("left")).is_empty() && held.contains(&key("bottom")));
        assert_eq!(names(held.computed(&key("right"))), ["bottom"]);
        assert!(held.len() == 0 && held.by_need.is_empty() && held.until.is_empty());
    }

    #[test]
    fn nothing_is_held_for_ever() {
        let (mut held, now) = (Held::default(), Instant::now());
        held.hold(&key("below"), on(&["above"]), None, now);
        // Asked for again and again, it goes when it was to go at first.
        let later = now + HELD_MOST / 2;
        held.hold(&key("below"), on(&["above", "beside"]), None, later);
        assert_eq!(held.due(), Some(now + HELD_MOST));
        assert!(held.overdue(later).is_empty());
        assert_eq!(names(held.overdue(now + HELD_MOST)), ["below"]);
        assert!(held.by_need.is_empty());
    }
}
