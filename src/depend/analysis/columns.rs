//! A query → the columns of each table that it reads.
//!
//! Postgres notes them for the rights to select: in the range table entry up to PostgreSQL 15, beside the range table
//! since.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::{Node, Value};
use crate::change::TableId;

/// `FirstLowInvalidHeapAttributeNumber`: what is added to a column's number in a set.
const FIRST: i16 = -7;

/// Adds what a query and those within it read. `None` where that is not known, or where it is the row itself or a
/// system column: every UPDATE changes those.
pub(super) fn read(query: &Node<'_>, found: &mut BTreeMap<TableId, Option<BTreeSet<i16>>>) {
    let mut queries = vec![query];
    query.fields().for_each(|(_, value)| {
        value.walk(&mut |node| {
            if node.name == "QUERY" {
                queries.push(node);
            }
            true
        });
    });
    for query in queries {
        for entry in query.list("rtable").unwrap_or_default().iter().filter_map(Value::node) {
            let Some(table) = entry.number("relid").map(TableId).filter(|table| table.0 != 0)
            else {
                continue;
            };
            let columns = selected(query, entry);
            let all = found.entry(table).or_insert_with(|| Some(BTreeSet::new()));
            match (all.as_mut(), columns) {
                (Some(all), Some(columns)) => all.extend(columns),
                _ => *all = None,
            }
        }
    }
}

fn selected(query: &Node<'_>, entry: &Node<'_>) -> Option<BTreeSet<i16>> {
    let set = match entry.number::<usize>("perminfoindex") {
        Some(at) => {
            query.list("rteperminfos")?.get(at.checked_sub(1)?)?.node()?.field("selectedCols")?
        }
        None => entry.field("selectedCols")?,
    };
    let [Value::Token("b"), members @ ..] = set.members() else { return None };
    let columns = members.iter().map(|member| {
        let Value::Token(token) = member else { return None };
        let column = token.parse::<i16>().ok()?.checked_add(FIRST)?;
        (column > 0).then_some(column)
    });
    columns.collect()
}
