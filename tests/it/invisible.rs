//! Commits that are in the stream and that nobody can see yet, because the source waits for a standby (R1, R3).

use kck::observe::Event;
use serde_json::json;

use crate::support::{
    kck::{Kck, Project},
    run,
    servers::{Database, commit, connect, own_postgres, wait_for_standby},
};

async fn shop(server: &kck::local::Postgres, name: &str) -> (Database, Project) {
    let database = Database::on(server, name).await;
    let project = Project::sums(&database).await;
    (database, project)
}

/// Goal: a commit that is delivered and invisible never lets an answer from before it be called fresh. Method: a
/// commit waits for a standby that does not exist; what is read meanwhile says that it is stale; when the wait
/// ends, it becomes fresh.
#[test]
fn an_invisible_commit_is_never_called_fresh() {
    run(async {
        let server = own_postgres(&[]).await;
        let (database, project) = shop(&server, "invisible").await;
        let kck = project.start().await;
        assert_eq!(kck.get("/fetch/sum_of/1").await.value(), json!(0));
        let writer = connect(&database.url).await;
        wait_for_standby(&database, "nobody").await;

        // The setting may reach a commit late: the first that waits is the one.
        let mut events = kck.observer.subscribe();
        let marked = Kck::event(&mut events, |event| matches!(event, Event::MarkedEarly { .. }));
        let (writing, mut written) = tokio::sync::mpsc::channel(1);
        let writer = tokio::spawn(async move {
            let mut n = 0;
            loop {
                n += 1;
                let update = format!("update items set n = {n} where owner = 1");
                let position = commit(&writer, &update).await;
                if writing.send(n).await.is_err() {
                    return (n, position);
                }
            }
        });
        let mut last = 0;
        tokio::pin!(marked);
        loop {
            tokio::select! {
                _ = &mut marked => break,
                Some(n) = written.recv() => last = n,
            }
        }
        for path in ["/fetch/sum_of/1", "/fetch/sum_of/1?fresh=true", "/fetch/sum_of/2"] {
            let reply = kck.get(path).await;
            let seen = if path.ends_with('2') { 0 } else { 3 * last };
            assert_eq!((reply.value(), reply.header("kck-stale")), (json!(seen), "true"), "{path}");
        }
        wait_for_standby(&database, "").await;
        drop(written);
        let (n, position) = writer.await.unwrap();
        assert!(n > last, "the commit that waited went through");
        let reply = kck.at_least("sum_of/1", &position).await;
        assert_eq!((reply.value(), reply.header("kck-stale")), (json!(3 * n), "false"));
        kck.stop().await;
    });
}

/// Goal: as the standby that commits wait for, kck acknowledges what it cannot see yet, and still calls nothing
/// fresh that is not. Method: every standby counts, so kck's own walsender does; commits go through.
#[test]
fn its_own_acknowledgement_holds_nothing_up() {
    run(async {
        let server = own_postgres(&[]).await;
        let (database, project) = shop(&server, "standby").await;
        let kck = project.start().await;
        assert_eq!(kck.get("/fetch/sum_of/1").await.value(), json!(0));
        let writer = connect(&database.url).await;
        wait_for_standby(&database, "*").await;

        for n in 1..=5 {
            let update = format!("update items set n = {n} where owner = 1");
            let commit = commit(&writer, &update);
            let position = tokio::time::timeout(std::time::Duration::from_secs(20), commit)
                .await
                .expect("no deadlock");
            let reply = kck.at_least("sum_of/1", &position).await;
            assert_eq!((reply.value(), reply.header("kck-stale")), (json!(3 * n), "false"));
        }
        kck.stop().await;

        // What was acknowledged early is known after a restart too.
        let kck = project.start().await;
        let position = database.commit("select 1").await;
        assert_eq!(kck.at_least("sum_of/1", &position).await.value(), json!(15));
        kck.stop().await;
    });
}
