//! What Postgres says of a product → [`Rules`].
//!
//! `tree` reads rule trees; `term`, `constant` and `expression` find `fact`s in conditions; `restrict` works out which
//! of them hold where a table is read (`query` takes query nodes apart); `reach` turns those into rules; `columns` finds what is read, `clock`
//! what no row announces, and `finer` what a person could do.
//!
//! Invariant: every table gets a rule, and where anything is not understood it is the coarsest.

mod clock;
mod columns;
mod constant;
mod expression;
mod fact;
mod finer;
mod occurrence;
mod query;
mod reach;
mod restrict;
mod settled;
mod term;
mod tree;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::rule::{Column, Reach, Rule, Rules, TableRules};
use crate::{
    change::TableId,
    description::{Description, Table},
    product::{Outside, Product},
};
use occurrence::Occurrences;
use query::Visited;
use restrict::occurrences;
use term::Parameters;
use tree::{Node, Value};

/// Finds the strongest sound rule for every table, and why time alone could change the answer.
#[must_use]
pub fn analyse(product: &Product, description: &Description) -> Rules {
    let mut names: Vec<String> =
        product.draft.question.parameters.iter().map(|parameter| parameter.name.clone()).collect();
    let query = description.tree.as_deref().and_then(tree::read);
    let views: BTreeMap<u32, Value<'_>> = description
        .view_trees
        .iter()
        .filter_map(|(view, text)| Some((*view, tree::read(text)?)))
        .collect();
    let sql = product.draft.question.pieces.concat();
    let parameters = Parameters::of(description, &sql);
    let found = match query.as_ref().and_then(action) {
        Some(query) => occurrences(query, &views, &parameters, description),
        None => Err("Postgres gave no rule tree"),
    };
    let mislabelled = description
        .functions
        .iter()
        .filter(|function| function.volatility == 'i' && function.reads_tables == Some(true));
    let row_security = description.tables.iter().filter(|table| table.row_security);
    let mut tables = tables(&found, &parameters, &names);
    let depends = product.draft.recipe.outside().into_iter().flat_map(Outside::products);
    let own = product.draft.parameters();
    if own < names.len() {
        names.truncate(own);
        tables.values_mut().flat_map(|table| &mut table.rules).for_each(|rule| rule.keep(own));
    }
    Rules {
        tables,
        time: clock::reasons(query.as_ref(), &views, &parameters, description),
        row_security: row_security.map(full_name).collect(),
        mislabelled: mislabelled.map(|function| function.signature.clone()).collect(),
        parameters: names,
        products: product.draft.calls.iter().map(|call| call.product.clone()).collect(),
        depends: depends.map(|(name, _)| name.to_owned()).collect(),
    }
}

/// The rules of every table: one for each distinct way of reading it, or the coarsest alone.
fn tables(
    found: &Visited<Occurrences>,
    parameters: &Parameters<'_>,
    names: &[String],
) -> BTreeMap<TableId, TableRules> {
    let description = parameters.description;
    let mut rules: BTreeMap<TableId, Vec<Rule>> = BTreeMap::new();
    if let Ok(found) = found
        && names.len() == description.parameters.len()
    {
        for (occurrence, rule) in found.all.iter().zip(reach::rules(found, parameters, names)) {
            let all = rules.entry(occurrence.table).or_default();
            if !all.contains(&rule) {
                all.push(rule);
            }
        }
    }
    let undescribed = rules.keys().filter(|table| described(description, **table).is_none());
    let unknown = |table: &TableId| TableRules {
        name: format!("table {}", table.0),
        publishable: true,
        columns: None,
        told: None,
        rules: vec![Rule::product("Postgres did not describe it")],
        finer: vec![],
    };
    let mut tables: BTreeMap<TableId, TableRules> =
        undescribed.map(|table| (*table, unknown(table))).collect();
    for table in description.tables.iter().filter(|table| matches!(table.kind, 'r' | 'p')) {
        let coarsest = |why: &str| vec![Rule::product(why)];
        let all = match (found, rules.remove(&table.id)) {
            _ if table.indirect => {
                coarsest("it is also read by inheritance, a function or a policy")
            }
            (Err(why), _) => coarsest(why),
            (Ok(_), None) => coarsest("it is read where no condition is followed"),
            (Ok(_), Some(all)) => alone_if_coarsest(all),
        };
        let columns = match found {
            Ok(found) if !table.indirect => read_columns(table, found),
            _ => None,
        };
        let publishable = table.persistence == 'p' && !table.system;
        let mut rules = TableRules {
            name: full_name(table),
            publishable,
            columns,
            told: told(table),
            rules: all,
            finer: Vec::new(),
        };
        rules.finer = finer::finer(table, &rules, description);
        tables.insert(table.id, rules);
    }
    tables
}

/// A rule by which any row touches any key makes the others superfluous.
fn alone_if_coarsest(rules: Vec<Rule>) -> Vec<Rule> {
    let coarsest = |rule: &&Rule| rule.only.is_empty() && matches!(rule.reach, Reach::Product(_));
    match rules.iter().find(coarsest) {
        Some(rule) => vec![rule.clone()],
        None => rules,
    }
}

/// Of a partitioned table; the stream says itself what it tells of others.
fn told(table: &Table) -> Option<BTreeSet<String>> {
    let columns = table.replicated.as_ref().filter(|_| table.kind == 'p')?;
    let name = |column: &i16| table.columns.get(column).map(|(name, _)| name.clone());
    Some(columns.iter().filter_map(name).collect())
}

fn read_columns(table: &Table, found: &Occurrences) -> Option<BTreeSet<String>> {
    let numbers = found.columns.get(&table.id)?.as_ref()?;
    numbers.iter().map(|number| table.columns.get(number).map(|(name, _)| name.clone())).collect()
}

/// The one query of a view's rule.
fn action<'s, 't>(rule: &'s Value<'t>) -> Option<&'s Node<'t>> {
    match rule.members() {
        [query] => query.named("QUERY"),
        _ => None,
    }
}

fn described(description: &Description, table: TableId) -> Option<&Table> {
    description.tables.iter().find(|described| described.id == table)
}

fn full_name(table: &Table) -> String {
    format!("{}.{}", table.schema, table.name)
}

fn column(table: &Table, number: i16) -> Option<Column> {
    table
        .columns
        .get(&number)
        .map(|(name, type_oid)| Column { name: name.clone(), type_oid: *type_oid })
}
