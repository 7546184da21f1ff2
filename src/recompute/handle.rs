//! What others hold of recompute: ask for keys, mark them, learn how they stand.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot, watch as latest};

use crate::{
    change::{Lsn, Position},
    entry::{Meta, Stamp},
    key::Key,
    observe::Observer,
    pattern::Pattern,
    product::{Catalog, Slot},
    progress::Progress,
    store::{Error as StoreError, Forget, Store},
};

use super::{
    Config, Error,
    batches::Bounds,
    below::Links,
    budget::Budget,
    crew::Crew,
    held::Held,
    ledger::{Ledger, Standing},
    overflow::Walk,
    queue::{Queue, Want},
    reserve::Reserve,
    schedule::Ticks,
    wake::Marks,
    watch::{Watchers, Watching},
};

/// A computed answer, as those who waited for it get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fresh {
    /// Everything but the bytes; its stamp is zero when it was answered uncached.
    pub meta: Meta,
    /// The JSON.
    pub body: Bytes,
    /// Whether it is kept.
    pub cached: bool,
}

pub(super) type Waiter = oneshot::Sender<Result<Arc<Fresh>, Error>>;

/// How much there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Keys in the ledger.
    pub tracked: usize,
    /// Bytes of their answers.
    pub bytes: u64,
    /// Keys that wait to be computed.
    pub queued: usize,
    /// Keys being computed.
    pub running: usize,
    /// Readers that wait for either.
    pub waiters: usize,
    /// Keys that a warm query names.
    pub warm: usize,
}

pub(super) struct Shared {
    pub(super) config: Config,
    /// Locked for one decision at a time; marks and reads contend here.
    ledger: Mutex<Ledger>,
    /// Locked for one decision at a time.
    queue: Mutex<Queue<Waiter>>,
    /// Locked for one decision at a time, inside the queue's lock or alone.
    budget: Mutex<Budget>,
    /// Locked for one decision at a time, inside the queue's and the budget's locks or alone.
    crew: Mutex<Crew>,
    /// Products of which keys did not fit into the queue; locked to note one, or to go on with one.
    pub(super) missed: Mutex<BTreeMap<String, Walk>>,
    /// Somebody asked: a worker looks.
    pub(super) asked: Notify,
    /// The same for those that are not in SQL.
    pub(super) asked_outside: Notify,
    /// Products that are not in SQL and gave no answer of late, and why; locked to look.
    troubles: Mutex<BTreeMap<String, String>>,
    /// A key is to be computed again before whoever keeps the time looks.
    pub(super) sooner: Notify,
    /// When products were due and will be; locked to look, or to say it anew.
    pub(super) ticks: Mutex<BTreeMap<String, Ticks>>,
    /// Counts who came to wait for a certificate: whoever makes them hastens.
    wanted: latest::Sender<u64>,
    /// When somebody last read anything.
    last_read: Mutex<Option<Instant>>,
    /// Marks that V has not passed when they were made.
    pub(super) later: Mutex<Vec<Marks>>,
    /// Keys that were read before V had passed their marks, and that only a read has computed; and those marks.
    pub(super) too_soon: Mutex<BTreeMap<Key, Position>>,
    /// Readers that wait for keys to change.
    watchers: Arc<Watchers>,
    /// Who wants the bytes of what is kept.
    kept: OnceLock<Kept>,
    /// Which keys depend on which.
    pub(super) links: OnceLock<Arc<Links>>,
    /// Keys that wait for others; locked for one decision, alone.
    pub(super) held: Mutex<Held>,
    pub(super) began: Instant,
    pub(super) catalog: latest::Receiver<Arc<Catalog>>,
    pub(super) progress: latest::Receiver<Progress>,
    pub(super) store: Arc<dyn Store>,
    pub(super) reserve: Reserve,
    pub(super) observer: Observer,
}

/// Is given every answer that was made durable, and whether somebody watches its key.
pub type Kept = Box<dyn Fn(&Key, &Fresh, bool) + Send + Sync>;

/// What others hold of recompute. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

/// What a [`Handle`] stands on.
pub struct Parts {
    /// Bounds.
    pub config: Config,
    /// The tracked keys, rebuilt.
    pub ledger: Ledger,
    /// The products as they are now.
    pub catalog: latest::Receiver<Arc<Catalog>>,
    /// How far kck is.
    pub progress: latest::Receiver<Progress>,
    /// Where entries go.
    pub store: Arc<dyn Store>,
    /// Floors of stamps and versions.
    pub reserve: Reserve,
    /// Where events go.
    pub observer: Observer,
}

impl Handle {
    /// A handle on a rebuilt ledger; nothing is computed before workers run.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { config, ledger, catalog, progress, store, reserve, observer } = parts;
        let shared = Shared {
            config,
            ledger: Mutex::new(ledger),
            queue: Mutex::new(Queue::new(config.queued_keys, config.strategy)),
            budget: Mutex::new(Budget::new(config.database_share)),
            crew: Mutex::new(Crew::new(
                Bounds { keys: config.batch_keys, time: config.batch_time },
                config.connections,
            )),
            missed: Mutex::default(),
            asked: Notify::new(),
            asked_outside: Notify::new(),
            troubles: Mutex::default(),
            sooner: Notify::new(),
            ticks: Mutex::default(),
            wanted: latest::Sender::new(0),
            last_read: Mutex::new(None),
            later: Mutex::default(),
            too_soon: Mutex::default(),
            watchers: Arc::default(),
            kept: OnceLock::new(),
            links: OnceLock::new(),
            held: Mutex::default(),
            began: Instant::now(),
            catalog,
            progress,
            store,
            reserve,
            observer,
        };
        Self { shared: Arc::new(shared) }
    }

    /// The ledger, for one decision. A panic while it was held cannot leave half a decision: each is one field
    /// or one insertion, so a poisoned lock is taken as it is.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue<Waiter>> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn budget(&self) -> MutexGuard<'_, Budget> {
        self.shared.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn crew(&self) -> MutexGuard<'_, Crew> {
        self.shared.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of what may be spent at the source that was, over the last ten seconds.
    #[must_use]
    pub fn budget_used(&self) -> f64 {
        self.budget().used(Instant::now())
    }

    /// How much there is to do.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let (tracked, bytes, warm) = {
            let ledger = self.ledger();
            (ledger.len(), ledger.bytes(), ledger.warm())
        };
        let queue = self.queue();
        let (queued, running) = (queue.waiting(), queue.running());
        Counts { tracked, bytes, queued, running, waiters: queue.waiters(), warm }
    }

    /// A key as it stands, if its entry can be used now, and how far kck was just before it stood so: only that
    /// may raise its `as_of`, since what was matched later may have marked it. Counts as a read.
    #[must_use]
    pub fn read(&self, key: &Key) -> Option<(Standing, Progress)> {
        *self.shared.last_read.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Instant::now());
        let progress = *self.shared.progress.borrow();
        let seconds = self.seconds(Instant::now());
        let mut ledger = self.ledger();
        if ledger.read(key, seconds) {
            self.shared.sooner.notify_one();
        }
        usable(&ledger, key, progress)
    }

    /// The same, and nobody reads.
    #[must_use]
    pub fn look(&self, key: &Key) -> Option<(Standing, Progress)> {
        let progress = *self.shared.progress.borrow();
        usable(&self.ledger(), key, progress)
    }

    /// Whether somebody read within `span`: only then is the source asked to move on.
    #[must_use]
    pub fn was_read_within(&self, span: Duration) -> bool {
        let last = *self.shared.last_read.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| last.elapsed() < span)
    }

    /// Computes a key, or joins who computes it, and waits until `deadline`.
    ///
    /// # Errors
    /// [`Error::NotFreshInTime`] past the deadline, else what the computation came to.
    pub async fn compute(
        &self,
        key: &Key,
        want: Want,
        deadline: Instant,
    ) -> Result<Arc<Fresh>, Error> {
        let (waiter, answer) = oneshot::channel();
        // What is being computed from an answer that is none any more is not worth waiting for.
        let want = if self.ledger().is_touched(key) { Want::New } else { want };
        {
            let mut queue = self.queue();
            if self.fills_its_part(&queue, key.product()) {
                return Err(Error::Overloaded);
            }
            let asked = queue.ask(key, want, waiter, Instant::now());
            asked.map_err(|_| Error::Overloaded)?;
        }
        self.ask_workers();
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::Stopping),
            Err(_) => Err(self.too_late("")),
        }
    }

    /// The refusal that says how far kck is.
    #[must_use]
    pub fn too_late(&self, fact: &'static str) -> Error {
        let progress = *self.shared.progress.borrow();
        let (lsn, time) = progress.certified().map_or_else(
            || (progress.visible, Default::default()),
            |certificate| (certificate.lsn, certificate.time),
        );
        Error::NotFreshInTime { lsn, time, fact }
    }

    /// Whether a product's answers are made by others than the source.
    pub(super) fn is_outside(&self, product: &str) -> bool {
        let catalog = self.shared.catalog.borrow();
        match catalog.products.get(product) {
            Some(Slot::Ready { product, .. }) => !product.draft.recipe.is_sql(),
            _ => false,
        }
    }

    /// Whether a product whose answers are made by others has as many keys in the queue as one may.
    pub(super) fn fills_its_part(&self, queue: &Queue<Waiter>, product: &str) -> bool {
        queue.waiting_of(product) >= self.shared.config.queued_outside() && self.is_outside(product)
    }

    /// Why a product that is not in SQL gave no answer when it was last asked.
    #[must_use]
    pub fn trouble_of(&self, product: &str) -> Option<String> {
        let troubles = self.shared.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.get(product).cloned()
    }

    /// A product that is not in SQL gave an answer, or why it gave none.
    pub(super) fn trouble(&self, product: &str, why: Option<&str>) {
        let told = {
            let mut troubles = self.shared.troubles.lock().unwrap_or_else(PoisonError::into_inner);
            match why {
                Some(why) => drop(troubles.insert(product.to_owned(), why.to_owned())),
                // All of SQL come here and have never been in it.
                None if troubles.remove(product).is_none() => return,
                None => {}
            }
            let names: Vec<&str> = troubles.keys().map(String::as_str).collect();
            (!names.is_empty()).then(|| format!("no answer of late: {}", names.join(", ")))
        };
        self.shared.observer.part("recipe", told);
    }

    /// Somebody waits for the certificate to grow.
    pub fn hasten(&self) {
        self.shared.wanted.send_modify(|count| *count += 1);
    }

    /// Changes when somebody waits for the certificate to grow.
    #[must_use]
    pub fn wanted(&self) -> latest::Receiver<u64> {
        self.shared.wanted.subscribe()
    }

    /// Watches these keys, numbered as they come, until dropped: they count as read, and it says which have moved.
    #[must_use]
    pub fn watch(&self, keys: Vec<Key>) -> Watching {
        self.shared.watchers.watch(keys)
    }

    /// Has this given every answer that is kept from now on; only the first that asks is.
    pub fn on_kept(&self, kept: Kept) {
        drop(self.shared.kept.set(kept));
    }

    pub(super) fn kept(&self, key: &Key, fresh: &Fresh) {
        if let Some(kept) = self.shared.kept.get() {
            kept(key, fresh, self.is_watched(key));
        }
    }

    /// Whether anybody is told when this key moves.
    #[must_use]
    pub fn is_watched(&self, key: &Key) -> bool {
        self.shared.watchers.is_watched(key)
    }

    /// The key has another answer, or none any more.
    pub(super) fn moved(&self, key: &Key) {
        self.shared.watchers.moved(key);
    }

    /// Commits touch these keys, those that agree with patterns, and whole products: the marks to be written durably
    /// come back (R3).
    #[must_use]
    pub fn mark(
        &self,
        keys: &HashMap<Key, Lsn>,
        patterns: &HashMap<Pattern, Lsn>,
        products: &BTreeMap<String, Lsn>,
    ) -> Marks {
        let mut ledger = self.ledger();
        let mut keys = ledger.mark(keys.iter().map(|(key, at)| (key, *at)));
        keys.extend(ledger.mark_patterns(patterns.iter().map(|(pattern, at)| (pattern, *at))));
        let mut whole = Vec::new();
        for (product, at) in products {
            let Some(mark) = ledger.mark_product(product, *at) else { continue };
            let all = std::iter::once(product.clone()).chain(ledger.all_readers(product));
            whole.extend(all.map(|product| (product, mark)));
        }
        Marks { keys, products: whole }
    }

    /// The keys of a product that were computed by a statement that saw more of the log than this, or are being.
    #[must_use]
    pub fn computed_after(&self, product: &str, insert: Lsn) -> Vec<Key> {
        // Those that run first: whichever ends meanwhile has an entry.
        let mut keys: Vec<Key> = self.queue().running_of(product).cloned().collect();
        keys.extend(self.ledger().computed_after(product, insert).cloned());
        keys
    }

    /// kck's own clock, as the ledger counts heat by it.
    pub(super) fn seconds(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.shared.began).as_secs();
        u32::try_from(since).unwrap_or(u32::MAX)
    }

    /// At most so many keys to let go of, none that anybody watches, and none that is being computed: that would have to
    /// be done again.
    pub(super) fn coldest(&self, ledger: &mut Ledger, most: usize) -> Vec<Key> {
        let seconds = self.seconds(Instant::now());
        let spared = |key: &Key| self.is_watched(key) || self.queue().is_pending(key);
        let coldest = || ledger.coldest(seconds, spared);
        let keys: BTreeSet<Key> = std::iter::repeat_with(coldest).take(most).flatten().collect();
        keys.into_iter().collect()
    }

    /// Lets go of many keys in one write (R13): they are deleted durably before the ledger forgets them. What was made from
    /// their answers is computed again, if anybody reads or watches it.
    ///
    /// # Errors
    /// When the store does not take the deletion: the keys stay tracked, without entries.
    pub async fn untrack_all(&self, keys: &[Key]) -> Result<(), StoreError> {
        let forgets = {
            let mut ledger = self.ledger();
            keys.iter().filter_map(|key| ledger.untrack(key)).collect()
        };
        self.wake_outdated();
        self.delete(forgets).await
    }

    /// The same, and what was made from their answers is stale until somebody reads it: were it computed again where there
    /// is no room for all, others would go for that, and so on for ever.
    pub(super) async fn evict(&self, keys: &[Key]) -> Result<(), StoreError> {
        let forgets = {
            let mut ledger = self.ledger();
            let before = ledger.outdated.len();
            let forgets = keys.iter().filter_map(|key| ledger.untrack(key)).collect();
            ledger.outdated.truncate(before);
            forgets
        };
        self.delete(forgets).await
    }

    async fn delete(&self, forgets: Vec<Forget>) -> Result<(), StoreError> {
        let Some(highest) = forgets.iter().map(|forget| forget.stamp).max() else { return Ok(()) };
        self.shared.reserve.ensure(highest, 0).await?;
        self.shared.store.forget(&forgets).await?;
        {
            let mut ledger = self.ledger();
            forgets.iter().for_each(|forget| ledger.forget(forget));
        }
        forgets.iter().for_each(|forget| self.moved(&forget.key));
        Ok(())
    }

    /// Deletes entries durably, with stamps that the ledger gave, none above `highest`.
    ///
    /// # Errors
    /// When the store does not take it: some may be deleted.
    pub async fn purge(&self, highest: Stamp, keys: &[(Key, Stamp)]) -> Result<(), StoreError> {
        self.shared.reserve.ensure(highest, 0).await?;
        self.shared.store.purge(keys).await
    }

    /// The write time of the next state cell.
    #[must_use]
    pub fn state_stamp(&self) -> u64 {
        self.shared.reserve.state_stamp()
    }
}

/// A key as it stands, if its entry can be used now.
fn usable(ledger: &Ledger, key: &Key, progress: Progress) -> Option<(Standing, Progress)> {
    if ledger.has_left(key.product()) {
        return None;
    }
    let mut standing = ledger.standing(key)?;
    // While its product joins, again in a new epoch, an entry may stand in as stale (R10).
    standing.fresh &= ledger.is_cached(key.product(), progress.visible);
    let now = progress.source_now(Instant::now());
    standing.fresh &= !ledger.is_overdue(key.product(), standing.meta.as_of_time, now);
    let expired = standing.meta.expires.is_some_and(|expires| now.is_none_or(|now| expires <= now));
    (!expired).then_some((standing, progress))
}
