//! What time and warm queries make kck compute, without anybody reading.

use std::time::Duration;

use kck::{
    change::SourceTime,
    config::StoreKind,
    key::Key,
    observe::{Counter, Event},
    store::{
        Store as _,
        embedded::Embedded,
        state::{self, State},
    },
};
use serde_json::{Value, json};

use crate::support::{
    kck::{Kck, Project, Store},
    process::{output as command, stdout},
    run,
    servers::Database,
};

const CLOCK: &str = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
const SUM: &str = "select sum(n)::bigint from items where owner = :owner";

/// So many owners with an item each, the even ones active.
async fn owners(name: &str, owners: u32) -> Database {
    let database = Database::new(name).await;
    database
        .run(&format!(
            "create table owners (id bigint primary key, active boolean not null);
             insert into owners select n, n % 2 = 0 from generate_series(1, {owners}) n;
             create table items (id bigint primary key, owner bigint not null, n bigint not null);
             alter table items replica identity full;
             insert into items select n, n, n from generate_series(1, {owners}) n"
        ))
        .await;
    database
}

fn with(header: &str, sql: &str) -> String {
    format!("/* kck\nresult = \"value\"\n{header}\n*/\n{sql}")
}

/// Waits until `is` holds: looked at again at every event.
async fn until(kck: &Kck, is: impl Fn(&Kck) -> bool) {
    let mut events = kck.observer.subscribe();
    let wait = async {
        while !is(kck) {
            events.recv().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it comes to pass");
}

fn fresh(kck: &Kck, key: &Key) -> bool {
    kck.app.context.recompute.look(key).is_some_and(|(standing, _)| standing.fresh)
}

fn refreshed<'a>(key: &'a Key) -> impl Fn(&Event) -> bool + 'a {
    move |event| matches!(event, Event::Refreshed { key: which, .. } if which == key)
}

async fn product(kck: &Kck, name: &str) -> Value {
    let products = kck.get("/products").await.json()["products"].clone();
    let all = products.as_array().unwrap();
    all.iter().find(|product| product["name"] == name).cloned().unwrap()
}

#[test]
fn a_product_of_time_is_computed_again_without_reads() {
    run(async {
        let database = owners("every_second", 3).await;
        let project = Project::new(&database, Store::Memory).await;
        project
            .product("clock", &with("refresh = [\"every 1s\"]", CLOCK))
            .product("seconds", &with("refresh = [\"cron * * * * * *\"]", CLOCK))
            .product("matched", &with("refresh = [\"change\", \"every 1s\"]", CLOCK));
        let kck = project.start().await;
        for name in ["clock", "seconds", "matched"] {
            let key = Key::new(name, []);
            let first = kck.get(&format!("/fetch/{name}")).await.value().as_i64().unwrap();
            let mut events = kck.observer.subscribe();
            for _ in 0..3 {
                Kck::event(&mut events, refreshed(&key)).await;
            }
            let reply = kck.get(&format!("/fetch/{name}")).await;
            assert!(reply.value().as_i64().unwrap() > first + 1_000_000, "{name} goes on");
            assert_eq!(reply.json()["stale"], json!(false), "{name}");
        }
        let shown = product(&kck, "clock").await;
        assert_eq!(shown["refresh"], json!(["every 1s"]));
        let ticks = &shown["schedule"];
        assert!(ticks["last_tick"].as_str().unwrap() < ticks["next_tick"].as_str().unwrap());
        assert!(kck.counted(Counter::Ticks) >= 9);
        let explained = kck.get("/explain/clock").await.json();
        assert_eq!(
            (&explained["matched"], &explained["refresh"]),
            (&json!(false), &json!(["every 1s"]))
        );
        let explained = kck.get("/explain/matched").await.json();
        assert_eq!(explained["refresh"], json!(["change", "every 1s"]));
        kck.stop().await;
    });
}

/// Goal: what follows no changes is stale when its schedule is overdue, and no sooner. Method: its statement fails from
/// some time on; then it works again.
#[test]
fn what_a_schedule_did_not_reach_is_stale() {
    run(async {
        let database = owners("overdue", 3).await;
        database
            .run(
                "create table switch (broken boolean); insert into switch values (false);
                 create function tell() returns bigint language plpgsql stable as $$ begin
                     if (select broken from switch) then raise 'broken'; end if;
                     return 1;
                 end $$",
            )
            .await;
        let project = Project::new(&database, Store::Memory).await;
        project.product("told", &with("refresh = [\"every 1s\"]", "select tell()"));
        let kck = project.start().await;
        let key = Key::new("told", []);
        assert_eq!(kck.get("/fetch/told").await.value(), json!(1));
        let mut events = kck.observer.subscribe();
        Kck::event(&mut events, refreshed(&key)).await;
        assert!(fresh(&kck, &key));
        database.run("update switch set broken = true").await;
        until(&kck, |kck| !fresh(kck, &key)).await;
        let reply = kck.get("/fetch/told").await;
        assert_eq!((reply.json()["stale"].clone(), reply.value()), (json!(true), json!(1)));
        database.run("update switch set broken = false").await;
        until(&kck, |kck| fresh(kck, &key)).await;
        kck.stop().await;
    });
}

#[test]
fn a_warm_domain_is_primed_before_any_read() {
    run(async {
        let database = owners("primed", 400).await;
        let project = Project::new(&database, Store::Embedded).await;
        let warm = "warm = \"select id from owners where active\"";
        project.product("sum_of", &with(&format!("refresh = [\"change\", \"boot\"]\n{warm}"), SUM));
        let kck = project.start().await;
        let keys: Vec<Key> =
            (1..=200).map(|n: u32| Key::new("sum_of", [(2 * n).to_string().as_str()])).collect();
        until(&kck, |kck| keys.iter().all(|key| fresh(kck, key))).await;
        let counts = kck.app.context.recompute.counts();
        assert_eq!((counts.warm, counts.tracked), (200, 200));
        // One that nobody reads is computed again when it changes.
        let mut events = kck.observer.subscribe();
        let lsn = database.commit("update items set n = 1000 where owner = 8").await;
        Kck::event(&mut events, refreshed(&Key::new("sum_of", ["8"]))).await;
        assert_eq!(kck.counted(Counter::Hits) + kck.counted(Counter::Misses), 0, "nobody read");
        let reply = kck.at_least("sum_of/8", &lsn).await;
        assert_eq!((reply.value(), reply.header("kck-stale")), (json!(1000), "false"));
        assert!(
            kck.get("/metrics").await.body.windows(17).any(|text| text == b"kck_warm_keys 200")
        );
        assert_eq!(
            product(&kck, "sum_of").await["warm"],
            json!("select id from owners where active")
        );
        // It is the same after a restart, and who has left the domain is not warm any more.
        kck.stop().await;
        database.run("update owners set active = false where id = 8").await;
        let kck = project.start().await;
        until(&kck, |kck| kck.app.context.recompute.counts().warm == 199).await;
        assert!(!kck.app.context.recompute.ledger().is_warm(&Key::new("sum_of", ["8"])));
        until(&kck, |kck| keys.iter().all(|key| fresh(kck, key))).await;
        kck.kept("sum_of/400", &json!(400)).await;
        kck.stop().await;
    });
}

#[test]
fn keys_that_leave_the_domain_are_as_any_other() {
    run(async {
        let database = owners("leaving", 10).await;
        let project = Project::new(&database, Store::Memory).await;
        let warm = "warm = \"select id::int from owners where active\"";
        project
            .product("sum_of", &with(&format!("refresh = [\"change\", \"every 1s\"]\n{warm}"), SUM))
            .product(
                "count_of",
                &with(
                    "refresh = [\"change\", \"every 1s\"]\nwarm = \"keys of sum_of\"",
                    "select count(*) from items where owner = :owner",
                ),
            );
        let kck = project.start().await;
        let warm = |kck: &Kck, key: &Key| kck.app.context.recompute.ledger().is_warm(key);
        let (four, of_other) = (Key::new("sum_of", ["4"]), Key::new("count_of", ["4"]));
        until(&kck, |kck| warm(kck, &four) && warm(kck, &of_other) && fresh(kck, &of_other)).await;
        database.run("update owners set active = not active").await;
        let three = Key::new("sum_of", ["3"]);
        until(&kck, |kck| !warm(kck, &four) && warm(kck, &three) && fresh(kck, &three)).await;
        assert!(kck.app.context.recompute.ledger().is_tracked(&four));
        kck.stop().await;
    });
}

/// Goal: a tick that was missed comes once, and none comes again. Method: the store says when the product last ticked.
#[test]
fn a_restart_neither_repeats_nor_forgets_a_tick() {
    run(async {
        let database = owners("ticks", 3).await;
        let project = Project::new(&database, Store::Embedded).await;
        project.product(
            "yearly",
            &with("refresh = [\"cron 0 0 1 1 * Europe/Oslo\", \"boot\"]\nwarm = \"select\"", CLOCK),
        );
        let StoreKind::Embedded(path) = project.config().store else {
            panic!("the store is embedded")
        };
        let store = || Embedded::open(&path).unwrap();
        // 2020-01-01T00:00:00Z.
        let long_ago = SourceTime(1_577_836_800_000_000);
        store().save(&[state::tick("yearly", Some(long_ago), 1)]).await.unwrap();
        let kck = project.start().await;
        until(&kck, |kck| kck.counted(Counter::Ticks) > 0).await;
        until(&kck, |kck| fresh(kck, &Key::new("yearly", []))).await;
        assert_eq!(kck.counted(Counter::Ticks), 1);
        let last = product(&kck, "yearly").await["schedule"]["last_tick"].clone();
        assert!(last.as_str().unwrap().ends_with("-12-31T23:00:00.000000Z"), "{last}");
        kck.stop().await;
        let ticks = State::decode(&store().load().await.unwrap()).unwrap().ticks;
        assert_eq!(json!(ticks["yearly"].to_string()), last);
        let kck = project.start().await;
        until(&kck, |kck| kck.app.context.recompute.ticks("yearly").is_some()).await;
        until(&kck, |kck| fresh(kck, &Key::new("yearly", []))).await;
        assert_eq!(kck.counted(Counter::Ticks), 0, "it ran before the restart");
        assert_eq!(product(&kck, "yearly").await["schedule"]["last_tick"], last);
        kck.stop().await;
    });
}

#[test]
fn readers_of_a_hot_key_do_not_meet_its_expiry() {
    run(async {
        let database = owners("expiring", 3).await;
        let project = Project::new(&database, Store::Memory).await;
        project.product("sum_of", &with("expire = \"2s\"", SUM));
        let kck = project.start().await;
        // Before kck knows the time, whatever expires is computed.
        kck.kept("sum_of/1", &json!(1)).await;
        let before = kck.counted(Counter::Computed);
        for _ in 0..3 {
            let mut events = kck.observer.subscribe();
            Kck::event(&mut events, refreshed(&Key::new("sum_of", ["1"]))).await;
            kck.kept("sum_of/1", &json!(1)).await;
        }
        let early = kck.counted(Counter::EarlyRefreshes);
        assert!(early >= 3);
        let computed = kck.counted(Counter::Computed) - before;
        assert_eq!(computed, early, "no reader had to compute it");
        kck.stop().await;
    });
}

#[test]
fn what_is_wrong_with_a_schedule_is_told_where() {
    run(async {
        let database = owners("wrong_schedules", 3).await;
        let project = Project::new(&database, Store::Memory).await;
        project.product("pairs", "select id from items where owner = :owner and n = :n");
        for (name, header, line, says) in [
            ("malformed", "refresh = [\"cron 0 6 * *\"]", ":3:12:", "it has 4 fields"),
            (
                "bounds",
                "refresh = [\"change\", \"cron 99 6 * * *\"]",
                ":3:22:",
                "cron takes minute",
            ),
            (
                "zone",
                "refresh = [\"cron 0 6 * * * Europe/Olso\"]",
                ":3:12:",
                "no time zone 'Europe/Olso'",
            ),
            ("never", "refresh = [\"cron 0 0 31 4 *\"]", ":3:12:", "it never comes"),
            ("short", "refresh = [\"every 10ms\"]", ":3:12:", "under one second"),
            (
                "columns",
                "warm = \"select id, active from owners\"",
                ":3:9:",
                "select one column a parameter, in this order: owner bigint",
            ),
            (
                "types",
                "warm = \"select 'x'::text as id\"",
                ":3:9:",
                "cast it in the query: id::bigint",
            ),
            ("nowhere", "warm = \"select id from nowhere\"", ":3:24:", "nowhere"),
            ("holes", "warm = \"select :owner\"", ":3:16:", "it has a parameter, 'owner'"),
            ("stranger", "warm = \"keys of nobody\"", ":3:8:", "there is no product 'nobody'"),
            ("itself", "warm = \"keys of itself\"", ":3:8:", "names the product itself"),
        ] {
            project.product(name, &with(header, SUM));
            let checked = command(&project, &["check"]).await;
            assert_eq!(checked.status.code(), Some(1), "{name}");
            let said = stdout(&checked);
            let at = format!("products/{name}.sql{line}");
            assert!(
                said.contains(&at) && said.contains(says) && said.contains("hint: "),
                "{name} wants {at} and {says}:\n{said}"
            );
            std::fs::remove_file(project.folder.0.join(format!("products/{name}.sql"))).unwrap();
        }
        project.product("twin", &with("warm = \"keys of pairs\"", SUM));
        project.product("odd", &with("warm = \"keys of twin\"", "select :other::int"));
        let said = stdout(&command(&project, &["check"]).await);
        assert!(said.contains("twin: ready"), "{said}");
        assert!(said.contains("product 'twin' has no parameter 'other'"), "{said}");
    });
}
