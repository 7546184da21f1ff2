//! The way to the source is cut, reset, swallowed, slow, late; and the store, which stands still.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kck::{
    observe::{Counter, Event},
    store::{
        faulty::{Faulty, Method},
        memory::Memory,
    },
};
use serde_json::json;
use tokio::time::timeout;

use super::{PATIENCE, Watch, Writer, counters, counters_equal, reads, until};
use crate::support::{
    kck::{Kck, Store},
    process::Process,
    proxy::{Proxy, Way},
    run,
    servers::Database,
};

fn is_lost(event: &Event) -> bool {
    matches!(event, Event::StreamLost { .. })
}

fn is_open(event: &Event) -> bool {
    matches!(event, Event::StreamOpened { .. })
}

/// Goal: whatever becomes of the way, kck notices within twice the source's own limit, serves on, comes back without a
/// storm of connections, and is right. Method: a proxy, and a limit of one second.
#[test]
fn c07_a_way_that_is_cut_reset_or_swallowed_is_gone_again() {
    run(async {
        let database = Database::new("c07").await;
        database.run("alter database c07 set wal_sender_timeout = '1s'").await;
        let port = database.url.split(':').nth(2).unwrap().split('/').next().unwrap();
        let proxy = Proxy::to(port.parse().unwrap()).await;
        let mut project = counters(&database, Store::Embedded).await;
        project.settings = project.settings.replace(&database.url, &proxy.through(&database.url))
            + "[refresh]\nstatement_timeout = \"2s\"\n";
        let kck = project.start().await;
        counters_equal(&kck.address, &database.client).await;
        let (watch, writer) = (Watch::over(&kck, &database.url), Writer::start(&database.url));
        for fault in ["cut", "reset", "swallow", "refuse"] {
            writer.writes(20).await;
            let mut events = kck.observer.subscribe();
            let connections = kck.counted(Counter::Connections);
            let begun = Instant::now();
            match fault {
                "cut" => proxy.cut(),
                "reset" => proxy.reset(),
                "swallow" => proxy.becomes(Way::Swallow),
                _ => {
                    proxy.becomes(Way::Refuse);
                    proxy.cut();
                }
            }
            Kck::event(&mut events, is_lost).await;
            let noticed = begun.elapsed();
            // Twice the limit, and what a busy machine needs.
            assert!(noticed < Duration::from_secs(6), "{fault} is noticed after {noticed:?}");
            if fault == "swallow" {
                let named = async {
                    loop {
                        let reasons = kck.get("/readyz").await.json()["reasons"].to_string();
                        if reasons.contains("\"source\"") {
                            return;
                        }
                    }
                };
                let named = timeout(PATIENCE, named).await;
                assert!(named.is_ok(), "/readyz names the source");
            }
            writer.writes(20).await;
            let mut events = kck.observer.subscribe();
            proxy.becomes(Way::Pass);
            let healing = Instant::now();
            if ["swallow", "refuse"].contains(&fault) {
                Kck::event(&mut events, is_open).await;
            }
            let position = database.commit("select 1").await;
            let reply = kck.at_least("counter/1", &position).await;
            assert_eq!(reply.status, 200, "{fault}: {reply:?}");
            let opened = kck.counted(Counter::Connections) - connections;
            eprintln!(
                "C07: {fault}: noticed after {noticed:?}, demanded answer {:?} after the way was whole, {opened} openings",
                healing.elapsed()
            );
            assert!(opened <= 3, "{fault}: {opened} openings");
        }
        let written = writer.end().await;
        counters_equal(&kck.address, &database.client).await;
        eprintln!("C07: {written} commits, {:?}", watch.end().await);
        assert_eq!(kck.app.context.progress.borrow().epoch.0, 1);
        kck.stop().await;
    });
}

#[test]
fn c07_a_way_that_is_slow_or_late_is_gone_on() {
    run(async {
        let database = Database::new("c07_slow").await;
        let port = database.url.split(':').nth(2).unwrap().split('/').next().unwrap();
        let proxy = Proxy::to(port.parse().unwrap()).await;
        let mut project = counters(&database, Store::Embedded).await;
        project.settings = project.settings.replace(&database.url, &proxy.through(&database.url));
        let kck = project.start().await;
        counters_equal(&kck.address, &database.client).await;
        let (watch, writer) = (
            Watch::over(&kck, &database.url),
            Writer::every(&database.url, Duration::from_millis(50)),
        );
        let connections = kck.counted(Counter::Connections);
        for way in [Way::Slow(8 * 1024), Way::Late(Duration::from_secs(1))] {
            proxy.becomes(way);
            writer.writes(20).await;
            let begun = Instant::now();
            let position = database.commit("select 1").await;
            let demanded = format!("/fetch/counter/1?min_lsn={position}&wait=30s");
            reads(&kck.address, &demanded, |reply| reply.status == 200).await;
            eprintln!("C07: {way:?}: a demanded answer took {:?}", begun.elapsed());
        }
        proxy.becomes(Way::Pass);
        let written = writer.end().await;
        counters_equal(&kck.address, &database.client).await;
        assert_eq!(kck.counted(Counter::Connections), connections, "the connection survives");
        eprintln!("C07: {written} commits, {:?}", watch.end().await);
        kck.stop().await;
    });
}

/// Goal: a store that stands still stops the acknowledgement and nothing else. Method: its first write of marks is held
/// for longer than twice the limit that the source has for a silent reader.
#[test]
fn c08_a_store_that_stands_still_loses_no_connection() {
    run(async {
        let database = Database::new("c08").await;
        database.run("alter database c08 set wal_sender_timeout = '2s'").await;
        let project = counters(&database, Store::Memory).await;
        let store = Arc::new(Faulty::new(Arc::new(Memory::default())));
        let kck = project.start_over(Some(Arc::clone(&store) as Arc<dyn kck::store::Store>)).await;
        kck.joined().await;
        counters_equal(&kck.address, &database.client).await;
        let watch = Watch::over(&kck, &database.url);
        let slot = "from pg_replication_slots where slot_name = 'c08'";
        until(&database.client, &format!("select active {slot}")).await;
        let mut events = kck.observer.subscribe();
        let mut held = store.hold(Method::Mark);
        let writer = Writer::start(&database.url);
        held.reached().await;
        let pid = database.one(&format!("select active_pid::bigint {slot}")).await;
        let at = format!("select (confirmed_flush_lsn - '0/0')::bigint {slot}");
        // What was recorded before the store stood still may still be on its way.
        database.run("select pg_sleep(0.5)").await;
        let before = database.one(&at).await;
        database.run("select pg_sleep(4.5)").await;
        assert_eq!(database.one(&at).await, before, "the acknowledgement stands still");
        assert_eq!(database.one(&format!("select active_pid::bigint {slot}")).await, pid);
        let reply = kck.get("/fetch/counter/1").await;
        assert_eq!(reply.status, 200);
        let written = writer.end().await;
        let end = database.commit("select 1").await;
        held.release();
        until(&database.client, &format!("select confirmed_flush_lsn >= '{end}' {slot}")).await;
        counters_equal(&kck.address, &database.client).await;
        assert_eq!(database.one(&format!("select active_pid::bigint {slot}")).await, pid);
        while let Ok(event) = events.try_recv() {
            assert!(!is_lost(&event), "{event:?}");
        }
        eprintln!(
            "C08: held the store for 5 s under a limit of 2 s; {written} commits, the walsender stayed {pid}, {:?}",
            watch.end().await
        );
        kck.stop().await;
    });
}

#[test]
fn c09_any_limit_of_the_source_is_no_busy_loop_and_no_false_alarm() {
    run(async {
        for (limit, name) in [("0", "c09_none"), ("1s", "c09_short")] {
            let database = Database::new(name).await;
            database
                .run(&format!("alter database {name} set wal_sender_timeout = '{limit}'"))
                .await;
            let project = counters(&database, Store::Embedded).await;
            let process = Process::start(&project, "").await;
            counters_equal(&process.address, &database.client).await;
            let sender = format!(
                "select active_pid::bigint from pg_replication_slots where slot_name = '{name}'"
            );
            // Kept, so joined: for that the connection was opened anew.
            super::reads(&process.address, "/fetch/counter/1", |reply| {
                reply.header("kck-source") == "hit"
            })
            .await;
            let (pid, used) = (database.one(&sender).await, process.processor_ms());
            database.run("select pg_sleep(4)").await;
            let used = process.processor_ms() - used;
            assert_eq!(database.one(&sender).await, pid, "no false alarm");
            assert!(used < 2000, "{used} ms of processor in 4 idle seconds");
            eprintln!(
                "C09: wal_sender_timeout = {limit}: {used} ms of processor in 4 idle seconds"
            );
            database.run("update counters set n = n + 1").await;
            counters_equal(&process.address, &database.client).await;
            assert_eq!(
                json!(1),
                super::answer(&database.client, "select n from counters where id = 1").await
            );
            process.kill().await;
        }
    });
}
