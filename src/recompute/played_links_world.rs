//! A kck that is nothing but its tracked keys, its lane and a store, over a source of a few numbers: what random
//! histories are played on. It can be stopped at any point of any computation or write, and started again.
//!
//! An answer is its product's own number and the answers of those that it reads, added up, read as `serve::read` reads
//! for a program. Of every computation it is kept what it was made from; the insert position that it claims is its
//! number, so that an entry says which one made it.

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
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet, yield_now},
};

use crate::{
    change::{Epoch, Lsn, Position, SourceTime},
    entry::Stamp,
    key::Key,
    observe::Observer,
    product::{Catalog, Eager, Means, Outside, Product, Recipe, Slot},
    progress::Progress,
    store::{
        Forget, Store,
        faulty::{Faulty, Method},
        memory::Memory,
        state::State,
    },
};

use super::{
    Config, Handle, Parts, Ran, Run, RunError, Watching,
    ledger::{Ledger, Terms},
    played::{BOUNDS, DEADLINE, product},
    played_links::{Reads, key, links},
    queue::Want,
    reserve::{Floors, Reserve},
    worker::Worker,
};

/// Turns without a move after which nothing moves any more.
const QUIET: usize = 8;
/// Moves in which all must have come to rest.
const MOVES_MOST: usize = 500;
/// How long an answer lasts that expires.
const LASTS: Duration = Duration::from_secs(1000);

/// What a history is played on, one bit a product where it is some of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    pub(super) reads: Reads,
    /// Computed only for who reads them.
    pub(super) never: u8,
    pub(super) expire: u8,
    /// Addresses; the others are programs.
    pub(super) addresses: u8,
    /// How many keys may be tracked.
    pub(super) room: usize,
}

impl Setup {
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.reads.iter().map(|(name, _)| *name)
    }

    pub(super) fn name(&self, at: u8) -> &'static str {
        self.reads[usize::from(at) % self.reads.len()].0
    }

    fn is_in(&self, set: u8, name: &str) -> bool {
        self.names().position(|own| own == name).is_some_and(|at| set >> at & 1 == 1)
    }

    pub(super) fn is_address(&self, name: &str) -> bool {
        self.is_in(self.addresses, name)
    }

    pub(super) fn is_never(&self, name: &str) -> bool {
        self.is_in(self.never, name)
    }

    pub(super) fn reads_of(&self, name: &str) -> &'static [&'static str] {
        self.reads.iter().find(|(own, _)| *own == name).map_or(&[], |(_, reads)| reads)
    }

    /// A product, and all that read it, through every level.
    pub(super) fn below(&self, name: &'static str) -> Vec<&'static str> {
        let mut below = vec![name];
        for (own, reads) in self.reads {
            if reads.iter().any(|read| below.contains(read)) {
                below.push(own);
            }
        }
        below
    }

    fn products(&self) -> Vec<Arc<Product>> {
        let made = |name: &'static str| {
            let mut product = (*product(name)).clone();
            if self.is_in(self.never, name) {
                product.draft.policy.eager = Eager::Never;
            }
            if self.is_in(self.expire, name) {
                product.draft.policy.expire = Some(LASTS);
            }
            let means = if self.is_address(name) {
                Means::Http { url: "http://localhost".into(), headers: vec![] }
            } else {
                Means::Exec { command: vec!["true".into()], workers: 1 }
            };
            let timeout = Duration::from_secs(1);
            let outside = Outside { means, timeout, depends: vec![], hidden: 0, made_of: vec![] };
            product.draft.recipe = Recipe::Outside(Box::new(outside));
            Arc::new(product)
        };
        self.names().map(made).collect()
    }
}

/// A computation that came to its end.
#[derive(Debug, Clone)]
pub(super) struct Made {
    /// The last commit that its own number had seen.
    pub(super) own: Lsn,
    /// What it read.
    pub(super) reads: Vec<(Key, i64)>,
    pub(super) value: i64,
}

/// The source, and what stays of programs whoever asks them.
pub(super) struct World {
    pub(super) setup: Setup,
    /// The number of each product, and the last commit that moved it.
    numbers: Mutex<BTreeMap<&'static str, (i64, Lsn)>>,
    made: Mutex<Vec<Made>>,
    /// Computations of these stop before each step, save so many.
    closed: Mutex<BTreeMap<&'static str, usize>>,
    gates: watch::Sender<()>,
    /// The next computation of these fails.
    failing: Mutex<BTreeMap<String, usize>>,
    /// How often each was begun.
    calls: Mutex<BTreeMap<String, usize>>,
    moves: AtomicUsize,
}

impl World {
    pub(super) fn new(setup: Setup) -> Arc<Self> {
        Arc::new(Self {
            setup,
            numbers: Mutex::default(),
            made: Mutex::default(),
            closed: Mutex::default(),
            gates: watch::Sender::new(()),
            failing: Mutex::default(),
            calls: Mutex::default(),
            moves: AtomicUsize::new(0),
        })
    }

    pub(super) fn set(&self, name: &'static str, value: i64, commit: Option<Lsn>) {
        let mut numbers = self.numbers.lock().unwrap();
        let number = numbers.entry(name).or_default();
        *number = (value, commit.unwrap_or(number.1));
    }

    /// Positions of before mean nothing any more.
    pub(super) fn forget_commits(&self) {
        self.numbers.lock().unwrap().values_mut().for_each(|number| number.1 = Lsn(0));
    }

    pub(super) fn close(&self, name: &'static str) {
        self.closed.lock().unwrap().entry(name).or_default();
    }

    /// One step more.
    pub(super) fn step(&self, name: &str) {
        if let Some(steps) = self.closed.lock().unwrap().get_mut(name) {
            *steps += 1;
        }
        self.gates.send_replace(());
    }

    pub(super) fn open(&self, name: Option<&str>) {
        self.closed.lock().unwrap().retain(|own, _| name.is_some_and(|name| *own != name));
        self.gates.send_replace(());
    }

    pub(super) fn fail(&self, name: &str) {
        self.failing.lock().unwrap().insert(name.to_owned(), 1);
    }

    pub(super) fn fail_no_more(&self) {
        self.failing.lock().unwrap().clear();
    }

    pub(super) fn made(&self, number: Lsn) -> Made {
        let at = usize::try_from(number.0).unwrap() - 1;
        self.made.lock().unwrap()[at].clone()
    }

    /// How often each was begun.
    pub(super) fn calls(&self) -> BTreeMap<String, usize> {
        self.calls.lock().unwrap().clone()
    }

    fn moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    async fn pass(&self, name: &str) {
        let mut gates = self.gates.subscribe();
        loop {
            gates.borrow_and_update();
            match self.closed.lock().unwrap().get_mut(name) {
                None => break,
                Some(0) => {}
                Some(steps) => {
                    *steps -= 1;
                    break;
                }
            }
            gates.changed().await.unwrap();
        }
        self.moved();
    }

    /// Returns when nothing moves any more.
    pub(super) async fn settle(&self) -> Result<(), String> {
        let first = self.moves.load(Ordering::Relaxed);
        let (mut quiet, mut last) = (0, first);
        while last < first + MOVES_MOST {
            yield_now().await;
            let now = self.moves.load(Ordering::Relaxed);
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
            if quiet == QUIET {
                return Ok(());
            }
        }
        Err(format!("it does not come to rest: {:?}", self.calls()))
    }
}

/// How answers are made and read in one process.
struct Program {
    world: Arc<World>,
    handle: Handle,
    store: Arc<Faulty>,
    /// Bytes that readers have brought.
    near: Mutex<HashMap<(Key, Stamp), i64>>,
}

impl Program {
    async fn bytes(&self, key: &Key, stamp: Stamp) -> Option<i64> {
        let near = self.near.lock().unwrap().get(&(key.clone(), stamp)).copied();
        if near.is_some() {
            return near;
        }
        let entry = self.store.get(key).await.ok()??;
        (entry.meta.stamp == stamp).then(|| value(&entry.body))
    }

    /// As `serve::read` reads: at a position, or whatever there is.
    async fn read(&self, key: &Key, least: Option<Position>) -> Result<i64, RunError> {
        let mut progress = self.handle.shared.progress.clone();
        loop {
            self.world.moved();
            let visible = progress.borrow_and_update().as_of();
            if least.is_some_and(|least| least.epoch != visible.epoch) {
                return Err(failure("another epoch"));
            }
            let meets = |as_of: Position| least.is_none_or(|least| least <= as_of);
            let standing = self.handle.read(key).map(|(standing, _)| standing);
            let standing = standing.filter(|standing| least.is_none() || standing.sound);
            let value = match &standing {
                Some(standing) => self.bytes(key, standing.meta.stamp).await,
                None => None,
            };
            let want = match (standing, value) {
                (Some(standing), Some(value)) if meets(standing.meta.as_of) => {
                    if least.is_none() && !standing.fresh {
                        self.handle.queue_stale(key);
                    }
                    return Ok(value);
                }
                _ if self.is_behind(key, visible) => None,
                (Some(_), Some(_)) if visible < self.handle.ledger().mark_of(key) => None,
                (Some(_), Some(_)) => Some(visible),
                _ => Some(least.unwrap_or_default()),
            };
            if let Some(want) = want {
                let (as_of, value) = self.compute(key, Want::AtLeast(want)).await?;
                if meets(as_of) {
                    return Ok(value);
                }
            }
            progress.changed().await.unwrap();
        }
    }

    fn is_behind(&self, key: &Key, visible: Position) -> bool {
        let standing = self.handle.ledger().standing(key);
        standing.is_some_and(|standing| visible < standing.meta.as_of)
    }

    async fn compute(&self, key: &Key, want: Want) -> Result<(Position, i64), RunError> {
        let deadline = Instant::now() + DEADLINE;
        let computed = self.handle.compute(key, want, deadline).await;
        self.world.moved();
        let fresh = computed.map_err(|_| failure("what it reads"))?;
        let value = value(&fresh.body);
        if fresh.cached {
            self.near.lock().unwrap().insert((key.clone(), fresh.meta.stamp), value);
        }
        Ok((fresh.meta.as_of, value))
    }
}

fn failure(why: &'static str) -> RunError {
    RunError::Outside { fact: why, why: why.to_owned() }
}

fn value(body: &Bytes) -> i64 {
    String::from_utf8(body.to_vec()).unwrap().parse().unwrap()
}

#[async_trait]
impl Run for Program {
    async fn run(&self, product: &Product, keys: &[Key], as_of: Position) -> Result<Ran, RunError> {
        let (name, world) = (product.name(), &self.world);
        assert_eq!(keys.len(), 1, "one at a time");
        *world.calls.lock().unwrap().entry(name.to_owned()).or_default() += 1;
        world.pass(name).await;
        if world.failing.lock().unwrap().remove(name).is_some() {
            return Err(failure("told to"));
        }
        let time = self.handle.shared.progress.borrow().source_now(Instant::now()).unwrap();
        let number = world.numbers.lock().unwrap().get(name).copied();
        let (mut value, own) = number.unwrap_or_default();
        let least = (!world.setup.is_address(name)).then_some(as_of);
        let mut reads = Vec::new();
        for other in world.setup.reads_of(name) {
            world.pass(name).await;
            let read = self.read(&key(other), least).await?;
            value += read;
            reads.push((key(other), read));
        }
        world.pass(name).await;
        let mut made = world.made.lock().unwrap();
        made.push(Made { own, reads, value });
        let insert = Lsn(made.len() as u64);
        let values = vec![Bytes::from(value.to_string())];
        Ok(Ran { values, insert, time, ..Ran::default() })
    }
}

/// Computes what is queued, each key by itself, in the order of their texts.
async fn lane(handle: Handle, world: Arc<World>, program: Arc<Program>) {
    let worker = Arc::new(Worker::new(handle.clone(), program));
    let mut running = JoinSet::new();
    loop {
        let asked = handle.shared.asked_outside.notified();
        world.moved();
        handle.take_up();
        let now = Instant::now();
        let mut claims = Vec::new();
        loop {
            let mut queue = handle.queue();
            let Some(candidate) = queue.candidates_in(now, false).into_iter().next() else { break };
            claims.push(queue.take(&candidate, 1, now));
        }
        claims.sort_by(|one, other| one.keys.cmp(&other.keys));
        for claim in claims {
            let worker = Arc::clone(&worker);
            running.spawn(async move { worker.take_turn(claim, now).await });
        }
        while running.try_join_next().is_some() {}
        asked.await;
    }
}

/// A kck that runs.
pub(super) struct Process {
    pub(super) handle: Handle,
    pub(super) store: Arc<Faulty>,
    pub(super) progress: watch::Sender<Progress>,
    world: Arc<World>,
    program: Arc<Program>,
    watching: BTreeMap<&'static str, Watching>,
    /// What marks commits, one group at a time.
    pipeline: Option<JoinHandle<()>>,
    lane: JoinHandle<()>,
    tasks: JoinSet<()>,
    _catalog: watch::Sender<Arc<Catalog>>,
}

impl Process {
    /// Starts with what is at rest, as `rebuild` does.
    pub(super) async fn start(
        world: &Arc<World>,
        memory: &Arc<Memory>,
        term: u32,
        progress: Progress,
    ) -> Self {
        let store = Arc::new(Faulty::new(Arc::<Memory>::clone(memory)));
        let mut catalog = Catalog::default();
        let state = State::decode(&store.load().await.unwrap()).unwrap();
        let floors = Floors { stamp: state.stamp_floor, version: state.version_floor };
        let reserve = Reserve::new(Arc::clone(&store) as _, term, floors);
        reserve.ensure(floors.stamp.next(), floors.version).await.unwrap();
        let floor = floors.stamp.next();
        let mut ledger = Ledger::new(progress.epoch, term, floor, floors.version);
        for product in world.setup.products() {
            ledger.product(product.name(), Terms::of(&product), Position::default());
            let name = product.name().to_owned();
            catalog.products.insert(name, Slot::Ready { product, faults: vec![] });
        }
        let mut rubbish = Vec::new();
        let visit = &mut |scanned: crate::store::Scanned| {
            if scanned.lease.is_some() {
                assert!(ledger.recover(scanned, Lsn(u64::MAX)).is_none());
            } else {
                let mark = scanned.mark.unwrap_or_default();
                rubbish.push(Forget { key: scanned.key, stamp: floor, mark });
            }
        };
        store.scan(visit).await.unwrap();
        store.forget(&rubbish).await.unwrap();
        let linked = world.setup.reads.iter().filter(|(_, on)| !on.is_empty());
        linked.for_each(|(name, _)| ledger.outdate_product(name));
        let progress = watch::Sender::new(progress);
        let catalog = watch::Sender::new(Arc::new(catalog));
        let handle = Handle::new(Parts {
            config: Config { batch_keys: 1, tracked_keys: world.setup.room, ..BOUNDS },
            ledger,
            catalog: catalog.subscribe(),
            progress: progress.subscribe(),
            store: Arc::clone(&store) as _,
            reserve,
            observer: Observer::default(),
        });
        handle.on_linked(links(world.setup.reads));
        let program = Arc::new(Program {
            world: Arc::clone(world),
            handle: handle.clone(),
            store: Arc::clone(&store),
            near: Mutex::default(),
        });
        let lane = tokio::spawn(lane(handle.clone(), Arc::clone(world), Arc::clone(&program)));
        Self {
            handle,
            store,
            progress,
            world: Arc::clone(world),
            program,
            watching: BTreeMap::new(),
            pipeline: None,
            lane,
            tasks: JoinSet::new(),
            _catalog: catalog,
        }
    }

    /// Everything that it was about is dropped where it stands.
    pub(super) async fn crash(mut self) -> Progress {
        self.lane.abort();
        self.tasks.abort_all();
        self.pipeline.take().inspect(JoinHandle::abort);
        for _ in 0..QUIET {
            yield_now().await;
        }
        assert!(self.lane.is_finished());
        *self.progress.borrow()
    }

    /// Somebody has a key computed and waits for it.
    pub(super) fn compute(&mut self, name: &str, want: Want) {
        let (program, key) = (Arc::clone(&self.program), key(name));
        self.tasks.spawn(async move { drop(program.compute(&key, want).await) });
    }

    /// Somebody reads whatever there is.
    pub(super) fn read(&mut self, name: &str) {
        let (program, key) = (Arc::clone(&self.program), key(name));
        self.tasks.spawn(async move { drop(program.read(&key, None).await) });
    }

    pub(super) fn watch(&mut self, name: &'static str, watches: bool) {
        if watches {
            let watching = self.handle.watch(vec![key(name)]);
            self.watching.insert(name, watching);
        } else {
            self.watching.remove(name);
        }
    }

    /// Lets go of keys.
    pub(super) fn untrack(&mut self, keys: Vec<Key>) {
        let handle = self.handle.clone();
        self.tasks.spawn(async move { drop(handle.untrack_all(&keys).await) });
    }

    /// As the pipeline does: these keys are marked, durably, V goes to the last of them, and they are woken.
    pub(super) fn advance(&mut self, touched: HashMap<Key, Lsn>, to: Lsn) {
        let (handle, store) = (self.handle.clone(), Arc::clone(&self.store));
        let (progress, world) = (self.progress.clone(), Arc::clone(&self.world));
        self.pipeline = Some(tokio::spawn(async move {
            let marks = handle.mark(&touched, &HashMap::new(), &BTreeMap::new());
            while store.mark(&marks.keys).await.is_err() {
                world.moved();
            }
            progress.send_modify(|progress| progress.visible = to);
            let as_of = progress.borrow().as_of();
            handle.wake_due(as_of);
            handle.wake(&marks);
            world.moved();
        }));
    }

    /// Whether commits are being marked.
    pub(super) fn is_advancing(&self) -> bool {
        self.pipeline.as_ref().is_some_and(|pipeline| !pipeline.is_finished())
    }

    /// V goes on, since nothing is to be marked.
    pub(super) fn drift(&self, by: u64) {
        self.progress.send_modify(|progress| progress.visible.0 += by);
        let as_of = self.progress.borrow().as_of();
        self.handle.wake_due(as_of);
    }

    /// The source's history broke.
    pub(super) fn begin_epoch(&mut self) {
        self.pipeline.take().inspect(JoinHandle::abort);
        let epoch = Epoch(self.progress.borrow().epoch.0 + 1);
        self.handle.ledger().begin_epoch(epoch);
        self.progress.send_modify(|progress| (progress.epoch, progress.visible) = (epoch, Lsn(1)));
    }

    pub(super) fn joins(&self, name: &str, until: Lsn) {
        self.handle.ledger().joins(name, until);
    }

    pub(super) fn clock(&self, seconds: i64) {
        let clock = clock(seconds);
        self.progress.send_modify(|progress| progress.clock = clock);
    }

    /// The store does as it is told from now on.
    pub(super) fn forgive(&self) {
        for method in [Method::Mark, Method::Put, Method::Forget, Method::Track] {
            self.store.forgive(method);
        }
    }
}

/// The source's clock, which stands still.
pub(super) fn clock(seconds: i64) -> Option<(SourceTime, Instant)> {
    let never = Instant::now() + Duration::from_secs(1 << 30);
    Some((SourceTime(seconds * 1_000_000), never))
}
