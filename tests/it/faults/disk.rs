//! A disk is full: the source's, where it writes its log, and kck's own, where it keeps entries.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use kck::{
    local::PostgresSettings,
    observe::Event,
    store::faulty::{Faulty, Method},
};

use super::{Watch, Writer, all_counters, counters, counters_equal, reach, until};
use crate::support::{
    Folder,
    kck::{Kck, Store},
    run,
    servers::{Database, own_postgres_like},
};

/// A small disk of a test's own, in memory.
struct Disk {
    path: PathBuf,
}

impl Disk {
    /// `None` where nobody may mount.
    fn mount(path: &Path, megabytes: u32) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let options = format!("size={megabytes}m,mode=0777");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(path).output();
        let mounted = mounted.is_ok_and(|output| output.status.success());
        mounted.then(|| Self { path: path.to_owned() })
    }

    /// Leaves no byte free.
    fn fill(&self) {
        use std::io::Write as _;
        let mut ballast = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path.join("ballast"))
            .unwrap();
        let piece = vec![0; 4096];
        while ballast.write_all(&piece).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.path.join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // At once for whoever looks, and for good when the last file is closed.
        drop(Command::new("umount").arg("-l").arg(&self.path).status());
    }
}

/// Goal: a source whose disk is full is a source that is away, and what it had committed is answered when it is back.
/// Method: its log lies on a small disk that is filled up until the server gives up; then there is room again.
#[test]
fn c11_a_source_whose_disk_is_full_is_followed_again() {
    run(async {
        // Not the folder of the project, whose store needs room of its own.
        let folder = Folder::new("c11-disk");
        let data = Folder::new("c11-server");
        let disk = Disk::mount(&folder.0, 96);
        let wal = folder.0.join("wal");
        let initdb = if disk.is_some() {
            vec!["--wal-segsize=1".to_owned(), format!("--waldir={}", wal.display())]
        } else {
            eprintln!(
                "C11: nobody may mount here: the server is aborted instead of running out of room"
            );
            Vec::new()
        };
        let mut server = own_postgres_like(
            &[("min_wal_size", "2MB"), ("max_wal_size", "8MB")],
            PostgresSettings {
                initdb,
                directory: Some(data.0.clone()),
                ..PostgresSettings::default()
            },
        )
        .await;
        let database = Database::on(&server, "c11").await;
        let project = counters(&database, Store::Embedded).await;
        let kck = project.start().await;
        counters_equal(&kck.address, &database.client).await;
        let (watch, writer) = (Watch::over(&kck, &database.url), Writer::start(&database.url));
        writer.writes(20).await;
        let mut events = kck.observer.subscribe();
        if let Some(disk) = &disk {
            disk.fill();
            // New log needs new files: none can be made, and the server stops everything.
            let filling = "select pg_logical_emit_message(false, 'noise', repeat('x', 300000)) from generate_series(1, 300)";
            let said = database.client.batch_execute(filling).await;
            eprintln!("C11: the server said: {said:?}");
        } else {
            server.abort().await.unwrap();
        }
        Kck::event(&mut events, |event| matches!(event, Event::StreamLost { .. })).await;
        // What was computed last is not firm, and is deleted at once; the others stay.
        let mut replies = Vec::new();
        for (key, _) in all_counters() {
            replies.push(kck.get(&format!("/fetch/{key}")).await);
        }
        let served = replies.iter().any(|reply| reply.status == 200);
        assert!(served, "what is kept is served: {replies:?}");
        if let Some(disk) = &disk {
            disk.free();
        }
        server.restart().await.unwrap();
        writer.writes(20).await;
        let written = writer.end().await;
        counters_equal(&kck.address, &reach(&database.url).await).await;
        eprintln!(
            "C11: filled the disk of the source's log; {written} commits, {:?}",
            watch.end().await
        );
        kck.stop().await;
        drop(server);
    });
}

/// Goal: what kck cannot write it does not acknowledge, and it stays up and says so. Method: the disk of its store is filled
/// up under writers; readers are answered; then there is room again, and kck is started anew.
#[test]
fn c12_a_kck_whose_disk_is_full_serves_on_and_acknowledges_nothing() {
    run(async {
        let database = Database::new("c12").await;
        let project = counters(&database, Store::Embedded).await;
        let disk = Disk::mount(&project.folder.0.join("kck-data"), 192);
        let faulty = disk.is_none().then(|| {
            eprintln!(
                "C12: nobody may mount here: a store that fails stands for a disk that is full"
            );
            Arc::new(Faulty::new(Arc::new(kck::store::memory::Memory::default())))
        });
        let store = faulty.clone().map(|store| store as Arc<dyn kck::store::Store>);
        let kck = project.start_over(store).await;
        kck.joined().await;
        counters_equal(&kck.address, &database.client).await;
        let mut events = kck.observer.subscribe();
        match (&disk, &faulty) {
            (Some(disk), _) => disk.fill(),
            (None, Some(store)) => (0..20).for_each(|_| store.fail_before(Method::Mark)),
            (None, None) => unreachable!(),
        }
        let writer = Writer::start(&database.url);
        let down = |event: &Event| matches!(event, Event::Part { part: "store", trouble: Some(_) });
        let event = Kck::event(&mut events, down).await;
        let slot = "from pg_replication_slots where slot_name = 'c12'";
        let at = format!("select (confirmed_flush_lsn - '0/0')::bigint {slot}");
        database.run("select pg_sleep(0.5)").await;
        let before = database.one(&at).await;
        database.run("select pg_sleep(1.5)").await;
        if disk.is_some() {
            assert_eq!(database.one(&at).await, before, "the acknowledgement stands still");
        }
        let reply = kck.get("/fetch/counter/1").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let ready = kck.get("/readyz").await.json()["reasons"].to_string();
        assert!(ready.contains("KCK501"), "{ready}");
        let mut kck = kck;
        if let Some(disk) = &disk {
            disk.free();
            // The embedded store takes nothing more after a write that the disk refused, and says so.
            kck.stop().await;
            kck = project.start().await;
        }
        let written = writer.end().await;
        let end = database.commit("select 1").await;
        until(&database.client, &format!("select confirmed_flush_lsn >= '{end}' {slot}")).await;
        let watch = Watch::over(&kck, &database.url);
        counters_equal(&kck.address, &database.client).await;
        eprintln!(
            "C12: filled the disk of the store; saw {event:?}; {written} commits, {:?}",
            watch.end().await
        );
        kck.stop().await;
    });
}
