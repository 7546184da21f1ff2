//! Millions of rows in one statement.

use std::time::Instant;

use super::{counters, counters_equal, long, until};
use crate::support::{client::get, kck::Store, process::Process, run, servers::Database};

/// Beyond what it held before: what waits inside is bounded, and so are the keys of one transaction.
const MORE_BYTES_MAX: u64 = 256 << 20;

const TABLES: &str = "create table t0 (id bigint primary key, owner bigint not null, filler text);
    create table t1 (id bigint primary key references t0);
    create table t2 (id bigint primary key references t1);
    create table t3 (id bigint primary key references t2);
    create table t4 (id bigint primary key references t3);
    create table bulk (id bigint primary key, owner bigint not null, filler text not null);
    alter table bulk replica identity full;";

/// Goal: no transaction is too large. Method: a DELETE of very many rows, and a TRUNCATE that cascades over five tables,
/// under a limit that would end a connection whose keepalives wait.
#[test]
fn c19_a_large_delete_and_a_cascading_truncate_need_little_memory() {
    run(async {
        let database = Database::new("c19").await;
        database.run("alter database c19 set wal_sender_timeout = '2s'").await;
        let rows = if long() { 10_000_000 } else { 200_000 };
        database.run(TABLES).await;
        let project = counters(&database, Store::Embedded).await;
        let value = |sql: &str| format!("/* kck\nresult = \"value\"\n*/\n{sql}");
        project.product("many_of", &value("select count(*) from bulk where owner = :owner"));
        for table in 0..5 {
            project.product(
                &format!("many_{table}"),
                &value(&format!("select count(*) from t{table}")),
            );
        }
        let process = Process::start(&project, "").await;
        let position = database
            .commit(&format!(
                "insert into bulk select n, n % 1000, repeat('x', 50) from generate_series(1, {rows}) n;
                 insert into t0 select n, n, 'x' from generate_series(1, 1000) n;
                 insert into t1 select id from t0; insert into t2 select id from t1;
                 insert into t3 select id from t2; insert into t4 select id from t3"
            ))
            .await;
        let mut keys: Vec<(String, String)> = (0..5)
            .map(|table| (format!("many_{table}"), format!("select count(*) from t{table}")))
            .collect();
        keys.extend([1, 500].map(|owner| {
            (format!("many_of/{owner}"), format!("select count(*) from bulk where owner = {owner}"))
        }));
        matched(&process, &position).await;
        super::all_equal(&process.address, &database.client, &keys).await;
        counters_equal(&process.address, &database.client).await;
        // Kept, so joined: for that the connection was opened anew.
        for (key, _) in &keys {
            super::reads(&process.address, &format!("/fetch/{key}"), |reply| {
                reply.header("kck-source") == "hit"
            })
            .await;
        }
        let sender = "select active_pid::bigint from pg_replication_slots where slot_name = 'c19'";
        let (pid, (before, _)) = (database.one(sender).await, process.memory());
        for (what, statement) in
            [("delete", "delete from bulk"), ("truncate", "truncate t0 cascade")]
        {
            let begun = Instant::now();
            let position = database.commit(statement).await;
            let written = begun.elapsed();
            let caught_up = format!(
                "select confirmed_flush_lsn >= '{position}' from pg_replication_slots where slot_name = 'c19'"
            );
            matched(&process, &position).await;
            until(&database.client, &caught_up).await;
            let (now, most) = process.memory();
            eprintln!(
                "C19: {what}, {rows} rows, written in {written:?}, acknowledged in {:?}; memory {} MB before, {} MB now, {} MB at most",
                begun.elapsed(),
                before >> 20,
                now >> 20,
                most >> 20
            );
            assert!(most < before + MORE_BYTES_MAX, "{most} bytes at most, {before} before");
            super::all_equal(&process.address, &database.client, &keys).await;
        }
        assert_eq!(database.one(sender).await, pid, "keepalives went on");
        process.kill().await;
    });
}

/// Returns when a reader can demand this position; the long form takes longer than a reader may wait.
async fn matched(process: &Process, position: &str) {
    let path = format!("/fetch/many_0?min_lsn={position}&wait=30s");
    while get(&process.address, &path, &[]).await.unwrap().status != 200 && long() {}
}
