//! Changes → the distinct keys, patterns, lookups and products they touch.

use std::{
    collections::{HashMap, HashSet},
    str::from_utf8,
    sync::Arc,
};

use super::{
    graph::Index,
    lookup::Asked,
    plan::{Bound, Keys, LookupWay, OldRow, Place, Plan, Reader, Way},
    rule::Is,
};
use crate::{
    change::{Change, Datum, Relation, Row, TableId},
    key::{Key, write_key},
    pattern::{Part, Pattern},
};

/// What some changes touch, each once. Bounded: a product that would pass the limit is touched as a whole.
#[derive(Debug, Clone, Default)]
pub struct Touched {
    held_max: usize,
    /// Keys, patterns and rows to look up of all products together; never more than `held_max`.
    held: usize,
    products: HashMap<Arc<str>, Touch>,
    /// Used again for every key.
    text: String,
}

/// What is touched of one product.
#[derive(Debug, Clone)]
enum Touch {
    Some(Few),
    Whole,
}

/// What is touched of a product that is not touched as a whole.
#[derive(Debug, Clone, Default)]
struct Few {
    keys: HashSet<Key>,
    patterns: HashSet<Pattern>,
    asked: Option<Asked>,
}

/// The index as it meets the tables that the stream announces: what a change of one must do is worked out once.
#[derive(Debug, Clone)]
pub struct Matcher {
    index: Arc<Index>,
    plans: HashMap<TableId, Plan>,
}

/// What is known of a column of a row.
#[derive(Debug, Clone, Copy)]
enum Known<'a> {
    Text(&'a str),
    Null,
    Nothing,
}

/// One side of a change.
#[derive(Clone, Copy)]
enum Image<'a> {
    Old(OldRow<'a>, Option<&'a Row>),
    New(&'a Row, Option<OldRow<'a>>),
}

/// What an image says of the values that a rule needs.
enum Verdict<T> {
    /// They are these.
    Values(T),
    /// One is NULL, which equals nothing.
    None,
    /// One is not known.
    Unknown,
}

impl Touched {
    /// Nothing yet; it will hold at most `held_max` keys, patterns and rows.
    #[must_use]
    pub fn new(held_max: usize) -> Self {
        Self { held_max, ..Self::default() }
    }

    /// The touched keys of products that are not touched as a whole.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.few().flat_map(|(_, few)| &few.keys)
    }

    /// Of the same products, patterns that touched keys agree with.
    pub fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.few().flat_map(|(_, few)| &few.patterns)
    }

    /// Of the same products, what must be looked up.
    pub fn asked(&self) -> impl Iterator<Item = &Asked> {
        self.few().filter_map(|(_, few)| few.asked.as_ref())
    }

    /// The products of which any key may be touched.
    pub fn products(&self) -> impl Iterator<Item = &str> {
        self.products
            .iter()
            .filter(|(_, touch)| matches!(touch, Touch::Whole))
            .map(|(name, _)| &**name)
    }

    /// Every product of which something is touched.
    pub fn all_products(&self) -> impl Iterator<Item = &str> {
        self.products.keys().map(|name| &**name)
    }

    /// Whether nothing is touched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.products.is_empty()
    }

    /// How many keys, patterns and rows are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Every product that is touched counts as touched whole: little is left to hold.
    pub fn collapse(&mut self) {
        self.products.values_mut().for_each(|touch| *touch = Touch::Whole);
        self.held = 0;
    }

    fn few(&self) -> impl Iterator<Item = (&Arc<str>, &Few)> {
        self.products.iter().filter_map(|(name, touch)| match touch {
            Touch::Some(few) => Some((name, few)),
            Touch::Whole => None,
        })
    }

    fn touch_product(&mut self, product: &Arc<str>) {
        let before = match self.products.get_mut(product) {
            Some(touch) => std::mem::replace(touch, Touch::Whole),
            None => {
                self.products.insert(Arc::clone(product), Touch::Whole);
                return;
            }
        };
        if let Touch::Some(few) = before {
            self.held -= few.len();
        }
    }

    /// Adds to what is touched of a product; `add` says whether that is one more to hold.
    fn touch(&mut self, product: &Arc<str>, add: impl FnOnce(&mut Few) -> bool) {
        let touch = match self.products.get_mut(product) {
            Some(touch) => touch,
            None => self
                .products
                .entry(Arc::clone(product))
                .or_insert_with(|| Touch::Some(Few::default())),
        };
        if let Touch::Some(few) = touch
            && add(few)
        {
            self.held += 1;
            if self.held > self.held_max {
                self.touch_product(product);
            }
        }
    }

    fn touch_key(&mut self, product: &Arc<str>, key: &str) {
        self.touch(product, |few| {
            !few.keys.contains(key) && few.keys.insert(Key::from_stored(key))
        });
    }
}

impl Few {
    fn len(&self) -> usize {
        self.keys.len() + self.patterns.len() + self.asked.as_ref().map_or(0, Asked::len)
    }
}

impl Matcher {
    /// Matches by this index.
    #[must_use]
    pub fn new(index: Arc<Index>) -> Self {
        Self { index, plans: HashMap::new() }
    }

    /// Matches by this index from now on.
    pub fn follow(&mut self, index: &Arc<Index>) {
        if !Arc::ptr_eq(&self.index, index) {
            *self = Self::new(Arc::clone(index));
        }
    }

    /// Adds what a change touches, by its old and its new image.
    pub fn fold(&mut self, change: &Change, touched: &mut Touched) {
        match change {
            Change::Insert { relation, new } => {
                self.plan(relation).fold(&[Image::New(new, None)], None, touched);
            }
            Change::Update { relation, old, new } => {
                let plan = self.plan(relation);
                let old = plan.old(old);
                let images = [Image::Old(old, Some(new)), Image::New(new, Some(old))];
                plan.fold(&images, Some(plan.changed(relation, old, new)), touched);
            }
            Change::Delete { relation, old } => {
                let plan = self.plan(relation);
                plan.fold(&[Image::Old(plan.old(old), None)], None, touched);
            }
            Change::Truncate { relations } => {
                for relation in relations {
                    let readers = self.index.readers(relation.table);
                    readers.for_each(|product| touched.touch_product(&product.name().into()));
                }
            }
        }
    }

    fn plan(&mut self, relation: &Arc<Relation>) -> &Plan {
        let index = &self.index;
        let plan = self.plans.entry(relation.table).or_insert_with(|| Plan::new(index, relation));
        if !plan.is_of(relation) {
            *plan = Plan::new(index, relation);
        }
        plan
    }
}

const EVERY_UPDATE: u128 = 1 << 127;

/// The last but one stands for all columns from there on.
pub(super) fn bit(column: usize) -> u128 {
    1 << column.min(126)
}

impl Plan {
    /// The columns that an UPDATE may have changed, as bits; the highest is set by every UPDATE.
    fn changed(&self, relation: &Relation, old: OldRow<'_>, new: &Row) -> u128 {
        let mut changed = EVERY_UPDATE;
        for (at, column) in relation.columns.iter().enumerate() {
            let same = match (old, new.get(at)) {
                // Not sent because it did not change.
                (_, Some(Datum::Unchanged)) => true,
                (OldRow::Whole(row), new) => row.get(at) == new,
                (OldRow::Identity(row), new) => self.tells(column) && row.get(at) == new,
                (OldRow::Unsent, _) => self.tells(column),
            };
            if !same {
                changed |= bit(at);
            }
        }
        changed
    }

    /// `changed` is of an UPDATE; what an INSERT or DELETE changes everyone reads.
    fn fold(&self, images: &[Image<'_>], changed: Option<u128>, touched: &mut Touched) {
        let reads = |reader: &Reader| changed.is_none_or(|changed| reader.reads & changed != 0);
        for Keys { columns, readers } in
            self.keys.iter().filter(|keys| keys.readers.iter().any(reads))
        {
            for image in images {
                let readers =
                    readers.iter().filter(|reader| reads(reader) && reader.may_pass(*image));
                touch_keys(*image, columns, readers, touched);
            }
        }
        for (reader, way) in self.others.iter().filter(|(reader, _)| reads(reader)) {
            for image in images.iter().filter(|image| reader.may_pass(**image)) {
                match way {
                    Way::Whole => touched.touch_product(&reader.product),
                    Way::Pattern(bounds) => touch_pattern(*image, bounds, reader, touched),
                    Way::Lookup(way) => touch_lookup(*image, way, reader, touched),
                }
            }
        }
    }
}

impl Reader {
    /// Whether of each list of its tests one may hold in this image.
    fn may_pass(&self, image: Image<'_>) -> bool {
        let may = |(at, identity, is): &(usize, bool, Is)| match image.column(*at, *identity) {
            Known::Text(text) => is.holds(Some(text)),
            Known::Null => is.holds(None),
            Known::Nothing => true,
        };
        self.only.iter().all(|any| any.iter().any(may))
    }
}

/// Touches the key that one image has under one column list, in all products that share the list.
fn touch_keys<'p>(
    image: Image<'_>,
    columns: &[Vec<Place>],
    readers: impl Iterator<Item = &'p Reader>,
    touched: &mut Touched,
) {
    let mut values = String::new();
    match image.values(columns, |text| write_key(&mut values, "", [text])) {
        Verdict::None => {}
        Verdict::Unknown => readers.for_each(|reader| touched.touch_product(&reader.product)),
        Verdict::Values(()) => {
            let mut text = std::mem::take(&mut touched.text);
            for reader in readers {
                text.clear();
                text.push_str(&reader.product);
                text.push_str(&values);
                touched.touch_key(&reader.product, &text);
            }
            touched.text = text;
        }
    }
}

/// Touches the keys that agree with one image, as far as it is known.
fn touch_pattern(image: Image<'_>, bounds: &[Bound], reader: &Reader, touched: &mut Touched) {
    let mut parts = Vec::with_capacity(bounds.len());
    for bound in bounds {
        match image.value(bound.by().map_or(&[], Vec::as_slice)) {
            _ if bound.by().is_none() => parts.push(Part::Any),
            Verdict::Values(text) => parts.push(bound.part(Some(text)).unwrap_or(Part::Any)),
            Verdict::None => return,
            Verdict::Unknown => parts.push(Part::Any),
        }
    }
    if parts.iter().all(|part| *part == Part::Any) {
        return touched.touch_product(&reader.product);
    }
    let pattern = Pattern { product: Arc::clone(&reader.product), parts: parts.into() };
    touched.touch(&reader.product, |few| few.patterns.insert(pattern));
}

fn touch_lookup(image: Image<'_>, way: &LookupWay, reader: &Reader, touched: &mut Touched) {
    let LookupWay { lookups, at, columns } = way;
    let mut given: Vec<Box<str>> = Vec::with_capacity(columns.len());
    match image.values(columns, |text| given.push(text.into())) {
        Verdict::None => {}
        Verdict::Unknown => touched.touch_product(&reader.product),
        Verdict::Values(()) => {
            let mut mixed = false;
            touched.touch(&reader.product, |few| {
                let asked = few.asked.get_or_insert_with(|| Asked::new(lookups));
                let same = Arc::ptr_eq(&asked.lookups, lookups);
                match asked.rows.get_mut(*at) {
                    Some(rows) if same => rows.insert(given.into()),
                    // Another statement is asked already.
                    _ => {
                        mixed = true;
                        false
                    }
                }
            });
            if mixed {
                touched.touch_product(&reader.product);
            }
        }
    }
}

impl<'a> Image<'a> {
    /// Gives `take` a value for each list of columns that are equal, unless one is NULL or nothing is known of it. A
    /// NULL anywhere decides, also beside what is unknown.
    fn values(self, columns: &[Vec<Place>], mut take: impl FnMut(&'a str)) -> Verdict<()> {
        let mut unknown = false;
        for alternatives in columns {
            match self.value(alternatives) {
                Verdict::Values(text) => take(text),
                Verdict::None => return Verdict::None,
                Verdict::Unknown => unknown = true,
            }
        }
        if unknown { Verdict::Unknown } else { Verdict::Values(()) }
    }

    fn value(self, alternatives: &[Place]) -> Verdict<&'a str> {
        let mut known = None;
        for column in alternatives {
            // A column that is not as it was when the product was analysed: the rule says nothing then.
            let Some((at, identity)) = *column else { return Verdict::Unknown };
            match self.column(at, identity) {
                Known::Null => return Verdict::None,
                Known::Text(text) => known = known.or(Some(text)),
                Known::Nothing => {}
            }
        }
        known.map_or(Verdict::Unknown, Verdict::Values)
    }

    fn column(self, at: usize, identity: bool) -> Known<'a> {
        match self {
            Image::Old(old, new) => old.column(at, identity, new),
            Image::New(new, Some(old)) if matches!(new.get(at), Some(Datum::Unchanged)) => {
                // What did not change is what it was, if that was sent.
                old.column(at, identity, None)
            }
            Image::New(new, _) => known(new, at),
        }
    }
}

impl<'a> OldRow<'a> {
    fn column(self, at: usize, identity: bool, new: Option<&'a Row>) -> Known<'a> {
        match (self, new) {
            (OldRow::Whole(row), _) => known(row, at),
            (OldRow::Identity(row), _) if identity => match known(row, at) {
                // No column of an identity is NULL: this one was not sent.
                Known::Null => Known::Nothing,
                known => known,
            },
            // Not sent means that the identity did not change.
            (OldRow::Unsent, Some(new)) if identity => known(new, at),
            _ => Known::Nothing,
        }
    }
}

fn known(row: &Row, at: usize) -> Known<'_> {
    match row.get(at) {
        Some(Datum::Null) => Known::Null,
        Some(Datum::Text(bytes)) => from_utf8(bytes).map_or(Known::Nothing, Known::Text),
        Some(Datum::Unchanged) | None => Known::Nothing,
    }
}

#[cfg(test)]
mod tests {
    //! Folding against brute force: an answer that changed has its key, or its product, among the touched.

    use std::collections::{BTreeMap, BTreeSet};

    use bytes::Bytes;
    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::{
        change::{self, Old},
        depend::rule::{Binding, Column, Reach, Rule, Rules, TableRules},
        product::fixture,
    };

    const TABLE: TableId = TableId(7);
    const WIDTH: usize = 4;

    /// A row of small numbers; `None` is NULL.
    type Numbers = Vec<Option<u8>>;

    fn index(rules: impl IntoIterator<Item = (String, Vec<Rule>)>) -> Index {
        Index::of_rules(rules.into_iter().map(|(name, rules)| {
            let table = TableRules {
                name: "t".into(),
                publishable: true,
                columns: None,
                told: None,
                rules,
                finer: vec![],
            };
            (
                fixture::product(&name, 0, ""),
                Rules { tables: [(TABLE, table)].into(), ..Rules::default() },
            )
        }))
    }

    fn column(number: usize) -> Column {
        Column { name: format!("c{number}"), type_oid: 20 }
    }

    fn direct(parameters: &[Vec<usize>]) -> Rule {
        let bindings = parameters
            .iter()
            .map(|columns| Binding::Text(columns.iter().copied().map(column).collect()));
        Rule { only: vec![], reach: Reach::Row(bindings.collect()) }
    }

    fn relation(identity: &[bool]) -> Arc<Relation> {
        let columns = identity.iter().enumerate().map(|(number, identity)| change::Column {
            name: format!("c{number}"),
            type_oid: 20,
            identity: *identity,
        });
        Arc::new(Relation {
            table: TABLE,
            schema: "s".into(),
            name: "t".into(),
            identity: b'd',
            columns: columns.collect(),
        })
    }

    fn row(numbers: &Numbers) -> Row {
        let text = |number: &u8| Datum::Text(Bytes::from(number.to_string()));
        numbers.iter().map(|number| number.as_ref().map_or(Datum::Null, text)).collect()
    }

    fn text(values: &[&str]) -> Row {
        values.iter().map(|value| Datum::Text(Bytes::copy_from_slice(value.as_bytes()))).collect()
    }

    /// The key that a row belongs to: every parameter equals all of its columns.
    fn key_of(name: &str, parameters: &[Vec<usize>], row: &Numbers) -> Option<String> {
        let values = parameters.iter().map(|columns| {
            let value = row[columns[0]]?;
            columns.iter().all(|column| row[*column] == Some(value)).then(|| value.to_string())
        });
        let values: Vec<String> = values.collect::<Option<_>>()?;
        Some(Key::new(name, values.iter().map(String::as_str)).as_str().to_owned())
    }

    /// What was done to one row.
    #[derive(Debug, Clone)]
    enum Done {
        Insert(Numbers),
        Delete(Numbers),
        /// Values that stay may go unsent, as TOASTed ones do.
        Update {
            old: Numbers,
            new: Numbers,
            unsent: Vec<bool>,
        },
    }

    /// As the stream would tell it, under a replica identity of all or of some columns.
    fn told(done: &Done, identity: &[bool], full: bool) -> Change {
        let relation =
            relation(&identity.iter().map(|identity| full || *identity).collect::<Vec<_>>());
        let only_identity = |numbers: &Numbers| -> Row {
            let kept: Numbers = numbers
                .iter()
                .zip(identity)
                .map(|(number, identity)| number.filter(|_| *identity))
                .collect();
            row(&kept)
        };
        let before = |old: &Numbers| {
            if full { Old::Whole(row(old)) } else { Old::Identity(only_identity(old)) }
        };
        match done {
            Done::Insert(new) => Change::Insert { relation, new: row(new) },
            Done::Delete(old) => Change::Delete { relation, old: before(old) },
            Done::Update { old, new, unsent } => {
                let moved = old
                    .iter()
                    .zip(new)
                    .zip(identity)
                    .any(|((old, new), identity)| *identity && old != new);
                let mut sent = row(new);
                for (at, datum) in sent.iter_mut().enumerate() {
                    if unsent[at] && old[at] == new[at] && new[at].is_some() {
                        *datum = Datum::Unchanged;
                    }
                }
                let old = if full || moved { before(old) } else { Old::Unsent };
                Change::Update { relation, old, new: sent }
            }
        }
    }

    fn numbers() -> impl Strategy<Value = Numbers> {
        vec(option::weighted(0.8, 0u8..3), WIDTH)
    }

    fn done() -> impl Strategy<Value = Done> {
        prop_oneof![
            numbers().prop_map(Done::Insert),
            numbers().prop_map(Done::Delete),
            (numbers(), numbers(), vec(any::<bool>(), WIDTH), vec(any::<bool>(), WIDTH)).prop_map(
                |(old, mut new, unsent, stays)| {
                    for at in 0..WIDTH {
                        if stays[at] {
                            new[at] = old[at];
                        }
                    }
                    Done::Update { old, new, unsent }
                }
            ),
        ]
    }

    /// Per product its rules, per rule its parameters, per parameter its columns.
    fn rules() -> impl Strategy<Value = Vec<Vec<Vec<Vec<usize>>>>> {
        (1usize..3)
            .prop_flat_map(|parameters| vec(vec(vec(vec(0..WIDTH, 1..3), parameters), 1..3), 1..4))
    }

    proptest! {
        #[test]
        fn touches_all_that_brute_force_finds(
            rules in rules(),
            changes in vec(done(), 1..6),
            identity in vec(any::<bool>(), WIDTH),
            full: bool,
            keys_max in 0usize..8,
        ) {
            let named: BTreeMap<String, _> = rules.iter().enumerate().map(|(number, rules)| (format!("p{number}"), rules)).collect();
            let index = index(named.iter().map(|(name, rules)| (name.clone(), rules.iter().map(|rule| direct(rule)).collect())));
            let mut matcher = Matcher::new(Arc::new(index));
            let mut touched = Touched::new(keys_max);
            for done in &changes {
                matcher.fold(&told(done, &identity, full), &mut touched);
            }
            prop_assert!(touched.keys().count() <= keys_max);
            let products: HashSet<&str> = touched.products().collect();
            let keys: HashSet<&str> = touched.keys().map(Key::as_str).collect();
            for (name, rules) in &named {
                for rule in *rules {
                    for done in &changes {
                        let images = match done {
                            Done::Insert(row) | Done::Delete(row) => vec![row],
                            Done::Update { old, new, .. } if old == new => vec![],
                            Done::Update { old, new, .. } => vec![old, new],
                        };
                        for key in images.into_iter().filter_map(|row| key_of(name, rule, row)) {
                            prop_assert!(products.contains(name.as_str()) || keys.contains(key.as_str()), "{} of {:?}", key, done);
                        }
                    }
                }
            }
        }

        #[test]
        fn whole_rows_touch_single_keys_only(old in numbers(), new in numbers(), columns in vec(0..WIDTH, 1..3)) {
            let parameters: Vec<Vec<usize>> = columns.into_iter().map(|column| vec![column]).collect();
            let index = index([("p".to_owned(), vec![direct(&parameters)])]);
            let mut touched = Touched::new(10);
            let done = Done::Update { old: old.clone(), new: new.clone(), unsent: vec![true; WIDTH] };
            Matcher::new(Arc::new(index)).fold(&told(&done, &[false; WIDTH], true), &mut touched);
            let wanted: HashSet<String> = [old, new].iter().filter_map(|row| key_of("p", &parameters, row)).collect();
            prop_assert_eq!(touched.keys().map(|key| key.as_str().to_owned()).collect::<HashSet<_>>(), wanted);
            prop_assert_eq!(touched.products().count(), 0);
        }
    }

    /// What a change touches of product `p`, whose only parameter is column 0: `None` for the product as a whole.
    fn check(change: &Change, wanted: Option<&[&str]>) {
        let index = index([("p".to_owned(), vec![direct(&[vec![0]])])]);
        let mut touched = Touched::new(10);
        Matcher::new(Arc::new(index)).fold(change, &mut touched);
        let mut keys: Vec<&str> = touched.keys().map(Key::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, wanted.unwrap_or_default());
        assert_eq!(
            touched.products().collect::<Vec<_>>(),
            if wanted.is_some() { vec![] } else { vec!["p"] }
        );
    }

    #[test]
    fn both_images_count() {
        let change = Change::Update {
            relation: relation(&[true, true]),
            old: Old::Whole(text(&["1", "a"])),
            new: text(&["2", "a"]),
        };
        check(&change, Some(&["p/1", "p/2"]));
    }

    #[test]
    fn an_unsent_identity_did_not_change() {
        let change = Change::Update {
            relation: relation(&[true, false]),
            old: Old::Unsent,
            new: text(&["1", "b"]),
        };
        check(&change, Some(&["p/1"]));
    }

    #[test]
    fn an_unsent_column_outside_the_identity_is_unknown() {
        let change = Change::Update {
            relation: relation(&[false, true]),
            old: Old::Unsent,
            new: text(&["1", "b"]),
        };
        check(&change, None);
    }

    #[test]
    fn a_deleted_row_is_known_by_its_identity() {
        let old = || Old::Identity(vec![Datum::Text(Bytes::from_static(b"1")), Datum::Null]);
        check(&Change::Delete { relation: relation(&[true, false]), old: old() }, Some(&["p/1"]));
        check(&Change::Delete { relation: relation(&[false, true]), old: old() }, None);
    }

    #[test]
    fn an_unchanged_value_is_the_old_one_or_unknown() {
        let update = |old| Change::Update {
            relation: relation(&[false, true]),
            old,
            new: vec![Datum::Unchanged, Datum::Null],
        };
        check(&update(Old::Whole(text(&["1", "a"]))), Some(&["p/1"]));
        check(&update(Old::Unsent), None);
    }

    #[test]
    fn a_partitions_null_is_not_believed() {
        // The root has REPLICA IDENTITY FULL, its partition the key: the old row comes as a whole one with NULLs.
        let told = Some(BTreeSet::from(["c1".to_owned()]));
        let rule = direct(&[vec![0]]);
        let table = TableRules {
            name: "t".into(),
            publishable: true,
            columns: Some(["c0".to_owned()].into()),
            told,
            rules: vec![rule],
            finer: vec![],
        };
        let rules = Rules { tables: [(TABLE, table)].into(), ..Rules::default() };
        let index = Index::of_rules(std::iter::once((fixture::product("p", 1, ""), rules)));
        let mut matcher = Matcher::new(Arc::new(index));
        let old = || Old::Whole(vec![Datum::Null, Datum::Text(Bytes::from_static(b"7"))]);
        let relation = relation(&[true, true]);
        for change in [
            Change::Delete { relation: Arc::clone(&relation), old: old() },
            Change::Update { relation, old: old(), new: vec![Datum::Null, Datum::Unchanged] },
        ] {
            let mut touched = Touched::new(10);
            matcher.fold(&change, &mut touched);
            assert_eq!(touched.products().collect::<Vec<_>>(), ["p"], "{change:?}");
        }
    }

    #[test]
    fn null_equals_nothing() {
        let change = Change::Insert { relation: relation(&[true]), new: vec![Datum::Null] };
        check(&change, Some(&[]));
    }

    #[test]
    fn truncating_touches_whole_products() {
        check(&Change::Truncate { relations: vec![relation(&[true])] }, None);
    }

    #[test]
    fn another_column_than_analysed_touches_the_whole_product() {
        let renamed = |change: fn(&mut change::Column)| {
            let mut relation = Arc::unwrap_or_clone(relation(&[true]));
            relation.columns.iter_mut().for_each(change);
            Change::Insert { relation: Arc::new(relation), new: text(&["1"]) }
        };
        check(&renamed(|_| {}), Some(&["p/1"]));
        check(&renamed(|column| column.name = "other".into()), None);
        check(&renamed(|column| column.type_oid = 25), None);
    }

    #[test]
    fn a_short_row_and_bytes_that_are_no_text_are_unknown() {
        check(&Change::Insert { relation: relation(&[true]), new: vec![] }, None);
        check(
            &Change::Insert {
                relation: relation(&[true]),
                new: vec![Datum::Text(Bytes::from_static(b"\xFF"))],
            },
            None,
        );
    }

    #[test]
    fn values_are_encoded_as_keys_are() {
        let change = Change::Insert { relation: relation(&[true]), new: text(&["a/b c"]) };
        check(&change, Some(&["p/a%2Fb%20c"]));
    }

    #[test]
    fn a_table_that_nobody_reads_touches_nothing() {
        let mut touched = Touched::new(10);
        let insert = Change::Insert { relation: relation(&[true]), new: text(&["1"]) };
        Matcher::new(Arc::default()).fold(&insert, &mut touched);
        assert!(touched.is_empty());
    }
}
