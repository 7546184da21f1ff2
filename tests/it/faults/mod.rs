//! Faults made for real, by their numbers in the list of cases; beside each runs the same watch, and after each
//! every key equals its SQL.
//!
//! `KCK_FAULTS__LONG=1` takes the long forms. What was injected and seen goes to standard error.
//! C03, a kill at each point of the protocol, is `crash.rs`; a kill as a product joins is in `reload.rs`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use kck::store::{Store as AnyStore, state::State};
use serde_json::Value;
use tokio::{sync::watch, time::timeout};
use tokio_postgres::{Client, NoTls};
use tokio_util::task::AbortOnDropHandle;

use crate::support::{
    client::get,
    kck::{Kck, Project, Store},
    servers::Database,
    setting,
};

mod bulk;
mod disk;
mod failover;
mod network;
mod process;
mod rights;
mod schema;
mod server;
mod slot;
mod transactions;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// A reader who is served what is there, or told that nothing is, is not kept waiting.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);
const COUNTERS: i64 = 8;

const SCHEMA: &str = "
    create table counters (id bigint primary key, n bigint not null);
    alter table counters replica identity full;
    insert into counters select n, 0 from generate_series(1, 8) n;
";
const COUNTER: &str = "/* kck\nresult = \"value\"\n*/\nselect n from counters where id = :id";

/// Whether the long forms are asked for.
fn long() -> bool {
    setting("KCK_FAULTS__LONG").unwrap_or(0) > 0
}

/// Counters in the database, and a project with the product that answers them.
async fn counters(database: &Database, store: Store) -> Project {
    database.run(SCHEMA).await;
    let project = Project::new(database, store).await;
    project.product("counter", COUNTER);
    project
}

/// Each counter's key with the SQL that it must equal.
fn all_counters() -> Vec<(String, String)> {
    let one = |id| (format!("counter/{id}"), format!("select n from counters where id = {id}"));
    (1..=COUNTERS).map(one).collect()
}

/// Every key equals its SQL, as of a moment when nobody writes.
async fn all_equal(address: &str, client: &Client, keys: &[(String, String)]) {
    let position: String =
        client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await.unwrap().get(0);
    for (key, sql) in keys {
        let want = answer(client, sql).await;
        let path = format!("/fetch/{key}?min_lsn={position}&wait=30s");
        // A statement on a connection that nobody answers any more is given up after half a minute.
        let asked = async {
            loop {
                let reply = get(address, &path, &[]).await.unwrap();
                if reply.status != 504 {
                    return reply;
                }
            }
        };
        let reply = timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{path} is answered"));
        assert_eq!(reply.value(), want, "{path}: {sql}");
    }
}

async fn counters_equal(address: &str, client: &Client) {
    all_equal(address, client, &all_counters()).await;
}

/// What the SQL answers, as JSON.
async fn answer(client: &Client, sql: &str) -> Value {
    let sql = format!("select coalesce(to_json(x)::text, 'null') from ({sql}) as t(x)");
    let row = client.query_opt(&sql, &[]).await.unwrap();
    row.map_or(Value::Null, |row| serde_json::from_str(row.get(0)).unwrap())
}

/// A connection as soon as the server gives one.
async fn reach(url: &str) -> Client {
    let tries = async {
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        loop {
            pace.tick().await;
            if let Some(client) = try_connect(url).await {
                return client;
            }
        }
    };
    timeout(PATIENCE, tries).await.unwrap_or_else(|_| panic!("{url} answers"))
}

async fn try_connect(url: &str) -> Option<Client> {
    let connecting = timeout(Duration::from_secs(2), tokio_postgres::connect(url, NoTls)).await;
    let (client, connection) = connecting.ok()?.ok()?;
    tokio::spawn(connection);
    Some(client)
}

/// Returns when the SQL says true; the server is asked at its own pace.
async fn until(client: &Client, condition: &str) {
    let sql = format!("select coalesce(({condition}), false), pg_sleep(0.02)::text");
    let holds = async { while !client.query_one(&sql, &[]).await.unwrap().get::<_, bool>(0) {} };
    timeout(PATIENCE, holds).await.unwrap_or_else(|_| panic!("not {condition}"));
}

/// Reads the key until the answer is as wanted.
async fn reads(address: &str, path: &str, wanted: impl Fn(&crate::support::client::Reply) -> bool) {
    let mut last = None;
    let asked = async {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        loop {
            pace.tick().await;
            if let Ok(reply) = get(address, path, &[]).await {
                if wanted(&reply) {
                    return;
                }
                last = Some(reply);
            }
        }
    };
    let became = timeout(PATIENCE, asked).await;
    assert!(became.is_ok(), "{path} stays {last:?}");
}

/// Raises the counters, one a commit, all the time; a source that is away is waited for.
struct Writer {
    over: watch::Sender<bool>,
    written: watch::Receiver<u64>,
    task: AbortOnDropHandle<()>,
}

impl Writer {
    fn start(url: &str) -> Self {
        Self::every(url, Duration::from_millis(5))
    }

    fn every(url: &str, pace: Duration) -> Self {
        let over = watch::Sender::new(false);
        let (count, written) = watch::channel(0);
        let task = tokio::spawn(write(url.to_owned(), over.subscribe(), count, pace));
        Self { over, written, task: AbortOnDropHandle::new(task) }
    }

    /// Returns when so many more commits went through.
    async fn writes(&self, more: u64) {
        let mut written = self.written.clone();
        let enough = *written.borrow() + more;
        let waited = timeout(PATIENCE, written.wait_for(|written| *written >= enough)).await;
        waited.expect("commits go through").unwrap();
    }

    /// Ends it, and gives how many commits went through.
    async fn end(self) -> u64 {
        self.over.send_replace(true);
        timeout(PATIENCE, self.task).await.expect("the writer ends").unwrap();
        *self.written.borrow()
    }
}

async fn write(
    url: String,
    over: watch::Receiver<bool>,
    written: watch::Sender<u64>,
    pace: Duration,
) {
    let mut pace = tokio::time::interval(pace);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut open: Option<Client> = None;
    let mut turn = 0;
    while !*over.borrow() {
        pace.tick().await;
        let client = match open.take() {
            Some(client) => client,
            None => match try_connect(&url).await {
                Some(client) => client,
                None => continue,
            },
        };
        turn = turn % COUNTERS + 1;
        let update = format!("update counters set n = n + 1 where id = {turn}");
        if let Ok(Ok(())) = timeout(Duration::from_secs(5), client.batch_execute(&update)).await {
            written.send_modify(|written| *written += 1);
            open = Some(client);
        }
    }
}

/// What a watch saw.
#[derive(Debug, Default)]
struct Seen {
    polls: u64,
    fresh: u64,
    stale: u64,
    refused: u64,
    /// Looks in which the slot was compared with the record.
    compared: u64,
}

/// Beside each case: what was acknowledged is recorded, versions never go back, and no answer claims a moment whose
/// counter it does not have.
struct Watch {
    url: watch::Sender<Option<String>>,
    over: watch::Sender<bool>,
    task: AbortOnDropHandle<Seen>,
}

impl Watch {
    /// Watches a kck in this process, whose slot is named like its database; `url` leads straight to the server.
    fn over(kck: &Kck, url: &str) -> Self {
        Self::at(&kck.address, url, Some(Arc::clone(&kck.app.context.store)))
    }

    /// Watches what answers there; without its store, only its answers.
    fn at(address: &str, url: &str, store: Option<Arc<dyn AnyStore>>) -> Self {
        let (url, over) = (watch::Sender::new(Some(url.to_owned())), watch::Sender::new(false));
        let watcher = Watcher {
            address: address.to_owned(),
            url: url.subscribe(),
            store,
            client: None,
            truth: Vec::new(),
            versions: HashMap::new(),
            seen: Seen::default(),
        };
        let task = tokio::spawn(watcher.run(over.subscribe()));
        Self { url, over, task: AbortOnDropHandle::new(task) }
    }

    /// What was true at the source is so no more, for it loses commits now.
    fn forgets(&self) {
        self.url.send_replace(None);
    }

    /// The source is there from now on.
    fn follows(&self, url: &str) {
        self.url.send_replace(Some(url.to_owned()));
    }

    async fn end(self) -> Seen {
        self.over.send_replace(true);
        timeout(PATIENCE, self.task).await.expect("the watch ends").unwrap()
    }
}

struct Watcher {
    address: String,
    url: watch::Receiver<Option<String>>,
    store: Option<Arc<dyn AnyStore>>,
    client: Option<Client>,
    /// When, by the source's clock, the counters were at least so.
    truth: Vec<(String, Vec<i64>)>,
    versions: HashMap<i64, u64>,
    seen: Seen,
}

impl Watcher {
    async fn run(mut self, over: watch::Receiver<bool>) -> Seen {
        let mut pace = tokio::time::interval(Duration::from_millis(25));
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !*over.borrow() {
            pace.tick().await;
            if self.url.has_changed().unwrap_or(false) {
                self.client = None;
                self.truth.clear();
            }
            let url = self.url.borrow_and_update().clone();
            if let Some(url) = url {
                self.look(&url).await;
            }
            self.read().await;
            self.seen.polls += 1;
        }
        self.seen
    }

    async fn recorded(&self) -> Option<State> {
        let store = self.store.as_ref()?;
        Some(State::decode(&store.load().await.ok()?).unwrap())
    }

    /// The source's side: the counters, and what it takes for acknowledged.
    async fn look(&mut self, url: &str) {
        if self.client.is_none() {
            self.client = try_connect(url).await;
        }
        let Some(client) = &self.client else { return };
        let before = self.recorded().await;
        let question = "select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),
            array(select n from counters order by id),
            (select confirmed_flush_lsn::text from pg_replication_slots where slot_name = current_database())";
        let asked = timeout(Duration::from_secs(2), client.query_one(question, &[])).await;
        let Ok(Ok(row)) = asked else {
            self.client = None;
            return;
        };
        self.truth.push((row.get(0), row.get(1)));
        let after = self.recorded().await;
        let (Some(before), Some(after)) = (before, after) else { return };
        let whole = |state: &State| state.recorded.epoch == state.epoch && state.recorded.lsn.0 > 0;
        let confirmed: Option<String> = row.get(2);
        if let Some(confirmed) = confirmed
            && before.epoch == after.epoch
            && whole(&before)
            && whole(&after)
        {
            let confirmed: kck::change::Lsn = confirmed.parse().unwrap();
            let recorded = after.recorded.lsn;
            assert!(confirmed <= recorded, "{confirmed} is acknowledged, {recorded} recorded");
            self.seen.compared += 1;
        }
    }

    /// A reader's side.
    async fn read(&mut self) {
        let counter = 1 + i64::try_from(self.seen.polls).unwrap() % COUNTERS;
        let path = format!("/fetch/counter/{counter}");
        let asked = timeout(ANSWERED_WITHIN, get(&self.address, &path, &[])).await;
        let Ok(reply) = asked.unwrap_or_else(|_| panic!("{path} hangs")) else {
            self.seen.refused += 1;
            return;
        };
        if reply.status != 200 {
            let text = String::from_utf8_lossy(&reply.body);
            assert!([503, 504].contains(&reply.status), "{path}: {} {text}", reply.status);
            self.seen.refused += 1;
            return;
        }
        let version = reply.json()["version"].as_u64().unwrap();
        let before = self.versions.insert(counter, version).unwrap_or(0);
        assert!(before <= version, "{path}: version {before} was before {version}");
        let stale = reply.header("kck-stale") == "true";
        *if stale { &mut self.seen.stale } else { &mut self.seen.fresh } += 1;
        let claims = reply.header("kck-as-of").to_owned();
        let known = self.truth.partition_point(|(at, _)| *at <= claims);
        if let Some((at, values)) = known.checked_sub(1).map(|last| &self.truth[last]) {
            let (least, value) = (values[usize::try_from(counter).unwrap() - 1], reply.value());
            assert!(
                value.as_i64().unwrap() >= least,
                "{path}: {value} is exact as of {claims}, and it was {least} at {at}; {reply:?}"
            );
        }
    }
}
