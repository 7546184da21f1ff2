//! Queue → statement → entry: takes a batch, runs its recipe, writes what the ledger accepts.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::{
    change::{Position, SourceTime},
    entry::{Entry, Lease, Meta, Stamp},
    key::Key,
    observe::{Counter, Event, Point},
    product::{Product, Slot},
    stage::Stage,
    store::Track,
};

use super::{
    Error, Fresh, Handle, Ran, Run, RunError,
    budget::{Refusal, Ticket},
    handle::Waiter,
    ledger::{Computed, Verdict},
    queue::Want,
};

/// What keys of a product have cost of late, so that batches take about the set time.
#[derive(Default)]
struct Costs(Mutex<HashMap<String, Duration>>);

impl Costs {
    fn each(&self, product: &str) -> Option<Duration> {
        let costs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        costs.get(product).copied()
    }

    /// How many keys one statement should have, and how long it will take.
    fn batch(&self, product: &str, handle: &Handle) -> (usize, Duration) {
        let config = &handle.shared.config;
        let Some(cost) = self.each(product) else {
            return (config.batch_keys.min(FIRST_BATCH), config.batch_time);
        };
        let fitting = config.batch_time.as_nanos() / cost.as_nanos().max(1);
        let keys = usize::try_from(fitting).unwrap_or(usize::MAX).clamp(1, config.batch_keys);
        (keys, cost * u32::try_from(keys).unwrap_or(u32::MAX))
    }

    fn learn(&self, product: &str, keys: usize, took: Duration) {
        let each = took / u32::try_from(keys.max(1)).unwrap_or(u32::MAX);
        let mut costs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Half the weight on the newest: one slow statement is forgotten within a few.
        costs
            .entry(product.to_owned())
            .and_modify(|cost| *cost = (*cost + each) / 2)
            .or_insert(each);
    }
}

/// Keys of a product whose cost is not known yet.
const FIRST_BATCH: usize = 8;

/// What a worker does next.
enum Next {
    /// Computes these keys of one product.
    Batch(Vec<Key>, Ticket),
    /// Waits until it is asked, at most until then.
    Wait(Option<Instant>),
}

/// Computes what is queued on `connections` workers until told to stop.
pub async fn run(handle: Handle, recipe: Arc<dyn Run>, shutdown: CancellationToken) {
    let costs = Arc::new(Costs::default());
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..handle.shared.config.connections.max(1) {
        let worker = Worker {
            handle: handle.clone(),
            recipe: Arc::clone(&recipe),
            costs: Arc::clone(&costs),
        };
        workers.spawn(worker.run(shutdown.clone()));
    }
    workers.join_all().await;
}

/// Computes batches.
pub(super) struct Worker {
    handle: Handle,
    recipe: Arc<dyn Run>,
    costs: Arc<Costs>,
}

/// One key of a batch: what it was begun under.
struct Begun {
    key: Key,
    /// `None`: answered uncached.
    lease: Option<Lease>,
}

impl Worker {
    /// One that is given its batches.
    pub(super) fn new(handle: Handle, recipe: Arc<dyn Run>) -> Self {
        Self { handle, recipe, costs: Arc::default() }
    }

    async fn run(self, shutdown: CancellationToken) {
        loop {
            let asked = self.handle.shared.asked.notified();
            match self.next() {
                Next::Batch(keys, ticket) => {
                    // One wake-up may stand for many keys: another worker looks while this one is busy.
                    self.handle.shared.asked.notify_one();
                    let took = self.batch(keys).await;
                    self.handle.budget().end(&ticket, took, Instant::now());
                    // What had to wait for the budget may go now.
                    self.handle.shared.asked.notify_one();
                }
                Next::Wait(until) => {
                    let later = async {
                        match until {
                            Some(until) => tokio::time::sleep_until(until.into()).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        () = asked => {}
                        () = later => {}
                        () = shutdown.cancelled() => return,
                    }
                }
            }
        }
    }

    /// The worthiest product for which the budget has room.
    fn next(&self) -> Next {
        let now = Instant::now();
        let mut queue = self.handle.queue();
        let mut wait = queue.due();
        for candidate in queue.candidates(now) {
            // Those have a lane of their own.
            if self.handle.is_outside(&candidate.product) {
                continue;
            }
            let (most, estimate) = self.costs.batch(&candidate.product, &self.handle);
            let mut budget = self.handle.budget();
            match budget.may(&candidate.product, candidate.urgent, estimate, now) {
                Ok(()) => {
                    let keys = queue.take(&candidate, most, now);
                    let ticket = budget.begin(&candidate.product, estimate, now);
                    return Next::Batch(keys, ticket);
                }
                Err(refusal) => {
                    self.handle.shared.observer.count(Counter::OverBudget, 1);
                    let (Refusal::All(later) | Refusal::Product(later)) = refusal;
                    wait = Some(wait.map_or(later, |wait| wait.min(later)));
                    // What is worth less and takes less would take every bit of room that comes free.
                    if let Refusal::All(_) = refusal {
                        break;
                    }
                }
            }
        }
        Next::Wait(wait)
    }

    /// Computes these keys of one product and answers who waits. How long the source was at work comes back: what was
    /// lost on the way to it was not its time.
    pub(super) async fn batch(&self, keys: Vec<Key>) -> Duration {
        let mut spent = Duration::ZERO;
        let Some(name) = keys.first().map(|key| key.product().to_owned()) else { return spent };
        let slot = self.handle.shared.catalog.borrow().products.get(&name).cloned();
        let Some(Slot::Ready { product, .. }) = slot else {
            let sqlstate = slot.map_or_else(String::new, |slot| slot.sqlstate().to_owned());
            let broken = Error::ProductBroken { sqlstate };
            for key in &keys {
                self.answer(key, Err(broken.clone()));
            }
            return spent;
        };
        // A batch that fails is halved until the key that throws stands alone.
        let mut batches = vec![keys];
        while let Some(mut keys) = batches.pop() {
            let began = Instant::now();
            let attempt = self.attempt(&product, &keys, &mut spent).await;
            if let Err(RunError::Statement { .. }) = &attempt {
                spent += began.elapsed();
            }
            match attempt {
                Ok(()) => {}
                Err(RunError::Statement { .. }) if keys.len() > 1 => {
                    let rest = keys.split_off(keys.len() / 2);
                    batches.extend([rest, keys]);
                }
                Err(error) => self.failed(&keys, &error),
            }
        }
        spent
    }

    fn failed(&self, keys: &[Key], error: &RunError) {
        for key in keys {
            let (code, answer) = match error {
                RunError::Unavailable(why) => {
                    ("unavailable".to_owned(), Error::SourceUnavailable(why.clone()))
                }
                RunError::Statement { sqlstate } => {
                    (sqlstate.clone(), Error::ProductBroken { sqlstate: sqlstate.clone() })
                }
                RunError::Unsound(fact) => {
                    ((*fact).to_owned(), Error::ProductBroken { sqlstate: "XX000".to_owned() })
                }
                RunError::Outside { fact, why } => {
                    self.handle.trouble(key.product(), Some(why));
                    (why.clone(), Error::NoAnswer { fact })
                }
            };
            self.handle.shared.observer.note(Event::ComputeFailed { key: key.clone(), code });
            self.answer(key, Err(answer));
        }
    }

    fn answer(&self, key: &Key, result: Result<Arc<Fresh>, Error>) {
        for waiter in self.handle.finish(key) {
            // A reader that has gone needs no answer.
            drop(waiter.send(result.clone()));
        }
    }

    /// R4: track, then `as_of := V`, then the statement; the track record is written meanwhile.
    async fn attempt(
        &self,
        product: &Arc<Product>,
        keys: &[Key],
        spent: &mut Duration,
    ) -> Result<(), RunError> {
        let (begun, tracks) = self.begin(product, keys).await;
        let (as_of, connection) = {
            // V is read after the keys entered: a commit matched before is below it, one matched later marks them.
            let as_of = self.handle.shared.progress.borrow().as_of();
            (as_of, self.handle.ledger().connection())
        };
        self.handle.queue().begin(keys, as_of);
        let demands = match keys {
            [key] => self.handle.demands(key, as_of),
            _ => as_of,
        };
        let started = Instant::now();
        let (ran, recorded) =
            tokio::join!(self.recipe.run(product, keys, demands), self.record(&tracks));
        let took = started.elapsed();
        let ran = ran?;
        self.handle.trouble(product.name(), None);
        *spent += ran.spent;
        self.costs.learn(product.name(), keys.len(), ran.spent);
        self.handle.shared.observer.note(Event::Computed { keys: keys.len() as u64, took });
        let each = took / u32::try_from(keys.len()).unwrap_or(u32::MAX);
        let context = Context { product, as_of, connection, ran: &ran, recorded, cost: each };
        for (begun, body) in begun.into_iter().zip(&ran.values) {
            self.arrive(&context, begun, body).await;
        }
        Ok(())
    }

    /// The keys enter the ledger; past the limit a cold one goes and the new one is answered uncached.
    async fn begin(&self, product: &Product, keys: &[Key]) -> (Vec<Begun>, Vec<Track>) {
        let visible = self.handle.shared.progress.borrow().visible;
        let (mut begun, mut tracks, mut evict) = (Vec::with_capacity(keys.len()), Vec::new(), None);
        {
            let mut ledger = self.handle.ledger();
            let cached = ledger.is_cached(product.name(), visible);
            for key in keys {
                let room = ledger.len() < self.handle.shared.config.tracked_keys;
                let lease = if cached && (room || ledger.is_tracked(key)) {
                    let (lease, track) = ledger.track(key);
                    tracks.extend(track);
                    Some(lease)
                } else {
                    evict = (cached && !room).then(|| ledger.coldest()).flatten();
                    // Somebody is told of its changes; another goes when the next key comes.
                    evict = evict.filter(|coldest| !self.handle.is_watched(coldest));
                    None
                };
                begun.push(Begun { key: key.clone(), lease });
            }
        }
        if let Some(coldest) = evict
            && let Err(error) = self.handle.untrack(&coldest).await
        {
            tracing::warn!(%error, "evicting a key waits for the store");
        }
        (begun, tracks)
    }

    /// Makes track records durable; whether their entries may be written.
    async fn record(&self, tracks: &[Track]) -> bool {
        let Some(highest) = tracks.iter().map(|track| track.stamp).max() else { return true };
        let shared = &self.handle.shared;
        let written = async {
            shared.reserve.ensure(highest, 0).await?;
            shared.store.track(tracks).await
        };
        match written.await {
            Ok(()) => {
                let mut ledger = self.handle.ledger();
                for track in tracks {
                    ledger.recorded(&track.key, track.lease);
                }
                true
            }
            Err(error) => {
                tracing::warn!(%error, "answers are not kept while the store is away");
                false
            }
        }
    }

    /// A result arrives: judged, written, answered.
    async fn arrive(&self, context: &Context<'_>, begun: Begun, body: &bytes::Bytes) {
        let Begun { key, lease } = begun;
        let limit = self.handle.shared.config.answer_bytes;
        if body.len() > limit {
            self.answer(&key, Err(Error::TooLarge { bytes: body.len(), limit }));
            return;
        }
        let Some(lease) = lease else {
            return self.give(&key, context.uncached(body), body).await;
        };
        let before = self.handle.seen_by_others(&key);
        let verdict = self.handle.ledger().accept(&key, &context.computed(lease, body));
        match verdict {
            Verdict::Accepted { meta, changed, marked } => {
                let fresh = Arc::new(Fresh { meta: *meta, body: body.clone(), cached: true });
                let refreshed = Event::Refreshed { key: key.clone(), changed, marked };
                self.handle.shared.observer.note(refreshed);
                // Whoever saw the answer of before is marked before this one is durable.
                let told = match changed {
                    true => self.handle.tell_dependents(&key, before).await,
                    false => Ok(()),
                };
                if let Err(error) = &told {
                    tracing::warn!(%error, "marking what depends on an answer waits for the store");
                }
                if context.recorded && told.is_ok() {
                    self.put(&key, &fresh).await;
                }
                self.answer(&key, Ok(fresh));
                if changed {
                    self.handle.moved(&key);
                }
            }
            Verdict::Void => self.again(&key),
        }
    }

    /// An answer that is not kept goes to who waits for it. Where nobody does, what is kept stays and is served as stale:
    /// nobody has seen anything newer.
    async fn give(&self, key: &Key, meta: Meta, body: &bytes::Bytes) {
        let mut waiters = self.handle.finish(key);
        waiters.retain(|waiter| !waiter.is_closed());
        if waiters.is_empty() {
            return;
        }
        let meta = self.surpass(key, meta).await;
        let fresh = Arc::new(Fresh { meta, body: body.clone(), cached: false });
        for waiter in waiters {
            // A reader that has gone needs no answer.
            drop(waiter.send(Ok(Arc::clone(&fresh))));
        }
    }

    /// An answer that is not kept is newer than what is: its version is above, and what is kept is let go, so that no
    /// older one is answered after it.
    async fn surpass(&self, key: &Key, mut meta: Meta) -> Meta {
        let kept = {
            let mut ledger = self.handle.ledger();
            meta.version = ledger.surpassed(key, meta.version);
            ledger.standing(key).is_some()
        };
        let let_go = async {
            self.handle.shared.reserve.ensure(Stamp(0), meta.version).await?;
            if kept { self.handle.untrack(key).await } else { Ok(()) }
        };
        if let Err(error) = let_go.await {
            tracing::warn!(%error, "letting an older answer go waits for the store");
        }
        meta
    }

    /// The result is worthless, who waits gets the next one. Waiters give up by their own deadlines.
    fn again(&self, key: &Key) {
        let mut queue = self.handle.queue();
        let waiters: Vec<Waiter> =
            queue.finish(key).into_iter().filter(|waiter| !waiter.is_closed()).collect();
        for waiter in waiters {
            if let Err(waiter) = queue.ask(key, Want::New, waiter, Instant::now()) {
                // A reader that has gone needs no answer.
                drop(waiter.send(Err(Error::Overloaded)));
            }
        }
        let over = !queue.is_pending(key);
        drop(queue);
        if over {
            self.handle.let_go(key);
        }
        if self.handle.is_watched(key) || self.handle.ledger().is_warm(key) {
            self.handle.queue_stale(key);
        }
        self.handle.ask_workers();
    }

    async fn put(&self, key: &Key, fresh: &Fresh) {
        let shared = &self.handle.shared;
        shared.observer.reach(Point::Put).await;
        let entry = Entry { meta: fresh.meta.clone(), body: fresh.body.clone() };
        let written = async {
            shared.reserve.ensure(entry.meta.stamp, entry.meta.version).await?;
            shared.store.put(key, &entry).await
        };
        let began = Instant::now();
        match written.await {
            Ok(()) => {
                shared.observer.took(Stage::Store, began.elapsed());
                self.handle.kept(key, fresh);
            }
            Err(error) => {
                tracing::warn!(%error, product = key.product(), "an answer was not kept");
            }
        }
    }
}

/// What all results of one statement share.
struct Context<'a> {
    product: &'a Product,
    as_of: Position,
    connection: u64,
    ran: &'a Ran,
    recorded: bool,
    cost: Duration,
}

impl Context<'_> {
    fn computed(&self, lease: Lease, body: &[u8]) -> Computed {
        let snapshot = self.ran.snapshot.as_ref();
        Computed {
            lease,
            as_of: self.as_of,
            connection: self.connection,
            time: self.ran.time,
            snapshot: snapshot
                .map_or(Stamp(0), |snapshot| Stamp::packed(self.as_of.epoch, snapshot)),
            insert: self.ran.insert,
            fingerprint: self.product.fingerprint,
            shape: self.product.shape,
            digest: digest(body),
            expires: self.expires(),
            cost_us: u32::try_from(self.cost.as_micros()).unwrap_or(u32::MAX),
        }
    }

    fn expires(&self) -> Option<SourceTime> {
        let expire =
            i64::try_from(self.product.draft.policy.expire?.as_micros()).unwrap_or(i64::MAX);
        Some(SourceTime(self.ran.time.0.saturating_add(expire)))
    }

    /// An answer that is not kept: its version is the source's clock, or above what was issued.
    fn uncached(&self, body: &[u8]) -> Meta {
        Meta {
            as_of: self.as_of,
            as_of_time: self.ran.time,
            insert: self.ran.insert,
            fingerprint: self.product.fingerprint,
            shape: self.product.shape,
            digest: digest(body),
            version: u64::try_from(self.ran.time.0).unwrap_or(0),
            modified: self.ran.time,
            expires: self.expires(),
            ..Meta::default()
        }
    }
}

fn digest(body: &[u8]) -> u64 {
    let hash = Sha256::digest(body);
    hash.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
