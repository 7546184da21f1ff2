//! Keys that come, go, expire, are evicted, purged and come back, beside writes: limits hold, memory stays flat, and in
//! the end every key is right. `KCK_CHURN__SECONDS` makes it long.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    client::{Reply, get, send},
    kck::{Project, Store},
    process::Process,
    run,
    servers::{Database, connect},
    setting,
};

const SECONDS: u64 = 12;
const OWNERS: u64 = 1000;
const READERS: u64 = 6;
const TRACKED_MOST: u64 = 200;
/// Less than that many answers are together, so that both limits bite.
const STORED_MOST: u64 = 40_000;
/// One statement's answers may go over before cold ones are let go of.
const STORED_OVER: u64 = 100_000;

/// About 300 bytes each.
const SQL: &str = "select coalesce(sum(n), 0)::bigint || repeat('.', 200 + :owner::int % 200) \
                   from items where owner = :owner";

/// Numbers that are the same on every machine.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    /// Small ones come often, as readers ask.
    fn skewed(&mut self, below: u64) -> u64 {
        let some = self.next(below) + 1;
        self.next(some)
    }
}

async fn reads(address: String, seed: u64, until: Instant) -> u64 {
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15 ^ seed);
    let mut answered = 0;
    while Instant::now() < until {
        let owner = numbers.skewed(OWNERS);
        let product = ["kept", "expires"][usize::try_from(numbers.next(2)).unwrap()];
        let path = format!("{product}/{owner}");
        let reply = match numbers.next(200) {
            0 => send(&address, ("POST", &format!("/purge/{path}")), "", "").await,
            1 => send(&address, ("POST", &format!("/refresh/{path}")), "", "").await,
            _ => get(&address, &format!("/fetch/{path}"), &[]).await.unwrap(),
        };
        assert_eq!(reply.status, 200, "{path}: {:?}", reply.json());
        answered += 1;
    }
    answered
}

async fn writes(url: String, until: Instant) {
    let client = connect(&url).await;
    let mut numbers = Numbers(7);
    while Instant::now() < until {
        let (owner, other) = (numbers.skewed(OWNERS), numbers.next(OWNERS));
        let sql = match numbers.next(3) {
            0 => format!("insert into items (owner, n) values ({owner}, 1)"),
            1 => format!("update items set n = n + 1 where owner = {owner}"),
            _ => format!(
                "update items set owner = {other} where id = (select max(id) from items where owner = {owner})"
            ),
        };
        client.batch_execute(&sql).await.unwrap();
    }
}

async fn metric(address: &str, name: &str) -> u64 {
    let reply = get(address, "/metrics", &[]).await.unwrap();
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
    line.parse().unwrap()
}

/// Looks at what is held until the time is over: memory in the middle and at the end comes back.
async fn watched(kck: &Process, began: Instant, until: Instant) -> (u64, u64) {
    let (mut half, middle) = (None, began + (until - began) / 2);
    while Instant::now() < until {
        assert!(metric(&kck.address, "kck_tracked_keys").await <= TRACKED_MOST);
        let stored = metric(&kck.address, "kck_stored_bytes").await;
        assert!(stored <= STORED_MOST + STORED_OVER, "{stored} bytes are stored");
        if middle <= Instant::now() {
            half.get_or_insert(kck.memory().0);
        }
    }
    (half.unwrap(), kck.memory().0)
}

fn value(reply: &Reply) -> Value {
    reply.json()["value"].clone()
}

/// Every key that is tracked, and some that are not, are what the source says.
async fn is_right(kck: &Process, database: &Database) -> usize {
    let position = database.commit("insert into items (owner, n) values (0, 1)").await;
    let (mut compared, mut keys) = (0, Vec::new());
    for product in ["kept", "expires"] {
        let listed = get(&kck.address, &format!("/keys/{product}?limit=1000"), &[]).await.unwrap();
        let listed = listed.json()["keys"].as_array().unwrap().clone();
        keys.extend(listed.iter().map(|entry| entry["key"].as_str().unwrap().to_owned()));
        keys.extend((0..OWNERS).step_by(97).map(|owner| format!("{product}/{owner}")));
    }
    for key in keys {
        let owner = key.split('/').nth(1).unwrap();
        let path = format!("/fetch/{key}?min_lsn={position}");
        let reply = get(&kck.address, &path, &[]).await.unwrap();
        let sum = format!("select coalesce(sum(n), 0)::bigint from items where owner = {owner}");
        let dots = 200 + owner.parse::<usize>().unwrap() % 200;
        let want = format!("{}{}", database.one(&sum).await, ".".repeat(dots));
        assert_eq!(value(&reply), json!(want), "{key}: {:?}", reply.headers);
        compared += 1;
    }
    compared
}

#[expect(clippy::print_stdout, reason = "the figures of a long run")]
async fn churn(name: &str, store: Store) {
    let database = Database::new(name).await;
    database
        .run(&format!(
            "create table items (id bigint generated always as identity primary key, owner bigint not null, n bigint not null);
             alter table items replica identity full;
             create index on items (owner);
             insert into items (owner, n) select n % {OWNERS}, n from generate_series(1, 5000) n"
        ))
        .await;
    let mut project = Project::new(&database, store).await;
    project.settings += &format!(
        "[limits]\ntracked_keys = {TRACKED_MOST}\nstored = '{}kB'\nnear_cache = '1MB'\n",
        STORED_MOST / 1000
    );
    project
        .product("kept", &format!("/* kck\nresult = \"value\"\n*/\n{SQL}"))
        .product("expires", &format!("/* kck\nresult = \"value\"\nexpire = \"500ms\"\n*/\n{SQL}"));
    let kck = Process::start(&project, "").await;
    let began = Instant::now();
    let until = began + Duration::from_secs(setting("KCK_CHURN__SECONDS").unwrap_or(SECONDS));
    let readers = (1..=READERS).map(|seed| tokio::spawn(reads(kck.address.clone(), seed, until)));
    let readers: Vec<_> = readers.collect();
    let writer = tokio::spawn(writes(database.url.clone(), until));
    let (half, end) = watched(&kck, began, until).await;
    writer.await.unwrap();
    let mut answered = 0;
    for reader in readers {
        answered += reader.await.unwrap();
    }
    let evicted = metric(&kck.address, "kck_evicted_total").await;
    assert!(evicted > 100, "{evicted} keys were evicted");
    let compared = is_right(&kck, &database).await;
    println!(
        "{name}: {answered} answers, {evicted} evicted, {compared} keys right; memory {half} bytes at half time, {end} at the end"
    );
    let room = 24 << 20;
    assert!(end < half + room, "memory went from {half} to {end} bytes");
}

#[test]
fn what_comes_and_goes_leaves_nothing_behind() {
    run(churn("churn_memory", Store::Memory));
}

#[test]
fn what_comes_and_goes_leaves_nothing_behind_on_disk() {
    run(churn("churn_embedded", Store::Embedded));
}
