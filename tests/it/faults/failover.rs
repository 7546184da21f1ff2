//! Another server takes the source's place: a standby that is promoted, one that lost the last commits, a copy of the
//! past. Positions of one never count for the other.

use std::{process::Command, time::Duration};

use kck::{
    local::{Postgres, PostgresSettings},
    observe::Event,
};
use tokio::time::timeout;

use super::{PATIENCE, Watch, Writer, counters, counters_equal, reach, until};
use crate::support::{
    Folder,
    kck::{Kck, Project, Store},
    proxy::{Proxy, Way},
    run,
    servers::{Database, connect, own_postgres, own_postgres_like},
};

/// A source that can be replaced: kck goes through the proxy.
struct Scene {
    primary: Postgres,
    database: Database,
    proxy: Proxy,
    project: Project,
}

impl Scene {
    async fn new(name: &str) -> Self {
        let primary = own_postgres(&[]).await;
        let database = Database::on(&primary, name).await;
        let proxy = Proxy::to(primary.port()).await;
        let mut project = counters(&database, Store::Embedded).await;
        project.settings = project.settings.replace(&database.url, &proxy.through(&database.url));
        Self { primary, database, proxy, project }
    }

    /// A copy of the data, with an empty file of this name, while the server is stopped.
    async fn copy(&mut self, file: &str) -> Folder {
        self.primary.stop().await.unwrap();
        let folder = Folder::new(&format!("{}-{file}", self.database.name));
        let data = folder.0.join("data");
        let copied =
            Command::new("cp").arg("-a").arg(self.primary.data()).arg(&data).status().unwrap();
        assert!(copied.success());
        if !file.is_empty() {
            std::fs::write(data.join(file), "").unwrap();
        }
        self.primary.restart().await.unwrap();
        self.database.client = reach(&self.database.url).await;
        folder
    }

    /// A standby of the primary, by way of `through` where that is given.
    async fn standby(
        &mut self,
        through: Option<&Proxy>,
        extra: &[(&str, &str)],
    ) -> (Postgres, Folder) {
        let folder = self.copy("standby.signal").await;
        let url = self.primary.url("postgres");
        let url = through.map_or_else(|| url.clone(), |proxy| proxy.through(&url));
        let conninfo = format!("{url}?application_name=kck_standby");
        let mut all =
            vec![("primary_conninfo", conninfo.as_str()), ("wal_retrieve_retry_interval", "200ms")];
        all.extend(extra);
        (on(&folder, &all).await, folder)
    }

    /// From now on the source is this server.
    async fn replaced_by(&mut self, server: &Postgres) {
        self.proxy.leads_to(server.port());
        self.proxy.cut();
        self.database.url = server.url(&self.database.name);
        self.database.client = connect(&self.database.url).await;
    }
}

/// A server on a copy.
async fn on(folder: &Folder, extra: &[(&str, &str)]) -> Postgres {
    let directory = Some(folder.0.clone());
    own_postgres_like(extra, PostgresSettings { directory, ..PostgresSettings::default() }).await
}

fn why(event: &Event) -> String {
    let Event::EpochBegan { epoch, why } = event else { unreachable!() };
    format!("epoch {}: {why}", epoch.0)
}

fn began(event: &Event) -> bool {
    matches!(event, Event::EpochBegan { .. })
}

/// Everything of the primary is on the standby.
async fn caught_up(database: &Database) {
    let position = database.commit("select 1").await;
    until(
        &database.client,
        &format!("select bool_or(replay_lsn >= '{position}') from pg_stat_replication where application_name = 'kck_standby'"),
    )
    .await;
}

async fn promoted(server: &Postgres) {
    let client = connect(&server.url("postgres")).await;
    let promoted: bool = client.query_one("select pg_promote()", &[]).await.unwrap().get(0);
    assert!(promoted);
}

/// Goal: a standby that takes over has another timeline, and nothing goes on by its numbers. Method: a standby whose
/// data have no slot of kck's, then one whose data have; the primary is stopped in order.
async fn failed_over(name: &str, with_slot: bool) {
    let mut scene = Scene::new(name).await;
    if with_slot {
        scene.project.start().await.stop().await;
    }
    let (standby, _folder) = scene.standby(None, &[]).await;
    let kck = scene.project.start().await;
    counters_equal(&kck.address, &scene.database.client).await;
    let watch = Watch::over(&kck, &scene.database.url);
    let writer = Writer::start(&scene.database.url);
    writer.writes(50).await;
    let written = writer.end().await;
    caught_up(&scene.database).await;
    let mut events = kck.observer.subscribe();
    watch.forgets();
    scene.primary.stop().await.unwrap();
    promoted(&standby).await;
    let slots = connect(&standby.url("postgres")).await;
    let slots: i64 =
        slots.query_one("select count(*) from pg_replication_slots", &[]).await.unwrap().get(0);
    assert_eq!(slots, i64::from(with_slot));
    scene.replaced_by(&standby).await;
    watch.follows(&scene.database.url);
    let event = Kck::event(&mut events, began).await;
    let writer = Writer::start(&scene.database.url);
    writer.writes(50).await;
    let written = written + writer.end().await;
    counters_equal(&kck.address, &scene.database.client).await;
    eprintln!(
        "C16: promoted a standby with {slots} slots; saw {}; {written} commits, {:?}",
        why(&event),
        watch.end().await
    );
    kck.stop().await;
}

#[test]
fn c16_a_promoted_standby_begins_a_new_epoch() {
    run(async {
        failed_over("c16", false).await;
        failed_over("c16_slot", true).await;
    });
}

/// Goal: the past is not taken for the present. Method: the source is replaced by a copy of before some commits, once
/// as a recovery to a point in time makes it, on a timeline of its own, and once as it was, on the same.
#[test]
fn c16_a_copy_of_the_past_begins_a_new_epoch() {
    run(async {
        for (name, file) in [("c16_recovered", "recovery.signal"), ("c16_copied", "")] {
            let mut scene = Scene::new(name).await;
            // The copy has the slot.
            scene.project.start().await.stop().await;
            let folder = scene.copy(file).await;
            let kck = scene.project.start().await;
            counters_equal(&kck.address, &scene.database.client).await;
            let watch = Watch::over(&kck, &scene.database.url);
            let writer = Writer::start(&scene.database.url);
            writer.writes(100).await;
            writer.end().await;
            counters_equal(&kck.address, &scene.database.client).await;
            let mut events = kck.observer.subscribe();
            watch.forgets();
            scene.primary.stop().await.unwrap();
            let past = on(&folder, &[("restore_command", "false")]).await;
            let client = connect(&past.url("postgres")).await;
            until(&client, "select not pg_is_in_recovery()").await;
            scene.replaced_by(&past).await;
            let sum = scene.database.one("select sum(n)::bigint from counters").await;
            assert_eq!(sum, 0, "it is the past");
            watch.follows(&scene.database.url);
            let event = Kck::event(&mut events, began).await;
            counters_equal(&kck.address, &scene.database.client).await;
            scene.database.run("update counters set n = n + 1000").await;
            counters_equal(&kck.address, &scene.database.client).await;
            eprintln!(
                "C16: replaced the source by its past ('{file}'); saw {}; {:?}",
                why(&event),
                watch.end().await
            );
            kck.stop().await;
        }
    });
}

/// Goal: what the new primary never heard of is in no answer. Method: the standby's way to the primary swallows
/// everything while commits go on that kck answers with; then it is promoted.
#[test]
fn c17_commits_that_a_failover_loses_are_in_no_answer() {
    run(async {
        let mut scene = Scene::new("c17").await;
        let between = Proxy::to(scene.primary.port()).await;
        let (standby, _folder) = scene.standby(Some(&between), &[]).await;
        let kck = scene.project.start().await;
        counters_equal(&kck.address, &scene.database.client).await;
        let watch = Watch::over(&kck, &scene.database.url);
        caught_up(&scene.database).await;
        between.becomes(Way::Swallow);
        scene.database.run("update counters set n = n + 500").await;
        counters_equal(&kck.address, &scene.database.client).await;
        let phantom = kck.get("/fetch/counter/1").await;
        assert_eq!(phantom.value(), serde_json::json!(500));
        let mut events = kck.observer.subscribe();
        watch.forgets();
        scene.primary.kill9().await.unwrap();
        promoted(&standby).await;
        scene.replaced_by(&standby).await;
        // The new primary goes beyond where the old one was.
        scene
            .database
            .run("select pg_logical_emit_message(false, 'noise', repeat('x', 100000)) from generate_series(1, 50)")
            .await;
        scene.database.run("update counters set n = n + 1 where id = 1").await;
        watch.follows(&scene.database.url);
        let event = Kck::event(&mut events, began).await;
        let seen = timeout(PATIENCE, counters_equal(&kck.address, &scene.database.client));
        seen.await.expect("all are answered");
        assert_eq!(kck.get("/fetch/counter/2").await.value(), serde_json::json!(0));
        eprintln!(
            "C17: promoted a standby that lacks the last commit; saw {}; {:?}",
            why(&event),
            watch.end().await
        );
        kck.stop().await;
    });
}

/// Goal: a commit that waits for a slow standby is seen late and never called fresh before; absent ones are in
/// `invisible.rs`. Method: a standby that applies everything 300 ms late, and commits that wait until it has.
#[test]
fn c18_commits_that_wait_for_a_slow_standby_are_answered_when_they_are_seen() {
    run(async {
        let mut scene = Scene::new("c18").await;
        let (_standby, _folder) =
            scene.standby(None, &[("recovery_min_apply_delay", "300ms")]).await;
        caught_up(&scene.database).await;
        let kck = scene.project.start().await;
        counters_equal(&kck.address, &scene.database.client).await;
        scene.database.run("alter database c18 set synchronous_commit = 'remote_apply'").await;
        crate::support::servers::wait_for_standby(&scene.database, "kck_standby").await;
        let watch = Watch::over(&kck, &scene.database.url);
        let begun = std::time::Instant::now();
        let writer = Writer::start(&scene.database.url);
        writer.writes(10).await;
        let (took, written) = (begun.elapsed(), writer.end().await);
        assert!(took > Duration::from_secs(2), "ten commits took only {took:?}");
        counters_equal(&kck.address, &scene.database.client).await;
        eprintln!("C18: {written} commits, ten of them in {took:?}; {:?}", watch.end().await);
        crate::support::servers::wait_for_standby(&scene.database, "").await;
        kck.stop().await;
    });
}
