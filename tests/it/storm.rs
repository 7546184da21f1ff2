//! Many writers, many readers, kck killed now and then, commits that wait for a standby: nothing that is read is
//! older than demanded.
//!
//! `KCK_STORM__SECONDS` says how long.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio_postgres::Client;

use crate::support::{
    client::get,
    kck::{Project, Store},
    process::Process,
    run,
    servers::{Database, commit, connect, own_postgres, wait_for_standby},
    setting,
};

const SECONDS: u64 = 20;
const WRITERS: u64 = 8;
const READERS: u64 = 8;
/// Counters of each writer.
const COUNTERS: u64 = 4;
/// Attempts to read between two disturbances.
const TRIES_BETWEEN: u64 = 200;
/// And while commits are held back, when most of them wait in vain.
const TRIES_HELD: u64 = 40;
/// What must have been answered and survived, however long that takes, within [`TIMES_MAX`] times the time.
const ANSWERS_MIN: u64 = 400;
const KILLS_MIN: u64 = 2;
const TIMES_MAX: u32 = 6;
/// For what comes within milliseconds on a machine that has time.
const PATIENCE: Duration = Duration::from_secs(30);

const SCHEMA: &str = "
    create table owners (id bigint primary key, name text not null);
    create table counters (id bigint primary key, owner bigint not null, n bigint not null);
    alter table owners replica identity full;
    alter table counters replica identity full;
    insert into owners select n, 'owner ' || n from generate_series(0, 7) n;
    insert into counters select n, n / 4, 0 from generate_series(0, 31) n;
";

/// Each counter by itself and through a join, and the highest of its owner's, which is never less.
const PRODUCTS: &[(&str, &str)] = &[
    ("counter", "select n from counters where id = :id"),
    (
        "counter_of_owner",
        "select c.n from counters c join owners o on o.id = c.owner where c.id = :id and o.name like 'owner %'",
    ),
    (
        "among_its_like",
        "select max(c.n) from counters c where c.owner = (select d.owner from counters d where d.id = :id) and c.id = :id",
    ),
    (
        OF_OWNER,
        "select max(c.n) from counters c join owners o on o.id = c.owner where o.name = :name",
    ),
];
const OF_OWNER: &str = "highest_of_owner";

/// The key of a product that speaks of a counter.
fn key(product: &str, counter: u64) -> String {
    match product {
        OF_OWNER => format!("{product}/owner%20{}", counter / COUNTERS),
        _ => format!("{product}/{counter}"),
    }
}

/// A counter that had this value at this position.
#[derive(Debug, Clone)]
struct Published {
    counter: u64,
    value: i64,
    position: String,
}

/// What readers and writers share.
struct Storm {
    /// The newest commit of each counter.
    published: Vec<Mutex<Option<Published>>>,
    /// Where kck answers; another port after each start.
    address: watch::Sender<String>,
    over: watch::Sender<bool>,
    /// Writers do nothing more for now.
    paused: watch::Sender<bool>,
    /// Reads that came to an end, whatever it was.
    tries: watch::Sender<u64>,
    answered: AtomicU64,
    stale: AtomicU64,
    refused: AtomicU64,
    unreached: AtomicU64,
    commits: AtomicU64,
    /// The furthest that an answer was behind the newest published value, in commits of its counter.
    behind_most: AtomicU64,
}

impl Storm {
    fn new(address: &str) -> Self {
        let counters = WRITERS * COUNTERS;
        Self {
            published: (0..counters).map(|_| Mutex::new(None)).collect(),
            address: watch::Sender::new(address.to_owned()),
            over: watch::Sender::new(false),
            paused: watch::Sender::new(false),
            tries: watch::Sender::new(0),
            answered: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            unreached: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            behind_most: AtomicU64::new(0),
        }
    }

    fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    fn newest(&self, counter: u64) -> Option<Published> {
        self.published[usize::try_from(counter).unwrap()].lock().unwrap().clone()
    }

    fn publish(&self, published: Published) {
        let place = usize::try_from(published.counter).unwrap();
        *self.published[place].lock().unwrap() = Some(published);
        self.commits.fetch_add(1, Ordering::Relaxed);
    }
}

/// Raises counters of its own, and says so after each commit.
async fn write(storm: Arc<Storm>, client: Client, writer: u64) {
    let mut value = 0;
    while !storm.is_over() {
        value += 1;
        for counter in writer * COUNTERS..(writer + 1) * COUNTERS {
            let update = if value % 3 == 0 {
                format!(
                    "begin; update counters set n = n + 1 where id = {counter}; savepoint s; update counters set n = -1 where id = {counter}; rollback to s; commit"
                )
            } else {
                format!("update counters set n = {value} where id = {counter}")
            };
            let position = commit(&client, &update).await;
            storm.publish(Published { counter, value, position });
            // The sender lives in the storm, so waiting cannot fail.
            drop(storm.paused.subscribe().wait_for(|paused| !paused).await);
        }
    }
}

/// Demands what was published, now and a while ago.
async fn read(storm: Arc<Storm>, reader: u64) {
    let counters = WRITERS * COUNTERS;
    let mut kept: Option<Published> = None;
    let mut turn = reader;
    while !storm.is_over() {
        turn += 1;
        let newest = storm.newest((turn * 7 + reader) % counters);
        // Every other time what was published a turn before.
        let asked =
            if turn.is_multiple_of(2) { newest.clone() } else { kept.take().or(newest.clone()) };
        kept = newest;
        let Some(asked) = asked else {
            tokio::task::yield_now().await;
            continue;
        };
        let (product, _) = PRODUCTS[usize::try_from(turn).unwrap() % PRODUCTS.len()];
        demand(&storm, product, &asked).await;
        storm.tries.send_modify(|tries| *tries += 1);
    }
}

/// One read, which must not be older than asked.
async fn demand(storm: &Storm, product: &str, asked: &Published) {
    let address = storm.address.borrow().clone();
    let Published { counter, value, position } = asked;
    let path = format!("/fetch/{}?min_lsn={position}&wait=500ms", key(product, *counter));
    let Ok(reply) = get(&address, &path, &[]).await else {
        storm.unreached.fetch_add(1, Ordering::Relaxed);
        // Killed: it is soon somewhere else, or this was the moment between.
        let mut elsewhere = storm.address.subscribe();
        let moved = elsewhere.wait_for(|now| *now != address);
        drop(tokio::time::timeout(Duration::from_millis(200), moved).await);
        return;
    };
    if reply.status != 200 {
        let text = String::from_utf8_lossy(&reply.body);
        // It waits for what cannot be seen yet, or has just begun and not joined the source yet.
        assert!([503, 504].contains(&reply.status), "{path}: {text}");
        storm.refused.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let answered = reply.value().as_i64().unwrap();
    assert!(answered >= *value, "{path}: {answered} is older than {value}; {reply:?}");
    storm.answered.fetch_add(1, Ordering::Relaxed);
    storm.stale.fetch_add(u64::from(reply.header("kck-stale") == "true"), Ordering::Relaxed);
    let newest = storm.newest(*counter).map_or(0, |newest| newest.value);
    let behind = u64::try_from(newest - answered).unwrap_or(0);
    storm.behind_most.fetch_max(behind, Ordering::Relaxed);
}

/// How kck and commits are disturbed.
#[derive(Debug, Clone, Copy)]
enum Disturbance {
    Kill,
    HoldCommits,
    /// Commits wait for a standby that is not there, and meanwhile kck is killed and started.
    KillWhileHeld,
    /// Commits wait for kck itself, which is killed and started.
    KillTheStandby,
}

const DISTURBANCES: [Disturbance; 4] = [
    Disturbance::Kill,
    Disturbance::HoldCommits,
    Disturbance::KillWhileHeld,
    Disturbance::KillTheStandby,
];

/// A kck that is killed and started.
struct Victim<'a> {
    storm: &'a Storm,
    project: &'a Project,
    database: &'a Database,
    process: Process,
    kills: u64,
}

impl Victim<'_> {
    /// The next is started only when readers have met its absence.
    async fn kill(mut self) -> Self {
        self.process.kill().await;
        self.storm.tried(READERS * 2).await;
        self.process = Process::start(self.project, "").await;
        self.storm.address.send_replace(self.process.address.clone());
        self.kills += 1;
        self
    }

    /// Commits wait for this standby, and one of them does so already.
    async fn hold(&self, standby: &str) {
        wait_for_standby(self.database, standby).await;
        let count = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
        let waits = async {
            while standby == "nobody" && self.database.one(count).await == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waits).await.expect("some commit waits");
    }

    async fn disturb(mut self, how: Disturbance) -> Self {
        match how {
            Disturbance::Kill => self = self.kill().await,
            Disturbance::HoldCommits => {
                self.hold("nobody").await;
                self.storm.tried(TRIES_HELD).await;
            }
            Disturbance::KillWhileHeld => {
                self.hold("nobody").await;
                self = self.kill().await;
                self.storm.tried(TRIES_HELD).await;
            }
            Disturbance::KillTheStandby => {
                self.hold("*").await;
                self.storm.tried(TRIES_HELD).await;
                self = self.kill().await;
            }
        }
        // What was held is read before a later commit touches it again and hides what was missed.
        self.storm.paused.send_replace(true);
        self.hold("").await;
        self.storm.tried(TRIES_BETWEEN).await;
        self.storm.paused.send_replace(false);
        self
    }
}

impl Storm {
    /// Returns when readers have tried so often again, whatever came of it.
    async fn tried(&self, times: u64) {
        let mut tries = self.tries.subscribe();
        let enough = *tries.borrow() + times;
        let tried = tries.wait_for(|tries| *tries >= enough);
        // Bounded: a reader that failed tries no more, and says so when it is joined.
        drop(tokio::time::timeout(PATIENCE, tried).await);
    }

    /// The newest value of each counter is what every product answers in the end.
    async fn ends_right(&self) {
        let address = self.address.borrow().clone();
        for published in &self.published {
            let newest = published.lock().unwrap().clone();
            let Published { counter, value, position } = newest.expect("each counter was raised");
            for (product, _) in PRODUCTS {
                let key = key(product, counter);
                let path = format!("/fetch/{key}?min_lsn={position}&wait=30s");
                let reply = get(&address, &path, &[]).await.unwrap();
                assert_eq!(reply.value().as_i64(), Some(value), "{path}");
            }
        }
    }

    fn report(&self, kills: u64) -> String {
        let [commits, answered, stale, refused, unreached, behind] = [
            &self.commits,
            &self.answered,
            &self.stale,
            &self.refused,
            &self.unreached,
            &self.behind_most,
        ]
        .map(|count| count.load(Ordering::Relaxed));
        format!(
            "{commits} commits, {kills} kills, {answered} reads answered ({stale} stale), {refused} refused, \
             {unreached} found nobody; the oldest answer allowed was {behind} commits of its counter behind"
        )
    }
}

/// Goal: no read is older than demanded, whatever happens to kck and to commits. Method: writers publish values
/// with the positions of their commits, readers demand those; meanwhile kck is killed, and commits are held back.
#[test]
fn nothing_is_older_than_demanded() {
    run(async {
        let server = own_postgres(&[]).await;
        let database = Database::on(&server, "storm").await;
        database.run(SCHEMA).await;
        let project = Project::new(&database, Store::Embedded).await;
        for (name, sql) in PRODUCTS {
            project.product(name, &format!("/* kck\nresult = \"value\"\n*/\n{sql}"));
        }
        let process = Process::start(&project, "").await;
        let storm = Arc::new(Storm::new(&process.address));
        let mut tasks = Vec::new();
        for writer in 0..WRITERS {
            let client = connect(&database.url).await;
            tasks.push(tokio::spawn(write(Arc::clone(&storm), client, writer)));
        }
        for reader in 0..READERS {
            tasks.push(tokio::spawn(read(Arc::clone(&storm), reader)));
        }

        let time = Duration::from_secs(setting("KCK_STORM__SECONDS").unwrap_or(SECONDS));
        let begun = Instant::now();
        let mut victim =
            Victim { storm: &storm, project: &project, database: &database, process, kills: 0 };
        for how in DISTURBANCES.iter().cycle() {
            storm.tried(TRIES_BETWEEN).await;
            let few =
                victim.kills < KILLS_MIN || storm.answered.load(Ordering::Relaxed) < ANSWERS_MIN;
            let limit = if few { time * TIMES_MAX } else { time };
            // A reader or writer that ended has something to say.
            let ended = tasks.iter().any(tokio::task::JoinHandle::is_finished);
            if ended || begun.elapsed() > limit {
                break;
            }
            victim = victim.disturb(*how).await;
        }
        storm.over.send_replace(true);
        for task in join_all(tasks).await {
            task.unwrap();
        }
        let report = storm.report(victim.kills);
        storm.ends_right().await;
        println!("{report}");
        assert!(victim.kills >= KILLS_MIN, "{report}");
        assert!(storm.answered.load(Ordering::Relaxed) >= ANSWERS_MIN, "{report}");
        victim.process.kill().await;
    });
}
