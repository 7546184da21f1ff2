//! Definitions move in the midst of transactions, partitions come and go, values lie apart from their rows.

use serde_json::{Value, json};

use super::{Watch, Writer, all_equal, counters, counters_equal, reads};
use crate::support::{
    kck::{Kck, Project, Store},
    run,
    servers::Database,
};

fn value(sql: &str) -> String {
    format!("/* kck\nresult = \"value\"\n*/\n{sql}")
}

/// Each key with the SQL of its answer.
fn keys(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, sql)| ((*key).to_owned(), (*sql).to_owned())).collect()
}

/// What a transaction does between two writes, the second write, and whether `n` is still there to be summed.
const MOVES: &[(&str, &str, bool)] = &[
    (
        "alter table things add column extra bigint not null default 3",
        "update things set n = n + 1, extra = 4 where owner = 1",
        true,
    ),
    ("alter table things drop column extra", "update things set n = n + 1 where owner = 1", true),
    (
        "alter table things alter n type numeric(20, 1)",
        "update things set n = n + 0.5 where owner = 1",
        true,
    ),
    ("alter table things alter n type bigint", "update things set n = n + 1 where owner = 1", true),
    (
        "alter table things rename column n to m",
        "update things set m = m + 1 where owner = 1",
        false,
    ),
    (
        "alter table things rename column m to n",
        "update things set n = n + 1 where owner = 1",
        true,
    ),
    ("alter table things rename to moved", "update moved set n = n + 1 where owner = 1", false),
    ("alter table moved rename to things", "update things set n = n + 1 where owner = 1", true),
    (
        "alter table things replica identity full",
        "update things set n = n + 1, owner = 2 where id = 1",
        true,
    ),
    (
        "alter table things replica identity default",
        "update things set n = n + 1, owner = 1 where id = 1",
        true,
    ),
    (
        "create unique index things_by on things (id, owner); alter table things replica identity using index things_by",
        "update things set n = n + 1 where owner = 1",
        true,
    ),
    (
        "alter table things set schema elsewhere",
        "update elsewhere.things set n = n + 1 where owner = 1",
        false,
    ),
    (
        "alter table elsewhere.things set schema public",
        "update things set n = n + 1 where owner = 1",
        true,
    ),
    (
        "drop table things; create table things (id bigint primary key, owner bigint not null, n bigint not null); insert into things select n, n % 3, 50 from generate_series(1, 9) n",
        "update things set n = n + 1 where owner = 1",
        true,
    ),
];

/// Goal: DDL and rows in one transaction are one change. Method: one case after another, each a transaction that
/// writes, alters and writes; what still works equals its SQL, what broke is never called fresh, and what is beside is
/// followed throughout.
#[test]
fn c23_definitions_that_move_amid_a_transaction_leave_no_old_answer() {
    run(async {
        let database = Database::new("c23").await;
        database
            .run(
                "create table things (id bigint primary key, owner bigint not null, n bigint not null);
                 insert into things select n, n % 3, 0 from generate_series(1, 9) n;
                 create schema elsewhere;
                 create table anchor (id bigint primary key); insert into anchor values (1)",
            )
            .await;
        let project = counters(&database, Store::Embedded).await;
        project
            .product("sum_of", &value("select sum(n)::numeric from things where owner = :owner"))
            .product("rows_of", "select * from things where owner = :owner order by id");
        let kck = project.start().await;
        let sums = keys(&[
            ("sum_of/1", "select sum(n)::numeric from things where owner = 1"),
            ("sum_of/2", "select sum(n)::numeric from things where owner = 2"),
            (
                "rows_of/1",
                "select json_agg(t) from (select * from things where owner = 1 order by id) t",
            ),
        ]);
        all_equal(&kck.address, &database.client, &sums).await;
        counters_equal(&kck.address, &database.client).await;
        let (watch, writer) = (Watch::over(&kck, &database.url), Writer::start(&database.url));
        for (ddl, after, works) in MOVES {
            let first = first_write(&database, ddl).await;
            let whole = format!("begin; {first}; {ddl}; {after}; commit");
            let position = database.commit(&whole).await;
            if *works {
                // What was broken heals within a look or two.
                for (key, _) in &sums {
                    let path = format!("/fetch/{key}?min_lsn={position}");
                    reads(&kck.address, &path, |reply| reply.status == 200).await;
                }
                all_equal(&kck.address, &database.client, &sums).await;
            } else {
                let reply = kck.at_least("sum_of/1", &position).await;
                assert_ne!(reply.status, 200, "{ddl}: {reply:?}");
                let reply = kck.get("/fetch/sum_of/1").await;
                assert_ne!(reply.header("kck-stale"), "false", "{ddl}: {reply:?}");
            }
            let beside = kck.get("/fetch/counter/1").await;
            assert_eq!(beside.status, 200, "{ddl}: {beside:?}");
            eprintln!(
                "C23: {ddl}: {}",
                if *works { "every key equals its SQL" } else { "said to be broken" }
            );
        }
        // Followed again, not only answered uncached.
        reads(&kck.address, "/fetch/sum_of/1", |reply| {
            reply.header("kck-source") == "hit" && reply.header("kck-stale") == "false"
        })
        .await;
        let written = writer.end().await;
        counters_equal(&kck.address, &database.client).await;
        eprintln!("C23: {written} commits beside, {:?}", watch.end().await);
        kck.stop().await;
    });
}

/// A write that a transaction may begin with, where the table is before this DDL.
async fn first_write(database: &Database, ddl: &str) -> String {
    let table = if ddl.contains("moved rename") {
        "moved"
    } else if ddl.contains("elsewhere.things") {
        "elsewhere.things"
    } else {
        "things"
    };
    let first = format!("insert into {table} (id, owner) values (1000, 1)");
    // Columns that have no default would refuse that row, so it is a copy.
    if database.client.batch_execute(&format!("begin; {first}; rollback")).await.is_ok() {
        first
    } else {
        drop(database.client.batch_execute("rollback").await);
        format!("update {table} set owner = owner where owner = 1")
    }
}

#[test]
fn c24_partitions_that_come_and_go_are_answered_with_their_rows() {
    const CASES: &[&str] = &[
        "insert into parts values (100, 1, 5)",
        "alter table parts attach partition parts_2 for values in (2)",
        "update parts_2 set n = n + 1",
        "update parts set region = 2 where id = 100",
        "begin; update parts set n = 9 where id = 1; alter table parts detach partition parts_2; update parts_2 set n = 77; commit",
        "update parts_2 set n = 78 where id = 11",
        "alter table parts attach partition parts_2 for values in (2)",
        "truncate parts_1",
        "create table parts_3 partition of parts for values in (3); insert into parts values (300, 3, 1)",
        "begin; insert into parts values (301, 3, 2); truncate parts_3; insert into parts values (302, 3, 4); commit",
        "drop table parts_2",
        "insert into parts values (400, 1, 8)",
        "truncate parts",
        "create table parts_4 partition of parts default; insert into parts values (500, 2, 3)",
    ];
    run(async {
        let database = Database::new("c24").await;
        database
            .run(
                "create table parts (id bigint, region bigint not null, n bigint not null, primary key (id, region)) partition by list (region);
                 create table parts_1 partition of parts for values in (1);
                 create table parts_2 (id bigint, region bigint not null, n bigint not null, primary key (id, region));
                 insert into parts_1 select n, 1, n from generate_series(1, 5) n;
                 insert into parts_2 select n, 2, n from generate_series(11, 15) n",
            )
            .await;
        let project = counters(&database, Store::Embedded).await;
        project.product("all", &value("select sum(n)::bigint from parts")).product(
            "of",
            &value("select coalesce(sum(n), 0)::bigint from parts where region = :region"),
        );
        let kck = project.start().await;
        let of = |region| {
            format!("select coalesce(sum(n), 0)::bigint from parts where region = {region}")
        };
        let mut all = keys(&[("all", "select sum(n)::bigint from parts")]);
        all.extend((1..=3).map(|region| (format!("of/{region}"), of(region))));
        all_equal(&kck.address, &database.client, &all).await;
        counters_equal(&kck.address, &database.client).await;
        let (watch, writer) = (Watch::over(&kck, &database.url), Writer::start(&database.url));
        for change in CASES {
            database.run(change).await;
            all_equal(&kck.address, &database.client, &all).await;
            eprintln!("C24: {change}: every key equals its SQL");
        }
        let written = writer.end().await;
        counters_equal(&kck.address, &database.client).await;
        eprintln!("C24: {written} commits beside, {:?}", watch.end().await);
        kck.stop().await;
    });
}

async fn toasted(database: &Database) -> Project {
    database
        .run(
            "create table papers (id bigint primary key, tag text not null, owner bigint not null, n bigint not null, body text not null);
             alter table papers alter tag set storage external, alter body set storage external;
             alter table papers set (toast_tuple_target = 128);
             create unique index papers_by on papers (owner, id);
             insert into papers select n, repeat(chr(96 + n::int), 300), n % 2, 0,
                (select string_agg(md5(n || '/' || i), '') from generate_series(1, 32768) i) from generate_series(1, 4) n",
        )
        .await;
    let project = counters(database, Store::Embedded).await;
    project
        .product("paper", "select id, n, length(body) as length, md5(body) as digest from papers where id = :id")
        .product("tagged", &value("select sum(n)::bigint from papers where tag = :tag"))
        .product("digests", &value("select string_agg(md5(body) || n, ',' order by id) from papers where owner = :owner"));
    project
}

/// Goal: a value that the stream leaves out, because it is large and did not change, is never taken for none. Method: bodies
/// of 1 MB and names that lie apart too; other columns change, under every identity.
#[test]
fn c25_large_values_that_do_not_change_stay_right() {
    run(async {
        let database = Database::new("c25").await;
        let project = toasted(&database).await;
        let kck: Kck = project.start().await;
        let tag = |n: u8| char::from(96 + n).to_string().repeat(300);
        let mut all: Vec<(String, String)> = Vec::new();
        for n in 1..=4 {
            all.push((
                format!("tagged/{}", tag(n)),
                format!("select sum(n)::bigint from papers where tag = '{}'", tag(n)),
            ));
            all.push((format!("paper/{n}"), format!("select coalesce(json_agg(t), '[]') from (select id, n, length(body) as length, md5(body) as digest from papers where id = {n}) t")));
        }
        for owner in 0..2 {
            all.push((format!("digests/{owner}"), format!("select string_agg(md5(body) || n, ',' order by id) from papers where owner = {owner}")));
        }
        all_equal(&kck.address, &database.client, &all).await;
        counters_equal(&kck.address, &database.client).await;
        let watch = Watch::over(&kck, &database.url);
        for identity in ["default", "full", "using index papers_by"] {
            database.run(&format!("alter table papers replica identity {identity}")).await;
            for change in [
                "update papers set n = n + 1 where id = 1",
                "update papers set owner = 1 - owner where id = 2",
                "update papers set id = id + 10 where id = 3; update papers set id = 3 where id = 13",
                "update papers set tag = repeat('a', 300) where id = 4; update papers set n = n + 1 where id = 4",
                "update papers set tag = repeat('d', 300) where id = 4",
                "update papers set body = body || 'x' where id = 1",
                "begin; update papers set n = n + 1; update papers set body = reverse(body) where id = 2; delete from papers where id = 1; commit",
                "insert into papers select 1, repeat('a', 300), 1, 0, body from papers where id = 2",
            ] {
                database.run(change).await;
                all_equal(&kck.address, &database.client, &all).await;
            }
            eprintln!(
                "C25: replica identity {identity}: every key equals its SQL after every change"
            );
        }
        let one = kck.get("/fetch/paper/1").await.value();
        assert_eq!(one[0]["length"], json!(1_048_576), "{one}");
        assert_ne!(one[0]["digest"], Value::Null);
        eprintln!("C25: {:?}", watch.end().await);
        kck.stop().await;
    });
}
