//! Changes → the distinct keys, products and tables they touch.

use std::{
    collections::{HashMap, HashSet},
    str::from_utf8,
    sync::Arc,
};

use super::{
    graph::{Index, Plan},
    rule::Column,
};
use crate::{
    change::{self, Change, Datum, Old, Relation, Row, TableId},
    key::{Key, write_key},
};

/// What some changes touch, each once. Bounded: a product that would pass the limit is touched as a whole.
#[derive(Debug, Clone, Default)]
pub struct Touched {
    keys_max: usize,
    /// Of all products together; never more than `keys_max`.
    keys: usize,
    products: HashMap<Arc<str>, Touch>,
    tables: HashSet<TableId>,
    /// Used again for every key.
    text: String,
}

/// What is touched of one product.
#[derive(Debug, Clone)]
enum Touch {
    Keys(HashSet<Key>),
    Whole,
}

/// What is known of a column of a row.
#[derive(Debug, Clone, Copy)]
enum Known<'a> {
    Text(&'a str),
    Null,
    Nothing,
}

/// One side of a change.
enum Image<'a> {
    Old(&'a Old, Option<&'a Row>),
    New(&'a Row, Option<&'a Old>),
}

/// What an image says to a direct rule.
enum Verdict {
    /// The key's values are written.
    Key,
    /// NULL equals nothing.
    None,
    /// A column is not known.
    Unknown,
}

impl Touched {
    /// Nothing yet; it will hold at most `keys_max` keys.
    #[must_use]
    pub fn new(keys_max: usize) -> Self {
        Self { keys_max, ..Self::default() }
    }

    /// The touched keys of products that are not touched as a whole.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.products
            .values()
            .flat_map(|touch| match touch {
                Touch::Keys(keys) => Some(keys),
                Touch::Whole => None,
            })
            .flatten()
    }

    /// The products of which any key may be touched.
    pub fn products(&self) -> impl Iterator<Item = &str> {
        self.products
            .iter()
            .filter(|(_, touch)| matches!(touch, Touch::Whole))
            .map(|(name, _)| &**name)
    }

    /// The tables that changed, whoever reads them.
    pub fn tables(&self) -> impl Iterator<Item = TableId> {
        self.tables.iter().copied()
    }

    /// Whether nothing is touched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.products.is_empty()
    }

    /// How many keys are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.keys
    }

    /// Every product that is touched counts as touched whole: little is left to hold.
    pub fn collapse(&mut self) {
        self.products.values_mut().for_each(|touch| *touch = Touch::Whole);
        self.keys = 0;
    }

    /// Adds what others touch.
    pub fn merge(&mut self, other: Self) {
        self.tables.extend(other.tables);
        for (product, touch) in other.products {
            match touch {
                Touch::Whole => self.touch_product(&product),
                Touch::Keys(keys) => {
                    for key in keys {
                        self.touch_key(&product, key.as_str());
                    }
                }
            }
        }
    }

    fn touch_product(&mut self, product: &Arc<str>) {
        let before = match self.products.get_mut(product) {
            Some(touch) => std::mem::replace(touch, Touch::Whole),
            None => {
                self.products.insert(Arc::clone(product), Touch::Whole);
                return;
            }
        };
        if let Touch::Keys(keys) = before {
            self.keys -= keys.len();
        }
    }

    fn touch_key(&mut self, product: &Arc<str>, key: &str) {
        let touch = match self.products.get_mut(product) {
            Some(touch) => touch,
            None => self.products.entry(Arc::clone(product)).or_insert(Touch::Keys(HashSet::new())),
        };
        match touch {
            Touch::Whole => {}
            Touch::Keys(keys) if keys.contains(key) => {}
            Touch::Keys(_) if self.keys >= self.keys_max => self.touch_product(product),
            Touch::Keys(keys) => {
                keys.insert(Key::from_stored(key));
                self.keys += 1;
            }
        }
    }
}

impl Index {
    /// Adds what a change touches, by its old and its new image.
    pub fn fold(&self, change: &Change, touched: &mut Touched) {
        match change {
            Change::Insert { relation, new } => {
                self.fold_images(relation, &[Image::New(new, None)], touched);
            }
            Change::Update { relation, old, new } => {
                let images = [Image::Old(old, Some(new)), Image::New(new, Some(old))];
                self.fold_images(relation, &images, touched);
            }
            Change::Delete { relation, old } => {
                self.fold_images(relation, &[Image::Old(old, None)], touched);
            }
            Change::Truncate { relations } => {
                for relation in relations {
                    touched.tables.insert(relation.table);
                    let plan = self.plan_of(relation.table);
                    plan.into_iter()
                        .flat_map(Plan::products)
                        .for_each(|product| touched.touch_product(product));
                }
            }
        }
    }

    fn fold_images(&self, relation: &Relation, images: &[Image<'_>], touched: &mut Touched) {
        touched.tables.insert(relation.table);
        let Some(plan) = self.plan_of(relation.table) else { return };
        plan.whole.iter().for_each(|product| touched.touch_product(product));
        for (columns, products) in &plan.direct {
            for image in images {
                fold_image(relation, image, columns, products, touched);
            }
        }
    }
}

impl Plan {
    fn products(&self) -> impl Iterator<Item = &Arc<str>> {
        self.whole.iter().chain(self.direct.values().flatten())
    }
}

/// Touches the key that one image has under one column list, in all products that share the list.
fn fold_image(
    relation: &Relation,
    image: &Image<'_>,
    columns: &[Vec<Column>],
    products: &[Arc<str>],
    touched: &mut Touched,
) {
    let mut values = String::new();
    match verdict(relation, image, columns, &mut values) {
        Verdict::None => {}
        Verdict::Unknown => products.iter().for_each(|product| touched.touch_product(product)),
        Verdict::Key => {
            let mut text = std::mem::take(&mut touched.text);
            for product in products {
                text.clear();
                text.push_str(product);
                text.push_str(&values);
                touched.touch_key(product, &text);
            }
            touched.text = text;
        }
    }
}

/// Writes the key's values, or says why there are none. A NULL anywhere decides, also beside what is unknown.
fn verdict(
    relation: &Relation,
    image: &Image<'_>,
    columns: &[Vec<Column>],
    values: &mut String,
) -> Verdict {
    let mut unknown = false;
    for alternatives in columns {
        let mut known = None;
        for column in alternatives {
            // A column that is not as it was when the product was analysed: the rule says nothing then.
            let Some((at, described)) = find(relation, column) else { return Verdict::Unknown };
            match image.column(at, described) {
                Known::Null => return Verdict::None,
                Known::Text(text) => known = known.or(Some(text)),
                Known::Nothing => {}
            }
        }
        match known {
            Some(text) => write_key(values, "", [text]),
            None => unknown = true,
        }
    }
    if unknown { Verdict::Unknown } else { Verdict::Key }
}

fn find<'a>(relation: &'a Relation, column: &Column) -> Option<(usize, &'a change::Column)> {
    let at = relation.columns.iter().position(|candidate| candidate.name == column.name)?;
    let described = relation.columns.get(at).filter(|found| found.type_oid == column.type_oid)?;
    Some((at, described))
}

impl<'a> Image<'a> {
    fn column(&self, at: usize, column: &change::Column) -> Known<'a> {
        match self {
            Image::Old(Old::Whole(row), _) => known(row, at),
            Image::Old(Old::Identity(row), _) if column.identity => known(row, at),
            // Not sent means that the identity did not change.
            Image::Old(Old::Unsent, Some(new)) if column.identity => known(new, at),
            Image::Old(..) => Known::Nothing,
            Image::New(new, Some(old)) if matches!(new.get(at), Some(Datum::Unchanged)) => {
                match old {
                    Old::Whole(row) => known(row, at),
                    Old::Identity(row) if column.identity => known(row, at),
                    Old::Identity(_) | Old::Unsent => Known::Nothing,
                }
            }
            Image::New(new, _) => known(new, at),
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

    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::depend::{
        fixture,
        rule::{Rule, Rules, TableRules},
    };

    const TABLE: TableId = TableId(7);
    const WIDTH: usize = 4;

    /// A row of small numbers; `None` is NULL.
    type Numbers = Vec<Option<u8>>;

    fn index(rules: impl IntoIterator<Item = (String, Vec<Rule>)>) -> Index {
        Index::of_rules(rules.into_iter().map(|(name, rules)| {
            let table = TableRules { name: "t".into(), publishable: true, rules };
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
        Rule::Direct(
            parameters
                .iter()
                .map(|columns| columns.iter().copied().map(column).collect())
                .collect(),
        )
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
            let mut touched = Touched::new(keys_max);
            let mut merged = Touched::new(keys_max);
            for done in &changes {
                let change = told(done, &identity, full);
                index.fold(&change, &mut touched);
                let mut one = Touched::new(keys_max);
                index.fold(&change, &mut one);
                merged.merge(one);
            }
            prop_assert!(touched.keys().count() <= keys_max);
            for touched in [touched, merged] {
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
        }

        #[test]
        fn whole_rows_touch_single_keys_only(old in numbers(), new in numbers(), columns in vec(0..WIDTH, 1..3)) {
            let parameters: Vec<Vec<usize>> = columns.into_iter().map(|column| vec![column]).collect();
            let index = index([("p".to_owned(), vec![direct(&parameters)])]);
            let mut touched = Touched::new(10);
            let done = Done::Update { old: old.clone(), new: new.clone(), unsent: vec![true; WIDTH] };
            index.fold(&told(&done, &[false; WIDTH], true), &mut touched);
            let wanted: HashSet<String> = [old, new].iter().filter_map(|row| key_of("p", &parameters, row)).collect();
            prop_assert_eq!(touched.keys().map(|key| key.as_str().to_owned()).collect::<HashSet<_>>(), wanted);
            prop_assert_eq!(touched.products().count(), 0);
        }
    }

    /// What a change touches of product `p`, whose only parameter is column 0: `None` for the product as a whole.
    fn check(change: &Change, wanted: Option<&[&str]>) {
        let index = index([("p".to_owned(), vec![direct(&[vec![0]])])]);
        let mut touched = Touched::new(10);
        index.fold(change, &mut touched);
        let mut keys: Vec<&str> = touched.keys().map(Key::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, wanted.unwrap_or_default());
        assert_eq!(
            touched.products().collect::<Vec<_>>(),
            if wanted.is_some() { vec![] } else { vec!["p"] }
        );
        assert_eq!(touched.tables().collect::<Vec<_>>(), [TABLE]);
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
    fn a_table_that_nobody_reads_is_only_seen() {
        let mut touched = Touched::new(10);
        Index::default()
            .fold(&Change::Insert { relation: relation(&[true]), new: text(&["1"]) }, &mut touched);
        assert!(touched.is_empty());
        assert_eq!(touched.tables().collect::<Vec<_>>(), [TABLE]);
    }
}
