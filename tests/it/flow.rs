//! The main job: a commit in Postgres becomes a fresh answer over HTTP, and nothing else is touched.

use kck::observe::Counter;
use serde_json::json;

use crate::support::{
    client::get,
    kck::{Project, Store},
    run,
    servers::Database,
};

const SCHEMA: &str = "
    create table orders (id bigint primary key, customer_id bigint not null, total numeric, state text);
    alter table orders replica identity full;
    create index on orders (customer_id);
    create table unrelated (id bigint primary key, note text);
    insert into orders select n, n % 10, n * 1.50, 'open' from generate_series(1, 100) n;
    create extension if not exists pg_stat_statements;
";

const ORDERS_OF: &str = "
    select o.id, o.total, o.state from orders o where o.customer_id = :customer_id order by o.id
";

async fn shop(name: &str, store: Store) -> (Database, Project) {
    let database = Database::new(name).await;
    database.run(SCHEMA).await;
    let project = Project::new(&database, store).await;
    project.product("orders_of", ORDERS_OF);
    (database, project)
}

fn on_both(name: &str, test: impl AsyncFn(Database, Project)) {
    run(async {
        for (store, suffix) in [(Store::Embedded, "embedded"), (Store::Cassandra, "cassandra")] {
            let (database, project) = shop(&format!("{name}_{suffix}"), store).await;
            test(database, project).await;
        }
    });
}

#[test]
fn a_change_is_seen_by_who_demands_it() {
    on_both("demands", async |database, project| {
        let kck = project.start().await;
        let first = kck.get("/fetch/orders_of/3").await;
        assert_eq!(first.header("kck-source"), "miss");
        assert_eq!(first.value()[0], json!({"id": 3, "total": 4.50, "state": "open"}));
        assert_eq!(first.value().as_array().unwrap().len(), 10);
        let second = kck.get("/fetch/orders_of/3").await;
        assert_eq!((second.header("kck-source"), second.value()), ("hit", first.value()));

        let commit = database.commit("update orders set state = 'paid' where id = 3").await;
        let third = kck.at_least("orders_of/3", &commit).await;
        assert_eq!(third.value()[0], json!({"id": 3, "total": 4.50, "state": "paid"}));
        let envelope = third.json();
        assert_eq!(envelope["stale"], json!(false));
        assert!(envelope["version"].as_u64() > second.json()["version"].as_u64());
        let reached: kck::change::Lsn = envelope["as_of"]["lsn"].as_str().unwrap().parse().unwrap();
        assert!(reached >= commit.parse().unwrap());

        let etag = third.header("etag").to_owned();
        let unchanged =
            get(&kck.address, "/fetch/orders_of/3", &[("if-none-match", &etag)]).await.unwrap();
        assert_eq!((unchanged.status, unchanged.header("etag")), (304, etag.as_str()));
        kck.stop().await;
    });
}

#[test]
fn a_row_that_moves_refreshes_both_keys() {
    on_both("moves", async |database, project| {
        let kck = project.start().await;
        let count = async |key: &str, lsn: &str| {
            kck.at_least(key, lsn).await.value().as_array().unwrap().len()
        };
        assert_eq!(count("orders_of/1", "0/0").await, 10);
        assert_eq!(count("orders_of/2", "0/0").await, 10);
        let commit = database.commit("update orders set customer_id = 2 where id = 1").await;
        assert_eq!(count("orders_of/1", &commit).await, 9);
        assert_eq!(count("orders_of/2", &commit).await, 11);
        let commit = database.commit("delete from orders where id = 1").await;
        assert_eq!(count("orders_of/2", &commit).await, 10);
        let commit = database.commit("truncate orders").await;
        assert_eq!(count("orders_of/1", &commit).await, 0);
        assert_eq!(count("orders_of/2", &commit).await, 0);
        kck.stop().await;
    });
}

/// Statements in the database since the last reset that neither the test nor kck's housekeeping sent.
async fn queries(database: &Database) -> Vec<String> {
    const HOUSEKEEPING: &[&str] = &[
        "pg_current_snapshot()::text,\n       pg_catalog.pg_current_wal_insert_lsn()",
        "pg_logical_emit_message",
        "with recursive below (root, oid)",
        "pg_replication_slots",
        "pg_control_system",
        "from pg_publication p",
    ];
    let sql = "select query from pg_stat_statements
        where dbid = (select oid from pg_database where datname = current_database()) and calls > 0";
    let rows = database.client.query(sql, &[]).await.unwrap();
    let own = [
        "pg_stat_statements",
        "update orders",
        "insert into unrelated",
        "select pg_current_wal_insert_lsn()::text",
    ];
    let queries = rows.iter().map(|row| row.get::<_, String>(0));
    queries
        .filter(|query| !HOUSEKEEPING.iter().chain(&own).any(|known| query.contains(known)))
        .collect()
}

#[test]
fn an_unrelated_change_touches_nothing() {
    on_both("unrelated", async |database, project| {
        let kck = project.start().await;
        let before = kck.get("/fetch/orders_of/4").await;
        assert_eq!(before.status, 200);
        let marks = || kck.counted(Counter::Marks) + kck.counted(Counter::ProductMarks);
        let (marked, computed) = (marks(), kck.counted(Counter::Computed));
        database.run("select pg_stat_statements_reset()").await;

        database.commit("update orders set state = 'paid' where customer_id = 5").await;
        let commit = database.commit("insert into unrelated values (1, 'x')").await;
        let after = kck.at_least("orders_of/4", &commit).await;
        assert_eq!(after.value(), before.value());
        assert_ne!(after.header("kck-source"), "miss");
        assert_eq!(after.json()["version"], before.json()["version"]);
        assert_eq!((marks(), kck.counted(Counter::Computed)), (marked, computed));
        assert_eq!(queries(&database).await, Vec::<String>::new());

        // The same look does see a query when a key is touched.
        let commit =
            database.commit("update orders set state = 'paid' where customer_id = 4").await;
        assert_eq!(kck.at_least("orders_of/4", &commit).await.status, 200);
        assert!(marks() > marked);
        assert!(queries(&database).await.iter().any(|query| query.contains("kck_keys")));
        kck.stop().await;
    });
}

#[test]
fn parallel_misses_are_one_query() {
    on_both("misses", async |database, project| {
        let slow = "select count(*) as n from orders where customer_id = :customer_id and pg_sleep(0.02) is not null";
        project
            .product("slow", &format!("/* kck\nresult = \"value\"\nexpire = \"1h\"\n*/\n{slow}"));
        let kck = project.start().await;
        database.run("select pg_stat_statements_reset()").await;
        let reads = (0..200).map(|_| kck.get("/fetch/slow/7"));
        let replies = futures_util::future::join_all(reads).await;
        for reply in &replies {
            assert_eq!(reply.value(), json!(10));
        }
        let sql = "select coalesce(sum(calls), 0)::bigint from pg_stat_statements where query like '%pg_sleep%kck_keys%'";
        assert_eq!(database.one(sql).await, 1);
        assert_eq!(kck.counted(Counter::Batches), 1);
        kck.stop().await;
    });
}

#[test]
fn an_edited_product_answers_nothing_old_as_fresh() {
    on_both("edited", async |database, project| {
        let kck = project.start().await;
        assert_eq!(kck.get("/fetch/orders_of/6").await.value()[0]["id"], json!(6));
        // Firm before the stop: the stream has passed what the answer's statement saw.
        let lsn = database.commit("select 1").await;
        assert_eq!(kck.at_least("orders_of/6", &lsn).await.status, 200);
        kck.stop().await;

        // Unchanged, the entry is still there and still right.
        let kck = project.start().await;
        let again = kck.get("/fetch/orders_of/6").await;
        assert_eq!((again.header("kck-source"), again.header("kck-stale")), ("hit", "false"));
        kck.stop().await;

        // Of the same shape, the old entry may stand in, and says that it is stale.
        project.product("orders_of", "select o.id, o.total, o.state from orders o where o.customer_id = :customer_id order by o.id desc");
        let kck = project.start().await;
        let first = kck.get("/fetch/orders_of/6").await;
        assert!(first.header("kck-stale") == "true" || first.value()[0]["id"] == json!(96));
        let lsn = database.commit("select 1").await;
        assert_eq!(kck.at_least("orders_of/6", &lsn).await.value()[0]["id"], json!(96));
        kck.stop().await;

        // Of another shape, it is a miss.
        project.product(
            "orders_of",
            "select o.id from orders o where o.customer_id = :customer_id order by o.id",
        );
        let kck = project.start().await;
        let first = kck.get("/fetch/orders_of/6").await;
        assert_eq!(
            (first.header("kck-source"), first.value()[0].clone()),
            ("miss", json!({"id": 6}))
        );
        kck.stop().await;
    });
}
