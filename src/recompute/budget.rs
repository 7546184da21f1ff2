//! Budget: how long statements may be executing at the source, all together and for one product. Pure.
//!
//! Within any ten seconds no more than the set share of wall time is spent; a statement that takes longer than that by
//! itself is followed by a rest as long as its time is worth. One product gets half of it at most for keys that nobody
//! waits for, so that a slow one leaves room for the others.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

/// What the share is counted over.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Of the whole, what one product may take.
const PRODUCT_PART: f64 = 0.5;

/// See the module.
#[derive(Debug)]
pub struct Budget {
    share: f64,
    all: Spent,
    by_product: HashMap<String, Spent>,
    running: HashMap<u64, Running>,
    next: u64,
}

#[derive(Debug)]
struct Running {
    product: String,
    began: Instant,
    estimate: Duration,
}

/// Time that was spent and still counts.
#[derive(Debug, Default)]
struct Spent {
    /// Until when it counts, and how much it is; in the order of their ends.
    past: VecDeque<(Instant, Duration)>,
    sum: Duration,
}

/// Why a statement may not begin, and when to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// All together have spent enough: whoever is let in now takes the room that gathers for this one.
    All(Instant),
    /// Its product has.
    Product(Instant),
}

/// A statement that is executing; give it back to [`Budget::end`].
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(u64);

impl Budget {
    /// `share` of wall time, that of all connections together: 0.5 is half of one connection.
    #[must_use]
    pub fn new(share: f64) -> Self {
        let (all, by_product) = (Spent::default(), HashMap::new());
        Self { share, all, by_product, running: HashMap::new(), next: 0 }
    }

    /// Whether a statement of this product that takes about so long may begin now; `urgent` where somebody waits for it.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn may(
        &mut self,
        product: &str,
        urgent: bool,
        estimate: Duration,
        now: Instant,
    ) -> Result<(), Refusal> {
        let whole = WINDOW.mul_f64(self.share);
        let runs = |of: Option<&str>| -> Duration {
            let running = self.running.values();
            let running = running.filter(|one| of.is_none_or(|of| one.product == of));
            running.map(|one| one.estimate.max(now.saturating_duration_since(one.began))).sum()
        };
        let (all, own) = (runs(None), runs(Some(product)));
        self.all.may(estimate, all, whole, now).map_err(Refusal::All)?;
        if urgent {
            return Ok(());
        }
        let spent = self.by_product.entry(product.to_owned()).or_default();
        spent.may(estimate, own, whole.mul_f64(PRODUCT_PART), now).map_err(Refusal::Product)
    }

    /// It begins.
    #[must_use]
    pub fn begin(&mut self, product: &str, estimate: Duration, now: Instant) -> Ticket {
        self.next += 1;
        let running = Running { product: product.to_owned(), began: now, estimate };
        self.running.insert(self.next, running);
        Ticket(self.next)
    }

    /// It has ended, and kept the source at work for so long.
    pub fn end(&mut self, ticket: &Ticket, took: Duration, now: Instant) {
        let Some(Running { product, .. }) = self.running.remove(&ticket.0) else { return };
        if took.is_zero() {
            return;
        }
        self.all.add(took, self.share, now);
        let share = self.share * PRODUCT_PART;
        self.by_product.entry(product).or_default().add(took, share, now);
        // Who has nothing left that counts is as good as new.
        self.by_product.retain(|_, spent| !spent.is_over(now));
    }

    /// The part of the last ten seconds that was spent, of what may be: 1 is all of it.
    #[must_use]
    pub fn used(&mut self, now: Instant) -> f64 {
        self.all.forget(now);
        self.all.sum.as_secs_f64() / (WINDOW.as_secs_f64() * self.share)
    }
}

impl Spent {
    fn forget(&mut self, now: Instant) {
        while let Some((until, took)) = self.past.front().copied()
            && until <= now
        {
            self.past.pop_front();
            self.sum = self.sum.saturating_sub(took);
        }
    }

    fn is_over(&mut self, now: Instant) -> bool {
        self.forget(now);
        self.past.is_empty()
    }

    fn add(&mut self, took: Duration, share: f64, now: Instant) {
        // What takes more than a window's share by itself counts for as long as it is worth.
        let worth = took.div_f64(share).max(WINDOW);
        let until = now + worth;
        let at = self.past.partition_point(|(other, _)| *other <= until);
        self.past.insert(at, (until, took));
        self.sum += took;
    }

    /// Beside what is `running` another may begin, if what still counts leaves room; or if nothing else is there, since
    /// what never fits must run at some time.
    fn may(
        &mut self,
        estimate: Duration,
        running: Duration,
        whole: Duration,
        now: Instant,
    ) -> Result<(), Instant> {
        self.forget(now);
        let alone = self.past.is_empty() && running.is_zero();
        if alone || self.sum + running + estimate <= whole {
            return Ok(());
        }
        // What runs says so when it ends; until then it is not worth looking.
        let ends = now + estimate.max(Duration::from_millis(1));
        Err(self.past.front().map_or(ends, |(until, _)| *until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Runs one after the other whenever it may, for a minute; when each began and ended comes back.
    fn played(share: f64, takes: Duration) -> Vec<(Duration, Duration)> {
        let (mut budget, start) = (Budget::new(share), Instant::now());
        let (mut at, mut ran) = (Duration::ZERO, Vec::new());
        while at < ms(60_000) {
            match budget.may("p", false, takes, start + at) {
                Ok(()) => {
                    let ticket = budget.begin("p", takes, start + at);
                    budget.end(&ticket, takes, start + at + takes);
                    ran.push((at, at + takes));
                    at += takes;
                }
                Err(Refusal::All(later) | Refusal::Product(later)) => {
                    at = at.max(later.saturating_duration_since(start)) + ms(1);
                }
            }
        }
        ran
    }

    fn worst_window(ran: &[(Duration, Duration)]) -> Duration {
        let within = |from: Duration| -> Duration {
            let to = from + WINDOW;
            ran.iter().map(|(b, e)| (*e).min(to).saturating_sub((*b).max(from))).sum()
        };
        ran.iter()
            .flat_map(|(b, e)| [*b, e.saturating_sub(WINDOW)])
            .map(within)
            .max()
            .unwrap_or_default()
    }

    #[test]
    fn no_ten_seconds_take_more_than_the_share() {
        for takes in [20, 300, 1_000] {
            let ran = played(0.5, ms(takes));
            // One product has half of it.
            assert!(worst_window(&ran) <= ms(2_500), "{takes}: {:?}", worst_window(&ran));
            let sum: Duration = ran.iter().map(|(b, e)| *e - *b).sum();
            assert!(sum >= ms(12_000), "{takes}: a minute is used, {sum:?}");
        }
    }

    #[test]
    fn what_never_fits_runs_and_rests() {
        let ran = played(0.1, ms(2_000));
        let gaps: Vec<Duration> = ran.windows(2).map(|two| two[1].0 - two[0].1).collect();
        assert!(ran.len() >= 2 && gaps.iter().all(|gap| *gap >= ms(19_000)), "{gaps:?}");
    }

    #[test]
    fn a_slow_product_leaves_room_for_others() {
        let (mut budget, now) = (Budget::new(0.5), Instant::now());
        let slow = budget.begin("slow", ms(2_000), now);
        assert!(budget.may("slow", false, ms(2_000), now).is_err());
        assert!(budget.may("fast", false, ms(20), now).is_ok());
        budget.end(&slow, ms(2_000), now + ms(2_000));
        let later = now + ms(2_000);
        assert!(budget.may("slow", false, ms(2_000), later).is_err());
        assert!(budget.may("fast", false, ms(20), later).is_ok());
        assert!(budget.may("slow", true, ms(2_000), later).is_ok(), "somebody waits for it");
        assert!((0.39..0.41).contains(&budget.used(later)));
    }

    #[test]
    fn room_gathers_for_who_needs_much() {
        let (mut budget, now) = (Budget::new(0.5), Instant::now());
        for product in ["a", "b"] {
            let ticket = budget.begin(product, ms(2_000), now);
            budget.end(&ticket, ms(2_000), now);
        }
        // Whoever asks first is refused for all: the worker lets nobody pass.
        let refused = budget.may("slow", true, ms(2_000), now);
        assert!(matches!(refused, Err(Refusal::All(_))), "{refused:?}");
        let own = budget.may("a", false, ms(900), now);
        assert!(matches!(own, Err(Refusal::Product(_))), "{own:?}");
    }

    #[test]
    fn one_connections_worth_and_more_may_be_all_of_the_time() {
        let (mut budget, now) = (Budget::new(4.0), Instant::now());
        let tickets: Vec<Ticket> = (0..2).map(|_| budget.begin("p", ms(9_000), now)).collect();
        assert!(budget.may("q", false, ms(9_000), now).is_ok());
        assert_eq!(tickets.len(), 2);
    }

    proptest! {
        #[test]
        fn who_waits_is_let_in_at_last(takes in 1u64..30_000, share in 1u32..40) {
            let share = f64::from(share) / 10.0;
            let (mut budget, start) = (Budget::new(share), Instant::now());
            let first = budget.begin("p", ms(takes), start);
            budget.end(&first, ms(takes), start + ms(takes));
            let mut at = start + ms(takes);
            let mut looks = 0;
            while let Err(Refusal::All(later) | Refusal::Product(later)) = budget.may("p", false, ms(takes), at) {
                prop_assert!(later > at, "it is worth waiting");
                at = later;
                looks += 1;
                prop_assert!(looks < 10);
            }
        }
    }
}
