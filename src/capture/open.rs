//! An address, a slot and a position → a stream that has started, or why it cannot.
//!
//! Everything that would make the stream skip commits silently is looked at before it starts: another history,
//! a log that ends before what was delivered, a slot that somebody acknowledged further than kck did (R10, R14).

use std::time::Duration;

use postgres_protocol::escape::{escape_identifier, escape_literal};

use super::{
    Error,
    connection::{Connection, Fault, ServerError},
    stream::Settings,
};
use crate::{
    change::Lsn,
    postgres::{
        address::Endpoint,
        error::{Kind, hint},
        slot::Holder,
    },
};

const ACTION: &str = "open the replication stream";

/// What opening led to.
pub(super) enum Opening {
    /// The stream has started at `at`.
    Open { connection: Box<Connection>, at: Lsn, timeout: Duration },
    /// Somebody else reads the slot.
    Taken(Holder),
}

/// Opens the stream at `at`, at the first endpoint that has it. `delivered` is the furthest position that earlier
/// connections delivered.
pub(super) async fn open(settings: &Settings, at: Lsn, delivered: Lsn) -> Result<Opening, Error> {
    let mut first = None;
    for endpoint in settings.address.endpoints() {
        match open_at(settings, &endpoint, at, delivered).await {
            // The next one may be the primary, or up.
            Err(error @ (Error::Lost { .. } | Error::Refused { .. })) => {
                first.get_or_insert(error);
            }
            decided => return decided,
        }
    }
    Err(first.unwrap_or_else(|| Error::Lost { action: ACTION, source: "no host".into() }))
}

async fn open_at(
    settings: &Settings,
    endpoint: &Endpoint,
    at: Lsn,
    delivered: Lsn,
) -> Result<Opening, Error> {
    let mut connection = Connection::open(&settings.address, endpoint).await.map_err(judge)?;
    check_history(&mut connection, settings, delivered.max(at)).await?;
    let state = State::read(&mut connection, settings).await?;
    if let Some(holder) = state.check(settings, at)? {
        return Ok(Opening::Taken(holder));
    }
    let command = format!(
        "START_REPLICATION SLOT {} LOGICAL {at} (proto_version '1', publication_names {})",
        escape_identifier(&settings.slot),
        escape_literal(&escape_identifier(&settings.publication)).trim_start(),
    );
    let Err(fault) = connection.start_replication(&command).await else {
        let (connection, timeout) = (Box::new(connection), state.timeout);
        return Ok(Opening::Open { connection, at, timeout });
    };
    let Fault::Server { said: ServerError { sqlstate, .. }, .. } = &fault else {
        return Err(judge(fault));
    };
    match sqlstate.as_str() {
        "42704" => Err(lost(settings, fault.to_string())),
        // The slot was taken, or invalidated, since it was looked at; it never says which by code alone.
        "55006" | "55000" => {
            let refused = sqlstate == "55000";
            match State::read(&mut connection, settings).await?.check(settings, at)? {
                Some(holder) => Ok(Opening::Taken(holder)),
                None if refused => Err(Error::Refused {
                    action: ACTION,
                    fact: fault.to_string(),
                    hint: "look at pg_replication_slots, and at wal_level".to_owned(),
                }),
                None => Err(judge(fault)),
            }
        }
        _ => Err(judge(fault)),
    }
}

/// The server must be the one, and its log must reach as far as it once did.
async fn check_history(
    connection: &mut Connection,
    settings: &Settings,
    delivered: Lsn,
) -> Result<(), Error> {
    let rows = connection.query("identify the source", "IDENTIFY_SYSTEM").await.map_err(judge)?;
    let mut row = rows.into_iter().flatten().map(Option::unwrap_or_default);
    let (system, timeline, end) = (row.next(), row.next(), row.next());
    let (Some(system), Some(Ok(timeline)), Some(Ok(end))) =
        (system, timeline.map(|text| text.parse::<u32>()), end.map(|text| text.parse::<Lsn>()))
    else {
        return Err(Error::Protocol { message: "IDENTIFY_SYSTEM", fact: "no such row".to_owned() });
    };
    let known = &settings.history;
    if system != known.system_identifier {
        let fact = format!("the source is system {system}, not {}", known.system_identifier);
        return Err(lost(settings, fact));
    }
    if timeline != known.timeline {
        let fact = format!("the source is on timeline {timeline}, not {}", known.timeline);
        return Err(lost(settings, fact));
    }
    if end < delivered {
        let fact = format!("the log ends at {end}, before {delivered}, which it had reached");
        return Err(lost(settings, fact));
    }
    Ok(())
}

/// What `sql/postgres/stream_opening.sql` tells.
struct State {
    in_recovery: bool,
    timeout: Duration,
    exists: bool,
    plugin: String,
    of_this_database: bool,
    wal_status: Option<String>,
    confirmed: Option<Lsn>,
    holder: Option<Holder>,
}

impl State {
    async fn read(connection: &mut Connection, settings: &Settings) -> Result<Self, Error> {
        let sql = include_str!("../../sql/postgres/stream_opening.sql")
            .replace("{slot}", &escape_literal(&settings.slot));
        let rows = connection.query("look at the slot", &sql).await.map_err(judge)?;
        let mut row = rows.into_iter().flatten();
        let mut next = || row.next().flatten();
        let is = |text: Option<String>| text.as_deref() == Some("t");
        Ok(Self {
            in_recovery: is(next()),
            timeout: Duration::from_millis(next().and_then(|ms| ms.parse().ok()).unwrap_or(0)),
            exists: is(next()),
            plugin: next().unwrap_or_default(),
            of_this_database: is(next()),
            wal_status: next(),
            confirmed: next().and_then(|lsn| lsn.parse().ok()),
            holder: next().and_then(|pid| pid.parse().ok()).map(|pid| Holder {
                pid,
                name: next(),
                address: next(),
            }),
        })
    }

    /// Whoever reads the slot, if all is well with it.
    fn check(&self, settings: &Settings, at: Lsn) -> Result<Option<Holder>, Error> {
        let refused = |fact: &str, hint: &str| {
            Err(Error::Refused { action: ACTION, fact: fact.to_owned(), hint: hint.to_owned() })
        };
        if self.in_recovery {
            return refused("the server is a standby", "give the address of the primary");
        }
        if !self.exists {
            return Err(lost(settings, "it does not exist".to_owned()));
        }
        if self.plugin != "pgoutput" || !self.of_this_database {
            let fact = format!("slot '{}' is not one for pgoutput in this database", settings.slot);
            return refused(&fact, "choose another name for the slot");
        }
        if self.wal_status.as_deref().is_none_or(|status| status == "lost") {
            return Err(lost(settings, "the source has invalidated it".to_owned()));
        }
        // Whoever reads it now has acknowledged what it has.
        match self.confirmed.filter(|_| self.holder.is_none()) {
            Some(confirmed) if confirmed > at => {
                let fact = format!("somebody acknowledged {confirmed}, beyond {at}");
                Err(lost(settings, fact))
            }
            _ => Ok(self.holder.clone()),
        }
    }
}

fn lost(settings: &Settings, fact: String) -> Error {
    Error::SlotLost { slot: settings.slot.clone(), fact }
}

/// What a fault while opening means.
pub(super) fn judge(fault: Fault) -> Error {
    match fault {
        Fault::Protocol(error) => error,
        Fault::Tls(error) => {
            let hint = "check sslrootcert, sslcert and sslkey in the address".to_owned();
            Error::Refused { action: ACTION, fact: error.to_string(), hint }
        }
        Fault::Refused { action, fact } => {
            let hint = "check the address and the password of the source".to_owned();
            Error::Refused { action, fact, hint }
        }
        // rustls reports so what the other side's certificate lacks.
        Fault::Network { action, source } if source.kind() == std::io::ErrorKind::InvalidData => {
            let hint = "check sslmode and sslrootcert in the address".to_owned();
            Error::Refused { action, fact: source.to_string(), hint }
        }
        Fault::Network { action, source } => Error::Lost { action, source: source.into() },
        Fault::Server { action, said } => match Kind::of(&said.sqlstate) {
            Kind::Person => {
                let hint = match said.sqlstate.as_str() {
                    "42501" => "run ALTER ROLE … REPLICATION; for kck's role",
                    sqlstate => hint(sqlstate),
                };
                Error::Refused { action, fact: said.to_string(), hint: hint.to_owned() }
            }
            Kind::Unreachable | Kind::Gone | Kind::Statement => {
                Error::Lost { action, source: said.into() }
            }
        },
    }
}

/// What a fault of a running stream means.
pub(super) fn judge_running(fault: Fault, settings: &Settings) -> Error {
    match fault {
        Fault::Server { said, .. } if said.sqlstate == "42704" => unpublished(&said, settings),
        Fault::Server { action, said } => Error::Lost { action, source: said.into() },
        fault => judge(fault),
    }
}

/// What a server's warning means, if anything: 18 and later skip the changes of a publication that is gone.
pub(super) fn judge_notice(said: &ServerError, settings: &Settings) -> Result<(), Error> {
    match said.sqlstate.as_str() {
        "55000" => Err(unpublished(said, settings)),
        _ => Ok(()),
    }
}

/// The publication is looked up as of each change, so making it again does not bring back what was passed: only a slot
/// made after it can go on.
fn unpublished(said: &ServerError, settings: &Settings) -> Error {
    lost(settings, format!("publication '{}' was dropped: {said}", settings.publication))
}
