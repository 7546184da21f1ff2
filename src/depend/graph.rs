//! Rules of all products → one index from a table to what a change of it must do.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use petgraph::{
    dot::{Config, Dot},
    stable_graph::{NodeIndex, StableDiGraph},
};

use super::{
    analyse,
    lookup::Lookups,
    rule::{Reach, Rule, Rules},
};
use crate::{change::TableId, product::Product};

/// What depends on what. A value: a change of the catalogue makes a new one.
#[derive(Debug, Clone, Default)]
pub struct Index {
    graph: StableDiGraph<Node, Vec<Rule>>,
    tables: BTreeMap<TableId, NodeIndex>,
    products: BTreeMap<String, NodeIndex>,
}

#[derive(Debug, Clone)]
enum Node {
    Table {
        name: String,
        publishable: bool,
    },
    Product {
        product: Arc<Product>,
        name: Arc<str>,
        rules: Rules,
        lookups: Option<Arc<Lookups>>,
    },
    /// A product that is only named.
    Other {
        name: String,
    },
}

/// How one product reads one table.
pub(super) struct Edge<'i> {
    pub(super) product: &'i Arc<str>,
    /// See [`super::TableRules::columns`].
    pub(super) columns: Option<&'i BTreeSet<String>>,
    /// See [`super::TableRules::told`].
    pub(super) told: Option<&'i BTreeSet<String>>,
    pub(super) rules: &'i [Rule],
    pub(super) lookups: Option<&'i Arc<Lookups>>,
}

impl Index {
    /// The index of these products.
    pub fn new<'a>(products: impl Iterator<Item = &'a Arc<Product>>) -> Self {
        Self::of_rules(
            products.map(|product| (Arc::clone(product), analyse(product, &product.description))),
        )
    }

    /// The index of these products with rules that were found before.
    pub fn of_rules(analysed: impl Iterator<Item = (Arc<Product>, Rules)>) -> Self {
        let mut index = Self::default();
        for (product, rules) in analysed {
            index.remove(product.name());
            index.insert(&product, rules);
        }
        index
    }

    /// This index with one product more, or with its new rules.
    #[must_use]
    pub fn with(&self, product: &Arc<Product>) -> Self {
        let mut index = self.clone();
        index.remove(product.name());
        index.insert(product, analyse(product, &product.description));
        index
    }

    /// This index without a product.
    #[must_use]
    pub fn without(&self, product: &str) -> Self {
        let mut index = self.clone();
        index.remove(product);
        index
    }

    /// The tables that the publication must have.
    pub fn tables(&self) -> impl Iterator<Item = TableId> {
        let publishable = |node: NodeIndex| {
            matches!(self.graph.node_weight(node), Some(Node::Table { publishable: true, .. }))
        };
        self.tables.iter().filter(move |(_, node)| publishable(**node)).map(|(table, _)| *table)
    }

    /// The products that read a table.
    pub fn readers(&self, table: TableId) -> impl Iterator<Item = &Arc<Product>> {
        let readers = self.tables.get(&table).map(|node| self.graph.neighbors(*node));
        readers.into_iter().flatten().filter_map(|node| match self.graph.node_weight(node) {
            Some(Node::Product { product, .. }) => Some(product),
            _ => None,
        })
    }

    /// What the analysis found of a product.
    #[must_use]
    pub fn rules(&self, product: &str) -> Option<&Rules> {
        match self.graph.node_weight(*self.products.get(product)?) {
            Some(Node::Product { rules, .. }) => Some(rules),
            _ => None,
        }
    }

    /// The graph in the DOT language: tables, products, and which rules lead from one to the other.
    #[must_use]
    pub fn dot(&self) -> String {
        let label = |text: &str| format!("label={text:?}");
        let graph = self.with_products();
        let edge = |_: &_, edge: petgraph::stable_graph::EdgeReference<'_, Vec<Rule>>| {
            if edge.weight().is_empty() {
                return label("product");
            }
            let class = edge.weight().iter().map(Rule::class).max();
            label(&class.map(|class| class.to_string()).unwrap_or_default())
        };
        let node = |_: &_, (_, node): (NodeIndex, &Node)| match node {
            Node::Table { name, .. } => format!("{} shape=box", label(name)),
            Node::Product { product, .. } => label(product.name()),
            Node::Other { name } => label(name),
        };
        let config = [Config::NodeNoLabel, Config::EdgeNoLabel];
        format!("{:?}", Dot::with_attr_getters(&graph, &config, &edge, &node))
    }

    /// The graph with an edge, which has no rules, from every product to those that read it or depend on it.
    fn with_products(&self) -> StableDiGraph<Node, Vec<Rule>> {
        let (mut graph, mut known) = (self.graph.clone(), self.products.clone());
        for (product, node) in &self.products {
            let rules = self.rules(product);
            for name in rules.iter().flat_map(|rules| rules.products.iter().chain(&rules.depends)) {
                // One that follows no changes has no node of its own.
                let other = *known
                    .entry(name.clone())
                    .or_insert_with(|| graph.add_node(Node::Other { name: name.clone() }));
                graph.add_edge(other, *node, Vec::new());
            }
        }
        graph
    }

    /// The longest path of all lookups: how many steps F's closure takes (R7).
    #[must_use]
    pub fn steps(&self) -> usize {
        let steps = self.graph.node_weights().filter_map(|node| match node {
            Node::Product { lookups, .. } => lookups.as_ref().map(|lookups| lookups.steps()),
            Node::Table { .. } | Node::Other { .. } => None,
        });
        steps.max().unwrap_or(0)
    }

    /// How each product reads a table.
    pub(super) fn edges(&self, table: TableId) -> impl Iterator<Item = Edge<'_>> {
        let edges = self.tables.get(&table).map(|node| self.graph.edges(*node));
        edges.into_iter().flatten().filter_map(move |edge| {
            match self.graph.node_weight(petgraph::visit::EdgeRef::target(&edge))? {
                Node::Product { name, rules, lookups, .. } => {
                    let found = rules.tables.get(&table)?;
                    Some(Edge {
                        product: name,
                        columns: found.columns.as_ref(),
                        told: found.told.as_ref(),
                        rules: edge.weight(),
                        lookups: lookups.as_ref(),
                    })
                }
                Node::Table { .. } | Node::Other { .. } => None,
            }
        })
    }

    fn insert(&mut self, product: &Arc<Product>, rules: Rules) {
        let tables = rules.tables.clone();
        let name: Arc<str> = product.name().into();
        let all =
            tables.values().flat_map(|table| &table.rules).filter_map(|rule| match &rule.reach {
                Reach::Lookup(lookup) => Some(Arc::clone(lookup)),
                Reach::Row(_) | Reach::Product(_) => None,
            });
        let lookups = Lookups::new(&name, all.collect()).map(Arc::new);
        let product = Arc::clone(product);
        let reader =
            self.graph.add_node(Node::Product { product, name: Arc::clone(&name), rules, lookups });
        self.products.insert(name.to_string(), reader);
        for (table, found) in tables {
            let node = Node::Table { name: found.name, publishable: found.publishable };
            let known =
                *self.tables.entry(table).or_insert_with(|| self.graph.add_node(node.clone()));
            if let Some(weight) = self.graph.node_weight_mut(known) {
                *weight = node;
            }
            self.graph.add_edge(known, reader, found.rules);
        }
    }

    fn remove(&mut self, product: &str) {
        let Some(reader) = self.products.remove(product) else { return };
        let read: Vec<NodeIndex> =
            self.graph.neighbors_directed(reader, petgraph::Incoming).collect();
        self.graph.remove_node(reader);
        for table in read {
            if self.graph.neighbors(table).next().is_none() {
                self.graph.remove_node(table);
                self.tables.retain(|_, node| *node != table);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        depend::rule::{Binding, Column, TableRules},
        product::fixture,
    };

    fn direct(column: &str) -> Rule {
        let column = Column { name: column.into(), type_oid: 20 };
        Rule { only: vec![], reach: Reach::Row(vec![Binding::Text(vec![column])]) }
    }

    /// Table, whether a publication can have it, and its rule.
    type Read<'a> = &'a [(u32, bool, Rule)];

    fn index(products: &[(&str, Read<'_>)]) -> Index {
        Index::of_rules(products.iter().map(|(name, read)| {
            let tables = read.iter().map(|(table, publishable, rule)| {
                let rules = TableRules {
                    name: format!("t{table}"),
                    publishable: *publishable,
                    columns: None,
                    told: None,
                    rules: vec![rule.clone()],
                    finer: vec![],
                };
                (TableId(*table), rules)
            });
            (fixture::product(name, 1, ""), Rules { tables: tables.collect(), ..Rules::default() })
        }))
    }

    fn shop() -> Index {
        index(&[
            ("a", &[(1, true, direct("x")), (2, false, Rule::product(""))]),
            ("b", &[(1, true, direct("x"))]),
            ("c", &[(1, true, direct("y")), (3, true, direct("x"))]),
        ])
    }

    fn readers(index: &Index, table: u32) -> Vec<&str> {
        let mut names: Vec<&str> =
            index.readers(TableId(table)).map(|product| product.name()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn wants_what_a_publication_can_have() {
        assert_eq!(shop().tables().collect::<Vec<_>>(), [TableId(1), TableId(3)]);
    }

    #[test]
    fn knows_who_reads_a_table() {
        let index = shop();
        assert_eq!(readers(&index, 1), ["a", "b", "c"]);
        assert_eq!(readers(&index, 2), ["a"]);
        assert_eq!(readers(&index, 4), [""; 0]);
        assert_eq!(index.rules("c").unwrap().tables.len(), 2);
        assert_eq!(index.rules("d"), None);
    }

    #[test]
    fn forgets_a_product_and_what_only_it_read() {
        let index = shop().without("c");
        assert_eq!(index.tables().collect::<Vec<_>>(), [TableId(1)]);
        assert_eq!(readers(&index, 1), ["a", "b"]);
        assert_eq!(index.rules("c"), None);
        assert_eq!(index.edges(TableId(3)).count(), 0);
    }

    #[test]
    fn a_product_comes_once() {
        let index = shop().with(&fixture::product("c", 1, ""));
        assert_eq!(readers(&index, 1), ["a", "b"], "its new rules read no table");
        assert!(index.rules("c").unwrap().tables.is_empty());
    }

    #[test]
    fn draws_tables_rules_and_products() {
        let dot = index(&[("a", &[(1, true, direct("x"))])]).dot();
        for part in ["label=\"t1\" shape=box", "label=\"a\"", "0 -> 1", "label=\"direct\""] {
            assert!(
                dot.contains(part) || dot.contains("1 -> 0") && part == "0 -> 1",
                "{part} in {dot}"
            );
        }
    }
}
