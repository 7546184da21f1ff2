//! The index and one table as the stream announces it → what a change of that table must do, with columns by place.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    affected::bit,
    graph::Index,
    lookup::Lookups,
    rule::{AnyOf, Binding, Column, Is, Reach, Rule, Test},
};
use crate::change::{self, Old, Relation, Row};

/// Every UPDATE, whatever it changes.
const ALWAYS: u128 = u128::MAX;

/// Where a column stands in the stream's rows and whether it belongs to the replica identity; `None` where the table
/// has no such column any more.
pub(super) type Place = Option<(usize, bool)>;

/// What binds a parameter: columns that are all equal to it.
pub(super) type Bound = Binding<Vec<Place>>;

/// What is known of a row as it was.
#[derive(Debug, Clone, Copy)]
pub(super) enum OldRow<'a> {
    Whole(&'a Row),
    /// Of the identity's columns only; these are never NULL.
    Identity(&'a Row),
    /// The identity did not change.
    Unsent,
}

/// What a change of one table must do, each column list once however many products share it.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    relation: Arc<Relation>,
    /// The columns that old rows tell, where they tell less than they look like.
    told: Option<BTreeSet<String>>,
    pub(super) keys: Vec<Keys>,
    pub(super) others: Vec<(Reader, Way)>,
}

/// Products whose key is the values of these columns.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    pub(super) columns: Vec<Vec<Place>>,
    pub(super) readers: Vec<Reader>,
}

/// A product that reads the table.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    pub(super) product: Arc<str>,
    /// The columns it reads, as bits.
    pub(super) reads: u128,
    /// Of each list one must hold: place, whether it belongs to the replica identity, and what must hold of it.
    pub(super) only: Vec<Vec<(usize, bool, Is)>>,
}

/// How a changed row leads to keys, where it is not one key.
#[derive(Debug, Clone)]
pub(super) enum Way {
    Whole,
    Pattern(Vec<Bound>),
    Lookup(LookupWay),
}

/// What is asked of other tables.
#[derive(Debug, Clone)]
pub(super) struct LookupWay {
    pub(super) lookups: Arc<Lookups>,
    /// Which of them.
    pub(super) at: usize,
    /// What it needs of a row.
    pub(super) columns: Vec<Vec<Place>>,
}

impl Plan {
    pub(super) fn new(index: &Index, relation: &Arc<Relation>) -> Self {
        let told = index.edges(relation.table).filter_map(|edge| edge.told.cloned());
        let told = told.reduce(|one, other| one.intersection(&other).cloned().collect());
        let relation = Arc::clone(relation);
        let mut plan = Self { relation, told, keys: Vec::new(), others: Vec::new() };
        for edge in index.edges(plan.relation.table) {
            let product: Arc<str> = Arc::clone(edge.product);
            let reads = edge.columns.map_or(ALWAYS, |columns| {
                // One that the stream does not have, as generated ones, may change with any other.
                let bits = columns.iter().map(|name| plan.place(name).map_or(ALWAYS, bit));
                bits.fold(0, |all, bit| all | bit)
            });
            for rule in edge.rules {
                let only = plan.tests(&rule.only);
                let reader = Reader { product: Arc::clone(&product), reads, only };
                plan.add(rule, reader, edge.lookups);
            }
        }
        plan
    }

    pub(super) fn is_of(&self, relation: &Arc<Relation>) -> bool {
        Arc::ptr_eq(&self.relation, relation)
    }

    /// What an old row tells. In a partition's row a NULL may be a value that was not sent.
    pub(super) fn old<'a>(&self, old: &'a Old) -> OldRow<'a> {
        match old {
            Old::Whole(row) if self.told.is_none() => OldRow::Whole(row),
            Old::Whole(row) | Old::Identity(row) => OldRow::Identity(row),
            Old::Unsent => OldRow::Unsent,
        }
    }

    /// Whether old rows tell a column by the identity.
    pub(super) fn tells(&self, column: &change::Column) -> bool {
        column.identity && self.told.as_ref().is_none_or(|told| told.contains(&column.name))
    }

    fn add(&mut self, rule: &Rule, reader: Reader, lookups: Option<&Arc<Lookups>>) {
        match &rule.reach {
            Reach::Product(_) => self.others.push((reader, Way::Whole)),
            Reach::Row(bindings) => {
                let bounds: Vec<Bound> = bindings
                    .iter()
                    .map(|binding| binding.map(|columns| self.places(columns)))
                    .collect();
                match bounds.iter().map(by_text).collect::<Option<Vec<_>>>() {
                    Some(columns) => self.add_key(columns, reader),
                    None => self.others.push((reader, Way::Pattern(bounds))),
                }
            }
            Reach::Lookup(lookup) => {
                let place = |column| self.places(std::slice::from_ref(column));
                let columns = lookup.row.iter().map(place).collect();
                let way = lookups
                    .and_then(|lookups| Some((lookups, lookups.place(lookup)?)))
                    .map_or(Way::Whole, |(lookups, at)| {
                        Way::Lookup(LookupWay { lookups: Arc::clone(lookups), at, columns })
                    });
                self.others.push((reader, way));
            }
        }
    }

    fn add_key(&mut self, columns: Vec<Vec<Place>>, reader: Reader) {
        match self.keys.iter_mut().find(|keys| keys.columns == columns) {
            Some(keys) => keys.readers.push(reader),
            None => self.keys.push(Keys { columns, readers: vec![reader] }),
        }
    }

    /// A test of a column that is not as it was is no test any more.
    fn tests(&self, only: &[AnyOf]) -> Vec<Vec<(usize, bool, Is)>> {
        let test = |test: &Test| {
            let (at, identity) = self.described(&test.column)?;
            Some((at, identity, test.is.clone()))
        };
        only.iter().filter_map(|any| any.iter().map(test).collect()).collect()
    }

    fn places(&self, columns: &[Column]) -> Vec<Place> {
        columns.iter().map(|column| self.described(column)).collect()
    }

    fn described(&self, column: &Column) -> Place {
        let at = self.place(&column.name)?;
        let found = self.relation.columns.get(at);
        let found = found.filter(|found| found.type_oid == column.type_oid)?;
        Some((at, self.tells(found)))
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.relation.columns.iter().position(|column| column.name == name)
    }
}

fn by_text(bound: &Bound) -> Option<Vec<Place>> {
    match bound {
        Binding::Text(columns) => Some(columns.clone()),
        _ => None,
    }
}
