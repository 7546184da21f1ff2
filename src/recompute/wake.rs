//! Stale keys → the queue: what marks wake, what reads ask for, how soon each should go.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    change::Position,
    key::Key,
    product::{Catalog, Eager, Product, Slot},
};

use super::{Handle, queue::Stale, warm::after};

/// Keys that were read before V had passed their marks, and are not forgotten for it; of more some wait for the next read.
const TOO_SOON_MOST: usize = 10_000;
/// Keys that are woken while a lock is held once.
const AT_ONCE: usize = 1000;
/// What a watched key is worth more than one that is only read.
const WATCHED: f32 = 1024.0;
/// What a key counts for that nobody reads.
const HEAT_LEAST: f32 = 0.01;
/// Of a `min_interval`, and the longest: how much later a key may go so that others go with it.
const SLOTS: u32 = 10;
const SLOT_MOST: Duration = Duration::from_millis(100);

impl Handle {
    /// A stale read: the key is computed when nobody waits for others. Before V has passed its mark that would have
    /// to be done again: it is computed then (R4).
    pub fn queue_stale(&self, key: &Key) {
        let as_of = self.shared.progress.borrow().as_of();
        let (mark, is_cached) = {
            let ledger = self.ledger();
            (ledger.mark_of(key), ledger.is_cached(key.product(), as_of.lsn))
        };
        let catalog = Arc::clone(&self.shared.catalog.borrow());
        let product = catalog.products.get(key.product()).and_then(Slot::product);
        if as_of < mark {
            // Others are woken by their marks, being read.
            if product.is_some_and(|product| product.draft.policy.eager == Eager::Never) {
                self.read_too_soon(key, mark);
            }
            return;
        }
        if !is_cached {
            return;
        }
        let not_before = product.and_then(|product| self.not_before(product, key));
        self.queue_refresh(key, not_before);
    }

    /// It is queued when V has passed `mark`.
    pub(super) fn read_too_soon(&self, key: &Key, mark: Position) {
        let mut too_soon = self.shared.too_soon.lock().unwrap_or_else(PoisonError::into_inner);
        if too_soon.len() < TOO_SOON_MOST || too_soon.contains_key(key) {
            too_soon.insert(key.clone(), mark);
        }
    }

    /// Queues a stale key for its turn, or holds it until what it depends on is there; whether it was taken. One that
    /// does not fit is looked at again later.
    pub(super) fn queue_refresh(&self, key: &Key, not_before: Option<Instant>) -> bool {
        let taken = self.queue_in_order(key, not_before);
        if !taken {
            self.did_not_fit(key.product());
        }
        taken
    }

    fn queue_in_order(&self, key: &Key, not_before: Option<Instant>) -> bool {
        self.hold(key, not_before) || self.enqueue(key, not_before)
    }

    /// Queues a stale key for its turn; whether the queue took it.
    pub(super) fn enqueue(&self, key: &Key, not_before: Option<Instant>) -> bool {
        self.enqueue_all(&[(key, self.stale(key, not_before))]).is_empty()
    }

    /// Queues stale keys, so that what goes together is there together when a worker looks. Those for which there was no
    /// room come back.
    fn enqueue_all<'k>(&self, keys: &[(&'k Key, Stale)]) -> Vec<&'k Key> {
        let mut left = Vec::new();
        for some in keys.chunks(AT_ONCE) {
            let mut queue = self.queue();
            for (key, stale) in some {
                let full = self.fills_its_part(&queue, key.product());
                if full || queue.refresh(key, *stale).is_err() {
                    left.push(*key);
                }
            }
            drop(queue);
            self.ask_workers();
        }
        left
    }

    /// Something is queued: whoever computes it looks.
    pub(super) fn ask_workers(&self) {
        self.shared.asked.notify_one();
        self.shared.asked_outside.notify_one();
    }

    /// What is read or watched is computed again once V has passed these marks.
    pub fn wake_later(&self, marks: Marks) {
        self.shared.later.lock().unwrap_or_else(PoisonError::into_inner).push(marks);
    }

    /// Whether something waits to be woken by V.
    #[must_use]
    pub fn waits_for_visible(&self) -> bool {
        !self.shared.later.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// V is here: what was to be woken at or below it is.
    pub fn wake_due(&self, visible: Position) {
        let mut later = self.shared.later.lock().unwrap_or_else(PoisonError::into_inner);
        let (due, rest) =
            std::mem::take(&mut *later).into_iter().partition(|marks| marks.end() <= visible);
        *later = rest;
        drop(later);
        let read: Vec<Key> = {
            let mut keys = self.shared.too_soon.lock().unwrap_or_else(PoisonError::into_inner);
            keys.extract_if(.., |_, mark| *mark <= visible).map(|(key, _)| key).collect()
        };
        read.iter().for_each(|key| self.queue_stale(key));
        for marks in &due as &Vec<Marks> {
            self.wake(marks);
        }
    }

    /// V has passed these marks: what is read or watched is computed again.
    pub fn wake(&self, marks: &Marks) {
        self.wake_all(marks.keys.iter().map(|(key, _)| key).collect());
        for (product, _) in &marks.products {
            let mut from = String::new();
            loop {
                let keys = self.ledger().some_from(product, &from, AT_ONCE);
                let Some(last) = keys.last() else { break };
                from = after(last);
                self.wake_all(keys.iter().collect());
            }
        }
    }

    pub(super) fn wake_all(&self, keys: Vec<&Key>) {
        let catalog = Arc::clone(&self.shared.catalog.borrow());
        let mut together = Vec::new();
        for (rank, key) in self.by_rank(keys) {
            let Some(not_before) = self.is_eager(&catalog, key) else { continue };
            if rank == 0 {
                together.push((key, self.stale(key, not_before)));
            } else if !self.queue_in_order(key, not_before) {
                self.did_not_fit(key.product());
            }
        }
        for key in self.enqueue_all(&together) {
            self.did_not_fit(key.product());
        }
    }

    /// Wakes a key that did not fit before; whether it does now, or need not.
    pub(super) fn wake_key(&self, catalog: &Catalog, key: &Key) -> bool {
        let Some(not_before) = self.is_eager(catalog, key) else { return true };
        self.queue_in_order(key, not_before)
    }

    /// Whether a key is watched, was read since its last refresh, or is warm.
    pub(super) fn is_in_use(&self, key: &Key) -> bool {
        self.is_watched(key) || self.ledger().is_hot_or_warm(key)
    }

    /// Whether a stale key is computed before it is read, and when at the earliest.
    fn is_eager(&self, catalog: &Catalog, key: &Key) -> Option<Option<Instant>> {
        let Some(Slot::Ready { product, .. }) = catalog.products.get(key.product()) else {
            return None;
        };
        // Somebody has computed it since it was marked.
        if self.ledger().is_fresh(key) {
            return None;
        }
        let wanted = match product.draft.policy.eager {
            Eager::Always => true,
            Eager::Hot => self.is_in_use(key),
            Eager::Never => false,
        };
        wanted.then(|| self.not_before(product, key))
    }

    /// How soon a key that is stale from now on should be computed: its reads ÷ its cost; those that somebody watches
    /// come before all that are only read.
    fn stale(&self, key: &Key, not_before: Option<Instant>) -> Stale {
        let now = Instant::now();
        let (heat, cost_us) = {
            let ledger = self.ledger();
            (ledger.heat(key, self.seconds(now)), ledger.cost_us(key))
        };
        let watched = if self.is_watched(key) { WATCHED } else { 1.0 };
        // A statement of a millisecond is as cheap as one of less.
        #[expect(clippy::cast_precision_loss, reason = "a rate to compare")]
        let rate = (heat + HEAT_LEAST) * watched / (cost_us.max(1_000) as f32 / 1e6);
        Stale { since: now, rate, not_before }
    }

    /// `min_interval` after the last computation, on kck's clock.
    pub(super) fn not_before(&self, product: &Product, key: &Key) -> Option<Instant> {
        let interval = product.draft.policy.min_interval;
        if interval.is_zero() {
            return None;
        }
        let last = self.ledger().standing(key)?.meta.as_of_time;
        let now = Instant::now();
        let since = self.shared.progress.borrow().source_now(now)?.0.saturating_sub(last.0);
        let since = Duration::from_micros(u64::try_from(since).unwrap_or(0));
        Some(self.slot_of(now + interval.checked_sub(since)?, interval))
    }

    /// The next of moments at which keys of an interval go, so that those that are due at about the same time go together.
    pub(super) fn slot_of(&self, then: Instant, interval: Duration) -> Instant {
        let slot = (interval / SLOTS).min(SLOT_MOST).as_nanos().max(1);
        let since = then.saturating_duration_since(self.shared.began).as_nanos();
        let slots = u64::try_from(since.div_ceil(slot) * slot).unwrap_or(u64::MAX);
        self.shared.began + Duration::from_nanos(slots)
    }
}

/// What commits marked, to be written durably and then woken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks {
    /// Tracked keys with their new marks.
    pub keys: Vec<(Key, Position)>,
    /// Products with their new whole-product marks.
    pub products: Vec<(String, Position)>,
}

impl Marks {
    /// The highest of them.
    fn end(&self) -> Position {
        let keys = self.keys.iter().map(|(_, at)| *at);
        keys.chain(self.products.iter().map(|(_, at)| *at)).max().unwrap_or_default()
    }
}
