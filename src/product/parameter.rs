//! Parameter: its type, and a raw text → its canonical text, or the wish that the source be asked.

use crate::description::Type;

use super::canonical;

/// A parameter with its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// As in the file.
    pub name: String,
    /// What the header says, else what Postgres infers.
    pub type_: Type,
    /// What stands for a segment that is left out: canonical where kck prints the type itself.
    pub default: Option<String>,
    /// Who makes its canonical text.
    pub form: Form,
}

/// How the canonical text of a type is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A whole number within limits.
    Integer(i64, i64),
    /// An object id.
    Oid,
    /// `t` or `f`.
    Boolean,
    /// Any text, as it is.
    Text,
    /// A text that Postgres cuts after 63 bytes.
    Name,
    /// Thirty-two hexadecimal digits.
    Uuid,
    /// A decimal number that keeps its scale.
    Numeric,
    /// A day.
    Date,
    /// A day and a time of day.
    Timestamp,
    /// The same in UTC.
    TimestampTz,
    /// Hexadecimal bytes.
    Bytea,
    /// The source prints it.
    Source,
}

/// The canonical text of a value, or who knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Canonical {
    /// This is it.
    Text(String),
    /// Only the source can tell.
    AskSource,
}

/// A text that is not of its parameter's type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parameter '{name}' of type {type_name} cannot be '{text}': {reason}")]
pub struct BadParameter {
    /// Which parameter.
    pub name: String,
    /// Its type.
    pub type_name: String,
    /// The text, shortened.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Form {
    /// The form of a type.
    #[must_use]
    pub fn of(type_: &Type) -> Self {
        match (type_.oid, type_.name.as_str()) {
            (16, _) => Self::Boolean,
            (17, _) => Self::Bytea,
            (19, _) => Self::Name,
            (20, _) => Self::Integer(i64::MIN, i64::MAX),
            (21, _) => Self::Integer(i16::MIN.into(), i16::MAX.into()),
            (23, _) => Self::Integer(i32::MIN.into(), i32::MAX.into()),
            (25, _) | (1043, "character varying") => Self::Text,
            (26, _) => Self::Oid,
            (1082, _) => Self::Date,
            // A modifier, as in numeric(10,2), rounds: that is the source's to do.
            (1114, "timestamp without time zone") => Self::Timestamp,
            (1184, "timestamp with time zone") => Self::TimestampTz,
            (1700, "numeric") => Self::Numeric,
            (2950, _) => Self::Uuid,
            _ => Self::Source,
        }
    }

    /// The canonical text of `raw`, or what is wrong with it.
    fn canonical(self, raw: &str) -> Result<Canonical, &'static str> {
        match self {
            Self::Integer(min, max) => canonical::integer(raw, min, max),
            Self::Oid => Ok(canonical::oid(raw)),
            Self::Boolean => canonical::boolean(raw),
            Self::Text => Ok(Canonical::Text(raw.to_owned())),
            Self::Name => Ok(canonical::name(raw)),
            Self::Uuid => canonical::uuid(raw),
            Self::Numeric => canonical::numeric(raw),
            Self::Date => canonical::date(raw),
            Self::Timestamp => canonical::timestamp(raw),
            Self::TimestampTz => canonical::timestamp_tz(raw),
            Self::Bytea => Ok(canonical::bytea(raw)),
            Self::Source => Ok(Canonical::AskSource),
        }
    }
}

impl Parameter {
    /// The canonical text of `raw`.
    ///
    /// # Errors
    /// [`BadParameter`] where `raw` is certainly not of the type.
    pub fn canonical(&self, raw: &str) -> Result<Canonical, BadParameter> {
        if raw.contains('\0') {
            return Err(self.bad(raw, "it has a NUL byte"));
        }
        self.form.canonical(raw).map_err(|reason| self.bad(raw, reason))
    }

    /// The refusal of a text that is not of this parameter's type.
    #[must_use]
    pub fn bad(&self, raw: &str, reason: impl Into<String>) -> BadParameter {
        const SHOWN_MAX: usize = 100;
        let mut text: String = raw.chars().take(SHOWN_MAX).collect();
        if text.len() < raw.len() {
            text.push('…');
        }
        BadParameter {
            name: self.name.clone(),
            type_name: self.type_.name.clone(),
            text,
            reason: reason.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(oid: u32, name: &str) -> Parameter {
        let type_ = Type { oid, name: name.to_owned(), kind: 'b' };
        Parameter { name: "p".to_owned(), form: Form::of(&type_), type_, default: None }
    }

    #[test]
    fn a_refusal_names_parameter_type_and_text() {
        let bad = parameter(20, "bigint").canonical("abc").unwrap_err();
        assert_eq!(
            bad.to_string(),
            "parameter 'p' of type bigint cannot be 'abc': it is not a whole number"
        );
        let long = parameter(20, "bigint").canonical(&"x".repeat(500)).unwrap_err();
        assert_eq!(long.text.chars().count(), 101);
    }

    #[test]
    fn no_text_has_a_nul() {
        assert!(parameter(25, "text").canonical("a\0").is_err());
        assert!(parameter(600, "point").canonical("\0").is_err());
    }

    #[test]
    fn a_type_with_a_modifier_is_the_sources() {
        for (oid, name) in [
            (1043, "character varying(3)"),
            (1700, "numeric(4,1)"),
            (1114, "timestamp(0) without time zone"),
        ] {
            assert_eq!(parameter(oid, name).form, Form::Source, "{name}");
        }
        assert_eq!(parameter(1043, "character varying").form, Form::Text);
    }
}
