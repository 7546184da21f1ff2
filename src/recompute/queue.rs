//! Asked-for keys → the next batch to compute. A state machine without I/O or clock.
//!
//! Who waits goes first. Everything else is ordered by worth: how often it is read ÷ what it costs, times how long it
//! has been stale; so what is cheap and read often goes soon, and nothing waits for ever, since its worth grows with
//! its waiting. Every few turns the worthiest goes before those who wait, lest a storm of misses leave all else stale.
//!
//! Keys of about the same rate (within a factor of two) stand in one line in the order in which they came, one set of
//! lines a product: the next is found among the first of the lines.
//!
//! Invariants: a key is computed by at most one at a time (R12); who asked is answered exactly once; a waiter
//! joins a running computation only if that began at what it demands.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use crate::{change::Position, key::Key, pattern::Pattern};

/// Of so many turns one is for what nobody waits for.
const TURNS: u64 = 8;
/// Keys that wait, looked at for those that agree with a pattern.
const LOOKED_AT: usize = 1000;

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

/// In which order keys go for which nobody waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Reads ÷ cost × time stale.
    #[default]
    Worth,
    /// Those asked for most often while they wait.
    MostRequested,
    /// Those that came first.
    FirstRequested,
    /// Of those asked for at least as often as the average, the first.
    FirstRequestedGteAvg,
}

impl std::str::FromStr for Order {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "worth" => Ok(Self::Worth),
            "most_requested" => Ok(Self::MostRequested),
            "first_requested" => Ok(Self::FirstRequested),
            "first_requested_gte_avg" => Ok(Self::FirstRequestedGteAvg),
            _ => Err(()),
        }
    }
}

/// A stale key, and what says how soon it should be computed.
#[derive(Debug, Clone, Copy)]
pub struct Stale {
    /// Since when, as far as is known.
    pub since: Instant,
    /// Reads ÷ cost: whatever its unit, it is compared with others.
    pub rate: f32,
    /// Not before this.
    pub not_before: Option<Instant>,
}

/// A place in line: by rate as a power of two, above all those who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Line {
    Rate(i8),
    Urgent,
}

#[derive(Debug, Clone)]
struct Job<W> {
    waiters: Vec<W>,
    line: Line,
    since: Instant,
    /// How often it was asked for while it waits.
    requests: u32,
}

#[derive(Debug, Clone)]
struct Running<W> {
    as_of: Position,
    waiters: Vec<W>,
    claim: u64,
}

/// Keys that one worker computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Tells it from others, also of the same keys.
    pub id: u64,
    /// Which.
    pub keys: Vec<Key>,
}

/// A product that has keys to compute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub product: Arc<str>,
    /// Somebody waits for one of its keys.
    pub urgent: bool,
}

type Lines = BTreeMap<Line, VecDeque<(Instant, Key)>>;

/// What is to be computed, what is being computed, and who waits for it (`W`).
#[derive(Debug, Clone)]
pub struct Queue<W> {
    waiting: HashMap<Key, Job<W>>,
    running: HashMap<Key, Running<W>>,
    /// By product; a place may be left behind by a key that has moved to another, and is passed over then.
    lines: BTreeMap<Arc<str>, Lines>,
    /// Keys that may not be computed before their time.
    delayed: BTreeSet<(Instant, Key)>,
    /// The same keys, so that each is there once.
    later: HashMap<Key, Stale>,
    strategy: Order,
    /// How many keys of each product wait.
    crowds: HashMap<Arc<str>, usize>,
    /// Requests of all that wait.
    requests: u64,
    /// How many wait for keys, queued or being computed.
    waiters: usize,
    turn: u64,
    claims: u64,
    limit: usize,
}

impl<W> Queue<W> {
    /// At most `limit` keys wait.
    #[must_use]
    pub fn new(limit: usize, strategy: Order) -> Self {
        Self {
            waiting: HashMap::new(),
            running: HashMap::new(),
            lines: BTreeMap::new(),
            delayed: BTreeSet::new(),
            later: HashMap::new(),
            strategy,
            crowds: HashMap::new(),
            requests: 0,
            waiters: 0,
            turn: 0,
            claims: 0,
            limit,
        }
    }

    /// How many keys wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether keys that did not fit may come now: at half of the limit, so that they come many at a time.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.waiting.len() <= self.limit / 2 && self.later.len() <= self.limit / 2
    }

    /// How many keys of a product wait.
    #[must_use]
    pub fn waiting_of(&self, product: &str) -> usize {
        self.crowds.get(product).copied().unwrap_or(0)
    }

    /// Whether a key waits to be computed, or is being computed.
    #[must_use]
    pub fn is_pending(&self, key: &Key) -> bool {
        self.waiting.contains_key(key) || self.running.contains_key(key)
    }

    /// Whether a key is being computed.
    #[must_use]
    pub fn is_running(&self, key: &Key) -> bool {
        self.running.contains_key(key)
    }

    /// Keys that wait or are being computed and agree, at most so many, of the first of those that wait.
    #[must_use]
    pub fn pending_of(&self, pattern: &Pattern, most: usize) -> Vec<Key> {
        let product = &*pattern.product;
        let lines = self.lines.get(product).into_iter().flat_map(BTreeMap::values).flatten();
        let waiting = lines.map(|(_, key)| key).take(LOOKED_AT);
        let pending = self.running_of(product).chain(waiting);
        let own = pending.filter(|key| self.is_pending(key) && pattern.agrees(&key.values()));
        own.take(most).cloned().collect()
    }

    /// How many keys are being computed.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// How many wait for keys, queued or being computed.
    #[must_use]
    pub fn waiters(&self) -> usize {
        self.waiters
    }

    /// The keys of a product that are being computed.
    pub fn running_of(&self, product: &str) -> impl Iterator<Item = &Key> {
        self.running.keys().filter(move |key| key.product() == product)
    }

    /// Somebody waits for a key, from `now` on.
    ///
    /// # Errors
    /// The waiter, when too many keys wait already.
    pub fn ask(&mut self, key: &Key, want: Want, waiter: W, now: Instant) -> Result<(), W> {
        if let Some(running) = self.running.get_mut(key) {
            let joins = match want {
                Want::Any => true,
                Want::AtLeast(position) => running.as_of >= position,
                Want::New => false,
            };
            if joins && !self.waiting.contains_key(key) {
                running.waiters.push(waiter);
                self.waiters += 1;
                return Ok(());
            }
        }
        if self.waiting.len() >= self.limit && !self.waiting.contains_key(key) {
            return Err(waiter);
        }
        self.enter(key, None, now, Some(waiter));
        Ok(())
    }

    /// A stale key is to be computed in its turn.
    ///
    /// # Errors
    /// [`Full`] when too many keys wait already.
    pub fn refresh(&mut self, key: &Key, stale: Stale) -> Result<(), Full> {
        if let Some(instant) = stale.not_before
            && !self.waiting.contains_key(key)
        {
            if self.later.len() >= self.limit {
                return Err(Full);
            }
            if !self.later.contains_key(key) {
                self.later.insert(key.clone(), stale);
                self.delayed.insert((instant, key.clone()));
            }
            return Ok(());
        }
        if self.waiting.len() >= self.limit && !self.waiting.contains_key(key) {
            return Err(Full);
        }
        self.enter(key, Some(stale.rate), stale.since, None);
        Ok(())
    }

    /// Where a key stands of this rate that was asked for so often; without a rate somebody waits for it.
    fn line_of(&self, rate: Option<f32>, requests: u32) -> Line {
        let Some(rate) = rate else { return Line::Urgent };
        let measure = match self.strategy {
            Order::Worth => rate,
            Order::FirstRequested => 1.0,
            #[expect(clippy::cast_precision_loss, reason = "its power of two is what counts")]
            Order::MostRequested | Order::FirstRequestedGteAvg => requests as f32,
        };
        #[expect(clippy::cast_possible_truncation, reason = "within the bounds of i8")]
        Line::Rate(measure.max(f32::MIN_POSITIVE).log2().clamp(-120.0, 120.0).floor() as i8)
    }

    /// A key that is asked for again goes further up, never down.
    fn enter(&mut self, key: &Key, rate: Option<f32>, since: Instant, waiter: Option<W>) {
        self.requests += 1;
        let asked = self.waiting.get(key).map_or(0, |job| job.requests).saturating_add(1);
        let line = self.line_of(rate, asked);
        let job = self.waiting.entry(key.clone()).or_insert_with(|| Job {
            waiters: Vec::new(),
            line,
            since,
            requests: 0,
        });
        self.waiters += usize::from(waiter.is_some());
        job.waiters.extend(waiter);
        job.requests = asked;
        let (is_new, since) = (asked == 1, job.since);
        if is_new {
            *self.crowds.entry(key.product().into()).or_default() += 1;
        }
        if !(is_new || job.line < line) {
            return;
        }
        job.line = line;
        // A key that runs waits aside until `finish` lets it in: one computation at a time.
        if !self.running.contains_key(key) {
            self.stand(key, line, since);
        }
    }

    fn stand(&mut self, key: &Key, line: Line, since: Instant) {
        let product = match self.lines.get_key_value(key.product()) {
            Some((product, _)) => Arc::clone(product),
            None => key.product().into(),
        };
        self.lines
            .entry(product)
            .or_default()
            .entry(line)
            .or_default()
            .push_back((since, key.clone()));
    }

    /// The products that have keys to compute, in the order in which they should be tried.
    pub fn candidates(&mut self, now: Instant) -> Vec<Candidate> {
        self.turn += 1;
        let rest_first = self.turn.is_multiple_of(TURNS);
        self.candidates_in(now, rest_first)
    }

    /// The same for whoever counts turns by itself: those before for which nobody waits, or those for which somebody
    /// does.
    pub fn candidates_in(&mut self, now: Instant, rest_first: bool) -> Vec<Candidate> {
        self.let_in(now);
        self.clean();
        let (mut urgent, mut rest) = (Vec::new(), Vec::new());
        for (product, lines) in &self.lines {
            let candidate = |urgent| Candidate { product: Arc::clone(product), urgent };
            for (line, keys) in lines {
                let Some((since, _)) = keys.front() else { continue };
                match line {
                    Line::Urgent => urgent.push((*since, candidate(true))),
                    Line::Rate(rate) => {
                        let worth = self.worth(*rate, *since, now);
                        rest.push((worth, candidate(false)));
                    }
                }
            }
        }
        urgent.sort_by_key(|(since, _)| *since);
        rest.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        let mut seen = HashSet::new();
        rest.retain(|(_, candidate)| seen.insert(Arc::clone(&candidate.product)));
        let urgent = urgent.into_iter().map(|(_, candidate)| candidate);
        let rest = rest.into_iter().map(|(_, candidate)| candidate);
        if rest_first { rest.chain(urgent).collect() } else { urgent.chain(rest).collect() }
    }

    /// What the first of a line is worth now.
    fn worth(&self, rate: i8, since: Instant, now: Instant) -> f64 {
        // A moment counts, so that what has just become stale is ordered by its rate.
        let age = now.saturating_duration_since(since).as_secs_f64() + 1e-6;
        let measure = f64::from(rate).exp2();
        match self.strategy {
            Order::Worth => measure * age,
            Order::FirstRequested => age,
            // Whoever was asked for more often goes before, however long others wait.
            Order::MostRequested => measure * 1e12 + age,
            Order::FirstRequestedGteAvg => {
                let average = self.requests as f64 / self.waiting.len().max(1) as f64;
                if measure * 2.0 > average { 1e12 + age } else { age }
            }
        }
    }

    /// Keys whose time has come.
    fn let_in(&mut self, now: Instant) {
        while let Some((instant, _)) = self.delayed.first()
            && *instant <= now
        {
            // One that was computed meanwhile has been taken off the list.
            if let Some((instant, key)) = self.delayed.pop_first()
                && self.later.get(&key).is_some_and(|stale| stale.not_before == Some(instant))
                && let Some(stale) = self.later.remove(&key)
            {
                self.enter(&key, Some(stale.rate), stale.since, None);
            }
        }
    }

    /// Places at the front that are nobody's own any more are given up.
    fn clean(&mut self) {
        let Self { lines, waiting, running, .. } = self;
        lines.retain(|_, lines| still_own(lines, waiting, running));
    }

    /// The next keys of a product, at most `most`, those first for whom somebody waits if that is why it was chosen;
    /// they run from now on.
    pub fn take(&mut self, candidate: &Candidate, most: usize, now: Instant) -> Claim {
        self.claims += 1;
        let mut taken: Vec<Key> = Vec::new();
        while taken.len() < most.max(1) {
            let Some(line) = self.next_line(candidate, now) else { break };
            let lines = self.lines.get_mut(&candidate.product);
            let next = lines.and_then(|lines| lines.get_mut(&line)).and_then(VecDeque::pop_front);
            if let Some((_, key)) = next {
                self.run(&key);
                taken.push(key);
            }
            let Self { lines, waiting, running, .. } = self;
            if lines
                .get_mut(&candidate.product)
                .is_some_and(|own| !still_own(own, waiting, running))
            {
                lines.remove(&candidate.product);
            }
        }
        Claim { id: self.claims, keys: taken }
    }

    fn next_line(&self, candidate: &Candidate, now: Instant) -> Option<Line> {
        let lines = self.lines.get(&candidate.product)?;
        if candidate.urgent && lines.contains_key(&Line::Urgent) {
            return Some(Line::Urgent);
        }
        let worthiest = lines.iter().filter_map(|(line, keys)| match line {
            Line::Urgent => None,
            Line::Rate(rate) => Some((self.worth(*rate, keys.front()?.0, now), *line)),
        });
        let worthiest = worthiest.max_by(|(one, _), (other, _)| one.total_cmp(other));
        worthiest.map(|(_, line)| line).or_else(|| lines.keys().next().copied())
    }

    fn run(&mut self, key: &Key) {
        if let Some(instant) = self.later.remove(key).and_then(|stale| stale.not_before) {
            self.delayed.remove(&(instant, key.clone()));
        }
        let job = self.waiting.remove(key);
        if job.is_some()
            && let Some(crowd) = self.crowds.get_mut(key.product())
        {
            *crowd -= 1;
            if *crowd == 0 {
                self.crowds.remove(key.product());
            }
        }
        self.requests -= job.as_ref().map_or(0, |job| u64::from(job.requests));
        let waiters = job.map(|job| job.waiters).unwrap_or_default();
        let running = Running { as_of: Position::default(), waiters, claim: self.claims };
        self.running.insert(key.clone(), running);
    }

    /// Those of a claim's keys that still run under it.
    #[must_use]
    pub fn claimed(&self, claim: u64) -> Vec<Key> {
        let own = self.running.iter().filter(|(_, running)| running.claim == claim);
        own.map(|(key, _)| key.clone()).collect()
    }

    /// Whoever computed the key does not any more: who waits for it waits for the next one. Whether anybody does.
    pub fn abandon(&mut self, key: &Key, now: Instant) -> bool {
        let waiters = self.finish(key);
        let any = !waiters.is_empty();
        for waiter in waiters {
            self.enter(key, None, now, Some(waiter));
        }
        any
    }

    /// Those who wait for a key that is being computed.
    pub fn waiters_of(&self, key: &Key) -> impl Iterator<Item = &W> {
        self.running.get(key).into_iter().flat_map(|running| &running.waiters)
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
        self.waiters -= waiters.len();
        if let Some((line, since)) = self.waiting.get(key).map(|job| (job.line, job.since)) {
            self.stand(key, line, since);
        }
        waiters
    }
}

/// Gives up the places at the front that are not their keys' own any more, those that moved up or run by now; whether
/// any line is left.
fn still_own<W>(
    lines: &mut Lines,
    waiting: &HashMap<Key, Job<W>>,
    running: &HashMap<Key, Running<W>>,
) -> bool {
    lines.retain(|line, keys| {
        let own = |key: &Key| {
            waiting.get(key).is_some_and(|job| job.line == *line) && !running.contains_key(key)
        };
        while keys.front().is_some_and(|(_, key)| !own(key)) {
            keys.pop_front();
        }
        !keys.is_empty()
    });
    !lines.is_empty()
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
            let mut queue = Queue::new(100, Order::Worth);
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
                        queue.ask(&key(k), want, id, now).unwrap();
                        asked.insert(id, (key(k), want, clock));
                    }
                    Step::Refresh(k) => queue.refresh(&key(k), stale(now)).unwrap(),
                    Step::Take(most) => {
                        let keys = taken(&mut queue, usize::from(most), now);
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

    fn stale(since: Instant) -> Stale {
        Stale { since, rate: 1.0, not_before: None }
    }

    fn taken<W>(queue: &mut Queue<W>, most: usize, now: Instant) -> Vec<Key> {
        let candidates = queue.candidates(now);
        candidates.first().map(|first| queue.take(first, most, now).keys).unwrap_or_default()
    }

    #[test]
    fn who_waits_goes_before_what_is_only_stale() {
        let (mut queue, now) = (Queue::new(10, Order::Worth), Instant::now());
        queue.refresh(&key(0), stale(now)).unwrap();
        queue.refresh(&key(1), stale(now)).unwrap();
        queue.ask(&key(1), Want::Any, (), now).unwrap();
        assert_eq!(taken(&mut queue, 1, now), [key(1)]);
        assert_eq!(taken(&mut queue, 9, now), [key(0)]);
    }

    #[test]
    fn a_storm_of_misses_does_not_leave_all_else_stale() {
        let (mut queue, now) = (Queue::new(100, Order::Worth), Instant::now());
        queue.refresh(&key(0), stale(now)).unwrap();
        let mut turns = 0;
        loop {
            turns += 1;
            queue.ask(&key(5), Want::New, (), now).unwrap();
            let keys = taken(&mut queue, 1, now);
            keys.iter().for_each(|key| drop(queue.finish(key)));
            if keys == [key(0)] {
                break;
            }
        }
        assert!(turns <= TURNS, "{turns}");
    }

    #[test]
    fn what_is_read_more_or_costs_less_goes_sooner_and_all_go_at_last() {
        let (mut queue, now) = (Queue::<()>::new(100, Order::Worth), Instant::now());
        for (n, rate) in [(4, 1.0), (0, 100.0), (5, 10_000.0)] {
            queue.refresh(&key(n), Stale { since: now, rate, not_before: None }).unwrap();
        }
        assert_eq!(taken(&mut queue, 1, now), [key(5)]);
        assert_eq!(taken(&mut queue, 1, now), [key(0)]);
        // However much there is that is worth more, waiting counts.
        let mut at = now;
        loop {
            at += std::time::Duration::from_secs(1);
            queue.refresh(&key(6), Stale { since: at, rate: 10_000.0, not_before: None }).unwrap();
            at += std::time::Duration::from_millis(100);
            let keys = taken(&mut queue, 1, at);
            keys.iter().for_each(|key| drop(queue.finish(key)));
            if keys == [key(4)] {
                break;
            }
            assert!(at < now + std::time::Duration::from_secs(10_000), "it goes at last");
        }
    }

    #[test]
    fn the_originals_strategies_order_by_requests_or_by_coming() {
        let first = |strategy| {
            let (mut queue, now) = (Queue::<()>::new(100, strategy), Instant::now());
            let later = |n: u64| now + std::time::Duration::from_secs(n);
            queue.refresh(&key(0), stale(now)).unwrap();
            for _ in 0..9 {
                queue.refresh(&key(1), stale(later(2))).unwrap();
            }
            for _ in 0..5 {
                queue.refresh(&key(2), stale(later(1))).unwrap();
            }
            taken(&mut queue, 1, later(3))
        };
        assert_eq!(first(Order::FirstRequested), [key(0)]);
        assert_eq!(first(Order::MostRequested), [key(1)]);
        assert_eq!(first(Order::FirstRequestedGteAvg), [key(2)]);
    }

    #[test]
    fn a_key_with_two_places_in_line_is_taken_once() {
        let (mut queue, now) = (Queue::new(10, Order::Worth), Instant::now());
        queue.refresh(&key(1), stale(now)).unwrap();
        queue.ask(&key(1), Want::Any, (), now).unwrap();
        taken(&mut queue, 9, now);
        queue.refresh(&key(1), stale(now)).unwrap();
        queue.finish(&key(1));
        assert_eq!(taken(&mut queue, 9, now), [key(1)]);
        assert_eq!(taken(&mut queue, 9, now), []);
    }

    #[test]
    fn a_full_queue_says_so() {
        let (mut queue, now) = (Queue::new(1, Order::Worth), Instant::now());
        queue.ask(&key(0), Want::Any, (), now).unwrap();
        assert_eq!(queue.ask(&key(1), Want::Any, (), now), Err(()));
        assert_eq!(queue.refresh(&key(1), stale(now)), Err(Full));
    }

    #[test]
    fn a_delayed_key_waits_for_its_time() {
        let (mut queue, now) = (Queue::<()>::new(9, Order::Worth), Instant::now());
        let later = now + std::time::Duration::from_secs(1);
        queue.refresh(&key(0), Stale { not_before: Some(later), ..stale(now) }).unwrap();
        assert!(taken(&mut queue, 9, now).is_empty());
        assert_eq!(taken(&mut queue, 9, later), [key(0)]);
    }

    #[test]
    fn what_was_computed_meanwhile_is_not_computed_again_when_its_time_comes() {
        let (mut queue, now) = (Queue::new(9, Order::Worth), Instant::now());
        let later = now + std::time::Duration::from_secs(1);
        queue.refresh(&key(0), Stale { not_before: Some(later), ..stale(now) }).unwrap();
        queue.ask(&key(0), Want::Any, (), now).unwrap();
        assert_eq!(taken(&mut queue, 9, now), [key(0)]);
        queue.finish(&key(0));
        assert_eq!(taken(&mut queue, 9, later), []);
    }

    #[test]
    fn a_long_queue_is_taken_in_time_of_its_length() {
        let (mut queue, now) = (Queue::<()>::new(200_000, Order::Worth), Instant::now());
        for n in 0..100_000u32 {
            let key = Key::new("p", [n.to_string().as_str()]);
            queue.refresh(&key, Stale { since: now, rate: n as f32, not_before: None }).unwrap();
        }
        let mut all = 0;
        loop {
            let keys = taken(&mut queue, 200, now);
            if keys.is_empty() {
                break;
            }
            all += keys.len();
        }
        assert_eq!(all, 100_000);
    }
}
