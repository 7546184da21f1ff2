//! Capture: Postgres WAL → [`Event`]s: changes, and the commits that end them.
//!
//! Why its own connection: published drivers have no replication mode. Capture knows positions and rows; it
//! must never know keys, the store or HTTP.
//!
//! Invariant: what is acknowledged was told to be durable by the caller, and never goes backwards on one
//! connection (see [`acknowledge`]).

use async_trait::async_trait;

use crate::change::{Change, Lsn, Transaction};

pub mod acknowledge;
mod assemble;
mod authenticate;
pub mod connection;
mod cursor;
#[cfg(test)]
mod fuzz;
pub mod guard;
mod open;
mod pace;
pub mod pgoutput;
pub mod probe;
mod pulse;
pub mod script;
pub mod stream;

/// What a stream delivers, in the order of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The connection was opened (again): what was delivered of an unfinished transaction is void and comes
    /// again, and so may commits that were not acknowledged. `at` is the position it was opened at.
    Opened {
        /// Where delivery begins.
        at: Lsn,
        /// The server process that sends, to find its own row in `pg_stat_replication`.
        pid: i32,
    },
    /// One change of the transaction whose commit follows.
    Change(Change),
    /// All changes since the last commit belong to this transaction.
    Commit(Transaction),
    /// Outside a transaction, everything up to here has been delivered.
    Idle(Lsn),
}

/// Where changes come from.
///
/// - **Order**: changes of a commit come together, right before their [`Event::Commit`]; commits come in the
///   order of their ends. Nothing committed after the resume position is left out.
/// - **Duplicates**: after [`Event::Opened`] commits may come again, never below the acknowledged position.
/// - **Liveness**: keepalives are answered on their own timer, also while nobody calls [`Stream::next`];
///   reconnecting, with a growing delay, happens inside and shows as [`Event::Opened`].
/// - **Back-pressure**: at most a set number of events wait inside; then the log waits in the source.
/// - **Durability**: [`Control::acknowledge`] promises that everything up to the position is durably marked;
///   only then may the source forget it.
/// - **Cancellation**: `next` may be dropped at any await without losing an event.
#[async_trait]
pub trait Stream: Send {
    /// The next event. An error is final: the source needs a person or a new epoch.
    async fn next(&mut self) -> Result<Event, Error>;

    /// Tells the source what was acknowledged, and leaves. Nothing is delivered afterwards.
    async fn close(&mut self);

    /// The side that others hold while somebody waits in [`Stream::next`].
    fn control(&self) -> std::sync::Arc<dyn Control>;
}

/// Tells a stream what has become durable, and what somebody waits for.
pub trait Control: Send + Sync {
    /// Everything up to here is durably marked. Lower positions than before are ignored.
    fn acknowledge(&self, position: Lsn);

    /// Somebody waits: ask the source at once how far it is.
    fn hasten(&self);

    /// Opens the connection anew, from the acknowledged position.
    fn reopen(&self);
}

/// Why a stream ended for good.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The slot is gone, invalidated, or another's history: a new epoch must begin (R10).
    #[error("slot '{slot}' cannot go on: {fact}")]
    SlotLost {
        /// Which slot.
        slot: String,
        /// What Postgres said or showed.
        fact: String,
    },
    /// Only a person can help: rights, settings, a wrong address.
    #[error("{action}: {fact}")]
    Refused {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// What the server said.
        fact: String,
        /// What to do about it.
        hint: String,
    },
    /// Lost, and worth another try. Streams retry these inside; they surface only before the first opening.
    #[error("{action}")]
    Lost {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// Why it did not work.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server sent what the protocol does not allow.
    #[error("decode {message}: {fact}")]
    Protocol {
        /// Which message.
        message: &'static str,
        /// What is wrong with it.
        fact: String,
    },
}
