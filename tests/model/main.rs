//! The freshness protocol (DESIGN section 5) as a checked model: the real pure parts, edges played step by step.

#![expect(clippy::unwrap_used, reason = "a panic here is a failed test")]
#![expect(clippy::indexing_slicing, reason = "a panic here is a failed test")]

mod cells;
mod check;
mod compute;
mod exhaustive;
mod histories;
mod mutation;
mod pipeline;
mod process;
mod shop;
mod source;
mod world;

use mutation::Mutation;

use exhaustive::{Alphabet, search};
use histories::{FOCUSES, Focus, History, run, shrink};
use source::Waits;
use world::{Action, World};

/// Histories that the tests run, unless `KCK_MODEL__HISTORIES` says another number.
const HISTORIES: u64 = 900;
/// Within so many histories each mutation is noticed.
const HISTORIES_OF_A_MUTATION: u64 = 4000;

#[expect(clippy::disallowed_methods, reason = "a test has no settings to read it from")]
fn histories() -> u64 {
    let text = std::env::var("KCK_MODEL__HISTORIES").ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(HISTORIES)
}

/// A failing history as a person reads it: the shortest that still fails.
fn told(history: &History, focus: &Focus, start: &World) -> String {
    let short = shrink(history, start);
    let actions: Vec<String> =
        short.actions.iter().map(|action| format!("\n  {action:?}")).collect();
    let what = short.violation.unwrap_or_default();
    format!("seed {} about {}: {what}{}", short.seed, focus.name, actions.concat())
}

#[test]
fn no_history_breaks_a_promise() {
    let starts = FOCUSES.map(|focus| (World::new(focus.keys, None), focus));
    for seed in 0..histories() {
        let (start, focus) = &starts[usize::try_from(seed).unwrap() % starts.len()];
        let history = run(seed, focus, start);
        assert!(history.violation.is_none(), "{}", told(&history, focus, start));
    }
}

#[test]
fn every_mutation_is_noticed() {
    let mut unnoticed = Vec::new();
    for (mutation, focus) in mutation::ALL {
        let start = World::new(focus.keys, Some(mutation));
        let mut all = (0..HISTORIES_OF_A_MUTATION).map(|seed| run(seed, &focus, &start));
        match all.find(|history| history.violation.is_some()) {
            Some(History { seed, violation, .. }) => {
                eprintln!("{mutation:?}: seed {seed}: {}", violation.unwrap_or_default());
            }
            None => unnoticed.push(mutation),
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
}

/// Row 2 of `a` comes and leads by row 0 of `b` to parameter 0.
const ROW_COMES: Action = Action::Commit(8, None, Waits::Nothing);
/// Row 0 of `b` leads to parameter 1 from now on.
const PATH_MOVES: Action = Action::Commit(1 + 12 + 36, None, Waits::Nothing);

/// Two commits on one chain of rows, and everything that a running kck does with them, in every order.
#[test]
fn no_order_of_two_commits_breaks_a_promise() {
    let start = World::new(&["chain/0"], None);
    let alphabet = Alphabet {
        commits: vec![ROW_COMES, PATH_MOVES],
        others: vec![
            Action::Publish(0),
            Action::Publish(1),
            Action::Flush,
            Action::Receive,
            Action::Advance,
            Action::Land(0),
        ],
        harm: vec![],
        harms: 0,
        barriers: 2,
    };
    let searched = search(&start, &alphabet);
    eprintln!("{} states", searched.states);
    assert!(searched.broken.is_none(), "{:?}", searched.broken);
}

/// A lookup saw a commit that a crash of the source took, so that it found another key than it must find: firmness is
/// asked of lookups as it is of entries (R10).
#[test]
fn a_lookup_that_saw_what_is_lost_misses_no_key() {
    assert_eq!(a_lookup_sees_what_is_lost(None), None);
    let missed = a_lookup_sees_what_is_lost(Some(Mutation::LookupsFirm));
    assert!(missed.is_some_and(|violation| violation.contains("is told as fresh")));
}

/// The violation, if there is one.
fn a_lookup_sees_what_is_lost(mutation: Option<Mutation>) -> Option<String> {
    let start = World::new(&["chain/0", "chain/1"], mutation);
    let mut actions = vec![ROW_COMES, Action::Publish(0), Action::Flush, Action::Receive];
    let until_looking = |actions: &[Action]| {
        let mut world = start.clone();
        for action in actions {
            world.act(*action);
        }
        let stage = world.process.map(|process| process.stage);
        matches!(stage, Some(pipeline::Stage::Released(_, group)) if !group.asked.is_empty())
    };
    while !until_looking(&actions) {
        actions.push(Action::Advance);
        assert!(actions.len() < 40, "a lookup is asked for");
    }
    actions.extend([PATH_MOVES, Action::Publish(0), Action::Advance, Action::Advance]);
    actions.extend([Action::Advance, Action::Land(0), Action::Land(0), Action::Advance]);
    let mut world = start.clone();
    for action in actions {
        world.act(action);
    }
    world.act(Action::CrashSource);
    world.check_quiet();
    world.violation
}
