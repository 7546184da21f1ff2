//! Recompute: key → fresh Entry in the store.
//!
//! The [`ledger`] knows every tracked key and judges freshness; the [`queue`] decides what is computed next;
//! [`worker`]s run recipes and write results. Decisions are pure and behind locks that are never held across an
//! await; acting is thin. Recompute must never know capture, depend or readers' protocols.
//!
//! Invariants: an older answer never replaces a newer one, whatever the order of workers (R6); a key is in the
//! ledger before its statement begins, and its track record is durable before its entry is written (R4).

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    change::{Lsn, Position, Snapshot, SourceTime},
    key::Key,
    product::Product,
};

pub mod batches;
pub mod below;
pub mod budget;
pub mod crew;
pub mod early;
pub mod exec;
mod handle;
mod held;
pub mod http;
mod keys;
pub mod lane;
pub mod ledger;
mod linked;
pub mod outside;
mod overflow;
mod patterns;
#[cfg(test)]
mod played;
#[cfg(test)]
mod played_links;
#[cfg(test)]
mod played_links_histories;
#[cfg(test)]
mod played_links_world;
pub mod queue;
pub mod reserve;
pub mod schedule;
pub mod sql;
mod temperature;
pub mod timer;
mod tracked;
mod turn;
mod wake;
mod warm;
mod watch;
pub mod worker;

pub use handle::{Counts, Fresh, Handle, Kept, Parts};
pub use wake::Marks;
pub use watch::{Moved, Watching};

/// Bounds of recomputing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Statements at once.
    pub connections: usize,
    /// The share of wall time that they may be executing together, over ten seconds.
    pub database_share: f64,
    /// In which order keys go for which nobody waits.
    pub strategy: queue::Order,
    /// Keys tracked at most; past it the coldest go.
    pub tracked_keys: usize,
    /// Bytes of all answers that are kept, at most; past it the coldest go.
    pub stored_bytes: u64,
    /// Bytes of one answer at most.
    pub answer_bytes: usize,
    /// Keys that may wait to be computed.
    pub queued_keys: usize,
    /// Keys in one statement at most.
    pub batch_keys: usize,
    /// How long one statement should take: batches grow or shrink towards it.
    pub batch_time: Duration,
}

impl Config {
    /// Keys of one product that may wait where the source does not compute them: one that hangs takes no room of others.
    fn queued_outside(&self) -> usize {
        (self.queued_keys / 20).max(1)
    }
}

/// What one statement gave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ran {
    /// One answer a key, in the keys' order.
    pub values: Vec<Bytes>,
    /// What the statement saw; `None` for recipes that do not know.
    pub snapshot: Option<Snapshot>,
    /// The source's insert position, read after the snapshot was taken.
    pub insert: Lsn,
    /// The source's clock when the statement began.
    pub time: SourceTime,
    /// How long the source was at work, the way there and back left out.
    pub spent: Duration,
}

/// Why keys could not be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The source cannot be asked for now; nothing is wrong with the product.
    #[error("{0}")]
    Unavailable(String),
    /// The statement failed with the source up. With more than one key one of them may be the reason.
    #[error("SQLSTATE {sqlstate}")]
    Statement {
        /// Postgres's code.
        sqlstate: String,
    },
    /// The answer has not the form it must have.
    #[error("{0}")]
    Unsound(&'static str),
    /// Whoever makes the answer, and is not the source, gave none.
    #[error("{why}")]
    Outside {
        /// For readers.
        fact: &'static str,
        /// For whoever minds the product.
        why: String,
    },
}

/// How a value is computed.
///
/// - **Snapshot**: all keys of one call are answered from one snapshot, and every commit that was visible before
///   the call is in it. A recipe that cannot tell its snapshot gives `None`.
/// - **Position**: every commit up to `as_of` is visible before the call, and nothing older is to be read of others.
/// - **Writes nothing** at the source.
/// - **Concurrency**: called from many workers at once, up to the set number.
/// - **Failure**: all or nothing; the caller halves the batch to find a key that throws.
/// - **Cancellation**: dropping the call gives up on it; it need not stop at the source.
#[async_trait]
pub trait Run: Send + Sync + 'static {
    /// Computes these keys, all of `product`.
    async fn run(&self, product: &Product, keys: &[Key], as_of: Position) -> Result<Ran, RunError>;
}

/// Why a read or a computation did not come to an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The demand was not met in time.
    #[error("not fresh in time: reached {lsn}")]
    NotFreshInTime {
        /// How far the certificate is.
        lsn: Lsn,
        /// And of when.
        time: SourceTime,
        /// Why it cannot be, when that is known: `another epoch`.
        fact: &'static str,
    },
    /// The source cannot be asked.
    #[error("source unavailable: {0}")]
    SourceUnavailable(String),
    /// The product's SQL does not work, for this key or at all.
    #[error("product broken: SQLSTATE {sqlstate}")]
    ProductBroken {
        /// Postgres's code.
        sqlstate: String,
    },
    /// The product's program or address gave no answer.
    #[error("{fact}")]
    NoAnswer {
        /// What is known of why.
        fact: &'static str,
    },
    /// The answer is over `limits.answer`.
    #[error("the answer has {bytes} bytes, at most {limit} are kept")]
    TooLarge {
        /// The answer's size.
        bytes: usize,
        /// `limits.answer`.
        limit: usize,
    },
    /// Too much is waiting already.
    #[error("too many computations are waiting")]
    Overloaded,
    /// The client has caused more computations than its share.
    #[error("more computations than one client's share")]
    OverShare {
        /// When the next may be.
        retry: Duration,
    },
    /// kck is stopping.
    #[error("stopping")]
    Stopping,
}
