//! Script: the text of a process's file → statements that may be sent as they are.

use std::path::Path;

use pg_query::{ParserOptions, protobuf::Token};
use serde_json::Value;

use super::Fault;

const ONE_OR_MORE: &str = "a process is one or more statements of SQL";

/// Kinds of statements that Postgres tells about before it runs them.
const ASKED: [&str; 6] =
    ["SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "CallStmt"];

/// The statements that begin at byte `start` of the file's text.
///
/// # Errors
/// The first fault found.
pub(super) fn read(file: &Path, text: &str, start: usize) -> Result<String, Fault> {
    let sql = text.get(start..).unwrap_or_default();
    let fault =
        |offset: usize, what: &str, hint: &str| Fault::at(file, text, start + offset, what, hint);
    let scanned = pg_query::scan(sql)
        .map_err(|error| fault(0, &said(&error), "close what is opened in quotes or a comment"))?;
    let place = |at: i32| usize::try_from(at).unwrap_or_default();
    for pair in scanned.tokens.windows(2) {
        let [colon, next] = pair else { continue };
        let name = sql.get(place(next.start)..place(next.end)).unwrap_or_default();
        let word = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
        if colon.token() == Token::Ascii58 && colon.end == next.start && word {
            let hint = "nobody gives a process values; a slice is written a[1 : (x)]";
            return Err(fault(place(colon.start), &format!("it has a parameter, '{name}'"), hint));
        }
    }
    let first = scanned.tokens.iter().find(|token| {
        !matches!(token.token(), Token::SqlComment | Token::CComment | Token::Ascii59)
    });
    let Some(first) = first.map(|token| place(token.start)) else {
        return Err(fault(0, "there is no statement", ONE_OR_MORE));
    };
    let kinds = kinds(sql)
        .map_err(|what| fault(first, &what, "PostgreSQL's grammar refuses it; try it in psql"))?;
    for kind in kinds {
        let hint = match kind.as_str() {
            "TransactionStmt" => {
                "leave BEGIN and COMMIT out: the statements of a file are one transaction"
            }
            "CopyStmt" => "COPY needs somebody who reads and writes; use INSERT",
            "ListenStmt" | "UnlistenStmt" => "nobody listens after the run; leave it out",
            _ => continue,
        };
        let what = format!("{} cannot be in a process", word(&kind));
        return Err(fault(first, &what, hint));
    }
    Ok(sql.get(first..).unwrap_or_default().trim_end().to_owned())
}

/// Whether it is one statement of which Postgres can be asked.
pub(super) fn is_one_question(sql: &str) -> bool {
    match kinds(sql).as_deref() {
        Ok([kind]) => ASKED.contains(&kind.as_str()),
        _ => false,
    }
}

/// What each statement is.
fn kinds(sql: &str) -> Result<Vec<String>, String> {
    let tree = pg_query::parse(sql, ParserOptions::DEFAULT).map_err(|error| said(&error))?;
    let statements = serde_json::to_value(tree.protobuf.stmts).unwrap_or_default();
    let kind = |statement: &Value| {
        let node = statement.pointer("/stmt/node").and_then(Value::as_object);
        node.and_then(|node| node.keys().next()).cloned().unwrap_or_default()
    };
    Ok(statements.as_array().into_iter().flatten().map(kind).collect())
}

fn said(error: &pg_query::Error) -> String {
    match error {
        pg_query::Error::Scan(message) | pg_query::Error::Parse(message) => message.clone(),
        other => other.to_string(),
    }
}

fn word(kind: &str) -> &'static str {
    match kind {
        "CopyStmt" => "COPY",
        "TransactionStmt" => "a statement of transactions",
        _ => "LISTEN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_taken_as_they_are() {
        let file = Path::new("p.sql");
        let text = "-- note\ndelete from t where a = ':x' and b::int = 1;\nselect 1 ; \n";
        assert_eq!(
            read(file, text, 0).unwrap(),
            "delete from t where a = ':x' and b::int = 1;\nselect 1 ;"
        );
        for (text, want) in [
            ("-- only", "p.sql:1:1: there is no statement"),
            ("delete from t\nwhere a = :a", "p.sql:2:11: it has a parameter, 'a'"),
            ("selec 1", "p.sql:1:1: syntax error"),
            ("select 'x", "p.sql:1:1: unterminated"),
            ("begin; select 1; commit", "p.sql:1:1: a statement of transactions cannot"),
            ("copy t from stdin", "p.sql:1:1: COPY cannot"),
        ] {
            let fault = read(file, text, 0).unwrap_err().to_string();
            assert!(fault.starts_with(want), "{fault}");
        }
        assert!(is_one_question("call p()") && is_one_question("with x as (select 1) select 2"));
        assert!(!is_one_question("vacuum t") && !is_one_question("select 1; select 2"));
    }
}
