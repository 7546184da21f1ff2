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
    key::Key,
    pattern::{Part, Pattern},
    product::{Eager, Means, Outside, Product, Recipe},
    store::{
        Store as _,
        faulty::{Faulty, Method},
    },
};

use super::{
    Config, Handle, Ran, Run, RunError,
    linked::Links,
    played::{BOUNDS, DEADLINE, Stage, product},
    queue::{Candidate, Stale, Want},
    worker,
};

/// Who reads whom, in the order of their ranks: the first reads none.
type Reads = &'static [(&'static str, &'static [&'static str])];

const CHAIN: Reads = &[("world", &[]), ("middle", &["world"]), ("below", &["middle"])];
const PAIR: Reads = &[("world", &[]), ("below", &["world"])];
const TWO: Reads = &[("world", &[]), ("other", &[]), ("below", &["world", "other"])];

/// The recipe.
struct World {
    reads: Reads,
    handle: OnceLock<Handle>,
    numbers: Mutex<BTreeMap<String, i64>>,
    answers: Mutex<HashMap<Key, i64>>,
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
        if let Some((standing, _)) = self.handle().read(&key)
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
        for key in keys {
            self.answers.lock().unwrap().insert(key.clone(), number);
        }
        let values = keys.iter().map(|_| Bytes::from(number.to_string())).collect();
        Ok(Ran { values, time: now.unwrap_or_default(), ..Ran::default() })
    }
}

struct Played {
    handle: Handle,
    world: Arc<World>,
    stage: Stage,
    _stop: DropGuard,
}

impl Played {
    fn start(reads: Reads) -> Self {
        Self::with(reads, BOUNDS, |_| {})
    }

    fn with(reads: Reads, config: Config, change: impl Fn(&mut Product)) -> Self {
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
            held: watch::Sender::new(""),
            read: watch::Sender::new(0),
        });
        assert!(world.handle.set(handle.clone()).is_ok());
        let shutdown = CancellationToken::new();
        tokio::spawn(worker::run(handle.clone(), Arc::clone(&world) as _, shutdown.clone()));
        Self { handle, world, stage, _stop: shutdown.drop_guard() }
    }

    fn store(&self) -> &Faulty {
        &self.stage.store
    }

    /// What the source does not tell of moves.
    fn moves(&self, name: &str, number: i64) {
        self.world.numbers.lock().unwrap().insert(name.to_owned(), number);
    }

    async fn compute(&self, name: &str) -> i64 {
        let deadline = Instant::now() + DEADLINE;
        let fresh = self.handle.compute(&key(name), Want::New, deadline).await.unwrap();
        String::from_utf8(fresh.body.to_vec()).unwrap().parse().unwrap()
    }

    /// What it stands for now, where that is called fresh.
    fn fresh(&self, name: &str) -> Option<i64> {
        let (standing, _) = self.handle.look(&key(name))?;
        standing.fresh.then(|| self.world.answers.lock().unwrap()[&key(name)])
    }

    fn hold(&self, name: &'static str) {
        self.world.held.send_replace(name);
    }

    /// Returns when so many computations have read what they read.
    async fn have_read(&self, times: usize) {
        let mut read = self.world.read.subscribe();
        let have = read.wait_for(|read| *read >= times);
        tokio::time::timeout(DEADLINE, have).await.expect("they read").unwrap();
    }

    /// V goes on.
    fn visible(&self, lsn: u64) {
        self.stage.progress.send_modify(|progress| progress.visible = Lsn(lsn));
        self.handle.wake_due(at(lsn));
    }

    fn clock(&self, seconds: i64) {
        let clock = Some((SourceTime(seconds * 1_000_000), Instant::now()));
        self.stage.progress.send_modify(|progress| progress.clock = clock);
    }

    async fn until(&self, is: impl Fn() -> bool) {
        let mut events = self.stage.observer.subscribe();
        let wait = async {
            while !is() {
                drop(events.recv().await);
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.expect("it comes to pass");
    }

    /// Of a key at rest: its entry's `as_of`, and its mark.
    async fn at_rest(&self, name: &str) -> (Option<Position>, Option<Position>) {
        let mut found = (None, None);
        let visit = &mut |scanned: crate::store::Scanned| {
            if scanned.key == key(name) {
                found = (scanned.meta.map(|meta| meta.as_of), scanned.mark);
            }
        };
        self.store().scan(visit).await.unwrap();
        found
    }

    /// Whether a start that finds the store as it is would call it stale, or finds nothing of it.
    async fn is_stale_at_rest(&self, name: &str) -> bool {
        let (entry, mark) = self.at_rest(name).await;
        entry < mark || entry.is_none()
    }
}

fn links(reads: Reads) -> Links {
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
        rank: Box::new(move |name| {
            reads.iter().position(|(own, _)| *own == name).map_or(0, |rank| rank + 1)
        }),
    }
}

fn key(name: &str) -> Key {
    Key::new(name, [])
}

fn at(lsn: u64) -> Position {
    Position { epoch: Epoch(1), lsn: Lsn(lsn) }
}

fn stale() -> Stale {
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
    assert!(played.is_stale_at_rest("below").await);
    // Once V has passed the marks, it is computed, and what is between for it.
    let _watching = played.handle.watch(vec![key("below")]);
    played.visible(2);
    played.until(|| played.fresh("below").is_some()).await;
    assert_eq!((played.fresh("middle"), played.fresh("below")), (Some(1), Some(1)));
}

#[tokio::test]
async fn what_is_computed_while_something_above_waits_for_v_is_stale() {
    let played = Played::start(CHAIN);
    assert_eq!(played.compute("middle").await, 0);
    played.moves("world", 1);
    played.compute("world").await;
    // V is where it was: what it reads is not computed again yet.
    played.compute("below").await;
    assert_ne!(played.fresh("below"), Some(0));
    assert!(played.fresh("below").is_some() || played.is_stale_at_rest("below").await);
    let _watching = played.handle.watch(vec![key("below")]);
    played.visible(2);
    played.until(|| played.fresh("below") == Some(1)).await;
}

#[tokio::test]
async fn nothing_is_kept_of_a_change_whose_marks_were_not() {
    let played = Played::start(PAIR);
    played.compute("below").await;
    played.moves("world", 1);
    played.store().fail_before(Method::Mark);
    let _watching = played.handle.watch(vec![key("below")]);
    played.compute("world").await;
    assert_eq!(played.fresh("below"), None);
    // The same bytes again: the mark is still owed.
    played.compute("world").await;
    assert!(played.is_stale_at_rest("below").await);
    played.visible(2);
    played.until(|| played.fresh("below") == Some(1)).await;
}

#[tokio::test]
async fn no_change_is_kept_before_the_mark_that_another_is_writing() {
    let played = Played::start(TWO);
    played.compute("below").await;
    played.moves("world", 1);
    played.moves("other", 1);
    let mut mark = played.store().hold(Method::Mark);
    let one = played.compute("world");
    let other = async {
        mark.reached().await;
        played.compute("other").await;
        // A crash now finds the other's new answer, and with it the mark.
        assert!(played.is_stale_at_rest("below").await);
        mark.release();
    };
    tokio::join!(one, other);
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
    assert!(played.is_stale_at_rest("below").await);
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
async fn who_saw_an_answer_is_marked_before_it_is_deleted() {
    let played = Played::start(CHAIN);
    played.compute("below").await;
    let mut forget = played.store().hold(Method::Forget);
    let world = [key("world")];
    let untracked = played.handle.untrack_all(&world);
    let look = async {
        forget.reached().await;
        for name in ["middle", "below"] {
            assert!(played.is_stale_at_rest(name).await, "{name}");
            assert_eq!(played.fresh(name), None);
        }
        forget.release();
    };
    let (untracked, ()) = tokio::join!(untracked, look);
    untracked.unwrap();
}

#[tokio::test]
async fn who_runs_over_an_answer_that_could_not_be_deleted_is_marked() {
    let played = Played::start(PAIR);
    played.compute("below").await;
    played.hold("below");
    let below = played.compute("below");
    let change = async {
        played.have_read(3).await;
        played.store().fail_before(Method::Forget);
        assert!(played.handle.untrack(&key("world")).await.is_err());
        played.moves("world", 1);
        played.compute("world").await;
        played.hold("");
    };
    tokio::join!(below, change);
    assert_eq!(played.fresh("below"), None);
}

#[tokio::test]
async fn one_that_is_taken_and_has_not_begun_is_marked_for_what_is_kept() {
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
async fn what_began_in_another_epoch_marks_nothing_in_this_one() {
    let played = Played::start(PAIR);
    played.visible(1000);
    played.compute("below").await;
    played.hold("below");
    let below = played.compute("below");
    let change = async {
        played.have_read(3).await;
        played.handle.ledger().begin_epoch(Epoch(2));
        played.stage.progress.send_modify(|progress| {
            (progress.epoch, progress.visible) = (Epoch(2), Lsn(1));
        });
        played.moves("world", 1);
        played.compute("world").await;
        let mark = played.handle.ledger().mark_of(&key("below"));
        played.hold("");
        mark
    };
    let (_, mark) = tokio::join!(below, change);
    assert!(mark < Position { epoch: Epoch(2), lsn: Lsn(1000) }, "{mark}");
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

#[test]
fn a_key_is_held_for_few_of_many() {
    let played = Stage::new(BOUNDS, ["p", "q"].map(product));
    let parts: Box<[Part]> = Box::new([Part::Any]);
    let pattern = Pattern { product: "q".into(), parts };
    for n in 0..1000 {
        let key = Key::new("q", [n.to_string().as_str()]);
        played.handle.queue().refresh(&key, stale()).unwrap();
    }
    let needs = pattern.clone();
    played.handle.on_linked(Links {
        needs: Box::new(move |_| (vec![], vec![needs.clone()])),
        dependents: Box::new(|_| vec![]),
        rank: Box::new(|name| if name == "q" { 1 } else { 2 }),
    });
    assert!(played.handle.hold(&key("p"), None));
    let held = played.handle.shared.held.lock().unwrap();
    assert!(held.needs() <= 16, "{}", held.needs());
}

/// What marks a key that runs by this means and demands more than there was, when what it reads changes.
async fn marked_by(means: Means) -> Position {
    let played = Played::start(PAIR);
    played.compute("world").await;
    let touched = HashMap::from([(key("world"), Lsn(5))]);
    drop(played.handle.mark(&touched, &HashMap::new(), &BTreeMap::new()));
    played.visible(5);
    let mut below = (*product("below")).clone();
    let timeout = Duration::from_secs(1);
    let outside = Outside { means, timeout, depends: vec![], hidden: 0, made_of: vec![] };
    below.draft.recipe = Recipe::Outside(Box::new(outside));
    played.handle.ledger().track(&key("below"));
    {
        let mut queue = played.handle.queue();
        queue.refresh(&key("below"), stale()).unwrap();
        queue.take(&Candidate { product: "below".into(), urgent: false }, 1, Instant::now());
        queue.begin(&[key("below")], at(5));
    }
    assert_eq!(played.handle.demands(&below, &key("below"), at(5)), at(5));
    played.moves("world", 1);
    played.compute("world").await;
    played.handle.ledger().mark_of(&key("below"))
}

#[tokio::test]
async fn an_address_demands_nothing_and_may_have_read_whatever_there_was() {
    let program = Means::Exec { command: vec!["true".into()], workers: 1 };
    assert_eq!(marked_by(program).await, at(0));
    let address = Means::Http { url: "http://localhost".into(), headers: vec![] };
    assert_eq!(marked_by(address).await, at(6));
}

#[tokio::test]
async fn a_mark_is_above_the_one_that_was_deleted_with_its_key() {
    let played = Played::start(PAIR);
    for number in 1..4 {
        played.compute("below").await;
        played.moves("world", number);
        played.compute("world").await;
        assert!(played.is_stale_at_rest("below").await, "{number}");
        played.handle.untrack(&key("below")).await.unwrap();
    }
}
