//! Random histories, each with its own mix of what happens, and how a failing one is made short.

use super::{
    mutation::Mutation,
    source::Waits,
    world::{Action, World},
};

/// Keys of random histories: two of the chain, one of each other product.
pub(crate) const KEYS: [&str; 6] =
    ["chain/0", "chain/1", "plain/0", "whole/1", "partial/0/1", "shifting/1"];

/// SplitMix64: small, and the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }
}

/// What can happen, and how often it does in an even mix.
const KINDS: [(fn(&mut Random) -> Action, u64); 31] = [
    (commit, 80),
    (|random| Action::Publish(random.byte()), 90),
    (|_| Action::Flush, 60),
    (|_| Action::Write, 10),
    (|_| Action::Open, 20),
    (|_| Action::CrashSource, 3),
    (|_| Action::LoseSlot, 1),
    (|random| Action::Restore(random.byte()), 1),
    (|random| Action::Land(random.byte()), 250),
    (|_| Action::OpenStream, 60),
    (|_| Action::Disconnect, 4),
    (|_| Action::ReceiveChange, 20),
    (|_| Action::Receive, 100),
    (|_| Action::Idle, 30),
    (|_| Action::Acknowledge, 40),
    (|_| Action::Advance, 350),
    (|_| Action::MarkEarly, 15),
    (|_| Action::Record, 60),
    (|_| Action::Join, 60),
    (|_| Action::Edit, 5),
    (|random| Action::Ask(random.byte(), random.byte() % 3), 60),
    (|_| Action::Take, 80),
    (|random| Action::Snapshot(random.byte() % 4), 120),
    (|random| Action::Arrive(random.byte() % 4), 200),
    (|random| Action::ArriveUnrecorded(random.byte() % 4), 5),
    (|random| Action::Finish(random.byte() % 4), 150),
    (|random| Action::Untrack(random.byte()), 8),
    (|_| Action::Forget, 40),
    (|_| Action::Crash, 5),
    (|_| Action::Boot, 60),
    (|_| Action::GoOn, 30),
];

fn commit(random: &mut Random) -> Action {
    let waits = [Waits::ForNothing, Waits::ForFlush, Waits::ForFlush, Waits::ForKck];
    let waits = waits[usize::from(random.byte() % 4)];
    let second = (random.byte() < 100).then(|| random.word());
    Action::Commit(random.word(), second, waits)
}

/// One history: what happened, and what it broke.
#[derive(Debug, Clone)]
pub(crate) struct History {
    pub(crate) seed: u64,
    pub(crate) actions: Vec<Action>,
    pub(crate) violation: Option<String>,
}

/// Runs the history of a seed.
pub(crate) fn run(seed: u64, mutation: Option<Mutation>, start: &World) -> History {
    let mut random = Random::new(seed);
    let mut world = start.clone();
    world.mutation = mutation;
    // Some things happen often in this history and some hardly ever.
    let weights: Vec<u64> = KINDS
        .iter()
        .map(|(_, weight)| weight * [2, 5, 10, 10, 30][usize::from(random.byte() % 5)])
        .collect();
    let sum: u64 = weights.iter().sum();
    let length = [60, 150, 400][usize::from(random.byte() % 3)];
    let mut actions = Vec::new();
    while actions.len() < length && world.violation.is_none() {
        let mut at = random.below(sum);
        let kind = weights.iter().position(|weight| {
            let found = at < *weight;
            at = at.saturating_sub(*weight);
            found
        });
        let Some((make, _)) = kind.and_then(|kind| KINDS.get(kind)) else { continue };
        let action = make(&mut random);
        if world.act(action) {
            actions.push(action);
        }
    }
    if world.violation.is_none() {
        world.check_quiet();
    }
    History { seed, actions, violation: world.violation }
}

/// What these actions break.
pub(crate) fn replay(actions: &[Action], mutation: Option<Mutation>, start: &World) -> Option<String> {
    let mut world = start.clone();
    world.mutation = mutation;
    for action in actions {
        world.act(*action);
        if world.violation.is_some() {
            return world.violation;
        }
    }
    world.check_quiet();
    world.violation
}

/// Leaves actions out as long as something is still broken.
pub(crate) fn shrink(history: &History, mutation: Option<Mutation>, start: &World) -> History {
    let mut actions = history.actions.clone();
    let mut violation = history.violation.clone();
    let mut size = actions.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < actions.len() {
            let mut fewer = actions.clone();
            fewer.drain(at..(at + size).min(fewer.len()));
            match replay(&fewer, mutation, start) {
                Some(what) => (actions, violation) = (fewer, Some(what)),
                None => at += size,
            }
        }
        size /= 2;
    }
    History { seed: history.seed, actions, violation }
}
