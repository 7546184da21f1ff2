//! What is visible at the source, and where its log is: the barrier of R1.

use std::time::Instant;

use tokio_postgres::{Client, Statement};

use crate::change::{Lsn, Snapshot, SourceTime};

use super::Error;

const BARRIER: &str = include_str!("../../sql/postgres/barrier.sql");
const NUDGE: &str = include_str!("../../sql/postgres/nudge.sql");

/// One look at the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Barrier {
    /// What new snapshots see.
    pub snapshot: Snapshot,
    /// Where the next record will be written.
    pub insert: Lsn,
    /// The source's clock.
    pub time: SourceTime,
    /// When the question was sent, on kck's own clock.
    pub sent: Instant,
}

/// Prepares the barrier on a connection.
///
/// # Errors
/// What the source said.
pub async fn prepare(client: &Client) -> Result<Statement, Error> {
    client
        .prepare(BARRIER)
        .await
        .map_err(|error| Error::from_postgres("prepare the barrier", error))
}

/// Takes a barrier.
///
/// # Errors
/// What the source said, or an answer that is none.
pub async fn take(client: &Client, statement: &Statement) -> Result<Barrier, Error> {
    let sent = Instant::now();
    let fail = |error| Error::from_postgres("take a barrier", error);
    let row = client.query_one(statement, &[]).await.map_err(fail)?;
    let snapshot: String = row.try_get(0).map_err(fail)?;
    let insert: String = row.try_get(1).map_err(fail)?;
    let time: i64 = row.try_get(2).map_err(fail)?;
    Ok(Barrier {
        snapshot: snapshot
            .parse()
            .map_err(|bad: crate::change::BadSnapshot| unread(bad.to_string()))?,
        insert: insert.parse().map_err(|bad: crate::change::BadLsn| unread(bad.to_string()))?,
        time: SourceTime(time),
        sent,
    })
}

/// Makes the source flush its log up to now. The connection has `synchronous_commit = local`, so that a missing
/// standby holds nothing up.
///
/// Gives a position that the message's commit is behind.
///
/// # Errors
/// What the source said, or an answer that is none.
pub async fn nudge(client: &Client) -> Result<Lsn, Error> {
    let fail = |error| Error::from_postgres("emit a message", error);
    let row = client.query_one(NUDGE, &[]).await.map_err(fail)?;
    let at: String = row.try_get(0).map_err(fail)?;
    at.parse().map_err(|bad: crate::change::BadLsn| unread(bad.to_string()))
}

fn unread(fact: String) -> Error {
    Error::Statement { sqlstate: "XX000".to_owned(), message: fact, position: None }
}
