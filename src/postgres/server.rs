//! The server and kck's role in it: what `kck doctor` looks at beside slot and publication.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};
use tokio_postgres::{Client, types::ToSql};

use super::error::Error;

/// What the server says of itself, of kck's role, and of whatever else replicates from it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Server {
    /// `server_version`: `15.18`.
    pub version: String,
    /// Where it listens, as it sees this connection; none over a socket.
    pub address: Option<String>,
    /// Its port, likewise.
    pub port: Option<u16>,
    /// Its clock.
    pub clock_micros: i64,
    /// The version of TLS that this connection has.
    pub tls: Option<String>,
    /// Settings in their base units; those that the server does not have are missing.
    pub settings: BTreeMap<String, String>,
    /// Whom kck is here.
    pub role: Role,
    /// There is a role named kck.
    pub knows_kck: bool,
    /// Those that are there of the roles that only some hosts have.
    pub roles: Vec<String>,
    /// What settings with a dot in their name begin with: `rds`.
    pub prefixes: Vec<String>,
    /// Every replication slot.
    pub slots: Vec<AnySlot>,
    /// Sessions that send the log.
    pub walsenders: u64,
    /// Those of them that feed a standby.
    pub standbys: u64,
    /// What decoding for kck's slot has written to disk since it was last reset.
    pub spilled_bytes: u64,
    /// Transactions that have run for five minutes, the longest first.
    pub long: Vec<Long>,
    /// Transactions of this database that were prepared five minutes ago or earlier.
    pub prepared: Vec<String>,
}

impl Server {
    /// A setting that is a number, in its base unit.
    #[must_use]
    pub fn number(&self, setting: &str) -> Option<i64> {
        self.settings.get(setting)?.parse().ok()
    }

    /// A setting's text, empty where there is none.
    #[must_use]
    pub fn text(&self, setting: &str) -> &str {
        self.settings.get(setting).map_or("", String::as_str)
    }
}

/// A role and what it may do in the whole server, and in this database.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// It may do anything.
    pub superuser: bool,
    /// It may read the log: by itself, as a superuser, or as Amazon's `rds_replication`.
    pub replication: bool,
    /// CREATEDB.
    pub creates_databases: bool,
    /// CREATEROLE.
    pub creates_roles: bool,
    /// CREATE on the database, which making a publication takes.
    pub may_publish: bool,
    /// TEMP on the database, which reading a statement's tree takes.
    pub may_describe: bool,
    /// The publication is its own; none where there is no publication.
    pub owns_publication: Option<bool>,
}

/// A slot, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct AnySlot {
    /// Its name.
    pub name: String,
    /// Somebody reads it.
    pub active: bool,
    /// It is a standby's.
    pub physical: bool,
    /// How much log it keeps.
    pub retained_bytes: Option<u64>,
}

/// A transaction that has run for long.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Long {
    /// Its process.
    pub pid: i32,
    /// What it calls itself.
    pub name: String,
    /// For how long.
    pub minutes: i64,
}

/// What kck's role may do with a relation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Rights {
    /// `pg_class.oid`.
    pub table: u32,
    /// Schema and name, quoted where they must be.
    pub name: String,
    /// Its schema, likewise.
    pub quoted_schema: String,
    /// A statement names it.
    pub mentioned: bool,
    /// It belongs to Postgres.
    pub system: bool,
    /// A publication can have it.
    pub publishable: bool,
    /// It is partitioned.
    pub partitioned: bool,
    /// USAGE of the schema.
    pub usage: bool,
    /// SELECT, of some columns at least.
    pub selects: bool,
    /// The role has the rights of its owner.
    pub owned: bool,
    /// Its generated columns.
    pub generated: Vec<String>,
}

/// Asks what the server is like. `slot` and `publication` are kck's.
///
/// # Errors
/// What the source said.
pub async fn server(client: &Client, slot: &str, publication: &str) -> Result<Server, Error> {
    let sql = include_str!("../../sql/postgres/server.sql");
    document(client, "look at the server", sql, &[&slot, &publication]).await
}

/// What the role may do with these tables, and with the relations of these names.
///
/// # Errors
/// What the source said.
pub async fn rights(
    client: &Client,
    mentioned: &[String],
    tables: &[u32],
) -> Result<Vec<Rights>, Error> {
    let sql = include_str!("../../sql/postgres/rights.sql");
    document(client, "look at rights", sql, &[&mentioned, &tables]).await
}

/// The lines of `pg_hba.conf` by which the role may copy the whole server; `None` where it may not read them.
///
/// # Errors
/// What the source said.
pub async fn replication_entries(client: &Client) -> Result<Option<Vec<i32>>, Error> {
    let sql = include_str!("../../sql/postgres/replication_entries.sql");
    let row = client.query_one(sql, &[]).await.and_then(|row| row.try_get(0));
    match row.map_err(|error| Error::from_postgres("look at pg_hba.conf", error)) {
        Ok(lines) => Ok(Some(lines)),
        Err(error) if error.sqlstate() == Some("42501") => Ok(None),
        Err(error) => Err(error),
    }
}

/// Tables whose writers suffer from a publication of all tables; the first few.
///
/// # Errors
/// What the source said.
pub async fn identity_less(client: &Client) -> Result<Vec<String>, Error> {
    let rows = client.query(include_str!("../../sql/postgres/identity_less.sql"), &[]).await;
    rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect())
        .map_err(|error| Error::from_postgres("look for tables without identity", error))
}

/// Whether statements outside a transaction reach one session after the other, as behind a pooler.
///
/// # Errors
/// What the source said.
pub async fn changes_session(client: &Client) -> Result<bool, Error> {
    let fail = |error| Error::from_postgres("ask which session this is", error);
    let mut first = None;
    for _ in 0..3 {
        let row = client.query_one("select pg_backend_pid()", &[]).await.map_err(fail)?;
        let pid: i32 = row.try_get(0).map_err(fail)?;
        if *first.get_or_insert(pid) != pid {
            return Ok(true);
        }
    }
    Ok(false)
}

/// One row of one JSON text.
async fn document<T: DeserializeOwned>(
    client: &Client,
    action: &'static str,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<T, Error> {
    let row = client.query_one(sql, parameters).await.and_then(|row| row.try_get::<_, String>(0));
    let text = row.map_err(|error| Error::from_postgres(action, error))?;
    serde_json::from_str(&text).map_err(|error| Error::Statement {
        sqlstate: "XX000".to_owned(),
        message: format!("{action}: {error}"),
        position: None,
    })
}
