//! The publication has exactly the tables that are read, and their writers never suffer for it.

use std::collections::BTreeSet;

use kck::postgres::{
    Error,
    publication::{Ensured, ensure_publication, publication, still_there, writers},
    slot::facts,
};

use super::oid;
use crate::support::{
    run,
    servers::{Database, connect},
};

async fn publish(database: &Database, tables: &[&str]) -> Result<Ensured, Error> {
    let mut wanted = BTreeSet::new();
    for table in tables {
        wanted.insert(oid(database, table).await);
    }
    ensure_publication(&database.client, "kck", &wanted).await
}

/// What the publication has to be made to, and the tables whose past is then incomplete.
async fn check(database: &Database, wanted: &[&str], added: &[&str]) {
    let ensured = publish(database, wanted).await.unwrap();
    let mut want = BTreeSet::new();
    for table in added {
        want.insert(oid(database, table).await);
    }
    assert_eq!(ensured.added, want, "{wanted:?}");
    let is = publication(&database.client, "kck").await.unwrap().unwrap();
    assert!(is.via_root && is.all_actions && !is.unnamed, "{is:?}");
    assert_eq!((is.tables.len(), is.filtered.len(), is.narrowed.len()), (wanted.len(), 0, 0));
}

#[test]
fn a_table_whose_writers_would_suffer_is_left_out() {
    const SCHEMA: &str = "
        create table keyed (id int primary key, n int);
        create table whole (n int);
        alter table whole replica identity full;
        create table indexed (id int not null unique);
        alter table indexed replica identity using index indexed_id_key;
        create table parent (id int primary key);
        create table child (n int) inherits (parent);
        create table parted (id int primary key, n int) partition by range (id);
        create table parted_1 partition of parted for values from (0) to (10);

        create table bare (n int);
        create table nothing (id int primary key);
        alter table nothing replica identity nothing;
        create table deferred (id int primary key deferrable);
        create table parted_bare (id int, n int) partition by range (id);
        create table parted_bare_1 partition of parted_bare for values from (0) to (10);
        create table parted_partly (id int primary key, n int) partition by range (id);
        create table parted_partly_1 partition of parted_partly for values from (0) to (10);
        alter table parted_partly_1 replica identity nothing;
        create unlogged table unlogged (id int primary key);
        create view viewed as select 1 as n;
    ";
    let usable = ["keyed", "whole", "indexed", "parent", "parted"];
    let unusable =
        ["bare", "nothing", "deferred", "parted_bare", "parted_partly", "unlogged", "viewed"];
    run(async {
        let database = Database::new("publication_writers").await;
        database.run(SCHEMA).await;
        let ensured = publish(&database, &[&usable[..], &unusable[..]].concat()).await.unwrap();
        let left_out: BTreeSet<_> = ensured.unusable.iter().map(|one| one.name.clone()).collect();
        assert_eq!(left_out, unusable.iter().map(|name| format!("public.{name}")).collect());
        assert_eq!(ensured.added.len(), usable.len());
        for statement in [
            "insert into keyed values (1); update keyed set n = 2; delete from keyed",
            "insert into whole values (1); update whole set n = 2; delete from whole",
            "insert into indexed values (1); update indexed set id = 2; delete from indexed",
            "insert into child values (1, 1); update child set n = 2; delete from parent",
            "insert into parted values (1, 1); update parted set n = 2; delete from parted_1",
            "insert into bare values (1); update bare set n = 2; delete from bare",
            "insert into nothing values (1); update nothing set id = 2; delete from nothing",
            "insert into deferred values (1); update deferred set id = 2; delete from deferred",
            "insert into parted_bare values (1, 1); update parted_bare set n = 2; delete from parted_bare",
            "insert into parted_partly values (1, 1); update parted_partly set n = 2; delete from parted_partly_1",
        ] {
            database.run(statement).await;
        }
        // Each fix is SQL that mends its table.
        for unusable in ensured.unusable.iter().filter(|unusable| !unusable.fix.contains('…')) {
            database.run(&unusable.fix).await;
        }
        let mended = publish(&database, &[&usable[..], &unusable[..]].concat()).await.unwrap();
        let left_out: Vec<_> = mended.unusable.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(left_out, ["public.parted_bare", "public.unlogged", "public.viewed"]);
    });
}

#[test]
fn whatever_it_was_it_becomes_what_is_wanted() {
    run(async {
        let database = Database::new("publication_becomes").await;
        database
            .run("create table a (id int primary key, n int); create table b (id int primary key)")
            .await;
        check(&database, &["a"], &["a"]).await;
        check(&database, &["a", "b"], &["b"]).await;
        check(&database, &["a", "b"], &[]).await;
        check(&database, &["b"], &[]).await;
        check(&database, &[], &[]).await;
        database.run("drop publication kck; create publication kck for table a with (publish = 'insert')").await;
        check(&database, &["a"], &["a"]).await;
        database.run("alter publication kck set (publish_via_partition_root = false)").await;
        check(&database, &["a"], &["a"]).await;
        if facts(&database.client).await.unwrap().version_num >= 150_000 {
            database.run("alter publication kck set table a where (id > 3), b (id)").await;
            check(&database, &["a", "b"], &["a", "b"]).await;
            database
                .run("drop publication kck; create publication kck for tables in schema public")
                .await;
            assert!(matches!(publish(&database, &["a"]).await, Err(Error::Refused { .. })));
        }
        database.run("drop publication kck; create publication kck for all tables").await;
        let error = publish(&database, &["a"]).await.unwrap_err();
        let Error::Refused { hint, .. } = &error else { panic!("{error:?}") };
        assert!(hint.contains("drop publication \"kck\""), "{hint}");
        database.run("drop publication kck; create role publication_plain login").await;
        let plain = connect(&database.url.replace("postgres@", "publication_plain@")).await;
        let tables = BTreeSet::from([oid(&database, "a").await]);
        let error = ensure_publication(&plain, "kck", &tables).await.unwrap_err();
        let Error::Refused { hint, .. } = &error else { panic!("{error:?}") };
        assert!(hint.contains("create publication \"kck\" for table only public.a"), "{hint}");
        // The connection is as good as before.
        plain.batch_execute("select 1").await.unwrap();
    });
}

#[test]
fn a_writer_is_known_until_it_ends_prepared_or_not() {
    run(async {
        let database = Database::new("publication_prepared").await;
        let schema = "create table a (n int); create table parted (n int) partition by range (n);
            create table parted_1 partition of parted for values from (0) to (10)";
        database.run(schema).await;
        let tables = BTreeSet::from([oid(&database, "parted").await, oid(&database, "a").await]);
        let write_to = async || writers(&database.client, &tables).await.unwrap();
        let remain = async |of: &[_]| still_there(&database.client, of).await.unwrap().len();
        assert_eq!(write_to().await, []);
        let [one, two, reader] = [
            connect(&database.url).await,
            connect(&database.url).await,
            connect(&database.url).await,
        ];
        one.batch_execute("begin; insert into parted_1 values (5)").await.unwrap();
        two.batch_execute("begin; update a set n = 1").await.unwrap();
        reader.batch_execute("begin; select from a; select from parted").await.unwrap();
        let known = write_to().await;
        assert_eq!(known.len(), 2);
        two.batch_execute("commit").await.unwrap();
        assert_eq!(remain(&known).await, 1);
        one.batch_execute("prepare transaction 'publication_prepared'").await.unwrap();
        assert_eq!(remain(&known).await, 1);
        let prepared = write_to().await;
        assert_eq!(prepared.len(), 1);
        one.batch_execute("commit prepared 'publication_prepared'").await.unwrap();
        assert_eq!((remain(&known).await, remain(&prepared).await), (0, 0));
    });
}
