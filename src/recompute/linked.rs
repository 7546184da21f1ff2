//! Linked: keys that depend on others' answers → in which order they are computed, and what their programs demand.
//!
//! Whoever wires kck says which keys depend on which ([`Links`]); products in SQL hold the others' SQL and have no
//! links. What an answer's end means to those below is decided in [`below`](super::below).
//!
//! **Demands.** A program is told a position that it demands of what it reads: the newest mark of all that its key
//! depends on and that is not fresh. So nothing that it reads is stale, and nothing is computed again that is not. Where V has not passed that
//! mark yet, what it reads may be, and so is what comes of it.
//!
//! **Time.** An answer expires with the first of those that it may have been made from.
//!
//! **Order.** A key that is stale is queued behind the keys that it depends on: those that are stale too go first, and
//! it is held until they are computed. A key that somebody waits for is never held: its program demands what it needs.
//!
//! **Bounds.** A key goes when each of those has been computed once since, whether that gave an answer or not, and
//! after ten seconds in any case, so constant change above does not keep it. Of those that agree with a pattern it is
//! held for a few.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{
    change::{Lsn, Position, SourceTime},
    key::Key,
    product::{Means, Product, Slot},
};

use super::{
    Handle,
    below::{Links, Needs},
    handle::Waiter,
    held::{Free, Held},
};

/// Keys of one product that a key is held for, where it does not say which.
const NEEDS_MAX: usize = 16;
impl Handle {
    /// From now on these say which keys depend on which; only the first that is given does.
    pub fn on_linked(&self, links: Links) {
        let links = Arc::new(links);
        if self.shared.links.set(Arc::clone(&links)).is_ok() {
            self.ledger().link(links);
        }
    }

    /// The catalogue has another definition of a product, or none any more.
    pub fn definition_moved(&self, product: &str) {
        self.ledger().lose_definition(product);
        self.wake_outdated();
    }

    /// What is outdated since this was called last is computed again, if anybody reads or watches it.
    pub fn wake_outdated(&self) {
        let (mut keys, mut waiting) = {
            let mut ledger = self.ledger();
            (std::mem::take(&mut ledger.outdated), std::mem::take(&mut ledger.waiting))
        };
        if !waiting.is_empty() {
            let queue = self.queue();
            // Those are looked at as they end.
            waiting.retain(|key| !queue.is_running(key));
        }
        keys.append(&mut waiting);
        self.wake_all(keys.iter().collect());
    }

    /// A key has been computed: it is once more where it was outdated meanwhile and all that it needs is there.
    pub(super) fn look_again(&self, key: &Key) {
        let Some(needs) = self.needs(key) else { return };
        let may_be_fresh = {
            let mut ledger = self.ledger();
            let needs = ledger.named(&needs);
            ledger.may_be_fresh(key, &needs)
        };
        if may_be_fresh {
            self.wake_all(vec![key]);
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In the order in which they are computed, each with its product's rank.
    pub(super) fn by_rank<'k>(&self, keys: Vec<&'k Key>) -> Vec<(usize, &'k Key)> {
        // Keys are many, products are few.
        let mut ranks: HashMap<&str, usize> = HashMap::new();
        let links = self.shared.links.get();
        let rank = |name: &str| links.map_or(0, |links| (links.rank)(name));
        let ranked = keys.into_iter().map(|key| {
            let name = key.product();
            (*ranks.entry(name).or_insert_with(|| rank(name)), key)
        });
        let mut ranked: Vec<(usize, &Key)> = ranked.collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked
    }

    /// What a key depends on; `None` where that is nothing.
    fn needs(&self, key: &Key) -> Option<Needs> {
        let needs = (self.shared.links.get()?.needs)(key);
        (!(needs.0.is_empty() && needs.1.is_empty())).then_some(needs)
    }

    /// A key is computed from now on: what that demands of the products that it reads; `as_of` is V.
    pub(super) fn demands(&self, product: &Product, key: &Key, as_of: Position) -> Position {
        let Some(needed) = self.needs(key) else { return as_of };
        let now = self.shared.progress.borrow().source_now(Instant::now());
        let outside = product.draft.recipe.outside();
        let tells = !matches!(outside.map(|outside| &outside.means), Some(Means::Http { .. }));
        let mut ledger = self.ledger();
        let needs = ledger.named(&needed);
        let whole = needed.1.iter().map(|pattern| Key::new(&pattern.product, []));
        // Should one that is fresh be marked before it is read, so is this key.
        let stale = needs.iter().cloned().chain(whole).filter(|need| !ledger.is_fresh(need));
        let newest = stale.map(|need| ledger.mark_of(&need)).max();
        // Whatever there is in this epoch.
        let newest = newest.unwrap_or(Position { epoch: as_of.epoch, lsn: Lsn(0) });
        let least = newest.min(as_of);
        // An address is told no position, and takes whatever there is.
        ledger.begins(key, &needs, tells.then_some(least), now);
        least
    }

    /// When an answer expires: with the first of those that it may have been made from.
    pub(super) fn expires(&self, key: &Key, own: Option<SourceTime>) -> Option<SourceTime> {
        let Some(needs) = self.needs(key) else { return own };
        let mut ledger = self.ledger();
        let needs = ledger.named(&needs);
        let theirs = needs.iter().filter_map(|need| ledger.standing(need));
        theirs
            .filter(|standing| standing.fresh)
            .filter_map(|standing| standing.meta.expires)
            .chain(own)
            .min()
    }

    /// Holds a stale key while it must wait for others, which are queued; whether it does.
    pub(super) fn hold(&self, key: &Key, not_before: Option<Instant>) -> bool {
        let Some((keys, patterns)) = self.needs(key) else { return false };
        // Without an order they may wait for each other.
        if self.shared.links.get().is_none_or(|links| (links.rank)(key.product()) == 0) {
            return false;
        }
        let mut on: HashSet<Key> = keys.into_iter().filter(|need| self.goes_first(need)).collect();
        for pattern in &patterns {
            on.extend(self.queue().pending_of(pattern, NEEDS_MAX));
        }
        if on.is_empty() {
            return false;
        }
        {
            let mut held = self.held();
            if held.len() >= self.shared.config.queued_keys && !held.contains(key) {
                return false;
            }
            held.hold(key, on.clone(), not_before, Instant::now());
        }
        // What was computed before it was held would hold it for long.
        for need in on {
            if !self.is_pending(&need) {
                self.let_go(&need);
            }
        }
        self.ask_workers();
        true
    }

    fn is_pending(&self, key: &Key) -> bool {
        self.queue().is_pending(key) || self.held().contains(key)
    }

    /// Whether a key is to be computed before those that depend on it: it is queued where it is stale.
    fn goes_first(&self, need: &Key) -> bool {
        if self.is_pending(need) {
            return true;
        }
        let as_of = self.shared.progress.borrow().as_of();
        {
            let ledger = self.ledger();
            let fresh = ledger.is_fresh(need);
            let waits = as_of < ledger.mark_of(need);
            let cached = ledger.is_cached(need.product(), as_of.lsn);
            if fresh || waits || !cached || !ledger.is_tracked(need) {
                return false;
            }
        }
        let slot = self.shared.catalog.borrow().products.get(need.product()).cloned();
        let Some(Slot::Ready { product, .. }) = slot else { return false };
        let not_before = self.not_before(&product, need);
        not_before.is_none() && self.queue_refresh(need, None) && self.is_pending(need)
    }

    /// A computation is over: who waited for it comes back, and what was held for it goes.
    pub(super) fn finish(&self, key: &Key) -> Vec<Waiter> {
        let waiters = self.queue().finish(key);
        if self.shared.links.get().is_some() {
            // Whoever could not wait for others may have computed it.
            if self.held().contains(key) && self.ledger().is_fresh(key) {
                self.held().remove(key);
            }
            self.let_go(key);
        }
        waiters
    }

    /// What was held for this key alone is queued.
    pub(super) fn let_go(&self, key: &Key) {
        let free = self.held().computed(key);
        self.enqueue_free(free);
    }

    fn enqueue_free(&self, free: Vec<Free>) {
        for (key, not_before) in free {
            if !self.enqueue(&key, not_before) {
                self.did_not_fit(key.product());
            }
        }
    }

    /// What was held long enough is queued; when to look again comes back.
    pub(super) fn let_go_overdue(&self, now: Instant) -> Option<Instant> {
        let (free, due) = {
            let mut held = self.held();
            (held.overdue(now), held.due())
        };
        self.enqueue_free(free);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            played::{BOUNDS, Stage, product},
            queue::Stale,
        },
        *,
    };
    use crate::pattern::{Part, Pattern};

    fn key(name: &str) -> Key {
        Key::new(name, [])
    }

    fn stale() -> Stale {
        Stale { since: Instant::now(), rate: 1.0, not_before: None }
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
            readers: Box::new(|_| vec![]),
            reads: Box::new(|_| true),
            rank: Box::new(|name| if name == "q" { 1 } else { 2 }),
        });
        assert!(played.handle.hold(&key("p"), None));
        let held = played.handle.shared.held.lock().unwrap();
        assert!(held.needs() <= 16, "{}", held.needs());
    }

    #[test]
    fn nothing_is_held_where_products_have_no_order() {
        let played = Stage::new(BOUNDS, ["p", "q"].map(product));
        let other = |key: &Key| if key.product() == "p" { "q" } else { "p" };
        // An edit of both, of which one was refused.
        played.handle.on_linked(Links {
            needs: Box::new(move |key| (vec![Key::new(other(key), [])], vec![])),
            dependents: Box::new(move |key| {
                vec![Pattern { product: other(key).into(), parts: Box::new([]) }]
            }),
            readers: Box::new(|_| vec![]),
            reads: Box::new(|_| true),
            rank: Box::new(|_| 0),
        });
        for name in ["p", "q"] {
            played.handle.ledger().track(&key(name));
        }
        assert!(!played.handle.hold(&key("p"), None));
        assert!(played.handle.queue_refresh(&key("p"), None));
    }
}
