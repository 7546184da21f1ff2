//! Patterns → the tracked keys that agree with them. Pure.
//!
//! An index is built when a product's first pattern of its kind comes, and kept from then on.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use super::{
    keys::{Keys, Number},
    tracked::Tracked,
};
use crate::{
    key::{Key, write_key},
    pattern::{Order, Ordered, Part, Pattern, number},
};

/// Indexes of tracked keys, by product.
#[derive(Debug, Clone, Default)]
pub(super) struct Patterns {
    by_product: HashMap<Arc<str>, Vec<Indexed>>,
    hasher: RandomState,
}

/// What a pattern says of a parameter, without the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open,
    Text,
    Number,
    Ordered(Order),
}

/// The tracked keys of a product, for patterns of one kind.
#[derive(Debug, Clone)]
struct Indexed {
    kinds: Vec<Kind>,
    /// A hash of the values of texts and numbers (two that share one are found together, which finds too many), the
    /// ordered value, if the kind has one, and the key's number.
    keys: BTreeSet<(u64, Option<Ordered>, Number)>,
    /// Keys with a value of no known form: they agree with everything.
    unread: BTreeSet<Number>,
}

impl Patterns {
    /// The tracked keys that agree.
    pub(super) fn find(&mut self, pattern: &Pattern, tracked: &Keys) -> Vec<Number> {
        let Self { by_product, hasher } = self;
        let kinds = kinds(pattern);
        let indexes = by_product.entry(Arc::clone(&pattern.product)).or_default();
        let at = indexes.iter().position(|index| index.kinds == kinds).unwrap_or_else(|| {
            let mut index = Indexed { kinds, keys: BTreeSet::new(), unread: BTreeSet::new() };
            let tracked = tracked.of(&pattern.product);
            tracked.for_each(|(number, key)| index.insert(number, key, hasher));
            indexes.push(index);
            indexes.len() - 1
        });
        indexes.get(at).map(|index| index.find(pattern, tracked, hasher)).unwrap_or_default()
    }

    pub(super) fn insert(&mut self, number: Number, key: &Key) {
        let Self { by_product, hasher } = self;
        let indexes = by_product.get_mut(key.product());
        indexes.into_iter().flatten().for_each(|index| index.insert(number, key, hasher));
    }

    pub(super) fn remove(&mut self, number: Number, key: &Key) {
        let Self { by_product, hasher } = self;
        let indexes = by_product.get_mut(key.product());
        indexes.into_iter().flatten().for_each(|index| index.remove(number, key, hasher));
    }
}

/// Of ordered parts only the first is indexed.
fn kinds(pattern: &Pattern) -> Vec<Kind> {
    let mut ordered = false;
    let kind = |part: &Part| match part {
        Part::Text(_) => Kind::Text,
        Part::Number(_) => Kind::Number,
        Part::AtMost(order, _) | Part::AtLeast(order, _) if !ordered => {
            ordered = true;
            Kind::Ordered(*order)
        }
        Part::Any | Part::AtMost(..) | Part::AtLeast(..) => Kind::Open,
    };
    pattern.parts.iter().map(kind).collect()
}

/// There is always one above it.
fn hash(hasher: &RandomState, text: &str) -> u64 {
    hasher.hash_one(text) >> 1
}

impl Indexed {
    /// Where a key stands; `None` where a value has no known form.
    fn place(&self, key: &Key, hasher: &RandomState) -> Option<(u64, Option<Ordered>)> {
        let values = key.values();
        let (mut text, mut ordered) = (String::new(), None);
        for (kind, value) in self.kinds.iter().zip(&values) {
            match kind {
                Kind::Open => {}
                Kind::Text => write_key(&mut text, "", [value.as_str()]),
                Kind::Number => write_key(&mut text, "", [&*number(value)?]),
                Kind::Ordered(order) => ordered = Some(order.read(value)?),
            }
        }
        (values.len() == self.kinds.len()).then(|| (hash(hasher, &text), ordered))
    }

    fn insert(&mut self, number: Number, key: &Key, hasher: &RandomState) {
        match self.place(key, hasher) {
            Some((text, ordered)) => drop(self.keys.insert((text, ordered, number))),
            None => drop(self.unread.insert(number)),
        }
    }

    fn remove(&mut self, number: Number, key: &Key, hasher: &RandomState) {
        match self.place(key, hasher) {
            Some((text, ordered)) => drop(self.keys.remove(&(text, ordered, number))),
            None => drop(self.unread.remove(&number)),
        }
    }

    fn find(&self, pattern: &Pattern, tracked: &Keys, hasher: &RandomState) -> Vec<Number> {
        let mut text = String::new();
        for part in &pattern.parts {
            if let Part::Text(value) | Part::Number(value) = part {
                write_key(&mut text, "", [&**value]);
            }
        }
        let text = hash(hasher, &text);
        let mut ordered = pattern.parts.iter().filter_map(|part| match part {
            Part::AtMost(_, most) => Some((None, Some(most.clone()))),
            Part::AtLeast(_, least) => Some((Some(least.clone()), None)),
            Part::Any | Part::Text(_) | Part::Number(_) => None,
        });
        let (least, most) = ordered.next().unwrap_or_default();
        let further = ordered.next().is_some();
        let from = (text, least, Number::MIN);
        let last = match most {
            Some(most) => (text, Some(most), Number::MAX),
            // Above all of this text.
            None => (text + 1, None, Number::MIN),
        };
        let agrees = |number: &Number| {
            let key = tracked.at(*number).map(Tracked::key);
            !further || key.is_some_and(|key| pattern.agrees(&key.values()))
        };
        let found = self.keys.range(from..=last).filter(|(own, _, _)| *own == text);
        let found = found.map(|(_, _, number)| number).filter(|number| agrees(number));
        found.chain(&self.unread).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Lease, Stamp};
    use proptest::{collection::vec, prelude::*};
    use std::collections::HashSet;

    fn part() -> impl Strategy<Value = Part> {
        let value = || prop::sample::select(vec!["1", "1.0", "2", "10", "-3", "x"]);
        let ordered = |text: &str| Order::Number.read(text);
        prop_oneof![
            Just(Part::Any),
            value().prop_map(|text| Part::Text(text.into())),
            value().prop_map(|text| number(text).map_or(Part::Any, Part::Number)),
            value().prop_map(move |text| ordered(text)
                .map_or(Part::Any, |value| Part::AtMost(Order::Number, value))),
            value().prop_map(move |text| ordered(text)
                .map_or(Part::Any, |value| Part::AtLeast(Order::Number, value))),
        ]
    }

    #[derive(Debug, Clone)]
    enum Step {
        Track(Vec<String>),
        Forget(Vec<String>),
        Find(Vec<Part>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let values = || {
            vec(prop::sample::select(vec!["1", "1.00", "2", "10", "-3", "y", ""]), 2)
                .prop_map(|values| values.into_iter().map(str::to_owned).collect::<Vec<_>>())
        };
        prop_oneof![
            values().prop_map(Step::Track),
            values().prop_map(Step::Forget),
            vec(part(), 2).prop_map(Step::Find),
        ]
    }

    proptest! {
        /// What an index finds is what asking every key finds.
        #[test]
        fn finds_what_asking_every_key_finds(steps in vec(step(), 1..60)) {
            let (mut patterns, mut keys) = (Patterns::default(), Keys::new());
            for step in steps {
                match step {
                    Step::Track(values) => {
                        let key = Key::new("p", values.iter().map(String::as_str));
                        if keys.number(&key).is_none() {
                            let tracked = Tracked::new(key.clone(), Lease::default(), Stamp(1));
                            patterns.insert(keys.insert(tracked), &key);
                        }
                    }
                    Step::Forget(values) => {
                        let key = Key::new("p", values.iter().map(String::as_str));
                        if let Some(number) = keys.number(&key) {
                            patterns.remove(number, &key);
                            keys.remove(&key);
                        }
                    }
                    Step::Find(parts) => {
                        let pattern = Pattern { product: "p".into(), parts: parts.into() };
                        let found: HashSet<Key> = patterns
                            .find(&pattern, &keys)
                            .into_iter()
                            .map(|number| keys.at(number).unwrap().key().clone())
                            .collect();
                        let agree = keys.from("p", "").map(Tracked::key);
                        let agree = agree.filter(|key| pattern.agrees(&key.values()));
                        // A key with a value of no known form may be found by what it fails otherwise.
                        for key in agree {
                            prop_assert!(found.contains(key), "{pattern} misses {key}");
                        }
                        let plain = |key: &&Key| key.values().iter().all(|value| number(value).is_some());
                        for key in found.iter().filter(plain) {
                            prop_assert!(pattern.agrees(&key.values()), "{pattern} finds {key}");
                        }
                    }
                }
            }
        }
    }
}
