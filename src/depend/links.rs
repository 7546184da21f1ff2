//! Links: products that say that they depend on others → which keys depend on which.
//!
//! Products in SQL hold the others' SQL and need none of this: their rules say everything. Who depends on a program's
//! answer is told when that answer changes, and is computed after it.

use std::{collections::BTreeMap, sync::Arc};

use petgraph::{algo::toposort, stable_graph::StableDiGraph};

use crate::{
    description::Type,
    key::Key,
    pattern::{Part, Pattern, number},
    product::{Catalog, Product, Slot},
};

/// Which keys of products depend on which keys of others.
#[derive(Debug, Clone, Default)]
pub struct Links {
    /// By the one that is depended on.
    down: BTreeMap<String, Vec<Link>>,
    /// By the one that depends.
    up: BTreeMap<String, Vec<Link>>,
    /// How far from the tables, the nearest first.
    ranks: BTreeMap<String, usize>,
}

/// One entry of `depends`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    /// The product at the other end.
    product: Arc<str>,
    /// For each of its parameters the one that it is equal to, and how that is told.
    parameters: Vec<Option<(usize, Same)>>,
    /// Its answers may change without a mark of this one's own.
    by_entry: bool,
}

/// How two parameters are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Same {
    /// By their canonical texts.
    Text,
    /// By their numbers, whatever their scale.
    Number,
}

/// What a key needs to be there first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// This one.
    Key(Key),
    /// Any that agrees.
    Any(Pattern),
}

impl Links {
    /// Those of the working products.
    #[must_use]
    pub fn of(catalog: &Catalog) -> Self {
        let mut links = Self::default();
        let mut graph: StableDiGraph<&str, ()> = StableDiGraph::new();
        let mut nodes = BTreeMap::new();
        for product in catalog.ready() {
            for name in product.draft.products() {
                let one = *nodes.entry(name).or_insert_with(|| graph.add_node(name));
                let own = product.name();
                let other = *nodes.entry(own).or_insert_with(|| graph.add_node(own));
                graph.add_edge(one, other, ());
            }
            let Some(outside) = product.draft.recipe.outside() else { continue };
            for (name, depends) in outside.products() {
                let Some(other) = catalog.products.get(name).and_then(Slot::product) else {
                    continue;
                };
                let pairs = depends.matches.iter().filter_map(|matched| {
                    let place = |product: &Product, name: &str| {
                        product.parameters.iter().position(|parameter| parameter.name == name)
                    };
                    Some((place(other, &matched.theirs)?, place(product, &matched.own)?))
                });
                links.add(other, product, &pairs.collect::<Vec<_>>());
            }
        }
        // Circles are refused where files are read; without an order nothing is held.
        let order = toposort(&graph, None).unwrap_or_default();
        let names = order.into_iter().filter_map(|node| graph.node_weight(node));
        links.ranks =
            names.enumerate().map(|(rank, name)| ((*name).to_owned(), rank + 1)).collect();
        links
    }

    fn add(&mut self, other: &Product, own: &Product, pairs: &[(usize, usize)]) {
        let same = |theirs: usize, mine: usize| {
            let (theirs, mine) = (other.parameters.get(theirs)?, own.parameters.get(mine)?);
            same(&theirs.type_, &mine.type_)
        };
        let down = (0..own.parameters.len()).map(|mine| {
            let mut pairs = pairs.iter().filter(|(_, own)| *own == mine);
            pairs.find_map(|(theirs, _)| Some((*theirs, same(*theirs, mine)?)))
        });
        let up = (0..other.parameters.len()).map(|theirs| {
            let mut pairs = pairs.iter().filter(|(other, _)| *other == theirs);
            pairs.find_map(|(_, mine)| Some((*mine, same(theirs, *mine)?)))
        });
        let (down, up) = (down.collect(), up.collect());
        // What commits alone can change is marked by their own rules.
        let by_entry = !other.is_certified();
        let link = |product: &Product, parameters| Link {
            product: product.name().into(),
            parameters,
            by_entry,
        };
        self.down.entry(other.name().to_owned()).or_default().push(link(own, down));
        self.up.entry(own.name().to_owned()).or_default().push(link(other, up));
    }

    /// Which keys another answer of this key concerns.
    #[must_use]
    pub fn dependents(&self, key: &Key) -> Vec<Pattern> {
        let Some(links) = self.down.get(key.product()) else { return Vec::new() };
        let values = key.values();
        links.iter().filter(|link| link.by_entry).map(|link| link.pattern(&values)).collect()
    }

    /// What must be there before this key is computed, so that it is computed once.
    #[must_use]
    pub fn needs(&self, key: &Key) -> Vec<Need> {
        let Some(links) = self.up.get(key.product()) else { return Vec::new() };
        let values = key.values();
        links.iter().map(|link| link.need(&values)).collect()
    }

    /// Whether this product says that it depends on others.
    #[must_use]
    pub fn depends(&self, product: &str) -> bool {
        self.up.contains_key(product)
    }

    /// Of which products keys see this one's answers, where no commit tells of all their changes.
    #[must_use]
    pub fn readers(&self, product: &str) -> Vec<String> {
        let links = self.down.get(product).into_iter().flatten();
        links.filter(|link| link.by_entry).map(|link| link.product.to_string()).collect()
    }

    /// Whether a product's answers are made from such.
    #[must_use]
    pub fn reads(&self, product: &str) -> bool {
        self.up.get(product).into_iter().flatten().any(|link| link.by_entry)
    }

    /// Products are computed in the order of their ranks.
    #[must_use]
    pub fn rank(&self, product: &str) -> usize {
        self.ranks.get(product).copied().unwrap_or(0)
    }
}

impl Link {
    fn pattern(&self, values: &[String]) -> Pattern {
        let part = |parameter: &Option<(usize, Same)>| {
            let Some((at, same)) = parameter else { return Part::Any };
            let Some(value) = values.get(*at) else { return Part::Any };
            match same {
                Same::Text => Part::Text(value.as_str().into()),
                Same::Number => number(value).map_or(Part::Any, Part::Number),
            }
        };
        let parts = self.parameters.iter().map(part).collect();
        Pattern { product: Arc::clone(&self.product), parts }
    }

    fn need(&self, values: &[String]) -> Need {
        let text = |parameter: &Option<(usize, Same)>| match parameter {
            Some((at, Same::Text)) => values.get(*at).map(String::as_str),
            _ => None,
        };
        let texts: Option<Vec<&str>> = self.parameters.iter().map(text).collect();
        match texts {
            Some(texts) => Need::Key(Key::new(&self.product, texts)),
            None => Need::Any(self.pattern(values)),
        }
    }
}

/// Whether equal values of two types have equal texts; never where that is not certain.
fn same(theirs: &Type, mine: &Type) -> Option<Same> {
    const INTEGERS: [u32; 3] = [20, 21, 23];
    const NUMERIC: u32 = 1700;
    let whole = |type_: &Type| INTEGERS.contains(&type_.oid);
    // A modifier rounds or cuts.
    let plain = |type_: &Type| !type_.name.contains('(');
    let text = |type_: &Type| matches!(type_.oid, 25 | 1043) && plain(type_);
    let numeric = |type_: &Type| type_.oid == NUMERIC && plain(type_);
    let number = |type_: &Type| whole(type_) || numeric(type_);
    if theirs.oid == NUMERIC || mine.oid == NUMERIC {
        return (number(theirs) && number(mine)).then_some(Same::Number);
    }
    let alike = theirs == mine || (whole(theirs) && whole(mine)) || (text(theirs) && text(mine));
    alike.then_some(Same::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn type_(oid: u32, name: &str) -> Type {
        Type { oid, name: name.to_owned(), kind: 'b' }
    }

    #[test]
    fn texts_stand_for_each_other_only_where_that_is_certain() {
        let (int, bigint) = (type_(23, "integer"), type_(20, "bigint"));
        let (text, varchar) = (type_(25, "text"), type_(1043, "character varying"));
        let short = type_(1043, "character varying(3)");
        let numeric = type_(1700, "numeric");
        assert_eq!(same(&int, &bigint), Some(Same::Text));
        assert_eq!(same(&text, &varchar), Some(Same::Text));
        assert_eq!(same(&short, &short), Some(Same::Text));
        assert_eq!(same(&text, &short), None);
        assert_eq!(same(&numeric, &bigint), Some(Same::Number));
        assert_eq!(same(&numeric, &numeric), Some(Same::Number));
        assert_eq!(same(&type_(1700, "numeric(4,1)"), &numeric), None);
        assert_eq!(same(&text, &int), None);
    }

    #[test]
    fn keys_lead_to_keys_and_to_patterns() {
        let link = Link {
            product: "p".into(),
            parameters: vec![Some((1, Same::Text)), None],
            by_entry: true,
        };
        let values = ["a".to_owned(), "b/c".to_owned()];
        assert_eq!(link.pattern(&values).to_string(), "p/b/c/*");
        assert!(matches!(link.need(&values), Need::Any(_)));
        let whole = Link { parameters: vec![Some((1, Same::Text))], ..link };
        assert_eq!(whole.need(&values), Need::Key(Key::new("p", ["b/c"])));
    }
}
