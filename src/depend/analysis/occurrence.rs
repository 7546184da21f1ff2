//! The places where a query reads tables: what `restrict` finds and `reach` makes rules of.

use std::collections::{BTreeMap, BTreeSet};

use super::fact::{Facts, Tuple};
use crate::change::TableId;

/// A place where a table is read.
#[derive(Debug, Clone)]
pub(super) struct Occurrence {
    pub(super) table: TableId,
    /// Its rows in the facts; `None` where no condition is followed.
    pub(super) tuple: Option<Tuple>,
    /// What holds in every row of it that matters, with some rows of the others.
    pub(super) facts: Facts,
}

/// What was found of a tree.
#[derive(Debug, Default)]
pub(super) struct Occurrences {
    pub(super) all: Vec<Occurrence>,
    /// The table and the place of every row that facts speak of and that is a table's.
    pub(super) tuples: BTreeMap<Tuple, (TableId, Place)>,
    /// The columns of each table that the query itself or its views read; `None` where every column counts.
    pub(super) columns: BTreeMap<TableId, Option<BTreeSet<i16>>>,
}

/// The use of an entry of a range table: the same in every visit.
pub(super) type Place = (u32, usize);
