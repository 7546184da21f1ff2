//! Queue → statement → entry: takes a batch, runs its recipe, writes what the ledger accepts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
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
    batches::{Sample, Shown},
    budget::Refusal,
    crew::Why,
    handle::Waiter,
    ledger::{Computed, Verdict},
    queue::{Claim, Want},
    turn::{Turn, answer},
};

/// Of a batch, so many keys that fail and none that does not: it is not the keys.
const HOPELESS: usize = 8;
/// Postgres's code for a statement that took longer than it may.
const TOO_LONG: &str = "57014";
/// After a worker came to an unexpected end, how long until the next takes its place.
const REPLACED_AFTER: Duration = Duration::from_millis(10);

/// What a worker does next.
enum Next<'w> {
    /// Computes these keys of one product.
    Batch(Turn<'w>),
    /// Waits until it is asked, at most until then.
    Wait(Option<Instant>),
}

/// Computes what is queued on `connections` workers until told to stop. One that comes to an unexpected end is
/// replaced: others compute what it had begun.
pub async fn run(handle: Handle, recipe: Arc<dyn Run>, shutdown: CancellationToken) {
    let mut workers = JoinSet::new();
    let start = |workers: &mut JoinSet<()>| {
        let worker = Worker { handle: handle.clone(), recipe: Arc::clone(&recipe) };
        workers.spawn(worker.run(shutdown.clone()));
    };
    for _ in 0..handle.shared.config.connections.max(1) {
        start(&mut workers);
    }
    while let Some(ended) = workers.join_next().await {
        let Err(why) = ended else { continue };
        handle.shared.observer.note(Event::WorkerDied { why: why.to_string() });
        tokio::select! {
            () = tokio::time::sleep(REPLACED_AFTER) => start(&mut workers),
            () = shutdown.cancelled() => {}
        }
    }
}

impl Handle {
    /// What is known of how statements of a product go.
    #[must_use]
    pub fn statements(&self, product: &str) -> Option<Shown> {
        self.crew().batches.shown(product)
    }
}

/// Returns at that time; never without one.
pub(super) async fn past(then: Option<Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then.into()).await,
        None => std::future::pending().await,
    }
}

/// Whichever comes first.
pub(super) fn sooner(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

/// Computes batches.
pub(super) struct Worker {
    handle: Handle,
    recipe: Arc<dyn Run>,
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
        Self { handle, recipe }
    }

    /// Answers keys in which the source has no part.
    pub(super) async fn take_turn(&self, claim: Claim, now: Instant) {
        let mut turn = Turn::new(&self.handle, claim, None, now);
        turn.spent = Some(self.batch(&mut turn).await);
    }

    async fn run(self, shutdown: CancellationToken) {
        loop {
            let asked = self.handle.shared.asked.notified();
            if self.handle.take_up() {
                self.handle.shared.asked.notify_one();
            }
            match self.next() {
                Next::Batch(mut turn) => {
                    // One wake-up may stand for many keys: another worker looks while this one is busy.
                    self.handle.shared.asked.notify_one();
                    let spent = self.batch(&mut turn).await;
                    turn.spent = Some(spent);
                }
                Next::Wait(until) => {
                    tokio::select! {
                        () = asked => {}
                        () = past(until) => {}
                        () = shutdown.cancelled() => return,
                    }
                }
            }
        }
    }

    /// The worthiest product for which the budget has room, and which leaves others a place.
    fn next(&self) -> Next<'_> {
        let now = Instant::now();
        let alone = self.handle.shared.catalog.borrow().products.len() <= 1;
        let mut queue = self.handle.queue();
        let mut wait = queue.due();
        for candidate in queue.candidates(now) {
            let product = &candidate.product;
            // Those have a lane of their own.
            if self.handle.is_outside(product) {
                continue;
            }
            let mut budget = self.handle.budget();
            let mut crew = self.handle.crew();
            let plan = crew.batches.plan(product);
            if !candidate.urgent
                && let Some(until) = crew.rests.until(product, now)
            {
                wait = sooner(wait, Some(until));
                continue;
            }
            // Whoever leaves a place says so.
            if !(alone || crew.places.may(product, plan.estimate, now)) {
                continue;
            }
            match budget.may(product, candidate.urgent, plan.estimate, now) {
                Ok(()) => {
                    let claim = queue.take(&candidate, plan.keys, now);
                    let ticket = budget.begin(product, plan.estimate, now);
                    let place = crew.places.enter(product, plan.estimate, now);
                    let held = Some((ticket, place));
                    return Next::Batch(Turn::new(&self.handle, claim, held, now));
                }
                Err(refusal) => {
                    self.handle.shared.observer.count(Counter::OverBudget, 1);
                    let (Refusal::All(later) | Refusal::Product(later)) = refusal;
                    wait = sooner(wait, Some(later));
                    // What is worth less and takes less would take every bit of room that comes free.
                    if let Refusal::All(_) = refusal {
                        break;
                    }
                }
            }
        }
        Next::Wait(wait)
    }

    /// Computes the keys of one product and answers who waits. How long the source was at work comes back.
    pub(super) async fn batch(&self, turn: &mut Turn<'_>) -> Duration {
        let keys = std::mem::take(&mut turn.claim.keys);
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
        let mut batches = self.handle.crew().alone.split(keys, Instant::now());
        let (mut failures, mut any_well, mut is_retried) = (0, false, false);
        while let Some(mut keys) = batches.pop() {
            turn.executing.clone_from(&keys);
            let began = Instant::now();
            let attempt = self.attempt(&product, &keys, &mut spent).await;
            if let Err(RunError::Statement { sqlstate }) = &attempt {
                spent += began.elapsed();
                self.learn_of(sqlstate, &product, keys.len(), began.elapsed());
            }
            match attempt {
                Ok(()) => any_well = true,
                // A batch that fails is halved until the key that throws stands alone.
                Err(RunError::Statement { .. })
                    if keys.len() > 1 && (any_well || failures < HOPELESS) =>
                {
                    let rest = keys.split_off(keys.len() / 2);
                    batches.extend([rest, keys]);
                }
                // A connection that was lost is nothing to who waits: there is another.
                Err(RunError::Unavailable(_)) if !is_retried && self.is_waited_for(&keys) => {
                    is_retried = true;
                    batches.push(keys);
                }
                Err(RunError::Unavailable(why)) => self.away(&name, &keys, &why),
                Err(error) => {
                    failures += 1;
                    self.failed(&keys, &error);
                }
            }
        }
        spent
    }

    /// A statement that was given up had too many keys, if it had many.
    fn learn_of(&self, sqlstate: &str, product: &Product, keys: usize, took: Duration) {
        if sqlstate == TOO_LONG {
            let sample = Sample { keys, took, spent: took };
            self.learn(product, sample);
        }
    }

    fn learn(&self, product: &Product, sample: Sample) {
        let learned = self.handle.crew().batches.learn(product.name(), product.fingerprint, sample);
        if let Some(jump) = learned {
            let (product, before, after) = (product.name().to_owned(), jump.before, jump.after);
            self.handle.shared.observer.note(Event::CostJumped { product, before, after });
        }
    }

    fn is_waited_for(&self, keys: &[Key]) -> bool {
        let queue = self.handle.queue();
        keys.iter().any(|key| queue.waiters_of(key).any(|waiter| !waiter.is_closed()))
    }

    /// The source cannot be asked: who waits is told, and the rest stays queued until it can.
    fn away(&self, product: &str, keys: &[Key], why: &str) {
        self.handle.crew().rests.begin(product, Instant::now());
        let mut is_noted = false;
        for key in keys {
            let waiters = self.handle.finish(key);
            if waiters.is_empty()
                || self.handle.is_watched(key)
                || self.handle.ledger().is_warm(key)
            {
                self.handle.queue_refresh(key, None);
            }
            if !(waiters.is_empty() && is_noted) {
                is_noted = true;
                let code = "unavailable".to_owned();
                self.handle.shared.observer.note(Event::ComputeFailed { key: key.clone(), code });
            }
            for waiter in waiters {
                // A reader that has gone needs no answer.
                drop(waiter.send(Err(Error::SourceUnavailable(why.to_owned()))));
            }
        }
    }

    fn failed(&self, keys: &[Key], error: &RunError) {
        let broken = |sqlstate: &str| Error::ProductBroken { sqlstate: sqlstate.to_owned() };
        let (code, answer) = match error {
            RunError::Statement { sqlstate } => (sqlstate.as_str(), broken(sqlstate)),
            RunError::Unsound(fact) => (*fact, broken("XX000")),
            RunError::Unavailable(why) => ("unavailable", Error::SourceUnavailable(why.clone())),
            RunError::Outside { fact, why } => (why.as_str(), Error::NoAnswer { fact }),
        };
        if let [key] = keys {
            self.handle.crew().alone.remember(key, Why::Threw, Instant::now());
        }
        for key in keys {
            if let RunError::Outside { why, .. } = error {
                self.handle.trouble(key.product(), Some(why));
            }
            let failed = Event::ComputeFailed { key: key.clone(), code: code.to_owned() };
            self.handle.shared.observer.note(failed);
            self.answer(key, Err(answer.clone()));
        }
    }

    fn answer(&self, key: &Key, result: Result<Arc<Fresh>, Error>) {
        answer(&self.handle, key, &result);
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
            [key] => self.handle.demands(product, key, as_of),
            _ => as_of,
        };
        let started = Instant::now();
        let run = async {
            let ran = self.recipe.run(product, keys, demands).await;
            (ran, started.elapsed())
        };
        let ((ran, took), recorded) = tokio::join!(run, self.record(&tracks));
        let ran = ran?;
        self.handle.trouble(product.name(), None);
        *spent += ran.spent;
        if product.draft.recipe.is_sql() {
            self.learn(product, Sample { keys: keys.len(), took, spent: ran.spent });
        }
        self.well(product, keys);
        self.handle.shared.observer.note(Event::Computed { keys: keys.len() as u64, took });
        let each = took / u32::try_from(keys.len()).unwrap_or(u32::MAX);
        let context = Context { product, as_of, connection, ran: &ran, recorded, cost: each };
        let arriving = begun.into_iter().zip(&ran.values);
        join_all(arriving.map(|(begun, body)| self.arrive(&context, begun, body))).await;
        Ok(())
    }

    /// These keys were computed.
    fn well(&self, product: &Product, keys: &[Key]) {
        let crew = &mut *self.handle.crew();
        crew.rests.end(product.name());
        keys.iter().for_each(|key| crew.alone.forget(key));
    }

    /// The keys enter the ledger; past a limit cold ones go, and the new ones are answered uncached until there is room.
    async fn begin(&self, product: &Product, keys: &[Key]) -> (Vec<Begun>, Vec<Track>) {
        let visible = self.handle.shared.progress.borrow().visible;
        let config = &self.handle.shared.config;
        let (mut begun, mut tracks) = (Vec::with_capacity(keys.len()), Vec::new());
        let evict = {
            let mut ledger = self.handle.ledger();
            let cached = ledger.is_cached(product.name(), visible);
            let over = config.stored_bytes < ledger.bytes();
            let mut wanted = if over { keys.len() } else { 0 };
            for key in keys {
                let room = ledger.len() < config.tracked_keys && !over;
                let lease = if cached && (room || ledger.is_tracked(key)) {
                    let (lease, track) = ledger.track(key);
                    tracks.extend(track);
                    Some(lease)
                } else {
                    wanted += usize::from(cached);
                    None
                };
                begun.push(Begun { key: key.clone(), lease });
            }
            self.handle.coldest(&mut ledger, wanted)
        };
        if let Err(error) = self.handle.evict(&evict).await {
            tracing::warn!(%error, "evicting keys waits for the store");
        } else if !evict.is_empty() {
            self.handle.shared.observer.count(Counter::Evicted, evict.len() as u64);
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
            let expires = context.expires(&self.handle, &key);
            return self.give(&key, context.uncached(body, expires), body).await;
        };
        let expires = context.expires(&self.handle, &key);
        let computed = context.computed(lease, body, expires);
        let verdict = self.handle.ledger().accept(&key, &computed);
        match verdict {
            Verdict::Accepted { meta, changed, marked } => {
                let fresh = Arc::new(Fresh { meta: *meta, body: body.clone(), cached: true });
                let refreshed = Event::Refreshed { key: key.clone(), changed, marked };
                self.handle.shared.observer.note(refreshed);
                self.handle.wake_outdated();
                if context.recorded {
                    self.put(&key, &fresh).await;
                }
                self.answer(&key, Ok(fresh));
                self.handle.look_again(&key);
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
        self.handle.ledger().touch_below(key);
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
            if kept { self.handle.evict(std::slice::from_ref(key)).await } else { Ok(()) }
        };
        if let Err(error) = let_go.await {
            tracing::warn!(%error, "letting an older answer go waits for the store");
        }
        meta
    }

    /// The result is worthless, who waits gets the next one. Waiters give up by their own deadlines.
    fn again(&self, key: &Key) {
        let visible = self.handle.shared.progress.borrow().as_of();
        let kept = self.handle.ledger().standing(key);
        if let Some(kept) = kept.filter(|kept| visible < kept.meta.as_of) {
            // After a start V is behind where it was: until it is there this would be so at once, again and again.
            self.answer(key, Err(self.handle.too_late("what is kept is newer")));
            if !kept.fresh && self.handle.is_in_use(key) {
                self.handle.read_too_soon(key, kept.meta.as_of);
            }
            return;
        }
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
            drop(self.handle.finish(key));
        }
        if self.handle.is_in_use(key) {
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
    fn computed(&self, lease: Lease, body: &[u8], expires: Option<SourceTime>) -> Computed {
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
            expires,
            cost_us: u32::try_from(self.cost.as_micros()).unwrap_or(u32::MAX),
            bytes: u32::try_from(body.len()).unwrap_or(u32::MAX),
        }
    }

    /// Its product's time is over, or that of what it depends on.
    fn expires(&self, handle: &Handle, key: &Key) -> Option<SourceTime> {
        let own = self.product.draft.policy.expire.map(|expire| {
            let expire = i64::try_from(expire.as_micros()).unwrap_or(i64::MAX);
            SourceTime(self.ran.time.0.saturating_add(expire))
        });
        handle.expires(key, own)
    }

    /// An answer that is not kept: its version is the source's clock, or above what was issued.
    fn uncached(&self, body: &[u8], expires: Option<SourceTime>) -> Meta {
        Meta {
            as_of: self.as_of,
            as_of_time: self.ran.time,
            insert: self.ran.insert,
            fingerprint: self.product.fingerprint,
            shape: self.product.shape,
            digest: digest(body),
            version: u64::try_from(self.ran.time.0).unwrap_or(0),
            modified: self.ran.time,
            expires,
            ..Meta::default()
        }
    }
}

fn digest(body: &[u8]) -> u64 {
    let hash = Sha256::digest(body);
    hash.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
