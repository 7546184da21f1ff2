//! Bytes → [`Message`]s of pgoutput, protocol version 1.
//!
//! Formats: <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>. Rows share the
//! memory of the received bytes, up to a few hundred KiB with their neighbours: whoever keeps a value for long
//! copies it.

use bytes::Bytes;

use super::{Error, cursor::Cursor};
use crate::change::{Column, Datum, Lsn, Old, Relation, Row, SourceTime, TableId, Xid};

/// One message of the stream. Rows name their relation by oid; `assemble` knows what it looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A transaction begins.
    Begin {
        /// Where its commit record starts, which may be where the one before ends.
        start_of_commit: Lsn,
        /// When it committed.
        time: SourceTime,
        /// Its top-level id.
        xid: Xid,
    },
    /// It ends.
    Commit {
        /// Where its commit record starts.
        start_of_commit: Lsn,
        /// Where its commit record ends: its name.
        end: Lsn,
        /// When it committed.
        time: SourceTime,
    },
    /// It came to the source from elsewhere.
    Origin,
    /// What the rows of a table look like from here on.
    Relation(Relation),
    /// What a type that is not built in is called.
    Type,
    /// A row came.
    Insert {
        /// Where.
        table: TableId,
        /// The row.
        new: Row,
    },
    /// A row changed.
    Update {
        /// Where.
        table: TableId,
        /// Before.
        old: Old,
        /// After.
        new: Row,
    },
    /// A row went.
    Delete {
        /// Where.
        table: TableId,
        /// Before.
        old: Old,
    },
    /// All rows of some tables went.
    Truncate {
        /// Which.
        tables: Vec<TableId>,
    },
    /// What `pg_logical_emit_message` said; kck does not ask for these.
    Logical,
}

/// Decodes one message.
pub fn decode(bytes: Bytes) -> Result<Message, Error> {
    let mut cursor = Cursor::new(bytes, "a pgoutput message");
    let message = match cursor.u8()? {
        b'B' => begin(&mut cursor)?,
        b'C' => commit(&mut cursor)?,
        b'O' => origin(&mut cursor)?,
        b'R' => relation(&mut cursor)?,
        b'Y' => type_(&mut cursor)?,
        b'I' => insert(&mut cursor)?,
        b'U' => update(&mut cursor)?,
        b'D' => delete(&mut cursor)?,
        b'T' => truncate(&mut cursor)?,
        b'M' => logical(&mut cursor)?,
        kind => return Err(cursor.fault(format!("unknown kind 0x{kind:02x}"))),
    };
    cursor.finish()?;
    Ok(message)
}

fn begin(cursor: &mut Cursor) -> Result<Message, Error> {
    cursor.name("Begin");
    let (start_of_commit, time) = (Lsn(cursor.u64()?), time(cursor)?);
    Ok(Message::Begin { start_of_commit, time, xid: Xid(cursor.u32()?) })
}

fn commit(cursor: &mut Cursor) -> Result<Message, Error> {
    cursor.name("Commit");
    cursor.u8()?;
    let (start_of_commit, end) = (Lsn(cursor.u64()?), Lsn(cursor.u64()?));
    Ok(Message::Commit { start_of_commit, end, time: time(cursor)? })
}

fn origin(cursor: &mut Cursor) -> Result<Message, Error> {
    cursor.name("Origin");
    cursor.u64()?;
    cursor.text()?;
    Ok(Message::Origin)
}

fn relation(cursor: &mut Cursor) -> Result<Message, Error> {
    cursor.name("Relation");
    let table = TableId(cursor.u32()?);
    let (mut schema, name) = (cursor.text()?, cursor.text()?);
    if schema.is_empty() {
        "pg_catalog".clone_into(&mut schema);
    }
    let identity = cursor.u8()?;
    if !b"dnfi".contains(&identity) {
        return Err(cursor.fault(format!("table {}: replica identity 0x{identity:02x}", table.0)));
    }
    let mut columns = Vec::with_capacity(cursor.count()?);
    for _ in 0..columns.capacity() {
        let identity = cursor.u8()? & 1 == 1;
        let (name, type_oid) = (cursor.text()?, cursor.u32()?);
        // The type's modifier: values print alike whatever it is.
        cursor.u32()?;
        columns.push(Column { name, type_oid, identity });
    }
    Ok(Message::Relation(Relation { table, schema, name, identity, columns }))
}

fn type_(cursor: &mut Cursor) -> Result<Message, Error> {
    cursor.name("Type");
    cursor.u32()?;
    cursor.text()?;
    cursor.text()?;
    Ok(Message::Type)
}

fn insert(cursor: &mut Cursor) -> Result<Message, Error> {
    cursor.name("Insert");
    let table = TableId(cursor.u32()?);
    match cursor.u8()? {
        b'N' => Ok(Message::Insert { table, new: row(cursor)? }),
        part => Err(cursor.fault(format!("unknown part 0x{part:02x}"))),
    }
}

fn update(cursor: &mut Cursor) -> Result<Message, Error> {
    cursor.name("Update");
    let table = TableId(cursor.u32()?);
    let first = cursor.u8()?;
    let (old, part) = match first {
        b'K' | b'O' => (old(cursor, first)?, cursor.u8()?),
        part => (Old::Unsent, part),
    };
    match part {
        b'N' => Ok(Message::Update { table, old, new: row(cursor)? }),
        part => Err(cursor.fault(format!("unknown part 0x{part:02x}"))),
    }
}

fn delete(cursor: &mut Cursor) -> Result<Message, Error> {
    cursor.name("Delete");
    let table = TableId(cursor.u32()?);
    let part = cursor.u8()?;
    Ok(Message::Delete { table, old: old(cursor, part)? })
}

fn old(cursor: &mut Cursor, part: u8) -> Result<Old, Error> {
    match part {
        b'K' => row(cursor).map(Old::Identity),
        b'O' => row(cursor).map(Old::Whole),
        part => Err(cursor.fault(format!("unknown part 0x{part:02x}"))),
    }
}

fn truncate(cursor: &mut Cursor) -> Result<Message, Error> {
    cursor.name("Truncate");
    let count = cursor.u32()?;
    cursor.u8()?;
    let tables = (0..count).map(|_| cursor.u32().map(TableId)).collect::<Result<_, _>>()?;
    Ok(Message::Truncate { tables })
}

fn logical(cursor: &mut Cursor) -> Result<Message, Error> {
    cursor.name("Message");
    cursor.u8()?;
    cursor.u64()?;
    cursor.text()?;
    let length = cursor.u32()?;
    cursor.bytes(length)?;
    Ok(Message::Logical)
}

fn row(cursor: &mut Cursor) -> Result<Row, Error> {
    let count = cursor.count()?;
    let mut row = Vec::with_capacity(count);
    for _ in 0..count {
        row.push(match cursor.u8()? {
            b'n' => Datum::Null,
            b'u' => Datum::Unchanged,
            b't' => {
                let length = cursor.u32()?;
                Datum::Text(cursor.bytes(length)?)
            }
            form => return Err(cursor.fault(format!("unknown form of a value 0x{form:02x}"))),
        });
    }
    Ok(row)
}

/// Microseconds from 1970 to 2000, where PostgreSQL's clock starts.
pub(super) const EPOCH_2000: i64 = 946_684_800_000_000;

fn time(cursor: &mut Cursor) -> Result<SourceTime, Error> {
    Ok(SourceTime(cursor.u64()?.cast_signed().saturating_add(EPOCH_2000)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    /// The server's side, as far as tests need it.
    pub(in crate::capture) fn encode(message: &Message) -> Bytes {
        let mut out = Vec::new();
        let clock = |time: &SourceTime| (time.0 - EPOCH_2000).to_be_bytes();
        match message {
            Message::Begin { start_of_commit, time, xid } => {
                out.push(b'B');
                out.extend(start_of_commit.0.to_be_bytes());
                out.extend(clock(time));
                out.extend(xid.0.to_be_bytes());
            }
            Message::Commit { start_of_commit, end, time } => {
                out.extend(b"C\0");
                out.extend(start_of_commit.0.to_be_bytes());
                out.extend(end.0.to_be_bytes());
                out.extend(clock(time));
            }
            Message::Origin => out.extend(b"O\0\0\0\0\0\0\0\x07elsewhere\0"),
            Message::Relation(relation) => {
                out.push(b'R');
                out.extend(relation.table.0.to_be_bytes());
                out.extend(relation.schema.bytes().chain([0]));
                out.extend(relation.name.bytes().chain([0]));
                out.push(relation.identity);
                out.extend(u16::try_from(relation.columns.len()).unwrap().to_be_bytes());
                for column in &relation.columns {
                    out.push(u8::from(column.identity));
                    out.extend(column.name.bytes().chain([0]));
                    out.extend(column.type_oid.to_be_bytes());
                    out.extend((-1i32).to_be_bytes());
                }
            }
            Message::Type => out.extend(b"Y\0\0\0\x07public\0mood\0"),
            Message::Insert { table, new } => {
                out.push(b'I');
                out.extend(table.0.to_be_bytes());
                encode_row(b'N', new, &mut out);
            }
            Message::Update { table, old, new } => {
                out.push(b'U');
                out.extend(table.0.to_be_bytes());
                encode_old(old, &mut out);
                encode_row(b'N', new, &mut out);
            }
            Message::Delete { table, old } => {
                out.push(b'D');
                out.extend(table.0.to_be_bytes());
                encode_old(old, &mut out);
            }
            Message::Truncate { tables } => {
                out.push(b'T');
                out.extend(u32::try_from(tables.len()).unwrap().to_be_bytes());
                out.push(1);
                tables.iter().for_each(|table| out.extend(table.0.to_be_bytes()));
            }
            Message::Logical => out.extend(b"M\0\0\0\0\0\0\0\0\x07kck\0\0\0\0\x02hi"),
        }
        out.into()
    }

    fn encode_old(old: &Old, out: &mut Vec<u8>) {
        match old {
            Old::Unsent => {}
            Old::Identity(row) => encode_row(b'K', row, out),
            Old::Whole(row) => encode_row(b'O', row, out),
        }
    }

    fn encode_row(part: u8, row: &Row, out: &mut Vec<u8>) {
        out.push(part);
        out.extend(u16::try_from(row.len()).unwrap().to_be_bytes());
        for datum in row {
            match datum {
                Datum::Null => out.push(b'n'),
                Datum::Unchanged => out.push(b'u'),
                Datum::Text(text) => {
                    out.push(b't');
                    out.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                    out.extend(text);
                }
            }
        }
    }

    fn any_row() -> impl Strategy<Value = Row> {
        let text = vec(any::<u8>(), 0..20).prop_map(|text| Datum::Text(text.into()));
        vec(prop_oneof![Just(Datum::Null), Just(Datum::Unchanged), text], 0..6)
    }

    fn any_old() -> impl Strategy<Value = Old> {
        prop_oneof![any_row().prop_map(Old::Identity), any_row().prop_map(Old::Whole)]
    }

    fn any_relation() -> impl Strategy<Value = Message> {
        let column = ("[a-zé_]{1,8}", any::<u32>(), any::<bool>())
            .prop_map(|(name, type_oid, identity)| Column { name, type_oid, identity });
        let identity = prop::sample::select(b"dnfi".to_vec());
        (any::<u32>(), "[a-zé]{1,8}", "\\PC{0,8}", identity, vec(column, 0..6)).prop_map(
            |(table, schema, name, identity, columns)| {
                Message::Relation(Relation {
                    table: TableId(table),
                    schema,
                    name,
                    identity,
                    columns,
                })
            },
        )
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let lsn = || any::<u64>().prop_map(Lsn);
        let time = || (-1i64 << 60..1 << 60).prop_map(SourceTime);
        let table = || any::<u32>().prop_map(TableId);
        let update_old = prop_oneof![Just(Old::Unsent), any_old()];
        prop_oneof![
            (lsn(), time(), any::<u32>()).prop_map(|(start_of_commit, time, xid)| Message::Begin {
                start_of_commit,
                time,
                xid: Xid(xid)
            }),
            (lsn(), lsn(), time()).prop_map(|(start_of_commit, end, time)| Message::Commit {
                start_of_commit,
                end,
                time
            }),
            Just(Message::Origin),
            any_relation(),
            Just(Message::Type),
            (table(), any_row()).prop_map(|(table, new)| Message::Insert { table, new }),
            (table(), update_old, any_row()).prop_map(|(table, old, new)| Message::Update {
                table,
                old,
                new
            }),
            (table(), any_old()).prop_map(|(table, old)| Message::Delete { table, old }),
            vec(table(), 0..5).prop_map(|tables| Message::Truncate { tables }),
            Just(Message::Logical),
        ]
    }

    proptest! {
        #[test]
        fn decodes_what_was_encoded(message in any_message()) {
            prop_assert_eq!(decode(encode(&message)).unwrap(), message);
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
            drop(decode(bytes.into()));
        }

        #[test]
        fn a_damaged_message_is_a_message_or_an_error(
            message in any_message(), at: prop::sample::Index, byte: u8,
        ) {
            let mut bytes = encode(&message).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            drop(decode(bytes.into()));
        }

        #[test]
        fn a_cut_message_is_an_error(message in any_message(), at: prop::sample::Index) {
            let bytes = encode(&message);
            prop_assert!(decode(bytes.slice(..at.index(bytes.len()))).is_err());
        }
    }

    #[test]
    fn values_share_the_received_memory() {
        let table = TableId(1);
        let bytes = encode(&Message::Insert { table, new: vec![Datum::Text("abc".into())] });
        let Message::Insert { new, .. } = decode(bytes.clone()).unwrap() else {
            panic!("not a row")
        };
        let Datum::Text(text) = &new[0] else { panic!("not a text") };
        assert!(bytes.as_ptr_range().contains(&text.as_ptr()));
    }

    #[test]
    fn an_empty_schema_is_pg_catalog() {
        let bytes = b"R\0\0\0\x07\0t\0d\0\0";
        let Message::Relation(relation) = decode(Bytes::from_static(bytes)).unwrap() else {
            panic!("not a relation")
        };
        assert_eq!(relation.schema, "pg_catalog");
    }

    #[test]
    fn names_what_it_could_not_decode() {
        let error = decode(Bytes::from_static(b"I\0\0\0\x01X")).unwrap_err();
        assert_eq!(error.to_string(), "decode Insert: unknown part 0x58");
    }
}
