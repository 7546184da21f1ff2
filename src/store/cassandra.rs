//! Cassandra: entries in tables shared by many nodes, by the scylla driver.
//!
//! Cassandra keeps of each cell the write with the highest timestamp, and a delete where two are equal.
//! That *is* the store's order, so every write and delete binds its own timestamp, nothing is read first
//! and no lightweight transaction is needed. Writes are UPDATEs: an INSERT would leave a row marker that
//! outlives the cells.
//!
//! Invariant: nothing is written here without an explicit timestamp.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use scylla::{
    client::{
        execution_profile::ExecutionProfile, session::Session, session_builder::SessionBuilder,
    },
    errors::{DbError, ExecutionError, RequestAttemptError},
    policies::load_balancing::DefaultPolicy,
    serialize::row::SerializeRow,
    statement::prepared::PreparedStatement,
};

use super::{
    Error, Forget, Scanned, StateCell, Store, Track,
    encoding::{
        checked_name, decode_header, decode_lease, encode_header, encode_lease, header, join,
    },
};
use crate::{
    change::Position,
    entry::{Entry, Stamp},
    key::Key,
};

/// One request, retries included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Everything until the store can be used.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Writes of one call that are under way together.
const WRITES_IN_FLIGHT: usize = 64;
/// Rows of one page.
const PAGE_ROWS: i32 = 1000;
/// A scan asks for the ring in 2^10 parts: Cassandra refuses a request that meets too many deletes.
const SCAN_PARTS_LOG2: u32 = 10;
/// Parts of a scan that are asked for ahead.
const SCAN_AHEAD: usize = 16;

const PUT: &str =
    "UPDATE {keyspace}.cells USING TIMESTAMP ? SET header = ?, body = ? WHERE key = ?";
const TRACK: &str = "UPDATE {keyspace}.cells USING TIMESTAMP ? SET lease = ? WHERE key = ?";
const MARK: &str = "UPDATE {keyspace}.cells USING TIMESTAMP ? SET mark = ? WHERE key = ?";
const PURGE: &str = "DELETE header, body FROM {keyspace}.cells USING TIMESTAMP ? WHERE key = ?";
const FORGET: &str =
    "DELETE header, body, lease FROM {keyspace}.cells USING TIMESTAMP ? WHERE key = ?";
const UNMARK: &str = "DELETE mark FROM {keyspace}.cells USING TIMESTAMP ? WHERE key = ?";
const GET: &str = "SELECT header, body FROM {keyspace}.cells WHERE key = ?";
const SCAN: &str = "SELECT key, header, lease, mark FROM {keyspace}.cells WHERE token(key) >= ? AND token(key) <= ?";
const SAVE: &str = "UPDATE {keyspace}.state USING TIMESTAMP ? SET value = ? WHERE name = ?";
const ERASE: &str = "DELETE value FROM {keyspace}.state USING TIMESTAMP ? WHERE name = ?";
const LOAD: &str = "SELECT name, value, writetime(value) FROM {keyspace}.state";
const LOAD_ACTION: &str = "load state from Cassandra";
const TABLE: &str =
    "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";

/// How many replicas must have a write, or answer a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// One: right only where there is one replica.
    One,
    /// A majority of the local data centre's.
    #[default]
    LocalQuorum,
    /// A majority of all.
    Quorum,
}

/// Where the tables are and how they are used.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Some nodes, as `host:port`; the others are found through them.
    pub contact_points: Vec<String>,
    /// The keyspace, made if missing.
    pub keyspace: String,
    /// The data centre whose nodes are asked.
    pub local_datacenter: Option<String>,
    /// How many replicas a keyspace made by kck has, a data centre.
    pub replication: u32,
    /// Who to log in as.
    pub username: Option<String>,
    /// The password that goes with it.
    pub password: Option<String>,
    /// Encrypt connections.
    pub tls: bool,
    /// How many replicas count.
    pub consistency: Consistency,
}

impl fmt::Debug for Settings {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("contact_points", &self.contact_points)
            .field("keyspace", &self.keyspace)
            .field("local_datacenter", &self.local_datacenter)
            .field("replication", &self.replication)
            .field("username", &self.username)
            .field("tls", &self.tls)
            .field("consistency", &self.consistency)
            .finish_non_exhaustive()
    }
}

/// A store in Cassandra.
pub struct Cassandra {
    session: Session,
    put: PreparedStatement,
    track: PreparedStatement,
    mark: PreparedStatement,
    purge: PreparedStatement,
    forget: PreparedStatement,
    unmark: PreparedStatement,
    get: PreparedStatement,
    scan: PreparedStatement,
    save: PreparedStatement,
    erase: PreparedStatement,
    load: PreparedStatement,
}

impl Cassandra {
    /// Connects, makes keyspace and tables if they are missing, and prepares every statement.
    ///
    /// # Errors
    /// When no contact point answers, or something is missing that this user may not make.
    pub async fn connect(settings: &Settings) -> Result<Self, Error> {
        tokio::time::timeout(CONNECT_TIMEOUT, Box::pin(connect(settings)))
            .await
            .map_err(failed("connect to Cassandra"))?
    }

    /// Writes rows, a bounded number at a time.
    async fn write<V: SerializeRow + Send>(
        &self,
        statement: &PreparedStatement,
        rows: impl Iterator<Item = Result<V, Error>> + Send,
    ) -> Result<(), Error> {
        stream::iter(rows)
            .try_for_each_concurrent(WRITES_IN_FLIGHT, |row| async move {
                let written = self.session.execute_unpaged(statement, row).await;
                written.map(drop).map_err(failed("write to Cassandra"))
            })
            .await
    }
}

#[async_trait]
impl Store for Cassandra {
    async fn load(&self) -> Result<Vec<StateCell>, Error> {
        load(&self.session, self.load.clone()).await
    }

    async fn save(&self, cells: &[StateCell]) -> Result<(), Error> {
        let written = cells.iter().filter_map(|cell| {
            let value = cell.value.as_deref()?;
            Some(checked_name(&cell.name).map(|name| (timestamp(cell.stamp), value, name)))
        });
        self.write(&self.save, written).await?;
        let deleted = cells.iter().filter(|cell| cell.value.is_none());
        let deleted =
            deleted.map(|cell| checked_name(&cell.name).map(|name| (timestamp(cell.stamp), name)));
        self.write(&self.erase, deleted).await
    }

    async fn scan(&self, visit: &mut (dyn FnMut(Scanned) + Send)) -> Result<(), Error> {
        const ACTION: &str = "scan keys in Cassandra";
        let mut parts = stream::iter(ring_parts())
            .map(|part| self.session.execute_iter(self.scan.clone(), part))
            .buffered(SCAN_AHEAD);
        while let Some(pager) = parts.next().await {
            let mut rows =
                pager.map_err(failed(ACTION))?.rows_stream::<Row>().map_err(failed(ACTION))?;
            while let Some(row) = rows.next().await {
                visit(scanned(row.map_err(failed(ACTION))?)?);
            }
        }
        Ok(())
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        const ACTION: &str = "read from Cassandra";
        // The server refuses a name it cannot store; nothing has one.
        let Ok(name) = checked_name(key.as_str()) else { return Ok(None) };
        let rows = self.session.execute_unpaged(&self.get, (name,)).await;
        let rows = rows.map_err(failed(ACTION))?.into_rows_result().map_err(failed(ACTION))?;
        let row =
            rows.maybe_first_row::<(Option<&[u8]>, Option<Bytes>)>().map_err(failed(ACTION))?;
        let Some((Some(header), body)) = row else { return Ok(None) };
        let entry = decode_header(header).and_then(|header| join(header, body));
        entry.map(Some).map_err(corrupt("entry", name))
    }

    async fn put(&self, key: &Key, entry: &Entry) -> Result<(), Error> {
        let (time, header) = (timestamp(entry.meta.stamp.0), encode_header(&header(entry)));
        let row = (time, header, &*entry.body, checked_name(key.as_str())?);
        let written = self.session.execute_unpaged(&self.put, row).await;
        written.map(drop).map_err(|error| Error::Unavailable {
            action: "put an entry into Cassandra",
            source: if is_refused(&error) {
                Box::new(TooLarge { bytes: entry.body.len(), source: error })
            } else {
                error.into()
            },
        })
    }

    async fn track(&self, tracks: &[Track]) -> Result<(), Error> {
        let rows = tracks.iter().map(|Track { key, lease, stamp }| {
            Ok((timestamp(stamp.0), encode_lease(*lease), checked_name(key.as_str())?))
        });
        self.write(&self.track, rows).await
    }

    async fn mark(&self, marks: &[(Key, Position)]) -> Result<(), Error> {
        let rows = marks.iter().map(|(key, mark)| {
            let time = timestamp(mark.packed());
            Ok((time, time, checked_name(key.as_str())?))
        });
        self.write(&self.mark, rows).await
    }

    async fn purge(&self, keys: &[(Key, Stamp)]) -> Result<(), Error> {
        let rows =
            keys.iter().map(|(key, stamp)| Ok((timestamp(stamp.0), checked_name(key.as_str())?)));
        self.write(&self.purge, rows).await
    }

    async fn forget(&self, keys: &[Forget]) -> Result<(), Error> {
        let cells = keys
            .iter()
            .map(|Forget { key, stamp, .. }| Ok((timestamp(stamp.0), checked_name(key.as_str())?)));
        self.write(&self.forget, cells).await?;
        let marks = keys.iter().map(|Forget { key, mark, .. }| {
            Ok((timestamp(mark.packed()), checked_name(key.as_str())?))
        });
        self.write(&self.unmark, marks).await
    }
}

/// key, header, lease, mark
type Row = (String, Option<Vec<u8>>, Option<Vec<u8>>, Option<i64>);

fn scanned((name, header, lease, mark): Row) -> Result<Scanned, Error> {
    let corrupt = corrupt("cells", &name);
    let meta = header.as_deref().map(decode_header).transpose().map_err(&corrupt)?;
    let lease = lease.as_deref().map(decode_lease).transpose().map_err(&corrupt)?;
    let mark = mark.map(u64::try_from).transpose().map_err(|_| corrupt("its mark is negative"))?;
    Ok(Scanned { key: Key::from_stored(&name), lease, mark: mark.map(Position::unpack), meta })
}

/// The ring of tokens in equal parts, first and last token of each.
fn ring_parts() -> impl Iterator<Item = (i64, i64)> {
    let half = 1i64 << (SCAN_PARTS_LOG2 - 1);
    let shift = i64::BITS - SCAN_PARTS_LOG2;
    (-half..half).map(move |part| (part << shift, (part << shift) + ((1 << shift) - 1)))
}

/// Stamps and packed positions have 63 bits.
fn timestamp(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

/// The state table, for a look from outside that makes nothing; `None` where there is none yet.
///
/// # Errors
/// When no contact point answers, or the table cannot be read.
pub async fn state(settings: &Settings) -> Result<Option<Vec<StateCell>>, Error> {
    let look = Box::pin(async {
        let session = open(settings).await?;
        if !is_there(&session, TABLE, &[settings.keyspace.as_str(), "state"]).await? {
            return Ok(None);
        }
        let prepared = session.prepare(named(LOAD, settings)).await;
        load(&session, prepared.map_err(failed(LOAD_ACTION))?).await.map(Some)
    });
    tokio::time::timeout(CONNECT_TIMEOUT, look).await.map_err(failed("connect to Cassandra"))?
}

async fn load(session: &Session, question: PreparedStatement) -> Result<Vec<StateCell>, Error> {
    let pager = session.execute_iter(question, ()).await.map_err(failed(LOAD_ACTION))?;
    let rows = pager.rows_stream::<(String, Vec<u8>, i64)>().map_err(failed(LOAD_ACTION))?;
    rows.map(|row| {
        let (name, value, time) = row.map_err(failed(LOAD_ACTION))?;
        let stamp = u64::try_from(time)
            .map_err(|_| corrupt("state", &name)("its timestamp is none of kck's"))?;
        Ok(StateCell { name, value: Some(value.into()), stamp })
    })
    .try_collect()
    .await
}

async fn connect(settings: &Settings) -> Result<Cassandra, Error> {
    let session = open(settings).await?;
    make_schema(&session, settings).await?;
    let prepare = |statement: &'static str| {
        let (session, statement) = (&session, named(statement, settings));
        async move {
            let prepared = session.prepare(statement).await;
            let mut prepared = prepared.map_err(failed("prepare a statement in Cassandra"))?;
            // Writing a cell again as it is changes nothing, so the driver may repeat any of them.
            prepared.set_is_idempotent(true);
            prepared.set_page_size(PAGE_ROWS);
            Ok::<_, Error>(prepared)
        }
    };
    Ok(Cassandra {
        put: prepare(PUT).await?,
        track: prepare(TRACK).await?,
        mark: prepare(MARK).await?,
        purge: prepare(PURGE).await?,
        forget: prepare(FORGET).await?,
        unmark: prepare(UNMARK).await?,
        get: prepare(GET).await?,
        scan: prepare(SCAN).await?,
        save: prepare(SAVE).await?,
        erase: prepare(ERASE).await?,
        load: prepare(LOAD).await?,
        session,
    })
}

async fn open(settings: &Settings) -> Result<Session, Error> {
    let mut policy = DefaultPolicy::builder().token_aware(true);
    if let Some(datacenter) = &settings.local_datacenter {
        policy = policy.prefer_datacenter(datacenter.clone());
    }
    let profile = ExecutionProfile::builder()
        .consistency(match settings.consistency {
            Consistency::One => scylla::statement::Consistency::One,
            Consistency::LocalQuorum => scylla::statement::Consistency::LocalQuorum,
            Consistency::Quorum => scylla::statement::Consistency::Quorum,
        })
        .request_timeout(Some(REQUEST_TIMEOUT))
        .load_balancing_policy(policy.build())
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&settings.contact_points)
        .default_execution_profile_handle(profile.into_handle())
        .tcp_nodelay(true);
    if settings.tls {
        builder = builder.tls_context(Some(Arc::new(tls()?)));
    }
    if let (Some(username), Some(password)) = (&settings.username, &settings.password) {
        builder = builder.user(username, password);
    }
    builder.build().await.map_err(failed("connect to Cassandra"))
}

/// Trusts the machine's own authorities.
fn tls() -> Result<rustls::ClientConfig, Error> {
    let mut authorities = rustls::RootCertStore::empty();
    authorities.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed("encrypt connections to Cassandra"))?;
    Ok(config.with_root_certificates(authorities).with_no_client_auth())
}

/// Makes what is missing; asks first, since who may use a table need not be allowed to make one.
async fn make_schema(session: &Session, settings: &Settings) -> Result<(), Error> {
    let keyspace = settings.keyspace.as_str();
    let question = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
    if !is_there(session, question, &[keyspace]).await? {
        make(session, &named(include_str!("../../sql/cassandra/keyspace.cql"), settings)).await?;
    }
    for (table, statement) in [
        ("cells", include_str!("../../sql/cassandra/cells.cql")),
        ("state", include_str!("../../sql/cassandra/state.cql")),
    ] {
        if !is_there(session, TABLE, &[keyspace, table]).await? {
            make(session, &named(statement, settings)).await?;
        }
    }
    Ok(())
}

async fn is_there(session: &Session, question: &str, values: &[&str]) -> Result<bool, Error> {
    const ACTION: &str = "look for kck's tables in Cassandra";
    let answer = session.query_unpaged(question, values).await.map_err(failed(ACTION))?;
    Ok(answer.into_rows_result().map_err(failed(ACTION))?.rows_num() > 0)
}

async fn make(session: &Session, statement: &str) -> Result<(), Error> {
    let made = session.query_unpaged(statement, ()).await;
    made.map(drop).map_err(|source| Error::Unavailable {
        action: "make keyspace and tables in Cassandra",
        source: Box::new(NotMade { statement: statement.to_owned(), source }),
    })
}

/// A statement for this keyspace and replication.
fn named(statement: &str, settings: &Settings) -> String {
    let datacenter = settings.local_datacenter.as_deref().unwrap_or("replication_factor");
    let (datacenter, replicas) = (datacenter.replace('\'', "''"), settings.replication);
    let replication = format!("{{'class': 'NetworkTopologyStrategy', '{datacenter}': {replicas}}}");
    let keyspace = format!("\"{}\"", settings.keyspace.replace('"', "\"\""));
    statement.replace("{keyspace}", &keyspace).replace("{replication}", &replication)
}

/// Keyspace or table could not be made.
#[derive(Debug, thiserror::Error)]
#[error("it was refused; let somebody who may run:\n{statement}")]
struct NotMade {
    statement: String,
    source: ExecutionError,
}

/// The server does not take this entry, most likely for its size.
#[derive(Debug, thiserror::Error)]
#[error(
    "{bytes} bytes were refused; a server takes half of its commitlog_segment_size in one write"
)]
struct TooLarge {
    bytes: usize,
    source: ExecutionError,
}

/// Whether the server understood the request and does not take it.
fn is_refused(error: &ExecutionError) -> bool {
    matches!(
        error,
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::Invalid, _))
    )
}

fn failed<E: std::error::Error + Send + Sync + 'static>(
    action: &'static str,
) -> impl FnOnce(E) -> Error {
    move |error| Error::Unavailable { action, source: error.into() }
}

fn corrupt(what: &'static str, name: &str) -> impl Fn(&'static str) -> Error {
    move |fact| Error::Corrupt { what: format!("{what} of {name}"), fact }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            contact_points: vec!["127.0.0.1:9042".to_owned()],
            keyspace: "kck".to_owned(),
            local_datacenter: Some("dc'1".to_owned()),
            replication: 3,
            username: Some("kck".to_owned()),
            password: Some("secret".to_owned()),
            tls: false,
            consistency: Consistency::default(),
        }
    }

    #[test]
    fn the_parts_of_the_ring_meet() {
        let parts: Vec<_> = ring_parts().collect();
        assert_eq!(parts.len(), 1 << SCAN_PARTS_LOG2);
        assert_eq!(parts.first().map(|part| part.0), Some(i64::MIN));
        assert_eq!(parts.last().map(|part| part.1), Some(i64::MAX));
        for neighbours in parts.windows(2) {
            assert_eq!(neighbours[0].1 + 1, neighbours[1].0);
        }
    }

    #[test]
    fn names_are_quoted() {
        let statement = named(include_str!("../../sql/cassandra/keyspace.cql"), &settings());
        let replication = "{'class': 'NetworkTopologyStrategy', 'dc''1': 3}";
        assert!(statement.contains("NOT EXISTS \"kck\""), "{statement}");
        assert!(statement.contains(replication), "{statement}");
        let odd = Settings { keyspace: "a\"b".to_owned(), ..settings() };
        assert_eq!(named("{keyspace}.state", &odd), "\"a\"\"b\".state");
    }

    #[test]
    fn the_password_is_not_printed() {
        let printed = format!("{:?}", settings());
        assert!(printed.contains("dc'1") && !printed.contains("secret"), "{printed}");
    }
}
