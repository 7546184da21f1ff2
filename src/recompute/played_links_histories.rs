//! Random histories over products that depend on each other, on [`played_links_world`](super::played_links_world).
//!
//! What is promised, and looked at after each action, of every key that is called fresh, in memory and by a start that
//! would find the store as it is:
//!
//! - Each answer that it was made from is what that key stands for now: it is there and can be used, and its value is
//!   the same. That answer's own answers are so too, and so on up, whether or not they are called fresh.
//! - Each of these, itself included, has seen every commit of its own number that V has passed.
//! - An address is told no position and reads what there is, however stale: of what it read only the values must be
//!   those that stand, and nothing is asked of what is above.
//!
//! In the end, when nothing is held and V goes on, every key that somebody reads is fresh within a few rounds, and none
//! was computed more often than a few times; one commit more has each computed once.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tokio::runtime::Builder;

use crate::{
    change::{Epoch, Lsn, Position},
    key::Key,
    progress::Progress,
    store::{
        Store,
        faulty::{self, Method},
        memory::Memory,
    },
};

use super::{
    played_links::{BESIDE, CHAIN, PAIR, Reads, TWO, key},
    played_links_world::{Process, Setup, World, clock},
    queue::Want,
};

/// Histories that the tests run, unless `KCK_LINKS__HISTORIES` says another number.
const HISTORIES: u64 = 400;
/// Rounds of V in which all must be fresh in the end.
const ROUNDS: usize = 6;

const DIAMOND: Reads =
    &[("world", &[]), ("left", &["world"]), ("right", &["world"]), ("below", &["left", "right"])];
const GRAPHS: [Reads; 5] = [PAIR, CHAIN, TWO, DIAMOND, BESIDE];

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn one_of<T: Copy>(&mut self, some: &[T]) -> T {
        some[usize::from(self.byte()) % some.len()]
    }

    /// Some of eight, few.
    fn few(&mut self) -> u8 {
        self.byte() & self.byte()
    }
}

/// What happens to a write.
#[derive(Debug, Clone, Copy)]
enum Fault {
    FailBefore,
    FailAfter,
    HoldBefore,
    HoldAfter,
}

/// Products by their places.
#[derive(Debug, Clone, Copy)]
enum Action {
    /// A number moves, and nothing tells of it.
    Move(u8, i64),
    /// The same by a commit.
    Commit(u8, i64),
    /// Commits are marked, and V passes them: the first, or all.
    Advance(bool),
    /// V goes on.
    Drift(u64),
    Compute(u8),
    /// Somebody demands V.
    Demand(u8),
    Read(u8),
    Watch(u8, bool),
    /// Computations stop before each step.
    Close(u8),
    Step(u8),
    Open(u8),
    /// The next computation fails.
    Fail(u8),
    /// Keys are let go of.
    Untrack(u8),
    Store(Method, Fault),
    /// A write that is held goes on.
    Release(u8),
    Clock(i64),
    /// Its answers are not kept, or are again.
    Joins(u8, bool),
    Epoch,
    /// A start goes on from where V is.
    Record,
    Crash,
}

/// A kind of action: its name, how often it happens in an even mix, and one of it.
type Kind = (&'static str, u64, fn(&mut Random) -> Action);

const KINDS: [Kind; 20] = [
    ("move", 100, |random| Action::Move(random.byte(), random.below(3).cast_signed())),
    ("commit", 60, |random| Action::Commit(random.byte(), random.below(3).cast_signed())),
    ("advance", 120, |random| Action::Advance(random.byte() < 128)),
    ("drift", 60, |random| Action::Drift(1 + random.below(3))),
    ("compute", 160, |random| Action::Compute(random.byte())),
    ("demand", 40, |random| Action::Demand(random.byte())),
    ("read", 100, |random| Action::Read(random.byte())),
    ("watch", 30, |random| Action::Watch(random.byte(), random.byte() < 170)),
    ("close", 60, |random| Action::Close(random.byte())),
    ("step", 120, |random| Action::Step(random.byte())),
    ("open", 40, |random| Action::Open(random.byte())),
    ("fail", 10, |random| Action::Fail(random.byte())),
    ("untrack", 30, |random| Action::Untrack(random.few())),
    ("store", 40, store),
    ("release", 50, |random| Action::Release(random.byte())),
    ("clock", 20, |random| Action::Clock(300 * (1 + random.below(3).cast_signed()))),
    ("joins", 20, |random| Action::Joins(random.byte(), random.byte() < 100)),
    ("epoch", 3, |_| Action::Epoch),
    ("record", 40, |_| Action::Record),
    ("crash", 15, |_| Action::Crash),
];

/// What happens so many times as often as in an even mix.
const FOCUSES: [&[(&str, u64)]; 6] = [
    &[],
    // Keys leave and come again while the store is away.
    &[("untrack", 5), ("store", 5), ("compute", 2), ("epoch", 0)],
    // Starts.
    &[("crash", 5), ("record", 2), ("store", 3), ("untrack", 2)],
    // Programs take long.
    &[("close", 3), ("step", 3), ("open", 2), ("epoch", 0), ("crash", 0)],
    // Nothing is kept of some.
    &[("joins", 6), ("store", 2), ("untrack", 2), ("epoch", 0)],
    ADDRESSES,
];
/// Who reads whatever there is takes long.
const ADDRESSES: &[(&str, u64)] = &[
    ("close", 4),
    ("step", 6),
    ("commit", 3),
    ("advance", 2),
    ("compute", 2),
    ("crash", 0),
    ("epoch", 0),
    ("joins", 0),
    ("untrack", 0),
    ("store", 0),
    ("fail", 0),
];

fn store(random: &mut Random) -> Action {
    let method = random.one_of(&[Method::Mark, Method::Put, Method::Forget, Method::Track]);
    let fault =
        random.one_of(&[Fault::FailBefore, Fault::FailAfter, Fault::HoldBefore, Fault::HoldAfter]);
    Action::Store(method, fault)
}

/// A history as it goes.
struct Play {
    world: Arc<World>,
    memory: Arc<Memory>,
    process: Process,
    term: u32,
    /// Of this epoch.
    commits: Vec<(&'static str, Lsn)>,
    recorded: Lsn,
    clock: i64,
    held: Vec<faulty::Held>,
}

/// What an entry stands for: the number of the computation that made it.
type View<'v> = &'v dyn Fn(&Key) -> Option<Lsn>;

impl Play {
    async fn new(setup: Setup) -> Self {
        let (world, memory) = (World::new(setup), Arc::new(Memory::default()));
        let progress =
            Progress { epoch: Epoch(1), visible: Lsn(1), clock: clock(0), ..Progress::default() };
        let process = Process::start(&world, &memory, 1, progress).await;
        let recorded = Lsn(1);
        Self { world, memory, process, term: 1, commits: vec![], recorded, clock: 0, held: vec![] }
    }

    fn setup(&self) -> &Setup {
        &self.world.setup
    }

    fn visible(&self) -> Position {
        self.process.progress.borrow().as_of()
    }

    async fn act(&mut self, action: Action) -> Result<(), String> {
        let setup = *self.setup();
        match action {
            Action::Move(at, value) => self.world.set(setup.name(at), value, None),
            Action::Commit(at, value) => self.commit(setup.name(at), value),
            Action::Advance(all) => self.advance(all),
            Action::Drift(by) => {
                if self.waiting() == 0 {
                    self.process.drift(by);
                }
            }
            Action::Compute(at) => self.process.compute(setup.name(at), Want::New),
            Action::Demand(at) => {
                let visible = self.visible();
                self.process.compute(setup.name(at), Want::AtLeast(visible));
            }
            Action::Read(at) => self.process.read(setup.name(at)),
            Action::Watch(at, watches) => self.process.watch(setup.name(at), watches),
            Action::Close(at) => self.world.close(setup.name(at)),
            Action::Step(at) => self.world.step(setup.name(at)),
            Action::Open(at) => self.world.open(Some(setup.name(at))),
            Action::Fail(at) => self.world.fail(setup.name(at)),
            Action::Untrack(set) => {
                let some = setup.names().enumerate().filter(|(at, _)| set >> at & 1 == 1);
                self.process.untrack(some.map(|(_, name)| key(name)).collect());
            }
            Action::Store(method, fault) => self.break_store(method, fault),
            Action::Release(at) if !self.held.is_empty() => {
                let at = usize::from(at) % self.held.len();
                self.held.remove(at).release();
            }
            Action::Release(_) => {}
            Action::Clock(by) => {
                self.clock += by;
                self.process.clock(self.clock);
            }
            Action::Joins(at, is_kept) => {
                let until = if is_kept { Lsn(0) } else { Lsn(u64::MAX) };
                self.process.joins(setup.name(at), until);
            }
            Action::Epoch => {
                self.process.begin_epoch();
                self.commits.clear();
                self.recorded = self.visible().lsn;
                self.world.forget_commits();
            }
            Action::Record => self.recorded = self.visible().lsn,
            Action::Crash => self.crash().await,
        }
        self.settle().await
    }

    /// Returns when nothing moves any more.
    async fn settle(&mut self) -> Result<(), String> {
        self.world.settle().await
    }

    fn break_store(&mut self, method: Method, fault: Fault) {
        let store = &self.process.store;
        match fault {
            Fault::FailBefore => store.fail_before(method),
            Fault::FailAfter => store.fail_after(method),
            Fault::HoldBefore => self.held.push(store.hold(method)),
            Fault::HoldAfter => self.held.push(store.hold_after(method)),
        }
    }

    async fn crash(&mut self) {
        let mut progress = *self.process.progress.borrow();
        progress.insert = progress.insert.max(progress.visible);
        progress.visible = self.recorded;
        self.term += 1;
        // What ran is dropped before what it waited for is let go.
        let next = Process::start(&self.world, &self.memory, self.term, progress);
        let (world, held) = (Arc::clone(&self.world), std::mem::take(&mut self.held));
        let before = std::mem::replace(&mut self.process, next.await);
        before.crash().await;
        drop(held);
        world.open(None);
    }

    fn commit(&mut self, name: &'static str, value: i64) {
        let progress = *self.process.progress.borrow();
        let last = self.commits.last().map_or(Lsn(0), |(_, at)| *at);
        let last = last.max(progress.visible).max(progress.insert);
        let at = Lsn(last.0 + 1);
        self.commits.push((name, at));
        self.world.set(name, value, Some(at));
    }

    /// Commits that V has not passed.
    fn waiting(&self) -> usize {
        let visible = self.visible().lsn;
        self.commits.iter().filter(|(_, at)| visible < *at).count()
    }

    fn advance(&mut self, all: bool) {
        let waiting = self.waiting();
        if waiting == 0 || self.process.is_advancing() {
            return;
        }
        let group = &self.commits[self.commits.len() - waiting..];
        let group = if all { group } else { &group[..1] };
        let mut touched = HashMap::new();
        for (name, at) in group {
            // The rules of those below may say less than their links do.
            let all = self.setup().below(name);
            let told = if at.0 % 2 == 0 { &all[..1] } else { &all };
            touched.extend(told.iter().map(|name| (key(name), *at)));
        }
        let to = group[group.len() - 1].1;
        self.process.advance(touched, to);
    }

    /// What is called fresh and is not right.
    async fn check(&self) -> Result<(), String> {
        let handle = &self.process.handle;
        let standing = |key: &Key| handle.look(key).map(|(standing, _)| standing);
        let view = |key: &Key| standing(key).map(|standing| standing.meta.insert);
        for name in self.setup().names() {
            if standing(&key(name)).is_some_and(|standing| standing.fresh) {
                self.right(name, &view).map_err(|why| format!("{name} is fresh: {why}"))?;
            }
        }
        let (visible, now) = (self.visible(), clock(self.clock).unwrap().0);
        let mut at_rest = BTreeMap::new();
        let mut fresh = Vec::new();
        let visit = &mut |scanned: crate::store::Scanned| {
            let entry = scanned.meta.filter(|meta| Some(meta.lease) == scanned.lease);
            let entry = entry.filter(|meta| meta.expires.is_none_or(|expires| now < expires));
            let Some(meta) = entry else { return };
            // What is made from others' answers is outdated by every start.
            let alone = self.setup().reads_of(scanned.key.product()).is_empty();
            if alone
                && meta.as_of.epoch == visible.epoch
                && scanned.mark.unwrap_or_default() <= meta.as_of
            {
                fresh.push(scanned.key.clone());
            }
            at_rest.insert(scanned.key, meta.insert);
        };
        self.memory.scan(visit).await.unwrap();
        let view = |key: &Key| at_rest.get(key).copied();
        for key in fresh {
            let why = self.right(key.product(), &view);
            why.map_err(|why| format!("{key} is fresh after a start: {why}"))?;
        }
        Ok(())
    }

    /// Whether an entry is what it is promised to be, by what all stand for.
    fn right(&self, name: &str, view: View<'_>) -> Result<(), String> {
        let Some(number) = view(&key(name)) else { return Err(format!("{name} has no answer")) };
        let made = self.world.made(number);
        let visible = self.visible().lsn;
        let mut passed = self.commits.iter().filter(|(of, at)| *of == name && *at <= visible);
        if let Some((_, at)) = passed.next_back()
            && made.own < *at
        {
            return Err(format!("{name} has not seen its commit at {at}, and V is {visible}"));
        }
        for (other, value) in &made.reads {
            let Some(number) = view(other) else {
                return Err(format!("{other}, that {name} was made from, has no answer"));
            };
            let now = self.world.made(number).value;
            if now != *value {
                return Err(format!("{name} was made from {other} = {value}, which is {now}"));
            }
            if !self.setup().is_address(name) {
                self.right(other.product(), view)?;
            }
        }
        Ok(())
    }

    /// Nothing is held any more, and V goes on: all are fresh soon.
    async fn end(&mut self) -> Result<(), String> {
        let setup = *self.setup();
        self.process.forgive();
        self.held.clear();
        self.world.fail_no_more();
        self.world.open(None);
        for name in setup.names() {
            self.process.joins(name, Lsn(0));
        }
        self.settle().await?;
        self.advance(true);
        self.settle().await?;
        let progress = *self.process.progress.borrow();
        self.process.drift(progress.insert.0.saturating_sub(progress.visible.0));
        self.settle().await?;
        self.check().await?;
        for name in setup.names() {
            self.process.watch(name, true);
        }
        let before = self.world.calls();
        for _ in 0..ROUNDS {
            if self.waiting() == 0 {
                self.process.drift(100);
            }
            self.round().await?;
        }
        let has_room = setup.room >= setup.reads.len();
        if !has_room {
            return Ok(());
        }
        for name in setup.names() {
            self.is_fresh(name)?;
            let calls = self.calls_since(&before, name);
            if calls > ROUNDS {
                return Err(format!("{name} was computed {calls} times in the end"));
            }
        }
        // What moved before shows now, and what the store did not take it does.
        for name in setup.names() {
            self.process.compute(name, Want::New);
            self.settle().await?;
            self.process.drift(1);
            self.round().await?;
        }
        self.one_commit().await?;
        self.one_change().await
    }

    /// All are fresh: a commit has each that it touches computed once, without a read where products are eager.
    async fn one_commit(&mut self) -> Result<(), String> {
        let (setup, before) = (*self.setup(), self.world.calls());
        self.commit(setup.name(0), 7);
        self.advance(true);
        self.settle().await?;
        if setup.names().all(|name| !setup.is_never(name)) {
            setup.names().try_for_each(|name| self.is_fresh(name))?;
        }
        self.round().await?;
        self.once_each(&before, "for one commit")
    }

    /// The same of a change that no commit tells of, where each key is exact as of another position; and one that
    /// changes nothing has nothing else computed.
    async fn one_change(&mut self) -> Result<(), String> {
        let setup = *self.setup();
        let mut below: Vec<&str> = setup.names().skip(1).collect();
        below.reverse();
        for name in below {
            self.process.drift(2);
            let before = self.world.calls();
            self.process.compute(name, Want::New);
            self.settle().await?;
            for other in setup.names() {
                let calls = self.calls_since(&before, other);
                if calls != usize::from(other == name) {
                    return Err(format!("{other} was computed {calls} times for {name} alone"));
                }
            }
        }
        let before = self.world.calls();
        self.world.set(setup.name(0), 8, None);
        self.process.compute(setup.name(0), Want::New);
        self.settle().await?;
        for _ in 0..3 {
            self.check().await?;
            self.process.drift(1);
            self.settle().await?;
        }
        self.round().await?;
        self.once_each(&before, "for one change")
    }

    fn once_each(&self, before: &BTreeMap<String, usize>, what: &str) -> Result<(), String> {
        let setup = self.setup();
        let touched = setup.below(setup.name(0));
        for name in setup.names() {
            self.is_fresh(name)?;
            let calls = self.calls_since(before, name);
            if calls != usize::from(touched.contains(&name)) {
                return Err(format!("{name} was computed {calls} times {what}"));
            }
        }
        Ok(())
    }

    /// Commits are marked, and everything is read.
    async fn round(&mut self) -> Result<(), String> {
        self.advance(true);
        self.settle().await?;
        let names = self.setup().names();
        for name in names {
            self.process.read(name);
            self.settle().await?;
        }
        self.check().await
    }

    fn calls_since(&self, before: &BTreeMap<String, usize>, name: &str) -> usize {
        let calls = |calls: &BTreeMap<String, usize>| calls.get(name).copied().unwrap_or(0);
        calls(&self.world.calls()) - calls(before)
    }

    fn is_fresh(&self, name: &str) -> Result<(), String> {
        let standing = self.process.handle.look(&key(name));
        if standing.is_some_and(|(standing, _)| standing.fresh) {
            return Ok(());
        }
        let mark = self.process.handle.ledger().mark_of(&key(name));
        Err(format!("{name} is not fresh in the end: marked at {mark}, V is {}", self.visible()))
    }
}

/// What these actions break.
fn replay(setup: Setup, actions: &[Action]) -> Option<String> {
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut play = Play::new(setup).await;
        for action in actions {
            let acted = match play.act(*action).await {
                Ok(()) => play.check().await,
                wrong => wrong,
            };
            if let Err(why) = acted {
                return Some(format!("after {action:?}: {why}"));
            }
        }
        play.end().await.err()
    })
}

/// The history of a seed.
fn history(seed: u64) -> (Setup, Vec<Action>) {
    let mut random = Random(seed);
    let reads = random.one_of(&GRAPHS);
    let some = |random: &mut Random| if random.byte() < 128 { random.few() } else { 0 };
    let often = random.one_of(&FOCUSES);
    let has_addresses = often == ADDRESSES || random.byte() < 50;
    let setup = Setup {
        reads,
        never: some(&mut random),
        expire: some(&mut random),
        addresses: if has_addresses { random.byte() } else { 0 },
        room: if random.byte() < 30 { reads.len() - 1 } else { 1000 },
    };
    // Some things happen often in this history and some hardly ever.
    let mut weight = |(name, even, _): &Kind| {
        let often = often.iter().find(|(kind, _)| kind == name).map_or(1, |(_, often)| *often);
        even * often * random.one_of(&[0, 2, 5, 10, 10, 30])
    };
    let weights: Vec<u64> = KINDS.iter().map(&mut weight).collect();
    let sum: u64 = weights.iter().sum::<u64>().max(1);
    let length = random.one_of(&[15, 30, 30, 60]);
    let mut actions = Vec::new();
    while actions.len() < length {
        let mut at = random.below(sum);
        let kind = weights.iter().position(|weight| {
            let found = at < *weight;
            at = at.saturating_sub(*weight);
            found
        });
        let (_, _, make) = KINDS[kind.unwrap_or(0)];
        actions.push(make(&mut random));
    }
    (setup, actions)
}

/// Leaves actions out as long as something is still broken.
fn shrink(setup: Setup, mut actions: Vec<Action>) -> Vec<Action> {
    let mut size = actions.len();
    while size > 0 {
        let mut at = 0;
        while at < actions.len() {
            let mut fewer = actions.clone();
            fewer.drain(at..(at + size).min(fewer.len()));
            if replay(setup, &fewer).is_some() {
                actions = fewer;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    actions
}

#[expect(clippy::disallowed_methods, reason = "a test has no settings to read it from")]
fn setting(name: &str, otherwise: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn no_history_makes_anything_fresh_that_is_not() {
    let first = setting("KCK_LINKS__FIRST", 0);
    for seed in first..first + setting("KCK_LINKS__HISTORIES", HISTORIES) {
        let (setup, actions) = history(seed);
        if replay(setup, &actions).is_some() {
            let actions = shrink(setup, actions);
            let why = replay(setup, &actions);
            let actions: String = actions.iter().map(|action| format!("\n  {action:?}")).collect();
            panic!("seed {seed}: {why:?} over {setup:?}{actions}");
        }
    }
}

/// After a start V is behind where it was: what commits mark again is hidden by what was deleted there, and what is let go
/// of then must not be.
#[test]
fn what_is_marked_again_after_a_start_is_not_hidden_by_what_was_deleted() {
    let setup = Setup { reads: DIAMOND, never: 4, expire: 0, addresses: 0, room: 1000 };
    let actions = [
        Action::Commit(2, 2),
        Action::Demand(3),
        Action::Advance(true),
        Action::Untrack(12),
        Action::Crash,
        Action::Compute(3),
        Action::Advance(true),
        Action::Untrack(1),
    ];
    assert_eq!(replay(setup, &actions), None);
}
