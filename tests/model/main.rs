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

use histories::{KEYS, run, shrink};
use mutation::Mutation;
use world::World;

fn show(history: &histories::History, mutation: Option<Mutation>, start: &World) {
    let short = shrink(history, mutation, start);
    eprintln!("seed {}: {:?}", short.seed, short.violation);
    for action in &short.actions {
        eprintln!("  {action:?}");
    }
}

#[test]
fn no_history_breaks_a_promise() {
    let histories: u64 = std::env::var("KCK_MODEL__HISTORIES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(300);
    let start = World::new(&KEYS, None);
    assert_eq!(start.violation, None);
    for seed in 0..histories {
        let history = run(seed, None, &start);
        if history.violation.is_some() {
            show(&history, None, &start);
            panic!("seed {seed}");
        }
    }
}

#[test]
fn every_mutation_is_noticed() {
    let mut unnoticed = Vec::new();
    for mutation in mutation::ALL {
        let start = World::new(&KEYS, None);
        let found = (0..1000).map(|seed| run(seed, Some(mutation), &start)).find(|history| history.violation.is_some());
        match found {
            Some(history) => eprintln!("{mutation:?}: seed {}: {:?}", history.seed, history.violation),
            None => unnoticed.push(mutation),
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
}
