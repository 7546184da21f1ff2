//! Who kck is at the source, and how much room the source has for it.

use kck::{local::PostgresSettings, observe::Event};
use serde_json::json;
use tokio::time::timeout;
use tokio_postgres::NoTls;

use super::{PATIENCE, Watch, Writer, counters, counters_equal, reads};
use crate::support::{
    kck::{Kck, Project, Store},
    run,
    servers::{Database, own_postgres, own_postgres_like},
};

const GRANTS: &str = "
    create role kck_reader login replication password 'first';
    grant select on all tables in schema public to kck_reader;
";

/// A kck that is not a superuser, whose publication somebody else made.
async fn limited(database: &Database) -> Project {
    let mut project = counters(database, Store::Embedded).await;
    database
        .run("create table secrets (id bigint primary key, n bigint not null); insert into secrets values (1, 1), (2, 2), (3, 3)")
        .await;
    database.run(GRANTS).await;
    database.run("create publication c29 for table counters, secrets with (publish_via_partition_root = true)").await;
    project
        .product("secret", "/* kck\nresult = \"value\"\n*/\nselect n from secrets where id = :id");
    let (_, place) = database.url.split_once('@').unwrap();
    let url = format!("postgres://kck_reader:first@{place}");
    project.settings = project.settings.replace(&database.url, &url);
    project
}

/// Ends every connection of kck's role; none is left, or on its way in, when this returns.
async fn disconnect(database: &Database) {
    let left = "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'kck_reader' or application_name like 'kck/%' or (usename is null and backend_type = 'client backend')";
    let none = async { while database.one(left).await > 0 {} };
    timeout(PATIENCE, none).await.expect("all are gone");
}

async fn is_fresh(kck: &Kck, key: &str, want: i64) {
    reads(&kck.address, &format!("/fetch/{key}"), |reply| {
        reply.status == 200 && reply.header("kck-stale") == "false" && reply.value() == json!(want)
    })
    .await;
}

/// kck is not let in any more: it serves what it keeps, says why, and a start is refused; with what that says.
async fn nobody_is_let_in(
    kck: &Kck,
    project: &Project,
    database: &Database,
    (what, goes): (&str, &str),
) -> String {
    let mut events = kck.observer.subscribe();
    database.run(goes).await;
    disconnect(database).await;
    Kck::event(&mut events, |event| matches!(event, Event::StreamLost { .. })).await;
    database.run("update secrets set n = n + 1 where id = 2").await;
    let reply = kck.get("/fetch/secret/2").await;
    assert_eq!(reply.status, 200, "what is kept is served: {reply:?}");
    let asked = async {
        for id in 3.. {
            let reply = kck.get(&format!("/fetch/secret/{id}")).await;
            if reply.status != 200 {
                return reply;
            }
            // A connection was let in before, and shows only now.
            disconnect(database).await;
        }
        unreachable!()
    };
    let reply = timeout(PATIENCE, asked).await.expect("nobody is let in");
    assert_eq!(
        (reply.status, &reply.json()["error"]["name"]),
        (503, &json!("source_unavailable")),
        "{what}: it is the source that lets nobody in, not the product"
    );
    let reasons = |reply: &crate::support::client::Reply| {
        let reasons = reply.json()["reasons"].to_string();
        reasons.contains("stream")
            && (reasons.contains("28P01")
                || reasons.contains("28000")
                || reasons.contains("password")
                || reasons.contains("role"))
    };
    reads(&kck.address, "/readyz", reasons).await;
    let refused = kck::app::App::start(project.config(), &[], kck::observe::Observer::default());
    let refused = Box::pin(refused).await.err().expect("a start is refused");
    assert!(!refused.hint.is_empty() && !refused.to_string().contains("first"), "{refused}");
    refused.what
}

/// Goal: a right that goes takes away what it gave and nothing else, and all heals when it is back. Method: SELECT on one
/// table is revoked, the password is changed, the role is dropped, each while kck runs.
#[test]
fn c29_rights_that_go_stop_what_they_gave_and_nothing_else() {
    run(async {
        let password = Some("admin".to_owned());
        let server =
            own_postgres_like(&[], PostgresSettings { password, ..PostgresSettings::default() })
                .await;
        let database = Database::on(&server, "c29").await;
        let project = limited(&database).await;
        let kck = project.start().await;
        counters_equal(&kck.address, &database.client).await;
        is_fresh(&kck, "secret/1", 1).await;
        is_fresh(&kck, "secret/2", 2).await;
        let (watch, writer) = (Watch::over(&kck, &database.url), Writer::start(&database.url));

        database.run("revoke select on secrets from kck_reader").await;
        let position = database.commit("update secrets set n = 10 where id = 1").await;
        let reply = kck.at_least("secret/1", &position).await;
        assert_eq!((reply.status, &reply.json()["error"]["name"]), (503, &json!("product_broken")));
        assert!(String::from_utf8_lossy(&reply.body).contains("42501"), "{reply:?}");
        let reply = kck.get("/fetch/secret/1").await;
        assert_eq!((reply.status, reply.header("kck-stale")), (200, "true"));
        // Marked since it may be, for the writer goes on, but never refused.
        let reply = kck.at_least("counter/1", &position).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        database.run("grant select on secrets to kck_reader").await;
        is_fresh(&kck, "secret/1", 10).await;
        eprintln!(
            "C29: SELECT revoked on one table: its product said 42501, the others went on; healed"
        );

        for (what, goes, comes) in [
            (
                "password changed",
                "alter role kck_reader password 'second'",
                "alter role kck_reader password 'first'",
            ),
            ("role dropped", "drop owned by kck_reader; drop role kck_reader", GRANTS),
        ] {
            let refused = nobody_is_let_in(&kck, &project, &database, (what, goes)).await;
            database.run(comes).await;
            let sum = database.one("select n from secrets where id = 2").await;
            is_fresh(&kck, "secret/2", sum).await;
            eprintln!("C29: {what}: kept answers were served, a start said '{refused}'; healed");
        }
        let written = writer.end().await;
        counters_equal(&kck.address, &database.client).await;
        eprintln!("C29: {written} commits, {:?}", watch.end().await);
        assert_eq!(kck.app.context.progress.borrow().epoch.0, 1);
        kck.stop().await;
    });
}

#[test]
fn c30_a_source_without_room_for_connections_is_waited_for() {
    run(async {
        let server = own_postgres(&[("max_connections", "20"), ("max_wal_senders", "4")]).await;
        let database = Database::on(&server, "c30").await;
        let project = counters(&database, Store::Embedded).await;
        let kck = project.start().await;
        counters_equal(&kck.address, &database.client).await;
        let mut events = kck.observer.subscribe();
        let mut crowd = Vec::new();
        let full = async {
            loop {
                database
                    .run("select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'kck/%' and backend_type <> 'walsender'")
                    .await;
                match tokio_postgres::connect(&database.url, NoTls).await {
                    Ok((client, connection)) => {
                        tokio::spawn(connection);
                        crowd.push(client);
                    }
                    Err(error) => {
                        let code = error.code().map(|code| code.code().to_owned());
                        assert_eq!(code.as_deref(), Some("53300"), "{error}");
                        let kcks = "select count(*) from pg_stat_activity where application_name like 'kck/%' and backend_type <> 'walsender'";
                        if database.one(kcks).await == 0 {
                            return;
                        }
                    }
                }
            }
        };
        tokio::time::timeout(super::PATIENCE, full).await.expect("every place is taken");
        let down =
            |event: &Event| matches!(event, Event::Part { part: "source", trouble: Some(_) });
        Kck::event(&mut events, down).await;
        let reply = kck.get("/fetch/counter/1").await;
        assert_eq!(reply.status, 200, "what is kept is served: {reply:?}");
        let reply = kck.get("/fetch/counter/100").await;
        assert_eq!(
            (reply.status, &reply.json()["error"]["name"]),
            (503, &json!("source_unavailable"))
        );
        let crowded = crowd.len();
        drop(crowd);
        database.run("update counters set n = 1").await;
        counters_equal(&kck.address, &database.client).await;
        eprintln!("C30: {crowded} connections took every place; kept answers were served; healed");
        kck.stop().await;
    });
}

#[test]
fn c30_a_source_without_room_for_slots_is_waited_for() {
    run(async {
        let server = own_postgres(&[("max_replication_slots", "2")]).await;
        let database = Database::on(&server, "c30_slots").await;
        let project = counters(&database, Store::Embedded).await;
        let kck = project.start().await;
        counters_equal(&kck.address, &database.client).await;
        database.run("select pg_create_physical_replication_slot('other_1')").await;
        let (watch, writer) = (Watch::over(&kck, &database.url), Writer::start(&database.url));
        let mut events = kck.observer.subscribe();
        // Dropped and taken in one breath.
        database
            .run(
                "do $$ begin
                    loop
                        perform pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 'c30_slots' and active;
                        begin
                            perform pg_drop_replication_slot('c30_slots');
                            perform pg_create_physical_replication_slot('other_2');
                            return;
                        exception when object_in_use then null;
                        end;
                    end loop;
                end $$",
            )
            .await;
        let full = |event: &Event| matches!(event, Event::Part { part: "stream", trouble: Some(trouble) } if trouble.contains("max_replication_slots"));
        let Event::Part { trouble, .. } = Kck::event(&mut events, full).await else {
            unreachable!()
        };
        writer.writes(20).await;
        let reply = kck.get("/fetch/counter/1").await;
        assert_eq!(reply.status, 200, "what is kept is served: {reply:?}");
        database.run("select pg_drop_replication_slot('other_1')").await;
        Kck::event(&mut events, |event| matches!(event, Event::EpochBegan { .. })).await;
        let written = writer.end().await;
        counters_equal(&kck.address, &database.client).await;
        eprintln!(
            "C30: no slot was free: '{}'; healed; {written} commits, {:?}",
            trouble.unwrap_or_default(),
            watch.end().await
        );
        kck.stop().await;
    });
}
