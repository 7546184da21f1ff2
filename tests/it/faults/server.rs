//! The source restarts, is busy elsewhere, and counts its transactions past the end of their numbers.

use std::{
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    process::Command,
    time::{Duration, Instant},
};

use kck::{
    local::{Postgres, PostgresSettings},
    observe::Event,
};
use tokio::time::timeout;

use super::{PATIENCE, Watch, Writer, counters, counters_equal, long, reach, until};
use crate::support::{
    Folder,
    kck::{Kck, Store},
    run,
    servers::{Database, connect, own_postgres, own_postgres_like},
};

#[test]
fn c10_a_source_that_restarts_is_followed_again() {
    run(async {
        let folder = Folder::new("c10-server");
        let directory = Some(folder.0.clone());
        let like = PostgresSettings { directory, ..PostgresSettings::default() };
        let mut server = own_postgres_like(&[], like).await;
        let database = Database::on(&server, "c10").await;
        let project = counters(&database, Store::Embedded).await;
        let kck = project.start().await;
        counters_equal(&kck.address, &database.client).await;
        let (watch, writer) = (Watch::over(&kck, &database.url), Writer::start(&database.url));
        for how in ["fast", "immediate"] {
            writer.writes(50).await;
            let mut events = kck.observer.subscribe();
            let begun = Instant::now();
            if how == "fast" {
                server.stop().await.unwrap();
            } else {
                server.abort().await.unwrap();
            }
            // One that stops in order waits until kck has acknowledged what it sent.
            let stopping = begun.elapsed();
            assert!(stopping < Duration::from_secs(15), "{how}: it took {stopping:?} to stop");
            Kck::event(&mut events, |event| matches!(event, Event::StreamLost { .. })).await;
            let reply = kck.get("/fetch/counter/1").await;
            assert_eq!(reply.status, 200, "what is kept is served: {reply:?}");
            server.restart().await.unwrap();
            writer.writes(50).await;
            let client = reach(&database.url).await;
            let position: String = client
                .query_one("select pg_current_wal_insert_lsn()::text", &[])
                .await
                .unwrap()
                .get(0);
            assert_eq!(kck.at_least("counter/1", &position).await.status, 200);
            eprintln!("C10: stopped {how} in {stopping:?}; the stream goes on");
        }
        let written = writer.end().await;
        counters_equal(&kck.address, &reach(&database.url).await).await;
        assert_eq!(kck.app.context.progress.borrow().epoch.0, 1, "a restart breaks no history");
        eprintln!("C10: {written} commits, {:?}", watch.end().await);
        kck.stop().await;
    });
}

/// Goal: an idle database holds no log for its slot while its neighbour writes. Method: the neighbour writes, and after
/// each piece kck's slot must pass where it began.
#[test]
fn c39_an_idle_database_with_a_busy_neighbour_holds_little_log() {
    const PIECE_MB: u64 = 8;
    run(async {
        let server = own_postgres(&[]).await;
        let database = Database::on(&server, "c39").await;
        let neighbour = Database::on(&server, "c39_neighbour").await;
        let project = counters(&database, Store::Embedded).await;
        let kck = project.start().await;
        counters_equal(&kck.address, &database.client).await;
        let watch = Watch::over(&kck, &database.url);
        neighbour.run("create table noise (filler text); alter table noise alter filler set storage external").await;
        let slot = "from pg_replication_slots where slot_name = 'c39'";
        let retained = format!(
            "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn)::bigint {slot}"
        );
        let pieces = if long() { 2048 } else { 128 } / PIECE_MB;
        let mut most = 0;
        for _ in 0..pieces {
            let begins: String = neighbour
                .client
                .query_one("select pg_current_wal_insert_lsn()::text", &[])
                .await
                .unwrap()
                .get(0);
            neighbour
                .run(&format!("insert into noise select repeat('x', 8000) from generate_series(1, {PIECE_MB} * 128); truncate noise"))
                .await;
            most = most.max(neighbour.one(&retained).await);
            // A server at work writes such a record every 15 s, and each lets the slot's beginning move.
            neighbour.run("checkpoint").await;
            let follows = format!("select confirmed_flush_lsn >= '{begins}' {slot}");
            until(&neighbour.client, &follows).await;
        }
        let at_end = neighbour.one(&retained).await;
        eprintln!(
            "C39: a neighbour wrote {} MB; the slot held at most {} MB, and {} MB in the end; {:?}",
            pieces * PIECE_MB,
            most >> 20,
            at_end >> 20,
            watch.end().await
        );
        assert!(most < 64 << 20, "{most} bytes are held");
        database.run("update counters set n = 1").await;
        counters_equal(&kck.address, &database.client).await;
        kck.stop().await;
    });
}

/// The last transaction ids before they begin again.
const LEFT: u32 = 600;

/// Sets a stopped server's counter of transactions short of the end of their 32 bits.
async fn near_the_end(server: &mut Postgres) {
    let admin = connect(&server.url("postgres")).await;
    admin.batch_execute("alter database template0 allow_connections true").await.unwrap();
    // What is frozen belongs to no transaction, so none of it comes to lie in the future.
    for name in ["postgres", "template1", "template0"] {
        connect(&server.url(name)).await.batch_execute("vacuum (freeze)").await.unwrap();
    }
    drop(admin);
    server.stop().await.unwrap();
    let next = u32::MAX - LEFT;
    let data = server.data();
    let segment = data.join(format!("pg_xact/{:04X}", next >> 20));
    std::fs::write(&segment, vec![0; 256 * 1024]).unwrap();
    let owner = Command::new("chown").arg("--reference").arg(&data).arg(&segment).status().unwrap();
    assert!(owner.success());
    let set = Command::new(server.programs().join("pg_resetwal"))
        .args(["-x", &next.to_string(), "-u", &(next - 100_000).to_string(), "-D"])
        .arg(&data)
        .current_dir("/")
        .uid(std::fs::metadata(&data).unwrap().uid())
        .output()
        .unwrap();
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    server.restart().await.unwrap();
}

/// Goal: transaction ids that begin again are the next ones, not the first. Method: a server's counter is set a few
/// hundred short of the end; writers carry it over beside readers.
#[test]
fn c40_transaction_ids_that_begin_again_are_the_next() {
    run(async {
        let mut server = own_postgres(&[("autovacuum", "off")]).await;
        if !server.programs().join("pg_resetwal").is_file() {
            eprintln!(
                "C40: no pg_resetwal came with this server: its transaction ids are as they are"
            );
        } else {
            near_the_end(&mut server).await;
        }
        let database = Database::on(&server, "c40").await;
        let project = counters(&database, Store::Embedded).await;
        let kck = project.start().await;
        counters_equal(&kck.address, &database.client).await;
        let now = "select txid_current()";
        let (watch, begun) = (Watch::over(&kck, &database.url), database.one(now).await);
        let writer = Writer::every(&database.url, Duration::from_millis(2));
        // One that began before the end is still invisible when those behind it commit.
        let open = connect(&database.url).await;
        open.batch_execute("begin; update counters set n = n where id = -1; select txid_current()")
            .await
            .unwrap();
        writer.writes(u64::from(LEFT) / 2).await;
        counters_equal_beside(&kck, &database).await;
        writer.writes(u64::from(LEFT)).await;
        open.batch_execute("commit").await.unwrap();
        writer.writes(u64::from(LEFT) / 2).await;
        let written = writer.end().await;
        let ended = database.one(now).await;
        let passed = begun >> 32 != ended >> 32 || !server.programs().join("pg_resetwal").is_file();
        assert!(passed, "from {begun} to {ended}");
        counters_equal(&kck.address, &database.client).await;
        eprintln!(
            "C40: from transaction {begun} to {ended}, {written} commits, {:?}",
            watch.end().await
        );
        kck.stop().await;
        let kck = project.start().await;
        counters_equal(&kck.address, &database.client).await;
        kck.stop().await;
    });
}

/// A demanded answer while others write.
async fn counters_equal_beside(kck: &Kck, database: &Database) {
    let position = database.commit("select 1").await;
    let asked = timeout(PATIENCE, kck.at_least("counter/1", &position)).await;
    assert_eq!(asked.expect("it is answered").status, 200);
}
