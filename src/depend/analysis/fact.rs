//! What conditions say of columns and parameters: facts, and the classes of what they make equal.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::unionfind::UnionFind;

use crate::{depend::rule::Is, pattern::Order};

/// What a fact speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Term {
    /// The parameter with this index.
    Parameter(usize),
    /// A column of a range table entry, in one visit to a query.
    Column { tuple: Tuple, column: i16 },
    /// A strict, immutable expression of columns of one table, by its number.
    Expression { tuple: Tuple, number: u32 },
}

/// A row of a range table entry, in one visit to a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tuple {
    /// The visit.
    pub(super) scope: u32,
    /// The entry, counted from 1.
    pub(super) table: usize,
}

/// Something that holds in every row that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fact {
    /// They are equal, and so not null.
    Equal(Term, Term),
    /// The first is at most the second, and neither is null.
    AtMost(Order, Term, Term),
    /// It passes a test that NULL fails.
    Passes(Term, Is),
    /// It is null.
    Null(Term),
    /// At least one of these tests of values of one row passes.
    Either(Vec<(Term, Is)>),
}

/// What holds together.
pub(super) type Facts = Vec<Fact>;

impl Term {
    /// The row that it is a value of.
    pub(super) fn tuple(self) -> Option<Tuple> {
        match self {
            Term::Parameter(_) => None,
            Term::Column { tuple, .. } | Term::Expression { tuple, .. } => Some(tuple),
        }
    }
}

impl Fact {
    /// The tests that it makes with constants, of which one passes.
    pub(super) fn tests(self) -> Option<Vec<(Term, Is)>> {
        match self {
            Fact::Passes(term, is) => Some(vec![(term, is)]),
            Fact::Null(term) => Some(vec![(term, Is::Null)]),
            Fact::Either(tests) => Some(tests),
            Fact::Equal(..) | Fact::AtMost(..) => None,
        }
    }

    /// That one of these passes; `None` where that says nothing of a single row.
    pub(super) fn either(tests: Vec<(Term, Is)>) -> Option<Self> {
        let tuple = tests.first()?.0.tuple()?;
        let mut merged: Vec<(Term, Is)> = Vec::new();
        for (term, is) in tests {
            if term.tuple() != Some(tuple) {
                return None;
            }
            let lists = |(of, known): &&mut (Term, Is)| {
                *of == term && matches!((known, &is), (Is::OneOf(_), Is::OneOf(_)))
            };
            match (merged.iter_mut().find(lists), &is) {
                (Some((_, Is::OneOf(known))), Is::OneOf(texts)) => {
                    known.extend(texts.iter().cloned());
                }
                _ => merged.push((term, is)),
            }
        }
        merged.dedup();
        match merged.as_slice() {
            [(term, Is::Null)] => Some(Fact::Null(*term)),
            [(term, is)] => Some(Fact::Passes(*term, is.clone())),
            _ => Some(Fact::Either(merged)),
        }
    }

    /// What it says is not null.
    pub(super) fn given(&self) -> impl Iterator<Item = Term> {
        let terms = match self {
            Fact::Equal(a, b) | Fact::AtMost(_, a, b) => [Some(*a), Some(*b)],
            Fact::Passes(term, _) => [Some(*term), None],
            Fact::Null(_) | Fact::Either(_) => [None, None],
        };
        terms.into_iter().flatten()
    }
}

/// The facts without what is said to be null of these rows.
pub(super) fn without_nulls(facts: &Facts, of: impl Fn(Tuple) -> bool) -> Facts {
    let kept = |fact: &&Fact| match fact {
        Fact::Null(term) => !term.tuple().is_some_and(&of),
        Fact::Either(tests) => {
            !tests.iter().any(|(term, is)| *is == Is::Null && term.tuple().is_some_and(&of))
        }
        _ => true,
    };
    facts.iter().filter(kept).cloned().collect()
}

/// Terms that facts make equal, as classes.
#[derive(Debug)]
pub(super) struct Classes {
    of: BTreeMap<Term, usize>,
    members: BTreeMap<usize, Vec<Term>>,
}

impl Classes {
    pub(super) fn new(facts: &[Fact]) -> Self {
        let given = facts.iter().flat_map(Fact::given);
        let nulls = facts.iter().filter_map(|fact| match fact {
            Fact::Null(term) => Some(*term),
            _ => None,
        });
        let terms: BTreeSet<Term> = given.chain(nulls).collect();
        let numbers: BTreeMap<Term, usize> = terms.into_iter().zip(0..).collect();
        let mut union = UnionFind::new(numbers.len());
        for fact in facts {
            if let Fact::Equal(a, b) = fact
                && let (Some(a), Some(b)) = (numbers.get(a), numbers.get(b))
            {
                union.union(*a, *b);
            }
        }
        let of: BTreeMap<Term, usize> =
            numbers.into_iter().map(|(term, number)| (term, union.find(number))).collect();
        let mut members: BTreeMap<usize, Vec<Term>> = BTreeMap::new();
        for (term, class) in &of {
            members.entry(*class).or_default().push(*term);
        }
        Self { of, members }
    }

    fn class_of(&self, term: Term) -> Option<usize> {
        self.of.get(&term).copied()
    }

    /// Every class: terms that are all equal.
    pub(super) fn all(&self) -> impl Iterator<Item = &[Term]> {
        self.members.values().map(Vec::as_slice)
    }

    /// What is equal to a term, itself included where any fact speaks of it.
    pub(super) fn equals(&self, term: Term) -> &[Term] {
        let members = self.class_of(term).and_then(|class| self.members.get(&class));
        members.map_or(&[], Vec::as_slice)
    }
}
