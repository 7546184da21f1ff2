//! The store: the real cells, and writes that are on their way, in no order, also from processes that are gone.

use std::collections::BTreeMap;

use bytes::Bytes;
use kck::{
    change::Position,
    entry::{Lease, Meta, Stamp},
    key::Key,
    store::{
        Forget, StateCell, Track,
        encoding::{Cell, Cells},
        state::State,
    },
};

/// One write of one cell.
#[derive(Debug, Clone)]
pub(crate) enum Write {
    Entry(Key, Stamp, Option<Meta>),
    Lease(Key, Stamp, Option<Lease>),
    Mark(Key, Position, bool),
    State(StateCell),
}

/// A write that was issued and has not arrived.
#[derive(Debug, Clone)]
pub(crate) struct Flying {
    pub(crate) id: u32,
    pub(crate) write: Write,
}

/// What is at rest, and what is under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Store {
    pub(crate) keys: BTreeMap<Key, Cells<Meta>>,
    pub(crate) state: BTreeMap<String, Cell<Bytes>>,
    pub(crate) flying: Vec<Flying>,
    issued: u32,
}

impl Store {
    /// Sends writes; each arrives by itself, soon, late or never.
    pub(crate) fn issue(&mut self, writes: impl IntoIterator<Item = Write>) -> Vec<u32> {
        let mut ids = Vec::new();
        for write in writes {
            self.issued += 1;
            ids.push(self.issued);
            self.flying.push(Flying { id: self.issued, write });
        }
        ids
    }

    /// Whether all of these have arrived.
    pub(crate) fn arrived(&self, ids: &[u32]) -> bool {
        !self.flying.iter().any(|flying| ids.contains(&flying.id))
    }

    /// Takes one write in; the higher write time wins.
    pub(crate) fn apply(&mut self, write: Write) {
        match write {
            Write::Entry(key, stamp, meta) => {
                self.keys.entry(key).or_default().entry.write(stamp.0, meta);
            }
            Write::Lease(key, stamp, lease) => {
                self.keys.entry(key).or_default().lease.write(stamp.0, lease);
            }
            Write::Mark(key, at, live) => {
                let cells = self.keys.entry(key).or_default();
                cells.mark.write(at.packed(), live.then_some(at));
            }
            Write::State(StateCell { name, value, stamp }) => {
                self.state.entry(name).or_default().write(stamp, value);
            }
        }
    }

    pub(crate) fn state(&self) -> State {
        let cell = |(name, cell): (&String, &Cell<Bytes>)| StateCell {
            name: name.clone(),
            value: cell.value().cloned(),
            stamp: 0,
        };
        State::decode(&self.state.iter().map(cell).collect::<Vec<_>>()).unwrap()
    }
}

impl Write {
    pub(crate) fn track(track: &Track) -> Self {
        Self::Lease(track.key.clone(), track.stamp, Some(track.lease))
    }

    /// The three deletions of a key that leaves.
    pub(crate) fn forget(forget: &Forget) -> [Self; 3] {
        let key = || forget.key.clone();
        [
            Self::Entry(key(), forget.stamp, None),
            Self::Lease(key(), forget.stamp, None),
            Self::Mark(key(), forget.mark, false),
        ]
    }
}
