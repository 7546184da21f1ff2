//! The main job: a commit in Postgres becomes a fresh answer over HTTP, and nothing else is touched.

use kck::observe::Counter;
use serde_json::json;

use crate::support::{
    client::get,
    kck::{Kck, Project, Store},
    run,
    servers::{Database, connect},
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
        let unchanged = get(&kck.address, "/fetch/orders_of/3", &[("if-none-match", &etag)]).await.unwrap();
        assert_eq!((unchanged.status, unchanged.header("etag")), (304, etag.as_str()));
        kck.stop().await;
    });
}
