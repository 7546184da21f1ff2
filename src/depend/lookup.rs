//! Rows of a changed table → the statement that finds the keys they touch over other tables (R2).
//!
//! A lookup joins the changed rows with rows as they are now. A row on its path that changed meanwhile has a change of
//! its own, which finds the key: that is why F waits for as many steps as the longest path has ([`super::settle`]).

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::rule::{Binding, Column};
use crate::{
    key::Key,
    pattern::{Order, Part, Pattern, number},
    quote,
};

/// Keys that one lookup may find in one group; past it its product counts as touched whole.
pub const FOUND_MAX: usize = 10_000;

/// Distinct rows of one product in one group; past it the product counts as touched whole.
pub const ROWS_MAX: usize = 20_000;

/// How rows of one table lead over other tables to parameters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lookup {
    /// What is needed of a changed row.
    pub row: Vec<Column>,
    /// The tables joined, each as SQL writes its name.
    pub tables: Vec<String>,
    /// What is equal, by the equality operators of `pg_catalog`.
    pub equal: Vec<(Operand, Operand)>,
    /// Further conditions, in SQL on `t0`, `t1`, … as the tables are called.
    pub only: Vec<String>,
    /// What binds each parameter, in key order.
    pub parameters: Vec<Binding<Operand>>,
    /// The longest chain of rows from a changed one to a parameter.
    pub steps: usize,
}

/// A value in a lookup.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operand {
    /// A column of the changed row by its place in [`Lookup::row`], with the type's name.
    Row(usize, String),
    /// A column of a joined table.
    Table(usize, String),
    /// An immutable expression of columns of either, in SQL.
    Expression(String),
}

/// The values of [`Lookup::row`] in one changed row.
pub type Given = Box<[Box<str>]>;

/// All lookups of a product, as one statement.
#[derive(Debug, PartialEq, Eq)]
pub struct Lookups {
    /// The product's name.
    pub product: Arc<str>,
    /// Its distinct lookups.
    pub all: Vec<Arc<Lookup>>,
    /// Parameters: for each lookup and each column of its row an array of texts. Answer: the number of the lookup, then
    /// the parameters' texts; in one row of number -1, first of these, the source's insert position.
    pub sql: String,
}

/// What is to be looked up of a product: for each lookup the distinct rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// By which statement.
    pub lookups: Arc<Lookups>,
    /// In the order of [`Lookups::all`].
    pub rows: Vec<HashSet<Given>>,
}

/// What a lookup found: keys, or all keys that agree with patterns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Whole keys.
    pub keys: HashSet<Key>,
    /// Keys of which only some parameters are bound, or by more than their text.
    pub patterns: HashSet<Pattern>,
}

impl Lookup {
    /// A value, for people: `items.order_id` or a column of the changed row.
    pub(super) fn in_words(&self, operand: &Operand) -> String {
        match operand {
            Operand::Row(at, _) => {
                self.row.get(*at).map(|column| column.name.clone()).unwrap_or_default()
            }
            Operand::Table(table, column) => {
                let table = self.tables.get(*table).map_or("", String::as_str);
                format!("{}.{column}", table.replace('"', ""))
            }
            Operand::Expression(sql) => self.expression_in_words(sql),
        }
    }

    /// An expression with its columns by name.
    fn expression_in_words(&self, sql: &str) -> String {
        let mut words = sql.replace('"', "").replace("pg_catalog.", "");
        for (at, column) in self.row.iter().enumerate() {
            let (mut named, given) = (String::new(), format!("(r.c{at}::"));
            let mut left = words.as_str();
            while let Some((before, cast)) = left.split_once(&given) {
                named.push_str(before);
                named.push_str(&column.name);
                left = cast.split_once(')').map_or("", |(_, after)| after);
            }
            named.push_str(left);
            words = named;
        }
        for (at, table) in self.tables.iter().enumerate() {
            words = words.replace(&format!("t{at}."), &format!("{}.", table.replace('"', "")));
        }
        words
    }

    /// One arm of the statement; its parameters are `$first`, `$first + 1`, ….
    fn sql(&self, number: usize, first: usize) -> String {
        let arrays: Vec<_> =
            (first..first + self.row.len()).map(|n| format!("${n}::text[]")).collect();
        let columns: Vec<_> = (0..self.row.len()).map(|n| format!("c{n}")).collect();
        let outputs = self.parameters.iter().enumerate().map(|(at, binding)| {
            let text = binding.by().map_or("null::text".to_owned(), |by| {
                // `format` writes any type by its output function, as the stream does.
                format!("pg_catalog.format('%s', {})", by.sql())
            });
            format!("{text} as p{at}")
        });
        let from = std::iter::once(format!(
            "pg_catalog.unnest({}) as r({})",
            arrays.join(", "),
            columns.join(", ")
        ));
        let tables = self.tables.iter().enumerate().map(|(at, table)| format!("{table} as t{at}"));
        let given = self
            .parameters
            .iter()
            .filter_map(Binding::by)
            .map(|by| format!("{} is not null", by.sql()));
        let equal = self
            .equal
            .iter()
            .map(|(a, b)| format!("{} operator(pg_catalog.=) {}", a.sql(), b.sql()));
        let conditions: Vec<_> = equal.chain(self.only.iter().cloned()).chain(given).collect();
        format!(
            "(select distinct {number} as lookup, {} from {} where {} limit {})",
            outputs.collect::<Vec<_>>().join(", "),
            from.chain(tables).collect::<Vec<_>>().join(", "),
            conditions.join(" and "),
            FOUND_MAX + 1,
        )
    }
}

impl Operand {
    pub(super) fn sql(&self) -> String {
        match self {
            Operand::Row(at, type_name) => format!("(r.c{at}::{type_name})"),
            Operand::Table(table, column) => format!("t{table}.{}", quote::name(column)),
            Operand::Expression(sql) => format!("({sql})"),
        }
    }
}

impl Lookups {
    /// The lookups of a product; `None` where it has none.
    pub(super) fn new(product: &Arc<str>, mut all: Vec<Arc<Lookup>>) -> Option<Self> {
        all.sort();
        all.dedup();
        let parameters = all.first()?.parameters.len();
        let nothing = ", null::text".repeat(parameters.saturating_sub(1));
        // No commit that the statement's snapshot sees ends behind the position that it reads.
        let mut sql = format!("select -1, pg_catalog.pg_current_wal_insert_lsn()::text{nothing}");
        let mut first = 1;
        for (number, lookup) in all.iter().enumerate() {
            sql.push_str("\nunion all\n");
            sql.push_str(&lookup.sql(number, first));
            first += lookup.row.len();
        }
        Some(Self { product: Arc::clone(product), sql, all })
    }

    pub(super) fn place(&self, lookup: &Arc<Lookup>) -> Option<usize> {
        self.all.binary_search(lookup).ok()
    }

    /// The longest path of all its lookups.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.all.iter().map(|lookup| lookup.steps).max().unwrap_or(0)
    }
}

impl Asked {
    /// Nothing yet.
    #[must_use]
    pub fn new(lookups: &Arc<Lookups>) -> Self {
        Self { lookups: Arc::clone(lookups), rows: vec![HashSet::new(); lookups.all.len()] }
    }

    /// How many rows are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.iter().map(HashSet::len).sum()
    }

    /// Whether there is nothing to look up.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.iter().all(HashSet::is_empty)
    }

    /// Adds what else is asked of the product; false where that goes by another statement.
    #[must_use]
    pub fn merge(&mut self, other: &Self) -> bool {
        if !Arc::ptr_eq(&self.lookups, &other.lookups) {
            return false;
        }
        for (rows, more) in self.rows.iter_mut().zip(&other.rows) {
            rows.extend(more.iter().cloned());
        }
        true
    }

    /// The statement's arguments.
    #[must_use]
    pub fn arguments(&self) -> Vec<Vec<&str>> {
        let columns = self.lookups.all.iter().zip(&self.rows).flat_map(|(lookup, rows)| {
            (0..lookup.row.len()).map(move |at| {
                rows.iter().filter_map(|given| given.get(at)).map(|text| &**text).collect()
            })
        });
        columns.collect()
    }

    /// The keys that the statement's answer means: of each row the number of its lookup and the parameters' texts.
    /// `None` where it is too much, or not an answer to this.
    #[must_use]
    pub fn found(&self, answer: &[(usize, Vec<Option<String>>)]) -> Option<Found> {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        let mut found = Found::default();
        for (number, texts) in answer {
            let count = counts.entry(*number).or_default();
            *count += 1;
            let lookup = self.lookups.all.get(*number)?;
            if *count > FOUND_MAX || texts.len() != lookup.parameters.len() {
                return None;
            }
            let bound = lookup.parameters.iter().zip(texts);
            let parts = bound.map(|(binding, text)| binding.part(text.as_deref()));
            match parts.collect::<Option<Vec<Part>>>() {
                Some(parts) => found.add(&self.lookups.product, parts),
                None => return None,
            }
        }
        Some(found)
    }
}

impl Found {
    fn add(&mut self, product: &Arc<str>, parts: Vec<Part>) {
        let texts: Option<Vec<&str>> = parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => Some(&**text),
                _ => None,
            })
            .collect();
        match texts {
            Some(texts) => drop(self.keys.insert(Key::new(product, texts))),
            None => {
                let pattern = Pattern { product: Arc::clone(product), parts: parts.into() };
                self.patterns.insert(pattern);
            }
        }
    }
}

impl<T> Binding<T> {
    /// What a value says of the parameter; a value of no known form says nothing.
    pub(super) fn part(&self, text: Option<&str>) -> Option<Part> {
        let ranged =
            |order: Order, part: fn(Order, crate::pattern::Ordered) -> Part, text: &str| {
                order.read(text).map_or(Part::Any, |value| part(order, value))
            };
        Some(match (self, text) {
            (Binding::Any, _) => Part::Any,
            (_, None) => return None,
            (Binding::Text(_), Some(text)) => Part::Text(text.into()),
            (Binding::Number(_), Some(text)) => number(text).map_or(Part::Any, Part::Number),
            (Binding::AtMost(order, _), Some(text)) => ranged(*order, Part::AtMost, text),
            (Binding::AtLeast(order, _), Some(text)) => ranged(*order, Part::AtLeast, text),
        })
    }
}
