//! Statements that ran → how many keys the next one has, and whether keys go one by one. Pure.
//!
//! What a statement takes is a fixed part and a part for each key, told apart by statements of different sizes; medians
//! of the last few, so that one slow statement changes little. Sizes follow the set time, and at most double.
//!
//! Now and then a product is tried in the other form: some keys one by one where batches run, a small batch where keys
//! go one by one. Trials rest longer each time that they change nothing, and take a twentieth of the time at most.
//!
//! A product whose keys cost a multiple of what they used to, several times in a row, has jumped: its plan may have
//! flipped.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::entry::Fingerprint;

/// Statements of a product that are remembered, in each form.
const KEPT: usize = 9;
/// And of each size, as what is usual.
const KEPT_OF_SIZE: usize = 3;
/// Products that are remembered; past it all are learned anew.
const PRODUCTS_MAX: usize = 10_000;
/// Keys of a product of which nothing is known.
const FIRST_BATCH: usize = 8;
/// Statements of one trial.
const TRIALS: usize = 3;
/// Statements before the first trial, after one, and after many that changed nothing.
const FIRST_REST: u32 = 4;
const REST: u32 = 16;
const REST_MOST: u32 = 1024;
/// A trial is followed by so many times its time without one.
const REST_TIMES: u32 = 20;
/// The other form must cost less than this part of the own one.
const CHEAPER: f64 = 0.8;
/// So many times the usual cost, so often in a row, is a jump; less than the least is noise.
const JUMP_TIMES: f64 = 5.0;
const JUMP_RUN: usize = 4;
const JUMP_LEAST: Duration = Duration::from_millis(10);

/// What statements should be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Keys in one at most.
    pub keys: usize,
    /// How long one should take.
    pub time: Duration,
}

/// A statement that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// How many keys it answered.
    pub keys: usize,
    /// How long it took, the way there and back and the planning with it.
    pub took: Duration,
    /// How long the source was at work.
    pub spent: Duration,
}

/// What the next statement of a product should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Keys at most.
    pub keys: usize,
    /// How long the source will be at work if it has so many.
    pub estimate: Duration,
}

/// How keys of a product go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// Many in one statement.
    #[default]
    Batches,
    /// Each in a statement of its own.
    Singles,
}

/// A key of a product costs a multiple of what it used to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jump {
    /// What the source took for one.
    pub before: Duration,
    /// What it takes.
    pub after: Duration,
}

/// What is known of a product's statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// How its keys go.
    pub form: Form,
    /// Keys in its next statement at most.
    pub keys: usize,
    /// What one key takes of late.
    pub key: Duration,
    /// It costs far more than it did, and has not come down since.
    pub jump: Option<Jump>,
}

/// What statements of every product have taken of late.
#[derive(Debug)]
pub struct Batches {
    bounds: Bounds,
    products: HashMap<String, Learned>,
}

#[derive(Debug, Default)]
struct Learned {
    definition: Fingerprint,
    form: Form,
    batches: Arm,
    singles: Arm,
    trial: Trial,
    jump: Option<Jump>,
    /// Statements in a row that cost about what they did before it jumped.
    calm: usize,
}

/// One form.
#[derive(Debug, Default)]
struct Arm {
    recent: VecDeque<Sample>,
    /// Some of every size, without those of which it is not clear yet whether they are the new usual.
    usual: VecDeque<Sample>,
    suspects: Vec<Sample>,
}

#[derive(Debug)]
struct Trial {
    /// Statements that are still to be tried.
    left: usize,
    took: Duration,
    /// Statements, and time of them, before the next.
    statements: u32,
    time: Duration,
    /// How long it rests after this one, in statements.
    rest: u32,
}

impl Default for Trial {
    fn default() -> Self {
        let time = Duration::ZERO;
        Self { left: 0, took: time, statements: FIRST_REST, time, rest: REST }
    }
}

impl Batches {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, products: HashMap::new() }
    }

    /// What the next statement of this product should be.
    #[must_use]
    pub fn plan(&self, product: &str) -> Plan {
        let Some(learned) = self.products.get(product) else {
            return Plan { keys: self.bounds.keys.min(FIRST_BATCH), estimate: self.bounds.time };
        };
        let keys = learned.keys(self.bounds);
        let estimate = learned.spent(keys).map_or(self.bounds.time, Duration::from_secs_f64);
        Plan { keys, estimate }
    }

    /// A statement of this product, defined so, ran. That its cost has jumped comes back, once.
    pub fn learn(
        &mut self,
        product: &str,
        definition: Fingerprint,
        sample: Sample,
    ) -> Option<Jump> {
        if self.products.get(product).is_none_or(|learned| learned.definition != definition) {
            if self.products.len() >= PRODUCTS_MAX {
                self.products.clear();
            }
            let learned = Learned { definition, ..Learned::default() };
            self.products.insert(product.to_owned(), learned);
        }
        let bounds = self.bounds;
        self.products.get_mut(product)?.learn(sample, bounds)
    }

    /// What is known of a product.
    #[must_use]
    pub fn shown(&self, product: &str) -> Option<Shown> {
        let learned = self.products.get(product)?;
        let keys = learned.keys(self.bounds);
        let arm = if keys == 1 { &learned.singles } else { &learned.batches };
        let key = arm.each(KEPT).or_else(|| learned.batches.each(KEPT))?;
        let key = Duration::from_secs_f64(key);
        Some(Shown { form: learned.form, keys, key, jump: learned.jump })
    }
}

impl Learned {
    fn keys(&self, bounds: Bounds) -> usize {
        match (self.form, self.trial.left > 0) {
            (Form::Batches, false) => self.batches.fitting(bounds).unwrap_or(FIRST_BATCH),
            (Form::Batches, true) | (Form::Singles, false) => 1,
            // Small, and smaller where keys are known to take long: it may be far worse.
            (Form::Singles, true) => {
                let each = self.batches.each(KEPT).or_else(|| self.singles.each(KEPT));
                let fitting =
                    each.map_or(FIRST_BATCH, |each| whole(bounds.time.as_secs_f64() / each));
                fitting.clamp(2, FIRST_BATCH)
            }
        }
        .min(bounds.keys)
        .max(1)
    }

    /// How long the source will be at work for so many keys.
    fn spent(&self, keys: usize) -> Option<f64> {
        let arm = if keys == 1 { &self.singles } else { &self.batches };
        let other = if keys == 1 { &self.batches } else { &self.singles };
        let line = Line::of(&arm.recent, spent).or_else(|| Line::of(&other.recent, spent));
        Some(line?.at(keys))
    }

    fn learn(&mut self, sample: Sample, bounds: Bounds) -> Option<Jump> {
        let form = if sample.keys <= 1 { Form::Singles } else { Form::Batches };
        let own = form == self.form;
        let arm = self.arm(form);
        let jump = arm.judge(sample);
        arm.push(sample);
        self.calm_down(sample);
        self.jump = jump.or(self.jump);
        if own {
            self.rest(sample);
        } else if self.trial.left > 0 {
            self.trial.took += sample.took;
            self.trial.left -= 1;
            if self.trial.left == 0 {
                self.decide(bounds);
            }
        }
        jump
    }

    fn arm(&mut self, form: Form) -> &mut Arm {
        match form {
            Form::Batches => &mut self.batches,
            Form::Singles => &mut self.singles,
        }
    }

    /// A statement of the own form: a trial comes nearer.
    fn rest(&mut self, sample: Sample) {
        let trial = &mut self.trial;
        if trial.left > 0 {
            return;
        }
        trial.statements = trial.statements.saturating_sub(1);
        trial.time = trial.time.saturating_sub(sample.took);
        if trial.statements == 0 && trial.time.is_zero() {
            trial.left = TRIALS;
        }
    }

    /// A trial is over.
    fn decide(&mut self, bounds: Bounds) {
        let batches = self.batches.fitting(bounds).unwrap_or(FIRST_BATCH);
        let (own, other) = match self.form {
            Form::Batches => (self.batches.each(KEPT), self.singles.each(TRIALS)),
            Form::Singles => (self.singles.each(KEPT), self.batches.each(TRIALS)),
        };
        // A batch of two saves little, and whoever waits for one of them waits for both.
        let enough = if self.form == Form::Batches && batches <= 2 { 1.1 } else { CHEAPER };
        let changes = own.zip(other).is_some_and(|(own, other)| other < own * enough);
        let rest = if changes { REST } else { self.trial.rest };
        self.trial = Trial {
            statements: rest,
            time: self.trial.took.saturating_mul(REST_TIMES),
            rest: rest.saturating_mul(2).min(REST_MOST),
            ..Trial::default()
        };
        if changes {
            self.form = match self.form {
                Form::Batches => Form::Singles,
                Form::Singles => Form::Batches,
            };
        }
    }

    /// A jump is shown until keys cost about what they did again.
    fn calm_down(&mut self, sample: Sample) {
        let Some(jump) = self.jump else { return };
        let calm = spent(&sample) < jump.before.as_secs_f64() * 2.0 * count(sample.keys);
        self.calm = if calm { self.calm + 1 } else { 0 };
        if self.calm >= JUMP_RUN {
            (self.jump, self.calm) = (None, 0);
        }
    }
}

impl Arm {
    fn push(&mut self, sample: Sample) {
        if self.recent.len() >= KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(sample);
    }

    /// How many keys take about the set time.
    fn fitting(&self, bounds: Bounds) -> Option<usize> {
        let line = Line::of(&self.recent, took)?;
        let last = self.recent.back()?;
        let time = bounds.time.as_secs_f64();
        // A fixed part that takes the time by itself is shared by as many keys as take as long as it does.
        let room = (time - line.fixed).max(line.fixed);
        let fitting = whole(room / line.each.max(1e-9));
        let most = if took(last) > 2.0 * time && line.fixed < time {
            last.keys / 2
        } else {
            last.keys.saturating_mul(2)
        };
        Some(fitting.min(most).clamp(2, bounds.keys.max(2)))
    }

    /// What one key took in the last statements.
    fn each(&self, of: usize) -> Option<f64> {
        let last = self.recent.iter().rev().take(of);
        median(last.map(|sample| took(sample) / count(sample.keys)).collect())
    }

    /// Whether this statement is the last of enough that cost far more than is usual for their size.
    fn judge(&mut self, sample: Sample) -> Option<Jump> {
        let usual = Line::of(&self.usual, spent).filter(|_| self.usual.len() >= JUMP_RUN);
        let expected = |keys| usual.map_or(f64::MAX, |usual| usual.at(keys));
        if sample.spent < JUMP_LEAST || spent(&sample) < expected(sample.keys) * JUMP_TIMES {
            self.suspects.clear();
            self.is_usual(sample);
            return None;
        }
        self.suspects.push(sample);
        if self.suspects.len() < JUMP_RUN {
            return None;
        }
        let each = |of: fn(&Sample, f64) -> f64| {
            let suspects = self.suspects.iter();
            median(suspects.map(|one| of(one, expected(one.keys)) / count(one.keys)).collect())
        };
        let (before, after) = (each(|_, expected| expected)?, each(|one, _| spent(one))?);
        self.usual = self.suspects.drain(..).collect();
        let [before, after] = [before, after].map(Duration::from_secs_f64);
        Some(Jump { before, after })
    }

    /// A few of every size are kept, so that the fixed part is known whatever runs now.
    fn is_usual(&mut self, sample: Sample) {
        let size = |keys: usize| keys.checked_ilog2();
        let same = |one: &Sample| size(one.keys) == size(sample.keys);
        if self.usual.iter().filter(|one| same(one)).count() >= KEPT_OF_SIZE
            && let Some(oldest) = self.usual.iter().position(same)
        {
            self.usual.remove(oldest);
        }
        self.usual.push_back(sample);
    }
}

/// What so many keys take, in seconds: a fixed part, and one for each.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Line {
    fixed: f64,
    each: f64,
}

impl Line {
    /// The median of the slopes between statements of different sizes (Theil, Sen); without such, all counts for the
    /// keys.
    fn of(samples: &VecDeque<Sample>, time: fn(&Sample) -> f64) -> Option<Self> {
        let whole = median(samples.iter().map(|one| time(one) / count(one.keys)).collect())?;
        let mut slopes = Vec::new();
        for (at, one) in samples.iter().enumerate() {
            for other in samples.iter().skip(at + 1) {
                let (less, more) = if one.keys < other.keys { (one, other) } else { (other, one) };
                if more.keys * 2 >= less.keys * 3 {
                    slopes.push((time(more) - time(less)) / count(more.keys - less.keys));
                }
            }
        }
        let each = median(slopes).map_or(whole, |each| each.clamp(whole / 100.0, whole));
        let fixed = samples.iter().map(|one| time(one) - each * count(one.keys)).collect();
        Some(Self { fixed: median(fixed)?.max(0.0), each })
    }

    fn at(self, keys: usize) -> f64 {
        self.fixed + self.each * count(keys)
    }
}

fn took(sample: &Sample) -> f64 {
    sample.took.as_secs_f64()
}

fn spent(sample: &Sample) -> f64 {
    sample.spent.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred keys")]
fn count(keys: usize) -> f64 {
    keys.max(1) as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it saturates, and is clamped"
)]
fn whole(keys: f64) -> usize {
    keys as usize
}

fn median(mut of: Vec<f64>) -> Option<f64> {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { keys: 200, time: Duration::from_millis(50) };

    /// What a product's statements take in microseconds: those of batches, and those of one key.
    #[derive(Debug, Clone, Copy)]
    struct Cost {
        fixed: u64,
        each: u64,
        single: u64,
    }

    impl Cost {
        fn of(self, keys: usize) -> Duration {
            let keys = keys as u64;
            let us = if keys == 1 { self.single } else { self.fixed + self.each * keys };
            Duration::from_micros(us)
        }
    }

    /// Runs so many statements with always enough keys there; all of them come back, and the jumps.
    fn play(batches: &mut Batches, cost: Cost, statements: usize) -> (Vec<Sample>, Vec<Jump>) {
        let (mut ran, mut jumps) = (Vec::new(), Vec::new());
        for _ in 0..statements {
            let keys = batches.plan("p").keys;
            let took = cost.of(keys);
            let sample = Sample { keys, took, spent: took };
            ran.push(sample);
            jumps.extend(batches.learn("p", Fingerprint::default(), sample));
        }
        (ran, jumps)
    }

    fn form(batches: &Batches) -> Form {
        batches.shown("p").unwrap().form
    }

    #[test]
    fn a_fixed_part_is_told_from_that_of_each_key() {
        let cost = Cost { fixed: 3_000, each: 200, single: 4_000 };
        let samples: VecDeque<Sample> = [8, 16, 32, 64]
            .map(|keys| Sample { keys, took: cost.of(keys), spent: Duration::ZERO })
            .into();
        let line = Line::of(&samples, took).unwrap();
        assert!((line.fixed - 0.003).abs() < 1e-6 && (line.each - 0.0002).abs() < 1e-7, "{line:?}");
    }

    #[test]
    fn sizes_grow_and_shrink_towards_the_time() {
        let mut batches = Batches::new(BOUNDS);
        let (ran, _) = play(&mut batches, Cost { fixed: 2_000, each: 400, single: 2_500 }, 40);
        let sizes: Vec<usize> = ran.iter().map(|one| one.keys).filter(|keys| *keys > 1).collect();
        assert!(sizes.windows(2).all(|two| two[1] <= two[0] * 2), "{sizes:?}");
        let settled = batches.plan("p");
        assert!((110..=120).contains(&settled.keys), "{settled:?}");
        assert!((45..=51).contains(&settled.estimate.as_millis()), "{settled:?}");
        let (ran, _) = play(&mut batches, Cost { fixed: 2_000, each: 4_000, single: 6_500 }, 40);
        assert!((10..=14).contains(&batches.plan("p").keys), "{:?}", batches.plan("p"));
        // What was too long is halved at once, not after it has been so for long.
        assert!(ran[1].keys <= ran[0].keys / 2 + 1, "{ran:?}");
        play(&mut batches, Cost { fixed: 100, each: 10, single: 120 }, 40);
        assert_eq!(batches.plan("p").keys, 200);
    }

    #[test]
    fn one_slow_statement_changes_little() {
        let mut batches = Batches::new(BOUNDS);
        let cost = Cost { fixed: 1_000, each: 500, single: 1_600 };
        play(&mut batches, cost, 40);
        let before = batches.plan("p");
        let slow = Sample {
            keys: before.keys,
            took: Duration::from_secs(9),
            spent: Duration::from_secs(9),
        };
        assert_eq!(batches.learn("p", Fingerprint::default(), slow), None);
        assert!(batches.plan("p").keys >= before.keys / 2);
        assert!(batches.plan("p").estimate <= before.estimate * 2);
        play(&mut batches, cost, 2);
        assert!(batches.plan("p").keys >= before.keys * 9 / 10);
    }

    #[test]
    fn a_fixed_part_above_the_time_is_shared() {
        let mut batches = Batches::new(BOUNDS);
        play(&mut batches, Cost { fixed: 400_000, each: 1_000, single: 401_000 }, 60);
        assert_eq!((form(&batches), batches.plan("p").keys), (Form::Batches, 200));
    }

    #[test]
    fn keys_go_one_by_one_where_that_costs_less_and_back() {
        let mut batches = Batches::new(BOUNDS);
        // A batch of which each key reads the whole table, and a single that reads its rows.
        let lose = Cost { fixed: 200, each: 4_000, single: 300 };
        play(&mut batches, lose, 40);
        assert_eq!(form(&batches), Form::Singles);
        assert!(batches.plan("p").estimate < Duration::from_millis(1));
        let win = Cost { fixed: 200, each: 20, single: 300 };
        play(&mut batches, win, 3_000);
        assert_eq!((form(&batches), batches.plan("p").keys), (Form::Batches, 200));
        play(&mut batches, lose, 3_000);
        assert_eq!(form(&batches), Form::Singles);
    }

    #[test]
    fn keys_that_take_the_whole_time_go_one_by_one() {
        let mut batches = Batches::new(BOUNDS);
        play(&mut batches, Cost { fixed: 1_000, each: 2_000_000, single: 2_001_000 }, 60);
        assert_eq!((form(&batches), batches.plan("p").keys), (Form::Singles, 1));
    }

    #[test]
    fn a_jump_is_said_once_and_shown_until_it_is_over() {
        let mut batches = Batches::new(BOUNDS);
        let usual = Cost { fixed: 500, each: 200, single: 700 };
        let (_, jumps) = play(&mut batches, usual, 60);
        assert_eq!(jumps, []);
        let slow = Cost { fixed: 500, each: 6_000, single: 6_500 };
        let (_, jumps) = play(&mut batches, slow, 60);
        assert_eq!(jumps.len(), 1, "{jumps:?}");
        let Jump { before, after } = jumps[0];
        assert!(
            before < Duration::from_micros(300) && after > Duration::from_millis(5),
            "{jumps:?}"
        );
        assert_eq!(batches.shown("p").unwrap().jump, Some(jumps[0]));
        let (_, jumps) = play(&mut batches, usual, 60);
        assert_eq!((jumps.len(), batches.shown("p").unwrap().jump), (0, None));
    }

    #[test]
    fn another_definition_is_learned_anew() {
        let mut batches = Batches::new(BOUNDS);
        play(&mut batches, Cost { fixed: 500, each: 200, single: 700 }, 60);
        let took = Duration::from_secs(3);
        let sample = Sample { keys: 8, took, spent: took };
        for _ in 0..JUMP_RUN * 2 {
            assert_eq!(batches.learn("p", Fingerprint([1; 16]), sample), None);
        }
    }

    proptest! {
        #[test]
        fn the_cheaper_form_is_found_at_little_cost(
            fixed in 0u64..5_000, each in 1u64..20_000, single in 50u64..20_000,
        ) {
            let mut batches = Batches::new(BOUNDS);
            let cost = Cost { fixed, each, single };
            let (ran, jumps) = play(&mut batches, cost, 4_000);
            prop_assert!(jumps.is_empty());
            let shown = batches.shown("p").unwrap();
            let size = |keys: usize| cost.of(keys).as_secs_f64() / count(keys);
            let best = (2..=BOUNDS.keys).filter(|keys| cost.of(*keys) <= BOUNDS.time).map(size);
            let batch = best.fold(size(2), f64::min);
            if size(1) < batch * 0.7 {
                prop_assert_eq!(shown.form, Form::Singles);
            }
            if batch < size(1) * 0.3 {
                prop_assert_eq!(shown.form, Form::Batches);
            }
            // What went the other way after the beginning.
            let other = |one: &&Sample| (one.keys == 1) != (shown.form == Form::Singles);
            let all: Duration = ran.iter().skip(100).map(|one| one.took).sum();
            let tried: Duration = ran.iter().skip(100).filter(other).map(|one| one.took).sum();
            prop_assert!(tried <= all / 10, "{:?} of {:?}", tried, all);
        }
    }
}
