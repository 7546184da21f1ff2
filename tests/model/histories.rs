//! Random histories, each with its own mix of what happens, and how a failing one is made short.

use super::{
    source::Waits,
    world::{Action, World},
};

/// What a history is about: which keys, which tables change, and what happens more often than in an even mix.
#[derive(Debug)]
pub(crate) struct Focus {
    pub(crate) name: &'static str,
    pub(crate) keys: &'static [&'static str],
    /// The tables that change, each as often as it is named.
    tables: &'static [u32],
    /// In percent of the even mix.
    often: &'static [(&'static str, u64)],
}

const EVERY_KEY: &[&str] =
    &["chain/0", "chain/1", "plain/0", "whole/1", "partial/0/1", "shifting/1"];
const CHAIN: &[&str] = &["chain/0", "chain/1", "chain/2"];
const EVERY_TABLE: &[u32] = &[0, 0, 1, 1, 2, 2, 3, 3];
const CHAINED: &[u32] = &[0, 1, 1, 2, 2];
const PLAIN: &[u32] = &[3];
/// Nothing is harmed.
const CALM: (&str, u64) = ("harm", 0);

pub(crate) const EVERYTHING: Focus =
    Focus { name: "everything", keys: EVERY_KEY, tables: EVERY_TABLE, often: &[] };
pub(crate) const LOOKUPS: Focus = Focus {
    name: "lookups",
    keys: CHAIN,
    tables: CHAINED,
    often: &[
        CALM,
        ("crash source", 0),
        ("disconnect", 0),
        ("crash", 0),
        ("commit in turn", 8000),
        ("commit", 0),
        ("open", 0),
        ("edit", 0),
        ("untrack", 0),
        ("ask", 20),
        ("record", 10),
    ],
};
pub(crate) const RESTARTS: Focus = Focus {
    name: "restarts",
    keys: EVERY_KEY,
    tables: EVERY_TABLE,
    often: &[("crash", 400), ("record", 300), ("ask", 60), ("crash source", 0), ("land", 150)],
};
pub(crate) const LATE_WRITES: Focus = Focus {
    name: "late writes",
    keys: &["plain/0", "partial/1/0"],
    tables: PLAIN,
    often: &[CALM, ("crash", 600), ("record", 500), ("ask", 60), ("untrack", 0), ("edit", 0)],
};
pub(crate) const RESTARTED_LOOKUPS: Focus = Focus {
    name: "restarted lookups",
    keys: CHAIN,
    tables: CHAINED,
    often: &[("crash", 400), ("record", 300), ("commit", 200), ("ask", 60), ("crash source", 0)],
};
pub(crate) const LEAVING: Focus = Focus {
    name: "leaving",
    keys: &["plain/0", "partial/1/0"],
    tables: PLAIN,
    often: &[CALM, ("untrack", 300), ("crash", 300), ("record", 500), ("ask", 30), ("edit", 0)],
};
pub(crate) const JOINING: Focus = Focus {
    name: "joining",
    keys: &["shifting/0", "shifting/1"],
    tables: PLAIN,
    often: &[
        CALM,
        ("crash source", 0),
        ("crash", 20),
        ("untrack", 0),
        ("edit", 1500),
        ("join", 300),
        ("publish", 25),
        ("commit", 50),
        ("ask", 200),
        ("take", 200),
    ],
};
pub(crate) const EDITS: Focus = Focus {
    name: "edits",
    keys: &["shifting/0", "shifting/1"],
    tables: PLAIN,
    often: &[
        CALM,
        ("crash source", 0),
        ("disconnect", 0),
        ("crash", 0),
        ("untrack", 0),
        ("mark early", 0),
        ("edit", 300),
        ("join", 600),
        ("commit", 0),
        ("commit in turn", 1500),
        ("idle", 300),
        ("ask", 600),
        ("take", 300),
    ],
};
pub(crate) const READ_LOOKUPS: Focus = Focus {
    name: "lookups beside reads",
    keys: CHAIN,
    tables: CHAINED,
    often: &[
        CALM,
        ("crash source", 0),
        ("crash", 0),
        ("commit in turn", 8000),
        ("commit", 0),
        ("edit", 0),
        ("untrack", 0),
        ("publish", 60),
        ("ask", 200),
        ("take", 200),
    ],
};
pub(crate) const SOURCE_CRASHES: Focus = Focus {
    name: "source crashes",
    keys: &["plain/0", "chain/0", "chain/1"],
    tables: EVERY_TABLE,
    often: &[("crash source", 800), ("flush", 50), ("open", 200), ("crash", 200), ("record", 200)],
};
pub(crate) const LOST_LOOKUPS: Focus = Focus {
    name: "lost lookups",
    keys: &["chain/0", "chain/1"],
    tables: CHAINED,
    often: &[
        ("crash source", 1200),
        ("flush", 60),
        ("open", 300),
        ("crash", 0),
        ("edit", 0),
        ("untrack", 0),
        ("ask", 40),
    ],
};
pub(crate) const EARLY: Focus = Focus {
    name: "early",
    keys: &["plain/0", "chain/0"],
    tables: EVERY_TABLE,
    often: &[("mark early", 500), ("publish", 40), ("record", 300), ("crash", 400)],
};
pub(crate) const FOCUSES: [Focus; 12] = [
    LOST_LOOKUPS,
    EVERYTHING,
    LOOKUPS,
    RESTARTS,
    LATE_WRITES,
    RESTARTED_LOOKUPS,
    LEAVING,
    JOINING,
    EDITS,
    READ_LOOKUPS,
    SOURCE_CRASHES,
    EARLY,
];

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

/// A kind of action: its name, how often it happens in an even mix, and one of it.
type Kind = (&'static str, u64, fn(&mut Random) -> Action);

const KINDS: [Kind; 32] = [
    ("commit", 80, commit),
    // Nobody waits for kck: many go through in a short history.
    ("commit in turn", 1, |random| match commit(random) {
        Action::Commit(first, _, _) => Action::Commit(first, None, Waits::Nothing),
        other => other,
    }),
    ("publish", 90, |random| Action::Publish(random.byte())),
    ("flush", 60, |_| Action::Flush),
    ("write", 10, |_| Action::Write),
    ("open", 20, |_| Action::Open),
    ("crash source", 3, |_| Action::CrashSource),
    ("harm", 1, |_| Action::LoseSlot),
    ("harm", 1, |random| Action::Restore(random.byte())),
    ("land", 250, |random| Action::Land(random.byte())),
    ("open stream", 200, |_| Action::OpenStream),
    ("disconnect", 4, |_| Action::Disconnect),
    ("receive change", 20, |_| Action::ReceiveChange),
    ("receive", 100, |_| Action::Receive),
    ("idle", 30, |_| Action::Idle),
    ("acknowledge", 40, |_| Action::Acknowledge),
    ("advance", 500, |_| Action::Advance),
    ("mark early", 15, |_| Action::MarkEarly),
    ("record", 100, |_| Action::Record),
    ("join", 60, |_| Action::Join),
    ("edit", 5, |_| Action::Edit),
    ("ask", 25, |random| Action::Ask(random.byte(), random.byte() % 3)),
    ("take", 80, |_| Action::Take),
    ("snapshot", 120, |random| Action::Snapshot(random.byte() % 4)),
    ("arrive", 200, |random| Action::Arrive(random.byte() % 4)),
    ("arrive unrecorded", 5, |random| Action::ArriveUnrecorded(random.byte() % 4)),
    ("finish", 150, |random| Action::Finish(random.byte() % 4)),
    ("untrack", 8, |random| Action::Untrack(random.byte())),
    ("forget", 40, |_| Action::Forget),
    ("crash", 5, |_| Action::Crash),
    ("boot", 300, |_| Action::Boot),
    ("go on", 200, |_| Action::GoOn),
];

fn commit(random: &mut Random) -> Action {
    let waits = [Waits::Nothing, Waits::Flush, Waits::Flush, Waits::Kck];
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
pub(crate) fn run(seed: u64, focus: &Focus, start: &World) -> History {
    let mut random = Random::new(seed);
    let mut world = start.clone();
    // Some things happen often in this history and some hardly ever.
    let mut weight = |(name, even, _): &Kind| {
        let often = focus.often.iter().filter(|(kind, _)| kind == name);
        let often = often.fold(100, |percent, (_, often)| percent * often / 100);
        even * often * [2, 5, 10, 10, 30][usize::from(random.byte() % 5)]
    };
    let weights: Vec<u64> = KINDS.iter().map(&mut weight).collect();
    let sum: u64 = weights.iter().sum();
    let length = [60, 150, 150, 400][usize::from(random.byte() % 4)];
    let mut actions = Vec::new();
    while actions.len() < length && world.violation.is_none() {
        let mut at = random.below(sum);
        let kind = weights.iter().position(|weight| {
            let found = at < *weight;
            at = at.saturating_sub(*weight);
            found
        });
        let Some((_, _, make)) = kind.and_then(|kind| KINDS.get(kind)) else { continue };
        let action = make(&mut random).within(focus.tables);
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
pub(crate) fn replay(actions: &[Action], start: &World) -> Option<String> {
    let mut world = start.clone();
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
pub(crate) fn shrink(history: &History, start: &World) -> History {
    let mut actions = history.actions.clone();
    let mut violation = history.violation.clone();
    let mut size = actions.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < actions.len() {
            let mut fewer = actions.clone();
            fewer.drain(at..(at + size).min(fewer.len()));
            match replay(&fewer, start) {
                Some(what) => (actions, violation) = (fewer, Some(what)),
                None => at += size,
            }
        }
        size /= 2;
    }
    History { seed: history.seed, actions, violation }
}
