//! A pattern: which tracked keys of a product a change can touch, where it does not say one key.
//!
//! `depend` makes patterns from rows, the ledger finds the keys. A pattern says more keys rather than fewer: what
//! cannot be compared counts as agreeing.

use std::{fmt, sync::Arc};

/// The keys of a product whose parameters all agree with their parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern {
    /// The product's name.
    pub product: Arc<str>,
    /// For each parameter, in key order.
    pub parts: Box<[Part]>,
}

/// What a pattern says of one parameter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Nothing.
    Any,
    /// It has this canonical text.
    Text(Box<str>),
    /// It is this number, whatever its scale, in the form that [`number`] gives.
    Number(Box<str>),
    /// It is at most this.
    AtMost(Order, Ordered),
    /// It is at least this.
    AtLeast(Order, Ordered),
}

/// How canonical texts of a type are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// As numbers: int2, int4, int8, oid, numeric.
    Number,
    /// As dates and timestamps in ISO form, UTC.
    Time,
    /// Byte by byte: text under "C", bytea.
    Bytes,
}

/// A value as bytes that compare as the values do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ordered(Box<[u8]>);

impl Part {
    /// Whether a parameter with this canonical text agrees.
    #[must_use]
    pub fn agrees(&self, value: &str) -> bool {
        match self {
            Part::Any => true,
            Part::Text(text) => **text == *value,
            Part::Number(text) => number(value).is_none_or(|value| *value == **text),
            Part::AtMost(order, most) => order.read(value).is_none_or(|value| value <= *most),
            Part::AtLeast(order, least) => order.read(value).is_none_or(|value| *least <= value),
        }
    }
}

impl Pattern {
    /// Whether a key of the product with these canonical texts agrees.
    #[must_use]
    pub fn agrees(&self, values: &[String]) -> bool {
        self.parts.len() == values.len()
            && self.parts.iter().zip(values).all(|(part, value)| part.agrees(value))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.product)?;
        self.parts.iter().try_for_each(|part| match part {
            Part::Any => f.write_str("/*"),
            Part::Text(text) | Part::Number(text) => write!(f, "/{text}"),
            Part::AtMost(..) => f.write_str("/<="),
            Part::AtLeast(..) => f.write_str("/>="),
        })
    }
}

impl Order {
    /// The value of a canonical text; `None` for what this order does not know.
    #[must_use]
    pub fn read(self, text: &str) -> Option<Ordered> {
        let bytes = match self {
            Order::Number => number_bytes(text)?,
            Order::Time => time_bytes(text)?,
            Order::Bytes => text.as_bytes().to_vec(),
        };
        Some(Ordered(bytes.into()))
    }
}

/// A number without what does not change it: `-007.50` is `-7.5`, `-0.0` is `0`; `None` for what is no number in
/// decimal digits.
#[must_use]
pub fn number(text: &str) -> Option<Box<str>> {
    if matches!(text, "NaN" | "Infinity" | "-Infinity") {
        return Some(text.into());
    }
    let (negative, whole, fraction) = digits(text)?;
    let sign = if negative && !(whole.is_empty() && fraction.is_empty()) { "-" } else { "" };
    let whole = if whole.is_empty() { "0" } else { whole };
    let point = if fraction.is_empty() { "" } else { "." };
    Some(format!("{sign}{whole}{point}{fraction}").into())
}

/// Sign, digits before the point without leading zeros, digits behind it without trailing ones.
fn digits(text: &str) -> Option<(bool, &str, &str)> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let decimal = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !decimal(whole) || !decimal(fraction) || whole.len() + fraction.len() == 0 {
        return None;
    }
    Some((negative, whole.trim_start_matches('0'), fraction.trim_end_matches('0')))
}

/// Class of size (`-Infinity`, negative, zero and positive, `Infinity`, `NaN`), then where the first digit stands,
/// then the digits; of negative numbers each byte is turned around, and their end is above any digit.
fn number_bytes(text: &str) -> Option<Vec<u8>> {
    match text {
        "-Infinity" => return Some(vec![0]),
        "Infinity" => return Some(vec![3]),
        "NaN" => return Some(vec![4]),
        _ => {}
    }
    let (negative, whole, fraction) = digits(text)?;
    let leading = fraction.len() - fraction.trim_start_matches('0').len();
    let place = match (whole.len(), fraction.len()) {
        (0, 0) => return Some(vec![2]),
        (0, _) => -i64::try_from(leading).ok()?,
        (whole, _) => i64::try_from(whole).ok()?,
    };
    let fraction = if whole.is_empty() { fraction.trim_start_matches('0') } else { fraction };
    let digits = [whole, fraction].concat();
    let digits = if fraction.is_empty() { digits.trim_end_matches('0') } else { &digits };
    // Above zero's single byte, whatever the place.
    let place = place.checked_add(1 << 40)?.to_be_bytes();
    let mut bytes = vec![2];
    bytes.extend(place);
    bytes.extend(digits.bytes());
    if negative {
        bytes.iter_mut().skip(1).for_each(|byte| *byte = !*byte);
        if let Some(class) = bytes.first_mut() {
            *class = 1;
        }
        bytes.push(u8::MAX);
    }
    Some(bytes)
}

/// The year as a number, then the rest as it is: `2026-01-31 10:00:00.5+00`, `0044-03-15 BC`.
fn time_bytes(text: &str) -> Option<Vec<u8>> {
    match text {
        "-infinity" => return Some(vec![0]),
        "infinity" => return Some(vec![2]),
        _ => {}
    }
    let (text, before) = text.strip_suffix(" BC").map_or((text, false), |rest| (rest, true));
    let text = text.strip_suffix("+00").unwrap_or(text);
    let (year, rest) = text.split_once('-')?;
    let plain = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'-' | b' ' | b':' | b'.');
    if !year.bytes().all(|byte| byte.is_ascii_digit()) || !rest.bytes().all(plain) {
        return None;
    }
    let year: i64 = year.parse().ok()?;
    // There is no year 0: 1 BC comes before 1.
    let year = if before { 1 - year } else { year };
    let mut bytes = vec![1];
    bytes.extend(year.checked_add(1 << 40)?.to_be_bytes());
    bytes.extend(rest.bytes());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(order: Order, text: &str) -> Ordered {
        order.read(text).unwrap()
    }

    fn ascending(order: Order, texts: &[&str]) {
        for pair in texts.windows(2) {
            assert!(part(order, pair[0]) < part(order, pair[1]), "{} < {}", pair[0], pair[1]);
        }
    }

    #[test]
    fn numbers_are_ordered_as_postgres_orders_them() {
        ascending(
            Order::Number,
            &[
                "-Infinity",
                "-1000",
                "-99.5",
                "-99",
                "-1.25",
                "-1.2",
                "-1",
                "-0.5",
                "-0.05",
                "-0.001",
                "0",
                "0.001",
                "0.0015",
                "0.05",
                "0.5",
                "1",
                "1.2",
                "1.25",
                "9",
                "10",
                "10.01",
                "99",
                "100",
                "Infinity",
                "NaN",
            ],
        );
        for (one, other) in [("1.50", "1.5"), ("-0.0", "0"), ("100", "100.00"), ("007", "7")] {
            assert_eq!(part(Order::Number, one), part(Order::Number, other), "{one} {other}");
            assert_eq!(number(one), number(other), "{one} {other}");
        }
        assert_eq!(number("1e3"), None);
        assert_eq!(number(""), None);
        assert_eq!(number("."), None);
    }

    #[test]
    fn times_are_ordered() {
        ascending(
            Order::Time,
            &[
                "-infinity",
                "4713-01-01 BC",
                "0044-03-15 BC",
                "0001-12-31 BC",
                "0001-01-01",
                "2026-01-31",
                "2026-02-01",
                "12026-01-01",
                "infinity",
            ],
        );
        ascending(
            Order::Time,
            &[
                "2026-01-31 10:00:00+00",
                "2026-01-31 10:00:00.000001+00",
                "2026-01-31 10:00:00.5+00",
                "2026-01-31 10:00:01+00",
                "2026-02-01 00:00:00+00",
            ],
        );
        assert_eq!(Order::Time.read("yesterday"), None);
        assert_eq!(Order::Time.read("2026-01-01 10:00:00+02"), None);
    }

    #[test]
    fn what_cannot_be_compared_agrees() {
        let most = Part::AtMost(Order::Time, part(Order::Time, "2026-01-01"));
        assert!(most.agrees("2025-12-31") && most.agrees("2026-01-01") && most.agrees("soon"));
        assert!(!most.agrees("2026-01-02"));
    }

    proptest! {
        #[test]
        fn numbers_compare_as_they_are(a in -100_000i64..100_000, b in -100_000i64..100_000, scale in 0u32..6) {
            let text = |value: i64| {
                let unit = 10i64.pow(scale);
                let sign = if value < 0 { "-" } else { "" };
                let (whole, rest) = (value.abs() / unit, value.abs() % unit);
                match scale {
                    0 => format!("{sign}{whole}"),
                    scale => format!("{sign}{whole}.{rest:0width$}", width = scale as usize),
                }
            };
            prop_assert_eq!(part(Order::Number, &text(a)).cmp(&part(Order::Number, &text(b))), a.cmp(&b));
            prop_assert_eq!(number(&text(a)) == number(&text(b)), a == b);
        }

        #[test]
        fn any_text_is_read_without_panic(text in "\\PC*") {
            for order in [Order::Number, Order::Time, Order::Bytes] {
                drop(order.read(&text));
            }
            drop(number(&text));
        }
    }
}
