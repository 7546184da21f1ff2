//! Runs product statements on connections that only read: each in a snapshot of its own (REPEATABLE READ), so
//! that functions which query see what the statement sees.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use tokio::sync::Semaphore;
use tokio_postgres::{Client, types::ToSql};

use super::{Error, Source, prepared::Prepared};

/// Statements kept prepared on one connection: two a product, of many keys and of one.
const PREPARED_KEPT: usize = 512;

/// How much later than `statement_timeout` an answer may come before the connection counts as lost: the source gives
/// up in time, but a way that swallows what is sent tells nobody.
const GRACE: Duration = Duration::from_secs(5);

/// One key's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Which key of the call, from 1.
    pub ordinal: i64,
    /// The JSON.
    pub value: Bytes,
    /// `pg_current_snapshot()` of the statement.
    pub snapshot: String,
    /// The insert position.
    pub insert: String,
    /// The source's clock when the statement began.
    pub time_us: i64,
    /// How long it had been at work when it gave this row.
    pub spent_us: i64,
}

struct Connection {
    client: Client,
    prepared: Prepared,
    /// The history that the connection was checked against (R10).
    history: u64,
}

/// A bounded number of connections that only read, made when they are needed.
pub struct Pool {
    source: Arc<Source>,
    statement_timeout: Duration,
    places: Semaphore,
    /// Locked to take or give back a connection.
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    /// At most `connections` at once; each statement is given up by the source after `statement_timeout`.
    #[must_use]
    pub fn new(source: Arc<Source>, connections: usize, statement_timeout: Duration) -> Self {
        Self {
            source,
            statement_timeout,
            places: Semaphore::new(connections.max(1)),
            idle: Mutex::default(),
        }
    }

    /// Runs a statement whose parameters are all text.
    ///
    /// # Errors
    /// [`Error::Statement`] when the statement failed with the source up; the connection is kept then.
    pub async fn run(&self, sql: &str, arguments: &[String]) -> Result<Vec<Row>, Error> {
        self.on_connection(async |connection| query(connection, sql, arguments).await).await
    }

    /// Runs a statement of which every row is one array of texts, each of which `take` gets.
    ///
    /// # Errors
    /// As [`Pool::run`]; some rows may have been taken.
    pub async fn texts(
        &self,
        sql: &str,
        mut take: impl FnMut(Vec<Option<String>>),
    ) -> Result<(), Error> {
        let fail = |error| Error::from_postgres("read warm keys", error);
        self.on_connection(async |connection| {
            let nothing = std::iter::empty::<&(dyn ToSql + Sync)>();
            let rows = connection.client.query_raw(sql, nothing).await.map_err(fail)?;
            let mut rows = std::pin::pin!(rows);
            while let Some(row) = rows.try_next().await.map_err(fail)? {
                take(row.try_get(0).map_err(fail)?);
            }
            Ok(())
        })
        .await
    }

    async fn on_connection<T>(
        &self,
        ask: impl AsyncFnOnce(&mut Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let place = self.places.acquire().await;
        let _place = place
            .map_err(|closed| Error::Gone { action: "run a product", source: closed.into() })?;
        let mut connection = self.connection().await?;
        let limit = self.statement_timeout.saturating_add(GRACE);
        let asked = tokio::time::timeout(limit, ask(&mut connection)).await;
        let result = asked.unwrap_or_else(|elapsed| {
            Err(Error::Gone { action: "run a product", source: elapsed.into() })
        });
        let usable = matches!(&result, Ok(_) | Err(Error::Statement { .. }));
        if usable && !connection.client.is_closed() && connection.history == self.source.history() {
            self.idle().push(connection);
        }
        result
    }

    async fn connection(&self) -> Result<Connection, Error> {
        let history = self.source.history();
        let idle = {
            let mut idle = self.idle();
            idle.retain(|connection| {
                connection.history == history && !connection.client.is_closed()
            });
            idle.pop()
        };
        if let Some(connection) = idle {
            return Ok(connection);
        }
        let timeout = self.statement_timeout.as_millis().to_string();
        let settings = [
            ("default_transaction_read_only", "on"),
            ("default_transaction_isolation", "repeatable read"),
            ("statement_timeout", timeout.as_str()),
        ];
        let client = self.source.connect("work", &settings).await?;
        Ok(Connection { client, prepared: Prepared::new(PREPARED_KEPT), history })
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A plan that DDL has made impossible ("cached plan must not change result type") is prepared anew, once.
const STALE_PLAN: &str = "0A000";

async fn query(
    connection: &mut Connection,
    sql: &str,
    arguments: &[String],
) -> Result<Vec<Row>, Error> {
    let was_prepared = connection.prepared.has(sql);
    match query_once(connection, sql, arguments).await {
        Err(Error::Statement { sqlstate, .. }) if was_prepared && sqlstate == STALE_PLAN => {
            connection.prepared.forget(sql);
            query_once(connection, sql, arguments).await
        }
        other => other,
    }
}

async fn query_once(
    connection: &mut Connection,
    sql: &str,
    arguments: &[String],
) -> Result<Vec<Row>, Error> {
    const ACTION: &str = "run a product";
    let fail = |error| Error::from_postgres(ACTION, error);
    let Connection { client, prepared, .. } = connection;
    let statement = prepared.statement(client, sql, ACTION).await?;
    let arguments: Vec<&(dyn ToSql + Sync)> =
        arguments.iter().map(|argument| argument as _).collect();
    let rows = client.query(&statement, &arguments).await.map_err(fail)?;
    rows.iter()
        .map(|row| {
            Ok(Row {
                ordinal: row.try_get(0).map_err(fail)?,
                value: Bytes::from(row.try_get::<_, String>(1).map_err(fail)?),
                snapshot: row.try_get(2).map_err(fail)?,
                insert: row.try_get(3).map_err(fail)?,
                time_us: row.try_get(4).map_err(fail)?,
                spent_us: row.try_get(5).map_err(fail)?,
            })
        })
        .collect()
}
