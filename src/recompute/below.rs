//! Below: keys whose answers are made from those of other products, which no commit tells of. Pure.
//!
//! Invariant: the entry of such a key is fresh only while every answer that it may have been made from has stayed fresh
//! since its computation began.
//!
//! So whatever ends an answer's being fresh, or puts another in its place, *outdates* the entries below it, through every
//! level, in the same decision, and *touches* what is being computed there: that is outdated as it arrives. An answer that
//! is given out and is not fresh, or not kept, touches who runs below. Where a commit marks a key it marks those below.
//! What begins later cannot read what is not fresh any more: programs demand (R9) the newest mark of all that they depend
//! on, what is outdated meets no demand, and nobody joins what is touched. Where a demand could be met by what is not
//! fresh, as before V has passed a mark, and for addresses, which demand nothing, it begins touched.
//!
//! None of this is durable. A start takes every entry of such a product as outdated.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

use crate::{
    change::{Lsn, Position, SourceTime},
    key::Key,
    pattern::Pattern,
};

use super::{
    ledger::{Ledger, Standing},
    tracked::Flag,
};

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
    /// Of which products keys see a product's answers.
    pub readers: Asked<str, Vec<String>>,
    /// Whether a product's answers are made from such.
    pub reads: Asked<str, bool>,
    /// In which order products go: 0 where it does not matter.
    pub rank: Asked<str, usize>,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

impl Ledger {
    /// From now on these say which keys depend on which.
    pub(super) fn link(&mut self, links: Arc<Links>) {
        self.links = Some(links);
    }

    /// Entries of this product, which reads others' answers, were made by an earlier start or by another definition: what
    /// they were made from may have moved since.
    pub fn outdate_product(&mut self, product: &str) {
        let keys: Vec<Key> = self.keys_of(product).cloned().collect();
        let outdated = keys.iter().filter(|key| self.outdate(key));
        let outdated: Vec<Key> = outdated.cloned().collect();
        self.lose(outdated);
    }

    /// The answers of these keys are not fresh any more, or are others now.
    pub(super) fn lose(&mut self, keys: Vec<Key>) {
        let Some(links) = self.links.clone() else { return };
        let mut next = keys;
        while !next.is_empty() {
            let below = self.below(&links, &next);
            next = below.into_iter().filter(|key| self.outdate(key)).collect();
        }
    }

    /// A product is another now, or linked to others: its answers are not what they were, nor what they are made from.
    pub(super) fn lose_definition(&mut self, product: &str) {
        self.lose_product(product);
        if self.links.as_ref().is_some_and(|links| (links.reads)(product)) {
            self.outdate_product(product);
        }
    }

    /// The answers of a whole product are not what they were.
    pub(super) fn lose_product(&mut self, product: &str) {
        self.all_readers(product).iter().for_each(|reader| self.outdate_product(reader));
    }

    /// Whether the key had an entry that was not outdated. What is to be woken for it is remembered.
    fn outdate(&mut self, key: &Key) -> bool {
        let Some(tracked) = self.keys.get_mut(key) else { return false };
        let outdated = tracked.has_entry() && !tracked.is(Flag::Outdated);
        tracked.set(Flag::Touched, true);
        if outdated {
            tracked.set(Flag::Outdated, true);
        }
        // Also what is outdated already: it may have failed meanwhile.
        self.outdated.push(key.clone());
        outdated
    }

    /// An answer of this key is given out that is not kept, or not fresh: whoever is computed from it is as stale. Nobody
    /// is woken: that comes with an answer that is fresh.
    pub(super) fn touch_below(&mut self, key: &Key) {
        let Some(links) = self.links.clone() else { return };
        for key in self.below(&links, std::slice::from_ref(key)) {
            if let Some(tracked) = self.keys.get_mut(&key) {
                tracked.set(Flag::Touched, true);
            }
        }
    }

    /// A key has another entry: whether the one before was fresh and this one is, and whether it is of other bytes.
    pub(super) fn replaced(&mut self, key: &Key, (was_fresh, fresh): (bool, bool), changed: bool) {
        let Some(links) = self.links.clone() else { return };
        if was_fresh && (changed || !fresh) {
            self.lose(vec![key.clone()]);
        }
        if !fresh {
            self.touch_below(key);
        } else if !was_fresh {
            // Whoever came to nothing without it may come to something now.
            let below = self.below(&links, std::slice::from_ref(key));
            let waits = |key: &Key| self.keys.get(key).is_some_and(|key| key.is(Flag::Outdated));
            self.waiting.extend(below.into_iter().filter(waits));
        }
    }

    /// A computation of the key begins, which reads what is exact as of `least` of what it needs; an address, which has
    /// none, whatever there is. What has expired is read by nobody from now on.
    pub(super) fn begins(
        &mut self,
        key: &Key,
        needs: &[Key],
        least: Option<Position>,
        now: Option<SourceTime>,
    ) {
        for need in needs {
            let expires = self.standing(need).and_then(|standing| standing.meta.expires);
            if expires.is_some_and(|expires| now.is_none_or(|now| expires <= now))
                && let Some(tracked) = self.keys.get_mut(need)
                && !tracked.is(Flag::Outdated)
            {
                tracked.set(Flag::Outdated, true);
                self.lose(vec![need.clone()]);
            }
        }
        let reads = |standing: Standing| {
            let meets = |least| standing.sound && standing.meta.as_of >= least;
            !standing.fresh && least.is_none_or(meets)
        };
        let touched = needs.iter().filter_map(|need| self.standing(need)).any(reads);
        if let Some(tracked) = self.keys.get_mut(key) {
            tracked.set(Flag::Touched, touched);
        }
    }

    /// Whether what is being computed, or was last, was outdated as it arrived or since.
    pub(super) fn is_touched(&self, key: &Key) -> bool {
        self.keys.get(key).is_some_and(|tracked| tracked.is(Flag::Touched))
    }

    /// Whether a key is outdated though all that it needs is fresh.
    pub(super) fn may_be_fresh(&self, key: &Key, needs: &[Key]) -> bool {
        let is_outdated = self.keys.get(key).is_some_and(|key| key.is(Flag::Outdated));
        is_outdated && needs.iter().all(|need| self.is_fresh(need))
    }

    /// The commits that marked these keys concern those below too; which those are comes back.
    pub(super) fn mark_below(&mut self, marked: &[(Key, Position)]) -> Vec<(Key, Position)> {
        let mut marks = Vec::new();
        let Some(links) = self.links.clone() else { return marks };
        // Keys are many, products are few, and most are read by nobody.
        let products: BTreeSet<&str> = marked.iter().map(|(key, _)| key.product()).collect();
        let read = |product: &&str| !(links.readers)(product).is_empty();
        let products: BTreeSet<&str> = products.into_iter().filter(read).collect();
        let is_read = |(key, _): &&(Key, Position)| products.contains(key.product());
        let mut next: Vec<(Key, Position)> = marked.iter().filter(is_read).cloned().collect();
        while !next.is_empty() {
            let mut patterns: HashMap<Pattern, Lsn> = HashMap::new();
            for (key, at) in &next {
                for pattern in (links.dependents)(key) {
                    let place = patterns.entry(pattern).or_default();
                    *place = at.lsn.max(*place);
                }
            }
            next.clear();
            for (pattern, lsn) in patterns {
                let at = Position { epoch: self.epoch(), lsn };
                for key in self.agreeing([&pattern]) {
                    if let Some(tracked) = self.keys.get_mut(&key)
                        && tracked.mark() < at
                    {
                        tracked.set_mark(at);
                        next.push((key, at));
                    }
                }
            }
            marks.extend_from_slice(&next);
        }
        marks
    }

    /// Products whose keys see answers of this one, at any level.
    pub(super) fn all_readers(&self, product: &str) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        let Some(links) = &self.links else { return all };
        let mut next = (links.readers)(product);
        while let Some(reader) = next.pop() {
            if !all.contains(&reader) {
                next.extend((links.readers)(&reader));
                all.insert(reader);
            }
        }
        all
    }

    /// The tracked keys that see the answers of these, each once.
    fn below(&mut self, links: &Links, keys: &[Key]) -> Vec<Key> {
        let patterns: BTreeSet<Pattern> =
            keys.iter().flat_map(|key| (links.dependents)(key)).collect();
        self.agreeing(&patterns)
    }

    /// All keys that are needed by name, and those tracked that agree with patterns.
    pub(super) fn named(&mut self, (keys, patterns): &Needs) -> Vec<Key> {
        let mut named = self.agreeing(patterns);
        named.extend_from_slice(keys);
        named
    }

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
}
