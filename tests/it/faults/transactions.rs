//! Transactions that stay open, are prepared, or are taken back in part.

use serde_json::json;

use super::{Watch, Writer, all_equal, counters, counters_equal};
use crate::support::{
    kck::Store,
    process, run,
    servers::{Database, connect, own_postgres},
};

/// Goal: a slot that cannot be made for who still writes says who that is, waits its time and no longer, and leaves
/// nothing behind. Method: one open writer and one prepared transaction, then none.
#[test]
fn c21_a_slot_that_waits_for_writers_names_them_and_leaves_nothing_half_made() {
    run(async {
        let server = own_postgres(&[]).await;
        let database = Database::on(&server, "c21").await;
        let project = counters(&database, Store::Embedded).await;
        let writer = connect(&database.url).await;
        writer.batch_execute("begin; update counters set n = 5 where id = 1").await.unwrap();
        let pid: i32 = writer.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
        database
            .run("begin; update counters set n = 6 where id = 2; prepare transaction 'forgotten'")
            .await;

        let file = project.folder.0.join("kck.toml");
        std::fs::write(&file, &project.settings).unwrap();
        let begun = std::time::Instant::now();
        let mut command = process::command();
        command.args(["run", "--config"]).arg(&file).env("NO_COLOR", "1").kill_on_drop(true);
        let output =
            tokio::time::timeout(super::PATIENCE, command.output()).await.expect("it ends");
        let (output, took) = (output.unwrap(), begun.elapsed());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{said}");
        for part in [format!("pid {pid}"), "forgotten".to_owned(), "hint: ".to_owned()] {
            assert!(said.contains(&part), "'{part}' is not in: {said}");
        }
        let left = "select count(*) from pg_replication_slots";
        assert_eq!(database.one(left).await, 0, "no slot is half made");
        eprintln!("C21: a writer and a prepared transaction; after {took:?}: {}", said.trim());

        writer.batch_execute("commit").await.unwrap();
        database.run("rollback prepared 'forgotten'").await;
        let kck = project.start().await;
        counters_equal(&kck.address, &database.client).await;
        assert_eq!(kck.get("/fetch/counter/1").await.value(), json!(5));
        kck.stop().await;
    });
}

/// What happens, and the statements that make it happen.
const TAKEN_BACK: &[(&str, &[&str])] = &[
    (
        "a savepoint taken back",
        &[
            "begin; update items set n = 1 where owner = 1; savepoint a; update items set n = 99 where owner = 2; rollback to a; update items set n = 2 where owner = 0; commit",
        ],
    ),
    (
        "a savepoint released in one taken back",
        &[
            "begin; savepoint a; update items set n = 98; savepoint b; delete from items where owner = 1; release b; rollback to a; insert into items values (100, 1, 7); commit",
        ],
    ),
    (
        "an exception that is caught",
        &["do $$ begin
            update items set n = 3 where owner = 1;
            for i in 1..50 loop
                begin
                    update items set n = 1000 + i where owner = 2;
                    if i % 2 = 0 then raise exception 'no'; end if;
                exception when raise_exception then
                    update items set n = n + 1 where owner = 0;
                end;
            end loop;
        end $$"],
    ),
    ("all taken back", &["begin; update items set n = 97; truncate items; rollback"]),
    (
        "a truncate taken back",
        &[
            "begin; update items set n = 4 where owner = 1; savepoint a; truncate items; rollback to a; commit",
        ],
    ),
    (
        "prepared and committed",
        &[
            "begin; update items set n = 5 where owner = 1; savepoint a; update items set n = 96 where owner = 2; rollback to a; prepare transaction 'c22'",
            "commit prepared 'c22'",
        ],
    ),
    (
        "prepared and taken back",
        &["begin; update items set n = 95; prepare transaction 'c22'", "rollback prepared 'c22'"],
    ),
    (
        "many savepoints",
        &["do $$ begin
            for i in 1..300 loop
                begin
                    update items set owner = (owner + 1) % 3 where id = i % 9 + 1;
                exception when others then raise;
                end;
            end loop;
        end $$"],
    ),
];

#[test]
fn c22_only_what_is_committed_counts() {
    run(async {
        let server = own_postgres(&[]).await;
        let database = Database::on(&server, "c22").await;
        database
            .run(
                "create table items (id bigint primary key, owner bigint not null, n bigint not null);
                 insert into items select n, n % 3, 0 from generate_series(1, 9) n",
            )
            .await;
        let project = counters(&database, Store::Embedded).await;
        project.product(
            "sum_of",
            "/* kck\nresult = \"value\"\n*/\nselect sum(n)::bigint from items where owner = :owner",
        );
        let kck = project.start().await;
        let keys: Vec<(String, String)> = (0..3)
            .map(|owner| {
                (
                    format!("sum_of/{owner}"),
                    format!("select sum(n)::bigint from items where owner = {owner}"),
                )
            })
            .collect();
        all_equal(&kck.address, &database.client, &keys).await;
        counters_equal(&kck.address, &database.client).await;
        let (watch, writer) = (Watch::over(&kck, &database.url), Writer::start(&database.url));
        for (what, steps) in TAKEN_BACK {
            for step in *steps {
                database.run(step).await;
                // Equal while it is prepared, too.
                all_equal(&kck.address, &database.client, &keys).await;
            }
            eprintln!("C22: {what}: every key equals its SQL");
        }
        let written = writer.end().await;
        counters_equal(&kck.address, &database.client).await;
        eprintln!("C22: {written} commits beside, {:?}", watch.end().await);
        kck.stop().await;
    });
}
