//! Generated queries and histories → whether any changed answer is missed: the analysis, the matching, the lookups and
//! F against brute force (DESIGN section 5).
//!
//! A case is a query of a small model of SQL. Its rule tree goes through the real analysis, its changes through the
//! real matcher, and its lookups are evaluated on states that lag. What it must find is what an evaluator of the model
//! finds by trying every row.

mod evaluate;
mod generate;
mod history;
mod query;
mod tree;

use std::sync::Arc;

use proptest::{collection::vec, prelude::*, strategy::ValueTree, test_runner::TestRunner};

use super::{
    Index, Matcher, analyse,
    pending::{Group, Pending},
    settle::Settle,
};
use crate::{
    change::{Lsn, Snapshot, SourceTime, Transaction, Xid},
    description::Description,
    key::Key,
    product::fixture,
};
use evaluate::Asked;
use generate::Case;
use history::History;
use query::{Choices, Row};

const PRODUCT: &str = "p";

/// What parameters are given: what rows hold too.
const VALUES: i64 = 3;

/// Positions from one commit to the next.
const STRIDE: usize = 10;

/// A case with its index, a history, and every answer in each state.
struct World {
    case: Case,
    history: History,
    index: Arc<Index>,
    keys: Vec<Key>,
    /// By state and key.
    answers: Vec<Vec<Vec<Row>>>,
}

impl World {
    fn new(case: Case, choices: &mut Choices<'_>, commits: usize) -> Self {
        let description = tree::description(&case);
        let product = fixture::product(PRODUCT, case.parameters.len(), "");
        let rules = analyse(&product, &description);
        let index = Arc::new(Index::of_rules(std::iter::once((product, rules))));
        let history = history::history(choices, &tables(&description), commits);
        let values = all_values(case.parameters.len());
        let answer = |state, parameters: &Vec<i64>| {
            Asked { state, views: &case.views, parameters }.answer(&case.query)
        };
        let answers = history
            .states
            .iter()
            .map(|state| values.iter().map(|parameters| answer(state, parameters)).collect());
        let answers = answers.collect();
        let texts = |parameters: &Vec<i64>| -> Vec<String> {
            parameters.iter().map(i64::to_string).collect()
        };
        let key = |parameters| Key::new(PRODUCT, texts(parameters).iter().map(String::as_str));
        Self { keys: values.iter().map(key).collect(), case, history, index, answers }
    }

    /// How often an answer changed, and how often a key was touched; or what was missed with lookups that see what
    /// their commit left.
    fn missed_at_once(&self) -> Result<(usize, usize), String> {
        let mut pipeline = Pipeline::new(self);
        let (mut changed, mut touched) = (0, 0);
        for commit in 0..self.history.commits.len() {
            pipeline.receive(commit);
            let group = pipeline.release(commit + 1, commit + 1);
            for (at, key) in self.keys.iter().enumerate() {
                let differs = self.answers[commit][at] != self.answers[commit + 1][at];
                let found = mark(&group, key).is_some();
                changed += usize::from(differs);
                touched += usize::from(found);
                if differs && !found {
                    return Err(self.told(&format!("commit {} leaves {key} unmarked", commit + 1)));
                }
            }
        }
        Ok((changed, touched))
    }

    /// The first claim that is wrong, with lookups that see later states and `steps` of the closure.
    fn false_claim(&self, choices: &mut Choices<'_>, steps: usize) -> Option<String> {
        let mut pipeline = Pipeline::new(self);
        let mut settle = Settle::new(Lsn(0), 0);
        let mut entries: Vec<Entry> = Vec::new();
        let last = self.history.commits.len();
        let (mut now, mut handled) = (0, 0);
        while handled < last {
            let committed = (now + choices.below(last - now + 1)).max(handled + 1);
            (now..committed).for_each(|commit| pipeline.receive(commit));
            now = committed;
            // R4: an entry counts as of V, and its statement begins later.
            for seen in handled..=now {
                let entry = |key| Entry { key, seen, as_of: handled, marked: false };
                entries.extend((0..self.keys.len()).map(entry));
            }
            let released = handled + 1 + choices.below(now - handled);
            let committed = now + choices.below(last - now + 1);
            (now..committed).for_each(|commit| pipeline.receive(commit));
            now = committed;
            let group = pipeline.release(released, now);
            for entry in &mut entries {
                let mark = mark(&group, &self.keys[entry.key]);
                entry.marked |= mark.is_some_and(|mark| mark > position(entry.as_of));
            }
            settle.looked_up(position(handled), position(now), steps);
            settle.reach(position(released));
            handled = released;
            let settled = usize::try_from(settle.settled().0).unwrap() / STRIDE;
            let wrong = entries.iter().find(|entry| {
                let answer = |state: usize| &self.answers[state][entry.key];
                !entry.marked && entry.seen < settled && answer(entry.seen) != answer(settled)
            });
            if let Some(entry) = wrong {
                let Entry { key, seen, .. } = entry;
                let key = &self.keys[*key];
                return Some(self.told(&format!("{key} of state {seen} counts as of {settled}")));
            }
        }
        None
    }

    fn told(&self, what: &str) -> String {
        let rules = self.index.rules(PRODUCT);
        let commits: Vec<_> = self.history.commits.iter().map(|commit| &commit.done).collect();
        format!(
            "{what}\n{:#?}\n{:?}\nbefore: {:?}\n{commits:#?}\n{rules:#?}",
            self.case.query, self.case.views, self.history.states[0],
        )
    }
}

/// An answer that was computed.
struct Entry {
    key: usize,
    /// The state it was computed on.
    seen: usize,
    as_of: usize,
    marked: bool,
}

/// The real parts, in the order of R1 and R2.
struct Pipeline<'w> {
    world: &'w World,
    matcher: Matcher,
    pending: Pending,
}

impl<'w> Pipeline<'w> {
    fn new(world: &'w World) -> Self {
        let matcher = Matcher::new(Arc::clone(&world.index));
        Self { world, matcher, pending: Pending::new(Lsn(0), &[], 10_000) }
    }

    fn receive(&mut self, commit: usize) {
        for change in &self.world.history.commits[commit].changes {
            self.pending.change(&mut self.matcher, change);
        }
        let xid = Xid(u32::try_from(commit).unwrap() + 1);
        let end = position(commit + 1);
        self.pending.commit(&Transaction { xid, end, time: SourceTime(0) });
    }

    /// Releases so many commits, with lookups on the state after `now` of them.
    fn release(&mut self, commits: usize, now: usize) -> Group {
        let next = u64::try_from(commits).unwrap() + 1;
        let sees = Snapshot { xmin: next, xmax: next, in_progress: Vec::new() };
        let mut group = self.pending.release(&sees);
        for asked in group.asked.clone().into_values() {
            let rows = history::looked_up(&asked, &self.world.history.states[now]);
            group.found(asked.found(&rows).unwrap());
        }
        group
    }
}

fn position(state: usize) -> Lsn {
    Lsn(u64::try_from(state * STRIDE).unwrap())
}

/// The newest commit of a group that touches a key.
fn mark(group: &Group, key: &Key) -> Option<Lsn> {
    let values = key.values();
    let patterns = group.patterns.iter().filter(|(pattern, _)| pattern.agrees(&values));
    let patterns = patterns.map(|(_, end)| *end);
    let product = group.products.get(PRODUCT).copied();
    patterns.chain(group.keys.get(key).copied()).chain(product).max()
}

fn tables(description: &Description) -> Vec<usize> {
    let all = (0..query::TABLES.len())
        .filter(|table| description.tables.iter().any(|known| known.id == tree::table_id(*table)));
    all.collect()
}

fn all_values(parameters: usize) -> Vec<Vec<i64>> {
    let more = |known: Vec<Vec<i64>>, _| {
        let longer = |known: &Vec<i64>| {
            let known = known.clone();
            (0..VALUES).map(move |value| [known.as_slice(), &[value]].concat())
        };
        known.iter().flat_map(longer).collect()
    };
    (0..parameters).fold(vec![Vec::new()], more)
}

fn drawn(most: usize) -> impl Strategy<Value = Vec<u16>> {
    vec(any::<u16>(), 0..most)
}

/// R2: a commit that changes an answer touches its key, by lookups on what the commit left.
fn nothing_is_missed_at_once(query: &[u16], history: &[u16]) -> Result<(), String> {
    let case = generate::case(&mut Choices::new(query));
    let world = World::new(case, &mut Choices::new(history), 5);
    world.missed_at_once().map(|_| ())
}

/// R7: an unmarked answer is right as of F, with lookups on any later state.
fn no_claim_is_false(query: &[u16], history: &[u16], times: &[u16]) -> Result<(), String> {
    let case = generate::case(&mut Choices::new(query));
    let world = World::new(case, &mut Choices::new(history), 6);
    let steps = world.index.steps();
    world.false_claim(&mut Choices::new(times), steps).map_or(Ok(()), Err)
}

proptest! {
    #[test]
    fn every_changed_answer_is_touched(query in drawn(100), history in drawn(100)) {
        nothing_is_missed_at_once(&query, &history).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn an_unmarked_answer_is_right_as_of_f(query in drawn(100), history in drawn(100), times in drawn(20)) {
        no_claim_is_false(&query, &history, &times).map_err(TestCaseError::fail)?;
    }
}

/// Histories until a claim is false; as many are looked at as told.
fn first_false_claim(steps: Option<usize>, histories: usize) -> Option<usize> {
    let mut runner = TestRunner::deterministic();
    let numbers = (vec(any::<u16>(), 100), vec(any::<u16>(), 200), vec(any::<u16>(), 30));
    (0..histories).find(|_| {
        let (query, history, times) = numbers.new_tree(&mut runner).unwrap().current();
        let case = generate::case(&mut Choices::new(&query));
        let world = World::new(case, &mut Choices::new(&history), 6);
        let steps = steps.unwrap_or_else(|| world.index.steps());
        world.false_claim(&mut Choices::new(&times), steps).is_some()
    })
}

#[test]
fn without_the_closure_claims_are_false() {
    let found = first_false_claim(Some(0), 2_000).unwrap();
    assert_eq!(first_false_claim(None, found + 1), None, "the closure mends it");
}
