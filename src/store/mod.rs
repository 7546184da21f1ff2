//! Store: entries at rest. One contract, three implementations: memory, embedded, Cassandra.
//!
//! A key has three cells: its **entry** (written with its stamp), its **track record** (the lease; written
//! with the key's next stamp) and its **mark** (written with its packed position). Whole-product marks and
//! kck's own bookkeeping are cells of a small state table. The store knows nothing of products or Postgres.
//!
//! Invariant: of two writes to one cell the one with the higher write time wins, in whatever order they
//! arrive, however late; a delete with a write time hides every write at or below it (R6).

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    change::Position,
    entry::{Entry, Lease, Meta, Stamp},
    key::Key,
};

pub mod cassandra;
pub mod contract;
pub mod embedded;
pub mod encoding;
pub mod faulty;
pub mod memory;
pub mod state;

/// What went wrong at rest; every one of them means "not known to be durable".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot be reached or refuses for now: the same call may succeed later.
    #[error("{action}")]
    Unavailable {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// Why it did not work.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A stored cell cannot be read.
    #[error("decode {what}: {fact}")]
    Corrupt {
        /// Which cell.
        what: String,
        /// What is wrong with it.
        fact: &'static str,
    },
}

/// One cell of the state table. The higher stamp wins; `None` deletes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateCell {
    /// Its name, unique in the table.
    pub name: String,
    /// What it holds.
    pub value: Option<Bytes>,
    /// Its write time.
    pub stamp: u64,
}

/// A key enters: its lease, written with this stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    /// Which key.
    pub key: Key,
    /// Its tracking.
    pub lease: Lease,
    /// The key's next stamp.
    pub stamp: Stamp,
}

/// A key leaves: entry and track record are deleted at `stamp`, its mark at `mark`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forget {
    /// Which key.
    pub key: Key,
    /// The key's next stamp.
    pub stamp: Stamp,
    /// The key's mark as the ledger has it.
    pub mark: Position,
}

/// What a scan finds of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// Which key.
    pub key: Key,
    /// Its track record.
    pub lease: Option<Lease>,
    /// Its mark.
    pub mark: Option<Position>,
    /// Its entry, without the bytes.
    pub meta: Option<Meta>,
}

/// Where entries lie.
///
/// - **Durable**: when a write returns `Ok` it survives a crash of this process at once, and is read by every
///   later call. An `Err` says nothing: the write may happen now, later or never, so callers repeat it with
///   the same stamp or a higher one.
/// - **Order**: per cell the higher write time wins, also over writes that arrive later; at equal write times
///   a delete wins over a value. Writing a cell again as it is changes nothing.
/// - **Atomicity**: one cell at a time. A slice of writes may be applied in part when the call fails.
/// - **Concurrency**: all methods may be called at once from many tasks.
/// - **Expiry**: none; callers judge [`Meta::expires`]. Marks and track records never go by themselves.
/// - **Cancellation**: dropping a call leaves its writes undecided, as an `Err` does.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Every live cell of the state table.
    async fn load(&self) -> Result<Vec<StateCell>, Error>;

    /// Writes state cells.
    async fn save(&self, cells: &[StateCell]) -> Result<(), Error>;

    /// Visits every key that has any live cell, once, in no order. Cells written meanwhile may be missed.
    async fn scan(&self, visit: &mut (dyn FnMut(Scanned) + Send)) -> Result<(), Error>;

    /// The live entry of a key.
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error>;

    /// Writes an entry with its own stamp.
    async fn put(&self, key: &Key, entry: &Entry) -> Result<(), Error>;

    /// Writes track records.
    async fn track(&self, tracks: &[Track]) -> Result<(), Error>;

    /// Writes marks, each with its packed position as write time.
    async fn mark(&self, marks: &[(Key, Position)]) -> Result<(), Error>;

    /// Deletes the entries of these keys at these stamps; track records and marks stay.
    async fn purge(&self, keys: &[(Key, Stamp)]) -> Result<(), Error>;

    /// Deletes all three cells of these keys (R13): the mark only when entry and record are gone, or all at once. Without
    /// its mark an entry would look fresh to a start that finds them so.
    async fn forget(&self, keys: &[Forget]) -> Result<(), Error>;
}
