//! A key: a product with its parameters, as one canonical text: `orders_of/42`.
//!
//! Segments are percent-encoded as UTF-8 except `A-Z a-z 0-9 - . _ ~`; an empty segment is the
//! empty string. Two spellings of one key cannot exist, so keys compare as texts.

use std::{borrow::Borrow, fmt, sync::Arc};

/// A product's name and the canonical texts of its parameters, encoded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The key of `product` with these parameter values, each in its canonical text.
    pub fn new<'a>(product: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut text = String::with_capacity(product.len() + 16);
        write_key(&mut text, product, values);
        Self(text.into())
    }

    /// A key that was stored: it was canonical when it was made.
    #[must_use]
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The product's name.
    #[must_use]
    pub fn product(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(product, _)| product)
    }

    /// The parameters' canonical texts, decoded, in order.
    #[must_use]
    pub fn values(&self) -> Vec<String> {
        let mut segments = self.0.split('/');
        segments.next();
        segments.map(|segment| decode(segment).unwrap_or_default()).collect()
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Appends the key of `product` with these canonical values to `text`, so that a buffer can be used again.
pub fn write_key<'a>(text: &mut String, product: &str, values: impl IntoIterator<Item = &'a str>) {
    text.push_str(product);
    for value in values {
        text.push('/');
        encode(text, value);
    }
}

/// Appends `value` percent-encoded.
pub fn encode(text: &mut String, value: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            text.push('%');
            for nibble in [byte >> 4, byte & 15] {
                text.push(HEX.get(usize::from(nibble)).map_or('0', |digit| char::from(*digit)));
            }
        }
    }
}

/// A segment that cannot be a parameter's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSegment {
    /// `%` without two hexadecimal digits behind it.
    #[error("'%' without two hexadecimal digits")]
    Escape,
    /// The decoded bytes are not UTF-8.
    #[error("invalid UTF-8")]
    Utf8,
    /// The decoded text has a NUL byte, which Postgres text cannot hold.
    #[error("NUL byte")]
    Nul,
}

/// Decodes one segment of a path, strictly: any byte may come encoded, `+` is a plus.
///
/// # Errors
/// [`BadSegment`] for what no text encodes to.
pub fn decode(segment: &str) -> Result<String, BadSegment> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |b: Option<u8>| {
                b.and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok())
            };
            match (digit(rest.next()), digit(rest.next())) {
                (Some(high), Some(low)) => bytes.push(high << 4 | low),
                _ => return Err(BadSegment::Escape),
            }
        } else {
            bytes.push(byte);
        }
    }
    if bytes.contains(&0) {
        return Err(BadSegment::Nul);
    }
    String::from_utf8(bytes).map_err(|_| BadSegment::Utf8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_gives_back_its_values(values in prop::collection::vec("[^\0]*", 0..4)) {
            let key = Key::new("p", values.iter().map(String::as_str));
            prop_assert_eq!(key.product(), "p");
            prop_assert_eq!(key.values(), values.clone());
            prop_assert_eq!(Key::from_stored(key.as_str()), key);
        }

        #[test]
        fn different_values_are_different_keys(a in prop::collection::vec("[^\0]*", 0..3), b in prop::collection::vec("[^\0]*", 0..3)) {
            let same = Key::new("p", a.iter().map(String::as_str)) == Key::new("p", b.iter().map(String::as_str));
            prop_assert_eq!(same, a == b);
        }

        #[test]
        fn decoding_never_panics(text in "\\PC*") {
            drop(decode(&text));
        }
    }

    #[test]
    fn refuses_what_no_text_encodes_to() {
        for (segment, fault) in [
            ("%", BadSegment::Escape),
            ("%4", BadSegment::Escape),
            ("%zz", BadSegment::Escape),
            ("%ff", BadSegment::Utf8),
            ("a%00", BadSegment::Nul),
        ] {
            assert_eq!(decode(segment), Err(fault), "{segment}");
        }
    }

    #[test]
    fn an_empty_segment_is_the_empty_text() {
        assert_eq!(Key::new("p", [""]).as_str(), "p/");
        assert_eq!(Key::from_stored("p/").values(), [""]);
    }
}
