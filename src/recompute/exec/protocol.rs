//! Protocol: what kck and a program say to each other, as lines of JSON; `docs/guide/programs.md` is its text.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::change::Position;

/// Of the protocol.
const VERSION: u64 = 1;
/// Requests that a program may take at once.
const CONCURRENCY_MAX: usize = 256;
/// What is shown of a text that a program wrote.
const SHOWN_CHARS: usize = 300;

/// What is asked of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Who is asked for.
    pub of: Of,
    /// Name → canonical text.
    pub params: BTreeMap<String, String>,
    /// Exact as of at least this.
    pub as_of: Position,
}

/// A product, which may be asked for twice, or a process, which may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    /// By its name.
    Product(String),
    /// By its name.
    Process(String),
}

/// What a program says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// For people.
    pub name: String,
    /// Requests that it takes at once.
    pub concurrency: usize,
    products: Option<Vec<String>>,
    processes: Option<Vec<String>>,
}

/// An answer's value, or the program's own words on why there is none.
pub type Said = Result<Bytes, String>;

impl Of {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Product(name) | Self::Process(name) => name,
        }
    }
}

impl Greeting {
    /// Whether the program knows this product or process.
    #[must_use]
    pub fn knows(&self, of: &Of) -> bool {
        let names = match of {
            Of::Product(_) => &self.products,
            Of::Process(_) => &self.processes,
        };
        names.as_ref().is_none_or(|names| names.iter().any(|name| name == of.name()))
    }

    /// The products that it knows, for people.
    #[must_use]
    pub fn products(&self) -> String {
        shown(&self.products.clone().unwrap_or_default().join(", "))
    }
}

/// The first line to a program.
#[must_use]
pub fn greeting(server: &str) -> String {
    format!("{}\n", serde_json::json!({ "kck": VERSION, "server": server }))
}

/// The first line of a program.
///
/// # Errors
/// What is wrong with it.
pub fn greeted(line: &[u8]) -> Result<Greeting, String> {
    #[derive(Deserialize)]
    struct Line {
        kck: u64,
        #[serde(default)]
        name: String,
        concurrency: Option<usize>,
        products: Option<Vec<String>>,
        processes: Option<Vec<String>>,
    }
    let line: Line = serde_json::from_slice(line)
        .map_err(|error| format!("its greeting is none ({error}): {}", shown_bytes(line)))?;
    if line.kck != VERSION {
        return Err(format!("it speaks version {} of the protocol, not {VERSION}", line.kck));
    }
    let concurrency = line.concurrency.unwrap_or(1);
    if !(1..=CONCURRENCY_MAX).contains(&concurrency) {
        return Err(format!("its concurrency is {concurrency}, not from 1 to {CONCURRENCY_MAX}"));
    }
    let name = shown(&line.name);
    Ok(Greeting { name, concurrency, products: line.products, processes: line.processes })
}

/// A request.
#[must_use]
pub fn request(id: u64, ask: &Ask) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        id: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        product: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        process: Option<&'a str>,
        params: &'a BTreeMap<String, String>,
        as_of: String,
    }
    let (product, process) = match &ask.of {
        Of::Product(name) => (Some(name.as_str()), None),
        Of::Process(name) => (None, Some(name.as_str())),
    };
    let as_of = ask.as_of.to_string();
    let line = Line { id, product, process, params: &ask.params, as_of };
    let mut line = serde_json::to_string(&line).expect("texts are always JSON");
    line.push('\n');
    line
}

/// A line that answers a request: its id, and what was said.
///
/// # Errors
/// What is wrong with it.
pub fn answered(line: &[u8]) -> Result<(u64, Said), String> {
    #[derive(Deserialize)]
    struct Line<'a> {
        id: u64,
        // Else `null` would be no value.
        #[serde(borrow, default, deserialize_with = "given")]
        value: Option<&'a RawValue>,
        #[serde(borrow)]
        error: Option<Cow<'a, str>>,
    }
    fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
        <&RawValue>::deserialize(from).map(Some)
    }
    let wrong =
        |fact: String| format!("it wrote what is no answer ({fact}): {}", shown_bytes(line));
    let read: Line<'_> = serde_json::from_slice(line).map_err(|error| wrong(error.to_string()))?;
    match (read.value, read.error) {
        (Some(value), None) => Ok((read.id, Ok(Bytes::copy_from_slice(value.get().as_bytes())))),
        (None, Some(error)) => Ok((read.id, Err(shown(&error)))),
        _ => Err(wrong("it has neither `value` nor `error`, or both".to_owned())),
    }
}

/// A text of a program as people are shown it: one line, not too long.
#[must_use]
pub fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.chars().take(SHOWN_CHARS).map(plain).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        short.push('…');
    }
    short
}

fn shown_bytes(line: &[u8]) -> String {
    let start = line.get(..line.len().min(4 * SHOWN_CHARS)).unwrap_or_default();
    shown(&String::from_utf8_lossy(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Epoch, Lsn};

    #[test]
    fn a_request_has_everything_a_program_needs() {
        let ask = Ask {
            of: Of::Product("forecast".into()),
            params: BTreeMap::from([("city".into(), "Os\"lo".into())]),
            as_of: Position { epoch: Epoch(1), lsn: Lsn(0x16B_3748) },
        };
        assert_eq!(
            request(7, &ask),
            "{\"id\":7,\"product\":\"forecast\",\"params\":{\"city\":\"Os\\\"lo\"},\"as_of\":\"1:0/16B3748\"}\n"
        );
        let ask = Ask { of: Of::Process("nightly".into()), params: BTreeMap::new(), ..ask };
        assert!(request(8, &ask).starts_with("{\"id\":8,\"process\":\"nightly\",\"params\":{}"));
    }

    #[test]
    fn a_greeting_says_what_a_program_can() {
        let plain = greeted(b"{\"kck\":1}").unwrap();
        assert_eq!((plain.concurrency, plain.knows(&Of::Product("any".into()))), (1, true));
        let some = greeted(
            br#"{"kck":1,"name":"w 1","concurrency":4,"products":["a"],"processes":[],"new":{}}"#,
        );
        let some = some.unwrap();
        assert!(some.knows(&Of::Product("a".into())) && !some.knows(&Of::Product("b".into())));
        assert!(!some.knows(&Of::Process("a".into())));
        assert_eq!((some.name.as_str(), some.concurrency), ("w 1", 4));
        for (line, want) in [
            (&b"{\"kck\":2}"[..], "it speaks version 2 of the protocol, not 1"),
            (b"{\"kck\":1,\"concurrency\":0}", "its concurrency is 0, not from 1 to 256"),
            (b"Traceback", "its greeting is none (expected value at line 1 column 1): Traceback"),
            (b"{}", "its greeting is none (missing field `kck` at line 1 column 2): {}"),
        ] {
            assert_eq!(greeted(line).unwrap_err(), want);
        }
    }

    #[test]
    fn an_answers_bytes_are_kept_as_they_are() {
        let said = |line: &str| answered(line.as_bytes());
        let value = |text: &'static str| Ok(Bytes::from_static(text.as_bytes()));
        assert_eq!(
            said(r#"{"id":1,"value":{"b":1.50,"a":[null]}}"#),
            Ok((1, value(r#"{"b":1.50,"a":[null]}"#)))
        );
        assert_eq!(said(r#"{"value":null,"id":2}"#), Ok((2, value("null"))));
        assert_eq!(said(r#"{"id":3,"error":"no\nway"}"#), Ok((3, Err("no way".into()))));
        for bad in [
            "",
            "x",
            "[]",
            "{}",
            r#"{"id":1}"#,
            r#"{"id":-1,"value":1}"#,
            r#"{"id":1,"value":1,"error":"x"}"#,
            r#"{"id":1,"value":tru}"#,
        ] {
            assert!(said(bad).unwrap_err().starts_with("it wrote what is no answer ("), "{bad}");
        }
    }
}
