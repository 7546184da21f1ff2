//! What a product reads is no longer followed, while kck runs: answers stay right, and writers are not harmed.

use kck::{change::Lsn, observe::Event};
use serde_json::json;

use crate::support::{
    kck::{Kck, Project, Store},
    run,
    servers::Database,
};

const SCHEMA: &str = "
    create table items (id bigint primary key, owner bigint not null, n bigint not null);
    create table others (id bigint primary key, n bigint not null);
    insert into items select n, n % 3, 0 from generate_series(1, 9) n;
    insert into others values (1, 0);
";

async fn shop(name: &str) -> (Database, Project) {
    let database = Database::new(name).await;
    database.run(SCHEMA).await;
    let project = Project::new(&database, Store::Embedded).await;
    project
        .product(
            "sum_of",
            "/* kck\nresult = \"value\"\n*/\nselect sum(n)::bigint from items where owner = :owner",
        )
        .product("others", "/* kck\nresult = \"value\"\n*/\nselect sum(n)::bigint from others");
    (database, project)
}

fn is_cached(kck: &Kck, product: &str) -> bool {
    kck.app.context.recompute.ledger().is_cached(product, Lsn(u64::MAX - 1))
}

/// The product is said to have changed; subscribe before what causes it.
async fn changed(events: &mut tokio::sync::broadcast::Receiver<Event>, name: &str) {
    Kck::event(
        events,
        |event| matches!(event, Event::DefinitionChanged { product } if product == name),
    )
    .await;
}

/// Updates are seen by whoever demands them, and kept: the product has joined again.
async fn is_followed_again(kck: &Kck, database: &Database) {
    for n in 101..=103 {
        let update = format!("update items set n = {n} where owner = 1");
        let position = database.commit(&update).await;
        assert_eq!(kck.at_least("sum_of/1", &position).await.value(), json!(3 * n));
        kck.kept("sum_of/1", &json!(3 * n)).await;
    }
}

/// The other product is followed as before.
async fn others_are_cached(kck: &Kck, database: &Database, n: i64) {
    assert!(is_cached(kck, "others"));
    let position = database.commit(&format!("update others set n = {n}")).await;
    assert_eq!(kck.at_least("others", &position).await.value(), json!(n));
    assert_eq!(kck.get("/fetch/others").await.header("kck-source"), "hit");
}

/// Goal: a table that leaves the publication by somebody else's hand leaves no old answer behind, and comes back.
/// Method: it is dropped from the publication, and written at once; a demanded answer is right before kck can have
/// known; then the product joins again.
#[test]
fn a_table_dropped_from_the_publication_is_published_again() {
    run(async {
        let (database, project) = shop("unpublished").await;
        let kck = project.start().await;
        assert_eq!(kck.get("/fetch/sum_of/1").await.value(), json!(0));
        assert_eq!(kck.get("/fetch/sum_of/1").await.header("kck-source"), "hit");
        let mut events = kck.observer.subscribe();
        database.run("alter publication unpublished drop table items").await;
        let position = database.commit("update items set n = 1 where owner = 1").await;
        assert_eq!(kck.at_least("sum_of/1", &position).await.value(), json!(3));
        changed(&mut events, "sum_of").await;
        is_followed_again(&kck, &database).await;
        others_are_cached(&kck, &database, 5).await;
        kck.stop().await;
    });
}

/// Goal: the source comes first: a published table without an identity refuses UPDATE and DELETE. Method: the
/// identity goes while kck runs; once kck has noticed, writers write again, and the last answer stands in until the
/// identity is back.
#[test]
fn a_table_that_loses_its_identity_leaves_the_publication() {
    run(async {
        let (database, project) = shop("no_identity").await;
        let kck = project.start().await;
        kck.kept("sum_of/1", &json!(0)).await;
        kck.kept("others", &json!(0)).await;
        let mut events = kck.observer.subscribe();
        database.run("alter table items replica identity nothing").await;
        changed(&mut events, "sum_of").await;
        let update = database.client.batch_execute("update items set n = 1 where owner = 1").await;
        assert!(update.is_ok(), "writers are harmed: {update:?}");
        let broken = |event: &Event| matches!(event, Event::ProductBroken { why, .. } if why.contains("replica identity"));
        Kck::event(&mut events, broken).await;
        let reply = kck.get("/fetch/sum_of/1").await;
        assert_eq!((reply.value(), reply.header("kck-stale")), (json!(0), "true"));
        let position = database.commit("update items set n = 2 where owner = 1").await;
        assert_eq!(kck.at_least("sum_of/1", &position).await.status, 503);
        let published = "select count(*) from pg_publication_tables
            where pubname = 'no_identity' and tablename = 'others'";
        assert_eq!(database.one(published).await, 1, "what others read stays published");
        others_are_cached(&kck, &database, 6).await;

        let position = database.commit("alter table items replica identity default").await;
        kck.kept("sum_of/1", &json!(6)).await;
        assert_eq!(kck.at_least("sum_of/1", &position).await.value(), json!(6));
        is_followed_again(&kck, &database).await;
        kck.stop().await;
    });
}

/// Goal: products whose view is not what was analysed are analysed anew, and a new epoch, in which products join again
/// as they are known, does not bring the old analysis back. Method: a view over two joined tables is replaced by one
/// over a third, which was not published; then the slot is lost.
#[test]
fn products_of_a_replaced_view_are_analysed_anew_also_for_a_new_epoch() {
    run(async {
        let (database, project) = shop("replaced").await;
        database
            .run(
                "create table factors (owner bigint primary key, factor bigint not null);
                 create table hidden (owner bigint primary key, n bigint not null);
                 insert into factors select n, 1 from generate_series(0, 2) n;
                 insert into hidden select n, 10 from generate_series(0, 2) n;
                 create view sums as select i.owner, sum(i.n * f.factor)::bigint as n
                    from items i join factors f on f.owner = i.owner group by i.owner",
            )
            .await;
        project
            .product(
                "one",
                "/* kck\nresult = \"value\"\n*/\nselect n from sums where owner = :owner",
            )
            .product("all", "/* kck\nresult = \"value\"\n*/\nselect sum(n)::bigint from sums");
        let kck = project.start().await;
        kck.kept("one/1", &json!(0)).await;
        kck.kept("all", &json!(0)).await;
        let mut events = kck.observer.subscribe();
        let replace = "create or replace view sums as select owner, n from hidden";
        let position = database.commit(replace).await;
        assert_eq!(kck.at_least("one/1", &position).await.value(), json!(10));
        assert_eq!(kck.at_least("all", &position).await.value(), json!(30));
        // Both in one look, in the order of their names.
        changed(&mut events, "all").await;
        changed(&mut events, "one").await;

        for (lost, n) in [(false, 11), (true, 12)] {
            if lost {
                database.lose_slot().await;
                Kck::event(&mut events, |event| matches!(event, Event::EpochBegan { .. })).await;
            }
            let position = database.commit(&format!("update hidden set n = {n}")).await;
            for (key, value) in [("one/1", n), ("all", 3 * n)] {
                assert_eq!(kck.at_least(key, &position).await.value(), json!(value));
                kck.kept(key, &json!(value)).await;
            }
            assert!(is_cached(&kck, "one") && is_cached(&kck, "all"));
        }
        kck.stop().await;
    });
}
