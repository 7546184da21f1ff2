//! The index and one table as the stream announces it → what a change of that table must do, with columns by place.

use std::sync::Arc;

use super::{
    affected::bit,
    graph::Index,
    lookup::Lookups,
    rule::{Binding, Column, Is, Reach, Rule, Test},
};
use crate::change::Relation;

/// Every UPDATE, whatever it changes.
const ALWAYS: u128 = u128::MAX;

/// Where a column stands in the stream's rows and whether it belongs to the replica identity; `None` where the table
/// has no such column any more.
pub(super) type Place = Option<(usize, bool)>;

/// What binds a parameter: columns that are all equal to it.
pub(super) type Bound = Binding<Vec<Place>>;

/// What a change of one table must do, each column list once however many products share it.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    relation: Arc<Relation>,
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
    /// Place, whether it belongs to the replica identity, and what must hold of it.
    pub(super) only: Vec<(usize, bool, Is)>,
}

/// How a changed row leads to keys, where it is not one key.
#[derive(Debug, Clone)]
pub(super) enum Way {
    Whole,
    Pattern(Vec<Bound>),
    Lookup(Arc<Lookups>, usize, Vec<Vec<Place>>),
}

impl Plan {
    pub(super) fn new(index: &Index, relation: &Arc<Relation>) -> Self {
        let mut plan =
            Self { relation: Arc::clone(relation), keys: Vec::new(), others: Vec::new() };
        for edge in index.edges(relation.table) {
            let product: Arc<str> = Arc::clone(edge.product);
            let reads = edge.columns.map_or(ALWAYS, |columns| {
                // One that the stream does not have, as generated ones, may change with any other.
                let bits = columns.iter().map(|name| place(relation, name).map_or(ALWAYS, bit));
                bits.fold(0, |all, bit| all | bit)
            });
            for rule in edge.rules {
                let reader = Reader {
                    product: Arc::clone(&product),
                    reads,
                    only: tests(relation, &rule.only),
                };
                plan.add(relation, rule, reader, edge.lookups);
            }
        }
        plan
    }

    pub(super) fn is_of(&self, relation: &Arc<Relation>) -> bool {
        Arc::ptr_eq(&self.relation, relation)
    }

    fn add(
        &mut self,
        relation: &Relation,
        rule: &Rule,
        reader: Reader,
        lookups: Option<&Arc<Lookups>>,
    ) {
        match &rule.reach {
            Reach::Product(_) => self.others.push((reader, Way::Whole)),
            Reach::Row(bindings) => {
                let bounds: Vec<Bound> = bindings
                    .iter()
                    .map(|binding| binding.map(|columns| places(relation, columns)))
                    .collect();
                match bounds.iter().map(by_text).collect::<Option<Vec<_>>>() {
                    Some(columns) => self.add_key(columns, reader),
                    None => self.others.push((reader, Way::Pattern(bounds))),
                }
            }
            Reach::Lookup(lookup) => {
                let columns =
                    lookup.row.iter().map(|column| places(relation, std::slice::from_ref(column)));
                let way = lookups
                    .and_then(|lookups| Some((lookups, lookups.place(lookup)?)))
                    .map_or(Way::Whole, |(lookups, at)| {
                        Way::Lookup(Arc::clone(lookups), at, columns.collect())
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
}

fn by_text(bound: &Bound) -> Option<Vec<Place>> {
    match bound {
        Binding::Text(columns) => Some(columns.clone()),
        _ => None,
    }
}

/// A test of a column that is not as it was is no test any more.
fn tests(relation: &Relation, only: &[Test]) -> Vec<(usize, bool, Is)> {
    only.iter()
        .filter_map(|test| {
            let (at, identity) = described(relation, &test.column)?;
            Some((at, identity, test.is.clone()))
        })
        .collect()
}

fn places(relation: &Relation, columns: &[Column]) -> Vec<Place> {
    columns.iter().map(|column| described(relation, column)).collect()
}

fn described(relation: &Relation, column: &Column) -> Place {
    let at = place(relation, &column.name)?;
    let found = relation.columns.get(at).filter(|found| found.type_oid == column.type_oid)?;
    Some((at, found.identity))
}

fn place(relation: &Relation, name: &str) -> Option<usize> {
    relation.columns.iter().position(|column| column.name == name)
}
