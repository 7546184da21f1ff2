//! The source and kck's slot in it: what they are, and making and dropping the slot.

use std::time::Duration;

use tokio_postgres::{Client, Row};

use super::error::Error;
use crate::change::Lsn;

/// How long creating a slot may wait for transactions that write. Not `statement_timeout`: that one leaves
/// a half-made slot behind.
const CREATE_WAIT: &str = "10s";

/// A reader that was told to go needs a moment to let go of the slot.
const DROP_TRIES: u32 = 50;
const DROP_PAUSE: Duration = Duration::from_millis(100);

/// One history of one source: positions of different histories do not compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// `pg_control_system().system_identifier`.
    pub system_identifier: String,
    /// The timeline being written.
    pub timeline: u32,
}

/// What the server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Which history.
    pub history: History,
    /// `server_version_num`: 150018.
    pub version_num: i32,
    /// `replica` or `logical`, mostly.
    pub wal_level: String,
    /// Bytes of one log file.
    pub wal_segment_size: i64,
    /// It is a standby: positions and snapshots mean nothing there.
    pub in_recovery: bool,
    /// The database of this connection.
    pub database: String,
    /// Where it writes; none on a standby.
    pub insert_lsn: Option<Lsn>,
}

impl Facts {
    /// A server that cannot feed a stream, as an error with what to run.
    pub fn check(&self) -> Result<(), Error> {
        let refused = |message: String, hint: &str| {
            let (sqlstate, hint) = ("55000".to_owned(), hint.to_owned());
            Err(Error::Refused { action: "use the source", sqlstate, message, hint })
        };
        if self.in_recovery {
            let hint = "give the address of the primary";
            return refused("the server is a standby".to_owned(), hint);
        }
        if self.version_num < 140_000 {
            let message = format!("server version {} is older than 14", self.version_num / 10_000);
            return refused(message, "upgrade the server");
        }
        if self.wal_level != "logical" {
            let hint = "run ALTER SYSTEM SET wal_level = 'logical'; and restart the server. On a managed \
                host it is a switch there: rds.logical_replication = 1 (Amazon), \
                cloudsql.logical_decoding = on (Google), wal_level = LOGICAL (Azure), \
                logical replication in the console (Neon and others)";
            return refused(format!("wal_level is {}, not logical", self.wal_level), hint);
        }
        Ok(())
    }
}

/// A slot as the server shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// It is a permanent logical slot of this database for `pgoutput`.
    pub ours: bool,
    /// Who reads it.
    pub holder: Option<Holder>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: String,
    /// How many more bytes it may fall behind; none without a limit.
    pub safe_wal_size: Option<i64>,
    /// What was acknowledged.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// From where the source keeps its log.
    pub restart_lsn: Option<Lsn>,
    /// How much log it keeps for the slot.
    pub retained_bytes: u64,
    /// Why it was invalidated, where the server (17 and later) says so.
    pub invalidation_reason: Option<String>,
    /// It follows a failover (17 and later).
    pub failover: bool,
}

impl Slot {
    /// It can never be read again.
    #[must_use]
    pub fn lost(&self) -> bool {
        self.wal_status == "lost"
    }
}

/// The session that reads a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process.
    pub pid: i32,
    /// What it calls itself.
    pub name: Option<String>,
    /// Where it comes from, if it is not this machine and kck may see it.
    pub address: Option<String>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pid {}", self.pid)?;
        for part in [&self.name, &self.address].into_iter().flatten() {
            write!(f, ", {part}")?;
        }
        Ok(())
    }
}

/// What the server says of itself.
pub async fn facts(client: &Client) -> Result<Facts, Error> {
    const ACTION: &str = "read facts of the source";
    let row = client
        .query_one(include_str!("../../sql/postgres/facts.sql"), &[])
        .await
        .map_err(|error| Error::from_postgres(ACTION, error))?;
    let read = || {
        Ok(Facts {
            history: History {
                system_identifier: row.try_get("system_identifier")?,
                timeline: u32::try_from(row.try_get::<_, i64>("timeline")?).unwrap_or_default(),
            },
            version_num: row.try_get("version_num")?,
            wal_level: row.try_get("wal_level")?,
            wal_segment_size: row.try_get("wal_segment_size")?,
            in_recovery: row.try_get("in_recovery")?,
            database: row.try_get("database")?,
            insert_lsn: lsn(&row, "insert_lsn")?,
        })
    };
    read().map_err(|error| Error::from_postgres(ACTION, error))
}

/// A slot, if it exists.
pub async fn slot(client: &Client, name: &str) -> Result<Option<Slot>, Error> {
    const ACTION: &str = "look at the slot";
    let fail = |error| Error::from_postgres(ACTION, error);
    let row = client
        .query_opt(include_str!("../../sql/postgres/slot.sql"), &[&name])
        .await
        .map_err(fail)?;
    let Some(row) = row else { return Ok(None) };
    read_slot(&row).map(Some).map_err(fail)
}

fn read_slot(row: &Row) -> Result<Slot, tokio_postgres::Error> {
    let pid: Option<i32> = row.try_get("active_pid")?;
    let (name, address) = (row.try_get("holder_name")?, row.try_get("holder_address")?);
    let retained: Option<i64> = row.try_get("retained_bytes")?;
    Ok(Slot {
        ours: row.try_get::<_, Option<_>>("ours")?.unwrap_or_default(),
        holder: pid.map(|pid| Holder { pid, name, address }),
        // Null once the log is gone and restart_lsn was cleared.
        wal_status: row.try_get::<_, Option<_>>("wal_status")?.unwrap_or_else(|| "lost".to_owned()),
        safe_wal_size: row.try_get("safe_wal_size")?,
        confirmed_flush_lsn: lsn(row, "confirmed_flush_lsn")?,
        restart_lsn: lsn(row, "restart_lsn")?,
        retained_bytes: retained.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default(),
        invalidation_reason: row.try_get("invalidation_reason")?,
        failover: row.try_get("failover")?,
    })
}

/// Creates a permanent slot for `pgoutput` and gives the position it begins at. Its publication must exist
/// before it: a slot looks its publication up as of each change's own position.
pub async fn create_slot(client: &Client, name: &str, version_num: i32) -> Result<Lsn, Error> {
    const ACTION: &str = "create the slot";
    let fail = |error| Error::from_postgres(ACTION, error);
    let create = if version_num >= 170_000 {
        "select lsn::text from pg_create_logical_replication_slot($1, 'pgoutput', false, false, true)"
    } else {
        "select lsn::text from pg_create_logical_replication_slot($1, 'pgoutput', false, false)"
    };
    let set = format!("set lock_timeout = '{CREATE_WAIT}'");
    client.batch_execute(&set).await.map_err(fail)?;
    let made = client.query_one(create, &[&name]).await.and_then(|row| lsn(&row, "lsn"));
    let reset = client.batch_execute("reset lock_timeout").await;
    match made {
        Ok(at) => reset.map(|()| at.unwrap_or_default()).map_err(fail),
        Err(error) => Err(explain(client, fail(error)).await),
    }
}

/// What a person can do about a slot that could not be made.
async fn explain(client: &Client, error: Error) -> Error {
    let Error::Statement { sqlstate, message, .. } = &error else {
        return match error {
            Error::Refused { action, sqlstate, message, .. } if sqlstate == "42501" => {
                let hint = "run ALTER ROLE … REPLICATION; for kck's role".to_owned();
                Error::Refused { action, sqlstate, message, hint }
            }
            error => error,
        };
    };
    let hint = match sqlstate.as_str() {
        "55P03" => match blockers(client).await {
            Ok(who) => format!("it waits for transactions that have written and still run: {who}"),
            Err(error) => return error,
        },
        "53400" => "raise max_replication_slots, or drop a slot that nobody reads".to_owned(),
        "55000" => "run ALTER SYSTEM SET wal_level = 'logical'; and restart the server".to_owned(),
        _ => return error,
    };
    let (sqlstate, message) = (sqlstate.clone(), message.clone());
    Error::Refused { action: "create the slot", sqlstate, message, hint }
}

async fn blockers(client: &Client) -> Result<String, Error> {
    client
        .query_one(include_str!("../../sql/postgres/slot_blockers.sql"), &[])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(|error| Error::from_postgres("look who holds the slot's creation up", error))
}

/// Drops a slot; gives whether there was one. A reader that is going is waited for, a few seconds.
pub async fn drop_slot(client: &Client, name: &str) -> Result<bool, Error> {
    const SQL: &str = "select pg_drop_replication_slot($1)";
    let mut tries = 0;
    loop {
        let Err(error) = client.execute(SQL, &[&name]).await else { return Ok(true) };
        match error.code().map(tokio_postgres::error::SqlState::code) {
            Some("42704") => return Ok(false),
            Some("55006") if tries < DROP_TRIES => {
                tries += 1;
                tokio::time::sleep(DROP_PAUSE).await;
            }
            _ => return Err(Error::from_postgres("drop the slot", error)),
        }
    }
}

/// `pg_stat_replication.sync_state` of the process that sends to us: `async`, or `sync`, `potential`, `quorum`
/// when commits wait for kck (R3).
pub async fn sync_state(client: &Client, pid: i32) -> Result<Option<String>, Error> {
    client
        .query_opt("select sync_state from pg_stat_replication where pid = $1", &[&pid])
        .await
        .and_then(|row| row.map_or(Ok(None), |row| row.try_get(0)))
        .map_err(|error| Error::from_postgres("look at kck's own sync_state", error))
}

fn lsn(row: &Row, column: &str) -> Result<Option<Lsn>, tokio_postgres::Error> {
    // The server prints what `Lsn` parses.
    let text: Option<&str> = row.try_get(column)?;
    Ok(text.and_then(|text| text.parse().ok()))
}
