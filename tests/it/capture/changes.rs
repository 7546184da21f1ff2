//! What is committed comes as it was written.

use kck::{
    capture::{Event, Stream as _, stream::Settings},
    change::Lsn,
    postgres::slot::slot,
};

use super::{ONE_TABLE, Source, check, next, number, opened, start, until};
use crate::support::{run, servers::Database};

#[test]
fn changes_come_with_what_the_identity_tells() {
    const SCHEMA: &str = "
        create table whole (id int primary key, t text);
        alter table whole replica identity full;
        create table keyed (id int primary key, t text);
        create table indexed (id int, code text not null unique);
        alter table indexed replica identity using index indexed_code_key;
        create table nothing (id int, t text);
        alter table nothing replica identity nothing;
        create table parted (id int primary key, t text) partition by range (id);
        create table parted_1 partition of parted for values from (0) to (10);
        create table parted_2 partition of parted for values from (10) to (20);
    ";
    run(async {
        let tables = ["whole", "keyed", "indexed", "nothing", "parted"];
        let source = Source::new("capture_identity", SCHEMA, &tables).await;
        // kck leaves it out, for its writers' sake; somebody else may not.
        source.run("alter publication capture_identity add table nothing").await;
        let mut stream = source.stream().await;
        check(&source, &mut stream, &[
            ("insert into whole values (1, null)", &["insert whole (1, null)"]),
            ("update whole set t = 'a'", &["update whole whole (1, null) to (1, a)"]),
            ("update whole set id = 2", &["update whole whole (1, a) to (2, a)"]),
            ("delete from whole", &["delete whole whole (2, a)"]),
            ("insert into keyed values (1, 'a')", &["insert keyed (1, a)"]),
            ("update keyed set t = 'b'", &["update keyed unsent to (1, b)"]),
            ("update keyed set id = 2", &["update keyed identity (1, null) to (2, b)"]),
            ("delete from keyed", &["delete keyed identity (2, null)"]),
            ("insert into indexed values (1, 'a')", &["insert indexed (1, a)"]),
            ("update indexed set id = 2", &["update indexed unsent to (2, a)"]),
            ("update indexed set code = 'b'", &["update indexed identity (null, a) to (2, b)"]),
            ("delete from indexed", &["delete indexed identity (null, b)"]),
            ("insert into nothing values (1, 'a')", &["insert nothing (1, a)"]),
            ("insert into parted_1 values (1, 'a')", &["insert parted (1, a)"]),
            ("update parted set id = 11", &["delete parted identity (1, null)", "insert parted (11, a)"]),
            ("insert into keyed values (3), (4); truncate keyed, nothing, parted",
                &["insert keyed (3, null)", "insert keyed (4, null)", "truncate keyed, nothing, parted"]),
            // Of a partition alone the server does not tell: the look at the catalogue does.
            ("truncate parted_1; insert into keyed values (5)", &["insert keyed (5, null)"]),
            ("begin; savepoint a; insert into keyed values (6); rollback to a; insert into keyed values (7); commit",
                &["insert keyed (7, null)"]),
            ("alter table keyed add column more text; insert into keyed values (8, 'a', 'b')",
                &["insert keyed (8, a, b)"]),
            ("alter table keyed drop column t; update keyed set id = 9 where id = 8",
                &["update keyed identity (8, null) to (9, b)"]),
            ("alter table keyed rename to named; insert into named values (10)", &["insert named (10, null)"]),
            ("alter table whole replica identity default; insert into whole values (1, 'a'); update whole set t = 'b'",
                &["insert whole (1, a)", "update whole unsent to (1, b)"]),
        ]).await;
    });
}

#[test]
fn values_print_by_fixed_settings_alone() {
    const SCHEMA: &str = "
        create type mood as enum ('sad', 'ok');
        create table printed (id int primary key, b bool, f float8, d date, t timestamptz, i interval, x bytea,
            n numeric, m mood, a int[], c money);
        alter database capture_printed set datestyle = 'German';
        alter database capture_printed set timezone = 'Asia/Tokyo';
        alter database capture_printed set intervalstyle = 'iso_8601';
        alter database capture_printed set bytea_output = 'escape';
        alter database capture_printed set extra_float_digits = -5;
    ";
    run(async {
        let source = Source::new("capture_printed", SCHEMA, &["printed"]).await;
        let mut stream = source.stream().await;
        let sql = r"insert into printed values (1, true, 0.1::float8 + 0.2, '2026-01-02', '2026-01-01 00:00+00',
            '1 day 2 hours', '\x00ff', 1.50, 'ok', '{1,null}', 2.5)";
        let want = r"insert printed (1, t, 0.30000000000000004, 2026-01-02, 2026-01-01 00:00:00+00, 1 day 02:00:00, \x00ff, 1.50, ok, {1,NULL}, $2.50)";
        check(&source, &mut stream, &[(sql, &[want])]).await;
    });
}

#[test]
fn a_large_value_left_alone_is_unknown_or_that_of_the_old_row() {
    const SCHEMA: &str = "
        create table keyed (id int primary key, large text, n int);
        alter table keyed alter large set storage external;
        create table whole (like keyed including all);
        alter table whole replica identity full;
    ";
    run(async {
        let source = Source::new("capture_large", SCHEMA, &["keyed", "whole"]).await;
        let mut stream = source.stream().await;
        check(
            &source,
            &mut stream,
            &[
                (
                    "insert into keyed values (1, repeat('x', 10000), 1)",
                    &["insert keyed (1, 10000 bytes, 1)"],
                ),
                ("update keyed set n = 2", &["update keyed unsent to (1, unchanged, 2)"]),
                (
                    "update keyed set id = 2",
                    &["update keyed identity (1, null, null) to (2, unchanged, 2)"],
                ),
                ("update keyed set large = null", &["update keyed unsent to (2, null, 2)"]),
                (
                    "insert into whole values (1, repeat('x', 10000), 1)",
                    &["insert whole (1, 10000 bytes, 1)"],
                ),
                (
                    "update whole set n = 2",
                    &["update whole whole (1, 10000 bytes, 1) to (1, 10000 bytes, 2)"],
                ),
            ],
        )
        .await;
    });
}

#[test]
fn a_transaction_of_200_000_rows_comes_whole_through_a_small_buffer() {
    const ROWS: i64 = 200_000;
    run(async {
        let source = Source::new("capture_big", ONE_TABLE, &["numbers"]).await;
        let mut stream = start(Settings { events_max: 6000, ..source.settings() }).await;
        source
            .run("insert into numbers select n, repeat('y', 100) from generate_series(1, 200000) n")
            .await;
        let mut last = 0;
        loop {
            match next(&mut stream).await {
                Event::Change(change) => {
                    assert_eq!(number(&change), last + 1);
                    last += 1;
                }
                Event::Commit(_) if last > 0 => break,
                Event::Opened { .. } => assert_eq!(last, 0, "it comes in one go"),
                Event::Commit(_) | Event::Idle(_) => {}
            }
        }
        assert_eq!(last, ROWS);
    });
}

#[test]
fn the_server_is_answered_while_nobody_reads() {
    run(async {
        let schema = "alter database capture_unread set wal_sender_timeout = '1s'";
        let source =
            Source::new("capture_unread", &format!("{ONE_TABLE}; {schema}"), &["numbers"]).await;
        let mut stream = start(Settings { events_max: 60, ..source.settings() }).await;
        let (_, pid) = opened(&mut stream).await;
        source.run("insert into numbers select generate_series(1, 10000)").await;
        let heard = format!(
            "select reply_time > backend_start + '3 s' from pg_stat_replication where pid = {pid}"
        );
        until(&source.database, &heard).await;
        let mut rows = 0;
        while rows < 10_000 {
            match next(&mut stream).await {
                Event::Change(_) => rows += 1,
                Event::Opened { .. } => panic!("the server gave the connection up"),
                Event::Commit(_) | Event::Idle(_) => {}
            }
        }
    });
}

#[test]
fn idle_positions_advance_with_another_databases_writes() {
    run(async {
        let source = Source::new("capture_idle", ONE_TABLE, &["numbers"]).await;
        let neighbour = Database::new("capture_neighbour").await;
        let mut stream = source.stream().await;
        let control = stream.control();
        opened(&mut stream).await;
        let commit =
            neighbour.commit("create table noise as select generate_series(1, 10000)").await;
        let target: Lsn = commit.parse().unwrap();
        control.hasten();
        loop {
            match next(&mut stream).await {
                Event::Idle(at) => {
                    control.acknowledge(at);
                    if at >= target {
                        break;
                    }
                }
                Event::Change(change) => panic!("{change:?}"),
                Event::Opened { .. } | Event::Commit(_) => {}
            }
        }
        // What was acknowledged reaches the slot, so that the source may forget its log.
        let flushed =
            "select confirmed_flush_lsn from pg_replication_slots where slot_name = 'capture_idle'";
        until(&source.database, &format!("({flushed}) >= '{target}'")).await;
        let slot = slot(&source.database.client, "capture_idle").await.unwrap().unwrap();
        assert!(slot.ours && !slot.lost() && slot.holder.is_some(), "{slot:?}");
        check(
            &source,
            &mut stream,
            &[("insert into numbers values (1)", &["insert numbers (1, null)"])],
        )
        .await;
    });
}
