//! Resolve: segments of a path, or names with values → a key, or what the source must be asked first.

use crate::key::{self, Key};

use super::{
    Product,
    parameter::{BadParameter, Canonical, Parameter},
};

/// Parameters as a request gives them.
#[derive(Debug, Clone, Copy)]
pub enum Raw<'a> {
    /// Segments behind the product's name, still percent-encoded.
    Path(&'a [&'a str]),
    /// Names with decoded values.
    Named(&'a [(String, String)]),
}

/// A key, or the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// It is known.
    Key(Key),
    /// The source must be asked.
    Ask(Pending),
}

/// A key of which some values have no canonical text yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    product: String,
    values: Vec<(Canonical, String)>,
}

/// Parameters of which no key can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Too few or too many segments.
    #[error("{product} takes {} parameters, not {got}", counts(*least, *most))]
    Count {
        /// Of which product.
        product: String,
        /// Without those that have a default.
        least: usize,
        /// With them.
        most: usize,
        /// How many came.
        got: usize,
    },
    /// A text that is not of its type.
    #[error(transparent)]
    Bad(#[from] BadParameter),
    /// A name that the product does not know.
    #[error("{product} has no parameter '{name}'")]
    Unknown {
        /// Of which product.
        product: String,
        /// The name.
        name: String,
    },
    /// A parameter given twice.
    #[error("parameter '{name}' is given twice")]
    Twice {
        /// The name.
        name: String,
    },
}

fn counts(least: usize, most: usize) -> String {
    if least == most { least.to_string() } else { format!("{least} to {most}") }
}

/// Makes the key of `product` with these parameters.
///
/// # Errors
/// [`KeyError`]; all of them are the request's.
pub fn resolve(product: &Product, raw: Raw<'_>) -> Result<Resolution, KeyError> {
    let given = match raw {
        Raw::Path(segments) => from_path(product, segments)?,
        Raw::Named(pairs) => from_names(product, pairs)?,
    };
    let mut values = Vec::with_capacity(given.len());
    for (parameter, raw) in product.parameters.iter().zip(given) {
        values.push((parameter.canonical(&raw)?, raw));
    }
    let pending = Pending { product: product.name().to_owned(), values };
    Ok(if pending.questions().next().is_none() {
        Resolution::Key(pending.key([]))
    } else {
        Resolution::Ask(pending)
    })
}

impl Pending {
    /// What to ask: the parameter's index in its product and the raw text, in order.
    pub fn questions(&self) -> impl Iterator<Item = (usize, &str)> {
        self.values.iter().enumerate().filter_map(|(index, (canonical, raw))| match canonical {
            Canonical::AskSource => Some((index, raw.as_str())),
            Canonical::Text(_) => None,
        })
    }

    /// The key, given the source's answers in the order of the questions.
    #[must_use]
    pub fn key<'a>(&'a self, answers: impl IntoIterator<Item = &'a str>) -> Key {
        let mut answers = answers.into_iter();
        let values = self.values.iter().map(|(canonical, raw)| match canonical {
            Canonical::Text(text) => text.as_str(),
            Canonical::AskSource => answers.next().unwrap_or(raw),
        });
        Key::new(&self.product, values)
    }
}

fn count(product: &Product, got: usize) -> KeyError {
    let least = product.parameters.iter().filter(|parameter| parameter.default.is_none()).count();
    KeyError::Count {
        product: product.name().to_owned(),
        least,
        most: product.parameters.len(),
        got,
    }
}

fn from_path(product: &Product, segments: &[&str]) -> Result<Vec<String>, KeyError> {
    let wrong = || count(product, segments.len());
    if segments.len() > product.parameters.len() {
        return Err(wrong());
    }
    let mut given = Vec::with_capacity(product.parameters.len());
    for (index, parameter) in product.parameters.iter().enumerate() {
        given.push(match segments.get(index) {
            Some(segment) => decode(parameter, segment)?,
            None => parameter.default.clone().ok_or_else(wrong)?,
        });
    }
    Ok(given)
}

fn decode(parameter: &Parameter, segment: &str) -> Result<String, BadParameter> {
    key::decode(segment).map_err(|reason| parameter.bad(segment, reason.to_string()))
}

fn from_names(product: &Product, pairs: &[(String, String)]) -> Result<Vec<String>, KeyError> {
    for (index, (name, _)) in pairs.iter().enumerate() {
        if !product.parameters.iter().any(|parameter| parameter.name == *name) {
            return Err(KeyError::Unknown {
                product: product.name().to_owned(),
                name: name.clone(),
            });
        }
        if pairs.iter().take(index).any(|(earlier, _)| earlier == name) {
            return Err(KeyError::Twice { name: name.clone() });
        }
    }
    let value = |parameter: &Parameter| {
        let named = pairs.iter().find(|(name, _)| *name == parameter.name);
        let value = named.map(|(_, value)| value.clone()).or_else(|| parameter.default.clone());
        value.ok_or_else(|| count(product, pairs.len()))
    };
    product.parameters.iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        description::Type,
        product::{build, file, parameter::Form},
    };
    use std::path::Path;

    /// `p(id bigint, state shop.state, n int default 20)`.
    fn product() -> Product {
        let draft = file::draft("p", Path::new("p.sql"), "select 1".to_owned()).unwrap();
        let mut product = build::build(draft, build::tests::one_column()).unwrap();
        for (name, oid, type_name, default) in [
            ("id", 20, "bigint", None),
            ("state", 90_000, "shop.state", None),
            ("n", 23, "integer", Some("20")),
        ] {
            let type_ = Type { oid, name: type_name.to_owned(), kind: 'b' };
            let form = Form::of(&type_);
            let default = default.map(str::to_owned);
            product.parameters.push(Parameter { name: name.to_owned(), type_, default, form });
        }
        product
    }

    fn key(raw: Raw<'_>) -> String {
        match resolve(&product(), raw) {
            Ok(Resolution::Key(key)) => key.to_string(),
            Ok(Resolution::Ask(pending)) => {
                let asked: Vec<_> =
                    pending.questions().map(|(index, raw)| (index, raw.to_owned())).collect();
                assert_eq!(asked.len(), 1);
                assert_eq!(asked[0].0, 1);
                pending.key(["canon/1"]).to_string() + " from " + &asked[0].1
            }
            Err(error) => error.to_string(),
        }
    }

    fn named(pairs: &[(&str, &str)]) -> String {
        let pairs: Vec<_> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        key(Raw::Named(&pairs))
    }

    #[test]
    fn a_path_and_names_make_the_same_key() {
        let want = "p/7/canon%2F1/5 from ra w";
        assert_eq!(key(Raw::Path(&["007", "ra%20w", "05"])), want);
        assert_eq!(named(&[("n", "05"), ("state", "ra w"), ("id", "+7")]), want);
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        assert_eq!(key(Raw::Path(&["7", "x"])), "p/7/canon%2F1/20 from x");
        assert_eq!(named(&[("id", "7"), ("state", "")]), "p/7/canon%2F1/20 from ");
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        assert_eq!(key(Raw::Path(&["7"])), "p takes 2 to 3 parameters, not 1");
        assert_eq!(key(Raw::Path(&["7", "x", "1", "2"])), "p takes 2 to 3 parameters, not 4");
        assert_eq!(named(&[("id", "7")]), "p takes 2 to 3 parameters, not 1");
        assert_eq!(named(&[("ID", "7")]), "p has no parameter 'ID'");
        assert_eq!(named(&[("id", "7"), ("id", "7")]), "parameter 'id' is given twice");
        assert_eq!(
            key(Raw::Path(&["x", "x"])),
            "parameter 'id' of type bigint cannot be 'x': it is not a whole number"
        );
        assert_eq!(
            key(Raw::Path(&["7", "%ff"])),
            "parameter 'state' of type shop.state cannot be '%ff': invalid UTF-8"
        );
        assert_eq!(
            key(Raw::Path(&["7", "a%00"])),
            "parameter 'state' of type shop.state cannot be 'a%00': NUL byte"
        );
    }
}
