//! Runs updates: one statement that writes, committed by itself; then, on the same connection, where the log is (R9).
//!
//! Invariant: a statement that may have been carried out is never said not to have been.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};
use tokio_postgres::{Client, types::ToSql};

use super::{Error, Source, error::Kind, prepared::Prepared};
use crate::change::Lsn;

/// Statements kept prepared on one connection.
const PREPARED_KEPT: usize = 256;
/// How much later than `statement_timeout` an answer may come before the connection counts as lost.
const GRACE: Duration = Duration::from_secs(5);
/// How often a statement that lost against another is run once more.
const RETRIES: u32 = 3;
/// Before the first of these; it doubles.
const RETRY_PAUSE: Duration = Duration::from_millis(5);
const ACTION: &str = "run an update";

/// Bounds on writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections, opened when they are needed.
    pub connections: usize,
    /// Updates that may wait for one.
    pub waiting: usize,
    /// The source gives a statement up after this.
    pub statement_timeout: Duration,
    /// The longest that an update waits to be sent, and then the longest that its statement may take.
    pub within: Duration,
}

/// A statement that writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Its parameters are all text.
    pub sql: Arc<str>,
    /// Their values; `None` is NULL.
    pub arguments: Vec<Option<String>>,
    /// What failed was undone whole, so that it may be run once more.
    pub atomic: bool,
}

/// A write that is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The commit ends at or before this position.
    pub lsn: Lsn,
    /// Rows that the statement wrote.
    pub rows: u64,
}

/// Why a write is not known to be committed, or where.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// As many wait as may: nothing was sent.
    #[error("too many updates wait")]
    Full,
    /// No connection was free in time: nothing was sent.
    #[error("no connection was free in time")]
    Late,
    /// There is no connection: nothing was sent.
    #[error("nothing was sent")]
    NotSent(#[source] Error),
    /// The source refused the statement, and undid it.
    #[error("refused with SQLSTATE {sqlstate}")]
    Refused {
        /// The server's code.
        sqlstate: String,
        /// The constraint that it is about, if it is about one.
        constraint: Option<String>,
        /// What the server said: it may hold values of rows.
        message: String,
    },
    /// The connection was lost after the statement was sent: nobody knows what became of it.
    #[error("it is not known whether it was carried out")]
    Unknown(#[source] Error),
    /// It is committed, and the connection was lost before it was known where.
    #[error("it was carried out, and it is not known where")]
    Unplaced(#[source] Error),
}

struct Connection {
    client: Client,
    prepared: Prepared,
    /// The history that the connection was checked against (R10).
    history: u64,
    /// It has answered before, and may be dead without anybody having noticed.
    reused: bool,
}

/// A bounded number of connections that write, made when they are needed.
pub struct Pool {
    source: Arc<Source>,
    limits: Limits,
    /// Of those that wait and those that run.
    doors: Semaphore,
    places: Arc<Semaphore>,
    /// Locked to take or give back a connection.
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new(source: Arc<Source>, limits: Limits) -> Self {
        let connections = limits.connections.max(1);
        Self {
            source,
            limits,
            doors: Semaphore::new(connections + limits.waiting),
            places: Arc::new(Semaphore::new(connections)),
            idle: Mutex::default(),
        }
    }

    /// Runs a statement and commits it. Once it is sent it is seen to its end, though nobody may wait any more.
    ///
    /// # Errors
    /// [`WriteError`] says what is known of it.
    pub async fn run(self: &Arc<Self>, write: Write) -> Result<Written, WriteError> {
        let _door = self.doors.try_acquire().map_err(|_| WriteError::Full)?;
        let deadline = Instant::now() + self.limits.within;
        let place = timeout_at(deadline, Arc::clone(&self.places).acquire_owned()).await;
        let place = place.map_err(|_| WriteError::Late)?.map_err(|_| WriteError::Full)?;
        let pool = Arc::clone(self);
        let sent = tokio::spawn(async move { pool.carry_out(write, deadline, place).await });
        sent.await.unwrap_or_else(|ended| match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(ended) => {
                Err(WriteError::Unknown(Error::Gone { action: ACTION, source: ended.into() }))
            }
        })
    }

    async fn carry_out(
        &self,
        write: Write,
        deadline: Instant,
        _place: OwnedSemaphorePermit,
    ) -> Result<Written, WriteError> {
        let limit = self.statement_timeout().saturating_add(GRACE);
        let (mut retries, mut fresh) = (0, false);
        loop {
            let mut connection = self.connection(deadline, fresh).await?;
            let tried = attempt(&mut connection, &write, limit).await;
            let lost = matches!(
                &tried,
                Err(WriteError::NotSent(_) | WriteError::Unknown(_) | WriteError::Unplaced(_))
            );
            let reused = connection.reused;
            self.keep(connection, lost);
            match tried {
                // One that died while nobody looked says nothing of the source.
                Err(WriteError::NotSent(_)) if reused => fresh = true,
                Err(WriteError::Refused { sqlstate, .. })
                    if write.atomic && retries < RETRIES && lost_against_another(&sqlstate) =>
                {
                    tokio::time::sleep(RETRY_PAUSE * (1 << retries)).await;
                    retries += 1;
                }
                tried => return tried,
            }
        }
    }

    /// Never longer than whoever asked waits, so that what becomes of it is known in time.
    fn statement_timeout(&self) -> Duration {
        self.limits.statement_timeout.min(self.limits.within)
    }

    fn keep(&self, mut connection: Connection, lost: bool) {
        let current = connection.history == self.source.history();
        if !lost && current && !connection.client.is_closed() {
            connection.reused = true;
            self.idle().push(connection);
        }
    }

    /// A connection: of those that are open, or a `fresh` one.
    async fn connection(&self, deadline: Instant, fresh: bool) -> Result<Connection, WriteError> {
        let history = self.source.history();
        let idle = {
            let mut idle = self.idle();
            idle.retain(|open| !fresh && open.history == history && !open.client.is_closed());
            idle.pop()
        };
        if let Some(connection) = idle {
            return Ok(connection);
        }
        let limit = self.statement_timeout().as_millis().to_string();
        let settings = [("statement_timeout", limit.as_str())];
        let connecting = timeout_at(deadline, self.source.connect("update", &settings)).await;
        let client = connecting
            .map_err(|elapsed| Error::Unreachable { action: ACTION, source: elapsed.into() })
            .and_then(|connected| connected)
            .map_err(WriteError::NotSent)?;
        Ok(Connection { client, prepared: Prepared::new(PREPARED_KEPT), history, reused: false })
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Two that write at once: one of them must begin again.
fn lost_against_another(sqlstate: &str) -> bool {
    matches!(sqlstate, "40001" | "40P01")
}

/// A plan that DDL has made impossible ("cached plan must not change result type") is prepared anew, once.
const STALE_PLAN: &str = "0A000";

async fn attempt(
    connection: &mut Connection,
    write: &Write,
    limit: Duration,
) -> Result<Written, WriteError> {
    let was_prepared = connection.prepared.has(&write.sql);
    let rows = match execute(connection, write, limit).await {
        Err(WriteError::Refused { sqlstate, .. }) if was_prepared && sqlstate == STALE_PLAN => {
            connection.prepared.forget(&write.sql);
            execute(connection, write, limit).await?
        }
        executed => executed?,
    };
    let sql = "select pg_catalog.pg_current_wal_insert_lsn()::text";
    let asked = timeout(limit, connection.client.query_one(sql, &[])).await;
    let position = asked
        .map_err(|elapsed| Error::Gone { action: ACTION, source: elapsed.into() })
        .and_then(|answer| {
            let text = answer.and_then(|row| row.try_get::<_, String>(0));
            text.map_err(|error| Error::from_postgres(ACTION, error))
        })
        .and_then(|text| {
            text.parse().map_err(|_| Error::Statement {
                sqlstate: "XX000".to_owned(),
                message: format!("'{text}' is no position"),
                position: None,
            })
        });
    Ok(Written { lsn: position.map_err(WriteError::Unplaced)?, rows })
}

async fn execute(
    connection: &mut Connection,
    write: &Write,
    limit: Duration,
) -> Result<u64, WriteError> {
    let Connection { client, prepared, .. } = connection;
    let prepared = timeout(limit, prepared.statement(client, &write.sql, ACTION)).await;
    let statement = prepared
        .map_err(|elapsed| Error::Gone { action: ACTION, source: elapsed.into() })
        .and_then(|prepared| prepared)
        .map_err(not_prepared)?;
    let arguments: Vec<&(dyn ToSql + Sync)> =
        write.arguments.iter().map(|argument| argument as _).collect();
    match timeout(limit, client.execute(&statement, &arguments)).await {
        Ok(Ok(rows)) => Ok(rows),
        Ok(Err(error)) => Err(failed(error)),
        Err(elapsed) => {
            Err(WriteError::Unknown(Error::Gone { action: ACTION, source: elapsed.into() }))
        }
    }
}

/// Before it is prepared a statement is not run.
fn not_prepared(error: Error) -> WriteError {
    match error {
        Error::Statement { sqlstate, message, .. } | Error::Refused { sqlstate, message, .. } => {
            WriteError::Refused { sqlstate, constraint: None, message }
        }
        error => WriteError::NotSent(error),
    }
}

fn failed(error: tokio_postgres::Error) -> WriteError {
    match error.as_db_error() {
        Some(said) if !matches!(Kind::of(said.code().code()), Kind::Gone) => WriteError::Refused {
            sqlstate: said.code().code().to_owned(),
            constraint: said.constraint().map(str::to_owned),
            message: said.message().to_owned(),
        },
        _ => WriteError::Unknown(Error::from_postgres(ACTION, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_prepared_was_not_run() {
        let gone = Error::Gone { action: ACTION, source: "cut".into() };
        assert!(matches!(not_prepared(gone), WriteError::NotSent(_)));
        let (sqlstate, message) = ("42P01".to_owned(), String::new());
        let refused = Error::Statement { sqlstate, message, position: None };
        assert!(matches!(not_prepared(refused), WriteError::Refused { .. }));
    }
}
