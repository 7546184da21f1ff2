//! A small model of SQL queries, and the choices that everything random here is made of.

/// Types are oids of `pg_type`.
pub(super) const INTEGER: u32 = 23;
pub(super) const BIGINT: u32 = 20;

/// The columns' types of each table.
pub(super) const TABLES: [&[u32]; 4] = [
    &[INTEGER, INTEGER, INTEGER],
    &[INTEGER, BIGINT, INTEGER, INTEGER],
    &[INTEGER, INTEGER],
    &[INTEGER, BIGINT],
];

/// Tables whose first column is their primary key.
pub(super) const KEYED: [bool; 4] = [true, true, false, true];

/// A value; `None` is NULL.
pub(super) type Value = Option<i64>;
pub(super) type Row = Vec<Value>;

#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) with: Vec<Query>,
    pub(super) leaves: Vec<Leaf>,
    pub(super) from: Vec<Item>,
    pub(super) filter: Vec<Condition>,
    pub(super) targets: Vec<Expression>,
    pub(super) shape: Shape,
    /// Under an order by all targets.
    pub(super) limit: Option<usize>,
}

/// What FROM names, by its place among a query's leaves.
#[derive(Debug, Clone)]
pub(super) enum Leaf {
    Table(usize),
    Derived { query: Box<Query>, lateral: bool },
    View { number: usize, types: Vec<u32> },
    With { levels: usize, number: usize, types: Vec<u32> },
}

#[derive(Debug, Clone)]
pub(super) enum Item {
    Leaf(usize),
    Join { kind: Join, left: Box<Item>, right: Box<Item>, on: Vec<Condition> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Join {
    Inner,
    Left,
    Full,
    Right,
}

#[derive(Debug, Clone)]
pub(super) enum Expression {
    Column {
        levels: usize,
        leaf: usize,
        column: usize,
        type_oid: u32,
    },
    Parameter(usize, u32),
    Constant(i64),
    /// Strict, of integers.
    Plus(Box<Expression>, i64),
    /// Not strict.
    Coalesce(Box<Expression>, i64),
    /// A query that gives at most one row.
    Scalar(Box<Query>, u32),
    Count,
    Max(Box<Expression>),
    /// Within the rows that agree on these targets, by the last.
    Rank {
        apart: Vec<usize>,
        by: usize,
    },
}

#[derive(Debug, Clone)]
pub(super) enum Condition {
    Compare(Operator, Expression, Expression),
    Null(Expression, bool),
    OneOf { tested: Expression, values: Vec<i64>, negated: bool },
    And(Vec<Condition>),
    Or(Vec<Condition>),
    Not(Box<Condition>),
    Exists(Box<Query>),
    In(Expression, Box<Query>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    Unequal,
    AtMost,
    AtLeast,
}

#[derive(Debug, Clone)]
pub(super) enum Shape {
    Plain,
    Distinct,
    /// On so many of the first targets.
    DistinctOn(usize),
    /// By so many of the first targets.
    Grouped {
        keys: usize,
        having: Vec<Condition>,
    },
    Windowed,
    Combined {
        how: Combine,
        all: bool,
        branches: Box<[Query; 2]>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Combine {
    Union,
    Except,
    Intersect,
}

impl Query {
    pub(super) fn types(&self) -> Vec<u32> {
        if let Shape::Combined { branches, .. } = &self.shape {
            let [one, other] = &**branches;
            return one.types().into_iter().zip(other.types()).map(|(a, b)| a.min(b)).collect();
        }
        self.targets.iter().map(Expression::type_oid).collect()
    }
}

impl Leaf {
    pub(super) fn types(&self) -> Vec<u32> {
        match self {
            Leaf::Table(table) => TABLES[*table].to_vec(),
            Leaf::Derived { query, .. } => query.types(),
            Leaf::View { types, .. } | Leaf::With { types, .. } => types.clone(),
        }
    }
}

impl Expression {
    pub(super) fn type_oid(&self) -> u32 {
        match self {
            Expression::Column { type_oid, .. }
            | Expression::Parameter(_, type_oid)
            | Expression::Scalar(_, type_oid) => *type_oid,
            Expression::Constant(_) => INTEGER,
            Expression::Plus(inner, _)
            | Expression::Coalesce(inner, _)
            | Expression::Max(inner) => inner.type_oid(),
            Expression::Count | Expression::Rank { .. } => BIGINT,
        }
    }
}

/// Random numbers that were drawn before: those that are missing are 0, which stands for the simplest choice, so
/// that a shorter list of smaller numbers is a simpler case.
#[derive(Debug, Clone)]
pub(super) struct Choices<'c> {
    drawn: &'c [u16],
}

impl<'c> Choices<'c> {
    pub(super) fn new(drawn: &'c [u16]) -> Self {
        Self { drawn }
    }

    /// One of the numbers below `count`.
    pub(super) fn below(&mut self, count: usize) -> usize {
        let Some((first, rest)) = self.drawn.split_first() else { return 0 };
        self.drawn = rest;
        usize::from(*first) * count / (1 << 16)
    }

    /// The place of one of these weights.
    pub(super) fn weighed(&mut self, weights: &[usize]) -> usize {
        let mut drawn = self.below(weights.iter().sum());
        for (at, weight) in weights.iter().enumerate() {
            match drawn.checked_sub(*weight) {
                Some(rest) => drawn = rest,
                None => return at,
            }
        }
        0
    }

    /// True so many times in a hundred; never once the numbers have ended.
    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) >= 100 - percent
    }
}
