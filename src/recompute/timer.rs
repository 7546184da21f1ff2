//! Time → work: ticks, warm domains and expiries put keys into the queue, at most as fast as it takes them.
//!
//! What is decided is decided in [`schedule`](super::schedule), [`early`](super::early) and the ledger; this acts.
//! A tick is a walk over the product's tracked keys, in parts: whatever was not computed since the tick is queued, and
//! what is still older some time later is queued again, so that neither a full queue nor a source that is away makes a
//! key miss its tick.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinSet};

use crate::{
    change::SourceTime,
    key::Key,
    observe::{Counter, Event},
    postgres,
    product::{Catalog, Product, Slot},
    store::{StateCell, state},
};

use super::{
    Handle,
    schedule::{Punctual, Schedules, Tick, Ticks, jitter},
    temperature::Warmed,
    warm::{self, AT_ONCE, after},
};

/// A warm domain is read again after this, and at each tick.
const DOMAIN_EVERY: Duration = Duration::from_secs(300);
/// What a walk or a domain did not come to is tried again after this, doubling …
const RETRY_FIRST: Duration = Duration::from_secs(5);
/// … up to this.
const RETRY_MOST: Duration = Duration::from_secs(300);
/// While the queue is full.
const WAIT: Duration = Duration::from_millis(50);
/// While a product joins, or is broken.
const JOIN_WAIT: Duration = Duration::from_millis(200);
/// The longest pause: a clock that was set, or a machine that slept, is noticed after it.
const PAUSE_MOST: Duration = Duration::from_secs(1);

/// What was computed before a tick is computed again.
struct Walk {
    tick: SourceTime,
    spread: Duration,
    /// The keys behind this text are still to be looked at.
    from: String,
    /// The tick moved while it was under way: once more from the beginning.
    again: bool,
    /// Keys of this round that were older than the tick.
    older: u64,
    /// The next round begins then.
    due: SourceTime,
    retry: Duration,
}

/// A product's warm domain.
struct Domain {
    due: SourceTime,
    retry: Duration,
    /// Tells its readings apart: 1 or 2.
    reading: u8,
    taking: Option<Taking>,
}

/// A reading of a domain that is being taken up.
struct Taking {
    /// As it was asked: a key of another form of it has no meaning.
    product: Arc<Product>,
    keys: Vec<Key>,
    at: usize,
    /// Keys for which there was no room.
    left_out: u64,
    /// All are taken up; keys behind this text may be named no more.
    cooling: Option<String>,
}

/// How a part of some work went.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Went {
    /// There is more to do.
    On,
    /// The queue takes no more for now, or nothing would be kept.
    Held,
    /// For now nothing is left.
    Done,
}

/// A product, as it was asked for its domain, and what came of it.
type Read = (Arc<Product>, Result<Vec<Key>, String>);

/// Keeps the time for all products.
pub struct Timer {
    handle: Handle,
    source: Arc<postgres::run::Pool>,
    catalog: watch::Receiver<Arc<Catalog>>,
    schedules: Schedules,
    /// Products that were seen since the start, in the form they were seen in.
    known: BTreeMap<String, Arc<Product>>,
    walks: BTreeMap<String, Walk>,
    domains: BTreeMap<String, Domain>,
    /// Last ticks to be made durable; `None`: to be forgotten.
    unsaved: BTreeMap<String, Option<SourceTime>>,
    /// What the ledger was told of when products are overdue.
    judged: BTreeMap<String, Punctual>,
    /// Products that ticked, came, went or say something else since it was told.
    moved: BTreeSet<String>,
    reads: JoinSet<Read>,
}

impl Timer {
    /// A timer of these products; `before` are the last ticks that an earlier start made durable. Warm queries run on
    /// `source`.
    #[must_use]
    pub fn new(
        handle: Handle,
        source: postgres::run::Pool,
        before: BTreeMap<String, SourceTime>,
    ) -> Self {
        let catalog = handle.shared.catalog.clone();
        Self {
            handle,
            source: Arc::new(source),
            catalog,
            schedules: Schedules::new(before),
            known: BTreeMap::new(),
            walks: BTreeMap::new(),
            domains: BTreeMap::new(),
            unsaved: BTreeMap::new(),
            judged: BTreeMap::new(),
            moved: BTreeSet::new(),
            reads: JoinSet::new(),
        }
    }

    /// Keeps the time for as long as kck runs.
    pub async fn run(mut self) {
        self.catalog.mark_changed();
        loop {
            let Some(now) = self.now() else {
                // The first barrier says what time it is.
                let mut progress = self.handle.shared.progress.clone();
                if progress.wait_for(|progress| progress.clock.is_some()).await.is_err() {
                    return;
                }
                continue;
            };
            if self.catalog.has_changed().unwrap_or(false) {
                self.take_up(now);
            }
            self.strike(now);
            self.save().await;
            self.publish(now);
            let went = [self.walk(now), self.take_domains(now), self.before_expiry(now)];
            self.ask_domains(now);
            if went.contains(&Went::On) {
                tokio::task::yield_now().await;
                continue;
            }
            let pause = if went.contains(&Went::Held) { WAIT } else { self.pause(now) };
            let handle = self.handle.clone();
            let read = tokio::select! {
                () = tokio::time::sleep(pause) => None,
                () = handle.shared.sooner.notified() => None,
                changed = self.catalog.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.catalog.mark_changed();
                    None
                }
                Some(read) = self.reads.join_next() => Some(read),
            };
            match read {
                None => {}
                Some(Ok(read)) => self.domain_read(read),
                Some(Err(error)) if error.is_panic() => {
                    std::panic::resume_unwind(error.into_panic())
                }
                Some(Err(_)) => return,
            }
        }
    }

    fn now(&self) -> Option<SourceTime> {
        self.handle.shared.progress.borrow().source_now(Instant::now())
    }

    /// Products came, went, or say something else.
    fn take_up(&mut self, now: SourceTime) {
        let catalog = Arc::clone(&self.catalog.borrow_and_update());
        let gone: BTreeSet<String> = self
            .schedules
            .products()
            .chain(self.known.keys())
            .filter(|name| !catalog.products.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            self.schedules.remove(&name);
            self.known.remove(&name);
            self.walks.remove(&name);
            self.domains.remove(&name);
            self.moved.insert(name.clone());
            self.unsaved.insert(name, None);
        }
        for (name, slot) in &catalog.products {
            let Slot::Ready { product, .. } = slot else { continue };
            let before = self.known.insert(name.clone(), Arc::clone(product));
            if before.as_ref().is_none_or(|before| !Arc::ptr_eq(before, product)) {
                self.take_up_product(name, product, before.as_deref(), now);
            }
        }
    }

    fn take_up_product(
        &mut self,
        name: &str,
        product: &Product,
        before: Option<&Product>,
        now: SourceTime,
    ) {
        let policy = &product.draft.policy;
        self.moved.insert(name.to_owned());
        if let Some(last) = self.schedules.take_up(name, policy.clocks(), now) {
            // The tick before this start may not have come to its end.
            self.begin_walk(name, last, Duration::ZERO, now);
        }
        if before.is_none() && policy.at_boot() {
            self.begin_walk(name, now, Duration::ZERO, now);
        }
        if !policy.is_timed() && !policy.at_boot() {
            self.walks.remove(name);
        }
        let warmed = before.and_then(|before| before.draft.policy.warm.as_ref());
        if policy.warm.is_some() || warmed.is_some() {
            let domain = self.domains.entry(name.to_owned()).or_insert(Domain {
                due: now,
                retry: RETRY_FIRST,
                reading: 1,
                taking: None,
            });
            (domain.due, domain.taking) = (now, None);
        }
    }

    fn begin_walk(&mut self, name: &str, tick: SourceTime, spread: Duration, now: SourceTime) {
        let walk = self.walks.entry(name.to_owned()).or_insert(Walk {
            tick,
            spread,
            from: String::new(),
            again: false,
            older: 0,
            due: now,
            retry: RETRY_FIRST,
        });
        walk.tick = walk.tick.max(tick);
        (walk.spread, walk.retry, walk.due) = (spread, RETRY_FIRST, walk.due.min(now));
        // Those behind are looked at first: a short period must not leave the last keys out for ever.
        walk.again = !walk.from.is_empty();
    }

    fn strike(&mut self, now: SourceTime) {
        for Tick { product, at, spread, kept } in self.schedules.due(now) {
            self.begin_walk(&product, at, spread, now);
            if let Some(domain) = self.domains.get_mut(&product) {
                domain.due = domain.due.min(now);
            }
            self.moved.insert(product.clone());
            if kept {
                self.unsaved.insert(product.clone(), Some(at));
            }
            self.handle.shared.observer.note(Event::Ticked { product, at });
        }
    }

    /// A tick that is not made durable comes again after a restart, which is told from its walk: work, and no harm.
    async fn save(&mut self) {
        if self.unsaved.is_empty() {
            return;
        }
        let stamp = self.handle.state_stamp();
        let cell = |(product, at): (&String, &Option<SourceTime>)| state::tick(product, *at, stamp);
        let cells: Vec<StateCell> = self.unsaved.iter().map(cell).collect();
        match self.handle.shared.store.save(&cells).await {
            Ok(()) => self.unsaved.clear(),
            Err(error) => tracing::warn!(%error, "last ticks are not kept while the store is away"),
        }
    }

    /// What is overdue is judged by the ledger, and when products are due is shown: said anew of those of which something
    /// else is to be said by now.
    fn publish(&mut self, now: SourceTime) {
        let passed = self.judged.iter().filter(|(_, punctual)| punctual.then <= now);
        self.moved.extend(passed.map(|(name, _)| name.clone()));
        for name in std::mem::take(&mut self.moved) {
            let product = self.known.get(&name).filter(|product| product.goes_by_schedule());
            let punctual = product.and_then(|_| self.schedules.punctual(&name, now));
            self.handle.ledger().judge(&name, punctual);
            match punctual {
                Some(punctual) => self.judged.insert(name.clone(), punctual),
                None => self.judged.remove(&name),
            };
            let mut ticks = self.handle.shared.ticks.lock().unwrap_or_else(PoisonError::into_inner);
            match self.schedules.ticks(&name) {
                Some(shown) => ticks.insert(name, shown),
                None => ticks.remove(&name),
            };
        }
    }

    /// Whether what is computed of a product now is kept.
    fn keeps(&self, name: &str) -> bool {
        let visible = self.handle.shared.progress.borrow().visible;
        let product = self.known.get(name);
        product.is_some_and(|product| self.handle.ledger().keeps(product, visible))
    }

    /// One part of each walk that is due.
    fn walk(&mut self, now: SourceTime) -> Went {
        let mut went = Went::Done;
        let mut walks = std::mem::take(&mut self.walks);
        walks.retain(|name, walk| {
            if walk.due > now {
                return true;
            }
            if !self.keeps(name) {
                walk.due = later(now, JOIN_WAIT);
                return true;
            }
            let part = self.part(name, walk, now);
            went = went.and(part);
            if part != Went::Done {
                return true;
            }
            walk.from.clear();
            if std::mem::take(&mut walk.again) {
                went = Went::On;
                return true;
            }
            // What was queued is computed meanwhile; what is still older then is queued once more.
            let rest = walk.spread + walk.retry;
            walk.due = later(now, rest);
            walk.retry = (walk.retry * 2).min(RETRY_MOST);
            std::mem::take(&mut walk.older) > 0
        });
        self.walks = walks;
        went
    }

    fn part(&self, name: &str, walk: &mut Walk, now: SourceTime) -> Went {
        let keys = {
            let ledger = self.handle.ledger();
            let keys = ledger.some_from(name, &walk.from, AT_ONCE);
            let older = |key: Key| (ledger.is_older(&key, walk.tick), key);
            keys.into_iter().map(older).collect::<Vec<_>>()
        };
        if keys.is_empty() {
            return Went::Done;
        }
        for (older, key) in keys {
            if older {
                let due = later(walk.tick, jitter(&key, walk.spread));
                if !self.handle.queue_at(&key, due, now) {
                    return Went::Held;
                }
                walk.older += 1;
            }
            walk.from = after(&key);
        }
        Went::On
    }

    /// Hot keys are computed again before they expire.
    fn before_expiry(&self, now: SourceTime) -> Went {
        for _ in 0..AT_ONCE {
            if !self.handle.has_room() {
                return Went::Held;
            }
            let Some(key) = self.handle.ledger().take_early(now) else { return Went::Done };
            if self.handle.queue_at(&key, now, now) {
                self.handle.shared.observer.count(Counter::EarlyRefreshes, 1);
            }
        }
        Went::On
    }

    /// Asks for the domains that are due, one after the other.
    fn ask_domains(&mut self, now: SourceTime) {
        if !self.reads.is_empty() {
            return;
        }
        let mut domains = std::mem::take(&mut self.domains);
        let due = |domain: &&mut Domain| domain.due <= now && domain.taking.is_none();
        for (name, domain) in &mut domains {
            let Some(product) = self.known.get(name).filter(|_| due(&domain)) else { continue };
            if !self.keeps(name) {
                domain.due = later(now, JOIN_WAIT);
                continue;
            }
            domain.due = later(now, DOMAIN_EVERY);
            let (handle, source) = (self.handle.clone(), Arc::clone(&self.source));
            let product = Arc::clone(product);
            self.reads.spawn(async move {
                let keys = warm::keys(&handle, &source, &product).await;
                (product, keys)
            });
            break;
        }
        self.domains = domains;
    }

    fn domain_read(&mut self, (product, keys): Read) {
        let now = self.now().unwrap_or_default();
        let known =
            self.known.get(product.name()).is_some_and(|known| Arc::ptr_eq(known, &product));
        let Some(domain) = self.domains.get_mut(product.name()).filter(|_| known) else { return };
        match keys {
            Ok(keys) => {
                domain.retry = RETRY_FIRST;
                domain.reading = 3 - domain.reading;
                domain.taking = Some(Taking { product, keys, at: 0, left_out: 0, cooling: None });
            }
            Err(why) => {
                domain.due = domain.due.min(later(now, domain.retry));
                domain.retry = (domain.retry * 2).min(RETRY_MOST);
                let product = product.name().to_owned();
                self.handle.shared.observer.note(Event::WarmFailed { product, why });
            }
        }
    }

    /// One part of each domain that is being taken up.
    fn take_domains(&mut self, now: SourceTime) -> Went {
        let mut went = Went::Done;
        let mut domains = std::mem::take(&mut self.domains);
        domains.retain(|name, domain| {
            if domain.taking.is_some() && !self.keeps(name) {
                (domain.taking, domain.due) = (None, later(now, JOIN_WAIT));
            }
            let Some(taking) = &mut domain.taking else { return true };
            let part = match &mut taking.cooling {
                None => self.take_part(taking, domain.reading, now),
                Some(from) => self.cool_part(name, from, domain.reading),
            };
            went = went.and(part);
            if part != Went::Done {
                return true;
            }
            if taking.cooling.is_none() {
                taking.cooling = Some(String::new());
                went = Went::On;
                return true;
            }
            let keys = taking.keys.len() as u64 - taking.left_out;
            let (product, left_out) = (name.clone(), taking.left_out);
            domain.taking = None;
            self.handle.shared.observer.note(Event::Warmed { product, keys, left_out });
            // One that has no domain any more has cooled down now.
            self.known.get(name).is_some_and(|product| product.draft.policy.warm.is_some())
        });
        self.domains = domains;
        went
    }

    fn take_part(&self, taking: &mut Taking, reading: u8, now: SourceTime) -> Went {
        let most = self.handle.shared.config.tracked_keys;
        let some = taking.keys.iter().skip(taking.at).take(AT_ONCE);
        let visible = self.handle.shared.progress.borrow().visible;
        let warmed: Vec<(&Key, Warmed)> = {
            let mut ledger = self.handle.ledger();
            if !ledger.keeps(&taking.product, visible) {
                return Went::Held;
            }
            some.map(|key| (key, ledger.warm_up(key, reading, most))).collect()
        };
        if warmed.is_empty() {
            return Went::Done;
        }
        for (key, warmed) in warmed {
            match warmed {
                Warmed::Fresh => {}
                Warmed::Wanting if self.handle.queue_at(key, now, now) => {}
                Warmed::Wanting => return Went::Held,
                Warmed::NoRoom => taking.left_out += 1,
            }
            taking.at += 1;
        }
        Went::On
    }

    fn cool_part(&self, name: &str, from: &mut String, reading: u8) -> Went {
        let mut ledger = self.handle.ledger();
        let keys = ledger.some_from(name, from, AT_ONCE);
        ledger.cool_down(&keys, reading);
        let Some(last) = keys.last() else { return Went::Done };
        *from = after(last);
        Went::On
    }

    /// Until something is due.
    fn pause(&self, now: SourceTime) -> Duration {
        let walks = self.walks.values().map(|walk| walk.due);
        let reading = !self.reads.is_empty();
        let domains = self.domains.values().filter(|_| !reading).map(|domain| domain.due);
        let others = [self.schedules.next(), self.handle.ledger().first_early()];
        let first = walks.chain(domains).chain(others.into_iter().flatten()).min();
        match first.map_or(PAUSE_MOST, |first| until(now, first)) {
            // What is due and was not begun waits for a product that joins.
            Duration::ZERO => WAIT,
            until => until.min(PAUSE_MOST),
        }
    }
}

impl Went {
    /// Of two pieces of work: what is held must not keep the other waiting.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::On, _) | (_, Self::On) => Self::On,
            (Self::Held, _) | (_, Self::Held) => Self::Held,
            _ => Self::Done,
        }
    }
}

fn later(time: SourceTime, by: Duration) -> SourceTime {
    SourceTime(time.0.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
}

fn until(now: SourceTime, then: SourceTime) -> Duration {
    Duration::from_micros(u64::try_from(then.0.saturating_sub(now.0)).unwrap_or(0))
}

impl Handle {
    /// When a product was due and will be; `None` where it has no schedule.
    #[must_use]
    pub fn ticks(&self, product: &str) -> Option<Ticks> {
        let ticks = self.shared.ticks.lock().unwrap_or_else(PoisonError::into_inner);
        ticks.get(product).copied()
    }

    /// Queues a key for when it is due; whether the queue took it.
    fn queue_at(&self, key: &Key, due: SourceTime, now: SourceTime) -> bool {
        let wait = until(now, due);
        let not_before = (!wait.is_zero()).then(|| Instant::now() + wait);
        self.queue_refresh(key, not_before)
    }

    fn has_room(&self) -> bool {
        self.queue().waiting() < self.shared.config.queued_keys
    }
}
