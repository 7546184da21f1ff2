//! Memory: the store's contract in its plainest form, gone with the process.
//!
//! It is what tests compare with, and serves where a restart may begin with nothing. Of what is deleted some is
//! remembered, against writes that come late; those are on their way for a moment, so two generations are enough, of
//! which the older goes when the younger is full.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Error, Forget, Scanned, StateCell, Store, Track,
    encoding::{Cell, Cells, checked_name},
};
use crate::{
    change::Position,
    entry::{Entry, Stamp},
    key::Key,
};

/// A store that lives as long as its process.
#[derive(Debug, Default)]
pub struct Memory {
    // Locked for one call each, never across an await: a slice of writes is applied at once.
    tables: Mutex<Tables>,
}

/// How many deletes are remembered at least.
const GRAVES_MAX: usize = 100_000;

#[derive(Debug, Default)]
struct Tables {
    keys: HashMap<Key, Cells<Entry>>,
    /// Keys without a live cell: the young generation and the old.
    graves: [HashMap<Key, Cells<Entry>>; 2],
    state: HashMap<String, Cell<Bytes>>,
}

impl Memory {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        // Cells are written whole, so the tables are sound whatever panicked while it held them.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn change(&mut self, key: &Key, change: impl FnOnce(&mut Cells<Entry>)) -> Result<(), Error> {
        checked_name(key.as_str())?;
        let [young, old] = &mut self.graves;
        let cells = self.keys.remove(key).or_else(|| young.remove(key)).or_else(|| old.remove(key));
        let mut cells = cells.unwrap_or_default();
        change(&mut cells);
        if cells.is_live() {
            self.keys.insert(key.clone(), cells);
            return Ok(());
        }
        if young.len() >= GRAVES_MAX {
            *old = std::mem::take(young);
        }
        young.insert(key.clone(), cells);
        Ok(())
    }
}

#[async_trait]
impl Store for Memory {
    async fn load(&self) -> Result<Vec<StateCell>, Error> {
        let live = |(name, cell): (&String, &Cell<Bytes>)| match cell {
            Cell::Live { time, value } => {
                Some(StateCell { name: name.clone(), value: Some(value.clone()), stamp: *time })
            }
            Cell::Unwritten | Cell::Deleted { .. } => None,
        };
        Ok(self.tables().state.iter().filter_map(live).collect())
    }

    async fn save(&self, cells: &[StateCell]) -> Result<(), Error> {
        let mut tables = self.tables();
        for StateCell { name, value, stamp } in cells {
            checked_name(name)?;
            tables.state.entry(name.clone()).or_default().write(*stamp, value.clone());
        }
        Ok(())
    }

    async fn scan(&self, visit: &mut (dyn FnMut(Scanned) + Send)) -> Result<(), Error> {
        // Visited without the lock: a visitor may take its time.
        let found: Vec<Scanned> = self
            .tables()
            .keys
            .iter()
            .filter(|(_, cells)| cells.is_live())
            .map(|(key, cells)| Scanned {
                key: key.clone(),
                lease: cells.lease.value().copied(),
                mark: cells.mark.value().copied(),
                meta: cells.entry.value().map(|entry| entry.meta.clone()),
            })
            .collect();
        found.into_iter().for_each(visit);
        Ok(())
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        Ok(self.tables().keys.get(key).and_then(|cells| cells.entry.value()).cloned())
    }

    async fn put(&self, key: &Key, entry: &Entry) -> Result<(), Error> {
        self.tables().change(key, |cells| {
            cells.entry.write(entry.meta.stamp.0, Some(entry.clone()));
        })
    }

    async fn track(&self, tracks: &[Track]) -> Result<(), Error> {
        let mut tables = self.tables();
        for Track { key, lease, stamp } in tracks {
            tables.change(key, |cells| {
                cells.lease.write(stamp.0, Some(*lease));
            })?;
        }
        Ok(())
    }

    async fn mark(&self, marks: &[(Key, Position)]) -> Result<(), Error> {
        let mut tables = self.tables();
        for (key, mark) in marks {
            tables.change(key, |cells| {
                cells.mark.write(mark.packed(), Some(*mark));
            })?;
        }
        Ok(())
    }

    async fn purge(&self, keys: &[(Key, Stamp)]) -> Result<(), Error> {
        let mut tables = self.tables();
        for (key, stamp) in keys {
            tables.change(key, |cells| {
                cells.entry.write(stamp.0, None);
            })?;
        }
        Ok(())
    }

    async fn forget(&self, keys: &[Forget]) -> Result<(), Error> {
        let mut tables = self.tables();
        for Forget { key, stamp, mark } in keys {
            tables.change(key, |cells| {
                cells.entry.write(stamp.0, None);
                cells.lease.write(stamp.0, None);
                cells.mark.write(mark.packed(), None);
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract;
    use std::sync::Arc;

    #[tokio::test]
    async fn keeps_the_contract() {
        contract::holds(Arc::new(Memory::default())).await;
    }

    #[tokio::test]
    async fn keys_that_come_and_go_leave_nothing_but_some_graves() {
        let memory = Memory::default();
        for n in 0..3 * GRAVES_MAX {
            let key = Key::new("p", [n.to_string().as_str()]);
            memory.put(&key, &Entry::default()).await.unwrap();
            let forget = Forget { key, stamp: Stamp(1), mark: Position::default() };
            memory.forget(&[forget]).await.unwrap();
        }
        let tables = memory.tables();
        assert!(tables.keys.is_empty());
        assert!(tables.graves.iter().map(HashMap::len).sum::<usize>() <= 2 * GRAVES_MAX);
    }
}
