//! What a start must know of the time before it: commits that nobody sees yet, catalogues that moved, a slot in use.

use std::{process::Stdio, sync::Arc, time::Duration};

use kck::{
    change::{Lsn, Position, Xid},
    config::StoreKind,
    observe::Event,
    store::{
        Store as _,
        embedded::Embedded,
        state::{self, State},
    },
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    sync::watch,
    task::JoinHandle,
};

use crate::support::{
    client::get,
    kck::{Kck, Project, Store},
    process,
    process::Process,
    run,
    servers::{Database, commit, connect, own_postgres},
};

const SUM: &str =
    "/* kck\nresult = \"value\"\n*/\nselect sum(n)::bigint from items where owner = :owner";
const SCHEMA: &str = "
    create table items (id bigint primary key, owner bigint not null, n bigint not null);
    alter table items replica identity full;
    insert into items select n, n % 3, 0 from generate_series(1, 9) n;
";
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

async fn shop(database: &Database) -> Project {
    database.run(SCHEMA).await;
    let project = Project::new(database, Store::Embedded).await;
    project.product("sum_of", SUM);
    project
}

async fn set_standbys(database: &Database, names: &str) {
    database.run(&format!("alter system set synchronous_standby_names = '{names}'")).await;
    database.run("select pg_reload_conf()").await;
}

/// A commit that the source holds back: it is in the log, and nobody sees it.
struct HeldBack {
    writer: JoinHandle<(i64, String)>,
}

impl HeldBack {
    /// Sets `n` of owner 1 to 1, 2, 3, … until a commit waits for a standby: the setting reaches the first ones late.
    async fn new(database: &Database) -> Self {
        let client = connect(&database.url).await;
        let (enough, stop) = watch::channel(false);
        let writer = tokio::spawn(async move {
            let mut n = 0;
            loop {
                n += 1;
                let update = format!("update items set n = {n} where owner = 1");
                let position = commit(&client, &update).await;
                if *stop.borrow() {
                    return (n, position);
                }
            }
        });
        let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
        while database.one(waiting).await == 0 {
            assert!(!writer.is_finished());
        }
        enough.send(true).unwrap();
        Self { writer }
    }

    /// When it has gone through: the value it wrote, and a position behind it.
    async fn done(self) -> (i64, String) {
        tokio::time::timeout(PATIENCE, self.writer).await.expect("the commit goes through").unwrap()
    }
}

/// Goal: what was acknowledged and is not visible is not forgotten by a restart. Method: a commit waits for a standby
/// that does not exist; kck marks it early, acknowledges it and is started anew; what it computes meanwhile is from
/// before the commit, and never passes for more.
#[test]
fn an_acknowledged_invisible_commit_is_not_forgotten_by_a_restart() {
    run(async {
        let server = own_postgres(&[]).await;
        let database = Database::on(&server, "forgotten").await;
        let project = shop(&database).await;
        let kck = project.start().await;
        assert_eq!(kck.get("/fetch/sum_of/1").await.value(), json!(0));
        let mut events = kck.observer.subscribe();
        set_standbys(&database, "nobody").await;
        let held = HeldBack::new(&database).await;
        let marked = Kck::event(&mut events, |event| matches!(event, Event::MarkedEarly { .. }));
        let Event::MarkedEarly { end, .. } = marked.await else { unreachable!() };
        let mut progress = kck.app.context.progress.clone();
        let acknowledged = progress.wait_for(|progress| progress.acknowledged >= end);
        tokio::time::timeout(PATIENCE, acknowledged).await.expect("acknowledged").unwrap();
        kck.stop().await;

        let kck = project.start().await;
        let visible = || kck.app.context.progress.borrow().visible;
        assert!(visible() < end, "V is at {} beyond {end}", visible());
        let seen = 3 * database.one("select n from items where id = 1").await;
        for path in ["/fetch/sum_of/1", "/fetch/sum_of/1?fresh=true", "/fetch/sum_of/2"] {
            let reply = kck.get(path).await;
            let before = if path.ends_with('2') { 0 } else { seen };
            assert!(reply.value() == json!(before) || reply.value() == json!(0), "{reply:?}");
            assert_eq!(reply.header("kck-stale"), "true", "{path}");
        }
        assert!(visible() < end, "V is at {} beyond {end}", visible());

        set_standbys(&database, "").await;
        let (n, position) = held.done().await;
        let refreshed = async {
            loop {
                let reply = kck.get("/fetch/sum_of/1").await;
                if reply.header("kck-stale") == "false" {
                    return reply.value();
                }
            }
        };
        let fresh = tokio::time::timeout(PATIENCE, refreshed).await.expect("it becomes fresh");
        assert_eq!(fresh, json!(3 * n));
        assert_eq!(kck.at_least("sum_of/1", &position).await.value(), json!(3 * n));
        kck.stop().await;
    });
}

/// Writes what kck has written when it dies after the list of early commits and before the recorded position: the
/// marks and the list, both with this commit. It is the last that the slot would send.
async fn die_between(project: &Project, database: &Database) {
    let sql = "select lsn::text, xid::text from pg_logical_slot_peek_binary_changes($1::text::name, null, null,
        'proto_version', '1', 'publication_names', $1::text)
        where get_byte(data, 0) = ascii('C') order by lsn desc limit 1";
    let row = database.client.query_one(sql, &[&database.name]).await.unwrap();
    let end: Lsn = row.get::<_, String>(0).parse().unwrap();
    let xid = Xid(row.get::<_, String>(1).parse().unwrap());
    let StoreKind::Embedded(path) = project.config().store else { unreachable!() };
    let store = Embedded::open(&path).unwrap();
    let before = State::decode(&store.load().await.unwrap()).unwrap();
    assert!(before.recorded.lsn < end && before.early.is_empty());
    // Above all stamps of the last start, below those of the next.
    let stamp = (u64::from(before.term) << 32) + (1 << 31);
    let mark = state::mark("sum_of", Position { epoch: before.epoch, lsn: end });
    store.save(&[mark, state::early_cell(&[(xid, end)], stamp)]).await.unwrap();
    let after = State::decode(&store.load().await.unwrap()).unwrap();
    assert_eq!((after.early, after.recorded), (vec![(xid, end)], before.recorded));
}

/// Goal: as the standby that a commit waits for, kck lets it go on also after it died in the midst of doing so.
/// Method: no point of the protocol lies between the two writes, so the store is given what the first one leaves.
#[test]
fn a_commit_listed_as_early_and_not_acknowledged_goes_through_after_a_kill() {
    run(async {
        let server = own_postgres(&[]).await;
        let database = Database::on(&server, "listed").await;
        let project = shop(&database).await;
        let kck = project.start().await;
        assert_eq!(kck.get("/fetch/sum_of/1").await.value(), json!(0));
        kck.stop().await;
        set_standbys(&database, "*").await;
        let held = HeldBack::new(&database).await;
        die_between(&project, &database).await;

        let process = Process::start(&project, "").await;
        let (n, position) = held.done().await;
        let path = format!("/fetch/sum_of/1?min_lsn={position}&wait=20s");
        let reply = get(&process.address, &path, &[]).await.unwrap();
        assert_eq!((reply.value(), reply.header("kck-stale")), (json!(3 * n), "false"));
        // Those that follow go through as well.
        let after = database.commit("update items set n = 7 where owner = 2");
        let position = tokio::time::timeout(PATIENCE, after).await.expect("no deadlock");
        let path = format!("/fetch/sum_of/2?min_lsn={position}&wait=20s");
        assert_eq!(get(&process.address, &path, &[]).await.unwrap().value(), json!(21));
        process.kill().await;
    });
}

/// Goal: what no stream says is noticed also if it happens while kck is away. Method: a partition comes filled, then
/// a leaf is emptied, each between a stop and a start that has an entry from before.
#[test]
fn what_the_stream_does_not_say_is_noticed_at_the_start() {
    run(async {
        let database = Database::new("silent_start").await;
        database
            .run(
                "create table parts (id bigint, region bigint not null, primary key (id, region))
                    partition by list (region);
                 create table parts_1 partition of parts for values in (1);
                 create table parts_2 (id bigint, region bigint not null, primary key (id, region));
                 insert into parts_1 select n, 1 from generate_series(1, 3) n;
                 insert into parts_2 select n, 2 from generate_series(1, 5) n",
            )
            .await;
        let project = Project::new(&database, Store::Embedded).await;
        project.product("count", "/* kck\nresult = \"value\"\n*/\nselect count(*) from parts");
        let mut before = json!(3);
        for (change, after) in [
            ("alter table parts attach partition parts_2 for values in (2)", json!(8)),
            ("truncate parts_1", json!(5)),
        ] {
            let kck = project.start().await;
            // Firm before the stop: only the catalogue can tell that the entry is old.
            let position = database.commit("select 1").await;
            assert_eq!(kck.at_least("count", &position).await.value(), before);
            kck.stop().await;

            let position = database.commit(change).await;
            let kck = project.start_unjoined().await;
            let reply = kck.get("/fetch/count").await;
            assert!(
                reply.header("kck-stale") == "true" || reply.value() == after,
                "{change}: {reply:?}"
            );
            assert_eq!(kck.at_least("count", &position).await.value(), after);
            kck.joined().await;
            let reply = kck.get("/fetch/count").await;
            assert!(
                reply.header("kck-stale") == "true" || reply.value() == after,
                "joined, {change}: {reply:?}"
            );
            kck.stop().await;
            before = after;
        }
    });
}

/// A kck in a process of its own that is not ready yet.
struct Second {
    log: tokio::io::Lines<BufReader<tokio::process::ChildStderr>>,
    child: tokio::process::Child,
}

impl Second {
    fn start(project: &Project) -> Self {
        let file = project.folder.0.join("kck.toml");
        std::fs::write(&file, &project.settings).unwrap();
        let mut command = process::command();
        command.args(["run", "--config"]).arg(&file).env("NO_COLOR", "1");
        let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { log, child }
    }

    async fn says(&mut self, what: &str) {
        let said = async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                if line.contains(what) {
                    return;
                }
            }
            panic!("the log ended without '{what}'");
        };
        tokio::time::timeout(PATIENCE, said).await.expect(what);
    }
}

/// Goal: a slot has one reader, and whoever comes second harms nothing until the first is gone. Method: two processes
/// on one slot, each with a store of its own; the first is killed.
#[test]
fn a_second_process_stands_by_and_takes_over() {
    run(async {
        let database = Database::new("stands_by").await;
        let project = Arc::new(shop(&database).await);
        let first = Process::start(&project, "").await;
        let fetch = async |address: &str, owner: u8, lsn: &str| {
            let path = format!("/fetch/sum_of/{owner}?min_lsn={lsn}&wait=20s");
            get(address, &path, &[]).await.unwrap()
        };
        let position = database.commit("update items set n = 1 where owner = 1").await;
        assert_eq!(fetch(&first.address, 1, &position).await.value(), json!(3));
        // Kept, so joined: for that the connection was opened anew, and is not again.
        let kept = async {
            while get(&first.address, "/fetch/sum_of/1", &[]).await.unwrap().header("kck-source")
                != "hit"
            {}
        };
        tokio::time::timeout(PATIENCE, kept).await.expect("the product joins");

        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut other = Project::named("stands_by_second", &database.url, Store::Embedded).await;
        other.product("sum_of", SUM);
        other.settings = project.settings.replace("127.0.0.1:0", &free.to_string());
        let holder =
            "select active_pid::bigint from pg_replication_slots where slot_name = 'stands_by'";
        let held_by = database.one(holder).await;
        let mut second = Second::start(&other);
        second.says("standing by").await;
        let address = free.to_string();
        let ready = get(&address, "/readyz", &[]).await.unwrap();
        assert_eq!((ready.status, &ready.json()["state"]), (503, &json!("starting")));
        assert_eq!(get(&address, "/fetch/sum_of/1", &[]).await.unwrap().status, 503);
        let position = database.commit("update items set n = 2 where owner = 1").await;
        assert_eq!(fetch(&first.address, 1, &position).await.value(), json!(6));
        assert_eq!(database.one(holder).await, held_by, "the first reads on, undisturbed");

        first.kill().await;
        let position = database.commit("update items set n = 3 where owner = 1").await;
        second.says("ready address=").await;
        let reply = fetch(&address, 1, &position).await;
        assert_eq!((reply.value(), reply.header("kck-stale")), (json!(9), "false"));
        let position = database.commit("update items set n = 4 where owner = 2").await;
        assert_eq!(fetch(&address, 2, &position).await.value(), json!(12));
        assert_ne!(database.one(holder).await, held_by);
        second.child.kill().await.unwrap();
    });
}
