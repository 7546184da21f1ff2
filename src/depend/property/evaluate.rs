//! A query on tables → its answer, by trying every combination of rows.

use std::collections::{BTreeMap, BTreeSet};

use super::query::{
    Combine, Condition, Expression, Item, Join, Leaf, Operator, Query, Row, Shape, Value,
};

/// The rows of each table.
pub(super) type State = Vec<Vec<Row>>;

/// What a query is asked on.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) state: &'a State,
    pub(super) views: &'a [Query],
    pub(super) parameters: &'a [i64],
}

/// One row of each leaf.
type Together = Vec<Row>;

/// The rows that a query is looking at, and those of the queries around.
#[derive(Clone, Copy)]
struct Frame<'f> {
    query: &'f Query,
    rows: &'f Together,
    outer: Option<&'f Frame<'f>>,
}

impl<'f> Frame<'f> {
    fn out(&self, levels: usize) -> &Frame<'f> {
        (0..levels).fold(self, |frame, _| frame.outer.unwrap())
    }
}

impl Asked<'_> {
    /// The answer as a sorted multiset.
    pub(super) fn answer(&self, query: &Query) -> Vec<Row> {
        let mut rows = self.query(query, None);
        rows.sort_by_key(order);
        rows
    }

    fn query(&self, query: &Query, outer: Option<&Frame<'_>>) -> Vec<Row> {
        let mut rows = match &query.shape {
            Shape::Combined { how, all, branches } => {
                let frame = Frame { query, rows: &Vec::new(), outer };
                let [one, other] = &**branches;
                let (one, other) = (self.query(one, Some(&frame)), self.query(other, Some(&frame)));
                combine(*how, *all, one, other)
            }
            _ => self.select(query, outer),
        };
        if let Some(limit) = query.limit {
            rows.sort_by_key(order);
            rows.truncate(limit);
        }
        rows
    }

    fn select(&self, query: &Query, outer: Option<&Frame<'_>>) -> Vec<Row> {
        let mut all: Vec<Together> = vec![vec![Row::new(); query.leaves.len()]];
        for item in &query.from {
            all = all
                .into_iter()
                .flat_map(|rows| self.item(item, &Frame { query, rows: &rows, outer }))
                .collect();
        }
        all.retain(|rows| self.all_hold(&query.filter, &Frame { query, rows, outer }));
        let frames: Vec<Frame<'_>> = all.iter().map(|rows| Frame { query, rows, outer }).collect();
        let target = |frame: &Frame<'_>, group: &[Frame<'_>]| -> Row {
            query.targets.iter().map(|target| self.value(target, frame, group)).collect()
        };
        match &query.shape {
            Shape::Grouped { keys, having } => {
                let nothing = vec![vec![None; 9]; query.leaves.len()];
                let nothing = Frame { query, rows: &nothing, outer };
                let mut groups: BTreeMap<Vec<Value>, Vec<Frame<'_>>> = BTreeMap::new();
                if *keys == 0 {
                    groups.insert(Vec::new(), Vec::new());
                }
                for frame in &frames {
                    let key = query.targets.iter().take(*keys);
                    let key = key.map(|target| self.value(target, frame, &[])).collect();
                    groups.entry(key).or_default().push(*frame);
                }
                let kept = groups.values().filter(|group| {
                    let first = group.first().unwrap_or(&nothing);
                    having.iter().all(|one| self.holds(one, first, group) == Some(true))
                });
                kept.map(|group| target(group.first().unwrap_or(&nothing), group)).collect()
            }
            Shape::Distinct => {
                let rows: BTreeSet<Row> = frames.iter().map(|frame| target(frame, &[])).collect();
                rows.into_iter().collect()
            }
            Shape::DistinctOn(keys) => {
                let mut rows: Vec<Row> = frames.iter().map(|frame| target(frame, &[])).collect();
                rows.sort_by_key(order);
                let mut seen: BTreeSet<Row> = BTreeSet::new();
                rows.retain(|row| seen.insert(row[..*keys].to_vec()));
                rows
            }
            _ => frames.iter().map(|frame| target(frame, &frames)).collect(),
        }
    }

    /// The rows of something in FROM, each beside those that came before.
    fn item(&self, item: &Item, frame: &Frame<'_>) -> Vec<Together> {
        match item {
            Item::Leaf(at) => {
                let rows = self.leaf(&frame.query.leaves[*at], frame);
                rows.into_iter().map(|row| with(frame.rows, *at, row)).collect()
            }
            Item::Join { kind, left, right, on } => self.join(*kind, [left, right], on, frame),
        }
    }

    fn join(
        &self,
        kind: Join,
        [left, right]: [&Item; 2],
        on: &[Condition],
        frame: &Frame<'_>,
    ) -> Vec<Together> {
        let (mut joined, mut matched) = (Vec::new(), BTreeSet::new());
        let leaves = leaves_of(right);
        for before in self.item(left, frame) {
            let inside = Frame { rows: &before, ..*frame };
            let mut found = false;
            for (at, rows) in self.item(right, &inside).into_iter().enumerate() {
                if self.all_hold(on, &Frame { rows: &rows, ..*frame }) {
                    found = true;
                    matched.insert(at);
                    joined.push(rows);
                }
            }
            if !found && matches!(kind, Join::Left | Join::Full) {
                joined.push(nulls(before, &leaves, frame.query));
            }
        }
        if matches!(kind, Join::Right | Join::Full) {
            let leaves = leaves_of(left);
            let all = self.item(right, frame).into_iter().enumerate();
            let alone = all.filter(|(at, _)| !matched.contains(at));
            joined.extend(alone.map(|(_, rows)| nulls(rows, &leaves, frame.query)));
        }
        joined
    }

    fn leaf(&self, leaf: &Leaf, frame: &Frame<'_>) -> Vec<Row> {
        match leaf {
            Leaf::Table(table) => self.state[*table].clone(),
            Leaf::Derived { query, .. } => self.query(query, Some(frame)),
            Leaf::View { number, .. } => self.query(&self.views[*number], None),
            Leaf::With { levels, number, .. } => {
                let around = frame.out(*levels);
                self.query(&around.query.with[*number], Some(around))
            }
        }
    }

    fn all_hold(&self, conditions: &[Condition], frame: &Frame<'_>) -> bool {
        conditions.iter().all(|condition| self.holds(condition, frame, &[]) == Some(true))
    }

    fn holds(&self, condition: &Condition, frame: &Frame<'_>, group: &[Frame<'_>]) -> Option<bool> {
        let value = |expression| self.value(expression, frame, group);
        match condition {
            Condition::Compare(operator, one, other) => {
                compare(*operator, value(one), value(other))
            }
            Condition::Null(tested, wanted) => Some(value(tested).is_none() == *wanted),
            Condition::OneOf { tested, values, negated } => {
                Some(values.contains(&value(tested)?) != *negated)
            }
            Condition::And(all) => {
                all.iter().map(|one| self.holds(one, frame, group)).fold(Some(true), and)
            }
            Condition::Or(any) => any
                .iter()
                .map(|one| self.holds(one, frame, group).map(|holds| !holds))
                .fold(Some(true), and)
                .map(|none| !none),
            Condition::Not(denied) => self.holds(denied, frame, group).map(|holds| !holds),
            Condition::Exists(query) => Some(!self.query(query, Some(frame)).is_empty()),
            Condition::In(looked_up, query) => {
                let looked_up = value(looked_up);
                let rows = self.query(query, Some(frame));
                let equal = rows.iter().map(|row| compare(Operator::Unequal, looked_up, row[0]));
                equal.fold(Some(true), and).map(|none| !none)
            }
        }
    }

    fn value(&self, expression: &Expression, frame: &Frame<'_>, group: &[Frame<'_>]) -> Value {
        match expression {
            Expression::Column { levels, leaf, column, .. } => {
                frame.out(*levels).rows[*leaf][*column]
            }
            Expression::Parameter(parameter, _) => Some(self.parameters[*parameter]),
            Expression::Constant(value) => Some(*value),
            Expression::Plus(inner, more) => Some(self.value(inner, frame, &[])? + more),
            Expression::Coalesce(inner, value) => {
                Some(self.value(inner, frame, &[]).unwrap_or(*value))
            }
            Expression::Scalar(query, _) => {
                let rows = self.query(query, Some(frame));
                assert!(rows.len() <= 1, "{query:?}");
                rows.first().and_then(|row| row[0])
            }
            Expression::Count => Some(i64::try_from(group.len()).unwrap()),
            Expression::Max(inner) => {
                group.iter().filter_map(|frame| self.value(inner, frame, &[])).max()
            }
            Expression::Rank { apart, by } => {
                let targets = &frame.query.targets;
                let of =
                    |frame: &Frame<'_>, target: &usize| self.value(&targets[*target], frame, &[]);
                let same = |other: &&Frame<'_>| {
                    apart.iter().all(|target| of(frame, target) == of(other, target))
                };
                let own = order(&vec![of(frame, by)]);
                let before = group.iter().filter(same);
                let before = before.filter(|other| order(&vec![of(other, by)]) < own).count();
                Some(i64::try_from(before + 1).unwrap())
            }
        }
    }
}

fn and(one: Option<bool>, other: Option<bool>) -> Option<bool> {
    match (one, other) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

fn compare(operator: Operator, one: Value, other: Value) -> Option<bool> {
    let (one, other) = (one?, other?);
    Some(match operator {
        Operator::Equal => one == other,
        Operator::Unequal => one != other,
        Operator::AtMost => one <= other,
        Operator::AtLeast => one >= other,
    })
}

/// NULLs come last.
fn order(row: &Row) -> Vec<(bool, Value)> {
    row.iter().map(|value| (value.is_none(), *value)).collect()
}

fn combine(how: Combine, all: bool, one: Vec<Row>, mut other: Vec<Row>) -> Vec<Row> {
    let mut rows = match how {
        Combine::Union => [one, other].concat(),
        Combine::Except | Combine::Intersect => {
            let mut found = |row: &Row| match other.iter().position(|known| known == row) {
                Some(at) if all => {
                    other.swap_remove(at);
                    true
                }
                found => found.is_some(),
            };
            let wanted = how == Combine::Intersect;
            one.into_iter().filter(|row| found(row) == wanted).collect()
        }
    };
    if !all {
        rows.sort();
        rows.dedup();
    }
    rows
}

fn with(rows: &Together, at: usize, row: Row) -> Together {
    let mut rows = rows.clone();
    rows[at] = row;
    rows
}

fn nulls(mut rows: Together, leaves: &[usize], query: &Query) -> Together {
    for leaf in leaves {
        rows[*leaf] = vec![None; query.leaves[*leaf].types().len()];
    }
    rows
}

fn leaves_of(item: &Item) -> Vec<usize> {
    match item {
        Item::Leaf(leaf) => vec![*leaf],
        Item::Join { left, right, .. } => [leaves_of(left), leaves_of(right)].concat(),
    }
}
