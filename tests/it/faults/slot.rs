//! The slot goes, or is taken: a new epoch, or a stand-by, and never a wrong answer.

use std::{sync::Arc, time::Duration};

use kck::{
    local::PostgresSettings,
    observe::{Counter, Event},
};
use tokio::{sync::broadcast, time::timeout};

use super::{
    PATIENCE, Watch, Writer, all_counters, all_equal, counters, counters_equal, reads, until,
};
use crate::support::{
    client::get,
    kck::{Kck, Project, Store},
    process::Process,
    proxy::{Proxy, Way},
    run,
    servers::{Database, connect, own_postgres_like},
};

async fn new_epoch(events: &mut broadcast::Receiver<Event>) -> (u8, String) {
    let began = Kck::event(events, |event| matches!(event, Event::EpochBegan { .. })).await;
    let Event::EpochBegan { epoch, why } = began else { unreachable!() };
    (epoch.0, why)
}

#[test]
fn c04_a_dropped_slot_is_made_anew_three_times_an_hour_and_then_said_once() {
    run(async {
        let database = Database::new("c04").await;
        let project = counters(&database, Store::Embedded).await;
        let kck = project.start().await;
        counters_equal(&kck.address, &database.client).await;
        let (watch, writer) = (Watch::over(&kck, &database.url), Writer::start(&database.url));
        let mut events = kck.observer.subscribe();
        for want in 2..=4 {
            database.lose_slot().await;
            let (epoch, why) = new_epoch(&mut events).await;
            eprintln!("C04: dropped the slot; saw epoch {epoch}: {why}");
            assert_eq!(epoch, want);
            reads(&kck.address, "/fetch/counter/1", |reply| {
                reply.status == 200 && reply.header("kck-stale") == "false"
            })
            .await;
        }
        let mut events = kck.observer.subscribe();
        database.lose_slot().await;
        let given_up = |event: &Event| matches!(event, Event::Part { part: "stream", trouble: Some(trouble) } if trouble.contains("three times within an hour"));
        Kck::event(&mut events, given_up).await;
        // Two tries later.
        database.run("select pg_sleep(4.5)").await;
        while let Ok(event) = events.try_recv() {
            assert!(!given_up(&event) && !matches!(event, Event::EpochBegan { .. }), "{event:?}");
        }
        // What is kept is served as of when it was right, and nothing newer is claimed.
        assert_eq!(kck.get("/fetch/counter/1").await.status, 200);
        let position = database.commit("update counters set n = n + 1").await;
        let demanded = format!("/fetch/counter/1?min_lsn={position}&wait=200ms");
        assert_eq!(kck.get(&demanded).await.status, 504);
        let ready = kck.get("/readyz").await;
        assert_eq!((ready.status, &ready.json()["state"]), (200, &"degraded".into()));
        let (seen, written) = (watch.end().await, writer.end().await);
        eprintln!(
            "C04: the fourth drop was said once, and answers stay as they were; {written} commits, {seen:?}"
        );
        kck.stop().await;

        let kck = project.start().await;
        counters_equal(&kck.address, &database.client).await;
        kck.stop().await;
    });
}

/// A server that keeps hardly any log for a slot.
async fn short_of_log() -> kck::local::Postgres {
    let initdb = vec!["--wal-segsize=1".to_owned()];
    own_postgres_like(
        &[
            ("max_slot_wal_keep_size", "1MB"),
            ("wal_sender_timeout", "1s"),
            ("min_wal_size", "2MB"),
            ("max_wal_size", "4MB"),
        ],
        PostgresSettings { initdb, ..PostgresSettings::default() },
    )
    .await
}

/// Writes until the server gives the slot up.
async fn invalidate(database: &Database) {
    let lost = format!(
        "select count(*) from pg_replication_slots where slot_name = '{}' and wal_status = 'lost'",
        database.name
    );
    let filled = async {
        while database.one(&lost).await == 0 {
            database
                .run("select pg_logical_emit_message(false, 'noise', repeat('x', 300000)) from generate_series(1, 8)")
                .await;
            database.run("checkpoint").await;
        }
    };
    timeout(PATIENCE, filled).await.expect("the slot is invalidated");
}

/// Goal: what happens behind a lost slot is made up for. Method: the way to kck swallows everything while the server
/// writes more log than it keeps; then it is whole again, for new connections.
#[test]
fn c05_an_invalidated_slot_behind_a_black_hole_begins_a_new_epoch() {
    run(async {
        let server = short_of_log().await;
        let database = Database::on(&server, "c05").await;
        let proxy = Proxy::to(server.port()).await;
        let mut project = counters(&database, Store::Embedded).await;
        project.settings = project.settings.replace(&database.url, &proxy.through(&database.url));
        let kck = project.start().await;
        counters_equal(&kck.address, &database.client).await;
        let (watch, writer) = (Watch::over(&kck, &database.url), Writer::start(&database.url));
        writer.writes(20).await;
        let mut events = kck.observer.subscribe();
        proxy.becomes(Way::Swallow);
        invalidate(&database).await;
        writer.writes(20).await;
        proxy.becomes(Way::Pass);
        let (epoch, why) = new_epoch(&mut events).await;
        let written = writer.end().await;
        counters_equal(&kck.address, &database.client).await;
        let seen = watch.end().await;
        eprintln!(
            "C05: swallowed the stream until the slot was lost; saw epoch {epoch}: {why}; {written} commits, {seen:?}"
        );
        kck.stop().await;
    });
}

#[test]
fn c05_an_invalidated_slot_while_kck_stands_still_begins_a_new_epoch() {
    run(async {
        let server = short_of_log().await;
        let database = Database::on(&server, "c05_still").await;
        let project = counters(&database, Store::Embedded).await;
        let mut process = Process::start(&project, "").await;
        counters_equal(&process.address, &database.client).await;
        process.signal("STOP");
        database.run("update counters set n = n + 1").await;
        invalidate(&database).await;
        database.run("update counters set n = n + 1").await;
        process.signal("CONT");
        let said = process.says("new epoch").await;
        eprintln!("C05: stopped kck until the slot was lost; saw {}", said.trim());
        counters_equal(&process.address, &database.client).await;
        process.kill().await;
    });
}

/// Goal: a publication that is gone is no endless loop: the slot looks it up as of each change, so both are made anew.
/// Method: it is dropped under a writer; then once more, and made again by hand at once.
#[test]
fn c06_a_dropped_publication_is_made_anew_and_so_is_the_slot() {
    run(async {
        let database = Database::new("c06").await;
        let project = counters(&database, Store::Embedded).await;
        let kck = project.start().await;
        counters_equal(&kck.address, &database.client).await;
        let (watch, writer) = (Watch::over(&kck, &database.url), Writer::start(&database.url));
        for (again, want) in [("", 2), ("create publication c06 for table counters", 3)] {
            let mut events = kck.observer.subscribe();
            let connections = kck.counted(Counter::Connections);
            database.run("drop publication c06").await;
            writer.writes(5).await;
            if !again.is_empty() {
                // kck may have been quicker.
                drop(database.client.batch_execute(again).await);
            }
            let (epoch, why) = new_epoch(&mut events).await;
            eprintln!("C06: dropped the publication, then '{again}'; saw epoch {epoch}: {why}");
            assert_eq!(epoch, want);
            writer.writes(20).await;
            reads(&kck.address, "/fetch/counter/1", |reply| {
                reply.status == 200
                    && reply.header("kck-source") == "hit"
                    && reply.header("kck-stale") == "false"
            })
            .await;
            let published = "select count(*) from pg_publication_tables where pubname = 'c06'";
            assert_eq!(database.one(published).await, 1);
            let opened = kck.counted(Counter::Connections) - connections;
            assert!(opened <= 6, "{opened} connections");
        }
        let written = writer.end().await;
        counters_equal(&kck.address, &database.client).await;
        eprintln!("C06: {written} commits, {:?}", watch.end().await);
        kck.stop().await;
    });
}

/// Goal: kck is replaced without a gap, by one that has the same store. Method: the next one is started beside, stands
/// by, and names who holds the slot; the first is told to stop; and so on.
#[test]
fn c28_a_rolling_hand_over_has_one_reader_at_a_time() {
    run(async {
        let database = Database::new("c28").await;
        let first = counters(&database, Store::Embedded).await;
        let mut second = Project::named("c28_second", &database.url, Store::Embedded).await;
        second.product("counter", super::COUNTER);
        let path = first.folder.0.join("kck-data");
        second.settings = first.settings.clone() + &format!("path = \"{}\"\n", path.display());
        let projects = [Arc::new(first), Arc::new(second)];
        let mut holder = Process::start(&projects[0], "").await;
        counters_equal(&holder.address, &database.client).await;
        let writer = Writer::start(&database.url);
        let mut version = 0;
        for round in 1..=3 {
            // Once its products have joined it opens the stream no more.
            reads(&holder.address, "/fetch/counter/1", |reply| {
                reply.header("kck-source") == "hit" && reply.header("kck-stale") == "false"
            })
            .await;
            let mut next = Process::launch(&projects[round % 2], "");
            let said = next.says("standing by").await;
            let pid = database
                .one("select active_pid::bigint from pg_replication_slots where slot_name = 'c28'")
                .await;
            assert!(said.contains(&format!("pid {pid}, kck/stream")), "{said}");
            let before = get(&holder.address, "/fetch/counter/1", &[]).await.unwrap();
            version = before.json()["version"].as_u64().unwrap().max(version);
            holder.signal("TERM");
            assert!(holder.ended().await.success());
            let begun = std::time::Instant::now();
            next.ready().await;
            let after = get(&next.address, "/fetch/counter/1", &[]).await.unwrap();
            let now = after.json()["version"].as_u64().unwrap();
            assert!(version <= now, "version {version} was before {now}");
            eprintln!(
                "C28: round {round}: {}; took over in {:?}, version {version} then {now}",
                said.trim(),
                begun.elapsed()
            );
            until(
                &database.client,
                &format!(
                    "select active_pid <> {pid} from pg_replication_slots where slot_name = 'c28'"
                ),
            )
            .await;
            holder = next;
        }
        writer.end().await;
        let fresh = connect(&database.url).await;
        let keys = all_counters();
        let equal = all_equal(&holder.address, &fresh, &keys);
        timeout(Duration::from_secs(40), equal).await.expect("all are answered");
        holder.kill().await;
    });
}
