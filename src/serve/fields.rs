//! A request's body → fields, and a field with its parameter → the text that is bound. Pure.
//!
//! JSON is never read as numbers: what a reader wrote is what Postgres reads.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{key, product::parameter::Parameter};

use super::problem::Problem;

/// A body, with each field's value as it came.
#[derive(Debug)]
pub enum Fields<'a> {
    /// A JSON object.
    Json(BTreeMap<String, &'a RawValue>),
    /// `application/x-www-form-urlencoded`; values are still encoded.
    Form(BTreeMap<String, &'a str>),
}

/// What a field gives its parameter; `None` is NULL.
pub type Value = Option<String>;

impl<'a> Fields<'a> {
    /// Reads a body. It is JSON where its type says so, or where it looks like an object; else a form: the original's
    /// clients send forms whatever they call them.
    ///
    /// # Errors
    /// What is wrong with the body as a whole.
    pub fn of(body: &'a [u8], is_json: bool) -> Result<Self, Problem> {
        let text = std::str::from_utf8(body).map_err(|_| {
            Problem::bad_request("body", "the body is not UTF-8", "send it as UTF-8")
        })?;
        let bare = text.trim_ascii();
        if bare.is_empty() {
            return Ok(Self::Form(BTreeMap::new()));
        }
        if is_json || bare.starts_with('{') { object(text) } else { form(bare) }
    }

    /// The names of the fields.
    pub fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Json(fields) => Box::new(fields.keys().map(String::as_str)),
            Self::Form(fields) => Box::new(fields.keys().map(String::as_str)),
        }
    }

    /// What the body gives a parameter, if it has a field of its name.
    ///
    /// # Errors
    /// What was given instead, and what is wrong with it.
    pub fn value(&self, parameter: &Parameter) -> Option<Result<Value, Misfit>> {
        match self {
            Self::Json(fields) => {
                let raw = fields.get(&parameter.name)?.get();
                Some(bound(&parameter.type_.name, raw).map_err(|fact| Misfit::of(raw, fact)))
            }
            Self::Form(fields) => {
                let raw = fields.get(&parameter.name)?;
                Some(decoded(raw).map(Some))
            }
        }
    }

    /// The text of a field, if there is one of this name and it is a text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        match self {
            Self::Json(fields) => serde_json::from_str(fields.get(name)?.get()).ok(),
            Self::Form(fields) => decoded(fields.get(name)?).ok(),
        }
    }

    /// Finds a field that is no parameter and no text either.
    #[must_use]
    pub fn undecodable(&self) -> Option<(&str, Misfit)> {
        let Self::Form(fields) = self else { return None };
        fields.iter().find_map(|(name, raw)| Some((name.as_str(), decoded(raw).err()?)))
    }
}

/// A value that no text of a parameter can be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// What was given, shortened.
    pub text: String,
    /// What is wrong with it.
    pub fact: String,
}

impl Misfit {
    fn of(raw: &str, fact: impl fmt::Display) -> Self {
        Self { text: raw.chars().take(100).collect(), fact: fact.to_string() }
    }
}

/// Decodes what stands in a form, once and strictly; `+` is a space.
fn decoded(raw: &str) -> Result<String, Misfit> {
    key::decode(&raw.replace('+', "%20")).map_err(|fault| Misfit::of(raw, fault))
}

fn form(text: &str) -> Result<Fields<'_>, Problem> {
    let mut fields = BTreeMap::new();
    for item in text.split('&').filter(|item| !item.is_empty()) {
        let (raw, value) = item.split_once('=').unwrap_or((item, ""));
        let name = decoded(raw).map_err(|misfit| {
            let message = format!("the name of a field is no text: {}", misfit.fact);
            Problem::bad_request(raw, message, "percent-encode it as UTF-8, once")
        })?;
        if fields.contains_key(&name) {
            return Err(twice(&name));
        }
        fields.insert(name, value);
    }
    Ok(Fields::Form(fields))
}

fn twice(name: &str) -> Problem {
    Problem::bad_request(name, "a field of the body is given twice", "give it once")
}

fn object(text: &str) -> Result<Fields<'_>, Problem> {
    let object: Object<'_> = serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let message = format!("the body is not a JSON object, at line {line} column {column}");
        Problem::bad_request("body", message, r#"send {"PARAMETER":VALUE,…}"#)
    })?;
    match object.twice {
        Some(name) => Err(twice(&name)),
        None => Ok(Fields::Json(object.fields)),
    }
}

struct Object<'a> {
    fields: BTreeMap<String, &'a RawValue>,
    twice: Option<String>,
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads;

        impl<'de> Visitor<'de> for Reads {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut object = Object { fields: BTreeMap::new(), twice: None };
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    if name.contains('\0') {
                        return Err(A::Error::custom("NUL byte"));
                    }
                    if object.fields.insert(name.clone(), value).is_some() {
                        object.twice = Some(name);
                    }
                }
                Ok(object)
            }
        }
        deserializer.deserialize_map(Reads)
    }
}

/// Postgres has no more.
const DIMENSIONS_MAX: u8 = 6;

/// What a JSON value binds to a parameter of this type.
fn bound(type_name: &str, raw: &str) -> Result<Value, &'static str> {
    let text = match raw.as_bytes().first() {
        Some(b'n') => return Ok(None),
        Some(b'"') => string(raw)?,
        Some(b'[' | b'{') if is_json(type_name) => raw.to_owned(),
        Some(b'[') => match type_name.strip_suffix("[]") {
            Some(element) => literal(element, raw, DIMENSIONS_MAX)?,
            None => return Err("a JSON array is only for arrays and json"),
        },
        Some(b'{') => return Err("a JSON object is only for json"),
        _ => raw.to_owned(),
    };
    if text.contains('\0') { Err("NUL byte") } else { Ok(Some(text)) }
}

fn is_json(type_name: &str) -> bool {
    matches!(type_name, "json" | "jsonb")
}

fn string(raw: &str) -> Result<String, &'static str> {
    serde_json::from_str(raw).map_err(|_| "its escapes are no text")
}

/// A JSON array as Postgres writes an array of this element type.
fn literal(element: &str, raw: &str, dimensions: u8) -> Result<String, &'static str> {
    const TOO_DEEP: &str = "an array has at most six dimensions";
    let deeper = dimensions.checked_sub(1).ok_or(TOO_DEEP)?;
    let items: Vec<&RawValue> = serde_json::from_str(raw).map_err(|_| TOO_DEEP)?;
    let items = items.iter().map(|item| {
        let item = item.get();
        match item.as_bytes().first() {
            Some(b'n') => Ok("NULL".to_owned()),
            Some(b'"') => Ok(quoted(&string(item)?)),
            Some(b'[' | b'{') if is_json(element) => Ok(quoted(item)),
            Some(b'[') => literal(element, item, deeper),
            Some(b'{') => Err("a JSON object is only for json"),
            _ => Ok(item.to_owned()),
        }
    });
    let items: Vec<String> = items.collect::<Result<_, _>>()?;
    // The one type of Postgres whose values have commas between them.
    let delimiter = if element == "box" { ";" } else { "," };
    Ok(format!("{{{}}}", items.join(delimiter)))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(type_name: &str, raw: &str) -> Result<Option<String>, &'static str> {
        bound(type_name, raw)
    }

    fn text(text: &str) -> Result<Option<String>, &'static str> {
        Ok(Some(text.to_owned()))
    }

    #[test]
    fn values_are_bound_as_they_were_written() {
        for (type_name, raw, want) in [
            ("numeric", "12345678901234567890.1234567890", "12345678901234567890.1234567890"),
            ("bigint", "-7", "-7"),
            ("boolean", "true", "true"),
            ("text", r#""it's \"é\"\n""#, "it's \"é\"\n"),
            ("text", r#""""#, ""),
            ("integer[]", r#""{1,2}""#, "{1,2}"),
            ("jsonb", r#"{"a": [1, 2.50]}"#, r#"{"a": [1, 2.50]}"#),
            ("json", r#"[null]"#, "[null]"),
            ("json", r#""1""#, "1"),
        ] {
            assert_eq!(json(type_name, raw), text(want), "{raw}");
        }
        assert_eq!(json("text", "null"), Ok(None));
    }

    #[test]
    fn arrays_become_literals() {
        for (type_name, raw, want) in [
            ("integer[]", "[1, null, -3]", "{1,NULL,-3}"),
            ("integer[]", "[]", "{}"),
            ("integer[]", "[[1,2],[3,4]]", "{{1,2},{3,4}}"),
            (
                "text[]",
                r#"["a","b,c","\"","\\","","NULL","{}"]"#,
                r#"{"a","b,c","\"","\\","","NULL","{}"}"#,
            ),
            ("jsonb[]", r#"[{"a":"b"},[1],2]"#, r#"{"{\"a\":\"b\"}","[1]",2}"#),
            ("box[]", r#"["(1,1),(0,0)","(2,2),(0,0)"]"#, r#"{"(1,1),(0,0)";"(2,2),(0,0)"}"#),
        ] {
            assert_eq!(json(type_name, raw), text(want), "{raw}");
        }
    }

    #[test]
    fn what_fits_no_parameter_is_refused() {
        for (type_name, raw) in [
            ("bigint", "[1]"),
            ("bigint", "{}"),
            ("integer[]", r#"[{"a":1}]"#),
            ("text", r#""a\u0000""#),
            ("text", r#""\ud800""#),
            ("text[]", r#"["\u0000"]"#),
            ("text[]", r#"["\udfff"]"#),
        ] {
            assert!(json(type_name, raw).is_err(), "{raw}");
        }
    }

    fn names(body: &str, is_json: bool) -> Result<Vec<String>, String> {
        let fields = Fields::of(body.as_bytes(), is_json).map_err(|problem| problem.message);
        Ok(fields?.names().map(str::to_owned).collect())
    }

    #[test]
    fn a_body_is_json_where_it_is_called_or_looks_so() {
        let fields = Fields::of(b" {\"a\": 1}", false).unwrap();
        assert!(matches!(fields, Fields::Json(_)));
        assert!(matches!(Fields::of(b"a=1", false).unwrap(), Fields::Form(_)));
        assert!(Fields::of(b"a=1", true).is_err());
        assert!(Fields::of(b"[1]", true).is_err());
        assert!(names("", true).unwrap().is_empty());
        assert!(names("\n", false).unwrap().is_empty());
    }

    #[test]
    fn names_come_once_and_are_texts() {
        assert_eq!(names("b=1&a%20b=&&c", false).unwrap(), ["a b", "b", "c"]);
        for body in ["a=1&a=2", "a=1&%61=2", "%=1", "%ff=1", "%00=1"] {
            assert!(names(body, false).is_err(), "{body}");
        }
        for body in [r#"{"a":1,"a":2}"#, r#"{"a\u0000":1}"#, "{", r#"{"a":1} x"#, "{'a':1}"] {
            assert!(names(body, true).is_err(), "{body}");
        }
        assert!(Fields::of(b"a=\xff", false).is_err());
    }

    #[test]
    fn a_form_is_decoded_once_and_strictly() {
        assert_eq!(decoded("a+b%2Bc%2525").unwrap(), "a b+c%25");
        for raw in ["%", "%4", "%zz", "%ff", "a%00"] {
            assert!(decoded(raw).is_err(), "{raw}");
        }
        assert!(Fields::of(b"x=%00", false).unwrap().undecodable().is_some());
    }

    #[test]
    fn nesting_has_a_limit() {
        let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(json("integer[]", &deep(6)), text("{{{{{{1}}}}}}"));
        assert!(json("integer[]", &deep(7)).is_err());
        assert!(json("integer[]", &deep(500_000)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn reading_never_panics(body in "(\\{|\\}|\\[|\\]|\"|a|:|,|1|\\\\u0000|\\\\|%|=|&|\\+|é| ){0,20}", is_json: bool) {
            if let Ok(Fields::Json(fields)) = Fields::of(body.as_bytes(), is_json) {
                for raw in fields.values() {
                    drop((bound("text[]", raw.get()), bound("text", raw.get()), bound("json", raw.get())));
                }
            }
        }
    }
}
