//! kck itself is killed, again and again, and in the midst of a large transaction.

use std::time::{Duration, Instant};

use kck::change::Lsn;

use super::{Watch, Writer, counters, counters_equal, long, until};
use crate::support::{client::get, kck::Store, process::Process, run, servers::Database};

#[test]
fn c01_killed_at_any_moment_it_answers_right() {
    run(async {
        let database = Database::new("c01").await;
        let project = counters(&database, Store::Embedded).await;
        let rounds = if long() { 200 } else { 5 };
        let writer = Writer::every(&database.url, Duration::from_millis(2));
        let (mut version, mut slowest) = (0, Duration::ZERO);
        for round in 0..rounds {
            let begun = Instant::now();
            let process = Process::start(&project, "").await;
            let reply = get(&process.address, "/fetch/counter/1", &[]).await.unwrap();
            slowest = slowest.max(begun.elapsed());
            let now = reply.json()["version"].as_u64().unwrap();
            assert!(version <= now, "round {round}: version {version} was before {now}");
            version = now;
            let watch = Watch::at(&process.address, &database.url, None);
            // Scattered, and the same each time.
            writer.writes(round * 37 % 150 + 1).await;
            process.kill().await;
            watch.end().await;
        }
        let written = writer.end().await;
        let process = Process::start(&project, "").await;
        counters_equal(&process.address, &database.client).await;
        eprintln!(
            "C01: {rounds} kills under {written} commits; from start to the first answer {slowest:?} at most"
        );
        process.kill().await;
    });
}

/// Goal: a large transaction that was delivered in part counts as not delivered. Method: kck is killed while it is sent,
/// once right after its commit and then further and further in.
#[test]
fn c02_killed_amid_a_large_transaction_it_begins_before_it() {
    run(async {
        let database = Database::new("c02").await;
        let project = counters(&database, Store::Embedded).await;
        database.run("create table bulk (id bigint primary key, owner bigint not null, n bigint not null)").await;
        project.product(
            "sum_of",
            "/* kck\nresult = \"value\"\n*/\nselect sum(n)::bigint from bulk where owner = :owner",
        );
        let rows = if long() { 1_000_000 } else { 100_000 };
        let process = Process::start(&project, "").await;
        counters_equal(&process.address, &database.client).await;
        let before = database.commit("select 1").await;
        until(
            &database.client,
            &format!("select confirmed_flush_lsn >= '{before}' from pg_replication_slots where slot_name = 'c02'"),
        )
        .await;
        let commit: Lsn = database
            .commit(&format!(
                "insert into bulk select n, n % 10, 1 from generate_series(1, {rows}) n"
            ))
            .await
            .parse()
            .unwrap();
        let mut process = process;
        for round in 1..=3 {
            let came = changes(&process.address, rows * round / 5).await;
            process.kill().await;
            let confirmed: Lsn = database
                .client
                .query_one("select confirmed_flush_lsn::text from pg_replication_slots where slot_name = 'c02'", &[])
                .await
                .unwrap()
                .get::<_, String>(0)
                .parse()
                .unwrap();
            eprintln!(
                "C02: killed after {came} of {rows} rows; {confirmed} is acknowledged, the commit ends at {commit}"
            );
            assert!(came >= rows || confirmed < commit, "a part was acknowledged");
            process = Process::start(&project, "").await;
        }
        let path = format!("/fetch/sum_of/1?min_lsn={commit}&wait=30s");
        let reply = get(&process.address, &path, &[]).await.unwrap();
        assert_eq!(reply.value(), serde_json::json!(rows / 10));
        counters_equal(&process.address, &database.client).await;
        process.kill().await;
    });
}

/// Returns when this kck has received so many changes, with how many it has.
async fn changes(address: &str, enough: u64) -> u64 {
    let received = async {
        loop {
            let metrics = get(address, "/metrics", &[]).await.unwrap();
            let text = String::from_utf8_lossy(&metrics.body).into_owned();
            let line = text.lines().find(|line| line.starts_with("kck_changes_total "));
            let count = line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0);
            if count >= enough {
                return count;
            }
        }
    };
    tokio::time::timeout(super::PATIENCE, received).await.expect("changes come")
}
