//! What one connection sends, message by message → [`Event`]s.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::{
    Error, Event,
    pgoutput::{self, Message},
};
use crate::change::{Change, Datum, Lsn, Old, Relation, Row, TableId, Transaction, Xid};

/// What one connection has said so far. Relations are announced anew on each connection.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    relations: HashMap<TableId, Arc<Relation>>,
    /// The transaction whose changes are coming.
    open: Option<Xid>,
    /// The end of the last commit, or a later position of a keepalive.
    reached: Lsn,
}

impl Assembly {
    /// For a connection that begins at `at`.
    pub(super) fn new(at: Lsn) -> Self {
        Self { reached: at, ..Self::default() }
    }

    /// Up to here everything has been delivered.
    pub(super) fn reached(&self) -> Lsn {
        self.reached
    }

    /// One message of the log. Its own positions are not looked at: the end of the log at the time of
    /// sending is ahead of what has been sent.
    pub(super) fn message(&mut self, payload: Bytes) -> Result<Option<Event>, Error> {
        let change = match pgoutput::decode(payload)? {
            Message::Begin { xid, .. } => return self.begin(xid).map(|()| None),
            Message::Commit { end, time, .. } => {
                let xid =
                    self.open.take().ok_or_else(|| fault("Commit", "no transaction is open"))?;
                self.reached = self.reached.max(end);
                return Ok(Some(Event::Commit(Transaction { xid, end, time })));
            }
            Message::Relation(relation) => {
                self.announce(relation);
                return Ok(None);
            }
            Message::Origin | Message::Type | Message::Logical => return Ok(None),
            Message::Insert { table, new } => {
                let relation = self.relation("Insert", table, [&new])?;
                Change::Insert { relation, new }
            }
            Message::Update { table, old, mut new } => {
                let relation = match &old {
                    Old::Unsent => self.relation("Update", table, [&new])?,
                    Old::Identity(before) | Old::Whole(before) => {
                        self.relation("Update", table, [&new, before])?
                    }
                };
                take_unchanged(&old, &mut new);
                Change::Update { relation, old, new }
            }
            Message::Delete { table, old } => {
                let relation = match &old {
                    Old::Unsent => self.relation("Delete", table, [])?,
                    Old::Identity(row) | Old::Whole(row) => {
                        self.relation("Delete", table, [row])?
                    }
                };
                Change::Delete { relation, old }
            }
            Message::Truncate { tables } => {
                let relations = tables.iter().map(|table| self.relation("Truncate", *table, []));
                Change::Truncate { relations: relations.collect::<Result<_, _>>()? }
            }
        };
        match self.open {
            Some(_) => Ok(Some(Event::Change(change))),
            None => Err(fault("a change", "no transaction is open")),
        }
    }

    /// A keepalive: the server has sent everything up to `position`. In the middle of a transaction that says
    /// nothing about its commit.
    pub(super) fn keepalive(&mut self, position: Lsn) -> Option<Event> {
        (self.open.is_none() && position > self.reached).then(|| {
            self.reached = position;
            Event::Idle(position)
        })
    }

    fn begin(&mut self, xid: Xid) -> Result<(), Error> {
        match self.open.replace(xid) {
            None => Ok(()),
            Some(_) => Err(fault("Begin", "a transaction is open already")),
        }
    }

    /// The server announces again what has not changed; whoever compares relations by pointer is spared that.
    fn announce(&mut self, relation: Relation) {
        let known = self.relations.get(&relation.table);
        if known.is_none_or(|known| **known != relation) {
            self.relations.insert(relation.table, Arc::new(relation));
        }
    }

    fn relation<const N: usize>(
        &self,
        message: &'static str,
        table: TableId,
        rows: [&Row; N],
    ) -> Result<Arc<Relation>, Error> {
        let Some(relation) = self.relations.get(&table) else {
            return Err(fault(message, &format!("table {} was not announced", table.0)));
        };
        let columns = relation.columns.len();
        if let Some(row) = rows.into_iter().find(|row| row.len() != columns) {
            let fact = format!("table {}: {} values for {columns} columns", table.0, row.len());
            return Err(fault(message, &fact));
        }
        Ok(Arc::clone(relation))
    }
}

/// A value that the update left alone is not sent with the new row, but whole old rows have it.
fn take_unchanged(old: &Old, new: &mut Row) {
    if let Old::Whole(old) = old {
        for (new, old) in new.iter_mut().zip(old) {
            if *new == Datum::Unchanged {
                new.clone_from(old);
            }
        }
    }
}

fn fault(message: &'static str, fact: &str) -> Error {
    Error::Protocol { message, fact: fact.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        capture::pgoutput::tests::encode,
        change::{Column, SourceTime},
    };

    const TABLE: TableId = TableId(7);

    fn relation(name: &str) -> Message {
        let column = |name: &str| Column { name: name.to_owned(), type_oid: 25, identity: true };
        Message::Relation(Relation {
            table: TABLE,
            schema: "public".to_owned(),
            name: name.to_owned(),
            identity: b'f',
            columns: vec![column("a"), column("b")],
        })
    }

    fn begin() -> Message {
        Message::Begin { start_of_commit: Lsn(90), time: SourceTime(0), xid: Xid(3) }
    }

    fn commit() -> Message {
        Message::Commit { start_of_commit: Lsn(90), end: Lsn(100), time: SourceTime(0) }
    }

    fn text(text: &'static str) -> Datum {
        Datum::Text(Bytes::from_static(text.as_bytes()))
    }

    fn all(assembly: &mut Assembly, messages: &[Message]) -> Result<Vec<Event>, Error> {
        let events =
            messages.iter().filter_map(|message| assembly.message(encode(message)).transpose());
        events.collect()
    }

    #[test]
    fn changes_come_before_their_commit() {
        let insert = Message::Insert { table: TABLE, new: vec![text("x"), Datum::Null] };
        let events = all(
            &mut Assembly::default(),
            &[begin(), relation("t"), insert.clone(), insert, commit()],
        );
        let events = events.unwrap();
        assert!(matches!(events[0], Event::Change(Change::Insert { .. })));
        let transaction = Transaction { xid: Xid(3), end: Lsn(100), time: SourceTime(0) };
        assert_eq!(events[2..], [Event::Commit(transaction)]);
    }

    #[test]
    fn an_unchanged_value_comes_from_a_whole_old_row() {
        let update = Message::Update {
            table: TABLE,
            old: Old::Whole(vec![text("1"), text("toast")]),
            new: vec![text("2"), Datum::Unchanged],
        };
        let events = all(&mut Assembly::default(), &[begin(), relation("t"), update]).unwrap();
        let Event::Change(Change::Update { new, .. }) = &events[0] else { panic!("no update") };
        assert_eq!(new[..], [text("2"), text("toast")]);
    }

    #[test]
    fn a_key_does_not_fill_an_unchanged_value() {
        let update = Message::Update {
            table: TABLE,
            old: Old::Identity(vec![text("1"), Datum::Null]),
            new: vec![text("2"), Datum::Unchanged],
        };
        let events = all(&mut Assembly::default(), &[begin(), relation("t"), update]).unwrap();
        let Event::Change(Change::Update { new, .. }) = &events[0] else { panic!("no update") };
        assert_eq!(new[1], Datum::Unchanged);
    }

    #[test]
    fn keepalives_count_only_between_transactions_and_forwards() {
        let mut assembly = Assembly::new(Lsn(50));
        assert_eq!(assembly.keepalive(Lsn(50)), None);
        assert_eq!(assembly.keepalive(Lsn(60)), Some(Event::Idle(Lsn(60))));
        all(&mut assembly, &[begin()]).unwrap();
        assert_eq!(assembly.keepalive(Lsn(70)), None);
        all(&mut assembly, &[commit()]).unwrap();
        assert_eq!(assembly.keepalive(Lsn(99)), None);
        assert_eq!(assembly.reached(), Lsn(100));
    }

    #[test]
    fn a_relation_that_did_not_change_stays_the_same_one() {
        let mut assembly = Assembly::default();
        let truncate = Message::Truncate { tables: vec![TABLE] };
        let messages = [
            begin(),
            relation("t"),
            truncate.clone(),
            relation("t"),
            truncate.clone(),
            relation("u"),
            truncate,
        ];
        let named: Vec<_> = all(&mut assembly, &messages)
            .unwrap()
            .into_iter()
            .map(|event| match event {
                Event::Change(Change::Truncate { mut relations }) => relations.remove(0),
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(Arc::ptr_eq(&named[0], &named[1]));
        assert_eq!(named[2].name, "u");
    }

    #[test]
    fn refuses_what_the_protocol_does_not_allow() {
        let insert =
            |values: usize| Message::Insert { table: TABLE, new: vec![Datum::Null; values] };
        for messages in [
            vec![begin(), begin()],
            vec![commit()],
            vec![begin(), insert(2)],
            vec![begin(), relation("t"), insert(3)],
            vec![relation("t"), insert(2)],
        ] {
            assert!(all(&mut Assembly::default(), &messages).is_err(), "{messages:?}");
        }
    }
}
