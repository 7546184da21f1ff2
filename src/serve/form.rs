//! Form: an answer's JSON → NDJSON or CSV. Pure; numbers and texts stay as Postgres printed them.

use std::fmt;

use bytes::Bytes;
use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::product::{Product, ResultKind};

/// What an answer is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Form {
    /// As Postgres gave it.
    #[default]
    Json,
    /// A row a line, each as JSON.
    Ndjson,
    /// A header and a row a line (RFC 4180). NULL is nothing, the empty text is `""`, as in Postgres's COPY.
    Csv,
}

/// Bytes that are no answer of the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer has not the form of its product")]
pub struct Unformed;

impl Form {
    /// The value of `format`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            "ndjson" => Some(Self::Ndjson),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }

    /// Its name, as `format` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
        }
    }

    /// The form that an `Accept` prefers; JSON where it says nothing of the three.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let (mut best, mut most) = (Self::Json, 0.0);
        for item in accept.split(',') {
            let mut parts = item.split(';').map(str::trim);
            let form = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
                "text/csv" => Self::Csv,
                "application/x-ndjson" | "application/ndjson" => Self::Ndjson,
                "application/json" | "application/*" | "*/*" => Self::Json,
                _ => continue,
            };
            let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
            let quality = quality.unwrap_or(1.0);
            if quality > most {
                (best, most) = (form, quality);
            }
        }
        best
    }

    /// The JSON of this product's answer in this form.
    ///
    /// # Errors
    /// When it is no such answer.
    pub fn of(self, product: &Product, body: &Bytes) -> Result<Bytes, Unformed> {
        match self {
            Self::Json => Ok(body.clone()),
            Self::Ndjson => Ok(lines(product.draft.policy.result, body)?.into()),
            Self::Csv => {
                let names = product.description.columns.iter().map(|column| column.name.as_str());
                Ok(table(product.draft.policy.result, names, body)?.into())
            }
        }
    }
}

/// The rows of an answer, each still as JSON.
fn rows(result: ResultKind, body: &[u8]) -> Result<Vec<&RawValue>, Unformed> {
    let parsed = |body| serde_json::from_slice(body).map_err(|_| Unformed);
    match result {
        ResultKind::Rows | ResultKind::Arrays => serde_json::from_slice(body).map_err(|_| Unformed),
        ResultKind::Row if body == b"null" => Ok(Vec::new()),
        ResultKind::Row | ResultKind::Value => Ok(vec![parsed(body)?]),
    }
}

fn lines(result: ResultKind, body: &[u8]) -> Result<Vec<u8>, Unformed> {
    let mut text = Vec::with_capacity(body.len());
    for row in rows(result, body)? {
        // Within JSON a line can only end between two tokens.
        text.extend(row.get().bytes().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { b }));
        text.push(b'\n');
    }
    Ok(text)
}

fn table<'a>(
    result: ResultKind,
    names: impl Iterator<Item = &'a str>,
    body: &[u8],
) -> Result<Vec<u8>, Unformed> {
    let mut text = Vec::with_capacity(body.len());
    let names = if result == ResultKind::Value { names.take(1) } else { names.take(usize::MAX) };
    line(&mut text, names.map(|name| Some(name.to_owned())));
    for row in rows(result, body)? {
        let cells = match result {
            ResultKind::Rows | ResultKind::Row => {
                serde_json::from_str::<Cells<'_>>(row.get()).map_err(|_| Unformed)?.0
            }
            ResultKind::Arrays => serde_json::from_str(row.get()).map_err(|_| Unformed)?,
            ResultKind::Value => vec![row],
        };
        let cells = cells.into_iter().map(cell).collect::<Result<Vec<_>, _>>()?;
        line(&mut text, cells.into_iter());
    }
    Ok(text)
}

fn cell(raw: &RawValue) -> Result<Option<String>, Unformed> {
    match raw.get() {
        "null" => Ok(None),
        text if text.starts_with('"') => serde_json::from_str(text).map(Some).map_err(|_| Unformed),
        text => Ok(Some(text.to_owned())),
    }
}

fn line(text: &mut Vec<u8>, cells: impl Iterator<Item = Option<String>>) {
    for (at, cell) in cells.enumerate() {
        if at > 0 {
            text.push(b',');
        }
        let Some(cell) = cell else { continue };
        let quoted = cell.is_empty() || cell.contains([',', '"', '\n', '\r']);
        if quoted {
            text.push(b'"');
            text.extend_from_slice(cell.replace('"', "\"\"").as_bytes());
            text.push(b'"');
        } else {
            text.extend_from_slice(cell.as_bytes());
        }
    }
    text.extend_from_slice(b"\r\n");
}

/// The values of an object in the order of its text: two columns may have one name.
struct Cells<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Cells<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values;
        impl<'de> Visitor<'de> for Values {
            type Value = Cells<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a row")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some((_, value)) = map.next_entry::<serde::de::IgnoredAny, _>()? {
                    values.push(value);
                }
                Ok(Cells(values))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut row: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = row.next_element()? {
                    values.push(value);
                }
                Ok(Cells(values))
            }
        }
        deserializer.deserialize_any(Values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csv(result: ResultKind, names: &[&str], body: &str) -> String {
        let text = table(result, names.iter().copied(), body.as_bytes()).unwrap();
        String::from_utf8(text).unwrap()
    }

    fn ndjson(result: ResultKind, body: &str) -> String {
        String::from_utf8(lines(result, body.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn a_row_a_line() {
        assert_eq!(
            ndjson(ResultKind::Rows, r#"[{"a": 1.50},{"a": "x\ny"}]"#),
            "{\"a\": 1.50}\n{\"a\": \"x\\ny\"}\n"
        );
        assert_eq!(ndjson(ResultKind::Rows, "[{\"a\":\n{\"b\":\r\n1}}]"), "{\"a\": {\"b\":  1}}\n");
        assert_eq!(ndjson(ResultKind::Rows, "[]"), "");
        assert_eq!(ndjson(ResultKind::Row, "null"), "");
        assert_eq!(ndjson(ResultKind::Value, "null"), "null\n");
        assert_eq!(ndjson(ResultKind::Arrays, "[[1,2],[3,4]]"), "[1,2]\n[3,4]\n");
    }

    #[test]
    fn a_table_has_a_header_and_quotes_what_needs_it() {
        let body = r#"[{"a":10.50,"b":"x, \"y\"","c":null},{"a":1e3,"b":"","c":{"d": 1}}]"#;
        assert_eq!(
            csv(ResultKind::Rows, &["a", "b", "c"], body),
            "a,b,c\r\n10.50,\"x, \"\"y\"\"\",\r\n1e3,\"\",\"{\"\"d\"\": 1}\"\r\n"
        );
        assert_eq!(csv(ResultKind::Arrays, &["a", "a"], "[[1,2]]"), "a,a\r\n1,2\r\n");
        assert_eq!(csv(ResultKind::Rows, &["a", "a"], r#"[{"a":1,"a":2}]"#), "a,a\r\n1,2\r\n");
        assert_eq!(csv(ResultKind::Row, &["a"], "null"), "a\r\n");
        assert_eq!(csv(ResultKind::Value, &["a", "b"], "true"), "a\r\ntrue\r\n");
    }

    #[test]
    fn what_is_no_answer_is_no_table() {
        assert_eq!(lines(ResultKind::Rows, b"{"), Err(Unformed));
        assert_eq!(table(ResultKind::Rows, ["a"].into_iter(), b"[1]"), Err(Unformed));
    }

    #[test]
    fn the_preferred_form_wins() {
        for (accept, form) in [
            ("", Form::Json),
            ("*/*", Form::Json),
            ("text/csv", Form::Csv),
            ("TEXT/CSV; charset=utf-8", Form::Csv),
            ("text/html, application/x-ndjson;q=0.9, */*;q=0.8", Form::Ndjson),
            ("text/csv;q=0.5, application/json", Form::Json),
            ("text/csv;q=0", Form::Json),
            ("image/png", Form::Json),
        ] {
            assert_eq!(Form::accepted(accept), form, "{accept}");
        }
    }
}
