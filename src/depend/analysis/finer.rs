//! A table and its rules → what a person could do to make them finer or cheaper, with the SQL.

use std::collections::BTreeSet;

use crate::{
    depend::{
        lookup::{Lookup, Operand},
        rule::{Binding, Reach, TableRules},
    },
    description::{Description, Table},
    explanation::Finer,
    quote,
};

/// What would help, the most useful first.
pub(super) fn finer(table: &Table, rules: &TableRules, description: &Description) -> Vec<Finer> {
    let mut finer = Vec::from_iter(old_rows(table, rules));
    for rule in &rules.rules {
        if let Reach::Lookup(lookup) = &rule.reach {
            finer.extend(indexes(lookup, description));
        }
    }
    finer.dedup();
    finer
}

/// Without a column of the old row, an UPDATE or DELETE counts as touching every key.
fn old_rows(table: &Table, rules: &TableRules) -> Option<Finer> {
    let told = table.replicated.as_ref()?;
    let known: BTreeSet<&str> = told
        .iter()
        .filter_map(|column| table.columns.get(column))
        .map(|(name, _)| name.as_str())
        .collect();
    let mut needed: BTreeSet<&str> = BTreeSet::new();
    for rule in &rules.rules {
        match &rule.reach {
            Reach::Product(_) => return None,
            // One of several equal columns will do.
            Reach::Row(bindings) => {
                for columns in bindings.iter().filter_map(Binding::by) {
                    let names = columns.iter().map(|column| column.name.as_str());
                    if !names.clone().any(|name| known.contains(name)) {
                        needed.extend(names.take(1));
                    }
                }
            }
            Reach::Lookup(lookup) => {
                needed.extend(lookup.row.iter().map(|column| column.name.as_str()));
            }
        }
    }
    let name = quote::qualified(&table.schema, &table.name);
    // Partitions do not take it from the root.
    let all = std::iter::once(&name).chain(&table.leaves);
    let full: Vec<String> =
        all.map(|name| format!("alter table {name} replica identity full;")).collect();
    let full = full.join(" ");
    let missing: Vec<&str> = needed.difference(&known).copied().collect();
    if !missing.is_empty() {
        let key = table.key.iter().filter_map(|column| table.columns.get(column));
        let columns = key.map(|(name, _)| name.as_str()).chain(missing.iter().copied());
        let columns: Vec<String> = columns.map(quote::name).collect();
        let index = format!("{}_kck_identity", table.name);
        let by_index = format!(
            "create unique index concurrently {} on {name} ({}); alter table {name} replica identity using index {}; -- where these columns are NOT NULL",
            quote::name(&index),
            columns.join(", "),
            quote::name(&index),
        );
        let why = format!(
            "the stream does not tell {} of old rows: an UPDATE or DELETE touches every key",
            missing.join(", ")
        );
        let sql = if table.kind == 'p' || table.key.is_empty() {
            vec![full]
        } else {
            vec![full, by_index]
        };
        return Some(Finer { why, sql });
    }
    let read = rules.columns.as_ref()?;
    if read.iter().all(|column| known.contains(column.as_str()))
        && read.len() == table.columns.len()
    {
        return None;
    }
    let why =
        "the stream does not tell old rows: an UPDATE of a column that is not read counts too";
    Some(Finer { why: why.to_owned(), sql: vec![full] })
}

/// A lookup without an index reads the whole table.
fn indexes(lookup: &Lookup, description: &Description) -> Vec<Finer> {
    let operands = lookup.equal.iter().flat_map(|(a, b)| [a, b]);
    let joined = operands.filter_map(|operand| match operand {
        Operand::Table(at, column) => Some((*at, column.as_str())),
        Operand::Row(..) | Operand::Expression(_) => None,
    });
    let joined: BTreeSet<(usize, &str)> = joined.collect();
    let mut finer = Vec::new();
    for (at, name) in lookup.tables.iter().enumerate() {
        let named = |table: &&Table| quote::qualified(&table.schema, &table.name) == *name;
        let Some(table) = description.tables.iter().find(named) else { continue };
        let columns: Vec<&str> =
            joined.iter().filter(|(of, _)| *of == at).map(|(_, column)| *column).collect();
        let indexed = table.indexed.iter().filter_map(|column| table.columns.get(column));
        let indexed: BTreeSet<&str> = indexed.map(|(name, _)| name.as_str()).collect();
        if let Some(first) = columns.first()
            && !columns.iter().any(|column| indexed.contains(column))
        {
            let why = format!("a lookup reads all of {}.{}: no index", table.schema, table.name);
            let sql = format!("create index concurrently on {name} ({});", quote::name(first));
            finer.push(Finer { why, sql: vec![sql] });
        }
    }
    finer
}
