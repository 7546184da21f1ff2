//! The freshness protocol (DESIGN section 5) as a checked model: the real pure parts, edges played step by step.

#![expect(clippy::unwrap_used, reason = "a panic here is a failed test")]
#![expect(clippy::indexing_slicing, reason = "a panic here is a failed test")]
#![expect(clippy::print_stderr, reason = "a failing history is printed")]

mod cells;
mod check;
mod compute;
mod histories;
mod mutation;
mod pipeline;
mod process;
mod shop;
mod source;
mod world;

use histories::{FOCUSES, Focus, History, run, shrink};
use world::World;

/// Histories that the tests run, unless `KCK_MODEL__HISTORIES` says another number.
const HISTORIES: u64 = 900;
/// Within so many histories each mutation is noticed.
const HISTORIES_OF_A_MUTATION: u64 = 1500;

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
