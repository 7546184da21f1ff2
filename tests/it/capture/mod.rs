//! Capture on a real server.

use std::{collections::BTreeSet, time::Duration};

use kck::{
    capture::{
        Error, Event, Stream as _,
        stream::{Replication, Settings},
    },
    change::{Change, Datum, Lsn, Old, Row, TableId, Transaction},
    local::Postgres,
    observe::Observer,
    postgres::{
        address::Address,
        publication::ensure_publication,
        slot::{Facts, create_slot, facts},
    },
};
use tokio::time::timeout;

use crate::support::servers::Database;

mod changes;
mod connection;
mod login;
mod publication;

/// A database whose tables are published, and a slot that begins before all the test does to them.
struct Source {
    database: Database,
    begins: Lsn,
    facts: Facts,
}

impl Source {
    async fn new(name: &str, schema: &str, tables: &[&str]) -> Self {
        Self::of(Database::new(name).await, schema, tables).await
    }

    async fn on(server: &Postgres, name: &str, schema: &str, tables: &[&str]) -> Self {
        Self::of(Database::on(server, name).await, schema, tables).await
    }

    async fn of(database: Database, schema: &str, tables: &[&str]) -> Self {
        database.run(schema).await;
        let mut published = BTreeSet::new();
        for table in tables {
            published.insert(oid(&database, table).await);
        }
        ensure_publication(&database.client, &database.name, &published).await.unwrap();
        let facts = facts(&database.client).await.unwrap();
        let begins =
            create_slot(&database.client, &database.name, facts.version_num).await.unwrap();
        Self { database, begins, facts }
    }

    fn settings(&self) -> Settings {
        let address: Address = self.database.url.parse().unwrap();
        let (slot, publication) = (self.database.name.clone(), self.database.name.clone());
        let retry_first = Duration::from_millis(20);
        let settings = Settings::new(address, self.facts.history.clone(), self.begins);
        Settings { slot, publication, retry_first, ..settings }
    }

    async fn stream(&self) -> Replication {
        start(self.settings()).await
    }

    async fn run(&self, sql: &str) {
        self.database.run(sql).await;
    }

    /// Ends a walsender, as an administrator may.
    async fn terminate(&self, pid: i32) {
        self.database.client.execute("select pg_terminate_backend($1)", &[&pid]).await.unwrap();
    }
}

async fn oid(database: &Database, table: &str) -> TableId {
    let sql = "select $1::text::regclass::oid";
    TableId(database.client.query_one(sql, &[&table]).await.unwrap().get(0))
}

/// Returns when the condition holds.
async fn until(database: &Database, condition: &str) {
    let sql = format!("select ({condition}), pg_sleep(0.01)::text");
    let holds = async || {
        let found: Option<bool> = database.client.query_one(&sql, &[]).await.unwrap().get(0);
        found.unwrap_or_else(|| panic!("nothing is there of which {condition}"))
    };
    let wait = async { while !holds().await {} };
    timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("not {condition}"));
}

async fn start(settings: Settings) -> Replication {
    Replication::start(settings, Observer::default()).await.unwrap()
}

async fn outcome(stream: &mut Replication) -> Result<Event, Error> {
    timeout(Duration::from_secs(30), stream.next()).await.expect("something comes")
}

async fn next(stream: &mut Replication) -> Event {
    outcome(stream).await.unwrap()
}

/// The next opening, and the process that sends.
async fn opened(stream: &mut Replication) -> (Lsn, i32) {
    loop {
        if let Event::Opened { at, pid } = next(stream).await {
            return (at, pid);
        }
    }
}

/// Why a stream ended.
async fn end(stream: &mut Replication) -> Error {
    loop {
        if let Err(error) = outcome(stream).await {
            return error;
        }
    }
}

/// The next transaction with changes; 14 also tells of those without.
async fn transaction(stream: &mut Replication) -> (Vec<Change>, Transaction) {
    let mut changes = Vec::new();
    loop {
        match next(stream).await {
            Event::Change(change) => changes.push(change),
            Event::Commit(transaction) if !changes.is_empty() => return (changes, transaction),
            Event::Opened { .. } => changes.clear(),
            Event::Commit(_) | Event::Idle(_) => {}
        }
    }
}

fn text(datum: &Datum) -> String {
    match datum {
        Datum::Null => "null".to_owned(),
        Datum::Unchanged => "unchanged".to_owned(),
        Datum::Text(text) if text.len() > 100 => format!("{} bytes", text.len()),
        Datum::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
    }
}

fn row(row: &Row) -> String {
    format!("({})", row.iter().map(text).collect::<Vec<_>>().join(", "))
}

fn line(change: &Change) -> String {
    let before = |old: &Old| match old {
        Old::Unsent => "unsent".to_owned(),
        Old::Identity(old) => format!("identity {}", row(old)),
        Old::Whole(old) => format!("whole {}", row(old)),
    };
    match change {
        Change::Insert { relation, new } => format!("insert {} {}", relation.name, row(new)),
        Change::Update { relation, old, new } => {
            format!("update {} {} to {}", relation.name, before(old), row(new))
        }
        Change::Delete { relation, old } => format!("delete {} {}", relation.name, before(old)),
        Change::Truncate { relations } => {
            let names: Vec<_> = relations.iter().map(|relation| relation.name.as_str()).collect();
            format!("truncate {}", names.join(", "))
        }
    }
}

/// Each statement is one transaction, which the stream tells so.
async fn check(source: &Source, stream: &mut Replication, cases: &[(&str, &[&str])]) {
    for (sql, want) in cases {
        source.run(sql).await;
        let (changes, told) = transaction(stream).await;
        assert_eq!(changes.iter().map(line).collect::<Vec<_>>(), *want, "{sql}");
        assert!(source.begins < told.end, "{sql}");
    }
}

const ONE_TABLE: &str = "create table numbers (n bigint primary key, filling text)";

/// The number of a row that came.
fn number(change: &Change) -> i64 {
    let Change::Insert { new, .. } = change else { panic!("{change:?}") };
    text(&new[0]).parse().unwrap()
}
