//! Share: what one client may take of what all share: computations a second, and places that are held.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Clients remembered at once; whoever asks for nothing long enough is forgotten first.
const CLIENTS_MAX: usize = 100_000;

/// How many seconds' worth may be taken at once by who took nothing before.
const BURST_SECONDS: f64 = 10.0;

/// Who shares are counted for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Client {
    /// Nobody said who they are: an address stands for all who share it.
    Address(IpAddr),
    /// The subject of a token.
    Subject(Arc<str>),
}

/// Computations that each client may cause, as a rate with a burst.
#[derive(Debug)]
pub struct Budget {
    per_second: f64,
    /// What each may take now. Locked for one decision.
    buckets: Mutex<HashMap<Client, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Budget {
    /// So many a second for each client.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self { per_second: f64::from(per_second), buckets: Mutex::default() }
    }

    /// Takes one.
    ///
    /// # Errors
    /// How long to wait for the next when the client has taken all of its own.
    pub fn take(&self, client: &Client, now: Instant) -> Result<(), Duration> {
        let full = self.per_second * BURST_SECONDS;
        let mut buckets = lock(&self.buckets);
        if buckets.len() >= CLIENTS_MAX && !buckets.contains_key(client) {
            // Who would be full again is as good as unknown.
            buckets.retain(|_, bucket| self.refilled(*bucket, now) < full);
            if buckets.len() >= CLIENTS_MAX {
                return Err(Duration::from_secs(1));
            }
        }
        let bucket = buckets.entry(client.clone()).or_insert(Bucket { left: full, at: now });
        *bucket = Bucket { left: self.refilled(*bucket, now), at: now };
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - bucket.left) / self.per_second))
    }

    fn refilled(&self, bucket: Bucket, now: Instant) -> f64 {
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.left + since * self.per_second).min(self.per_second * BURST_SECONDS)
    }
}

/// Places of which each holder may have only some.
#[derive(Debug)]
pub struct Places<K: Eq + Hash> {
    each: usize,
    /// How many each has. Locked to take one and to give it back.
    taken: Mutex<HashMap<K, usize>>,
}

impl<K: Eq + Hash + Clone> Places<K> {
    /// At most this many for each.
    #[must_use]
    pub fn new(each: usize) -> Arc<Self> {
        Arc::new(Self { each, taken: Mutex::default() })
    }

    /// One more, until it is dropped; `None` when the holder has all that it may have.
    #[must_use]
    pub fn take(self: &Arc<Self>, holder: K) -> Option<Place<K>> {
        let mut taken = lock(&self.taken);
        let count = taken.entry(holder.clone()).or_insert(0);
        if *count >= self.each {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Place { places: Arc::clone(self), holder })
    }

    /// How many are taken by all together.
    #[must_use]
    pub fn taken(&self) -> usize {
        lock(&self.taken).values().sum()
    }
}

/// A place that is held.
#[derive(Debug)]
pub struct Place<K: Eq + Hash> {
    places: Arc<Places<K>>,
    holder: K,
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = lock(&self.places.taken);
        if let Some(count) = taken.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.holder);
            }
        }
    }
}

/// A panic while one was held cannot leave half a decision.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> Client {
        Client::Address(IpAddr::from(number.to_be_bytes()))
    }

    #[test]
    fn a_burst_is_ten_seconds_and_then_the_rate_holds() {
        let (budget, start) = (Budget::new(2), Instant::now());
        for _ in 0..20 {
            budget.take(&client(1), start).unwrap();
        }
        assert_eq!(budget.take(&client(1), start), Err(Duration::from_millis(500)));
        budget.take(&client(2), start).unwrap();
        let later = start + Duration::from_millis(500);
        budget.take(&client(1), later).unwrap();
        assert!(budget.take(&client(1), later).is_err());
    }

    #[test]
    fn who_took_nothing_for_long_is_forgotten_and_many_are_no_leak() {
        let (budget, start) = (Budget::new(1), Instant::now());
        for number in 0..CLIENTS_MAX {
            budget.take(&client(u32::try_from(number).unwrap()), start).unwrap();
        }
        let one_more = client(u32::MAX);
        assert!(budget.take(&one_more, start).is_err());
        budget.take(&one_more, start + Duration::from_secs(1)).unwrap();
        assert_eq!(lock(&budget.buckets).len(), 1);
    }

    #[test]
    fn places_are_given_back() {
        let places = Places::new(2);
        let first = places.take("a").unwrap();
        let _second = places.take("a").unwrap();
        assert!(places.take("a").is_none() && places.take("b").is_some());
        drop(first);
        assert!(places.take("a").is_some());
        assert_eq!(places.taken(), 1);
    }
}
