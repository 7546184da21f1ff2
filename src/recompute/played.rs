//! Workers over a recipe that does as it is told: who waits, who dies, who throws, who takes too long.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    change::{Epoch, Lsn, Position, SourceTime},
    entry::Stamp,
    key::Key,
    observe::{Counter, Observer},
    product::{Catalog, Eager, Means, Outside, Product, Recipe, Slot, fixture},
    progress::Progress,
    store::{faulty::Faulty, memory::Memory},
};

use super::{
    Config, Error, Handle, Parts, Ran, Run, RunError,
    ledger::{Ledger, Terms},
    queue::{Order, Want},
    reserve::{Floors, Reserve},
    worker,
};

pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// What a call of the recipe does, once its turn has come.
enum Act {
    Answer,
    Fail(RunError),
    Die,
}

/// Says what the call of this number for these keys does.
type Script = dyn Fn(usize, &[Key]) -> Act + Send + Sync;

struct Played {
    script: Box<Script>,
    calls: Mutex<Vec<Vec<Key>>>,
    count: watch::Sender<usize>,
    /// Calls of products that are not held go on at once.
    held: watch::Sender<Option<&'static str>>,
    clock: AtomicUsize,
}

#[async_trait]
impl Run for Played {
    async fn run(&self, product: &Product, keys: &[Key], _: Position) -> Result<Ran, RunError> {
        let number = {
            let mut calls = self.calls.lock().unwrap();
            calls.push(keys.to_vec());
            calls.len()
        };
        self.count.send_replace(number);
        let mut held = self.held.subscribe();
        held.wait_for(|held| *held != Some(product.name())).await.unwrap();
        match (self.script)(number, keys) {
            Act::Answer => {}
            Act::Fail(error) => return Err(error),
            Act::Die => panic!("the recipe came to an end"),
        }
        let time = self.clock.fetch_add(1, Ordering::Relaxed);
        let value = |key: &Key| Bytes::from(format!("\"{key} {time}\""));
        Ok(Ran {
            values: keys.iter().map(value).collect(),
            time: SourceTime(i64::try_from(time).unwrap()),
            spent: Duration::from_micros(keys.len() as u64),
            ..Ran::default()
        })
    }
}

/// Workers, and what they work on.
struct Works {
    handle: Handle,
    played: Arc<Played>,
    observer: Observer,
    progress: watch::Sender<Progress>,
    catalog: watch::Sender<Arc<Catalog>>,
    _stop: DropGuard,
}

pub(super) fn product(name: &str) -> Arc<Product> {
    fixture::product(name, 0, "")
}

/// What workers work on.
pub(super) struct Stage {
    pub(super) handle: Handle,
    pub(super) observer: Observer,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) catalog: watch::Sender<Arc<Catalog>>,
    pub(super) store: Arc<Faulty>,
}

impl Stage {
    pub(super) fn new(config: Config, products: impl IntoIterator<Item = Arc<Product>>) -> Self {
        let observer = Observer::default();
        let mut ledger = Ledger::new(Epoch(1), 1, Stamp(0), 0);
        let mut catalog = Catalog::default();
        for product in products {
            ledger.product(product.name(), Terms::of(&product), Default::default());
            let name = product.name().to_owned();
            catalog.products.insert(name, Slot::Ready { product, faults: vec![] });
        }
        let progress = Progress { epoch: Epoch(1), visible: Lsn(1), ..Progress::default() };
        let (progress, catalog) =
            (watch::Sender::new(progress), watch::Sender::new(Arc::new(catalog)));
        let store = Arc::new(Faulty::new(Arc::new(Memory::default())));
        let handle = Handle::new(Parts {
            config,
            ledger,
            catalog: catalog.subscribe(),
            progress: progress.subscribe(),
            reserve: Reserve::new(Arc::clone(&store) as _, 1, Floors::default()),
            store: Arc::clone(&store) as _,
            observer: observer.clone(),
        });
        Self { handle, observer, progress, catalog, store }
    }
}

pub(super) const BOUNDS: Config = Config {
    connections: 4,
    database_share: 100.0,
    strategy: Order::Worth,
    tracked_keys: 1_000_000,
    stored_bytes: u64::MAX,
    answer_bytes: 1 << 20,
    queued_keys: 100_000,
    batch_keys: 200,
    batch_time: Duration::from_millis(50),
};

impl Works {
    fn start(config: Config, script: Box<Script>) -> Self {
        let Stage { handle, observer, progress, catalog, .. } =
            Stage::new(config, ["p", "q"].map(product));
        let played = Arc::new(Played {
            script,
            calls: Mutex::default(),
            count: watch::Sender::new(0),
            held: watch::Sender::new(None),
            clock: AtomicUsize::new(1),
        });
        let shutdown = CancellationToken::new();
        tokio::spawn(worker::run(handle.clone(), Arc::clone(&played) as _, shutdown.clone()));
        let stop = shutdown.drop_guard();
        Self { handle, played, observer, progress, catalog, _stop: stop }
    }

    fn calls(&self) -> Vec<Vec<Key>> {
        self.played.calls.lock().unwrap().clone()
    }

    async fn called(&self, times: usize) {
        let mut count = self.played.count.subscribe();
        let called = count.wait_for(|count| *count >= times);
        tokio::time::timeout(DEADLINE, called).await.expect("it is called").unwrap();
    }

    async fn get(&self, key: &Key) -> Result<String, Error> {
        let fresh = self.handle.compute(key, Want::Any, Instant::now() + DEADLINE).await?;
        Ok(String::from_utf8(fresh.body.to_vec()).unwrap())
    }

    fn is_fresh(&self, key: &Key) -> bool {
        self.handle.look(key).is_some_and(|(standing, _)| standing.fresh)
    }

    /// A commit touches these keys, and is visible.
    fn touch(&self, keys: &[Key], at: Lsn) {
        let touched: HashMap<Key, Lsn> = keys.iter().map(|key| (key.clone(), at)).collect();
        let marks = self.handle.mark(&touched, &HashMap::new(), &BTreeMap::new());
        self.progress.send_modify(|progress| progress.visible = at);
        self.handle.wake(&marks);
    }

    /// Returns when `is` holds: looked at again at every event.
    async fn until(&self, is: impl Fn() -> bool) {
        let mut events = self.observer.subscribe();
        let wait = async {
            while !is() {
                // That some were missed is an event as well.
                drop(events.recv().await);
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.expect("it comes to pass");
    }
}

fn keys(product: &str, count: usize) -> Vec<Key> {
    (0..count).map(|n| Key::new(product, [n.to_string().as_str()])).collect()
}

/// A thousand wait for one key when what computes it ends so; how often it was computed.
async fn herd(end: fn() -> Act) -> (Works, usize) {
    const READERS: usize = 1000;
    let script = move |number: usize, _: &[Key]| if number == 1 { end() } else { Act::Answer };
    let works = Works::start(BOUNDS, Box::new(script));
    works.played.held.send_replace(Some("p"));
    let key = Key::new("p", ["7"]);
    let readers = join_all((0..READERS).map(|_| works.get(&key)));
    let release = async {
        works.called(1).await;
        while works.handle.counts().waiters < READERS {
            tokio::task::yield_now().await;
        }
        works.played.held.send_replace(None);
    };
    let (answers, ()) = tokio::join!(readers, release);
    assert!(answers.iter().all(|answer| answer == &answers[0] && answer.is_ok()), "{answers:?}");
    assert_eq!(works.handle.counts().waiters, 0);
    assert_eq!(works.handle.counts().running, 0);
    let calls = works.calls().len();
    (works, calls)
}

#[tokio::test]
async fn who_waits_for_a_worker_that_dies_is_answered_by_the_next() {
    let (works, calls) = herd(|| Act::Die).await;
    assert_eq!(calls, 2);
    works.until(|| works.observer.counted(Counter::WorkersDied) == 1).await;
}

#[tokio::test]
async fn who_waits_for_a_connection_that_is_lost_is_answered_by_the_next() {
    let (works, calls) = herd(|| Act::Fail(RunError::Unavailable("terminated".into()))).await;
    assert_eq!((calls, works.observer.counted(Counter::WorkersDied)), (2, 0));
}

#[tokio::test]
async fn a_source_that_is_away_is_asked_once_more_and_then_said_to_be() {
    let away = |_: usize, _: &[Key]| Act::Fail(RunError::Unavailable("away".into()));
    let works = Works::start(BOUNDS, Box::new(away));
    let answer = works.get(&Key::new("p", ["7"])).await;
    assert_eq!(answer, Err(Error::SourceUnavailable("away".into())));
    assert_eq!(works.calls().len(), 2);
}

/// Goal: nothing is lost where every worker dies, each of them more than once. Method: one of a batch makes whoever
/// computes it die, always.
#[tokio::test]
async fn a_key_that_kills_harms_nobody_but_who_asks_for_it() {
    let deadly = Key::new("p", ["3"]);
    let script = move |_: usize, keys: &[Key]| {
        if keys.contains(&deadly) { Act::Die } else { Act::Answer }
    };
    let works = Works::start(Config { connections: 1, ..BOUNDS }, Box::new(script));
    for _ in 0..3 {
        let keys = keys("p", 8);
        let answers = join_all(keys.iter().map(|key| works.get(key))).await;
        for (key, answer) in keys.iter().zip(answers) {
            let fails = key.as_str() == "p/3";
            assert_eq!(answer.is_err(), fails, "{key}: {answer:?}");
        }
    }
    works.until(|| works.observer.counted(Counter::WorkersDied) >= 4).await;
}

/// Computes so many keys in batches, so that the next is of the full size.
async fn practised(works: &Works) {
    let keys = keys("p", 1000);
    let answers = join_all(keys.iter().map(|key| works.get(key))).await;
    assert!(answers.iter().all(Result::is_ok));
    while works.handle.crew().batches.plan("p").keys < 200 {
        join_all(keys.iter().map(|key| works.get(key))).await;
    }
}

/// Asks for all of these while the only worker is held, so that they go together; the calls since come back.
async fn together(works: &Works, keys: &[Key]) -> Vec<Vec<Key>> {
    let before = works.calls().len();
    works.played.held.send_replace(Some("q"));
    let other = Key::new("q", ["0"]);
    let answers = join_all(keys.iter().map(|key| works.get(key)));
    let release = async {
        works.called(before + 1).await;
        while works.handle.counts().waiters < keys.len() + 1 {
            tokio::task::yield_now().await;
        }
        works.played.held.send_replace(None);
    };
    let held = works.get(&other);
    let (held, answers, ()) = tokio::join!(held, answers, release);
    held.unwrap();
    for (key, answer) in keys.iter().zip(answers) {
        assert_eq!(answer.is_err(), key.as_str() == "p/throws", "{key}: {answer:?}");
    }
    works.calls().split_off(before + 1)
}

#[tokio::test]
async fn one_key_that_throws_is_found_by_halving_and_goes_alone_from_then_on() {
    let throws = Key::new("p", ["throws"]);
    let script = move |_: usize, keys: &[Key]| {
        if keys.contains(&throws) {
            Act::Fail(RunError::Statement { sqlstate: "22012".into() })
        } else {
            Act::Answer
        }
    };
    let works = Works::start(Config { connections: 1, ..BOUNDS }, Box::new(script));
    practised(&works).await;
    let mut all = keys("p", 199);
    all.insert(77, Key::new("p", ["throws"]));
    let calls = together(&works, &all).await;
    // Each of log2(200) halvings fails and succeeds once, beside the first.
    assert!(calls.len() <= 2 * 8 + 1, "{}", calls.len());
    let mut calls: Vec<usize> = together(&works, &all).await.iter().map(Vec::len).collect();
    // A trial of singles may be among them.
    calls.retain(|keys| *keys != 1);
    assert_eq!(calls, [199]);
}

#[tokio::test]
async fn a_product_that_fails_for_every_key_is_not_halved_for_ever() {
    let fails = |_: usize, keys: &[Key]| {
        if keys[0].product() == "q" || keys[0].as_str().len() < 6 {
            return Act::Answer;
        }
        Act::Fail(RunError::Statement { sqlstate: "42P01".into() })
    };
    let works = Works::start(Config { connections: 1, ..BOUNDS }, Box::new(fails));
    practised(&works).await;
    let keys: Vec<Key> = (0..200).map(|n| Key::new("p", [format!("fails{n}").as_str()])).collect();
    let before = works.calls().len();
    let answers = join_all(keys.iter().map(|key| works.get(key))).await;
    assert!(answers.iter().all(Result::is_err));
    let calls = works.calls().len() - before;
    assert!(calls < 60, "{calls}");
}

#[tokio::test]
async fn a_slow_product_never_takes_the_others_workers() {
    let works = Works::start(BOUNDS, Box::new(|_, _| Act::Answer));
    works.played.held.send_replace(Some("p"));
    let slow = keys("p", 200);
    let slow = async { join_all(slow.iter().map(|key| works.get(key))).await };
    let fast = async {
        works.called(3).await;
        for key in keys("q", 9) {
            works.get(&key).await.unwrap();
        }
        let running = works.calls().iter().filter(|keys| keys[0].product() == "p").count();
        assert_eq!(running, 3, "one place is left to others");
        works.played.held.send_replace(None);
    };
    let (slow, ()) = tokio::join!(slow, fast);
    assert!(slow.iter().all(Result::is_ok));
}

#[tokio::test]
async fn watched_keys_that_did_not_fit_are_computed_when_there_is_room() {
    let config = Config { queued_keys: 100, ..BOUNDS };
    let works = Works::start(config, Box::new(|_, _| Act::Answer));
    let keys = keys("p", 3000);
    for some in keys.chunks(50) {
        join_all(some.iter().map(|key| works.get(key))).await.iter().for_each(|got| {
            got.as_ref().unwrap();
        });
    }
    let _watching = works.handle.watch(keys.clone());
    works.touch(&keys, Lsn(2));
    assert!(works.handle.counts().queued <= 100);
    works.until(|| keys.iter().all(|key| works.is_fresh(key))).await;
}

#[tokio::test]
async fn what_could_not_be_computed_is_when_the_source_is_back() {
    let script = |number: usize, _: &[Key]| match number {
        2..=3 => Act::Fail(RunError::Unavailable("away".into())),
        _ => Act::Answer,
    };
    let works = Works::start(BOUNDS, Box::new(script));
    let key = Key::new("p", ["7"]);
    works.get(&key).await.unwrap();
    let _watching = works.handle.watch(vec![key.clone()]);
    works.touch(std::slice::from_ref(&key), Lsn(2));
    works.until(|| works.is_fresh(&key)).await;
    assert_eq!(works.calls().len(), 4);
}

#[tokio::test]
async fn what_is_read_too_soon_is_computed_when_v_is_there() {
    let works = Works::start(BOUNDS, Box::new(|_, _| Act::Answer));
    works.catalog.send_modify(|catalog| {
        let mut product = (*product("p")).clone();
        product.draft.policy.eager = Eager::Never;
        let slot = Slot::Ready { product: Arc::new(product), faults: vec![] };
        Arc::make_mut(catalog).products.insert("p".into(), slot);
    });
    let key = Key::new("p", ["1"]);
    works.get(&key).await.unwrap();
    let touched = HashMap::from([(key.clone(), Lsn(10))]);
    let marks = works.handle.mark(&touched, &HashMap::new(), &BTreeMap::new());
    works.handle.queue_stale(&key);
    assert_eq!(works.handle.counts().queued, 0, "it would have to be done again");
    works.progress.send_modify(|progress| progress.visible = Lsn(10));
    works.handle.wake(&marks);
    works.handle.wake_due(Position { epoch: Epoch(1), lsn: Lsn(10) });
    works.called(2).await;
    works.until(|| works.is_fresh(&key)).await;
}

#[tokio::test]
async fn keys_that_an_interval_holds_back_go_together() {
    let works = Works::start(BOUNDS, Box::new(|_, _| Act::Answer));
    let (start, interval) = (Instant::now(), Duration::from_secs(1));
    let slots: Vec<Instant> = (0..1000)
        .map(|ms| {
            let then = start + Duration::from_millis(ms);
            let slot = works.handle.slot_of(then, interval);
            assert!(
                then <= slot && slot < then + interval / 10,
                "never sooner, and not much later"
            );
            slot
        })
        .collect();
    let all: std::collections::BTreeSet<Instant> = slots.into_iter().collect();
    assert!(all.len() <= 11, "{}", all.len());
    let short = works.handle.slot_of(start, Duration::from_nanos(1));
    assert!(short <= start + Duration::from_nanos(1));
}

#[tokio::test]
async fn a_key_that_is_being_computed_is_not_driven_out() {
    let works = Works::start(Config { tracked_keys: 1, ..BOUNDS }, Box::new(|_, _| Act::Answer));
    works.played.held.send_replace(Some("p"));
    let slow = Key::new("p", ["1"]);
    let others = keys("q", 20);
    let storm = async {
        works.called(1).await;
        for key in &others {
            works.get(key).await.unwrap();
        }
        works.played.held.send_replace(None);
    };
    let (answer, ()) = tokio::join!(works.get(&slow), storm);
    answer.unwrap();
    let own = works.calls().iter().filter(|keys| keys.contains(&slow)).count();
    assert_eq!(own, 1, "its result was kept, and nothing had to be done again");
}

#[tokio::test]
async fn a_program_that_takes_no_more_keeps_nobody_else_waiting() {
    let works = Works::start(Config { queued_keys: 100, ..BOUNDS }, Box::new(|_, _| Act::Answer));
    works.catalog.send_modify(|catalog| {
        let mut program = (*product("p")).clone();
        let means = Means::Exec { command: vec!["true".into()], workers: 1 };
        let timeout = Duration::from_secs(1);
        let outside = Outside { means, timeout, depends: vec![], hidden: 0, made_of: vec![] };
        program.draft.recipe = Recipe::Outside(Box::new(outside));
        let slot = Slot::Ready { product: Arc::new(program), faults: vec![] };
        Arc::make_mut(catalog).products.insert("p".into(), slot);
    });
    // Nobody computes programs here: their keys stay queued, and others do not fit.
    let many = keys("p", 30);
    for key in &many {
        works.handle.ledger().track(key);
    }
    let _watching = works.handle.watch(many.clone());
    works.touch(&many, Lsn(5));
    assert!(!works.handle.take_up(), "there is nothing to do now, and it is said so");
    let key = Key::new("q", ["1"]);
    works.get(&key).await.unwrap();
    works.touch(std::slice::from_ref(&key), Lsn(6));
    works.handle.did_not_fit("q");
    let _watching = works.handle.watch(vec![key.clone()]);
    works.handle.take_up();
    works.until(|| works.is_fresh(&key)).await;
}
