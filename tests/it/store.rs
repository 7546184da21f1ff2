//! Cassandra keeps the contract of every store, and what goes wrong with it is said. The other stores need no
//! server: the contract is held to them beside their code.

use std::{error::Error as _, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use kck::{
    change::{Epoch, Lsn, Position},
    entry::{Entry, Lease, Meta, Stamp},
    key::Key,
    postgres::describe_chain,
    store::{
        Error, StateCell, Store, Track,
        cassandra::{Cassandra, Consistency, Settings},
        contract,
    },
};
use scylla::client::{session::Session, session_builder::SessionBuilder};

use crate::support::{run, servers::cassandra};

async fn settings(keyspace: &str) -> Settings {
    Settings {
        contact_points: vec![cassandra().await],
        keyspace: keyspace.to_owned(),
        local_datacenter: Some("datacenter1".to_owned()),
        replication: 1,
        username: None,
        password: None,
        tls: false,
        consistency: Consistency::LocalQuorum,
    }
}

async fn connect(keyspace: &str) -> Arc<Cassandra> {
    Arc::new(Box::pin(Cassandra::connect(&settings(keyspace).await)).await.unwrap())
}

#[test]
fn cassandra_keeps_the_contract() {
    run(async { contract::holds(connect("store_cassandra").await).await });
}

#[test]
fn cassandra_keeps_the_contract_when_connected_again() {
    let reopen = |store| -> BoxFuture<'_, Arc<dyn Store>> {
        drop(store);
        Box::pin(async { connect("store_cassandra_again").await as Arc<dyn Store> })
    };
    run(async { contract::survives(connect("store_cassandra_again").await, &reopen).await });
}

fn key(name: &str) -> Key {
    Key::new("orders_of", [name])
}

fn entry(stamp: u64, bytes: usize) -> Entry {
    let length = u32::try_from(bytes).unwrap();
    let meta = Meta { stamp: Stamp(stamp), bytes: length, ..Meta::default() };
    Entry { meta, body: Bytes::from(vec![b'x'; bytes]) }
}

#[test]
fn what_cassandra_cannot_take_is_refused_and_nothing_is_harmed() {
    run(async {
        let store = connect("store_refused").await;
        store.put(&key("large"), &entry(1, 1 << 20)).await.unwrap();
        // Half of the commit log's segment; then more than a frame may have.
        for megabytes in [9, 17, 40] {
            let error = store.put(&key("large"), &entry(2, megabytes << 20)).await.unwrap_err();
            let Error::Unavailable { source, .. } = &error else { panic!("{error:?}") };
            assert!(
                source.to_string().contains("commitlog_segment_size"),
                "{megabytes} MiB: {source}"
            );
        }
        assert_eq!(store.get(&key("large")).await.unwrap(), Some(entry(1, 1 << 20)));

        let long = key(&"x".repeat(70_000));
        for refused in [
            store.put(&long, &entry(1, 1)).await,
            store
                .track(&[Track { key: long.clone(), lease: Lease::default(), stamp: Stamp(1) }])
                .await,
            store.save(&[StateCell { name: String::new(), value: None, stamp: 1 }]).await,
        ] {
            assert!(describe_chain(&refused.unwrap_err()).contains("1 to 65535 can be stored"));
        }
        assert_eq!(store.get(&long).await.unwrap(), None);
    });
}

#[test]
fn nodes_that_start_together_share_one_keyspace() {
    run(async {
        let (one, two) = tokio::join!(connect("store_shared"), connect("store_shared"));
        one.put(&key("a"), &entry(6, 1)).await.unwrap();
        two.put(&key("a"), &entry(5, 2)).await.unwrap();
        assert_eq!(two.get(&key("a")).await.unwrap(), Some(entry(6, 1)));
        let mark = |lsn| (key("a"), Position { epoch: Epoch(1), lsn: Lsn(lsn) });
        two.mark(&[mark(20)]).await.unwrap();
        one.mark(&[mark(10)]).await.unwrap();
        let mut found = Vec::new();
        one.scan(&mut |scanned| found.push((scanned.key, scanned.mark.unwrap()))).await.unwrap();
        assert_eq!(found, [mark(20)]);
    });
}

#[test]
fn an_odd_keyspace_is_quoted() {
    run(async {
        let store = connect("Store_Odd").await;
        store.put(&key("a"), &entry(1, 1)).await.unwrap();
        assert_eq!(store.get(&key("a")).await.unwrap(), Some(entry(1, 1)));
    });
}

#[test]
fn a_cassandra_that_cannot_be_used_says_why() {
    run(async {
        let away = Settings {
            contact_points: vec!["127.0.0.1:1".to_owned()],
            ..settings("store_away").await
        };
        let nowhere = Settings {
            local_datacenter: Some("nowhere".to_owned()),
            ..settings("store_nowhere").await
        };
        let tls = Settings { tls: true, ..settings("store_tls").await };
        for (settings, want) in [
            (away, "connect to Cassandra"),
            (nowhere, "a nonexistent datacenter"),
            (tls, "corrupt message of type InvalidContentType"),
        ] {
            let error = Box::pin(Cassandra::connect(&settings)).await.err().unwrap();
            let said = describe_chain(&error);
            assert!(said.contains(want) && error.source().is_some(), "{want}: {said}");
        }
    });
}

/// What is wrong with a cell of the key `orders_of/a`, written at this time, as reading and scanning say.
async fn check(store: &Cassandra, session: &Session, write: (usize, &str), want: [&str; 2]) {
    const ROW: &str = "where key = 'orders_of/a'";
    let (time, assignment) = write;
    let at = format!("store_damaged.cells using timestamp {time}");
    session.query_unpaged(format!("update {at} set {assignment} {ROW}"), ()).await.unwrap();
    let said = |error: Option<Error>| error.map(|error| error.to_string()).unwrap_or_default();
    let read = said(store.get(&key("a")).await.err());
    let scanned = said(store.scan(&mut |_| ()).await.err());
    assert_eq!([read.as_str(), scanned.as_str()], want, "{assignment}");
    session.query_unpaged(format!("delete from {at} {ROW}"), ()).await.unwrap();
}

#[test]
fn a_damaged_cell_is_an_error_that_names_it() {
    const CASES: &[(&str, [&str; 2])] = &[
        (
            "header = 0x09",
            [
                "decode entry of orders_of/a: it was written by another version of kck",
                "decode cells of orders_of/a: it was written by another version of kck",
            ],
        ),
        (
            "header = 0x01",
            [
                "decode entry of orders_of/a: it ends too early",
                "decode cells of orders_of/a: it ends too early",
            ],
        ),
        (
            "header = 0x",
            [
                "decode entry of orders_of/a: it ends too early",
                "decode cells of orders_of/a: it ends too early",
            ],
        ),
        ("lease = 0x01", ["", "decode cells of orders_of/a: it ends too early"]),
        ("mark = -1", ["", "decode cells of orders_of/a: its mark is negative"]),
        // A body alone is no entry.
        ("body = 0x01", ["", ""]),
    ];
    run(async {
        let store = connect("store_damaged").await;
        let builder = SessionBuilder::new().known_node(cassandra().await);
        let session = Box::pin(builder.build()).await.unwrap();
        for (time, (assignment, want)) in CASES.iter().enumerate() {
            check(&store, &session, (time, assignment), *want).await;
        }
        store.put(&key("b"), &entry(1, 3)).await.unwrap();
        let damage = "update store_damaged.cells using timestamp 2 set body = 0x01 where key = 'orders_of/b'";
        session.query_unpaged(damage, ()).await.unwrap();
        let error = store.get(&key("b")).await.unwrap_err().to_string();
        assert_eq!(
            error,
            "decode entry of orders_of/b: its body has another length than its header says"
        );
        let damage =
            "update store_damaged.state using timestamp -5 set value = 0x01 where name = 'a'";
        session.query_unpaged(damage, ()).await.unwrap();
        let error = store.load().await.unwrap_err().to_string();
        assert_eq!(error, "decode state of a: its timestamp is none of kck's");
    });
}
