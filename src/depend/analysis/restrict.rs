//! A rule tree → each place where a table is read, with the facts that hold in every row there that matters.
//!
//! A query is visited with the *facts* that hold in every row of it that matters. The claim is always the same: rows
//! of the table for which no rows of the others make the facts true could be taken away there without changing the
//! answer. What is not visited is restricted by nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{
    action,
    fact::{Fact, Facts, Term, Tuple, without_nulls},
    occurrence::{Occurrence, Occurrences},
    query::{Join, UNKNOWN, Visited, jointree, references, target, unlimited, without_those_of},
    term::{Parameters, Scope},
    tree::{Node, Value},
};
use crate::{change::TableId, description::Description};

/// Views and WITH queries are visited once for each use: past so many visits a tree counts as not understood.
const VISITS_MAX: u32 = 20_000;

/// Joins, subqueries and views within each other; each is a few frames on the stack.
const DEPTH_MAX: u32 = 400;

/// Visits a query.
pub(super) fn occurrences<'t>(
    query: &'t Node<'t>,
    views: &'t BTreeMap<u32, Value<'t>>,
    parameters: &Parameters<'_>,
    description: &Description,
) -> Visited<Occurrences> {
    let mut visitor = Visitor {
        parameters,
        views,
        description,
        visits: 0,
        depth: 0,
        found: Occurrences::default(),
        places: HashMap::new(),
        seen: HashSet::new(),
        opened: vec![query],
    };
    let top = Derived { query, outer: None, place: 0 };
    visitor.query(&top, &Facts::new(), &[])?;
    visitor.unseen()?;
    for query in &visitor.opened {
        super::columns::read(query, &mut visitor.found.columns);
    }
    Ok(visitor.found)
}

struct Visitor<'p, 't> {
    parameters: &'p Parameters<'p>,
    views: &'t BTreeMap<u32, Value<'t>>,
    description: &'p Description,
    visits: u32,
    depth: u32,
    found: Occurrences,
    /// The place of a query, by the place around it and where it stands there.
    places: HashMap<(u32, *const Node<'t>), u32>,
    /// The range table entries that were visited, by their place in memory.
    seen: HashSet<*const Node<'t>>,
    /// The queries of the rules that were opened: the product's own and those of its views.
    opened: Vec<&'t Node<'t>>,
}

/// A query that is used somewhere, and what is around it.
struct Derived<'s, 't> {
    query: &'t Node<'t>,
    outer: Option<&'s Scope<'s, 't>>,
    place: u32,
}

impl<'t> Visitor<'_, 't> {
    /// The place of what stands at `node` within `place`.
    fn place(&mut self, place: u32, node: &'t Node<'t>) -> u32 {
        // The top is 0.
        let next = u32::try_from(self.places.len()).unwrap_or(u32::MAX).saturating_add(1);
        *self.places.entry((place, std::ptr::from_ref(node))).or_insert(next)
    }

    fn enter<'s>(&mut self, derived: &Derived<'s, 't>) -> Visited<Scope<'s, 't>> {
        let Derived { query, outer, place } = *derived;
        self.visits += 1;
        if self.visits > VISITS_MAX {
            return Err("its views and subqueries are too many to follow");
        }
        if query.number::<u8>("commandType") != Some(1) {
            return Err("it has a statement that is no SELECT");
        }
        let scope = Scope { id: self.visits, place, query, outer, answer: &[] };
        for (entry, table) in query.list("rtable").unwrap_or_default().iter().zip(1..) {
            let relation = entry.node().filter(|entry| entry.number::<u8>("rtekind") == Some(0));
            if let Some(entry) = relation
                && matches!(entry.text("relkind").as_deref(), Some("r" | "p"))
            {
                let table_id = TableId(entry.number("relid").ok_or(UNKNOWN)?);
                let tuple = Tuple { scope: scope.id, table };
                self.found.tuples.insert(tuple, (table_id, (place, table)));
            }
        }
        Ok(scope)
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
        derived: &Derived<'_, 't>,
        inherited: &Facts,
        outputs: &[(i16, Term)],
    ) -> Visited<()> {
        let query = derived.query;
        let scope = self.enter(derived)?;
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
        self.sublinks_of(jointree.field("quals").ok_or(UNKNOWN)?, &scope, &facts)?;
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
            let around = Scope { id: 0, place: 0, query: branch, outer: Some(scope), answer: &[] };
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
            let place = self.place(scope.place, entry);
            let derived = Derived { query: branch, outer: Some(scope), place };
            self.query(&derived, inherited, &kept.collect::<Vec<_>>())?;
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
        self.sublinks_of(join.condition, scope, inherited)?;
        let mut joined = self.holds(join.condition, scope)?;
        joined.extend_from_slice(facts);
        joined.extend(self.item_facts(join.left, scope, &joined)?);
        joined.extend(self.item_facts(join.right, scope, &joined)?);
        // A row of the preserved side comes out whatever the condition says; a row of the other side only
        // where the condition holds with a row of the preserved side that matters.
        let left =
            if join.right_null { self.and_facts(join.left, scope, facts)? } else { joined.clone() };
        let right = if join.left_null { self.and_facts(join.right, scope, facts)? } else { joined };
        // A row of a side that may be missing is not NULL where a NULL is looked for.
        let left = if join.left_null { without_those_of(join.left, &left, scope)? } else { left };
        let right =
            if join.right_null { without_those_of(join.right, &right, scope)? } else { right };
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
            let tuple = Tuple { scope: scope.id, table };
            let column = |term| match term {
                Term::Column { tuple: of, column } if of == tuple => Some((column, term)),
                _ => None,
            };
            let outputs: BTreeSet<(i16, Term)> =
                facts.iter().flat_map(Fact::given).filter_map(column).collect();
            let outputs = Vec::from_iter(outputs);
            return self.below(|it| it.query(&derived, facts, &outputs));
        }
        match (entry.number::<u8>("rtekind"), entry.text("relkind").as_deref()) {
            (Some(0), Some("r" | "p")) => {
                let relation = TableId(entry.number("relid").ok_or(UNKNOWN)?);
                let tuple = Some(Tuple { scope: scope.id, table });
                self.found.all.push(Occurrence { table: relation, tuple, facts: facts.clone() });
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
                let place = self.place(scope.place, entry);
                Ok(query.map(|query| Derived { query, outer: None, place }))
            }
            1 => {
                let place = self.place(scope.place, entry);
                let query = query_in(entry, "subquery")?;
                Ok(Some(Derived { query, outer: Some(scope), place }))
            }
            6 => {
                let place = self.place(scope.place, entry);
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
                Ok(Some(Derived { query: query_in(with, "ctequery")?, outer: Some(scope), place }))
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
        queries.into_iter().try_for_each(|query| {
            let place = self.place(scope.place, query);
            self.query(&Derived { query, outer: Some(scope), place }, facts, &[])
        })
    }

    /// The subqueries of a condition. Of one that a conjunct looks a value up in, with IN or `= ANY`, only rows matter
    /// that have the value.
    fn sublinks_of(
        &mut self,
        condition: &'t Value<'t>,
        scope: &Scope<'_, 't>,
        facts: &Facts,
    ) -> Visited<()> {
        let Some(node) = condition.node() else { return Ok(()) };
        match (node.name, node.number::<u8>("subLinkType")) {
            ("BOOLEXPR", _) if node.text("boolop").as_deref() == Some("and") => {
                let arguments = node.list("args").ok_or(UNKNOWN)?;
                arguments.iter().try_for_each(|argument| {
                    self.below(|it| it.sublinks_of(argument, scope, facts))
                })
            }
            ("SUBLINK", Some(2)) => {
                let comparison = node.field("testexpr").ok_or(UNKNOWN)?;
                let query = node.field("subselect").and_then(|query| query.named("QUERY"));
                let query = query.ok_or(UNKNOWN)?;
                self.sublinks(comparison, scope, facts)?;
                let place = self.place(scope.place, query);
                let derived = Derived { query, outer: Some(scope), place };
                // The columns of its answer under names of their own.
                let tuple = Tuple { scope: self.visits, table: usize::MAX };
                let inside = Scope { id: 0, place: 0, query, outer: Some(scope), answer: &[] };
                let targets = query.list("targetList").ok_or(UNKNOWN)?.iter();
                let answer: Vec<(i16, Term, u32)> = targets
                    .filter_map(|target| {
                        let target = target.node()?;
                        let column = target.number("resno")?;
                        let (_, type_oid) = self.parameters.term(target.field("expr")?, &inside)?;
                        Some((column, Term::Column { tuple, column }, type_oid))
                    })
                    .collect();
                let compared = Scope { answer: &answer, ..*scope };
                let mut facts = facts.clone();
                facts.extend(self.parameters.conjuncts(comparison, &compared));
                let outputs: Vec<_> =
                    answer.iter().map(|(column, term, _)| (*column, *term)).collect();
                self.query(&derived, &facts, &outputs)
            }
            _ => self.sublinks(condition, scope, facts),
        }
    }

    /// What holds where a condition does: its conjuncts, and that IN and EXISTS found a row.
    fn holds(&mut self, condition: &'t Value<'t>, scope: &Scope<'_, 't>) -> Visited<Facts> {
        let mut facts = self.parameters.conjuncts(condition, scope);
        let Some(node) = condition.node() else { return Ok(facts) };
        match node.name {
            "BOOLEXPR" if node.text("boolop").as_deref() == Some("and") => {
                for argument in node.list("args").ok_or(UNKNOWN)?.iter().filter(|argument| {
                    argument.node().is_some_and(|node| matches!(node.name, "BOOLEXPR" | "SUBLINK"))
                }) {
                    facts.extend(self.below(|it| it.holds(argument, scope))?);
                }
            }
            "SUBLINK" => facts.extend(self.below(|it| it.found_row(node, scope))?),
            _ => {}
        }
        Ok(facts)
    }

    /// What a row says that EXISTS (0) or IN and `= ANY` (2) found.
    fn found_row(&mut self, sublink: &'t Node<'t>, scope: &Scope<'_, 't>) -> Visited<Facts> {
        let kind = sublink.number::<u8>("subLinkType").ok_or(UNKNOWN)?;
        let query = sublink.field("subselect").and_then(|query| query.named("QUERY"));
        let (0 | 2, Some(query)) = (kind, query) else { return Ok(Facts::new()) };
        let place = self.place(scope.place, query);
        let derived = Derived { query, outer: Some(scope), place };
        let Some((mut facts, answer)) = self.answer(&derived)? else { return Ok(Facts::new()) };
        if let (2, Some(comparison)) = (kind, sublink.field("testexpr")) {
            let scope = Scope { answer: &answer, ..*scope };
            facts.extend(self.parameters.conjuncts(comparison, &scope));
        }
        Ok(facts)
    }

    /// What holds in every row that WHERE lets through.
    fn source_facts(&mut self, jointree: &'t Node<'t>, scope: &Scope<'_, 't>) -> Visited<Facts> {
        let mut facts = self.holds(jointree.field("quals").ok_or(UNKNOWN)?, scope)?;
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
                Some(derived) => self.below(|it| it.answer_facts(&derived, table, scope, known)),
                None => Ok(Facts::new()),
            };
        }
        let join = Join::read(node)?.without_nulls_of(known, scope)?;
        let mut facts = Facts::new();
        if !join.left_null && !join.right_null {
            facts.extend(self.holds(join.condition, scope)?);
        }
        for (side, null) in [(join.left, join.left_null), (join.right, join.right_null)] {
            if !null {
                let known = [known.as_slice(), &facts].concat();
                facts.extend(self.below(|it| it.item_facts(side, scope, &known))?);
            }
        }
        Ok(facts)
    }

    /// What holds in every row of a derived query's answer: some rows inside make it, and its columns are theirs.
    fn answer_facts(
        &mut self,
        derived: &Derived<'_, 't>,
        table: usize,
        around: &Scope<'_, 't>,
        known: &Facts,
    ) -> Visited<Facts> {
        let Some((mut facts, answer)) = self.answer(derived)? else { return Ok(Facts::new()) };
        // A column of the answer is NULL where its term is: they are equal where a fact speaks of either.
        let given: BTreeSet<Term> = facts.iter().chain(known).flat_map(Fact::given).collect();
        let tuple = Tuple { scope: around.id, table };
        for (column, term, _) in answer {
            let named = Term::Column { tuple, column };
            if given.contains(&term) || given.contains(&named) || matches!(term, Term::Parameter(_))
            {
                facts.push(Fact::Equal(named, term));
            }
        }
        Ok(facts)
    }

    /// What some rows inside a query say that make a row of its answer, and the columns that are terms of theirs;
    /// `None` where an answer may come from no row, or from one of several queries.
    #[expect(clippy::type_complexity, reason = "facts and columns belong together here alone")]
    fn answer(
        &mut self,
        derived: &Derived<'_, 't>,
    ) -> Visited<Option<(Facts, Vec<(i16, Term, u32)>)>> {
        let scope = self.enter(derived)?;
        let query = derived.query;
        let one_row_from_none = query.null("groupClause").ok_or(UNKNOWN)?
            && (query.flag("hasAggs").ok_or(UNKNOWN)?
                || !query.null("havingQual").ok_or(UNKNOWN)?);
        let simple = query.null("setOperations").ok_or(UNKNOWN)?
            && query.null("groupingSets").ok_or(UNKNOWN)?;
        if one_row_from_none || !simple {
            return Ok(None);
        }
        let facts = without_nulls(&self.source_facts(jointree(query)?, &scope)?, |_| true);
        let targets = query.list("targetList").ok_or(UNKNOWN)?.iter().filter_map(Value::node);
        let kept = targets.filter(|target| target.flag("resjunk") == Some(false));
        let answer = kept.filter_map(|target| {
            let (term, type_oid) = self.parameters.term(target.field("expr")?, &scope)?;
            Some((target.number("resno")?, term, type_oid))
        });
        Ok(Some((facts, answer.collect())))
    }

    /// What conditions on a query's answer say inside it: those on columns whose other values could be taken
    /// away before grouping, windows and DISTINCT ON, and only where nothing counts rows in between.
    fn pushed(&self, scope: &Scope<'_, 't>, outputs: &[(i16, Term)]) -> Option<Facts> {
        let query = scope.query;
        let groups = query.list("groupClause")?;
        let grouped = !groups.is_empty() || query.flag("hasAggs")?;
        let windows = if query.flag("hasWindowFuncs")? { query.list("windowClause")? } else { &[] };
        let distinct_on = query.flag("hasDistinctOn")?;
        let distinct = query.list("distinctClause")?;
        let merged = !(groups.is_empty() && distinct.is_empty() && windows.is_empty());
        if query.flag("hasTargetSRFs")?
            || !unlimited(query)?
            || !query.null("groupingSets")?
            || merged && !self.texts_stay_apart()
        {
            return Some(Facts::new());
        }
        let mut apart: Vec<BTreeSet<u32>> = Vec::new();
        if grouped {
            apart.push(references(groups));
        }
        if distinct_on {
            apart.push(references(distinct));
        }
        for window in windows {
            apart.push(references(window.named("WINDOWCLAUSE")?.list("partitionClause")?));
        }
        let inside = outputs.iter().filter_map(|(column, name)| {
            let target = target(query, *column)?;
            let (term, _) = self.parameters.term(target.field("expr")?, scope)?;
            let reference = target.number("ressortgroupref")?;
            apart.iter().all(|apart| apart.contains(&reference)).then_some(Fact::Equal(*name, term))
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
                    let facts = Facts::new();
                    self.found.all.push(Occurrence { table: relation, tuple: None, facts });
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
