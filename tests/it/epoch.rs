//! The source's history breaks, or the source does: answers are stale until they are right again, and no disk fills.

use kck::observe::{Counter, Event, Point};
use serde_json::json;

use crate::support::{
    kck::{Kck, Project, Store},
    run,
    servers::{Database, connect, own_postgres},
};

const SCHEMA: &str = "
    create table items (id bigint primary key, owner bigint not null, n bigint not null);
    alter table items replica identity full;
    insert into items select n, n % 3, 0 from generate_series(1, 9) n;
    create table bulk (id bigint primary key, filler text);
";
const SUM: &str =
    "/* kck\nresult = \"value\"\n*/\nselect sum(n)::bigint from items where owner = :owner";

async fn prepare(database: &Database, store: Store) -> Project {
    database.run(SCHEMA).await;
    let project = Project::new(database, store).await;
    project.product("sum_of", SUM);
    project
}

fn epoch_of(kck: &Kck) -> u8 {
    kck.app.context.progress.borrow().epoch.0
}

/// The slot is taken away under kck: whatever was changed in between, every answer is right afterwards.
#[test]
fn a_lost_slot_begins_a_new_epoch() {
    run(async {
        let database = Database::new("lost_slot").await;
        let project = prepare(&database, Store::Embedded).await;
        let kck = project.start().await;
        assert_eq!(kck.get("/fetch/sum_of/1").await.value(), json!(0));
        let mut events = kck.observer.subscribe();
        database.lose_slot().await;
        database.run("update items set n = 1 where owner = 1").await;
        Kck::event(&mut events, |event| matches!(event, Event::EpochBegan { .. })).await;
        assert_eq!(epoch_of(&kck), 2);
        let stale = kck.get("/fetch/sum_of/1").await;
        assert!(stale.header("kck-stale") == "true" || stale.value() == json!(3), "{stale:?}");
        let position = database.commit("update items set n = 2 where owner = 2").await;
        for (owner, sum) in [(1, 3), (2, 6)] {
            let reply = kck.at_least(&format!("sum_of/{owner}"), &position).await;
            assert_eq!((reply.value(), reply.header("kck-stale")), (json!(sum), "false"));
        }
        // A position of the old epoch is refused, and says why.
        let reply = kck.get("/fetch/sum_of/1?min_lsn=1:0/0").await;
        assert_eq!(reply.status, 504);
        assert!(String::from_utf8_lossy(&reply.body).contains("epoch"));
        kck.stop().await;
    });
}

/// Goal: the source comes first. Method: kck is held before it can mark anything, so that it acknowledges
/// nothing; the source writes more than it may keep; the slot goes, and a new epoch makes up for it.
#[test]
fn over_the_limit_the_slot_is_given_up() {
    run(async {
        let server = own_postgres(&[]).await;
        let database = Database::on(&server, "wal_limit").await;
        let mut project = prepare(&database, Store::Embedded).await;
        project.settings = project.settings.replace("[http]", "wal_limit = \"4MB\"\n[http]");
        let kck = project.start().await;
        assert_eq!(kck.get("/fetch/sum_of/1").await.value(), json!(0));
        let mut events = kck.observer.subscribe();
        kck.observer.halt_at(Some(Point::Mark));
        database.run("update items set n = 1 where owner = 1").await;
        database
            .run("insert into bulk select n, repeat('x', 500) from generate_series(1, 20000) n")
            .await;
        Kck::event(&mut events, |event| matches!(event, Event::SlotDropped { .. })).await;
        kck.observer.halt_at(None);
        Kck::event(&mut events, |event| matches!(event, Event::EpochBegan { .. })).await;
        let position = database.commit("select 1").await;
        assert_eq!(kck.at_least("sum_of/1", &position).await.value(), json!(3));
        kck.stop().await;
    });
}

/// Goal: what a crash of the source takes back is not served as fresh. Method: the source is killed and comes
/// again; kck goes on by itself, with the right answers.
#[test]
fn a_source_that_crashes_is_followed_again() {
    run(async {
        let mut server = own_postgres(&[]).await;
        let database = Database::on(&server, "source_crash").await;
        let project = prepare(&database, Store::Embedded).await;
        let kck = project.start().await;
        assert_eq!(kck.get("/fetch/sum_of/1").await.value(), json!(0));
        let mut events = kck.observer.subscribe();
        server.kill9().await.unwrap();
        Kck::event(&mut events, |event| matches!(event, Event::StreamLost { .. })).await;
        let away = kck.get("/fetch/sum_of/1").await;
        assert_eq!(away.value(), json!(0), "what is kept is served while the source is away");
        assert_eq!(
            kck.get("/fetch/sum_of/2").await.json()["error"]["name"],
            json!("source_unavailable")
        );
        server.restart().await.unwrap();
        let again = connect(&database.url).await;
        let position =
            crate::support::servers::commit(&again, "update items set n = 4 where owner = 1").await;
        let reply = kck.at_least("sum_of/1", &position).await;
        assert_eq!((reply.value(), reply.header("kck-stale")), (json!(12), "false"));
        assert_eq!(epoch_of(&kck), 1, "a crash alone breaks no history");
        kck.stop().await;
    });
}

/// R14: what no stream says is noticed: a view's definition, a partition that comes ready filled.
#[test]
fn what_the_stream_does_not_say_is_noticed() {
    run(async {
        let database = Database::new("silent").await;
        database
            .run(
                "create table parts (id bigint, region bigint not null, primary key (id, region)) partition by list (region);
                 create table parts_1 partition of parts for values in (1);
                 create table parts_2 (id bigint, region bigint not null, primary key (id, region));
                 insert into parts_2 select n, 2 from generate_series(1, 5) n;
                 create view doubled as select count(*) * 2 as n from parts",
            )
            .await;
        let project = Project::new(&database, Store::Embedded).await;
        project
            .product("count", "/* kck\nresult = \"value\"\n*/\nselect count(*) from parts")
            .product("viewed", "/* kck\nresult = \"value\"\n*/\nselect n from doubled");
        let kck = project.start().await;
        assert_eq!(kck.get("/fetch/count").await.value(), json!(0));
        assert_eq!(kck.get("/fetch/viewed").await.value(), json!(0));
        let position =
            database.commit("alter table parts attach partition parts_2 for values in (2)").await;
        assert_eq!(kck.at_least("count", &position).await.value(), json!(5));
        let position = database
            .commit("create or replace view doubled as select count(*) * 3 as n from parts")
            .await;
        assert_eq!(kck.at_least("viewed", &position).await.value(), json!(15));
        kck.stop().await;
    });
}

/// What is read is computed again when it changes; what nobody reads any more is only marked.
#[test]
fn only_what_is_read_is_computed_again() {
    run(async {
        let database = Database::new("hot_and_cold").await;
        let project = prepare(&database, Store::Memory).await;
        let kck = project.start().await;
        kck.get("/fetch/sum_of/1").await.value();
        assert_eq!(kck.get("/fetch/sum_of/1").await.header("kck-source"), "hit");
        let mut events = kck.observer.subscribe();
        database.run("update items set n = 1 where owner = 1").await;
        Kck::event(&mut events, |event| matches!(event, Event::Refreshed { changed: true, .. }))
            .await;
        let computed = kck.counted(Counter::Computed);
        let position = database.commit("update items set n = 2 where owner = 1").await;
        assert_eq!(kck.at_least("sum_of/2", &position).await.value(), json!(0));
        assert_eq!(kck.counted(Counter::Computed), computed + 1, "sum_of/2 alone was computed");
        assert_eq!(kck.get("/fetch/sum_of/1").await.header("kck-stale"), "true");
        kck.stop().await;
    });
}
