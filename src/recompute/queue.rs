//! Asked-for keys → the next batch to compute. A state machine without I/O or clock.
//!
//! Invariants: a key is computed by at most one at a time (R12); who asked is answered exactly once; a waiter
//! joins a running computation only if that began at what it demands.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::Instant,
};

use crate::{change::Position, key::Key};

/// Which computation a waiter may join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Any, also one that runs already.
    Any,
    /// One whose `as_of` is at least this.
    AtLeast(Position),
    /// One that starts from now on.
    New,
}

/// The queue takes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

#[derive(Debug, Clone)]
struct Job<W> {
    waiters: Vec<W>,
    urgent: bool,
}

#[derive(Debug, Clone)]
struct Running<W> {
    as_of: Position,
    waiters: Vec<W>,
}

/// What is to be computed, what is being computed, and who waits for it (`W`).
#[derive(Debug, Clone)]
pub struct Queue<W> {
    waiting: HashMap<Key, Job<W>>,
    running: HashMap<Key, Running<W>>,
    /// Keys somebody waits for, in order of arrival.
    urgent: VecDeque<Key>,
    /// Keys that are stale and read, in order of arrival.
    background: VecDeque<Key>,
    /// Keys that may not be computed before their time.
    delayed: BTreeSet<(Instant, Key)>,
    /// The same keys, so that each is there once.
    later: HashSet<Key>,
    limit: usize,
}

impl<W> Queue<W> {
    /// At most `limit` keys wait.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            waiting: HashMap::new(),
            running: HashMap::new(),
            urgent: VecDeque::new(),
            background: VecDeque::new(),
            delayed: BTreeSet::new(),
            later: HashSet::new(),
            limit,
        }
    }

    /// How many keys wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many keys are being computed.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// How many wait for keys, queued or being computed.
    #[must_use]
    pub fn waiters(&self) -> usize {
        let queued = self.waiting.values().map(|job| job.waiters.len());
        queued.chain(self.running.values().map(|running| running.waiters.len())).sum()
    }

    /// The keys of a product that are being computed.
    pub fn running_of(&self, product: &str) -> impl Iterator<Item = &Key> {
        self.running.keys().filter(move |key| key.product() == product)
    }

    /// Somebody waits for a key.
    ///
    /// # Errors
    /// The waiter, when too many keys wait already.
    pub fn ask(&mut self, key: &Key, want: Want, waiter: W) -> Result<(), W> {
        if let Some(running) = self.running.get_mut(key) {
            let joins = match want {
                Want::Any => true,
                Want::AtLeast(position) => running.as_of >= position,
                Want::New => false,
            };
            if joins && !self.waiting.contains_key(key) {
                running.waiters.push(waiter);
                return Ok(());
            }
        }
        if self.waiting.len() >= self.limit && !self.waiting.contains_key(key) {
            return Err(waiter);
        }
        self.enter(key, true, Some(waiter));
        Ok(())
    }

    /// A stale key is to be computed when nobody waits for others, not before `not_before`.
    ///
    /// # Errors
    /// [`Full`] when too many keys wait already.
    pub fn refresh(&mut self, key: &Key, not_before: Option<Instant>) -> Result<(), Full> {
        if let Some(instant) = not_before
            && !self.waiting.contains_key(key)
        {
            if self.later.len() >= self.limit {
                return Err(Full);
            }
            if self.later.insert(key.clone()) {
                self.delayed.insert((instant, key.clone()));
            }
            return Ok(());
        }
        if self.waiting.len() >= self.limit && !self.waiting.contains_key(key) {
            return Err(Full);
        }
        self.enter(key, false, None);
        Ok(())
    }

    fn enter(&mut self, key: &Key, urgent: bool, waiter: Option<W>) {
        let runs = self.running.contains_key(key);
        if let Some(job) = self.waiting.get_mut(key) {
            job.waiters.extend(waiter);
            if urgent && !job.urgent {
                job.urgent = true;
                if !runs {
                    self.urgent.push_back(key.clone());
                }
            }
            return;
        }
        self.waiting.insert(key.clone(), Job { waiters: waiter.into_iter().collect(), urgent });
        // A key that runs waits aside until `finish` lets it in: one computation at a time.
        if !runs {
            self.line(urgent).push_back(key.clone());
        }
    }

    fn line(&mut self, urgent: bool) -> &mut VecDeque<Key> {
        if urgent { &mut self.urgent } else { &mut self.background }
    }

    /// The next keys of one product, at most `batch(product)`; they run from now on.
    pub fn take(&mut self, now: Instant, batch: impl Fn(&str) -> usize) -> Vec<Key> {
        while let Some((instant, _)) = self.delayed.first()
            && *instant <= now
        {
            if let Some((_, key)) = self.delayed.pop_first() {
                self.later.remove(&key);
                self.enter(&key, false, None);
            }
        }
        let urgent = self.urgent.iter().any(|key| self.is_next(key, true));
        let mut line = std::mem::take(self.line(urgent));
        let mut taken: Vec<Key> = Vec::new();
        let mut most = usize::MAX;
        line.retain(|key| {
            if !self.is_next(key, urgent) {
                return false;
            }
            if let Some(first) = taken.first() {
                if taken.len() >= most || first.product() != key.product() {
                    return true;
                }
            } else {
                most = batch(key.product()).max(1);
            }
            // It runs from here on, so that another place of it in the line is passed over.
            let waiters = self.waiting.remove(key).map(|job| job.waiters).unwrap_or_default();
            let running = Running { as_of: Position::default(), waiters };
            self.running.insert(key.clone(), running);
            taken.push(key.clone());
            false
        });
        *self.line(urgent) = line;
        taken
    }

    /// Whether a place in a line is still the key's own: it may have become urgent, or run by now.
    fn is_next(&self, key: &Key, urgent: bool) -> bool {
        self.waiting.get(key).is_some_and(|job| job.urgent == urgent)
            && !self.running.contains_key(key)
    }

    /// When the first delayed key is due.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.delayed.first().map(|(instant, _)| *instant)
    }

    /// The statement for these keys begins now, exact as of `as_of`.
    pub fn begin(&mut self, keys: &[Key], as_of: Position) {
        for key in keys {
            if let Some(running) = self.running.get_mut(key) {
                running.as_of = as_of;
            }
        }
    }

    /// The computation is over: who waited for it comes back.
    pub fn finish(&mut self, key: &Key) -> Vec<W> {
        let waiters = self.running.remove(key).map(|running| running.waiters).unwrap_or_default();
        if let Some(urgent) = self.waiting.get(key).map(|job| job.urgent) {
            self.line(urgent).push_back(key.clone());
        }
        waiters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Epoch, Lsn};
    use proptest::prelude::*;

    fn key(n: u8) -> Key {
        Key::new(if n < 4 { "p" } else { "q" }, [n.to_string().as_str()])
    }

    fn at(lsn: u64) -> Position {
        Position { epoch: Epoch(1), lsn: Lsn(lsn) }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Ask(u8, u8),
        Refresh(u8),
        Take(u8),
        Finish(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u8..8, 0u8..3).prop_map(|(k, w)| Step::Ask(k, w)),
            (0u8..8).prop_map(Step::Refresh),
            (1u8..4).prop_map(Step::Take),
            (0usize..8).prop_map(Step::Finish),
        ]
    }

    proptest! {
        /// Against promises that a slow reading of the history can check: one computation at a time, everyone
        /// answered once, and by a computation that began at what they demand.
        #[test]
        fn everyone_is_answered_once_by_what_they_may_join(steps in prop::collection::vec(step(), 1..120)) {
            let now = Instant::now();
            let mut queue = Queue::new(100);
            let mut asked: HashMap<u64, (Key, Want, u64)> = HashMap::new();
            let mut running: Vec<(Key, Position, u64)> = Vec::new();
            let (mut id, mut clock) = (0u64, 0u64);
            let mut answered = std::collections::HashSet::new();
            let drain = (0..200).map(|n| if n % 2 == 0 { Step::Take(3) } else { Step::Finish(0) });
            for step in steps.into_iter().chain(drain) {
                clock += 1;
                match step {
                    Step::Ask(k, w) => {
                        id += 1;
                        let want = [Want::Any, Want::AtLeast(at(clock)), Want::New][usize::from(w)];
                        queue.ask(&key(k), want, id).unwrap();
                        asked.insert(id, (key(k), want, clock));
                    }
                    Step::Refresh(k) => queue.refresh(&key(k), None).unwrap(),
                    Step::Take(most) => {
                        let keys = queue.take(now, |_| usize::from(most));
                        prop_assert!(keys.len() <= usize::from(most));
                        for k in &keys {
                            prop_assert!(!running.iter().any(|(r, _, _)| r == k), "computed twice at once");
                            prop_assert_eq!(k.product(), keys[0].product());
                            running.push((k.clone(), at(clock), clock));
                        }
                        queue.begin(&keys, at(clock));
                    }
                    Step::Finish(n) if !running.is_empty() => {
                        let (k, as_of, began) = running.remove(n % running.len());
                        for waiter in queue.finish(&k) {
                            let (wanted, want, when) = &asked[&waiter];
                            prop_assert_eq!(wanted, &k);
                            prop_assert!(answered.insert(waiter), "answered twice");
                            match want {
                                Want::Any => {}
                                Want::AtLeast(position) => prop_assert!(as_of >= *position),
                                Want::New => prop_assert!(began > *when),
                            }
                        }
                    }
                    Step::Finish(_) => {}
                }
            }
            prop_assert_eq!(answered.len(), asked.len(), "nobody waits for ever");
            prop_assert_eq!((queue.waiting(), queue.running()), (0, 0));
        }
    }

    #[test]
    fn who_waits_goes_before_what_is_only_stale() {
        let mut queue = Queue::new(10);
        queue.refresh(&key(0), None).unwrap();
        queue.refresh(&key(1), None).unwrap();
        queue.ask(&key(1), Want::Any, ()).unwrap();
        assert_eq!(queue.take(Instant::now(), |_| 9), [key(1)]);
        assert_eq!(queue.take(Instant::now(), |_| 9), [key(0)]);
    }

    #[test]
    fn a_key_with_two_places_in_line_is_taken_once() {
        let mut queue = Queue::new(10);
        let now = Instant::now();
        queue.refresh(&key(1), None).unwrap();
        queue.ask(&key(1), Want::Any, ()).unwrap();
        queue.take(now, |_| 9);
        queue.refresh(&key(1), None).unwrap();
        queue.finish(&key(1));
        assert_eq!(queue.take(now, |_| 9), [key(1)]);
    }

    #[test]
    fn a_full_queue_says_so() {
        let mut queue = Queue::new(1);
        queue.ask(&key(0), Want::Any, ()).unwrap();
        assert_eq!(queue.ask(&key(1), Want::Any, ()), Err(()));
        assert_eq!(queue.refresh(&key(1), None), Err(Full));
    }

    #[test]
    fn a_delayed_key_waits_for_its_time() {
        let mut queue: Queue<()> = Queue::new(9);
        let now = Instant::now();
        let later = now + std::time::Duration::from_secs(1);
        queue.refresh(&key(0), Some(later)).unwrap();
        assert!(queue.take(now, |_| 9).is_empty());
        assert_eq!(queue.take(later, |_| 9), [key(0)]);
    }
}
