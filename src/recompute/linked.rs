//! Linked: an answer that another depends on changes → the other is marked, and computed after it.
//!
//! Whoever wires kck says which keys depend on which ([`Links`]); products in SQL hold the others' SQL and have no
//! links. This is done here.
//!
//! **Marks.** When a key's answer changes, or is let go of, all keys below are marked, through every level, durably
//! before the new answer is, or the old one is deleted: one past what the newest of them is exact as of, which is at or
//! below V unless the source is idle; there kck's own message lets V pass it. What is stale already will see the new
//! answer; its mark is written again, since whoever made it may not have come to that. What is being computed need not
//! be marked if it demanded more than the answer of before had, or that had expired as it began. Who runs while an
//! answer is given out that is not kept is marked at once: nothing would tie it to that one later. What the store did
//! not take is owed, and written before the answer that owes it, or with the one that is stale for it.
//!
//! **Demands.** A program is told a position that it demands of what it reads: the newest mark of all that its key
//! depends on. So nothing that it reads is stale, and nothing is computed again that is not. Where V has not passed that
//! mark yet the key is marked with it. An address is told nothing, and may have read whatever there was.
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
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{MutexGuard, PoisonError},
    time::Instant,
};

use crate::{
    change::{Lsn, Position, SourceTime},
    key::Key,
    pattern::Pattern,
    product::{Means, Product, Slot},
    store::Error as StoreError,
};

use super::{
    Handle,
    handle::Waiter,
    held::{Free, Held},
    ledger::Ledger,
    tracked::{Flag, Tracked},
    wake::Marks,
};

/// Keys of one product that a key is held for, where it does not say which.
const NEEDS_MAX: usize = 16;
/// In microseconds: as far the source's clock, as kck knows it, may go back from one barrier to the next.
const CLOCK_BACK: i64 = 1_000_000;

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

    /// What a key depends on; `None` where that is nothing.
    fn needs(&self, key: &Key) -> Option<Needs> {
        let needs = (self.shared.links.get()?.needs)(key);
        (!(needs.0.is_empty() && needs.1.is_empty())).then_some(needs)
    }

    fn has_dependents(&self, key: &Key) -> bool {
        self.shared.links.get().is_some_and(|links| !(links.dependents)(key).is_empty())
    }

    /// What others may have seen of a key that they depend on.
    pub(super) fn seen_by_others(&self, key: &Key) -> Option<Seen> {
        self.has_dependents(key).then(|| self.ledger().seen(key)).flatten()
    }

    /// A key has this answer now, and others may have seen what was `before`; whether it may be made durable: all below
    /// are marked, those of an earlier change too whose marks the store did not take.
    pub(super) async fn tell_of_answer(
        &self,
        key: &Key,
        before: Option<Seen>,
        changed: bool,
    ) -> bool {
        if !(changed || self.ledger().owes_marks(key)) || !self.has_dependents(key) {
            return true;
        }
        // Whatever ends this before they are durable.
        self.ledger().owe_marks(key, true);
        match self.tell(&[(key.clone(), before)], Whom::All).await {
            Ok(()) => {
                self.ledger().owe_marks(key, false);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "marking what depends on an answer waits for the store");
                false
            }
        }
    }

    /// An answer that is not kept is given out: nothing ties those to it that are being computed from it, so they are
    /// stale as soon as they are there.
    pub(super) async fn tell_of_unkept(&self, key: &Key, seen: Seen) {
        // They are not made durable without their marks.
        if let Err(error) = self.tell(&[(key.clone(), Some(seen))], Whom::Running).await {
            tracing::warn!(%error, "marking what depends on an answer waits for the store");
        }
    }

    /// Answers that are let go of: whoever saw them is marked, durably before they are deleted.
    pub(super) async fn tell_of_lost(&self, keys: &[Key]) -> Result<(), StoreError> {
        if self.shared.links.get().is_none() {
            return Ok(());
        }
        let lost = {
            let ledger = self.ledger();
            let lost = keys.iter().map(|key| (key.clone(), ledger.seen(key)));
            lost.collect::<Vec<_>>()
        };
        self.tell(&lost, Whom::All).await
    }

    /// These keys are not what others may have seen of them. All below are marked, and woken in any case.
    async fn tell(&self, moved: &[(Key, Option<Seen>)], whom: Whom) -> Result<(), StoreError> {
        let Some(links) = self.shared.links.get() else { return Ok(()) };
        if moved.iter().all(|(key, _)| (links.dependents)(key).is_empty()) {
            return Ok(());
        }
        // Whoever ends after this look has an entry, and whoever begins after it sees what is there now.
        let running = self.begun();
        let Below { raised, again } = self.ledger().mark_below(links, &running, moved, whom);
        let all: Vec<(Key, Position)> = raised.iter().chain(&again).cloned().collect();
        let written = if all.is_empty() { Ok(()) } else { self.shared.store.mark(&all).await };
        let visible = self.shared.progress.borrow().as_of();
        let (mut now, later): (Vec<_>, Vec<_>) =
            raised.into_iter().partition(|(_, mark)| *mark <= visible);
        // What runs already and began far enough will be fresh.
        now.retain(|(key, mark)| running.get(key).is_none_or(|begun| begun.as_of < *mark));
        self.wake(&Marks { keys: now, products: Vec::new() });
        if !later.is_empty() {
            self.wake_later(Marks { keys: later, products: Vec::new() });
        }
        written
    }

    /// What a key that is computed from now on demands of the products that it reads; `as_of` is V. While one of those
    /// waits for V, what it reads may be older than its mark, and the key is marked with it.
    pub(super) fn demands(&self, product: &Product, key: &Key, as_of: Position) -> Position {
        let Some((keys, patterns)) = self.needs(key) else { return as_of };
        let (newest, raised) = {
            let mut ledger = self.ledger();
            let some = ledger.agreeing(&patterns);
            let whole = patterns.iter().map(|pattern| Key::new(&pattern.product, []));
            let all: Vec<Key> = keys.into_iter().chain(some).chain(whole).collect();
            let newest = all.iter().map(|key| ledger.mark_of(key)).max().unwrap_or(as_of);
            let mark = ledger.above_forgotten(newest);
            let raises = as_of < newest && ledger.mark_of(key) < newest;
            let raised = if raises { ledger.mark([(key, mark.lsn)]) } else { Vec::new() };
            (newest, raised)
        };
        if !raised.is_empty() {
            self.wake_later(Marks { keys: raised, products: Vec::new() });
        }
        let least = newest.min(as_of);
        let outside = product.draft.recipe.outside();
        let tells = !matches!(outside.map(|outside| &outside.means), Some(Means::Http { .. }));
        // An address is told no position, and takes whatever there is.
        let demanded = if tells { least } else { Position::default() };
        let time = self.shared.progress.borrow().source_now(Instant::now());
        self.demanded().insert(key.clone(), Demanded { least: demanded, time });
        least
    }

    /// Whether an entry of a key may be made durable: a mark above it is, of one that depends on others. Whoever marks
    /// what is being computed may not have come to that.
    pub(super) async fn is_marked(&self, key: &Key, as_of: Position) -> bool {
        let Some(mark) = self.ledger().own_mark(key).filter(|mark| as_of < *mark) else {
            return true;
        };
        if self.needs(key).is_none() {
            return true;
        }
        let written = self.shared.store.mark(&[(key.clone(), mark)]).await;
        if let Err(error) = &written {
            tracing::warn!(%error, product = key.product(), "an answer was not kept");
        }
        written.is_ok()
    }

    /// When an answer expires that was begun at `began`: with the first of those that it may have been made from.
    pub(super) fn expires(
        &self,
        key: &Key,
        own: Option<SourceTime>,
        began: SourceTime,
    ) -> Option<SourceTime> {
        let Some((keys, patterns)) = self.needs(key) else { return own };
        let mut ledger = self.ledger();
        let some = ledger.agreeing(&patterns);
        let all: Vec<Key> = keys.into_iter().chain(some).collect();
        let theirs = all.iter().filter_map(|key| ledger.standing(key)?.meta.expires);
        // What had expired before could not be read.
        let theirs = theirs.filter(|expires| began.0.saturating_sub(CLOCK_BACK) < expires.0);
        theirs.chain(own).min()
    }

    fn demanded(&self) -> MutexGuard<'_, HashMap<Key, Demanded>> {
        self.shared.demanded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that is being computed and has begun.
    fn begun(&self) -> Running {
        let running: Vec<(Key, Position)> = {
            let queue = self.queue();
            // Whoever has not begun will see what is there then.
            let begun = queue.all_running().filter(|(_, as_of)| *as_of != Position::default());
            begun.map(|(key, as_of)| (key.clone(), as_of)).collect()
        };
        let demanded = self.demanded();
        let begun = |(key, as_of): (Key, Position)| {
            let demand = demanded.get(&key).copied().unwrap_or_default();
            (key, Begun { as_of, demand })
        };
        running.into_iter().map(begun).collect()
    }

    /// Holds a stale key while it must wait for others, which are queued; whether it does.
    pub(super) fn hold(&self, key: &Key, not_before: Option<Instant>) -> bool {
        let Some((keys, patterns)) = self.needs(key) else { return false };
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

/// What others may have seen of a key: exact as of that, until it expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) as_of: Position,
    /// `None`: it does not expire.
    pub(super) expires: Option<SourceTime>,
}

impl Seen {
    /// Whichever of two was seen.
    fn or(self, other: Option<Self>) -> Self {
        let Some(other) = other else { return self };
        let expires = self.expires.zip(other.expires).map(|(one, other)| one.max(other));
        Self { as_of: self.as_of.max(other.as_of), expires }
    }
}

/// What a computation demands of what it reads, and the source's clock as it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Demanded {
    least: Position,
    time: Option<SourceTime>,
}

/// A key that is being computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Begun {
    as_of: Position,
    demand: Demanded,
}

impl Begun {
    /// Whether it may have read what was there before.
    fn may_have_read(&self, before: Option<Seen>) -> bool {
        let Some(Seen { as_of, expires }) = before else { return false };
        let expired = expires
            .zip(self.demand.time)
            .is_some_and(|(expires, time)| expires.0.saturating_add(CLOCK_BACK) <= time.0);
        self.demand.least <= as_of && !expired
    }
}

type Running = HashMap<Key, Begun>;

/// Who is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whom {
    /// Whatever was made from an answer that is none any more.
    All,
    /// What is being made from it.
    Running,
}

/// What was marked.
#[derive(Debug, Default)]
struct Below {
    /// Keys that were fresh, or will be stale when they are there.
    raised: Vec<(Key, Position)>,
    /// Keys that were stale already, with what marks them: whoever marked them may not have come to write it.
    again: Vec<(Key, Position)>,
}

/// What one key below is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Judged {
    /// Its own mark.
    mark: Option<Lsn>,
    /// It sees what is there now, once it has been computed: more than its own mark would have it computed again.
    only_own: bool,
    /// What others may have seen of it that is none any more.
    seen: Option<Position>,
}

impl Ledger {
    /// The tracked keys that agree with any of these patterns, each once.
    pub(super) fn agreeing<'a>(
        &mut self,
        patterns: impl IntoIterator<Item = &'a Pattern>,
    ) -> Vec<Key> {
        let mut found = BTreeSet::new();
        for pattern in patterns {
            found.extend(self.patterns.find(pattern, &self.keys));
        }
        let key = |number| Some(self.keys.at(number)?.key().clone());
        found.into_iter().filter_map(key).collect()
    }

    /// What others may have seen of a key, also where its answer was let go of since.
    fn seen(&self, key: &Key) -> Option<Seen> {
        let (as_of, expires) = self.keys.get(key)?.last()?;
        Some(Seen { as_of, expires })
    }

    /// Whether marks below a key were made that may not be durable.
    fn owes_marks(&self, key: &Key) -> bool {
        self.keys.get(key).is_some_and(|tracked| tracked.is(Flag::Owes))
    }

    fn owe_marks(&mut self, key: &Key, owes: bool) {
        if let Some(tracked) = self.keys.get_mut(key) {
            tracked.set(Flag::Owes, owes);
        }
    }

    /// The key's own mark, whatever its product's is.
    fn own_mark(&self, key: &Key) -> Option<Position> {
        self.keys.get(key).map(Tracked::mark)
    }

    /// Marks all below these keys, through as many levels as there are, in one decision. Those that are marked get one
    /// mark together: a key is not computed before V has passed that of what it reads.
    fn mark_below(
        &mut self,
        links: &Links,
        running: &Running,
        moved: &[(Key, Option<Seen>)],
        whom: Whom,
    ) -> Below {
        let (mut below, mut marks) = (Below::default(), Vec::new());
        let mut looked_at: HashSet<Key> = moved.iter().map(|(key, _)| key.clone()).collect();
        let mut next = Next::new();
        self.go_down(links, moved.iter().cloned(), &mut next);
        // By rank: all that a key depends on was looked at before it.
        while let Some((_, some)) = next.pop_first() {
            let mut seen = Vec::new();
            for (key, before) in some {
                if !looked_at.insert(key.clone()) {
                    continue;
                }
                let (entry, own, is_fresh) = self.as_it_is(&key);
                let begun = running.get(&key).filter(|begun| begun.as_of.epoch == self.epoch());
                let judged = judge(entry.filter(|_| is_fresh), begun, before, whom);
                marks.extend(judged.mark.map(|mark| (key.clone(), mark, judged.only_own)));
                if whom == Whom::All && entry.is_some_and(|at| at < own) {
                    below.again.push((key.clone(), own));
                }
                let stale = entry.filter(|_| !is_fresh && whom == Whom::All);
                let as_of = judged.seen.max(stale);
                seen.extend(as_of.map(|as_of| (key, Some(Seen { as_of, expires: None }))));
            }
            self.go_down(links, seen.into_iter(), &mut next);
        }
        let highest = marks.iter().map(|(_, mark, _)| *mark).max().unwrap_or_default();
        let above = |lsn, ledger: &Self| {
            ledger.above_forgotten(Position { epoch: ledger.epoch(), lsn }).lsn
        };
        let marks: Vec<(Key, Lsn)> = marks
            .into_iter()
            .map(|(key, mark, only_own)| (key, above(if only_own { mark } else { highest }, self)))
            .collect();
        below.raised = self.mark(marks.iter().map(|(key, at)| (key, *at)));
        let raised: HashSet<&Key> = below.raised.iter().map(|(key, _)| key).collect();
        below.again.retain(|(key, _)| !raised.contains(key));
        below
    }

    /// What an entry of this epoch is exact as of, the key's own mark, and whether nothing marks that entry.
    fn as_it_is(&self, key: &Key) -> (Option<Position>, Position, bool) {
        let Some(tracked) = self.keys.get(key) else { return Default::default() };
        let entry = tracked.has_entry().then(|| tracked.as_of());
        let entry = entry.filter(|entry| entry.epoch == self.epoch());
        (entry, tracked.mark(), entry.is_some_and(|entry| self.mark_of(key) <= entry))
    }

    /// Finds who depends on these keys, each with whatever it may have seen of them.
    fn go_down(
        &mut self,
        links: &Links,
        seen: impl Iterator<Item = (Key, Option<Seen>)>,
        next: &mut Next,
    ) {
        let join = |place: &mut Option<Seen>, seen: Option<Seen>| {
            *place = seen.map_or(*place, |seen| Some(seen.or(*place)));
        };
        // Many keys may concern the same ones.
        let mut patterns: HashMap<Pattern, Option<Seen>> = HashMap::new();
        for (key, seen) in seen {
            for pattern in (links.dependents)(&key) {
                join(patterns.entry(pattern).or_default(), seen);
            }
        }
        for (pattern, seen) in patterns {
            let keys = next.entry((links.rank)(&pattern.product)).or_default();
            for key in self.agreeing([&pattern]) {
                join(keys.entry(key).or_default(), seen);
            }
        }
    }
}

/// By rank, keys to look at.
type Next = BTreeMap<usize, HashMap<Key, Option<Seen>>>;

/// What becomes of a key whose `entry` is fresh as of that, and which is being computed, if it is `begun`; what it
/// depends on is not any more what was there `before`.
fn judge(
    entry: Option<Position>,
    begun: Option<&Begun>,
    before: Option<Seen>,
    whom: Whom,
) -> Judged {
    let behind = |position: Position| Some(Lsn(position.lsn.0 + 1));
    let entry = entry.filter(|_| whom == Whom::All);
    match (begun, entry) {
        (Some(begun), _) if begun.may_have_read(before) => {
            let last = entry.map_or(begun.as_of, |entry| entry.max(begun.as_of));
            Judged { mark: behind(last), only_own: false, seen: Some(last) }
        }
        // It sees the new one; its entry has not.
        (Some(begun), Some(entry)) if entry < begun.as_of => {
            Judged { mark: behind(entry), only_own: true, seen: Some(entry) }
        }
        (Some(_), _) | (None, None) => Judged::default(),
        (None, Some(entry)) => Judged { mark: behind(entry), only_own: false, seen: Some(entry) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Epoch;

    fn at(lsn: u64) -> Position {
        Position { epoch: Epoch(1), lsn: Lsn(lsn) }
    }

    fn seen(lsn: u64) -> Option<Seen> {
        Some(Seen { as_of: at(lsn), expires: None })
    }

    #[test]
    fn who_may_have_seen_the_answer_of_before_is_marked() {
        let begun = Begun { as_of: at(8), demand: Demanded { least: at(5), time: None } };
        let mark =
            |entry, begun: Option<&Begun>, before| judge(entry, begun, before, Whom::All).mark;
        // It stands, and saw what was there.
        assert_eq!(mark(Some(at(4)), None, seen(3)), Some(Lsn(5)));
        // It is stale already, and will see the new answer.
        assert_eq!(mark(None, None, seen(3)), None);
        // It is being computed and demands more than there was before …
        assert_eq!(mark(None, Some(&begun), seen(3)), None);
        assert_eq!(mark(None, Some(&begun), None), None);
        // … its entry is marked all the same, should it fail …
        assert_eq!(mark(Some(at(4)), Some(&begun), seen(3)), Some(Lsn(5)));
        // … or could take what there was, and may have come to its end meanwhile.
        assert_eq!(mark(Some(at(4)), Some(&begun), seen(5)), Some(Lsn(9)));
        assert_eq!(mark(Some(at(8)), Some(&begun), seen(5)), Some(Lsn(9)));
    }

    #[test]
    fn of_an_answer_that_is_not_kept_only_who_runs_is_marked() {
        let begun = Begun { as_of: at(8), demand: Demanded { least: at(5), time: None } };
        let judged = |begun| judge(Some(at(4)), begun, seen(6), Whom::Running);
        assert_eq!(judged(None), Judged::default());
        assert_eq!(
            (judged(Some(&begun)).mark, judged(Some(&begun)).seen),
            (Some(Lsn(9)), Some(at(8)))
        );
    }
}
