//! Schedules and the source's clock → which products are due, and since when what is kept is overdue. Pure.
//!
//! Invariants: a tick that was missed, however often, comes once; the time of a product's last tick never goes back;
//! what is kept is called overdue once a tick and what it may take have passed since it was computed.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use crate::{change::SourceTime, key::Key, product::Schedule};

/// What carrying out a tick may take, beside the spread of its keys, before what it has not reached is overdue.
pub const GRACE: Duration = Duration::from_secs(2);

/// Ticks that follow one another sooner are not made durable: after a restart their period begins anew.
const KEPT_FROM: Duration = Duration::from_secs(10);

/// A clock that goes back further was put back; ticks come again then.
pub const PUT_BACK: Duration = Duration::from_secs(60);

/// How far back the last tick before now is looked for.
const BACK: Duration = Duration::from_secs(86_400 * 366 * 8);

/// A product's schedule struck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    /// Which product.
    pub product: String,
    /// When it was due.
    pub at: SourceTime,
    /// Over how long its keys are spread.
    pub spread: Duration,
    /// It is to be remembered over a restart.
    pub kept: bool,
}

/// When a product was due, and will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ticks {
    /// The last tick; none before the first.
    pub last: Option<SourceTime>,
    /// The next.
    pub next: Option<SourceTime>,
}

/// What is computed before it is overdue: judged without asking a schedule, also while nobody looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Punctual {
    /// What was computed before this tick is overdue.
    pub owed: SourceTime,
    /// From here on …
    pub then: SourceTime,
    /// … what was computed before this one is as well.
    pub next: SourceTime,
}

impl Punctual {
    /// Nothing is known yet of when it was due: whatever is kept counts as overdue.
    pub const UNKNOWN: Self =
        Self { owed: SourceTime(i64::MAX), then: SourceTime(i64::MAX), next: SourceTime(i64::MAX) };

    /// Whether what was computed then is overdue now; without a clock it is.
    #[must_use]
    pub fn is_overdue(&self, computed: SourceTime, now: Option<SourceTime>) -> bool {
        let Some(now) = now else { return true };
        computed < self.owed || (now >= self.then && computed < self.next)
    }
}

/// A schedule and how far it has come.
#[derive(Debug, Clone)]
pub struct Clock {
    schedule: Schedule,
    /// Its last tick, or when it began: what comes after this is due.
    last: SourceTime,
    /// The first tick after that; worked out once, since a calendar is slow to ask.
    next: Option<SourceTime>,
}

#[derive(Debug, Clone, Default)]
struct Timed {
    clocks: Vec<Clock>,
    ticked: Option<SourceTime>,
}

/// The schedules of all products.
#[derive(Debug, Clone, Default)]
pub struct Schedules {
    products: BTreeMap<String, Timed>,
    /// Of products not taken up yet, the last tick before this start.
    before: BTreeMap<String, SourceTime>,
}

impl Schedules {
    /// None yet; `before` are the last ticks that an earlier start remembered.
    #[must_use]
    pub fn new(before: BTreeMap<String, SourceTime>) -> Self {
        Self { products: BTreeMap::new(), before }
    }

    /// A product has these schedules from now on. One that it had goes on; another begins where the product last
    /// ticked, if that was before this start, else now. The last tick before this start comes back, once.
    pub fn take_up<'a>(
        &mut self,
        product: &str,
        schedules: impl Iterator<Item = &'a Schedule>,
        now: SourceTime,
    ) -> Option<SourceTime> {
        // A clock that was put back does not make a product wait for the time it lost.
        let before = self.before.remove(product).map(|last| last.min(now));
        let timed = self.products.entry(product.to_owned()).or_default();
        timed.ticked = timed.ticked.max(before);
        let began = before.unwrap_or(now);
        let clocks = schedules.map(|schedule| {
            let known = timed.clocks.iter().find(|clock| clock.schedule == *schedule);
            known.cloned().unwrap_or_else(|| Clock::begun(schedule.clone(), began))
        });
        timed.clocks = clocks.collect();
        before.filter(|_| !timed.clocks.is_empty())
    }

    /// There is no such product any more.
    pub fn remove(&mut self, product: &str) {
        self.products.remove(product);
        self.before.remove(product);
    }

    /// The products known here, or remembered from before.
    pub fn products(&self) -> impl Iterator<Item = &String> {
        self.products.keys().chain(self.before.keys())
    }

    /// What is due: each product once, however many ticks it missed.
    pub fn due(&mut self, now: SourceTime) -> Vec<Tick> {
        let mut ticks = Vec::new();
        for (product, timed) in &mut self.products {
            let mut struck: Option<Tick> = None;
            for clock in &mut timed.clocks {
                let Some(tick) = clock.strike(now) else { continue };
                let kept = clock.next.is_none_or(|next| next.0 - tick.0 >= micros(KEPT_FROM));
                let spread = clock.schedule.spread(tick);
                let other = struck.take();
                struck = Some(Tick {
                    product: product.clone(),
                    at: other.as_ref().map_or(tick, |other| other.at.max(tick)),
                    spread: other.as_ref().map_or(spread, |other| other.spread.min(spread)),
                    kept: kept || other.is_some_and(|other| other.kept),
                });
            }
            if let Some(tick) = struck {
                timed.ticked = timed.ticked.max(Some(tick.at));
                ticks.push(tick);
            }
        }
        ticks
    }

    /// When the next tick of any product is.
    #[must_use]
    pub fn next(&self) -> Option<SourceTime> {
        self.products.values().filter_map(Timed::next).min()
    }

    /// When a product was due, and will be; `None` where it has no schedule.
    #[must_use]
    pub fn ticks(&self, product: &str) -> Option<Ticks> {
        let timed = self.products.get(product).filter(|timed| !timed.clocks.is_empty())?;
        Some(Ticks { last: timed.ticked, next: timed.next() })
    }

    /// When what is kept of a product is overdue.
    #[must_use]
    pub fn punctual(&self, product: &str, now: SourceTime) -> Option<Punctual> {
        let timed = self.products.get(product)?;
        let of_clock = |clock: &Clock| clock.punctual(now);
        timed.clocks.iter().map(of_clock).reduce(|one, other| {
            let (first, _) = if one.then <= other.then { (one, other) } else { (other, one) };
            Punctual { owed: one.owed.max(other.owed), ..first }
        })
    }
}

impl Timed {
    fn next(&self) -> Option<SourceTime> {
        self.clocks.iter().filter_map(|clock| clock.next).min()
    }
}

impl Clock {
    /// A schedule of which all ticks after `last` are due.
    #[must_use]
    pub fn begun(schedule: Schedule, last: SourceTime) -> Self {
        let next = schedule.next(last, last);
        Self { schedule, last, next }
    }

    /// Which schedule.
    #[must_use]
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The next tick.
    #[must_use]
    pub fn next(&self) -> Option<SourceTime> {
        self.next
    }

    /// The last tick since the one before, if any is due.
    pub fn strike(&mut self, now: SourceTime) -> Option<SourceTime> {
        if self.last.0.saturating_sub(now.0) > micros(PUT_BACK) {
            *self = Self::begun(self.schedule.clone(), now);
        }
        let first = self.next.filter(|first| *first <= now)?;
        let latest = self.schedule.latest(self.last, now, BACK);
        *self = Self::begun(self.schedule.clone(), latest.unwrap_or(first).max(first));
        Some(self.last)
    }

    fn punctual(&self, now: SourceTime) -> Punctual {
        let allowed = |tick| micros(self.schedule.spread(tick) + GRACE);
        let until = SourceTime(now.0.saturating_sub(allowed(self.last)));
        let owed = self.schedule.latest(self.last, until, BACK);
        let next = self.schedule.next(self.last, until).unwrap_or(SourceTime(i64::MAX));
        Punctual {
            owed: owed.unwrap_or(SourceTime(i64::MIN)),
            then: SourceTime(next.0.saturating_add(allowed(next))),
            next,
        }
    }
}

/// How long after a tick a key of it falls due: always the same for a key, evenly spread over all.
#[must_use]
pub fn jitter(key: &Key, spread: Duration) -> Duration {
    let mut hash = DefaultHasher::new();
    key.as_str().hash(&mut hash);
    spread.mul_f64(unit(hash.finish()))
}

/// Evenly over [0, 1).
#[expect(clippy::cast_precision_loss, reason = "of 64 random bits 53 are enough")]
pub(super) fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(text: &str) -> Schedule {
        Schedule::read(text).unwrap().unwrap()
    }

    fn second(n: i64) -> SourceTime {
        SourceTime(n * 1_000_000)
    }

    /// 2026-03-28T00:00:00Z.
    const DAY: i64 = 1_774_656_000;

    fn of(text: &str, before: Option<i64>, now: i64) -> Schedules {
        let before = before.map(|last| ("p".to_owned(), second(last)));
        let mut schedules = Schedules::new(before.into_iter().collect());
        schedules.take_up("p", [schedule(text)].iter(), second(now));
        schedules
    }

    fn due(schedules: &mut Schedules, now: i64) -> Option<i64> {
        let ticks = schedules.due(second(now));
        assert!(ticks.len() <= 1);
        ticks.first().map(|tick| tick.at.0 / 1_000_000)
    }

    #[test]
    fn a_period_begins_when_it_is_first_seen_and_keeps_its_phase() {
        let mut every = of("every 30s", None, 100);
        assert_eq!(every.next(), Some(second(130)));
        assert_eq!(due(&mut every, 129), None);
        assert_eq!(due(&mut every, 131), Some(130));
        assert_eq!(due(&mut every, 131), None);
        assert_eq!(every.next(), Some(second(160)));
    }

    #[test]
    fn what_was_missed_comes_once() {
        let mut every = of("every 30s", None, 100);
        assert_eq!(due(&mut every, 1000), Some(970 + 30));
        assert_eq!(due(&mut every, 1000), None);
        let mut daily = of("cron 0 6 * * *", None, DAY);
        let tenth = DAY + 10 * 86_400;
        assert_eq!(due(&mut daily, tenth), Some(tenth - 18 * 3600));
        assert_eq!(due(&mut daily, tenth), None);
    }

    #[test]
    fn a_restart_neither_repeats_nor_forgets() {
        let six = DAY + 6 * 3600;
        let mut ran = of("cron 0 6 * * *", Some(six), six + 60);
        assert_eq!(due(&mut ran, six + 60), None, "it ran before the restart");
        assert_eq!(due(&mut ran, six + 86_400), Some(six + 86_400));
        let mut missed = of("cron 0 6 * * *", Some(six - 86_400), six + 60);
        assert_eq!(due(&mut missed, six + 60), Some(six), "kck was down at six");
        let mut anew = of("cron 0 6 * * *", None, six + 60);
        assert_eq!(due(&mut anew, six + 60), None, "what was never due was not missed");
    }

    #[test]
    fn a_clock_put_back_waits_for_nothing_that_it_lost() {
        let mut every = of("every 30s", Some(10_000), 100);
        assert_eq!(every.next(), Some(second(130)));
        assert_eq!(due(&mut every, 130), Some(130));
    }

    #[test]
    fn an_edit_keeps_what_it_leaves() {
        let mut schedules = of("every 30s", None, 100);
        let two = [schedule("every 30s"), schedule("every 1h")];
        assert_eq!(schedules.take_up("p", two.iter(), second(120)), None);
        assert_eq!(due(&mut schedules, 130), Some(130));
        schedules.take_up("p", two[1..].iter(), second(140));
        assert_eq!(schedules.next(), Some(second(120 + 3600)));
        let ticks = Ticks { last: Some(second(130)), next: Some(second(3720)) };
        assert_eq!(schedules.ticks("p"), Some(ticks));
        schedules.take_up("p", two[..0].iter(), second(140));
        assert_eq!((schedules.ticks("p"), schedules.next()), (None, None));
    }

    #[test]
    fn clocks_that_are_changed_miss_and_repeat_nothing() {
        // 2026-03-29 has no half past two in Oslo, 2026-10-25 has two.
        for (day, want) in [
            (DAY + 86_400, ["01:00:00", "00:30:00"]),
            (DAY + 211 * 86_400, ["00:30:00", "01:30:00"]),
        ] {
            let mut schedules = of("cron 30 2 * * * Europe/Oslo", None, day);
            let mut ticks = Vec::new();
            for minute in 0..2 * 1440 {
                ticks.extend(due(&mut schedules, day + minute * 60 + 59));
            }
            let times: Vec<String> = ticks.iter().map(|tick| second(*tick).to_string()).collect();
            assert_eq!(times.len(), 2, "{times:?}");
            assert!(times.iter().zip(want).all(|(time, want)| time.contains(want)), "{times:?}");
        }
    }

    #[test]
    fn a_leap_day_comes_in_its_year() {
        let mut schedules = of("cron 0 12 29 2 *", None, DAY);
        let next = schedules.next().unwrap();
        assert_eq!(next.to_string(), "2028-02-29T12:00:00.000000Z");
        assert_eq!(schedules.due(next).len(), 1);
        assert_eq!(schedules.next().unwrap().to_string(), "2032-02-29T12:00:00.000000Z");
    }

    #[test]
    fn only_ticks_that_are_rare_are_kept() {
        for (text, kept) in [("every 1s", false), ("every 10s", true), ("cron 0 6 * * *", true)] {
            let mut schedules = of(text, None, DAY);
            assert_eq!(schedules.due(second(DAY + 86_400))[0].kept, kept, "{text}");
        }
    }

    #[test]
    fn overdue_is_what_a_tick_has_not_reached_in_time() {
        let schedules = of("every 100s", None, 1000);
        let at = |now| schedules.punctual("p", second(now)).unwrap();
        // Spread over 10 s, and two more: of the tick at 1100 nothing is owed before 1112.
        let before = at(1101);
        assert_eq!(
            (before.owed, before.next, before.then),
            (second(1000), second(1100), second(1112))
        );
        let is_overdue = |computed, now| before.is_overdue(second(computed), Some(second(now)));
        assert!(!is_overdue(1050, 1111) && is_overdue(1050, 1112));
        assert!(!is_overdue(1100, 1150), "it was computed at the tick");
        assert!(is_overdue(999, 1101));
        assert_eq!(at(1112).owed, second(1100));
        assert!(before.is_overdue(second(1100), None), "nobody knows the time");
        assert!(Punctual::UNKNOWN.is_overdue(second(1100), Some(second(1101))));
    }

    #[test]
    fn of_two_schedules_the_stricter_judges() {
        let mut schedules = Schedules::default();
        let two = [schedule("every 1h"), schedule("every 10s")];
        schedules.take_up("p", two.iter(), second(0));
        let punctual = schedules.punctual("p", second(104)).unwrap();
        assert_eq!((punctual.owed, punctual.next), (second(100), second(110)));
    }

    #[test]
    fn jitter_spreads_evenly_within_its_bounds() {
        let spread = Duration::from_secs(30);
        let keys: Vec<Key> =
            (0..1000).map(|n: u32| Key::new("p", [n.to_string().as_str()])).collect();
        let mut all: Vec<Duration> = keys.iter().map(|key| jitter(key, spread)).collect();
        assert_eq!(all, keys.iter().map(|key| jitter(key, spread)).collect::<Vec<_>>());
        assert!(all.iter().all(|jitter| *jitter < spread));
        all.sort();
        for tenth in 0..10u32 {
            let from = spread * tenth / 10;
            let in_it =
                all.iter().filter(|jitter| from <= **jitter && **jitter < from + spread / 10);
            assert!((60..=140).contains(&in_it.count()), "tenth {tenth}");
        }
        assert_eq!(jitter(&keys[0], Duration::ZERO), Duration::ZERO);
    }
}
