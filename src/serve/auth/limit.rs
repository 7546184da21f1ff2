//! Limit: failures of a user and of an address → how long they must wait.
//!
//! Five attempts are free, and one comes back each twelve seconds. Whoever uses them up waits a minute, and each time
//! twice as long, up to a quarter of an hour. What is remembered is bounded.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const FREE: u32 = 5;
const ONE_BACK_AFTER: Duration = Duration::from_secs(12);
const FIRST_WAIT: Duration = Duration::from_secs(60);
const WAIT_MOST: Duration = Duration::from_secs(15 * 60);
const REMEMBERED_MAX: usize = 10_000;

/// What was tried of late, by user and by address.
#[derive(Default)]
pub(super) struct Limits {
    /// Locked to count an attempt, or take it back.
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    users: HashMap<String, Tries>,
    addresses: HashMap<IpAddr, Tries>,
}

#[derive(Clone, Copy)]
struct Tries {
    /// Used up, as of `at`.
    used: u32,
    at: Instant,
    /// Until then nothing is tried.
    shut_until: Option<Instant>,
    /// How often it was shut since all came back.
    shut: u32,
}

impl Limits {
    /// Counts an attempt before it is made, so that many at once are not free.
    ///
    /// # Errors
    /// How long to wait.
    pub(super) fn attempt(
        &self,
        user: &str,
        address: IpAddr,
        now: Instant,
    ) -> Result<(), Duration> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let address = network(address);
        let Counts { users, addresses } = &mut *counts;
        let by_user = entry(users, user.to_owned(), now).attempt(now);
        // Who is shut out uses nothing up of the other.
        by_user?;
        entry(addresses, address, now).attempt(now)
    }

    /// Takes back what a right password was counted as; the user's waiting ends with it.
    pub(super) fn succeeded(&self, user: &str, address: IpAddr) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.users.remove(user);
        if let Some(tries) = counts.addresses.get_mut(&network(address)) {
            tries.used = tries.used.saturating_sub(1);
        }
    }
}

impl Tries {
    fn new(now: Instant) -> Self {
        Self { used: 0, at: now, shut_until: None, shut: 0 }
    }

    fn attempt(&mut self, now: Instant) -> Result<(), Duration> {
        self.come_back(now);
        if let Some(until) = self.shut_until.filter(|until| now < *until) {
            return Err(until - now);
        }
        if self.used < FREE {
            self.used += 1;
            return Ok(());
        }
        let wait = FIRST_WAIT.saturating_mul(1 << self.shut.min(8)).min(WAIT_MOST);
        self.shut = self.shut.saturating_add(1);
        self.shut_until = Some(now + wait);
        Err(wait)
    }

    fn come_back(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        let back = passed.as_secs() / ONE_BACK_AFTER.as_secs();
        let back = u32::try_from(back).unwrap_or(u32::MAX);
        self.at += ONE_BACK_AFTER.saturating_mul(back);
        self.used = self.used.saturating_sub(back);
        // Who waited as long again has started anew.
        if self.shut_until.is_some_and(|until| until + WAIT_MOST <= now) {
            (self.shut, self.shut_until) = (0, None);
        }
    }

    fn is_calm(&self, now: Instant) -> bool {
        let mut later = *self;
        later.come_back(now);
        later.used == 0 && later.shut == 0
    }
}

/// The tries of one; where there are too many, those that are calm go, and else the one that is tried longest ago.
fn entry<K: Hash + Eq + Clone>(all: &mut HashMap<K, Tries>, of: K, now: Instant) -> &mut Tries {
    if all.len() >= REMEMBERED_MAX && !all.contains_key(&of) {
        all.retain(|_, tries| !tries.is_calm(now));
        if all.len() >= REMEMBERED_MAX
            && let Some(oldest) =
                all.iter().min_by_key(|(_, tries)| tries.at).map(|(of, _)| of.clone())
        {
            all.remove(&oldest);
        }
    }
    all.entry(of).or_insert_with(|| Tries::new(now))
}

/// A whole network of IPv6 is one reader's.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn s14_five_attempts_are_free_and_then_waiting_grows() {
        let (limits, mut now) = (Limits::default(), Instant::now());
        let here = address("10.0.0.1");
        for _ in 0..5 {
            assert_eq!(limits.attempt("ann", here, now), Ok(()));
        }
        assert_eq!(limits.attempt("ann", here, now), Err(Duration::from_secs(60)));
        now += Duration::from_secs(20);
        assert_eq!(limits.attempt("ann", here, now), Err(Duration::from_secs(40)));
        now += Duration::from_secs(41);
        for _ in 0..5 {
            assert_eq!(limits.attempt("ann", here, now), Ok(()));
        }
        assert_eq!(limits.attempt("ann", here, now), Err(Duration::from_secs(120)));
        now += Duration::from_secs(3600);
        for _ in 0..5 {
            assert_eq!(limits.attempt("ann", here, now), Ok(()));
        }
        assert_eq!(limits.attempt("ann", here, now), Err(Duration::from_secs(60)));
    }

    #[test]
    fn s14_one_address_cannot_try_many_users() {
        let (limits, now) = (Limits::default(), Instant::now());
        for number in 0..5 {
            let ip = address(&format!("2001:db8::{number}"));
            assert_eq!(limits.attempt(&number.to_string(), ip, now), Ok(()));
        }
        assert!(limits.attempt("x", address("2001:db8::ffff"), now).is_err());
        assert_eq!(limits.attempt("y", address("2001:db8:0:1::1"), now), Ok(()));
        assert_eq!(network(address("::ffff:10.0.0.1")), address("10.0.0.1"));
    }

    #[test]
    fn a_right_password_costs_nothing() {
        let (limits, now) = (Limits::default(), Instant::now());
        let here = address("10.0.0.1");
        for _ in 0..50 {
            assert_eq!(limits.attempt("ann", here, now), Ok(()));
            limits.succeeded("ann", here);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (limits, now) = (Limits::default(), Instant::now());
        for number in 0..u32::try_from(REMEMBERED_MAX).unwrap() + 100 {
            let ip = IpAddr::from(number.to_be_bytes());
            assert_eq!(limits.attempt(&number.to_string(), ip, now), Ok(()));
        }
        let counts = limits.counts.lock().unwrap();
        assert!(counts.users.len() <= REMEMBERED_MAX && counts.addresses.len() <= REMEMBERED_MAX);
    }
}
