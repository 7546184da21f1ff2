//! How statements run on a real source: one or many keys, prepared once, and what happens when their connection goes.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use kck::{
    change::{Epoch, Lsn, Position},
    key::Key,
    observe::Counter,
    postgres::{Source, address::Address, run::Pool},
    product::{Product, Slot},
    recompute::{Run as _, sql::Sql},
};
use serde_json::{Value, json};

use crate::support::{
    client::send,
    kck::{Kck, Project, Store},
    run,
    servers::Database,
};

const TIMEOUT: Duration = Duration::from_secs(60);
/// What SQL does not look at.
const NOWHERE: Position = Position { epoch: Epoch(1), lsn: Lsn(0) };

fn pool(database: &Database) -> Pool {
    let address = Address::parse(&database.url, |_| None).unwrap();
    Pool::new(Arc::new(Source::new(address)), 1, TIMEOUT)
}

fn product(kck: &Kck, name: &str) -> Arc<Product> {
    match &kck.app.context.catalog.borrow().products[name] {
        Slot::Ready { product, .. } => Arc::clone(product),
        Slot::Broken { faults, .. } => panic!("{faults:?}"),
    }
}

async fn shown(kck: &Kck, name: &str) -> Value {
    let products = kck.get("/products").await.json()["products"].clone();
    let all = products.as_array().unwrap();
    all.iter().find(|product| product["name"] == name).cloned().unwrap()["statements"].clone()
}

/// What each type's parameters come to, alone and with others.
#[test]
fn a_key_has_the_same_answer_alone_and_with_others() {
    const TYPES: &[(&str, &[&str])] = &[
        ("bigint", &["7", "-9223372036854775808"]),
        ("text", &["", "a'b\"c\\,{}", "null", "é"]),
        ("varchar", &["  x "]),
        ("bpchar", &["x", "long text"]),
        ("numeric", &["10.00", "NaN", "-0.5"]),
        ("boolean", &["t", "f"]),
        ("date", &["2024-02-29", "infinity"]),
        ("timestamptz", &["2024-02-29 12:00:00+00"]),
        ("interval", &["P1Y2M3DT4H"]),
        ("uuid", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
        ("bytea", &["\\xdeadbeef"]),
        ("jsonb", &["{\"a\": [1, null]}"]),
        ("integer[]", &["{1,2,NULL}", "{}"]),
        ("text[]", &["{\"a,b\",\"\\\"\"}"]),
        ("box", &["(3,4),(1,2)"]),
        ("int4range", &["[1,5)"]),
        ("double precision", &["0.1", "-Infinity"]),
    ];
    run(async {
        let database = Database::new("both_forms").await;
        database.run("create table one (n bigint primary key); insert into one values (1)").await;
        let project = Project::new(&database, Store::Memory).await;
        for (number, (type_, _)) in TYPES.iter().enumerate() {
            let text = format!(
                "/* kck\nparams = {{ p = \"{type_}\", unused = \"bigint\" }}\n*/\nselect :p::text as p, n from one where :unused is not null"
            );
            project.product(&format!("typed{number}"), &text);
        }
        let kck = project.start().await;
        let recipe = Sql { pool: pool(&database) };
        for (number, (type_, texts)) in TYPES.iter().enumerate() {
            let name = format!("typed{number}");
            let product = product(&kck, &name);
            let keys: Vec<Key> = texts.iter().map(|text| Key::new(&name, [*text, "1"])).collect();
            // One more, so that it are many.
            let all = [keys.clone(), vec![keys[0].clone()]].concat();
            let together = recipe.run(&product, &all, NOWHERE).await.unwrap();
            for (key, value) in keys.iter().zip(&together.values) {
                let alone = recipe.run(&product, std::slice::from_ref(key), NOWHERE).await.unwrap();
                assert_eq!(&alone.values[0], value, "{type_}: {key}");
                assert!(alone.snapshot.is_some() && alone.insert >= together.insert);
            }
        }
        kck.stop().await;
    });
}

/// Goal: a statement is planned as often as it runs at most, parsed once, and has no round trips beside it. Method: the
/// source's own lists, on the connection itself and of the whole database.
#[test]
fn a_statement_is_prepared_once_and_runs_alone() {
    run(async {
        let database = Database::new("prepared_once").await;
        let project = Project::sums(&database).await;
        let kck = project.start().await;
        database.run("create extension if not exists pg_stat_statements").await;
        let product = product(&kck, "sum_of");
        let recipe = Sql { pool: pool(&database) };
        let keys: Vec<Key> = (0..3).map(|n| Key::new("sum_of", [n.to_string().as_str()])).collect();
        let blocks = "select coalesce(sum(calls), 0)::bigint from pg_stat_statements
            where dbid = (select oid from pg_database where datname = current_database())
            and (query ilike 'begin%' or query ilike 'start%' or query ilike 'commit%')";
        let before = database.one(blocks).await;
        for _ in 0..10 {
            recipe.run(&product, &keys, NOWHERE).await.unwrap();
            recipe.run(&product, &keys[..1], NOWHERE).await.unwrap();
        }
        let mut listed = Vec::new();
        let sql = "select array[statement, (generic_plans + custom_plans)::text]
            from pg_prepared_statements where statement like '%kck\\_keys%' order by prepare_time";
        recipe.pool.texts(sql, |row| listed.push(row)).await.unwrap();
        let used: Vec<&str> = listed.iter().map(|row| row[1].as_deref().unwrap()).collect();
        assert_eq!(used, ["10", "10"], "{listed:?}");
        assert_eq!(database.one(blocks).await, before, "no block is opened for a statement");
        kck.stop().await;
    });
}

/// Goal: keys go one by one where that is cheaper, and it shows. Method: an index of the few open jobs, which Postgres can
/// use only where it sees that open ones are asked for; else it reads all of them.
#[test]
fn keys_go_one_by_one_where_batches_lose() {
    run(async {
        let database = Database::new("singles_win").await;
        database
            .run(
                "create table jobs (id bigint primary key, owner bigint not null, state text not null);
                 insert into jobs select n, n % 5000, case when n % 50 = 0 then 'open' else 'done' end
                     from generate_series(1, 100000) n;
                 create index on jobs (owner) where state = 'open';
                 alter table jobs replica identity full;
                 analyze jobs",
            )
            .await;
        let project = Project::new(&database, Store::Memory).await;
        project.product(
            "jobs_of",
            "/* kck\nresult = \"value\"\n*/\nselect count(*) from jobs where owner = :owner and state = :state",
        );
        let kck = project.start().await;
        let asked = async {
            let mut next = 0;
            loop {
                let owners = next..next + 20;
                let keys: Vec<String> =
                    owners.clone().map(|owner| format!("jobs_of/{owner}/open")).collect();
                let list = json!({ "keys": keys }).to_string();
                let route = ("POST", "/fetch");
                let reply = send(&kck.address, route, "application/json", list).await;
                for (owner, result) in owners.zip(reply.json()["results"].as_array().unwrap()) {
                    let open = if owner % 50 == 0 { 20 } else { 0 };
                    assert_eq!(result["value"], json!(open), "{result}");
                }
                next += 20;
                let shown = shown(&kck, "jobs_of").await;
                // A trial of batches may be on just now.
                if shown["form"] == "singles" && shown["keys"] == 1 {
                    return;
                }
            }
        };
        tokio::time::timeout(TIMEOUT, asked).await.expect("singles are found to win");
        let metrics = String::from_utf8(kck.get("/metrics").await.body.to_vec()).unwrap();
        let gauge = "kck_statement_keys{product=\"jobs_of\"} 1\n";
        assert!(metrics.contains(gauge), "{metrics}");
        kck.stop().await;
    });
}

/// Goal: nobody notices that the connection was lost on which a thousand wait, and the source is asked once more.
#[test]
fn readers_of_a_lost_connection_are_answered_by_another() {
    const READERS: usize = 1000;
    run(async {
        let database = Database::new("terminated").await;
        database
            .run(
                "create table gate (id bigint primary key, n bigint not null);
                 insert into gate values (1, 5);
                 create function held(id bigint) returns bigint language plpgsql stable as $$ begin
                     perform pg_advisory_lock_shared(77);
                     perform pg_advisory_unlock_shared(77);
                     return (select n from gate g where g.id = held.id);
                 end $$",
            )
            .await;
        let project = Project::new(&database, Store::Memory).await;
        project
            .product("gated", "/* kck\nresult = \"value\"\nexpire = \"1h\"\n*/\nselect held(:id)");
        let kck = project.start().await;
        database.run("select pg_advisory_lock(77)").await;
        let recompute = &kck.app.context.recompute;
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        let key = Key::new("gated", ["1"]);
        let want = kck::recompute::queue::Want::Any;
        let readers = join_all((0..READERS).map(|_| recompute.compute(&key, want, deadline)));
        let ending = async {
            while recompute.counts().waiters < READERS {
                tokio::task::yield_now().await;
            }
            loop {
                let ended = database
                    .one(
                        "select count(pg_terminate_backend(pid)) from pg_stat_activity
                            where datname = current_database() and application_name = 'kck/work'
                            and wait_event_type = 'Lock'",
                    )
                    .await;
                if ended > 0 {
                    break;
                }
            }
            database.run("select pg_advisory_unlock(77)").await;
        };
        let (answers, ()) = tokio::join!(readers, ending);
        for answer in answers {
            assert_eq!(&*answer.unwrap().body, b"5");
        }
        assert_eq!(kck.counted(Counter::Batches), 1, "one that ended, and one that answered");
        assert_eq!(kck.counted(Counter::ComputeFailures), 0);
        kck.stop().await;
    });
}
