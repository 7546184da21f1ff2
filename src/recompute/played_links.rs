//! Workers over products that depend on each other: what changes above is never fresh below.
//!
//! The world above is a few numbers. A product's answer is its own number and the answers of those that it reads, added
//! up; it reads them as a program does, at the position that it is told.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    change::{Epoch, Lsn, Position, SourceTime},
    entry::Stamp,
    key::Key,
    pattern::Pattern,
    product::{Eager, Means, Outside, Product, Recipe},
    store::faulty::{Faulty, Method},
};

use super::{
    Config, Handle, Ran, Run, RunError,
    below::Links,
    ledger::{Computed, Verdict},
    played::{BOUNDS, DEADLINE, Stage, product},
    queue::{Candidate, Stale, Want},
    worker,
};

/// Who reads whom, in the order of their ranks: the first reads none.
pub(super) type Reads = &'static [(&'static str, &'static [&'static str])];

pub(super) const CHAIN: Reads = &[("world", &[]), ("middle", &["world"]), ("below", &["middle"])];
pub(super) const BESIDE: Reads =
    &[("world", &[]), ("middle", &["world"]), ("below", &["world", "middle"])];
pub(super) const TWO: Reads = &[("world", &[]), ("other", &[]), ("below", &["world", "other"])];
pub(super) const PAIR: Reads = &[("world", &[]), ("below", &["world"])];

/// The recipe.
pub(super) struct World {
    reads: Reads,
    handle: OnceLock<Handle>,
    numbers: Mutex<BTreeMap<String, i64>>,
    answers: Mutex<HashMap<Key, i64>>,
    /// Computations of this product fail.
    pub(super) fails: watch::Sender<&'static str>,
    /// The insert position that answers come with.
    pub(super) insert: watch::Sender<Lsn>,
    /// Computations of this product wait when they have read, until it is let go.
    held: watch::Sender<&'static str>,
    /// How many have read.
    read: watch::Sender<usize>,
}

impl World {
    fn handle(&self) -> &Handle {
        self.handle.get().unwrap()
    }

    /// As a program reads.
    async fn read(&self, name: &str, least: Position) -> i64 {
        let key = Key::new(name, []);
        let segment_bytes = self.handle().shared.progress.borrow().segment_bytes;
        let least = match segment_bytes {
            0 => least,
            // As whoever serves reads a position that is demanded.
            _ => Position { lsn: least.lsn.floor_to_record_end(segment_bytes), ..least },
        };
        if let Some((standing, _)) = self.handle().read(&key)
            && standing.sound
            && standing.meta.as_of >= least
        {
            return self.answers.lock().unwrap()[&key];
        }
        let deadline = Instant::now() + DEADLINE;
        let fresh = self.handle().compute(&key, Want::AtLeast(least), deadline).await.unwrap();
        String::from_utf8(fresh.body.to_vec()).unwrap().parse().unwrap()
    }
}

#[async_trait]
impl Run for World {
    async fn run(&self, product: &Product, keys: &[Key], as_of: Position) -> Result<Ran, RunError> {
        let now = self.handle().shared.progress.borrow().source_now(Instant::now());
        let name = product.name();
        let mut number = self.numbers.lock().unwrap().get(name).copied().unwrap_or(0);
        let reads = self.reads.iter().find(|(own, _)| *own == name).unwrap().1;
        for other in reads {
            number += self.read(other, as_of).await;
        }
        self.read.send_modify(|read| *read += 1);
        self.held.subscribe().wait_for(|held| *held != name).await.unwrap();
        if *self.fails.borrow() == name {
            return Err(RunError::Outside { fact: "it fails", why: "it fails".to_owned() });
        }
        for key in keys {
            self.answers.lock().unwrap().insert(key.clone(), number);
        }
        let values = keys.iter().map(|_| Bytes::from(number.to_string())).collect();
        let insert = *self.insert.borrow();
        Ok(Ran { values, insert, time: now.unwrap_or_default(), ..Ran::default() })
    }
}

pub(super) struct Played {
    pub(super) handle: Handle,
    pub(super) world: Arc<World>,
    pub(super) stage: Stage,
    _stop: DropGuard,
}

impl Played {
    pub(super) fn start(reads: Reads) -> Self {
        Self::with(reads, BOUNDS, |_| {})
    }

    pub(super) fn with(reads: Reads, config: Config, change: impl Fn(&mut Product)) -> Self {
        let products = reads.iter().map(|(name, _)| {
            let mut product = (*product(name)).clone();
            change(&mut product);
            Arc::new(product)
        });
        let stage = Stage::new(config, products.chain([product("aside")]));
        let handle = stage.handle.clone();
        handle.on_linked(links(reads));
        let world = Arc::new(World {
            reads,
            handle: OnceLock::new(),
            numbers: Mutex::default(),
            answers: Mutex::default(),
            fails: watch::Sender::new(""),
            insert: watch::Sender::new(Lsn(0)),
            held: watch::Sender::new(""),
            read: watch::Sender::new(0),
        });
        assert!(world.handle.set(handle.clone()).is_ok());
        let shutdown = CancellationToken::new();
        tokio::spawn(worker::run(handle.clone(), Arc::clone(&world) as _, shutdown.clone()));
        Self { handle, world, stage, _stop: shutdown.drop_guard() }
    }

    pub(super) fn store(&self) -> &Faulty {
        &self.stage.store
    }

    /// What the source does not tell of moves.
    pub(super) fn moves(&self, name: &str, number: i64) {
        self.world.numbers.lock().unwrap().insert(name.to_owned(), number);
    }

    pub(super) async fn compute(&self, name: &str) -> i64 {
        let deadline = Instant::now() + DEADLINE;
        let fresh = self.handle.compute(&key(name), Want::New, deadline).await.unwrap();
        String::from_utf8(fresh.body.to_vec()).unwrap().parse().unwrap()
    }

    /// What it stands for now, where that is called fresh.
    pub(super) fn fresh(&self, name: &str) -> Option<i64> {
        let (standing, _) = self.handle.look(&key(name))?;
        standing.fresh.then(|| self.world.answers.lock().unwrap()[&key(name)])
    }

    /// Whether it is fresh, or will be computed.
    fn is_wanted(&self, name: &str) -> bool {
        let key = key(name);
        self.fresh(name).is_some()
            || self.handle.queue().is_pending(&key)
            || self.handle.shared.held.lock().unwrap().contains(&key)
    }

    pub(super) fn hold(&self, name: &'static str) {
        self.world.held.send_replace(name);
    }

    /// Returns when so many computations have read what they read.
    pub(super) async fn have_read(&self, times: usize) {
        let mut read = self.world.read.subscribe();
        let have = read.wait_for(|read| *read >= times);
        tokio::time::timeout(DEADLINE, have).await.expect("they read").unwrap();
    }

    /// V goes on.
    pub(super) fn visible(&self, lsn: u64) {
        self.stage.progress.send_modify(|progress| progress.visible = Lsn(lsn));
        self.handle.wake_due(at(lsn));
    }

    pub(super) fn clock(&self, seconds: i64) {
        let clock = Some((SourceTime(seconds * 1_000_000), Instant::now()));
        self.stage.progress.send_modify(|progress| progress.clock = clock);
    }

    pub(super) async fn until(&self, is: impl Fn() -> bool) {
        let mut events = self.stage.observer.subscribe();
        let wait = async {
            while !is() {
                drop(events.recv().await);
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.expect("it comes to pass");
    }
}

pub(super) fn links(reads: Reads) -> Links {
    let whole = |name: &str| Pattern { product: name.into(), parts: Box::new([]) };
    Links {
        needs: Box::new(move |key| {
            let own = reads.iter().find(|(name, _)| *name == key.product());
            (own.into_iter().flat_map(|(_, on)| *on).map(|on| self::key(on)).collect(), vec![])
        }),
        dependents: Box::new(move |key| {
            let on = reads.iter().filter(|(_, on)| on.contains(&key.product()));
            on.map(|(name, _)| whole(name)).collect()
        }),
        readers: Box::new(move |name| {
            let on = reads.iter().filter(|(_, on)| on.contains(&name));
            on.map(|(name, _)| (*name).to_owned()).collect()
        }),
        reads: Box::new(move |name| reads.iter().any(|(own, on)| *own == name && !on.is_empty())),
        rank: Box::new(move |name| {
            reads.iter().position(|(own, _)| *own == name).map_or(0, |rank| rank + 1)
        }),
    }
}

pub(super) fn key(name: &str) -> Key {
    Key::new(name, [])
}

pub(super) fn at(lsn: u64) -> Position {
    Position { epoch: Epoch(1), lsn: Lsn(lsn) }
}

pub(super) fn stale() -> Stale {
    Stale { since: Instant::now(), rate: 1.0, not_before: None }
}

#[tokio::test]
async fn a_change_reaches_what_is_below_something_that_nobody_reads() {
    let played = Played::with(CHAIN, BOUNDS, |product| {
        if product.name() == "middle" {
            product.draft.policy.eager = Eager::Never;
        }
    });
    assert_eq!(played.compute("below").await, 0);
    assert_eq!(played.fresh("below"), Some(0));
    played.moves("world", 1);
    played.compute("world").await;
    assert_eq!((played.fresh("middle"), played.fresh("below")), (None, None));
    // When somebody wants it, it is computed, and what is between for it; V need not move for that.
    let _watching = played.handle.watch(vec![key("below")]);
    played.handle.queue_stale(&key("below"));
    played.until(|| played.fresh("below").is_some()).await;
    assert_eq!((played.fresh("middle"), played.fresh("below")), (Some(1), Some(1)));
}

#[tokio::test]
async fn what_is_outdated_meets_no_demand() {
    let played = Played::start(CHAIN);
    assert_eq!(played.compute("middle").await, 0);
    played.moves("world", 1);
    played.compute("world").await;
    // V is where it was: by its position what is between would do.
    assert_eq!(played.compute("below").await, 1);
    assert_eq!((played.fresh("middle"), played.fresh("below")), (Some(1), Some(1)));
}

#[tokio::test]
async fn what_a_commit_marks_is_stale_through_every_level() {
    let played = Played::start(CHAIN);
    played.compute("below").await;
    let touched = HashMap::from([(key("world"), Lsn(5))]);
    let marks = played.handle.mark(&touched, &HashMap::new(), &BTreeMap::new());
    assert_eq!(marks.keys.len(), 3);
    assert_eq!((played.fresh("middle"), played.fresh("below")), (None, None));
    // Before V is there what is read may be older.
    played.compute("below").await;
    assert_eq!(played.fresh("below"), None);
    played.moves("world", 1);
    let _watching = played.handle.watch(vec![key("below")]);
    played.handle.wake_later(marks);
    played.visible(5);
    played.until(|| played.fresh("below") == Some(1)).await;
    let whole = BTreeMap::from([("world".to_owned(), Lsn(9))]);
    let marks = played.handle.mark(&HashMap::new(), &HashMap::new(), &whole);
    assert_eq!(marks.products.len(), 3);
    assert_eq!((played.fresh("middle"), played.fresh("below")), (None, None));
}

#[tokio::test]
async fn an_answer_from_one_that_has_expired_is_not_fresh() {
    let played = Played::with(PAIR, BOUNDS, |product| {
        if product.name() == "world" {
            product.draft.policy.expire = Some(Duration::from_secs(600));
        }
    });
    played.clock(0);
    played.compute("below").await;
    played.clock(300);
    played.compute("world").await;
    assert_eq!(played.fresh("below"), Some(0));
    played.moves("world", 1);
    played.clock(1000);
    assert_eq!((played.fresh("world"), played.fresh("below")), (None, None));
}

#[tokio::test]
async fn what_had_expired_was_read_by_none_that_began_later() {
    let played = Played::with(PAIR, BOUNDS, |product| {
        if product.name() == "world" {
            product.draft.policy.expire = Some(Duration::from_secs(10));
        }
    });
    played.clock(0);
    played.compute("below").await;
    played.moves("world", 1);
    played.clock(100);
    // It has the other computed, which is another answer than before.
    assert_eq!(played.compute("below").await, 1);
    assert_eq!(played.fresh("below"), Some(1));
}

#[tokio::test]
async fn who_read_an_answer_that_was_not_kept_is_stale() {
    let played = Played::start(PAIR);
    played.handle.ledger().joins("world", Lsn(u64::MAX));
    played.hold("below");
    let below = played.compute("below");
    let change = async {
        // Both have read, and what is above was not kept.
        played.have_read(2).await;
        played.handle.ledger().joins("world", Lsn(0));
        played.moves("world", 1);
        played.compute("world").await;
        played.hold("");
    };
    assert_eq!(tokio::join!(below, change).0, 0);
    assert_eq!(played.fresh("below"), None);
}

#[tokio::test]
async fn who_reads_what_is_being_made_from_the_answer_of_before_is_stale_too() {
    let played = Played::start(CHAIN);
    played.hold("middle");
    let below = played.compute("below");
    let change = async {
        // What is above and what is between have read; who is below waits for that.
        played.have_read(2).await;
        played.moves("world", 1);
        played.compute("world").await;
        played.hold("");
    };
    assert_eq!(tokio::join!(below, change).0, 0);
    assert_eq!((played.fresh("middle"), played.fresh("below")), (None, None));
}

#[tokio::test]
async fn who_saw_an_answer_that_is_let_go_of_is_outdated_at_once() {
    let played = Played::start(CHAIN);
    played.compute("below").await;
    let mut forget = played.store().hold(Method::Forget);
    let world = [key("world")];
    let untracked = played.handle.untrack_all(&world);
    let look = async {
        forget.reached().await;
        assert_eq!((played.fresh("middle"), played.fresh("below")), (None, None));
        forget.release();
    };
    let (untracked, ()) = tokio::join!(untracked, look);
    untracked.unwrap();
}

#[tokio::test]
async fn who_runs_over_an_answer_that_could_not_be_deleted_is_outdated() {
    let played = Played::start(PAIR);
    played.compute("below").await;
    played.hold("below");
    let below = played.compute("below");
    let change = async {
        played.have_read(3).await;
        played.store().fail_before(Method::Forget);
        assert!(played.handle.untrack_all(&[key("world")]).await.is_err());
        played.moves("world", 1);
        played.compute("world").await;
        played.hold("");
    };
    tokio::join!(below, change);
    assert_eq!(played.fresh("below"), None);
}

#[tokio::test]
async fn one_that_is_taken_and_has_not_begun_is_outdated_by_what_is_kept() {
    let played = Played::start(PAIR);
    played.compute("below").await;
    {
        let mut queue = played.handle.queue();
        queue.refresh(&key("below"), stale()).unwrap();
        let candidate = Candidate { product: "below".into(), urgent: false };
        let taken = queue.take(&candidate, 1, Instant::now());
        assert_eq!(taken.keys, [key("below")]);
    }
    played.moves("world", 1);
    played.compute("world").await;
    assert_eq!(played.fresh("below"), None);
}

#[tokio::test]
async fn a_key_that_is_let_go_and_does_not_fit_comes_when_there_is_room() {
    let config = Config { queued_keys: 1, connections: 1, ..BOUNDS };
    let played = Played::with(PAIR, config, |_| {});
    played.compute("world").await;
    played.handle.ledger().track(&key("below"));
    let _watching = played.handle.watch(vec![key("below")]);
    played.handle.queue().refresh(&key("aside"), stale()).unwrap();
    {
        let world = std::collections::HashSet::from([key("world")]);
        let held = &played.handle.shared.held;
        held.lock().unwrap().hold(&key("below"), world, None, Instant::now());
    }
    played.handle.let_go(&key("world"));
    let queued = played.handle.queue().is_pending(&key("below"));
    let missed = played.handle.shared.missed.lock().unwrap().contains_key("below");
    assert!(queued || missed);
}

/// What is made of it by this means, over an answer that is not fresh any more, and is that when it arrives.
fn begun_over_what_is_stale(means: Means) -> bool {
    let played = Stage::new(BOUNDS, PAIR.iter().map(|(name, _)| product(name)));
    played.handle.on_linked(links(PAIR));
    let mut below = (*product("below")).clone();
    let timeout = Duration::from_secs(1);
    let outside = Outside { means, timeout, depends: vec![], hidden: 0, made_of: vec![] };
    below.draft.recipe = Recipe::Outside(Box::new(outside));
    let keep = |name: &str| {
        let mut ledger = played.handle.ledger();
        let (lease, _) = ledger.track(&key(name));
        let terms = ledger.products[name].terms;
        let computed = Computed {
            lease,
            as_of: at(if name == "below" { 5 } else { 1 }),
            connection: 0,
            time: SourceTime(0),
            snapshot: Stamp(0),
            insert: Lsn(0),
            fingerprint: terms.fingerprint,
            shape: terms.shape,
            digest: 0,
            expires: None,
            cost_us: 1,
            bytes: 1,
        };
        assert!(matches!(ledger.accept(&key(name), &computed), Verdict::Accepted { .. }));
    };
    keep("world");
    let touched = HashMap::from([(key("world"), Lsn(5))]);
    drop(played.handle.mark(&touched, &HashMap::new(), &BTreeMap::new()));
    played.progress.send_modify(|progress| progress.visible = Lsn(5));
    played.handle.ledger().track(&key("below"));
    assert_eq!(played.handle.demands(&below, &key("below"), at(5)), at(5));
    keep("below");
    played.handle.look(&key("below")).is_none_or(|(standing, _)| !standing.sound)
}

#[test]
fn an_address_demands_nothing_and_may_have_read_whatever_there_was() {
    let program = Means::Exec { command: vec!["true".into()], workers: 1 };
    assert!(!begun_over_what_is_stale(program));
    let address = Means::Http { url: "http://localhost".into(), headers: vec![] };
    assert!(begun_over_what_is_stale(address));
}

#[tokio::test]
async fn what_is_fresh_is_not_computed_for_what_is_read_beside_it() {
    let played = Played::start(BESIDE);
    played.compute("below").await;
    played.moves("world", 1);
    played.compute("world").await;
    let _watching = played.handle.watch(vec![key("middle"), key("below")]);
    played.handle.queue_stale(&key("below"));
    // Were it, who is below would have it changed with every move of V.
    for number in 2..9 {
        played.moves("world", number);
        played.visible(number.unsigned_abs());
        played.until(|| played.fresh("below").is_some()).await;
    }
    // Three, the change, and two for it.
    assert_eq!(*played.world.read.borrow(), 6);
}

#[tokio::test]
async fn what_may_have_been_taken_back_is_read_by_none() {
    let played = Played::start(PAIR);
    played.world.insert.send_replace(Lsn(9));
    played.moves("world", 1);
    played.compute("world").await;
    // The source crashed: what the answer saw is gone, and with it the answer.
    let doubts = played.handle.ledger().disconnected(Lsn(5));
    assert_eq!(doubts.len(), 1);
    played.moves("world", 0);
    played.world.insert.send_replace(Lsn(5));
    played.compute("below").await;
    assert_ne!(played.fresh("below"), Some(1));
}

#[tokio::test]
async fn who_failed_is_computed_again_when_what_it_reads_changes() {
    let played = Played::start(PAIR);
    played.compute("below").await;
    let _watching = played.handle.watch(vec![key("below")]);
    played.world.fails.send_replace("below");
    played.moves("world", 1);
    played.compute("world").await;
    played.visible(2);
    played.until(|| !played.is_wanted("below")).await;
    played.world.fails.send_replace("");
    played.moves("world", 2);
    played.compute("world").await;
    assert!(played.is_wanted("below"));
    played.until(|| played.fresh("below") == Some(2)).await;
}

#[tokio::test]
async fn who_asks_for_what_is_outdated_already_gets_the_next() {
    let played = Played::start(CHAIN);
    played.compute("below").await;
    let mut put = played.store().hold(Method::Put);
    let middle = played.compute("middle");
    let change = async {
        // It has come, and is not over.
        put.reached().await;
        played.moves("world", 1);
        played.compute("world").await;
        let released = async {
            while played.handle.queue().waiters_of(&key("middle")).count() < 1 {
                tokio::task::yield_now().await;
            }
            put.release();
        };
        tokio::join!(played.compute("below"), released).0
    };
    assert_eq!(tokio::join!(middle, change), (0, 1));
    assert_eq!(played.fresh("below"), Some(1));
}

#[tokio::test]
async fn what_waits_for_an_answer_is_computed_when_that_is_there() {
    let played = Played::start(PAIR);
    played.compute("below").await;
    let _watching = played.handle.watch(vec![key("below")]);
    played.handle.evict(&[key("world")]).await.unwrap();
    assert_eq!(played.fresh("below"), None);
    assert!(!played.is_wanted("below"), "who goes for want of room wakes nobody");
    played.moves("world", 1);
    played.compute("world").await;
    played.until(|| played.fresh("below") == Some(1)).await;
}

#[tokio::test]
async fn what_was_outdated_while_it_ran_is_computed_again_when_all_is_there() {
    let played = Played::start(PAIR);
    played.compute("below").await;
    let _watching = played.handle.watch(vec![key("below")]);
    played.hold("below");
    let below = played.compute("below");
    let change = async {
        played.have_read(3).await;
        played.handle.evict(&[key("world")]).await.unwrap();
        played.moves("world", 1);
        played.compute("world").await;
        played.hold("");
    };
    assert_eq!(tokio::join!(below, change).0, 0);
    played.until(|| played.fresh("below") == Some(1)).await;
}
