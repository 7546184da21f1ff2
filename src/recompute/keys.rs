//! All tracked keys: by text, by product in the order of their texts, and by number. Pure.
//!
//! Records lie in parts of a fixed size, so that growing copies none of them; their numbers are what the indexes hold,
//! four bytes each. The index by text is in shards: one that grows moves few keys at a time, since readers wait for it.

use std::{
    cmp::Ordering,
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use hashbrown::HashTable;

use super::tracked::{Kinds, Tracked};
use crate::{entry::Meta, key::Key};

/// Records of one part.
const PART: usize = 256;
/// Shards of the index by text.
const SHARDS: usize = 64;
/// Numbers in one run of an ordered list, at most.
const RUN: usize = 512;

/// A key's number, as long as it is tracked.
pub(super) type Number = u32;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    records: Records,
    by_text: Vec<HashTable<Number>>,
    hasher: RandomState,
    by_product: HashMap<Arc<str>, Ordered>,
    kinds: Kinds,
    len: usize,
    /// Of all entries' bodies.
    bytes: u64,
}

#[derive(Debug, Clone, Default)]
struct Records {
    parts: Vec<Vec<Option<Tracked>>>,
    free: Vec<Number>,
}

impl Keys {
    pub(super) fn new() -> Self {
        Self {
            records: Records::default(),
            by_text: vec![HashTable::new(); SHARDS],
            hasher: RandomState::new(),
            by_product: HashMap::new(),
            kinds: Kinds::default(),
            len: 0,
            bytes: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How long the bodies of all entries are together.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn place(&self, text: &str) -> (usize, u64) {
        let hash = self.hasher.hash_one(text);
        // A table takes its own bits from both ends of the hash.
        let shard = usize::try_from(hash >> 32).unwrap_or(0) % SHARDS;
        (shard, hash)
    }

    pub(super) fn number(&self, key: &Key) -> Option<Number> {
        let (shard, hash) = self.place(key.as_str());
        let is = |number: &Number| self.records.text(*number) == key.as_str();
        self.by_text.get(shard)?.find(hash, is).copied()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Tracked> {
        self.at(self.number(key)?)
    }

    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut Tracked> {
        let number = self.number(key)?;
        self.records.get_mut(number)
    }

    pub(super) fn at(&self, number: Number) -> Option<&Tracked> {
        self.records.get(number)
    }

    pub(super) fn at_mut(&mut self, number: Number) -> Option<&mut Tracked> {
        self.records.get_mut(number)
    }

    /// A key's entry.
    pub(super) fn meta(&self, key: &Key) -> Option<Meta> {
        self.get(key)?.meta(&self.kinds)
    }

    /// The entry of a record.
    pub(super) fn meta_of(&self, tracked: &Tracked) -> Option<Meta> {
        tracked.meta(&self.kinds)
    }

    /// This is the key's entry from now on.
    pub(super) fn keep(&mut self, number: Number, meta: &Meta) {
        let Self { records, kinds, bytes, .. } = self;
        if let Some(tracked) = records.get_mut(number) {
            let before = tracked.bytes();
            tracked.keep(meta, kinds);
            *bytes = *bytes - before + tracked.bytes();
        }
    }

    /// The key has no entry any more.
    pub(super) fn let_go(&mut self, key: &Key) {
        let Some(number) = self.number(key) else { return };
        let Self { records, kinds, bytes, .. } = self;
        if let Some(tracked) = records.get_mut(number) {
            *bytes -= tracked.bytes();
            tracked.let_go(kinds);
        }
    }

    /// A key that is not there yet, without an entry.
    pub(super) fn insert(&mut self, tracked: Tracked) -> Number {
        let key = tracked.key().clone();
        let number = self.records.insert(tracked);
        let (shard, hash) = self.place(key.as_str());
        let Self { by_text, records, hasher, by_product, .. } = self;
        if let Some(table) = by_text.get_mut(shard) {
            table.insert_unique(hash, number, |other| hasher.hash_one(records.text(*other)));
        }
        let product = match by_product.get_mut(key.product()) {
            Some(product) => product,
            None => by_product.entry(key.product().into()).or_default(),
        };
        product.insert(number, records);
        self.len += 1;
        number
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Tracked> {
        self.let_go(key);
        let number = self.number(key)?;
        let (shard, hash) = self.place(key.as_str());
        let found = self.by_text.get_mut(shard)?.find_entry(hash, |other| *other == number);
        found.ok()?.remove();
        if let Some(product) = self.by_product.get_mut(key.product()) {
            product.remove(key.as_str(), &self.records);
            if product.runs.is_empty() {
                self.by_product.remove(key.product());
            }
        }
        self.len -= 1;
        self.records.remove(number)
    }

    /// The keys of a product from this text on, in the order of their texts.
    pub(super) fn from<'a>(
        &'a self,
        product: &str,
        text: &str,
    ) -> impl Iterator<Item = &'a Tracked> + use<'a> {
        let product = self.by_product.get(product);
        let numbers = product.map(|product| product.from(text, &self.records));
        numbers.into_iter().flatten().filter_map(|number| self.records.get(number))
    }

    /// The keys of a product with their numbers.
    pub(super) fn of<'a>(
        &'a self,
        product: &str,
    ) -> impl Iterator<Item = (Number, &'a Key)> + use<'a> {
        let numbers = self.by_product.get(product).into_iter().flat_map(|product| &product.runs);
        numbers.flatten().filter_map(|number| Some((*number, self.records.get(*number)?.key())))
    }

    /// Every record, to be changed in place.
    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Tracked> {
        self.records.parts.iter_mut().flatten().flatten()
    }

    /// Numbers from this one on, around, once each; there may be nothing under one.
    pub(super) fn around(&self, from: Number) -> impl Iterator<Item = Number> {
        let most = Number::try_from(self.records.parts.len() * PART).unwrap_or(Number::MAX);
        let from = if from < most { from } else { 0 };
        (from..most).chain(0..from)
    }
}

impl Records {
    fn get(&self, number: Number) -> Option<&Tracked> {
        let (part, at) = split(number);
        self.parts.get(part)?.get(at)?.as_ref()
    }

    fn get_mut(&mut self, number: Number) -> Option<&mut Tracked> {
        let (part, at) = split(number);
        self.parts.get_mut(part)?.get_mut(at)?.as_mut()
    }

    fn text(&self, number: Number) -> &str {
        self.get(number).map_or("", |tracked| tracked.key().as_str())
    }

    fn insert(&mut self, tracked: Tracked) -> Number {
        if let Some(number) = self.free.pop() {
            let (part, at) = split(number);
            if let Some(place) = self.parts.get_mut(part).and_then(|part| part.get_mut(at)) {
                *place = Some(tracked);
            }
            return number;
        }
        if self.parts.last().is_none_or(|part| part.len() == PART) {
            self.parts.push(Vec::with_capacity(PART));
        }
        let before = (self.parts.len() - 1) * PART;
        let Some(part) = self.parts.last_mut() else { return Number::MAX };
        part.push(Some(tracked));
        // Memory ends long before numbers do.
        Number::try_from(before + part.len() - 1).unwrap_or(Number::MAX)
    }

    fn remove(&mut self, number: Number) -> Option<Tracked> {
        let (part, at) = split(number);
        let removed = self.parts.get_mut(part)?.get_mut(at)?.take();
        if removed.is_some() {
            self.free.push(number);
        }
        removed
    }
}

fn split(number: Number) -> (usize, usize) {
    (number as usize / PART, number as usize % PART)
}

/// Numbers in the order of their keys' texts, in runs of bounded length.
#[derive(Debug, Clone, Default)]
struct Ordered {
    runs: Vec<Vec<Number>>,
}

impl Ordered {
    /// In which run a text belongs, and where there: `Ok` where it is.
    fn find(&self, text: &str, records: &Records) -> (usize, Result<usize, usize>) {
        let first = |run: &Vec<Number>| run.first().map_or("", |number| records.text(*number));
        let run = self.runs.partition_point(|run| first(run) <= text).saturating_sub(1);
        let within = self.runs.get(run).map_or(Err(0), |numbers| {
            numbers.binary_search_by(|number| records.text(*number).cmp(text))
        });
        (run, within)
    }

    fn insert(&mut self, number: Number, records: &Records) {
        // A store gives its keys in order: then there is nothing to look for.
        if let Some(last) = self.runs.last_mut()
            && last.len() < RUN
            && last.last().is_some_and(|last| records.text(*last) < records.text(number))
        {
            last.push(number);
            return;
        }
        let (run, place) = self.find(records.text(number), records);
        let Err(at) = place else { return };
        let Some(numbers) = self.runs.get_mut(run) else {
            self.runs.push(vec![number]);
            return;
        };
        if numbers.len() < RUN {
            numbers.insert(at, number);
            return;
        }
        // Keys often come in order: what is full stays full, and the next begins anew.
        let (mut rest, here) = match at.cmp(&RUN) {
            Ordering::Less => (numbers.split_off(RUN / 2), at <= RUN / 2),
            _ => (Vec::new(), false),
        };
        if here {
            numbers.insert(at, number);
        } else {
            rest.insert(at - numbers.len(), number);
        }
        numbers.shrink_to_fit();
        self.runs.insert(run + 1, rest);
    }

    fn remove(&mut self, text: &str, records: &Records) {
        let (run, Ok(at)) = self.find(text, records) else { return };
        let Some(numbers) = self.runs.get_mut(run) else { return };
        numbers.remove(at);
        // Those that are short become one, so that many removals leave few runs.
        if numbers.is_empty() {
            self.runs.remove(run);
        } else {
            self.join(run);
            self.join(run.saturating_sub(1));
        }
    }

    /// Makes one of this run and the next, if they are short together.
    fn join(&mut self, run: usize) {
        let len = |run: usize| self.runs.get(run).map(Vec::len);
        let both = len(run).zip(len(run + 1)).map(|(one, next)| one + next);
        if both.is_some_and(|both| both <= RUN / 2) {
            let next = self.runs.remove(run + 1);
            if let Some(numbers) = self.runs.get_mut(run) {
                numbers.extend(next);
            }
        }
    }

    fn from(&self, text: &str, records: &Records) -> impl Iterator<Item = Number> + use<'_> {
        let (run, Ok(at) | Err(at)) = self.find(text, records);
        let runs = self.runs.get(run..).unwrap_or_default();
        runs.iter().flatten().copied().skip(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Lease, Stamp};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u16),
        Remove(u16),
        Keep(u16, u32),
        From(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (0u16..2000).prop_map(Step::Insert),
            3 => (0u16..2000).prop_map(Step::Remove),
            1 => (0u16..2000, any::<u32>()).prop_map(|(n, bytes)| Step::Keep(n, bytes)),
            1 => (0u16..2000).prop_map(Step::From),
        ]
    }

    fn key(n: u16) -> Key {
        let product = if n.is_multiple_of(7) { "q" } else { "p" };
        Key::new(product, [n.to_string().as_str()])
    }

    fn tracked(n: u16) -> Tracked {
        Tracked::new(key(n), Lease::default(), Stamp(1))
    }

    fn check(keys: &Keys, model: &BTreeSet<Key>) {
        assert_eq!(keys.len(), model.len());
        for product in ["p", "q"] {
            let own = |key: &&Key| key.product() == product;
            let listed: Vec<&Key> = keys.from(product, "").map(Tracked::key).collect();
            assert_eq!(listed, model.iter().filter(own).collect::<Vec<_>>());
            assert_eq!(keys.of(product).map(|(_, key)| key).collect::<Vec<_>>(), listed);
        }
    }

    fn play(steps: Vec<Step>) {
        let (mut keys, mut model) = (Keys::new(), BTreeSet::new());
        let mut bytes = std::collections::HashMap::new();
        for step in steps {
            match step {
                Step::Insert(n) => {
                    if model.insert(key(n)) {
                        keys.insert(tracked(n));
                    }
                    assert!(keys.get(&key(n)).is_some());
                }
                Step::Remove(n) => {
                    assert_eq!(keys.remove(&key(n)).is_some(), model.remove(&key(n)));
                    bytes.remove(&n);
                    assert!(keys.get(&key(n)).is_none());
                }
                Step::Keep(n, size) => {
                    let number = keys.number(&key(n));
                    assert_eq!(number.is_some(), model.contains(&key(n)));
                    if let Some(number) = number {
                        keys.keep(number, &Meta { bytes: size, ..Meta::default() });
                        bytes.insert(n, u64::from(size));
                    }
                }
                Step::From(n) => {
                    let from = key(n);
                    let want = model.range(from.clone()..);
                    let want: Vec<&Key> =
                        want.filter(|key| key.product() == from.product()).collect();
                    let found = keys.from(from.product(), from.as_str()).map(Tracked::key);
                    assert_eq!(found.collect::<Vec<_>>(), want);
                }
            }
        }
        check(&keys, &model);
        assert_eq!(keys.bytes(), bytes.values().sum::<u64>());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Beside a plain ordered set, over any history.
        #[test]
        fn is_an_ordered_set(steps in prop::collection::vec(step(), 1..4000)) {
            play(steps);
        }
    }

    #[test]
    fn keys_that_come_in_order_fill_their_runs_and_go_without_a_trace() {
        let mut keys = Keys::new();
        let texts: BTreeSet<Key> = (0..20_000).filter(|n| n % 7 != 0).map(key).collect();
        for key in &texts {
            keys.insert(Tracked::new(key.clone(), Lease::default(), Stamp(1)));
        }
        let runs = keys.by_product["p"].runs.len();
        assert_eq!(runs, texts.len().div_ceil(RUN));
        check(&keys, &texts);
        let (left, gone): (Vec<_>, Vec<_>) =
            texts.into_iter().enumerate().partition(|(n, _)| n % 100 == 0);
        let left: Vec<Key> = left.into_iter().map(|(_, key)| key).collect();
        for (_, key) in &gone {
            keys.remove(key);
        }
        assert!(keys.by_product["p"].runs.len() <= 4, "{}", keys.by_product["p"].runs.len());
        check(&keys, &left.iter().cloned().collect());
        for key in &left {
            keys.remove(key);
        }
        assert!(keys.by_product.is_empty() && keys.len() == 0);
        // The places of what went are used again.
        let parts = keys.records.parts.len();
        for n in 0..10_000 {
            keys.insert(tracked(n));
        }
        assert_eq!(keys.records.parts.len(), parts);
    }

    #[test]
    fn going_around_meets_everyone_once() {
        let mut keys = Keys::new();
        let numbers: Vec<Number> = (0..700).map(|n| keys.insert(tracked(n))).collect();
        let met: Vec<Number> =
            keys.around(300).filter(|number| keys.at(*number).is_some()).collect();
        assert_eq!(met.first(), Some(&300));
        assert_eq!(met.iter().collect::<BTreeSet<_>>().len(), numbers.len());
        assert_eq!(keys.around(u32::MAX).next(), Some(0));
    }
}
