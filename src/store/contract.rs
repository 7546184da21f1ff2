//! Contract: any [`Store`] → the first promise it breaks, as a panic that names it.
//!
//! One suite for every implementation, in this crate or outside it. Each check uses keys of its own, so
//! that all run on one store, which must be empty at the start. A check writes first and reads last; for
//! stores that outlive their process, [`survives`] closes and opens the store in between.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::task::JoinSet;

use super::{Error, Forget, Scanned, StateCell, Store, Track};
use crate::{
    change::{Epoch, Lsn, Position, SourceTime},
    entry::{Entry, Fingerprint, Lease, Meta, Stamp},
    key::Key,
};

/// Closes a store and opens it again.
pub type Reopen<'a> = dyn Fn(Arc<dyn Store>) -> BoxFuture<'a, Arc<dyn Store>> + Send + Sync + 'a;

/// Checks the whole contract on an empty store that stays open.
///
/// # Panics
/// When the store breaks it.
pub async fn holds(store: Arc<dyn Store>) {
    survives(store, &|store| Box::pin(std::future::ready(store))).await;
}

/// Checks the whole contract on an empty store that is closed and opened between writing and reading.
///
/// # Panics
/// When the store breaks it.
pub async fn survives<'a>(store: Arc<dyn Store>, reopen: &'a Reopen<'a>) {
    let mut suite = Suite { store: Some(store), reopen };
    suite.an_empty_store_has_nothing().await;
    suite.an_entry_is_read_as_it_was_put().await;
    suite.the_newest_put_wins().await;
    suite.a_purge_hides_what_is_not_newer().await;
    suite.an_older_purge_hides_nothing_newer().await;
    suite.a_purge_leaves_track_record_and_mark().await;
    suite.forget_hides_writes_that_come_late().await;
    suite.a_key_can_be_tracked_again().await;
    suite.the_furthest_mark_wins().await;
    suite.a_mark_beyond_the_forgotten_one_lives().await;
    suite.track_records_are_replaced_by_newer_ones().await;
    suite.a_scan_finds_every_kind_of_cell().await;
    suite.a_slice_is_applied_whole().await;
    suite.any_order_of_arrival_ends_the_same().await;
    suite.state_cells_keep_their_order().await;
    suite.the_whole_range_of_write_times_works().await;
    suite.large_and_empty_values_come_back().await;
    suite.odd_keys_are_keys().await;
    suite.racing_writers_end_with_the_newest().await;
}

/// The store under test and how to close and open it.
struct Suite<'a> {
    store: Option<Arc<dyn Store>>,
    reopen: &'a Reopen<'a>,
}

fn key(name: &str) -> Key {
    Key::new("contract", [name])
}

fn entry(stamp: u64, body: &str) -> Entry {
    let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let meta = Meta { stamp: Stamp(stamp), bytes, ..Meta::default() };
    Entry { meta, body: Bytes::copy_from_slice(body.as_bytes()) }
}

fn lease(counter: u64) -> Lease {
    Lease { term: 7, counter }
}

fn at(lsn: u64) -> Position {
    Position { epoch: Epoch(1), lsn: Lsn(lsn) }
}

fn cell(name: &str, stamp: u64, value: Option<&'static str>) -> StateCell {
    let value = value.map(|text| Bytes::from_static(text.as_bytes()));
    StateCell { name: format!("contract {name}"), value, stamp }
}

impl Suite<'_> {
    fn store(&self) -> &dyn Store {
        self.store.as_deref().expect("it is empty only while the store is opened again")
    }

    /// Between writing and reading.
    async fn settle(&mut self) {
        if let Some(store) = self.store.take() {
            self.store = Some((self.reopen)(store).await);
        }
    }

    async fn put(&self, key: &Key, stamp: u64, body: &str) {
        done(self.store().put(key, &entry(stamp, body)).await);
    }

    async fn purge(&self, key: &Key, stamp: u64) {
        done(self.store().purge(&[(key.clone(), Stamp(stamp))]).await);
    }

    async fn track(&self, key: &Key, stamp: u64, counter: u64) {
        let track = Track { key: key.clone(), lease: lease(counter), stamp: Stamp(stamp) };
        done(self.store().track(&[track]).await);
    }

    async fn mark(&self, key: &Key, mark: Position) {
        done(self.store().mark(&[(key.clone(), mark)]).await);
    }

    async fn forget(&self, key: &Key, stamp: u64, mark: Position) {
        let forget = Forget { key: key.clone(), stamp: Stamp(stamp), mark };
        done(self.store().forget(&[forget]).await);
    }

    async fn body(&self, key: &Key) -> Option<Bytes> {
        done(self.store().get(key).await).map(|entry| entry.body)
    }

    /// Everything that a scan finds, each key once.
    async fn scan(&self) -> BTreeMap<Key, Scanned> {
        let mut found = BTreeMap::new();
        let mut twice = Vec::new();
        let mut visit = |scanned: Scanned| {
            if let Some(earlier) = found.insert(scanned.key.clone(), scanned) {
                twice.push(earlier.key);
            }
        };
        done(self.store().scan(&mut visit).await);
        assert!(twice.is_empty(), "a scan visits a key once: {twice:?}");
        found
    }

    async fn an_empty_store_has_nothing(&mut self) {
        self.settle().await;
        assert_eq!(self.scan().await.len(), 0, "an empty store has no keys");
        assert_eq!(done(self.store().load().await), [], "an empty store has no state");
        assert_eq!(self.body(&key("none")).await, None, "a key never put has no entry");
    }

    async fn an_entry_is_read_as_it_was_put(&mut self) {
        let (full, bare) = (key("full"), key("bare"));
        let meta = Meta {
            stamp: Stamp(11),
            lease: Lease { term: 12, counter: 13 },
            as_of: Position { epoch: Epoch(14), lsn: Lsn(15) },
            as_of_time: SourceTime(-16),
            snapshot: Stamp(17),
            insert: Lsn(18),
            fingerprint: Fingerprint([19; 16]),
            shape: Fingerprint([20; 16]),
            digest: 21,
            version: 22,
            modified: SourceTime(23),
            expires: Some(SourceTime(24)),
            cost_us: 25,
            bytes: 7,
        };
        let written = Entry { meta, body: Bytes::from_static(b"{\"a\":1}") };
        done(self.store().put(&full, &written).await);
        self.put(&bare, 5, "null").await;
        // Writing a cell again as it is changes nothing.
        done(self.store().put(&full, &written).await);
        self.settle().await;
        let read = done(self.store().get(&full).await);
        assert_eq!(read.as_ref(), Some(&written), "an entry is read as it was put");
        let read = done(self.store().get(&bare).await);
        assert_eq!(read, Some(entry(5, "null")), "an entry without expiry is read as it was put");
        let scanned = self.scan().await;
        let meta = scanned.get(&full).and_then(|scanned| scanned.meta.as_ref());
        assert_eq!(meta, Some(&written.meta), "a scan gives an entry's meta as it was put");
    }

    async fn the_newest_put_wins(&mut self) {
        let (in_order, reversed) = (key("in order"), key("reversed"));
        self.put(&in_order, 5, "old").await;
        self.put(&in_order, 6, "new").await;
        self.put(&reversed, 6, "new").await;
        self.put(&reversed, 5, "an old one, and longer").await;
        self.settle().await;
        assert_eq!(self.body(&in_order).await.as_deref(), Some(&b"new"[..]), "a newer put wins");
        assert_eq!(self.body(&reversed).await.as_deref(), Some(&b"new"[..]), "an older put loses");
    }

    async fn a_purge_hides_what_is_not_newer(&mut self) {
        let [older, equal, late, newer] = ["older", "equal", "late", "newer"].map(key);
        self.put(&older, 5, "a").await;
        self.purge(&older, 6).await;
        self.put(&equal, 6, "a").await;
        self.purge(&equal, 6).await;
        self.purge(&late, 6).await;
        self.put(&late, 5, "a").await;
        self.put(&late, 6, "a").await;
        self.put(&newer, 5, "a").await;
        self.purge(&newer, 6).await;
        // The source stands still, so the packed snapshot is the same: only the stamp is the next one.
        self.put(&newer, 7, "b").await;
        self.settle().await;
        assert_eq!(self.body(&older).await, None, "a purge hides an older put");
        assert_eq!(self.body(&equal).await, None, "a purge hides a put of its own stamp");
        assert_eq!(self.body(&late).await, None, "a purge hides puts that come late");
        assert_eq!(
            self.body(&newer).await.as_deref(),
            Some(&b"b"[..]),
            "a put after a purge lives"
        );
        let scanned = self.scan().await;
        for key in [&older, &equal, &late] {
            assert_eq!(scanned.get(key), None, "a scan does not find a purged key");
        }
    }

    async fn an_older_purge_hides_nothing_newer(&mut self) {
        let key = key("older purge");
        self.put(&key, 7, "a").await;
        self.purge(&key, 6).await;
        self.settle().await;
        assert_eq!(
            self.body(&key).await.as_deref(),
            Some(&b"a"[..]),
            "an older purge hides nothing"
        );
    }

    async fn a_purge_leaves_track_record_and_mark(&mut self) {
        let key = key("purged and tracked");
        self.track(&key, 4, 1).await;
        self.mark(&key, at(100)).await;
        self.put(&key, 5, "a").await;
        self.purge(&key, 6).await;
        self.settle().await;
        let want = Scanned { key, lease: Some(lease(1)), mark: Some(at(100)), meta: None };
        let scanned = self.scan().await;
        assert_eq!(scanned.get(&want.key), Some(&want), "a purge takes the entry alone");
    }

    async fn forget_hides_writes_that_come_late(&mut self) {
        let [known, unknown] = ["forgotten", "never known"].map(key);
        self.track(&known, 4, 1).await;
        self.mark(&known, at(100)).await;
        self.put(&known, 5, "a").await;
        for key in [&known, &unknown] {
            self.forget(key, 9, at(200)).await;
            self.put(key, 8, "late").await;
            self.track(key, 8, 2).await;
            self.mark(key, at(200)).await;
            self.purge(key, 7).await;
            self.forget(key, 3, at(50)).await;
            self.put(key, 9, "late").await;
        }
        self.settle().await;
        let scanned = self.scan().await;
        for key in [&known, &unknown] {
            assert_eq!(scanned.get(key), None, "forget hides what comes late: {key}");
            assert_eq!(self.body(key).await, None, "forget hides a put that comes late: {key}");
        }
    }

    async fn a_key_can_be_tracked_again(&mut self) {
        let key = key("tracked again");
        self.track(&key, 4, 1).await;
        self.put(&key, 5, "a").await;
        self.mark(&key, at(100)).await;
        self.forget(&key, 6, at(100)).await;
        self.track(&key, 7, 2).await;
        self.put(&key, 8, "b").await;
        self.mark(&key, at(101)).await;
        self.settle().await;
        let meta = Some(entry(8, "b").meta);
        let want = Scanned { key, lease: Some(lease(2)), mark: Some(at(101)), meta };
        assert_eq!(self.scan().await.get(&want.key), Some(&want), "a forgotten key can come again");
        assert_eq!(
            self.body(&want.key).await.as_deref(),
            Some(&b"b"[..]),
            "its entry is the new one"
        );
    }

    async fn the_furthest_mark_wins(&mut self) {
        let [late, epoch] = ["late mark", "next epoch"].map(key);
        for lsn in [10, 30, 20, 30] {
            self.mark(&late, at(lsn)).await;
        }
        let next = Position { epoch: Epoch(2), lsn: Lsn(1) };
        self.mark(&epoch, next).await;
        self.mark(&epoch, at(1 << 40)).await;
        self.settle().await;
        let scanned = self.scan().await;
        let mark = |key| scanned.get(key).and_then(|scanned| scanned.mark);
        assert_eq!(mark(&late), Some(at(30)), "a late lower mark loses");
        assert_eq!(mark(&epoch), Some(next), "a mark of a later epoch is further");
    }

    async fn a_mark_beyond_the_forgotten_one_lives(&mut self) {
        let [before, after] = ["mark, forget", "forget, mark"].map(key);
        self.mark(&before, at(300)).await;
        self.forget(&before, 9, at(200)).await;
        self.forget(&after, 9, at(200)).await;
        self.mark(&after, at(201)).await;
        self.settle().await;
        let scanned = self.scan().await;
        let mark = |key| scanned.get(key).and_then(|scanned| scanned.mark);
        assert_eq!(mark(&before), Some(at(300)), "forget leaves a mark beyond the one it names");
        assert_eq!(mark(&after), Some(at(201)), "a mark beyond the forgotten one lives");
    }

    async fn track_records_are_replaced_by_newer_ones(&mut self) {
        let [newer, older] = ["newer record", "older record"].map(key);
        self.track(&newer, 4, 1).await;
        self.track(&newer, 5, 2).await;
        self.track(&older, 5, 2).await;
        self.track(&older, 4, 1).await;
        self.settle().await;
        let scanned = self.scan().await;
        for key in [&newer, &older] {
            let found = scanned.get(key).and_then(|scanned| scanned.lease);
            assert_eq!(found, Some(lease(2)), "the newest track record wins: {key}");
        }
    }

    async fn a_scan_finds_every_kind_of_cell(&mut self) {
        let [entry_only, lease_only, mark_only, all] =
            ["entry only", "lease only", "mark only", "all"].map(key);
        self.put(&entry_only, 5, "a").await;
        self.track(&lease_only, 5, 1).await;
        self.mark(&mark_only, at(5)).await;
        self.track(&all, 5, 1).await;
        self.mark(&all, at(5)).await;
        self.put(&all, 6, "a").await;
        self.settle().await;
        let (record, mark) = (Some(lease(1)), Some(at(5)));
        let scanned = self.scan().await;
        for (key, lease, mark, meta) in [
            (entry_only, None, None, Some(entry(5, "a").meta)),
            (lease_only, record, None, None),
            (mark_only, None, mark, None),
            (all, record, mark, Some(entry(6, "a").meta)),
        ] {
            let want = Scanned { key, lease, mark, meta };
            assert_eq!(scanned.get(&want.key), Some(&want), "a scan finds every live cell");
        }
    }

    async fn a_slice_is_applied_whole(&mut self) {
        const KEYS: u64 = 500;
        let keys: Vec<(u64, Key)> = (0..KEYS).map(|i| (i, key(&format!("slice {i}")))).collect();
        let tracks = keys.iter().map(|(i, key)| Track {
            key: key.clone(),
            lease: lease(*i),
            stamp: Stamp(4),
        });
        done(self.store().track(&tracks.collect::<Vec<_>>()).await);
        // Every key three times in one call, the furthest in the middle.
        let marks = [100, 300, 200]
            .into_iter()
            .flat_map(|lsn| keys.iter().map(move |(i, key)| (key.clone(), at(lsn + i))));
        done(self.store().mark(&marks.collect::<Vec<_>>()).await);
        let (kept, forgotten): (Vec<_>, Vec<_>) = keys.into_iter().partition(|(i, _)| i % 2 == 0);
        let forgets = forgotten.iter().map(|(i, key)| Forget {
            key: key.clone(),
            stamp: Stamp(5),
            mark: at(300 + i),
        });
        done(self.store().forget(&forgets.collect::<Vec<_>>()).await);
        done(self.store().track(&[]).await);
        self.settle().await;
        let scanned = self.scan().await;
        for (i, key) in kept {
            let found = scanned.get(&key).map(|scanned| (scanned.lease, scanned.mark));
            assert_eq!(
                found,
                Some((Some(lease(i)), Some(at(300 + i)))),
                "all of a slice is written"
            );
        }
        for (_, key) in forgotten {
            assert_eq!(scanned.get(&key), None, "all of a slice is forgotten");
        }
    }

    /// Every order of five writes to one key leaves what their write times say.
    async fn any_order_of_arrival_ends_the_same(&mut self) {
        for order in orders(&[0, 1, 2, 3, 4]) {
            let key = key(&format!("order {order:?}"));
            for write in order {
                match write {
                    0 => self.put(&key, 1, "first").await,
                    1 => self.forget(&key, 2, at(20)).await,
                    2 => self.put(&key, 3, "second").await,
                    3 => self.purge(&key, 1).await,
                    _ => self.mark(&key, at(20)).await,
                }
            }
        }
        self.settle().await;
        let scanned = self.scan().await;
        for order in orders(&[0, 1, 2, 3, 4]) {
            let key = key(&format!("order {order:?}"));
            let meta = Some(entry(3, "second").meta);
            let want = Scanned { key, lease: None, mark: None, meta };
            assert_eq!(scanned.get(&want.key), Some(&want), "arrival does not matter");
        }
    }

    async fn state_cells_keep_their_order(&mut self) {
        let writes = [
            cell("newest", 5, Some("old")),
            cell("newest", 6, Some("new")),
            cell("late", 6, Some("new")),
            cell("late", 5, Some("old")),
            cell("deleted", 5, Some("old")),
            cell("deleted", 6, None),
            cell("deleted late", 6, None),
            cell("deleted late", 5, Some("old")),
            cell("tie", 6, Some("old")),
            cell("tie", 6, None),
            cell("again", 6, None),
            cell("again", 7, Some("new")),
            cell("older delete", 7, Some("new")),
            cell("older delete", 6, None),
            cell("empty", 1, Some("")),
        ];
        for write in &writes {
            done(self.store().save(std::slice::from_ref(write)).await);
        }
        self.settle().await;
        let mut found = done(self.store().load().await);
        found.sort_by(|a, b| a.name.cmp(&b.name));
        let want = [
            cell("again", 7, Some("new")),
            cell("empty", 1, Some("")),
            cell("late", 6, Some("new")),
            cell("newest", 6, Some("new")),
            cell("older delete", 7, Some("new")),
        ];
        assert_eq!(found, want, "state cells go by their write times");
    }

    async fn the_whole_range_of_write_times_works(&mut self) {
        let [lowest, highest, deleted] = ["lowest", "highest", "highest delete"].map(key);
        let top = (1 << 63) - 2;
        self.put(&lowest, 0, "a").await;
        self.mark(&lowest, Position::default()).await;
        self.put(&highest, top, "b").await;
        self.put(&highest, top - 1, "a").await;
        self.mark(&highest, Position::unpack(top)).await;
        self.put(&deleted, top - 1, "a").await;
        self.purge(&deleted, top).await;
        self.put(&deleted, 1_800_000_000_000_000, "of today, were it a clock").await;
        self.settle().await;
        let scanned = self.scan().await;
        let mark = |key| scanned.get(key).and_then(|scanned| scanned.mark);
        assert_eq!(self.body(&lowest).await.as_deref(), Some(&b"a"[..]), "zero is a write time");
        assert_eq!(mark(&lowest), Some(Position::default()), "zero is a mark");
        assert_eq!(
            self.body(&highest).await.as_deref(),
            Some(&b"b"[..]),
            "63 bits are write times"
        );
        assert_eq!(mark(&highest), Some(Position::unpack(top)), "63 bits are marks");
        assert_eq!(self.body(&deleted).await, None, "63 bits are write times of deletes");
    }

    async fn large_and_empty_values_come_back(&mut self) {
        let [large, empty, shrunk] = ["large", "empty", "shrunk"].map(key);
        // A small generator, so that no compression makes it small again.
        let mut word = 0x9E37_79B9_7F4A_7C15_u64;
        let mut body = Vec::with_capacity(1 << 20);
        while body.len() < 1 << 20 {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            body.extend(word.to_le_bytes());
        }
        let written =
            Entry { meta: Meta { bytes: 1 << 20, ..entry(5, "").meta }, body: body.into() };
        done(self.store().put(&large, &written).await);
        self.put(&empty, 5, "").await;
        done(self.store().put(&shrunk, &written).await);
        self.put(&shrunk, 6, "a").await;
        self.settle().await;
        let read = done(self.store().get(&large).await);
        assert!(read == Some(written), "1 MiB comes back as it was");
        assert_eq!(
            done(self.store().get(&empty).await),
            Some(entry(5, "")),
            "an empty body is a body"
        );
        assert_eq!(self.body(&shrunk).await.as_deref(), Some(&b"a"[..]), "a body may shrink");
    }

    async fn odd_keys_are_keys(&mut self) {
        let long = "x".repeat(1024);
        let keys = [
            Key::new("contract_bare", []),
            Key::new("contract", [""]),
            Key::new("contract", ["", ""]),
            Key::new("contract", ["ключ 鍵 🗝"]),
            Key::new("contract", ["a/b", "%", "'\"\\"]),
            Key::new("contract", [long.as_str()]),
            // What is not canonical is stored all the same: stores do not read keys.
            Key::from_stored("contract/é\u{1F511}\n"),
        ];
        for (stamp, key) in (1..).zip(&keys) {
            self.track(key, stamp, stamp).await;
            self.put(key, stamp, key.as_str()).await;
        }
        self.settle().await;
        let scanned = self.scan().await;
        for (stamp, key) in (1..).zip(&keys) {
            let found = scanned.get(key).and_then(|scanned| scanned.lease);
            assert_eq!(found, Some(lease(stamp)), "a scan gives the key as it was written: {key}");
            let body = self.body(key).await;
            assert_eq!(
                body.as_deref(),
                Some(key.as_str().as_bytes()),
                "each key is its own: {key}"
            );
        }
    }

    async fn racing_writers_end_with_the_newest(&mut self) {
        const WRITERS: u64 = 64;
        let raced = key("raced");
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            // Every stamp once, the newest somewhere in the middle.
            let stamp = 1 + (writer * 29 + 7) % WRITERS;
            let (store, key) = (self.store.clone(), raced.clone());
            writers.spawn(async move {
                let Some(store) = store else { return };
                done(store.put(&key, &entry(stamp, &format!("by {stamp}"))).await);
                done(store.mark(&[(key, at(stamp))]).await);
            });
        }
        while let Some(ended) = writers.join_next().await {
            ended.expect("a writer panics when the store refuses a write");
        }
        self.settle().await;
        let read = done(self.store().get(&raced).await);
        let want = entry(WRITERS, &format!("by {WRITERS}"));
        assert_eq!(read, Some(want), "racing writers end with the newest entry");
        let mark = self.scan().await.get(&raced).and_then(|scanned| scanned.mark);
        assert_eq!(mark, Some(at(WRITERS)), "racing writers end with the furthest mark");
    }
}

/// What a call gave; the store is up, so an error is a broken promise.
fn done<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| panic!("a call on a store that is up succeeds: {error:?}"))
}

/// Every order of these numbers.
fn orders(items: &[u8]) -> Vec<Vec<u8>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let begun_with = |first: &u8| {
        let rest: Vec<u8> = items.iter().copied().filter(|item| item != first).collect();
        orders(&rest).into_iter().map(|order| [vec![*first], order].concat()).collect::<Vec<_>>()
    };
    items.iter().flat_map(begun_with).collect()
}
