//! What Postgres says of a product → [`Rules`].
//!
//! `tree` reads rule trees, `equality` finds what conditions equate, `restrict` works out which columns of
//! each table are equal to the parameters, `clock` looks for what no row announces.
//!
//! Invariant: every table gets a rule, and where anything is not understood it is the coarsest.

mod clock;
mod equality;
mod restrict;
mod settled;
mod tree;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::rule::{Binding, Column, Reach, Rule, Rules, TableRules};
use crate::{
    change::TableId,
    description::{Description, Table},
    product::Product,
};
use equality::Parameters;
use restrict::Restrictions;
use tree::{Node, Value};

/// Finds the strongest sound rule for every table, and why time alone could change the answer.
#[must_use]
pub fn analyse(product: &Product, description: &Description) -> Rules {
    let names: Vec<String> =
        product.draft.question.parameters.iter().map(|parameter| parameter.name.clone()).collect();
    let query = description.tree.as_deref().and_then(tree::read);
    let views: BTreeMap<u32, Value<'_>> = description
        .view_trees
        .iter()
        .filter_map(|(view, text)| Some((*view, tree::read(text)?)))
        .collect();
    let parameters = Parameters::of(description);
    let restrictions = match query.as_ref().and_then(action) {
        Some(query) => Restrictions::find(query, &views, &parameters, description),
        None => Restrictions::coarsest("Postgres gave no rule tree"),
    };
    let undescribed = restrictions
        .tables()
        .filter(|table| described(description, *table).is_none())
        .map(|table| {
            let rules = vec![Rule::product("Postgres did not describe it")];
            let name = format!("table {}", table.0);
            (table, TableRules { name, publishable: true, columns: None, rules })
        });
    let tables =
        description.tables.iter().filter(|table| matches!(table.kind, 'r' | 'p')).map(|table| {
            let publishable = table.persistence == 'p' && !table.system;
            let rules = rules_of(table, &restrictions, &names);
            (table.id, TableRules { name: full_name(table), publishable, columns: None, rules })
        });
    let row_security = description.tables.iter().filter(|table| table.row_security);
    Rules {
        tables: undescribed.chain(tables).collect(),
        time: clock::reasons(
            &product.draft.question.pieces,
            query.as_ref(),
            &views,
            &parameters,
            description,
        ),
        row_security: row_security.map(full_name).collect(),
        parameters: names,
    }
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

/// The rules of a table: one for each distinct way of reading it, or the coarsest alone.
fn rules_of(table: &Table, restrictions: &Restrictions, names: &[String]) -> Vec<Rule> {
    let mut rules = Vec::new();
    let coarsest = |why: &str| vec![Rule::product(why)];
    if names.is_empty() {
        return coarsest("it has no parameters");
    }
    if table.indirect {
        return coarsest("it is also read by inheritance, a function or a policy");
    }
    let occurrences = match restrictions.of(table.id) {
        Ok([]) => return coarsest("it is read where no condition is followed"),
        Ok(occurrences) => occurrences,
        Err(why) => return coarsest(why),
    };
    for occurrence in occurrences {
        if occurrence.len() != names.len() {
            return coarsest("its parameters are not those that Postgres described");
        }
        let mut columns = Vec::new();
        for (name, numbers) in names.iter().zip(occurrence) {
            let equal: Vec<Column> =
                numbers.iter().filter_map(|number| column(table, *number)).collect();
            if equal.is_empty() {
                return coarsest(&format!("no column of it equals :{name}"));
            }
            columns.push(Binding::Text(equal));
        }
        let rule = Rule { only: Vec::new(), reach: Reach::Row(columns) };
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

fn column(table: &Table, number: i16) -> Option<Column> {
    table
        .columns
        .get(&number)
        .map(|(name, type_oid)| Column { name: name.clone(), type_oid: *type_oid })
}
