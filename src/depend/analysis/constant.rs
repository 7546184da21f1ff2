//! A constant's bytes as they lie in the server's memory → its canonical text, for the types that tests speak of.

use super::{term::oid, tree::Value};
use crate::{change::civil_from_days, description::Description};

/// `pg_proc.oid` of the casts that a literal of an integer gets beside a wider type: int8(int4), and numeric(int4),
/// numeric(int2), numeric(int8).
const WIDENED: [(u32, u32); 4] =
    [(481, oid::BIGINT), (1740, oid::NUMERIC), (1782, oid::NUMERIC), (1781, oid::NUMERIC)];

/// 2000-01-01, where Postgres counts days from, in days since 1970-01-01.
const POSTGRES_EPOCH_DAYS: i64 = 10_957;
const DAY_MICROSECONDS: i64 = 86_400_000_000;

/// The text and the type of a constant that is not NULL.
pub(super) fn constant(description: &Description, value: &Value<'_>) -> Option<(String, u32)> {
    let node = value.node()?;
    if let ("FUNCEXPR", Some([inner])) = (node.name, node.list("args")) {
        // A literal of a smaller type, as in `bigint_column in (1, 2)` and `numeric_column > 10`.
        let function: u32 = node.number("funcid")?;
        let (_, widened) = WIDENED.iter().find(|(cast, _)| *cast == function)?;
        let integers = [oid::SMALLINT, oid::INTEGER, oid::BIGINT];
        let (text, _) = constant(description, inner).filter(|(_, of)| integers.contains(of))?;
        return Some((text, *widened));
    }
    let node = value.named("CONST")?;
    let type_oid: u32 = node.number("consttype")?;
    let Some(Value::Datum(bytes)) = node.field("constvalue") else { return None };
    if node.flag("constisnull")? {
        return None;
    }
    let text = match type_oid {
        oid::BOOLEAN => (if bytes.contains(&1) { "t" } else { "f" }).to_owned(),
        oid::TEXT | oid::VARCHAR => String::from_utf8(content(bytes)?.to_vec()).ok()?,
        oid::SMALLINT => i16::from_le_bytes(description.first(bytes)?).to_string(),
        oid::INTEGER => i32::from_le_bytes(description.first(bytes)?).to_string(),
        oid::BIGINT => i64::from_le_bytes(description.first(bytes)?).to_string(),
        oid::NUMERIC if description.little_endian => numeric(content(bytes)?)?,
        oid::DATE => match i32::from_le_bytes(description.first(bytes)?) {
            i32::MIN | i32::MAX => return None,
            days => moment(i64::from(days), None),
        },
        oid::TIMESTAMP | oid::TIMESTAMPTZ => match i64::from_le_bytes(description.first(bytes)?) {
            i64::MIN | i64::MAX => return None,
            micros => {
                let zone = if type_oid == oid::TIMESTAMPTZ { "+00" } else { "" };
                let (days, rest) =
                    (micros.div_euclid(DAY_MICROSECONDS), micros.rem_euclid(DAY_MICROSECONDS));
                moment(days, Some((rest, zone)))
            }
        },
        _ if description.enums.contains(&type_oid) => {
            let label = u32::from_le_bytes(description.first(bytes)?);
            description.labels.get(&label)?.clone()
        }
        _ => return None,
    };
    Some((text, type_oid))
}

/// What comes behind four bytes of length that say how many bytes there are, their own included.
fn content(bytes: &[u8]) -> Option<&[u8]> {
    let (length, content) = bytes.split_first_chunk::<4>()?;
    let whole = usize::try_from(u32::from_le_bytes(*length) >> 2).ok()?;
    let turned = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    (whole == bytes.len() || turned == bytes.len()).then_some(content)
}

/// A numeric as `src/backend/utils/adt/numeric.c` packs it: sign, digits after the point and the weight of the first
/// digit in one or two numbers, then digits to base 10,000. `None` for NaN and the infinities.
fn numeric(bytes: &[u8]) -> Option<String> {
    let (numbers, []) = bytes.as_chunks::<2>() else { return None };
    let (first, rest) = numbers.split_first()?;
    let header = u16::from_le_bytes(*first);
    let (negative, scale, weight, digits) = match header & 0xC000 {
        0x8000 => {
            let weight = i16::try_from(header & 0x3F).ok()?;
            let weight = if header & 0x40 == 0 { weight } else { weight - 0x40 };
            (header & 0x2000 != 0, usize::from((header & 0x1F80) >> 7), weight, rest)
        }
        0xC000 => return None,
        sign => {
            let (weight, digits) = rest.split_first()?;
            (sign != 0, usize::from(header & 0x3FFF), i16::from_le_bytes(*weight), digits)
        }
    };
    let digit = |place: i32| {
        let at = usize::try_from(i32::from(weight) - place).ok();
        at.and_then(|at| digits.get(at)).map_or(0, |digit| u16::from_le_bytes(*digit))
    };
    let whole: String =
        (0..=i32::from(weight)).rev().map(|place| format!("{:04}", digit(place))).collect();
    let places = i32::try_from(scale.div_ceil(4)).ok()?;
    let fraction: String = (1..=places).map(|place| format!("{:04}", digit(-place))).collect();
    let whole = whole.trim_start_matches('0');
    let sign = if negative { "-" } else { "" };
    let whole = if whole.is_empty() { "0" } else { whole };
    let point = if scale == 0 { "" } else { "." };
    Some(format!("{sign}{whole}{point}{}", fraction.get(..scale)?))
}

/// Days since 2000-01-01, and microseconds since midnight with their time zone, as Postgres prints them under DateStyle
/// ISO.
fn moment(days: i64, time: Option<(i64, &str)>) -> String {
    let (year, month, day) = civil_from_days(days + POSTGRES_EPOCH_DAYS);
    // There is no year 0: before 1 comes 1 BC.
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    let Some((micros, zone)) = time else { return format!("{year:04}-{month:02}-{day:02}{era}") };
    let seconds = micros / 1_000_000;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = format!(".{:06}", micros % 1_000_000);
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}{fraction}{zone}{era}")
}

impl Description {
    /// The first bytes of a number, where the server keeps the lowest first.
    fn first<const N: usize>(&self, bytes: &[u8]) -> Option<[u8; N]> {
        self.little_endian.then(|| bytes.first_chunk::<N>().copied()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::depend::analysis::tree::read;

    fn check(tree: &str, little_endian: bool, wanted: Option<&str>) {
        let description = Description {
            little_endian,
            enums: [5000].into(),
            labels: [(5002, "open".to_owned())].into(),
            ..Description::default()
        };
        let value = read(tree).unwrap();
        assert_eq!(
            constant(&description, &value).map(|(text, _)| text).as_deref(),
            wanted,
            "{tree}"
        );
    }

    #[test]
    fn constants_are_read_as_the_server_prints_them() {
        check(
            "{CONST :consttype 23 :constisnull false :constvalue 4 [ -2 -1 -1 -1 -1 -1 -1 -1 ]}",
            true,
            Some("-2"),
        );
        check(
            "{CONST :consttype 20 :constisnull false :constvalue 8 [ 0 1 0 0 0 0 0 0 ]}",
            true,
            Some("256"),
        );
        check(
            "{CONST :consttype 21 :constisnull false :constvalue 2 [ 3 0 0 0 0 0 0 0 ]}",
            true,
            Some("3"),
        );
        check(
            "{CONST :consttype 16 :constisnull false :constvalue 1 [ 1 0 0 0 0 0 0 0 ]}",
            true,
            Some("t"),
        );
        check(
            "{CONST :consttype 25 :constisnull false :constvalue 6 [ 24 0 0 0 97 98 ]}",
            true,
            Some("ab"),
        );
        check(
            "{CONST :consttype 5000 :constisnull false :constvalue 4 [ -118 19 0 0 0 0 0 0 ]}",
            true,
            Some("open"),
        );
    }

    #[test]
    fn what_is_not_surely_read_is_no_constant() {
        check(
            "{CONST :consttype 23 :constisnull false :constvalue 4 [ 0 0 0 0 0 0 0 3 ]}",
            false,
            None,
        );
        check("{CONST :consttype 23 :constisnull true :constvalue <>}", true, None);
        check(
            "{CONST :consttype 25 :constisnull false :constvalue 6 [ 99 0 0 0 97 98 ]}",
            true,
            None,
        );
        check(
            "{CONST :consttype 5001 :constisnull false :constvalue 4 [ -118 19 0 0 0 0 0 0 ]}",
            true,
            None,
        );
        check("{VAR :varno 1}", true, None);
    }
}
