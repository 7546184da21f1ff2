//! Linked: an answer that another depends on changes → the other is marked, and computed after it.
//!
//! Whoever wires kck says which keys depend on which ([`Links`]); products in SQL hold the others' SQL and have no
//! links. Three things are done here.
//!
//! **Marks.** When a key's answer changes, or is let go of, the keys that depend on it are marked durably before the
//! new answer is: one past what their own is exact as of, which is at or below V unless the source is idle; there kck's
//! own message lets V pass it. What is stale already need not be marked, since it will see the new answer. What is
//! being computed need not be either if it demanded more than the answer of before had.
//!
//! **Demands.** A program is told a position that it demands of what it reads: the newest mark of all that its key
//! depends on. So nothing that it reads is stale, and nothing is computed again that is not.
//!
//! **Order.** A key that is stale is queued behind the keys that it depends on: those that are stale too go first, and
//! it is held until they are computed. A key that somebody waits for is never held: its program demands what it needs.
//!
//! **Bounds.** A key goes when each of those has been computed once since, whether that gave an answer or not, and
//! after ten seconds in any case, so constant change above does not keep it.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{MutexGuard, PoisonError},
    time::Instant,
};

use crate::{
    change::{Lsn, Position},
    key::Key,
    pattern::Pattern,
    product::Slot,
    store::Error as StoreError,
};

use super::{Handle, handle::Waiter, held::Held, ledger::Ledger, wake::Marks};

/// Keys of one product that a key is held for, where it does not say which.
const NEEDS_MAX: usize = 1000;

/// What a key needs: these keys, and those that agree with patterns.
pub type Needs = (Vec<Key>, Vec<Pattern>);

/// What somebody else knows.
pub type Asked<A, B> = Box<dyn Fn(&A) -> B + Send + Sync>;

/// Which keys depend on which.
pub struct Links {
    /// What must be there before a key is computed.
    pub needs: Asked<Key, Needs>,
    /// Which keys see a key's answer.
    pub dependents: Asked<Key, Vec<Pattern>>,
    /// In which order products go: 0 where it does not matter.
    pub rank: Asked<str, usize>,
}

impl Handle {
    /// From now on these say which keys depend on which; only the first that is given does.
    pub fn on_linked(&self, links: Links) {
        drop(self.shared.links.set(links));
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

    /// What the key's answer is exact as of, where others depend on it.
    pub(super) fn seen_by_others(&self, key: &Key) -> Option<Position> {
        let links = self.shared.links.get()?;
        if (links.dependents)(key).is_empty() {
            return None;
        }
        self.ledger().standing(key).map(|standing| standing.meta.as_of)
    }

    /// A key's answer changed, which was exact as of `before`. Its dependents are marked durably and queued.
    pub(super) async fn tell_dependents(
        &self,
        key: &Key,
        before: Option<Position>,
    ) -> Result<(), StoreError> {
        let Some(links) = self.shared.links.get() else { return Ok(()) };
        let patterns = (links.dependents)(key);
        if patterns.is_empty() {
            return Ok(());
        }
        let seen = self.ledger().agreeing(&patterns);
        let running = self.running_as_of(&seen);
        let marks = {
            let mut ledger = self.ledger();
            let epoch = ledger.epoch();
            let stands = |(key, entry): (Key, Option<Position>)| {
                let entry = entry.filter(|entry| entry.epoch == epoch);
                let entry = entry.filter(|entry| ledger.mark_of(&key) <= *entry);
                let mark = mark(entry, running.get(&key).copied(), before)?;
                Some((key, mark))
            };
            let marks: HashMap<Key, Lsn> = seen.into_iter().filter_map(stands).collect();
            ledger.mark(marks.iter().map(|(key, at)| (key, *at)))
        };
        if !marks.is_empty() {
            self.shared.store.mark(&marks).await?;
        }
        let visible = self.shared.progress.borrow().as_of();
        let (mut now, later): (Vec<_>, Vec<_>) =
            marks.into_iter().partition(|(_, mark)| *mark <= visible);
        // What runs already and began far enough will be fresh.
        now.retain(|(key, mark)| running.get(key).is_none_or(|(began, _)| began < mark));
        self.wake(&Marks { keys: now, products: Vec::new() });
        if !later.is_empty() {
            self.wake_later(Marks { keys: later, products: Vec::new() });
        }
        Ok(())
    }

    /// What a key that is computed from now on demands of the products that it reads; `as_of` is V.
    pub(super) fn demands(&self, key: &Key, as_of: Position) -> Position {
        let Some(links) = self.shared.links.get() else { return as_of };
        let (keys, patterns) = (links.needs)(key);
        if keys.is_empty() && patterns.is_empty() {
            return as_of;
        }
        let demands = {
            let mut ledger = self.ledger();
            let some = ledger.agreeing(&patterns).into_iter().map(|(key, _)| key);
            let whole = patterns.iter().map(|pattern| Key::new(&pattern.product, []));
            let all: Vec<Key> = keys.into_iter().chain(some).chain(whole).collect();
            let marks = all.iter().map(|key| ledger.mark_of(key));
            marks.max().unwrap_or(as_of).min(as_of)
        };
        self.demanded().insert(key.clone(), demands);
        demands
    }

    fn demanded(&self) -> MutexGuard<'_, HashMap<Key, Position>> {
        self.shared.demanded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of those that are being computed: where each began, and what it demands.
    fn running_as_of(
        &self,
        keys: &[(Key, Option<Position>)],
    ) -> HashMap<Key, (Position, Position)> {
        let queue = self.queue();
        let running = keys.iter().filter_map(|(key, _)| Some((key, queue.running_as_of(key)?)));
        let running: Vec<(&Key, Position)> = running.collect();
        drop(queue);
        let demanded = self.demanded();
        let with_demand = |(key, began): (&Key, Position)| {
            (key.clone(), (began, demanded.get(key).copied().unwrap_or_default()))
        };
        running.into_iter().map(with_demand).collect()
    }

    /// Answers that were let go of: whoever saw them is marked.
    pub(super) async fn tell_of_lost(&self, keys: &[Key]) -> Result<(), StoreError> {
        if self.shared.links.get().is_none() {
            return Ok(());
        }
        let at = self.shared.progress.borrow().as_of();
        for key in keys {
            self.tell_dependents(key, Some(at)).await?;
        }
        Ok(())
    }

    /// Holds a stale key while it must wait for others, which are queued; whether it does.
    pub(super) fn hold(&self, key: &Key, not_before: Option<Instant>) -> bool {
        let Some(links) = self.shared.links.get() else { return false };
        let (keys, patterns) = (links.needs)(key);
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
            let fresh = ledger.standing(need).is_some_and(|standing| standing.fresh);
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
            if self.held().contains(key)
                && self.ledger().standing(key).is_some_and(|standing| standing.fresh)
            {
                self.held().remove(key);
            }
            self.let_go(key);
            self.demanded().remove(key);
        }
        waiters
    }

    /// What was held for this key alone is queued.
    pub(super) fn let_go(&self, key: &Key) {
        let free = self.held().computed(key);
        for (key, not_before) in free {
            self.enqueue(&key, not_before);
        }
    }

    /// What was held long enough is queued; when to look again comes back.
    pub(super) fn let_go_overdue(&self, now: Instant) -> Option<Instant> {
        let (free, due) = {
            let mut held = self.held();
            (held.overdue(now), held.due())
        };
        for (key, not_before) in free {
            self.enqueue(&key, not_before);
        }
        due
    }
}

impl Ledger {
    /// The tracked keys that agree with any of these patterns, and what their entries are exact as of.
    pub fn agreeing(&mut self, patterns: &[Pattern]) -> Vec<(Key, Option<Position>)> {
        let mut found = BTreeSet::new();
        for pattern in patterns {
            found.extend(self.patterns.find(pattern, &self.keys));
        }
        let as_of = |number| {
            let tracked = self.keys.at(number)?;
            Some((tracked.key().clone(), tracked.has_entry().then(|| tracked.as_of())))
        };
        found.into_iter().filter_map(as_of).collect()
    }
}

/// The mark of a dependent whose `entry` is fresh as of that, and which is being computed, `running` from there with
/// that demand; the answer that changed was exact as of `before`.
fn mark(
    entry: Option<Position>,
    running: Option<(Position, Position)>,
    before: Option<Position>,
) -> Option<Lsn> {
    let behind = |position: Position| Some(Lsn(position.lsn.0 + 1));
    match (running, entry) {
        // It may have taken the answer of before.
        (Some((began, demand)), _) if before.is_some_and(|before| before >= demand) => {
            behind(began)
        }
        // It sees the new one; its entry has not.
        (Some((began, _)), Some(entry)) if entry < began => behind(entry),
        (Some(_), _) => None,
        (None, entry) => entry.and_then(behind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Epoch;

    #[test]
    fn who_may_have_seen_the_answer_of_before_is_marked() {
        let at = |lsn| Position { epoch: Epoch(1), lsn: Lsn(lsn) };
        // It stands, and saw what was there.
        assert_eq!(mark(Some(at(4)), None, Some(at(3))), Some(Lsn(5)));
        // It is stale already, and will see the new answer.
        assert_eq!(mark(None, None, Some(at(3))), None);
        // It is being computed and demands more than there was before …
        assert_eq!(mark(None, Some((at(8), at(5))), Some(at(3))), None);
        assert_eq!(mark(None, Some((at(8), at(5))), None), None);
        // … its entry is marked all the same, should it fail …
        assert_eq!(mark(Some(at(4)), Some((at(8), at(5))), Some(at(3))), Some(Lsn(5)));
        // … or could take what there was.
        assert_eq!(mark(Some(at(4)), Some((at(8), at(5))), Some(at(5))), Some(Lsn(9)));
    }
}
