//! A query node → its parts: joins, conditions, targets, and which tables lie below what.

use std::collections::BTreeSet;

use super::{
    fact::{Fact, Facts, Term, Tuple, without_nulls},
    term::Scope,
    tree::{Node, Value},
};

/// Or why the tree is not understood.
pub(super) type Visited<T> = Result<T, &'static str>;

pub(super) const UNKNOWN: &str = "its rule tree has a form that is not understood";

/// A join, as far as it says what it equates and which sides it fills with NULL.
pub(super) struct Join<'t> {
    pub(super) left: &'t Value<'t>,
    pub(super) right: &'t Value<'t>,
    pub(super) condition: &'t Value<'t>,
    pub(super) left_null: bool,
    pub(super) right_null: bool,
}

impl<'t> Join<'t> {
    pub(super) fn read(node: &'t Node<'t>) -> Visited<Self> {
        let (left_null, right_null) = match (node.name, node.number::<u8>("jointype")) {
            ("JOINEXPR", Some(0)) => (false, false),
            ("JOINEXPR", Some(1)) => (false, true),
            ("JOINEXPR", Some(2)) => (true, true),
            ("JOINEXPR", Some(3)) => (true, false),
            _ => return Err(UNKNOWN),
        };
        let field = |name| node.field(name).ok_or(UNKNOWN);
        Ok(Self {
            left: field("larg")?,
            right: field("rarg")?,
            condition: field("quals")?,
            left_null,
            right_null,
        })
    }

    /// Where only rows matter in which these facts hold: a fact about a side is false where it is NULL.
    pub(super) fn without_nulls_of(
        mut self,
        facts: &Facts,
        scope: &Scope<'_, '_>,
    ) -> Visited<Self> {
        self.left_null &= !speaks_of(facts, scope, self.left)?;
        self.right_null &= !speaks_of(facts, scope, self.right)?;
        Ok(self)
    }
}

pub(super) fn jointree<'t>(query: &'t Node<'t>) -> Visited<&'t Node<'t>> {
    query.field("jointree").and_then(|tree| tree.named("FROMEXPR")).ok_or(UNKNOWN)
}

/// The expression behind a column of a query's answer.
pub(super) fn target<'t>(query: &'t Node<'t>, column: i16) -> Option<&'t Node<'t>> {
    let mut targets = query.list("targetList")?.iter().filter_map(Value::node);
    targets.find(|target| {
        target.number("resno") == Some(column) && target.flag("resjunk") == Some(false)
    })
}

/// The targets that these clauses refer to.
pub(super) fn references(clauses: &[Value<'_>]) -> BTreeSet<u32> {
    clauses.iter().filter_map(|clause| clause.node()?.number("tleSortGroupRef")).collect()
}

pub(super) fn unlimited(query: &Node<'_>) -> Option<bool> {
    Some(query.null("limitOffset")? && query.null("limitCount")?)
}

/// Whether facts speak of a table below this part of FROM.
pub(super) fn speaks_of(facts: &Facts, scope: &Scope<'_, '_>, item: &Value<'_>) -> Visited<bool> {
    let tables = tables_of(item)?;
    let below = |tuple: Tuple| tuple.scope == scope.id && tables.contains(&tuple.table);
    Ok(facts.iter().flat_map(Fact::given).filter_map(Term::tuple).any(below))
}

pub(super) fn without_those_of(
    item: &Value<'_>,
    facts: &Facts,
    scope: &Scope<'_, '_>,
) -> Visited<Facts> {
    let tables = tables_of(item)?;
    Ok(without_nulls(facts, |tuple| tuple.scope == scope.id && tables.contains(&tuple.table)))
}

/// The range table entries below this part of FROM.
pub(super) fn tables_of(item: &Value<'_>) -> Visited<BTreeSet<usize>> {
    let mut tables = Some(BTreeSet::new());
    item.walk(&mut |node| {
        if node.name == "RANGETBLREF" {
            match (node.number::<usize>("rtindex"), &mut tables) {
                (Some(table), Some(tables)) => drop(tables.insert(table)),
                _ => tables = None,
            }
        }
        node.name != "QUERY"
    });
    tables.ok_or(UNKNOWN)
}
