//! Runs processes: statements as they stand in a file, on a connection of their own that may write; and locks those
//! that others run.
//!
//! Invariant: of one process of one slot nothing runs twice at once, whichever kck began it and whatever became of that:
//! the connection holds a lock of the server's, which is free when the server has done with it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Error, Source, connect, describe_chain, error::Kind};
use crate::process::Outcome;

/// How much later than it was told to give up a run may be heard of before its connection counts as lost.
const GRACE: Duration = Duration::from_secs(5);
/// A small question before the run, or during it.
const ASKED_WITHIN: Duration = Duration::from_secs(30);
/// How often a connection that only holds a lock is asked whether it is there.
const ASKED_EVERY: Duration = Duration::from_secs(1);
/// So much of what the server said is remembered.
const WHY_CHARS: usize = 300;
/// A statement was given up as somebody asked.
const CANCELED: &str = "57014";

/// Which process.
#[derive(Debug, Clone, Copy)]
pub struct Which<'a> {
    /// Its name.
    pub name: &'a str,
    /// Processes of one name of another slot are others.
    pub slot: &'a str,
}

/// What is run.
#[derive(Debug, Clone, Copy)]
pub struct Script<'a> {
    /// What it is a run of.
    pub of: Which<'a>,
    /// One text: one transaction, unless it is a single statement that makes its own.
    pub text: &'a str,
    /// It is given up after this.
    pub timeout: Duration,
}

/// Runs a script to its end. When `stop` is cancelled it is given up.
pub async fn run(source: &Source, script: Script<'_>, stop: &CancellationToken) -> Outcome {
    // The server gives up what nobody can cancel any more.
    let limit = script.timeout.saturating_add(GRACE).as_millis().to_string();
    let settings = [("statement_timeout", limit.as_str())];
    let client = tokio::select! {
        begun = begin(source, script.of, &settings) => match begun {
            Ok(Some(client)) => client,
            Ok(None) => return Outcome::Overlapped,
            Err(error) => return not_begun(&error),
        },
        () = stop.cancelled() => return Outcome::Interrupted,
    };
    let mut sent = Box::pin(client.batch_execute(script.text));
    let why = tokio::select! {
        ended = &mut sent => return ended_by(ended, Outcome::TimedOut),
        () = tokio::time::sleep(script.timeout) => Outcome::TimedOut,
        () = stop.cancelled() => Outcome::Interrupted,
    };
    connect::cancel(source.address(), &client).await;
    match tokio::time::timeout(GRACE, sent).await {
        Ok(ended) => ended_by(ended, why),
        Err(_) => Outcome::Unknown { why: "the source did not say that it gave it up".to_owned() },
    }
}

/// A connection that holds the process's lock, with these settings; none where another does.
async fn begin(
    source: &Source,
    of: Which<'_>,
    settings: &[(&str, &str)],
) -> Result<Option<tokio_postgres::Client>, Error> {
    let client = source.connect("process", settings).await?;
    // A server that can (from 14 on, on most systems) gives up what runs for a kck that is gone.
    drop(super::within(ASKED_WITHIN, watched(&client)).await);
    Ok(super::within(ASKED_WITHIN, locks(&client, of)).await?.then_some(client))
}

/// Whether the connection has the lock now.
async fn locks(client: &tokio_postgres::Client, of: Which<'_>) -> Result<bool, Error> {
    let sql =
        "select pg_catalog.pg_try_advisory_lock(pg_catalog.hashtext($1), pg_catalog.hashtext($2))";
    let slot = format!("kck process {}", of.slot);
    let row = client.query_one(sql, &[&slot, &of.name]).await;
    row.and_then(|row| row.try_get::<_, bool>(0))
        .map_err(|error| Error::from_postgres("lock the process", error))
}

/// Does what is not in SQL while the process's lock is held. It is given up where the lock may be lost, and when `stop`
/// is cancelled.
pub async fn locked(
    source: &Source,
    of: Which<'_>,
    does: impl Future<Output = Outcome>,
    stop: &CancellationToken,
) -> Outcome {
    let runs = async {
        match begin(source, of, &[]).await {
            Ok(Some(client)) => tokio::select! {
                outcome = does => outcome,
                error = lost(&client) => Outcome::Unknown { why: describe_chain(&error) },
            },
            Ok(None) => Outcome::Overlapped,
            Err(error) => not_begun(&error),
        }
    };
    tokio::select! {
        outcome = runs => outcome,
        () = stop.cancelled() => Outcome::Interrupted,
    }
}

/// Returns when a connection is not heard of any more, long before its server gives it up.
async fn lost(client: &tokio_postgres::Client) -> Error {
    loop {
        tokio::time::sleep(ASKED_EVERY).await;
        let asked = async {
            let said = client.simple_query("select").await;
            said.map_err(|error| Error::from_postgres("hold the lock of a process", error))
        };
        if let Err(error) = super::within(ASKED_WITHIN, asked).await {
            return error;
        }
    }
}

async fn watched(client: &tokio_postgres::Client) -> Result<(), Error> {
    let set = client.batch_execute("set client_connection_check_interval = '2s'").await;
    set.map_err(|error| Error::from_postgres("have the client watched", error))
}

/// Nothing was sent.
fn not_begun(error: &Error) -> Outcome {
    let code = match error {
        Error::Refused { sqlstate, .. } | Error::Statement { sqlstate, .. } => sqlstate.clone(),
        _ => String::new(),
    };
    Outcome::Failed { code, why: format!("nothing was run: {}", describe_chain(error)) }
}

/// What the server said; `given_up` is what it means that it gave the statement up.
fn ended_by(ended: Result<(), tokio_postgres::Error>, given_up: Outcome) -> Outcome {
    let error = match ended {
        Ok(()) => return Outcome::Done,
        Err(error) => error,
    };
    match error.as_db_error() {
        Some(said) if said.code().code() == CANCELED => given_up,
        Some(said) if !matches!(Kind::of(said.code().code()), Kind::Gone) => {
            let code = said.code().code().to_owned();
            // What is said of names and rights holds no row's values; a constraint's name does not either.
            let why = match said.constraint() {
                _ if code.starts_with("42") => said.message().chars().take(WHY_CHARS).collect(),
                Some(constraint) => format!("constraint {constraint}"),
                None => String::new(),
            };
            Outcome::Failed { code, why }
        }
        _ => {
            let error = Error::from_postgres("run a process", error);
            Outcome::Unknown { why: describe_chain(&error) }
        }
    }
}
