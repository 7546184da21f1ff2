//! A rule tree → for each place where a table is read, the columns that equal the parameters there.
//!
//! A query is visited with the *facts* that hold in every row of it that matters, and a table turns the
//! facts that reach it into its restriction. The claim is always the same: rows of the table that break the
//! restriction could be taken away there, whatever the other tables hold, without changing the answer.
//! What is not visited is restricted by nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{
    action,
    equality::{Classes, Facts, Parameters, Scope, Term},
    tree::{Node, Value},
};
use crate::{change::TableId, description::Description};

/// Views and WITH queries are visited once for each use: past so many visits a tree counts as not understood.
const VISITS_MAX: u32 = 20_000;

/// Joins, subqueries and views within each other; each is a few frames on the stack.
const DEPTH_MAX: u32 = 400;

/// For each parameter the columns that equal it.
pub(super) type Occurrence = Vec<BTreeSet<i16>>;

/// What restricts each table, or why that is not known.
#[derive(Debug)]
pub(super) struct Restrictions(Visited<BTreeMap<TableId, Vec<Occurrence>>>);

impl Restrictions {
    pub(super) fn coarsest(why: &'static str) -> Self {
        Self(Err(why))
    }

    pub(super) fn find<'t>(
        query: &'t Node<'t>,
        views: &'t BTreeMap<u32, Value<'t>>,
        parameters: &Parameters<'_>,
        description: &Description,
    ) -> Self {
        let mut visitor = Visitor {
            parameters,
            views,
            description,
            visits: 0,
            depth: 0,
            found: BTreeMap::new(),
            seen: HashSet::new(),
            opened: vec![query],
        };
        let visited =
            visitor.query(query, None, &Facts::new(), &[]).and_then(|()| visitor.unseen());
        Self(visited.map(|()| visitor.found))
    }

    /// The places where a table is read.
    pub(super) fn of(&self, table: TableId) -> Visited<&[Occurrence]> {
        match &self.0 {
            Ok(found) => Ok(found.get(&table).map_or(&[], Vec::as_slice)),
            Err(why) => Err(why),
        }
    }

    /// Every table that was met.
    pub(super) fn tables(&self) -> impl Iterator<Item = TableId> {
        self.0.iter().flat_map(|found| found.keys().copied())
    }
}

/// Or why the tree is not understood.
type Visited<T> = Result<T, &'static str>;

const UNKNOWN: &str = "its rule tree has a form that is not understood";

struct Visitor<'p, 't> {
    parameters: &'p Parameters<'p>,
    views: &'t BTreeMap<u32, Value<'t>>,
    description: &'p Description,
    visits: u32,
    depth: u32,
    found: BTreeMap<TableId, Vec<Occurrence>>,
    /// The range table entries that were visited, by their place in memory.
    seen: HashSet<*const Node<'t>>,
    /// The queries of the rules that were opened: the product's own and those of its views.
    opened: Vec<&'t Node<'t>>,
}

/// A query that a range table entry stands for, and what is around it.
struct Derived<'s, 't> {
    query: &'t Node<'t>,
    outer: Option<&'s Scope<'s, 't>>,
}

impl<'t> Visitor<'_, 't> {
    fn enter<'s>(
        &mut self,
        query: &'t Node<'t>,
        outer: Option<&'s Scope<'s, 't>>,
    ) -> Visited<Scope<'s, 't>> {
        self.visits += 1;
        if self.visits > VISITS_MAX {
            return Err("its views and subqueries are too many to follow");
        }
        if query.number::<u8>("commandType") != Some(1) {
            return Err("it has a statement that is no SELECT");
        }
        Ok(Scope { id: self.visits, query, outer })
    }

    /// One step down.
    fn below<T>(&mut self, visit: impl FnOnce(&mut Self) -> Visited<T>) -> Visited<T> {
        if self.depth >= DEPTH_MAX {
            return Err("its joins, views and subqueries nest too deep");
        }
        self.depth += 1;
        let visited = visit(self);
        self.depth -= 1;
        visited
    }

    /// A query of which only rows matter where `inherited` holds. It speaks of the queries around; `outputs`
    /// are those columns of this query's answer that it speaks of, by number and by what it calls them.
    fn query(
        &mut self,
        query: &'t Node<'t>,
        outer: Option<&Scope<'_, 't>>,
        inherited: &Facts,
        outputs: &[(i16, Term)],
    ) -> Visited<()> {
        let scope = self.enter(query, outer)?;
        let mut facts = inherited.clone();
        match query.field("setOperations").ok_or(UNKNOWN)? {
            Value::Null => facts.extend(self.pushed(&scope, outputs).ok_or(UNKNOWN)?),
            operations => self.branches(operations, &scope, inherited, outputs)?,
        }
        let jointree = jointree(query)?;
        facts.extend(self.source_facts(jointree, &scope)?);
        for item in jointree.list("fromlist").ok_or(UNKNOWN)? {
            self.item(item, &scope, &facts, inherited)?;
        }
        self.sublinks(jointree.field("quals").ok_or(UNKNOWN)?, &scope, &facts)?;
        // Grouping sets make columns NULL that are not NULL in any row.
        let settled = if query.null("groupingSets").ok_or(UNKNOWN)? { &facts } else { inherited };
        let elsewhere = ["rtable", "cteList", "jointree", "setOperations"];
        for (_, value) in query.fields().filter(|(name, _)| !elsewhere.contains(name)) {
            self.sublinks(value, &scope, settled)?;
        }
        Ok(())
    }

    /// The branches of UNION, INTERSECT and EXCEPT: taking rows away from a column's other values changes
    /// nothing of its rows with this value, in each of them.
    fn branches(
        &mut self,
        operations: &'t Value<'t>,
        scope: &Scope<'_, 't>,
        inherited: &Facts,
        outputs: &[(i16, Term)],
    ) -> Visited<()> {
        let whole = unlimited(scope.query).ok_or(UNKNOWN)? && self.texts_stay_apart();
        let types: Vec<u32> = operations
            .node()
            .and_then(|top| top.field("colTypes"))
            .ok_or(UNKNOWN)?
            .numbers()
            .collect();
        let mut entries = Vec::new();
        operations.walk(&mut |node| {
            if node.name == "RANGETBLREF" {
                entries.push(node.number("rtindex"));
            }
            true
        });
        for table in entries {
            let entry = table.and_then(|table| scope.entry(table)).ok_or(UNKNOWN)?;
            let branch =
                entry.field("subquery").and_then(|query| query.named("QUERY")).ok_or(UNKNOWN)?;
            // Postgres converts the branches' columns to a common type without saying so in the tree.
            let around = Scope { id: 0, query: branch, outer: Some(scope) };
            let kept = outputs.iter().copied().filter(|(column, _)| {
                let common = usize::try_from(*column)
                    .ok()
                    .and_then(|column| types.get(column.checked_sub(1)?));
                let own = target(branch, *column)
                    .and_then(|target| self.parameters.term(target.field("expr")?, &around));
                whole
                    && own
                        .zip(common)
                        .is_some_and(|((_, own), common)| self.parameters.same_family(own, *common))
            });
            self.query(branch, Some(scope), inherited, &kept.collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Something in FROM. `facts` hold in all rows that come out of it and matter; `inherited` speaks only of
    /// the queries around.
    fn item(
        &mut self,
        item: &'t Value<'t>,
        scope: &Scope<'_, 't>,
        facts: &Facts,
        inherited: &Facts,
    ) -> Visited<()> {
        let node = item.node().ok_or(UNKNOWN)?;
        if node.name == "RANGETBLREF" {
            return self.entry(node.number("rtindex").ok_or(UNKNOWN)?, scope, facts, inherited);
        }
        let join = Join::read(node)?.without_nulls_of(facts, scope)?;
        self.sublinks(join.condition, scope, inherited)?;
        let mut joined = self.parameters.conjuncts(join.condition, scope);
        joined.extend_from_slice(facts);
        joined.extend(self.item_facts(join.left, scope, &joined)?);
        joined.extend(self.item_facts(join.right, scope, &joined)?);
        // A row of the preserved side comes out whatever the condition says; a row of the other side only
        // where the condition holds with a row of the preserved side that matters.
        let left =
            if join.right_null { self.and_facts(join.left, scope, facts)? } else { joined.clone() };
        let right = if join.left_null { self.and_facts(join.right, scope, facts)? } else { joined };
        self.below(|it| it.item(join.left, scope, &left, inherited))?;
        self.below(|it| it.item(join.right, scope, &right, inherited))
    }

    /// These facts and what follows of them in something in FROM.
    fn and_facts(
        &mut self,
        item: &'t Value<'t>,
        scope: &Scope<'_, 't>,
        facts: &Facts,
    ) -> Visited<Facts> {
        Ok([facts.clone(), self.item_facts(item, scope, facts)?].concat())
    }

    fn entry(
        &mut self,
        table: usize,
        scope: &Scope<'_, 't>,
        facts: &Facts,
        inherited: &Facts,
    ) -> Visited<()> {
        let entry = scope.entry(table).ok_or(UNKNOWN)?;
        self.seen.insert(entry);
        if let Some(derived) = self.derived(entry, scope)? {
            let outputs: BTreeSet<(i16, Term)> = facts
                .iter()
                .flat_map(|(a, b)| [*a, *b])
                .filter_map(|term| match term {
                    Term::Column { scope: id, table: of, column }
                        if id == scope.id && of == table =>
                    {
                        Some((column, term))
                    }
                    _ => None,
                })
                .collect();
            let outputs = Vec::from_iter(outputs);
            return self.below(|it| it.query(derived.query, derived.outer, facts, &outputs));
        }
        match (entry.number::<u8>("rtekind"), entry.text("relkind").as_deref()) {
            (Some(0), Some("r" | "p")) => {
                let relation = TableId(entry.number("relid").ok_or(UNKNOWN)?);
                let occurrence = self.occurrence(table, scope, facts);
                self.found.entry(relation).or_default().push(occurrence);
                Ok(())
            }
            (Some(0), Some("m" | "f")) => Ok(()),
            (Some(0), Some("v")) => Err("it reads a view whose rule is not known"),
            // A recursive query is left unseen.
            (Some(6), _) => Ok(()),
            // Functions, VALUES and the like: only what they call matters.
            (Some(3 | 4 | 5 | 8), _) => {
                entry.fields().try_for_each(|(_, value)| self.sublinks(value, scope, inherited))
            }
            _ => Err(UNKNOWN),
        }
    }

    fn occurrence(&self, table: usize, scope: &Scope<'_, 't>, facts: &Facts) -> Occurrence {
        let classes = Classes::new(facts);
        let columns_of = |parameter| {
            let class = classes.class_of(Term::Parameter(parameter));
            let equal = classes.terms().filter(|(_, number)| Some(*number) == class);
            equal
                .filter_map(|(term, _)| match term {
                    Term::Column { scope: id, table: of, column }
                        if id == scope.id && of == table =>
                    {
                        Some(column)
                    }
                    _ => None,
                })
                .collect()
        };
        (0..self.description.parameters.len()).map(columns_of).collect()
    }

    /// The query behind a subquery, a view, or a WITH query that is not recursive.
    fn derived<'s>(
        &mut self,
        entry: &'t Node<'t>,
        scope: &'s Scope<'s, 't>,
    ) -> Visited<Option<Derived<'s, 't>>> {
        let query_in = |node: &'t Node<'t>, field| {
            node.field(field).and_then(|query| query.named("QUERY")).ok_or(UNKNOWN)
        };
        match entry.number::<u8>("rtekind").ok_or(UNKNOWN)? {
            0 if entry.text("relkind").as_deref() == Some("v") => {
                let view: u32 = entry.number("relid").ok_or(UNKNOWN)?;
                let query = self.views.get(&view).and_then(action);
                let known =
                    |view: &&Node<'t>| query.is_some_and(|query| std::ptr::eq(query, *view));
                if !self.opened.iter().any(known) {
                    self.opened.extend(query);
                }
                Ok(query.map(|query| Derived { query, outer: None }))
            }
            1 => Ok(Some(Derived { query: query_in(entry, "subquery")?, outer: Some(scope) })),
            6 => {
                let scope = entry
                    .number("ctelevelsup")
                    .and_then(|levels| scope.out(levels))
                    .ok_or(UNKNOWN)?;
                let name = entry.text("ctename").ok_or(UNKNOWN)?;
                let mut named =
                    scope.query.list("cteList").ok_or(UNKNOWN)?.iter().filter_map(Value::node);
                let with = named
                    .find(|with| with.text("ctename").as_ref() == Some(&name))
                    .ok_or(UNKNOWN)?;
                if with.flag("cterecursive").ok_or(UNKNOWN)? {
                    return Ok(None);
                }
                Ok(Some(Derived { query: query_in(with, "ctequery")?, outer: Some(scope) }))
            }
            _ => Ok(None),
        }
    }

    /// The subqueries of an expression: they are evaluated only for rows in which `facts` hold, or without
    /// consequence.
    fn sublinks(
        &mut self,
        value: &'t Value<'t>,
        scope: &Scope<'_, 't>,
        facts: &Facts,
    ) -> Visited<()> {
        let mut queries = Vec::new();
        value.walk(&mut |node| {
            if node.name == "QUERY" {
                queries.push(node);
            }
            node.name != "QUERY"
        });
        queries.into_iter().try_for_each(|query| self.query(query, Some(scope), facts, &[]))
    }

    /// What holds in every row that WHERE lets through.
    fn source_facts(&mut self, jointree: &'t Node<'t>, scope: &Scope<'_, 't>) -> Visited<Facts> {
        let mut facts = self.parameters.conjuncts(jointree.field("quals").ok_or(UNKNOWN)?, scope);
        for item in jointree.list("fromlist").ok_or(UNKNOWN)? {
            facts.extend(self.item_facts(item, scope, &facts)?);
        }
        Ok(facts)
    }

    /// What else holds in the rows that come out of something in FROM and in which `known` holds.
    fn item_facts(
        &mut self,
        item: &'t Value<'t>,
        scope: &Scope<'_, 't>,
        known: &Facts,
    ) -> Visited<Facts> {
        let node = item.node().ok_or(UNKNOWN)?;
        if node.name == "RANGETBLREF" {
            let table = node.number("rtindex").ok_or(UNKNOWN)?;
            let entry = scope.entry(table).ok_or(UNKNOWN)?;
            return match self.derived(entry, scope)? {
                Some(derived) => self.below(|it| it.answer_facts(&derived, table, scope)),
                None => Ok(Facts::new()),
            };
        }
        let join = Join::read(node)?.without_nulls_of(known, scope)?;
        let mut facts = Facts::new();
        if !join.left_null && !join.right_null {
            facts.extend(self.parameters.conjuncts(join.condition, scope));
        }
        for (side, null) in [(join.left, join.left_null), (join.right, join.right_null)] {
            if !null {
                let known = [known.as_slice(), &facts].concat();
                facts.extend(self.below(|it| it.item_facts(side, scope, &known))?);
            }
        }
        Ok(facts)
    }

    /// What holds in every row of a derived query's answer, in the words of the query around.
    fn answer_facts(
        &mut self,
        derived: &Derived<'_, 't>,
        table: usize,
        around: &Scope<'_, 't>,
    ) -> Visited<Facts> {
        let scope = self.enter(derived.query, derived.outer)?;
        let query = derived.query;
        let one_row_from_none = query.null("groupClause").ok_or(UNKNOWN)?
            && (query.flag("hasAggs").ok_or(UNKNOWN)?
                || !query.null("havingQual").ok_or(UNKNOWN)?);
        let simple = query.null("setOperations").ok_or(UNKNOWN)?
            && query.null("groupingSets").ok_or(UNKNOWN)?;
        if one_row_from_none || !simple {
            return Ok(Facts::new());
        }
        let mut inner = self.source_facts(jointree(query)?, &scope)?;
        // A column of the answer is NULL where its term is: only what a fact already speaks of has a name.
        let named = Classes::new(&inner);
        for (column, term) in self.answer(&scope)? {
            if named.class_of(term).is_some() || matches!(term, Term::Parameter(_)) {
                inner.push((Term::Column { scope: around.id, table, column }, term));
            }
        }
        let mut visible: BTreeMap<usize, Term> = BTreeMap::new();
        let mut facts = Facts::new();
        for (term, class) in Classes::new(&inner).terms() {
            if !matches!(term, Term::Column { scope: id, .. } if id == scope.id) {
                facts.extend(visible.insert(class, term).map(|before| (before, term)));
            }
        }
        Ok(facts)
    }

    /// The columns of a query's answer that are a column or a parameter.
    fn answer(&self, scope: &Scope<'_, 't>) -> Visited<Vec<(i16, Term)>> {
        let targets = scope.query.list("targetList").ok_or(UNKNOWN)?.iter().filter_map(Value::node);
        let kept = targets.filter(|target| target.flag("resjunk") == Some(false));
        Ok(kept
            .filter_map(|target| {
                let (term, _) = self.parameters.term(target.field("expr")?, scope)?;
                Some((target.number("resno")?, term))
            })
            .collect())
    }

    /// What conditions on a query's answer say inside it: those on columns whose other values could be taken
    /// away before grouping, and only where nothing counts rows in between.
    fn pushed(&self, scope: &Scope<'_, 't>, outputs: &[(i16, Term)]) -> Option<Facts> {
        let query = scope.query;
        let counts = ["hasWindowFuncs", "hasTargetSRFs", "hasDistinctOn"];
        let counted = counts
            .iter()
            .map(|name| query.flag(name))
            .collect::<Option<Vec<bool>>>()?
            .contains(&true);
        let groups = query.list("groupClause")?;
        let merged = !(groups.is_empty() && query.null("distinctClause")?);
        if counted
            || !unlimited(query)?
            || !query.null("groupingSets")?
            || merged && !self.texts_stay_apart()
        {
            return Some(Facts::new());
        }
        let grouped: BTreeSet<u32> =
            groups.iter().filter_map(|group| group.node()?.number("tleSortGroupRef")).collect();
        let inside = outputs.iter().filter_map(|(column, name)| {
            let target = target(query, *column)?;
            let (term, _) = self.parameters.term(target.field("expr")?, scope)?;
            let ungrouped = groups.is_empty() && !query.flag("hasAggs")?;
            (ungrouped || grouped.contains(&target.number("ressortgroupref")?))
                .then_some((*name, term))
        });
        Some(inside.collect())
    }

    /// Under a collation that takes different texts for equal ones, DISTINCT and GROUP BY keep any of them.
    fn texts_stay_apart(&self) -> bool {
        self.description.nondeterministic_collations.is_empty()
    }

    /// Gives every table that was not visited, by a way that no rule above follows, the empty restriction.
    fn unseen(&mut self) -> Visited<()> {
        let mut entries = Vec::new();
        for query in &self.opened {
            query.fields().for_each(|(_, value)| {
                value.walk(&mut |node| {
                    if node.is_entry() && !self.seen.contains(&std::ptr::from_ref(node)) {
                        entries.push(node);
                    }
                    true
                });
            });
        }
        for entry in entries {
            let in_from = entry.flag("inFromCl").ok_or(UNKNOWN)?;
            match (entry.number::<u8>("rtekind").ok_or(UNKNOWN)?, entry.text("relkind").as_deref())
            {
                (0, Some("r" | "p")) => {
                    let relation = TableId(entry.number("relid").ok_or(UNKNOWN)?);
                    let none = vec![BTreeSet::new(); self.description.parameters.len()];
                    self.found.entry(relation).or_default().push(none);
                }
                (0, Some("m" | "f")) | (1.., _) => {}
                // Rules name their own view twice, as OLD and NEW, without reading it.
                (0, Some("v")) if !in_from => {}
                (0, _) => return Err("it reads a view where no condition is followed"),
            }
        }
        Ok(())
    }
}

/// A join, as far as it says what it equates and which sides it fills with NULL.
struct Join<'t> {
    left: &'t Value<'t>,
    right: &'t Value<'t>,
    condition: &'t Value<'t>,
    left_null: bool,
    right_null: bool,
}

impl<'t> Join<'t> {
    fn read(node: &'t Node<'t>) -> Visited<Self> {
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
    fn without_nulls_of(mut self, facts: &Facts, scope: &Scope<'_, '_>) -> Visited<Self> {
        self.left_null &= !speaks_of(facts, scope, self.left)?;
        self.right_null &= !speaks_of(facts, scope, self.right)?;
        Ok(self)
    }
}

fn jointree<'t>(query: &'t Node<'t>) -> Visited<&'t Node<'t>> {
    query.field("jointree").and_then(|tree| tree.named("FROMEXPR")).ok_or(UNKNOWN)
}

/// The expression behind a column of a query's answer.
fn target<'t>(query: &'t Node<'t>, column: i16) -> Option<&'t Node<'t>> {
    let mut targets = query.list("targetList")?.iter().filter_map(Value::node);
    targets.find(|target| {
        target.number("resno") == Some(column) && target.flag("resjunk") == Some(false)
    })
}

fn unlimited(query: &Node<'_>) -> Option<bool> {
    Some(query.null("limitOffset")? && query.null("limitCount")?)
}

/// Whether facts speak of a table below this part of FROM.
fn speaks_of(facts: &Facts, scope: &Scope<'_, '_>, item: &Value<'_>) -> Visited<bool> {
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
    let tables = tables.ok_or(UNKNOWN)?;
    Ok(facts.iter().flat_map(|(a, b)| [a, b]).any(|term| {
        matches!(term, Term::Column { scope: id, table, .. } if *id == scope.id && tables.contains(table))
    }))
}
