//! Whatever becomes of the connection, nothing is missed; and what cannot go on says why.

use std::{collections::BTreeMap, time::Duration};

use kck::{
    capture::{
        Error, Event, Stream as _,
        stream::{Replication, Settings},
    },
    change::Lsn,
    observe::{self, Observer},
    postgres::{
        publication::drop_publication,
        slot::{create_slot, drop_slot, slot},
    },
};
use tokio_util::sync::CancellationToken;

use super::{ONE_TABLE, Source, check, end, line, next, number, opened, transaction};
use crate::support::{
    kck::Kck,
    run,
    servers::{Database, connect, own_postgres},
};

#[test]
fn what_was_not_acknowledged_comes_again() {
    run(async {
        let source = Source::new("capture_again", ONE_TABLE, &["numbers"]).await;
        let mut stream = source.stream().await;
        let control = stream.control();
        let (_, first) = opened(&mut stream).await;
        source.run("insert into numbers values (1)").await;
        let (_, one) = transaction(&mut stream).await;
        source.run("insert into numbers values (2)").await;
        let (_, two) = transaction(&mut stream).await;
        control.acknowledge(one.end);
        source.terminate(first).await;
        let (at, second) = opened(&mut stream).await;
        assert_eq!(at, one.end);
        assert_ne!(first, second);
        assert_eq!(transaction(&mut stream).await.1, two);

        // Nobody can acknowledge what has not come.
        control.acknowledge(Lsn(u64::MAX));
        control.reopen();
        let (at, _) = opened(&mut stream).await;
        assert!(two.end <= at, "{at}");
        check(
            &source,
            &mut stream,
            &[("insert into numbers values (3)", &["insert numbers (3, null)"])],
        )
        .await;
    });
}

/// Goal: no commit is missed or out of order, however often the connection is cut under load.
/// Method: a writer commits all the time; some way into each connection its walsender is killed, with an
/// acknowledgement that lags behind; in the end what came is compared with what was written.
#[test]
fn a_walsender_killed_under_load_is_opened_again_and_nothing_is_missed() {
    const KILLS: usize = 4;
    const LAG: usize = 30;
    run(async {
        let source = Source::new("capture_killed", ONE_TABLE, &["numbers"]).await;
        let mut stream = source.stream().await;
        let control = stream.control();
        let enough = CancellationToken::new();
        let mut writer = tokio::spawn(write(source.database.url.clone(), enough.clone()));
        let (mut came, mut numbers, mut written) = (BTreeMap::new(), Vec::new(), None);
        let (mut pid, mut reached, mut acknowledged) = (0, Lsn(0), Lsn(0));
        let (mut openings, mut commits, mut again) = (0, 0, 0);
        while written.is_none_or(|written| came.len() < written) {
            match next(&mut stream).await {
                Event::Opened { at, pid: sender } => {
                    assert!(acknowledged <= at, "{at} is before {acknowledged}");
                    (pid, reached, commits) = (sender, at, 0);
                    numbers.clear();
                    openings += 1;
                    if openings > KILLS {
                        enough.cancel();
                        written = Some((&mut writer).await.unwrap());
                    }
                }
                Event::Change(change) => numbers.push(number(&change)),
                Event::Commit(transaction) => {
                    assert!(reached < transaction.end, "{reached} came before {transaction:?}");
                    reached = transaction.end;
                    let told = std::mem::take(&mut numbers);
                    let before = came.insert(transaction.end, told.clone());
                    again += usize::from(before.is_some());
                    assert!(before.is_none_or(|before| before == told), "{transaction:?}");
                    commits += 1;
                    if commits == 80 && openings <= KILLS {
                        acknowledged = *came.keys().rev().nth(LAG).unwrap();
                        control.acknowledge(acknowledged);
                        source.terminate(pid).await;
                    }
                }
                Event::Idle(at) => reached = reached.max(at),
            }
        }
        assert!(again >= KILLS * LAG, "{again} came again");
        let came: Vec<_> = came.into_values().flatten().collect();
        assert_eq!(came, (1..).take(came.len()).collect::<Vec<i64>>());
    });
}

/// Writes a row a commit, from 1 on, until it is enough; gives how many.
async fn write(url: String, enough: CancellationToken) -> usize {
    let client = connect(&url).await;
    let mut written: i64 = 0;
    while !enough.is_cancelled() {
        written += 1;
        client.execute("insert into numbers values ($1)", &[&written]).await.unwrap();
    }
    usize::try_from(written).unwrap()
}

#[test]
fn a_taken_slot_is_waited_for_and_its_holder_named() {
    run(async {
        let source = Source::new("capture_taken", ONE_TABLE, &["numbers"]).await;
        let mut first = source.stream().await;
        let (_, pid) = opened(&mut first).await;
        let observer = Observer::default();
        let mut events = observer.subscribe();
        let settings =
            Settings { standby_interval: Duration::from_millis(50), ..source.settings() };
        let mut second = Replication::start(settings, observer).await.unwrap();
        let standing_by =
            |event: &observe::Event| matches!(event, observe::Event::StandingBy { .. });
        let observe::Event::StandingBy { holder } = Kck::event(&mut events, standing_by).await
        else {
            panic!()
        };
        assert_eq!(holder, format!("pid {pid}, kck/stream, 127.0.0.1"));
        source.run("insert into numbers values (1)").await;
        assert_eq!(transaction(&mut first).await.0.len(), 1);
        drop(first);
        // The first one acknowledged nothing.
        assert_eq!(transaction(&mut second).await.0.len(), 1);
    });
}

#[test]
fn what_can_never_go_on_is_said_at_the_start() {
    type Change = fn(&mut Settings);
    const LOST: &[(Change, &str)] = &[
        (|settings| settings.slot = "capture_none".to_owned(), "it does not exist"),
        (|settings| settings.resume.0 -= 1, "somebody acknowledged"),
        (|settings| settings.resume.0 += 1 << 40, "the log ends at"),
        (|settings| settings.history.timeline += 1, "the source is on timeline 1, not 2"),
        (|settings| settings.history.system_identifier = "1".to_owned(), "the source is system"),
    ];
    const REFUSED: &[(Change, &str)] = &[
        (
            |settings| settings.slot = "capture_physical".to_owned(),
            "is not one for pgoutput in this database",
        ),
        (
            |settings| settings.slot = "capture_elsewhere".to_owned(),
            "is not one for pgoutput in this database",
        ),
        (
            |settings| readdress(settings, "/capture_never", "/capture_nowhere"),
            "does not exist (SQLSTATE 3D000)",
        ),
        (|settings| readdress(settings, "postgres@", "capture_plain@"), "(SQLSTATE 42501)"),
    ];
    run(async {
        let source = Source::new("capture_never", ONE_TABLE, &["numbers"]).await;
        let elsewhere = Database::new("capture_other").await;
        create_slot(&elsewhere.client, "capture_elsewhere", source.facts.version_num)
            .await
            .unwrap();
        source.run("select pg_create_physical_replication_slot('capture_physical'); create role capture_plain login").await;
        for (change, want) in LOST {
            let mut settings = source.settings();
            change(&mut settings);
            let error = Replication::start(settings, Observer::default()).await.unwrap_err();
            assert!(
                matches!(error, Error::SlotLost { .. }) && error.to_string().contains(want),
                "{want}: {error}"
            );
        }
        for (change, want) in REFUSED {
            let mut settings = source.settings();
            change(&mut settings);
            let error = Replication::start(settings, Observer::default()).await.unwrap_err();
            let Error::Refused { fact, hint, .. } = &error else { panic!("{want}: {error:?}") };
            assert!(fact.contains(want) && !hint.is_empty(), "{want}: {fact} | {hint}");
        }
        let mut settings = source.settings();
        settings.address = "postgres://postgres@127.0.0.1:1/capture_never".parse().unwrap();
        let error = Replication::start(settings, Observer::default()).await.unwrap_err();
        assert!(matches!(error, Error::Lost { .. }), "{error:?}");
    });
}

fn readdress(settings: &mut Settings, from: &str, to: &str) {
    settings.address = settings.address.to_string().replace(from, to).parse().unwrap();
}

#[test]
fn a_dropped_publication_or_slot_ends_the_stream() {
    run(async {
        let source = Source::new("capture_dropped", ONE_TABLE, &["numbers"]).await;
        let mut stream = source.stream().await;
        check(
            &source,
            &mut stream,
            &[("insert into numbers values (1)", &["insert numbers (1, null)"])],
        )
        .await;
        drop_publication(&source.database.client, "capture_dropped").await.unwrap();
        source.run("insert into numbers values (2)").await;
        let error = end(&mut stream).await;
        let Error::SlotLost { fact, .. } = &error else { panic!("{error:?}") };
        assert!(fact.contains("publication 'capture_dropped' was dropped"), "{fact}");

        let source = Source::new("capture_undone", ONE_TABLE, &["numbers"]).await;
        let mut stream = source.stream().await;
        opened(&mut stream).await;
        let sql = "do $$ begin
            loop
                perform pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 'capture_undone';
                begin
                    perform pg_drop_replication_slot('capture_undone');
                    exit;
                exception when object_in_use then
                end;
            end loop;
        end $$";
        source.run(sql).await;
        let error = end(&mut stream).await;
        assert!(matches!(error, Error::SlotLost { .. }), "{error:?}");
        assert!(!drop_slot(&source.database.client, "capture_undone").await.unwrap());
    });
}

#[test]
fn a_slot_that_fell_too_far_behind_is_lost() {
    run(async {
        let server = own_postgres(&[("max_slot_wal_keep_size", "1MB")]).await;
        let source = Source::on(&server, "capture_behind", ONE_TABLE, &["numbers"]).await;
        let mut stream = source.stream().await;
        opened(&mut stream).await;
        let fill = async {
            loop {
                source.run("select pg_logical_emit_message(false, 'noise', 'x'), pg_switch_wal(); checkpoint").await;
            }
        };
        let error = tokio::select! {
            error = end(&mut stream) => error,
            () = fill => unreachable!("it fills until the slot is lost"),
        };
        assert!(error.to_string().contains("the source has invalidated it"), "{error}");
        let client = connect(&source.database.url).await;
        assert!(slot(&client, "capture_behind").await.unwrap().unwrap().lost());
        assert!(drop_slot(&client, "capture_behind").await.unwrap());
    });
}

#[test]
fn a_server_that_falls_silent_or_crashes_is_found_again() {
    run(async {
        let mut server = own_postgres(&[("wal_sender_timeout", "1s")]).await;
        let source = Source::on(&server, "capture_silent", ONE_TABLE, &["numbers"]).await;
        let observer = Observer::default();
        let mut events = observer.subscribe();
        let mut stream = Replication::start(source.settings(), observer).await.unwrap();
        let (_, pid) = opened(&mut stream).await;
        signal("STOP", pid);
        let lost = |event: &observe::Event| matches!(event, observe::Event::StreamLost { .. });
        let observe::Event::StreamLost { error, .. } = Kck::event(&mut events, lost).await else {
            panic!()
        };
        assert!(error.contains("it has said nothing for 2s"), "{error}");
        signal("CONT", pid);
        opened(&mut stream).await;

        server.kill9().await.unwrap();
        Kck::event(&mut events, lost).await;
        server.restart().await.unwrap();
        let client = connect(&source.database.url).await;
        client.batch_execute("insert into numbers values (1)").await.unwrap();
        assert_eq!(
            transaction(&mut stream).await.0.iter().map(line).collect::<Vec<_>>(),
            ["insert numbers (1, null)"]
        );
    });
}

/// Stops a process, or lets it go on.
fn signal(signal: &str, pid: i32) {
    let sent =
        std::process::Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status();
    assert!(sent.unwrap().success());
}
