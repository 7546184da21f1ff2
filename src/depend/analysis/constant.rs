//! A constant's bytes as they lie in the server's memory → its canonical text, for the types that tests speak of.

use super::{term::oid, tree::Value};
use crate::description::Description;

/// `pg_proc.oid` of int8(int4).
const WIDENED: u32 = 481;

/// The text and the type of a constant that is not NULL.
pub(super) fn constant(description: &Description, value: &Value<'_>) -> Option<(String, u32)> {
    let node = value.node()?;
    if let ("FUNCEXPR", Some(WIDENED), Some([inner])) =
        (node.name, node.number("funcid"), node.list("args"))
    {
        // A literal of a smaller type, as in `bigint_column in (1, 2)`.
        let (text, _) = constant(description, inner).filter(|(_, of)| *of == oid::INTEGER)?;
        return Some((text, oid::BIGINT));
    }
    let node = value.named("CONST")?;
    let type_oid: u32 = node.number("consttype")?;
    let Some(Value::Datum(bytes)) = node.field("constvalue") else { return None };
    if node.flag("constisnull")? {
        return None;
    }
    let text = match type_oid {
        oid::BOOLEAN => (if bytes.contains(&1) { "t" } else { "f" }).to_owned(),
        oid::TEXT | oid::VARCHAR => text(bytes)?,
        oid::SMALLINT => i16::from_le_bytes(description.first(bytes)?).to_string(),
        oid::INTEGER => i32::from_le_bytes(description.first(bytes)?).to_string(),
        oid::BIGINT => i64::from_le_bytes(description.first(bytes)?).to_string(),
        _ if description.enums.contains(&type_oid) => {
            let label = u32::from_le_bytes(description.first(bytes)?);
            description.labels.get(&label)?.clone()
        }
        _ => return None,
    };
    Some((text, type_oid))
}

/// Four bytes of length that say how many there are, their own included, and then the text.
fn text(bytes: &[u8]) -> Option<String> {
    let (length, text) = bytes.split_first_chunk::<4>()?;
    let whole = usize::try_from(u32::from_le_bytes(*length) >> 2).ok()?;
    let turned = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    (whole == bytes.len() || turned == bytes.len())
        .then(|| String::from_utf8(text.to_vec()).ok())
        .flatten()
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
