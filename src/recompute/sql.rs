//! A product and some keys → one statement, and its rows → one result a key.
//!
//! The keys' parameters travel as one array a parameter and are unnested with ordinality, so that a batch is
//! one prepared statement whatever its size. One key has a statement of its own: its parameters are plain values, which
//! Postgres can plan for. Postgres makes the JSON; the statement's own snapshot, insert position and clock come with
//! every row (R4).

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    change::{Lsn, Position, Snapshot, SourceTime},
    key::Key,
    postgres,
    product::{Product, ResultKind},
};

use super::{Ran, Run, RunError};

/// The statement that computes any number of keys of `product`. Parameter N of the statement is the array
/// literal of the keys' N-th parameters, as text; row N answers the N-th key.
#[must_use]
pub fn statement(product: &Product) -> String {
    let parameters = &product.parameters;
    let sql = answering(product, |n, cast| format!("(kck_keys.kck_p{n}::{cast})"));
    if parameters.is_empty() {
        return sql + ONE_ROW;
    }
    let (mut arrays, mut names) = (String::new(), String::new());
    for (index, parameter) in parameters.iter().enumerate() {
        let n = index + 1;
        let element = if travels_as_text(parameter) { "text" } else { &parameter.type_.name };
        let comma = if index == 0 { "" } else { ", " };
        arrays.push_str(&format!("{comma}pg_catalog.unnest((${n}::text)::{element}[])"));
        names.push_str(&format!("kck_p{n}, "));
    }
    sql + &format!("rows from ({arrays}) with ordinality as kck_keys({names}kck_n)")
}

/// The statement that computes one key of `product`, with the same columns: parameter N is the key's N-th as text.
#[must_use]
pub fn statement_of_one(product: &Product) -> String {
    let sql = answering(product, |n, cast| format!("(${n}::text::{cast})"));
    if product.parameters.is_empty() {
        return sql + ONE_ROW;
    }
    // Each is named once more, so that one that the product does not use has a type.
    let (mut values, mut names) = (String::new(), String::new());
    for n in 1..=product.parameters.len() {
        values.push_str(&format!(", ${n}::text"));
        names.push_str(&format!(", kck_p{n}"));
    }
    sql + &format!("(values (1::bigint{values})) kck_keys(kck_n{names})")
}

const ONE_ROW: &str = "(values (1::bigint)) kck_keys(kck_n)";

/// What is selected for each key, up to FROM; `value` writes the N-th parameter, cast to its type.
fn answering(product: &Product, value: impl Fn(usize, &str) -> String) -> String {
    let hole = |index: usize| {
        let parameter = product.parameters.get(index);
        value(index + 1, parameter.map_or("text", |parameter| parameter.type_.name.as_str()))
    };
    let inner = product.draft.question.sql(hole);
    let columns: Vec<String> =
        (1..=product.description.columns.len().max(1)).map(|n| format!("kck_c{n}")).collect();
    let json =
        |column: &str| format!("coalesce(pg_catalog.to_json(kck_rows.{column})::text, 'null')");
    let named = columns.join(", ");
    // The newline ends a comment that the product's text may end with.
    let value = match product.draft.policy.result {
        ResultKind::Rows => format!(
            "(select '[' || coalesce(pg_catalog.string_agg(pg_catalog.row_to_json(kck_rows.*)::text, ','), '') || ']' from ({inner}\n) kck_rows)"
        ),
        ResultKind::Arrays => {
            let row =
                columns.iter().map(|column| json(column)).collect::<Vec<_>>().join(" || ',' || ");
            format!(
                "(select '[' || coalesce(pg_catalog.string_agg('[' || {row} || ']', ','), '') || ']' from ({inner}\n) kck_rows({named}))"
            )
        }
        ResultKind::Row => format!(
            "coalesce((select pg_catalog.row_to_json(kck_rows.*)::text from ({inner}\n) kck_rows limit 1), 'null')"
        ),
        ResultKind::Value => format!(
            "coalesce((select {} from ({inner}\n) kck_rows({named}) limit 1), 'null')",
            json("kck_c1")
        ),
    };
    format!(
        "select kck_keys.kck_n, {value}, pg_catalog.pg_current_snapshot()::text, \
         pg_catalog.pg_current_wal_insert_lsn()::text, \
         (extract(epoch from pg_catalog.statement_timestamp()) * 1000000)::bigint, \
         (extract(epoch from pg_catalog.clock_timestamp() - pg_catalog.statement_timestamp()) * 1000000)::bigint \
         from "
    )
}

/// Arrays would be flattened by `unnest`, and `box` arrays are written with another delimiter.
fn travels_as_text(parameter: &crate::product::parameter::Parameter) -> bool {
    parameter.type_.name.ends_with("[]") || parameter.type_.name == "box"
}

/// The array literals for these keys, one a parameter.
#[must_use]
pub fn arguments(parameters: usize, keys: &[Key]) -> Vec<String> {
    let mut literals = vec![String::from("{"); parameters];
    for (index, key) in keys.iter().enumerate() {
        for (literal, value) in literals.iter_mut().zip(key.values()) {
            literal.push_str(if index == 0 { "\"" } else { ",\"" });
            for character in value.chars() {
                if matches!(character, '"' | '\\') {
                    literal.push('\\');
                }
                literal.push(character);
            }
            literal.push('"');
        }
    }
    for literal in &mut literals {
        literal.push('}');
    }
    literals
}

/// Computes keys by their products' SQL on the source.
pub struct Sql {
    /// Connections that only read.
    pub pool: postgres::run::Pool,
}

#[async_trait]
impl Run for Sql {
    async fn run(
        &self,
        product: &Product,
        keys: &[Key],
        _as_of: Position,
    ) -> Result<Ran, RunError> {
        if !product.draft.recipe.is_sql() {
            // Its SQL says what it depends on, and makes no answers.
            return Err(RunError::Unsound("its answers are not made in SQL"));
        }
        let (sql, arguments) = match keys {
            [key] => (statement_of_one(product), key.values()),
            _ => (statement(product), arguments(product.parameters.len(), keys)),
        };
        let rows = self.pool.run(&sql, &arguments).await.map_err(RunError::from)?;
        let mut ran = Ran { values: vec![Bytes::new(); keys.len()], ..Ran::default() };
        let mut answered = 0;
        for row in rows {
            let place = usize::try_from(row.ordinal - 1).ok().and_then(|at| ran.values.get_mut(at));
            let place = place.ok_or(RunError::Unsound("a row for no key"))?;
            *place = row.value;
            answered += 1;
            ran.snapshot = Some(
                row.snapshot
                    .parse::<Snapshot>()
                    .map_err(|_| RunError::Unsound("a snapshot that is none"))?,
            );
            let insert = row
                .insert
                .parse::<Lsn>()
                .map_err(|_| RunError::Unsound("a position that is none"))?;
            ran.insert = ran.insert.max(insert);
            ran.time = SourceTime(row.time_us);
            let spent = u64::try_from(row.spent_us).unwrap_or(0);
            ran.spent = ran.spent.max(Duration::from_micros(spent));
        }
        if answered == keys.len() { Ok(ran) } else { Err(RunError::Unsound("not one row a key")) }
    }
}

impl From<postgres::Error> for RunError {
    fn from(error: postgres::Error) -> Self {
        match error {
            postgres::Error::Statement { sqlstate, .. } => Self::Statement { sqlstate },
            // A right that is missing is the product's trouble; not to be let in is nobody's but the source's.
            postgres::Error::Refused { sqlstate, .. } if sqlstate == "42501" => {
                Self::Statement { sqlstate }
            }
            other => Self::Unavailable(postgres::describe_chain(&other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn array_literals_quote_what_would_end_them() {
        let keys = [Key::new("p", [r#"a"b\c,{}"#, ""]), Key::new("p", ["null", "é"])];
        assert_eq!(arguments(2, &keys), [r#"{"a\"b\\c,{}","null"}"#, r#"{"","é"}"#]);
    }
}
