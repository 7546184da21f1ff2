//! Patterns → the tracked keys that agree with them. Pure.
//!
//! An index is built when a product's first pattern of its kind comes, and kept from then on.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    key::{Key, write_key},
    pattern::{Order, Ordered, Part, Pattern, number},
};

/// Indexes of tracked keys, by product.
#[derive(Debug, Clone, Default)]
pub(super) struct Patterns(HashMap<Arc<str>, Vec<Indexed>>);

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
    /// Values of texts and numbers → the ordered value, if the kind has one → keys.
    keys: HashMap<String, BTreeMap<Option<Ordered>, HashSet<Key>>>,
    /// Keys with a value of no known form: they agree with everything.
    unread: HashSet<Key>,
}

impl Patterns {
    /// The tracked keys that agree; `tracked` are all of the product.
    pub(super) fn find<'k>(
        &mut self,
        pattern: &Pattern,
        tracked: impl Iterator<Item = &'k Key>,
    ) -> Vec<Key> {
        let kinds = kinds(pattern);
        let indexes = self.0.entry(Arc::clone(&pattern.product)).or_default();
        let at = indexes.iter().position(|index| index.kinds == kinds).unwrap_or_else(|| {
            let mut index = Indexed { kinds, keys: HashMap::new(), unread: HashSet::new() };
            tracked.for_each(|key| index.insert(key));
            indexes.push(index);
            indexes.len() - 1
        });
        indexes.get(at).map(|index| index.find(pattern)).unwrap_or_default()
    }

    pub(super) fn insert(&mut self, key: &Key) {
        let indexes = self.0.get_mut(key.product());
        indexes.into_iter().flatten().for_each(|index| index.insert(key));
    }

    pub(super) fn remove(&mut self, key: &Key) {
        let indexes = self.0.get_mut(key.product());
        indexes.into_iter().flatten().for_each(|index| index.remove(key));
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

impl Indexed {
    /// Where a key stands; `None` where a value has no known form.
    fn place(&self, key: &Key) -> Option<(String, Option<Ordered>)> {
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
        (values.len() == self.kinds.len()).then_some((text, ordered))
    }

    fn insert(&mut self, key: &Key) {
        match self.place(key) {
            Some((text, ordered)) => drop(
                self.keys.entry(text).or_default().entry(ordered).or_default().insert(key.clone()),
            ),
            None => drop(self.unread.insert(key.clone())),
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some((text, ordered)) = self.place(key) else {
            self.unread.remove(key);
            return;
        };
        let Some(values) = self.keys.get_mut(&text) else { return };
        if let Some(keys) = values.get_mut(&ordered) {
            keys.remove(key);
            if keys.is_empty() {
                values.remove(&ordered);
            }
        }
        if values.is_empty() {
            self.keys.remove(&text);
        }
    }

    fn find(&self, pattern: &Pattern) -> Vec<Key> {
        let mut text = String::new();
        for part in &pattern.parts {
            if let Part::Text(value) | Part::Number(value) = part {
                write_key(&mut text, "", [&**value]);
            }
        }
        let mut ordered = pattern.parts.iter().filter_map(|part| match part {
            Part::AtMost(_, most) => Some((None, Some(Some(most.clone())))),
            Part::AtLeast(_, least) => Some((Some(Some(least.clone())), None)),
            Part::Any | Part::Text(_) | Part::Number(_) => None,
        });
        let (least, most) = ordered.next().unwrap_or_default();
        let further = ordered.next().is_some();
        let agree = |key: &&Key| !further || pattern.agrees(&key.values());
        let values = self.keys.get(&text).into_iter().flat_map(|values| {
            use std::ops::Bound::{Included, Unbounded};
            let bounds = (
                least.clone().map_or(Unbounded, Included),
                most.clone().map_or(Unbounded, Included),
            );
            values.range(bounds).flat_map(|(_, keys)| keys)
        });
        values.filter(agree).chain(&self.unread).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

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
            let (mut patterns, mut tracked) = (Patterns::default(), HashSet::new());
            for step in steps {
                match step {
                    Step::Track(values) => {
                        let key = Key::new("p", values.iter().map(String::as_str));
                        if tracked.insert(key.clone()) {
                            patterns.insert(&key);
                        }
                    }
                    Step::Forget(values) => {
                        let key = Key::new("p", values.iter().map(String::as_str));
                        if tracked.remove(&key) {
                            patterns.remove(&key);
                        }
                    }
                    Step::Find(parts) => {
                        let pattern = Pattern { product: "p".into(), parts: parts.into() };
                        let found: HashSet<Key> = patterns.find(&pattern, tracked.iter()).into_iter().collect();
                        let agree = tracked.iter().filter(|key| pattern.agrees(&key.values()));
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
