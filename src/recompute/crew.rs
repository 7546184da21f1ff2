//! What all workers know together: what statements cost, which keys go alone, who may begin. Pure.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::key::Key;

use super::batches::{Batches, Bounds};

/// How long a key goes alone after its statement failed.
const ALONE_FOR: Duration = Duration::from_secs(600);
/// Keys that go alone; of more the oldest do not any more.
const ALONE_MAX: usize = 10_000;
/// After the source could not be asked, keys that nobody waits for rest; each time longer.
const REST_LEAST: Duration = Duration::from_millis(250);
const REST_MOST: Duration = Duration::from_secs(5);
/// A statement is slow that takes so many times what one should.
const SLOW_TIMES: u32 = 4;

/// See the module. One lock around all of it, taken last and for one decision.
#[derive(Debug)]
pub struct Crew {
    /// What statements have taken.
    pub batches: Batches,
    /// Keys that go alone.
    pub alone: Alone,
    /// Who executes.
    pub places: Places,
    /// Products that rest.
    pub rests: Rests,
}

impl Crew {
    /// Nothing is known, nobody works.
    #[must_use]
    pub fn new(bounds: Bounds, connections: usize) -> Self {
        let slow = bounds.time * SLOW_TIMES;
        Self {
            batches: Batches::new(bounds),
            alone: Alone::default(),
            places: Places { connections, slow, ..Places::default() },
            rests: Rests::default(),
        }
    }
}

/// What happened to a key that goes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its statement fails.
    Threw,
    /// Whoever computed it came to an unexpected end.
    Died,
}

/// Keys that spoil a batch, each remembered for a while.
#[derive(Debug, Default)]
pub struct Alone {
    keys: HashMap<Key, (Instant, Why)>,
    /// In the order of their coming; a place may be left behind.
    order: VecDeque<(Instant, Key)>,
}

impl Alone {
    /// From now on the key goes alone.
    pub fn remember(&mut self, key: &Key, why: Why, now: Instant) {
        self.keys.insert(key.clone(), (now, why));
        self.order.push_back((now, key.clone()));
        let over = |since: Instant| now.saturating_duration_since(since) >= ALONE_FOR;
        while self.order.len() > ALONE_MAX
            || self.order.front().is_some_and(|(since, _)| over(*since))
        {
            if let Some((since, key)) = self.order.pop_front()
                && self.keys.get(&key).is_some_and(|(own, _)| *own == since)
            {
                self.keys.remove(&key);
            }
        }
    }

    /// The key was computed: it goes with others again.
    pub fn forget(&mut self, key: &Key) {
        if !self.keys.is_empty() {
            self.keys.remove(key);
        }
    }

    /// Why a key goes alone, if it does.
    #[must_use]
    pub fn why(&self, key: &Key, now: Instant) -> Option<Why> {
        let (since, why) = *self.keys.get(key)?;
        (now.saturating_duration_since(since) < ALONE_FOR).then_some(why)
    }

    /// The statements that these keys go in, the last first: those that go alone come last.
    #[must_use]
    pub fn split(&self, keys: Vec<Key>, now: Instant) -> Vec<Vec<Key>> {
        if self.keys.is_empty() {
            return vec![keys];
        }
        let (alone, rest): (Vec<Key>, Vec<Key>) =
            keys.into_iter().partition(|key| self.why(key, now).is_some());
        let alone = alone.into_iter().map(|key| vec![key]);
        alone.chain((!rest.is_empty()).then_some(rest)).collect()
    }
}

/// Which products execute, so that none, and no slow ones together, take every connection.
#[derive(Debug, Default)]
pub struct Places {
    connections: usize,
    slow: Duration,
    held: HashMap<u64, Place>,
    next: u64,
}

#[derive(Debug)]
struct Place {
    product: String,
    began: Instant,
    estimate: Duration,
}

impl Places {
    /// Whether a statement of this product may begin beside those that execute, where there are other products.
    #[must_use]
    pub fn may(&self, product: &str, estimate: Duration, now: Instant) -> bool {
        // With one connection there is nothing to leave to others.
        let most = self.connections.saturating_sub(1).max(1);
        let own = self.held.values().filter(|place| place.product == product).count();
        let is_slow = |place: &&Place| {
            place.estimate.max(now.saturating_duration_since(place.began)) >= self.slow
        };
        let slow = self.held.values().filter(is_slow).count();
        own < most && (estimate < self.slow || slow < most)
    }

    /// It begins; what comes back is given to [`Places::leave`].
    pub fn enter(&mut self, product: &str, estimate: Duration, now: Instant) -> u64 {
        self.next += 1;
        let place = Place { product: product.to_owned(), began: now, estimate };
        self.held.insert(self.next, place);
        self.next
    }

    /// It has ended.
    pub fn leave(&mut self, place: u64) {
        self.held.remove(&place);
    }
}

/// Products whose source could not be asked: their keys wait a while before it is asked again, unless somebody waits.
#[derive(Debug, Default)]
pub struct Rests {
    until: HashMap<String, (Instant, Duration)>,
}

impl Rests {
    /// The source could not be asked for this product.
    pub fn begin(&mut self, product: &str, now: Instant) {
        let last = self.until.get(product);
        // Of statements that fail together one counts.
        if last.is_some_and(|(until, _)| now < *until) {
            return;
        }
        let rest = last.map_or(REST_LEAST, |(_, rest)| (*rest * 2).min(REST_MOST));
        self.until.insert(product.to_owned(), (now + rest, rest));
    }

    /// It could.
    pub fn end(&mut self, product: &str) {
        if !self.until.is_empty() {
            self.until.remove(product);
        }
    }

    /// Until when a product rests, if it does.
    #[must_use]
    pub fn until(&self, product: &str, now: Instant) -> Option<Instant> {
        self.until.get(product).map(|(until, _)| *until).filter(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Key {
        Key::new("p", [n.to_string().as_str()])
    }

    #[test]
    fn a_key_that_throws_goes_alone_and_last_for_a_while() {
        let (mut alone, now) = (Alone::default(), Instant::now());
        alone.remember(&key(1), Why::Threw, now);
        let mut split = alone.split((0..3).map(key).collect(), now);
        assert_eq!(split.pop().unwrap(), [key(0), key(2)]);
        assert_eq!(split, [[key(1)]]);
        alone.forget(&key(1));
        assert_eq!(alone.split((0..3).map(key).collect(), now).len(), 1);
        alone.remember(&key(1), Why::Threw, now);
        assert_eq!(alone.why(&key(1), now + ALONE_FOR), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut alone, now) = (Alone::default(), Instant::now());
        for n in 0..ALONE_MAX * 2 {
            alone.remember(&key(n % (ALONE_MAX + 100)), Why::Threw, now);
        }
        assert!(alone.keys.len() <= ALONE_MAX && alone.order.len() <= ALONE_MAX);
        alone.remember(&key(0), Why::Died, now + ALONE_FOR);
        assert_eq!((alone.keys.len(), alone.order.len()), (1, 1));
    }

    #[test]
    fn no_product_takes_every_connection() {
        let bounds = Bounds { keys: 9, time: Duration::from_millis(50) };
        let (mut places, now) = (Crew::new(bounds, 4).places, Instant::now());
        let (slow, fast) = (Duration::from_secs(2), Duration::from_millis(1));
        let mut held = Vec::new();
        while places.may("slow", slow, now) {
            held.push(places.enter("slow", slow, now));
        }
        assert_eq!(held.len(), 3);
        assert!(!places.may("slow too", slow, now), "the last one is for what is quick");
        assert!(places.may("fast", fast, now));
        places.leave(held[0]);
        assert!(places.may("slow too", slow, now));
    }

    #[test]
    fn what_is_slow_shows_by_and_by() {
        let bounds = Bounds { keys: 9, time: Duration::from_millis(50) };
        let (mut places, now) = (Crew::new(bounds, 2).places, Instant::now());
        places.enter("unknown", Duration::from_millis(50), now);
        assert!(places.may("slow", Duration::from_secs(1), now));
        assert!(!places.may("slow", Duration::from_secs(1), now + Duration::from_secs(1)));
        let one = Crew::new(bounds, 1).places;
        assert!(one.may("slow", Duration::from_secs(1), now));
    }

    #[test]
    fn a_product_rests_longer_each_time() {
        let (mut rests, mut now) = (Rests::default(), Instant::now());
        let mut rested = Vec::new();
        for _ in 0..7 {
            rests.begin("p", now);
            rests.begin("p", now);
            let until = rests.until("p", now).unwrap();
            rested.push((until - now).as_millis());
            now = until;
        }
        assert_eq!(rested, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        rests.end("p");
        assert_eq!(rests.until("p", now), None);
    }
}
