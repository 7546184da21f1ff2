//! Every order of a few things: a search through all states that a short alphabet reaches.

use std::{
    collections::{HashSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use super::{
    pipeline::Stage,
    world::{Action, World},
};

/// What may happen in one search.
pub(crate) struct Alphabet {
    /// In this order.
    pub(crate) commits: Vec<Action>,
    /// Each at any time.
    pub(crate) others: Vec<Action>,
    /// At most so many of the actions that harm.
    pub(crate) harm: Vec<Action>,
    pub(crate) harms: usize,
    /// At most so many barriers.
    pub(crate) barriers: usize,
}

/// What a search found.
pub(crate) struct Searched {
    pub(crate) states: usize,
    pub(crate) broken: Option<(Vec<Action>, String)>,
}

/// Visits every state that is reached by any order of the alphabet's actions, each once; nothing is left out.
pub(crate) fn search(start: &World, alphabet: &Alphabet) -> Searched {
    let mut seen = HashSet::new();
    let mut open = vec![(start.clone(), [0; 3], Vec::new())];
    while let Some((world, used, path)) = open.pop() {
        if !seen.insert((state(&world), used)) {
            continue;
        }
        let [commits, harms, barriers] = used;
        let idle =
            world.process.as_ref().is_some_and(|process| matches!(process.stage, Stage::Idle));
        let next = alphabet.commits.get(commits).map(|action| (*action, [1, 0, 0]));
        let harm = alphabet.harm.iter().filter(|_| harms < alphabet.harms);
        let others = alphabet.others.iter().filter_map(|action| match action {
            Action::Advance if idle => {
                (barriers < alphabet.barriers).then_some((*action, [0, 0, 1]))
            }
            other => Some((*other, [0; 3])),
        });
        for (action, uses) in
            next.into_iter().chain(others).chain(harm.map(|harm| (*harm, [0, 1, 0])))
        {
            let mut then = world.clone();
            if !then.act(action) {
                continue;
            }
            let path = [path.as_slice(), &[action]].concat();
            if let Some(what) = then.violation {
                return Searched { states: seen.len(), broken: Some((path, what)) };
            }
            let used = std::array::from_fn(|at| used[at] + uses[at]);
            open.push((then, used, path));
        }
    }
    Searched { states: seen.len(), broken: None }
}

/// A state, without what only counts or remembers for checks.
fn state(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.source.hash(&mut hasher);
    let mut text = format!("{:?}", world.store);
    if let Some(process) = &world.process {
        let stage = match &process.stage {
            Stage::Barrier(barrier) => format!("{:?}", barrier.insert),
            stage => format!("{stage:?}"),
        };
        text.push_str(&format!(
            "{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{stage}",
            process.ledger,
            process.queue,
            process.pending,
            process.positions,
            process.settle,
            process.progress,
            process.jobs,
            process.stream,
        ));
        text.push_str(&format!("{:?}{:?}{:?}", process.doubts, process.leaving, process.joiners));
    }
    canonical(&text).hash(&mut hasher);
    hasher.finish()
}

/// The same text for the same value: what stands in braces is sorted, since hash maps print in any order.
fn canonical(text: &str) -> String {
    let mut levels: Vec<(char, Vec<String>)> = vec![(' ', vec![String::new()])];
    for letter in text.chars() {
        match letter {
            '{' | '[' | '(' => levels.push((letter, vec![String::new()])),
            '}' | ']' | ')' => {
                let Some((kind, mut parts)) = levels.pop() else { continue };
                if kind == '{' {
                    parts.sort_unstable();
                }
                let joined = format!("{kind}{}{letter}", parts.join(","));
                if let Some(part) = levels.last_mut().and_then(|(_, parts)| parts.last_mut()) {
                    part.push_str(&joined);
                }
            }
            ',' => levels.last_mut().into_iter().for_each(|(_, parts)| parts.push(String::new())),
            letter => levels
                .last_mut()
                .and_then(|(_, parts)| parts.last_mut())
                .into_iter()
                .for_each(|part| part.push(letter)),
        }
    }
    levels.into_iter().flat_map(|(_, parts)| parts).collect()
}
