//! A product → why its answer may change without a row saying so (class time).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    full_name,
    settled::settled,
    term::Parameters,
    tree::{Node, Value},
};
use crate::description::{CLOCK_WORDS, Description, Function, Table};

/// Types whose input depends on the text alone (`pg_type.oid`): not dates and times, which know clock words;
/// not names of catalogue objects; not arrays, ranges and rows, which may hold either.
const PLAIN_TYPES: &[u32] = &[
    16, 17, 18, 19, 20, 21, 23, 25, 26, 114, 142, 600, 601, 602, 603, 604, 628, 650, 700, 701, 705,
    718, 774, 790, 829, 869, 1042, 1043, 1186, 1560, 1562, 1700, 2950, 3220, 3614, 3615, 3802,
    3904, 3906, 3926, 4072, // Arrays of the common ones.
    1000, 1005, 1007, 1009, 1015, 1016, 1021, 1022, 1231, 2951,
];

/// Types that print a name from the catalogues: `regclass` and its kin.
const NAMING_TYPES: &[u32] = &[24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191];

/// `time with time zone`: an offset may depend on the day.
const TIMETZ: u32 = 1266;

/// Each reason once, as what the product does.
pub(super) fn reasons(
    query: Option<&Value<'_>>,
    views: &BTreeMap<u32, Value<'_>>,
    parameters: &Parameters<'_>,
    description: &Description,
) -> Vec<String> {
    let mut reasons: BTreeSet<String> = description.tables.iter().filter_map(table).collect();
    let ours = |oid: u32| query.is_some() && parameters.reads_setting(oid);
    reasons.extend(
        description.functions.iter().filter(|called| !ours(called.oid)).filter_map(function),
    );
    let shown = description.columns.iter().map(|column| column.type_.oid);
    reasons.extend(shown.filter(|type_oid| NAMING_TYPES.contains(type_oid)).map(naming));
    let mut clock_literals = query.is_none();
    for tree in query.into_iter().chain(views.values()) {
        tree.walk(&mut |visited| {
            reasons.extend(node(visited, parameters, description));
            true
        });
    }
    if let Some(tree) = query {
        tree.walk(&mut |visited| {
            let constant = (visited.name == "CONST").then(|| visited.number("consttype")).flatten();
            clock_literals |= constant.is_some_and(|type_oid| !plain(type_oid, parameters));
            true
        });
    }
    if clock_literals {
        reasons.extend(parameters.clock.iter().cloned());
    }
    Vec::from_iter(reasons)
}

fn table(table: &Table) -> Option<String> {
    let kind = match (table.system, table.kind, table.persistence) {
        (true, ..) => "system catalogue",
        (_, 'v', _) | (_, 'r' | 'p', 'p') => return None,
        (_, 'm', _) => "materialized view",
        (_, 'f', _) => "foreign table",
        (_, 'r' | 'p', 'u') => "unlogged table",
        (_, 'r' | 'p', _) => "temporary table",
        (_, 'S', _) => "sequence",
        _ => "relation",
    };
    Some(format!("reads {kind} {}", full_name(table)))
}

fn function(function: &Function) -> Option<String> {
    let built_in = function.schema == "pg_catalog";
    let known = match (function.volatility, function.language.as_str()) {
        ('i', "c") => true,
        // Built-in ones read no tables, and those that do are refused for their label.
        ('i', "sql") => built_in || function.reads_tables.is_some(),
        // Outside the catalogue's own schema these are aggregates, whose state functions are not described.
        ('i', "internal") => built_in,
        ('s', _) => built_in && settled(function.oid),
        _ => false,
    };
    (!known).then(|| format!("calls {}.{}()", function.schema, function.name))
}

/// What one node of a tree does.
fn node(node: &Node<'_>, parameters: &Parameters<'_>, description: &Description) -> Vec<String> {
    let mut reasons = Vec::new();
    let called = ["funcid", "opfuncid", "aggfnoid", "winfnoid"]
        .into_iter()
        .filter_map(|field| node.number::<u32>(field));
    for oid in called {
        if parameters.reads_setting(oid) {
            reasons.extend(
                parameters
                    .setting(node)
                    .is_none()
                    .then(|| "calls pg_catalog.current_setting()".into()),
            );
        } else if description.functions.iter().all(|function| function.oid != oid) {
            reasons.push(format!("calls function {oid}, which Postgres did not describe"));
        }
    }
    let read: Vec<u32> = match node.name {
        "COERCEVIAIO" => {
            let of_parameter = node
                .field("arg")
                .and_then(Value::node)
                .and_then(|argument| parameters.setting(argument));
            node.number("resulttype").into_iter().filter(|_| of_parameter.is_none()).collect()
        }
        "RANGETBLFUNCTION" => {
            node.field("funccoltypes").into_iter().flat_map(Value::numbers).collect()
        }
        "TABLEFUNC" => node.field("coltypes").into_iter().flat_map(Value::numbers).collect(),
        "JSONRETURNING" => {
            node.number("typid").into_iter().filter(|type_oid| *type_oid != 0).collect()
        }
        _ => Vec::new(),
    };
    let unsettled = read.into_iter().filter(|type_oid| !plain(*type_oid, parameters));
    reasons.extend(unsettled.map(|type_oid| {
        format!("reads text as type {type_oid}, whose input may know the clock or the catalogues")
    }));
    match node.name {
        "SQLVALUEFUNCTION" => {
            reasons.push("asks for current_date, current_user or one of their kind".into());
        }
        "CONST" if node.number("consttype") == Some(TIMETZ) => {
            reasons.push(
                "has a literal of time with time zone, whose offset may depend on the day".into(),
            );
        }
        "VAR" => reasons.extend(names_something(node, "vartype")),
        "RELABELTYPE" => reasons.extend(names_something(node, "resulttype")),
        "FUNCEXPR" => reasons.extend(names_something(node, "funcresulttype")),
        _ => {}
    }
    if node.is_entry() && node.null("tablesample") == Some(false) {
        reasons.push("reads a sample (tablesample)".into());
    }
    reasons
}

fn names_something(node: &Node<'_>, field: &str) -> Option<String> {
    node.number(field).filter(|type_oid| NAMING_TYPES.contains(type_oid)).map(naming)
}

fn naming(type_oid: u32) -> String {
    format!("has values of type {type_oid}, whose text comes from the catalogues")
}

fn plain(type_oid: u32, parameters: &Parameters<'_>) -> bool {
    PLAIN_TYPES.contains(&type_oid) || parameters.is_enum(type_oid)
}

/// Clock words anywhere in the SQL, since Postgres folds such literals before the rule tree: which of them stand
/// in literals is not worth knowing, for beside a literal of a date or time they seldom mean something else.
pub(super) fn clock_words(sql: &str) -> Vec<String> {
    let sql = sql.to_lowercase();
    // Literals with a new line between them are one: 'to'⏎'day'.
    let mut joined = String::with_capacity(sql.len());
    for part in sql.split('\'') {
        if part.contains('\n') && part.trim().is_empty() {
            joined.pop();
        } else {
            joined.push_str(part);
            joined.push('\'');
        }
    }
    let words: BTreeSet<&str> = joined.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let mut reasons: Vec<String> = CLOCK_WORDS
        .iter()
        .filter(|word| words.contains(*word))
        .map(|word| format!("has the literal '{word}'"))
        .collect();
    if sql.contains('\\') && (sql.contains("e'") || sql.contains("u&'")) {
        reasons.push("has an escaped literal beside one of a date or time".into());
    }
    reasons
}
