//! Warm: `warm` of a header → which keys are tracked and computed before anybody reads them.
//!
//! Either a query, `select id from customers where active`, or the keys that another product has:
//! `keys of orders_of`. No SELECT begins like that.

use std::path::Path;

use super::{Draft, Fault, Product, parse};
use crate::description::{OutputColumn, Question};

/// A product's warm keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warm {
    /// Where they come from.
    pub domain: Domain,
    /// Where the file says so, in bytes.
    pub offset: usize,
    /// The query stands at `offset` as it is, without escapes.
    verbatim: bool,
}

/// Where warm keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Domain {
    /// Rows of a query: one column a parameter, in the order of the key.
    Query(String),
    /// The tracked keys of another product: its parameters of the same names.
    KeysOf(String),
}

impl std::fmt::Display for Warm {
    /// As a header says it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.domain {
            Domain::Query(sql) => f.write_str(sql),
            Domain::KeysOf(product) => write!(f, "keys of {product}"),
        }
    }
}

/// Reads the setting, whose value is `said` and is written somewhere in the file's text from byte `at` on.
pub(super) fn read(file: &Path, text: &str, at: usize, said: &str) -> Result<Warm, Fault> {
    let words: Vec<&str> = said.split_whitespace().collect();
    if let ["keys", "of", rest @ ..] = words.as_slice() {
        let [name] = rest else {
            let hint = "name one product: \"keys of orders_of\"";
            return Err(Fault::at(file, text, at, format!("warm cannot be '{said}'"), hint));
        };
        let domain = Domain::KeysOf((*name).to_owned());
        return Ok(Warm { domain, offset: at, verbatim: true });
    }
    let found = text.get(at..).and_then(|rest| rest.find(said)).filter(|_| !said.is_empty());
    // The rest of the file is no part of it; what is before it keeps the places right.
    let (before, offset) = match found.map(|found| at + found) {
        Some(start) => (text.get(..start + said.len()).unwrap_or_default(), start),
        None => (said, 0),
    };
    let place = |mut fault: Fault| {
        if found.is_none() {
            let Fault { line, column, .. } = Fault::at(file, text, at, "", "");
            (fault.line, fault.column) = (line, column);
        }
        Fault { message: format!("warm: {}", fault.message), ..fault }
    };
    let statement = parse::read(file, before, offset).map_err(place)?;
    let fault = |offset, what, hint: &str| Err(place(Fault::at(file, before, offset, what, hint)));
    if let Some((name, offset)) = statement.names.first() {
        let hint = "select the values that the product's parameters shall have";
        return fault(*offset, format!("it has a parameter, '{name}'"), hint);
    }
    if let Some(call) = statement.calls.first() {
        let hint =
            "select from tables, or say \"keys of NAME\" to have the keys of another product";
        return fault(call.at.start, "it reads a product".to_owned(), hint);
    }
    let sql = statement.pieces.concat();
    let offset = if found.is_some() { statement.offset } else { at };
    Ok(Warm { domain: Domain::Query(sql), offset, verbatim: found.is_some() })
}

impl Warm {
    /// What the source is asked of the query; `None` where there is none.
    #[must_use]
    pub fn question(&self) -> Option<Question> {
        let Domain::Query(sql) = &self.domain else { return None };
        Some(Question {
            parameters: Vec::new(),
            pieces: vec![sql.clone()],
            holes: Vec::new(),
            mentions: None,
            offset: self.offset,
            parts: Vec::new(),
        })
    }

    /// Where to point for something that lies at this byte of the file, as far as the query's text tells.
    #[must_use]
    pub fn place(&self, offset: usize) -> usize {
        if self.verbatim { offset } else { self.offset }
    }
}

/// What is wrong with the columns of a product's warm query; `fits` says of each that it can become its parameter.
#[must_use]
pub fn misfit(product: &Product, columns: &[OutputColumn], fits: &[bool]) -> Option<Fault> {
    let warm = product.draft.policy.warm.as_ref()?;
    let wanted: Vec<String> = product
        .parameters
        .iter()
        .map(|parameter| format!("{} {}", parameter.name, parameter.type_.name))
        .collect();
    if columns.len() != wanted.len() {
        let what = format!(
            "warm: the query has {} columns, the product {} parameters",
            columns.len(),
            wanted.len()
        );
        let hint = match wanted.as_slice() {
            [] => "a product without parameters has one key: select nothing, as in \"select\""
                .to_owned(),
            _ => format!("select one column a parameter, in this order: {}", wanted.join(", ")),
        };
        return Some(product.draft.fault(warm.offset, what, hint));
    }
    let at = fits.iter().position(|fits| !fits)?;
    let (column, parameter) = (columns.get(at)?, product.parameters.get(at)?);
    let what = format!(
        "warm: column {} is of type {}, parameter '{}' of type {}",
        at + 1,
        column.type_.name,
        parameter.name,
        parameter.type_.name
    );
    let hint = format!("cast it in the query: {}::{}", column.name, parameter.type_.name);
    Some(product.draft.fault(warm.offset, what, hint))
}

/// What is wrong with taking the keys of `other`, which has to be a product.
#[must_use]
pub fn stranger(product: &Product, other: Option<&Product>) -> Option<Fault> {
    let warm = product.draft.policy.warm.as_ref()?;
    let Domain::KeysOf(name) = &warm.domain else { return None };
    let fault = |what, hint: String| Some(product.draft.fault(warm.offset, what, hint));
    if name == product.name() {
        let hint = "its own keys are tracked anyhow; name another product, or write a query";
        return fault("warm: it names the product itself".to_owned(), hint.to_owned());
    }
    let Some(other) = other else {
        let hint = "name a product that works, or write a query".to_owned();
        return fault(format!("warm: there is no product '{name}'"), hint);
    };
    for parameter in &product.parameters {
        let twin = other.parameters.iter().find(|twin| twin.name == parameter.name);
        let Some(twin) = twin else {
            let what = format!("warm: product '{name}' has no parameter '{}'", parameter.name);
            return fault(what, "it must have all of this product's, of the same names".to_owned());
        };
        if twin.type_ != parameter.type_ {
            let what = format!(
                "warm: parameter '{}' of product '{name}' is of type {}, here of type {}",
                parameter.name, twin.type_.name, parameter.type_.name
            );
            return fault(what, "say the same type in the params of both".to_owned());
        }
    }
    None
}

/// The statement whose rows are a product's warm keys, at most `most` of them: canonical texts, one a parameter.
/// format() prints by the type's output function, as keys are written; a NULL makes no key.
#[must_use]
pub fn statement(product: &Product, sql: &str, most: usize) -> String {
    let texts: Vec<String> = product
        .parameters
        .iter()
        .enumerate()
        .map(|(at, parameter)| {
            let (column, cast) = (format!("kck_warm.kck_c{}", at + 1), &parameter.type_.name);
            format!(
                "case when {column} is not null then pg_catalog.format('%s', {column}::{cast}) end"
            )
        })
        .collect();
    let names: Vec<String> = (1..=texts.len()).map(|n| format!("kck_c{n}")).collect();
    let named = if names.is_empty() { String::new() } else { format!("({})", names.join(", ")) };
    // The newline ends a comment that the query may end with.
    format!(
        "select array[{}]::pg_catalog.text[] from ({sql}\n) kck_warm{named} limit {most}",
        texts.join(", ")
    )
}

/// Where the warm query of a draft stands, for what the source says of it.
#[must_use]
pub fn fault(draft: &Draft, warm: &Warm, offset: usize, what: &str, hint: &str) -> Fault {
    draft.fault(warm.place(offset), format!("warm: {what}"), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warm(text: &str) -> Result<Warm, String> {
        let at = text.find('=').unwrap() + 1;
        let said = text[at..].trim().trim_matches('"').replace("\\n", "\n");
        read(Path::new("p.sql"), text, at, &said).map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_query_or_the_keys_of_another_product() {
        let query = warm("warm = \"select id from t where a\"").unwrap();
        assert_eq!(query.domain, Domain::Query("select id from t where a".to_owned()));
        assert_eq!((query.offset, query.place(12)), (8, 12));
        assert_eq!(warm("warm = \"keys of  orders_of\"").unwrap().to_string(), "keys of orders_of");
        assert_eq!(warm("warm = \"values (1)\"").unwrap().to_string(), "values (1)");
    }

    #[test]
    fn what_is_neither_is_told_where() {
        for (text, want) in [
            ("warm = \"\"", "p.sql:1:7: warm: there is no statement"),
            ("warm = \"keys of\"", "p.sql:1:7: warm cannot be 'keys of'"),
            ("warm = \"keys of a b\"", "warm cannot be 'keys of a b'"),
            ("warm = \"select :id\"", "p.sql:1:16: warm: it has a parameter, 'id'"),
            ("warm = \"delete from t\"", "p.sql:1:9: warm: "),
            ("warm = \"select 1; select 2\"", "warm: "),
            ("warm = \"select 1 from kck.p() x\"", "p.sql:1:23: warm: it reads a product"),
            ("warm = \"select\\n:id\"", "p.sql:1:7: warm: it has a parameter"),
        ] {
            let fault = warm(text).unwrap_err();
            assert!(fault.starts_with(want) || fault.contains(want), "{text}: {fault}");
        }
    }
}
