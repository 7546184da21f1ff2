//! Conditions of a rule tree → which columns and parameters they make equal.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use petgraph::unionfind::UnionFind;

use super::tree::{Node, Value};
use crate::description::Description;

/// `pg_type.oid`, the same in every database.
mod oid {
    pub(super) const BOOLEAN: u32 = 16;
    pub(super) const BYTEA: u32 = 17;
    pub(super) const BIGINT: u32 = 20;
    pub(super) const SMALLINT: u32 = 21;
    pub(super) const INTEGER: u32 = 23;
    pub(super) const TEXT: u32 = 25;
    pub(super) const OID: u32 = 26;
    pub(super) const VARCHAR: u32 = 1043;
    pub(super) const DATE: u32 = 1082;
    pub(super) const TIMESTAMP: u32 = 1114;
    pub(super) const TIMESTAMPTZ: u32 = 1184;
    pub(super) const UUID: u32 = 2950;
    pub(super) const ANY_ENUM: u32 = 3500;
}

/// Two levels of joins that name each other are no tree of Postgres's.
const ALIASES_MAX: usize = 100;

/// What can be equal to something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Term {
    /// The parameter with this index.
    Parameter(usize),
    /// A column of a range table entry, in one visit to a query.
    Column { scope: u32, table: usize, column: i16 },
}

/// Pairs that are equal, and so not null, in every row that matters.
pub(super) type Facts = Vec<(Term, Term)>;

/// A query being visited, and those around it that its columns may come from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'s, 't> {
    pub(super) id: u32,
    pub(super) query: &'t Node<'t>,
    pub(super) outer: Option<&'s Scope<'s, 't>>,
}

impl<'s, 't> Scope<'s, 't> {
    /// The query so many levels out.
    pub(super) fn out(&'s self, levels: usize) -> Option<&'s Scope<'s, 't>> {
        (0..levels).try_fold(self, |scope, _| scope.outer)
    }

    /// A range table entry, counted from 1.
    pub(super) fn entry(&self, table: usize) -> Option<&'t Node<'t>> {
        self.query.list("rtable")?.get(table.checked_sub(1)?)?.node().filter(|node| node.is_entry())
    }

    /// The column behind the names that joins and groupings give it.
    fn column(&self, table: usize, column: i16) -> Option<Term> {
        let (mut table, mut column) = (table, column);
        for _ in 0..ALIASES_MAX {
            let entry = self.entry(table)?;
            let names = match entry.number::<u8>("rtekind")? {
                2 => entry.list("joinaliasvars")?,
                9 => entry.list("groupexprs")?,
                _ => return (column > 0).then_some(Term::Column { scope: self.id, table, column }),
            };
            let behind = names.get(usize::try_from(column).ok()?.checked_sub(1)?)?.named("VAR")?;
            if behind.number::<usize>("varlevelsup")? != 0 {
                return None;
            }
            (table, column) = (behind.number("varno")?, behind.number("varattno")?);
        }
        None
    }
}

/// How the parameters look in a tree.
#[derive(Debug)]
pub(super) struct Parameters<'d> {
    description: &'d Description,
    /// The functions named `current_setting`.
    settings: HashSet<u32>,
}

impl<'d> Parameters<'d> {
    pub(super) fn of(description: &'d Description) -> Self {
        let settings = description.functions.iter().filter(|function| {
            function.schema == "pg_catalog" && function.name == "current_setting"
        });
        Self { description, settings: settings.map(|function| function.oid).collect() }
    }

    /// Whether a function is `current_setting`.
    pub(super) fn reads_setting(&self, function: u32) -> bool {
        self.settings.contains(&function)
    }

    /// The parameter whose setting this node reads: `current_setting('kck.pN')`, without its cast.
    pub(super) fn setting(&self, node: &Node<'_>) -> Option<usize> {
        let [name] = node.list("args")? else { return None };
        let name = name.named("CONST")?;
        let called = node.name == "FUNCEXPR" && self.reads_setting(node.number("funcid")?);
        let Some(Value::Datum(bytes)) = name.field("constvalue") else { return None };
        if !called || name.number::<u32>("consttype")? != oid::TEXT {
            return None;
        }
        // Four bytes of length come first.
        let name = std::str::from_utf8(bytes.get(4..)?).ok()?;
        let index = name.strip_prefix("kck.p")?.parse::<usize>().ok()?.checked_sub(1)?;
        (index < self.description.parameters.len()).then_some(index)
    }

    /// A parameter, with the cast to its type that was written for it and nothing else.
    fn parameter(&self, node: &Node<'_>) -> Option<(Term, u32)> {
        let (setting, type_oid) = match node.name {
            "FUNCEXPR" => (node, oid::TEXT),
            "COERCEVIAIO" => (node.field("arg")?.node()?, node.number("resulttype")?),
            _ => return None,
        };
        let index = self.setting(setting)?;
        let declared = self.description.parameters.get(index)?.oid;
        let same = declared == type_oid || both_text(declared, type_oid);
        same.then_some((Term::Parameter(index), type_oid))
    }

    /// A column or a parameter, and the type it has here.
    pub(super) fn term(&self, value: &Value<'_>, scope: &Scope<'_, '_>) -> Option<(Term, u32)> {
        let node = value.node()?;
        match node.name {
            "VAR" => {
                let scope = scope.out(node.number("varlevelsup")?)?;
                let term = scope.column(node.number("varno")?, node.number("varattno")?)?;
                Some((term, node.number("vartype")?))
            }
            // What does not change the value: text by its other name, and another collation.
            "RELABELTYPE" => {
                let (term, type_oid) = self.term(node.field("arg")?, scope)?;
                let relabelled = node.number("resulttype")?;
                both_text(type_oid, relabelled).then_some((term, relabelled))
            }
            "COLLATEEXPR" | "COLLATE" => self.term(node.field("arg")?, scope),
            _ => self.parameter(node),
        }
    }

    /// What the conjuncts of a condition equate.
    pub(super) fn conjuncts(&self, condition: &Value<'_>, scope: &Scope<'_, '_>) -> Facts {
        let Some(node) = condition.node() else { return Facts::new() };
        if node.name == "BOOLEXPR" && node.text("boolop").as_deref() == Some("and") {
            let arguments = node.list("args").unwrap_or_default();
            return arguments.iter().flat_map(|argument| self.conjuncts(argument, scope)).collect();
        }
        self.equation(node, scope).into_iter().collect()
    }

    /// The two sides of an equality whose text decides it.
    fn equation(&self, node: &Node<'_>, scope: &Scope<'_, '_>) -> Option<(Term, Term)> {
        let [left, right] = node.list("args")? else { return None };
        if node.name != "OPEXPR" {
            return None;
        }
        let inputs = *self.description.equalities.get(&node.number("opno")?)?;
        let (left, left_type) = self.term(left, scope)?;
        let (right, right_type) = self.term(right, scope)?;
        let family = self.family(left_type)?;
        let meant = inputs == (left_type, right_type) || inputs == (oid::ANY_ENUM, oid::ANY_ENUM);
        let collation: u32 = node.number("inputcollid")?;
        let exact = family != oid::TEXT
            || collation != 0 && !self.description.nondeterministic_collations.contains(&collation);
        (meant && exact && self.family(right_type)? == family).then_some((left, right))
    }

    /// Types of one family compare by one equality, and equal values have equal texts.
    fn family(&self, type_oid: u32) -> Option<u32> {
        match type_oid {
            oid::SMALLINT | oid::INTEGER | oid::BIGINT => Some(oid::BIGINT),
            oid::TEXT | oid::VARCHAR => Some(oid::TEXT),
            oid::BOOLEAN
            | oid::BYTEA
            | oid::OID
            | oid::DATE
            | oid::TIMESTAMP
            | oid::TIMESTAMPTZ
            | oid::UUID => Some(type_oid),
            _ => self.is_enum(type_oid).then_some(type_oid),
        }
    }

    /// Whether equal values of two types have equal texts.
    pub(super) fn same_family(&self, one: u32, other: u32) -> bool {
        self.family(one).is_some_and(|family| self.family(other) == Some(family))
    }

    /// Whether a parameter or a column of the answer shows that a type is an enum.
    pub(super) fn is_enum(&self, type_oid: u32) -> bool {
        let answer = self.description.columns.iter().map(|column| &column.type_);
        self.description
            .parameters
            .iter()
            .chain(answer)
            .any(|known| known.oid == type_oid && known.kind == 'e')
    }
}

fn both_text(one: u32, other: u32) -> bool {
    [one, other].iter().all(|type_oid| matches!(*type_oid, oid::TEXT | oid::VARCHAR))
}

/// Terms that facts make equal, as classes.
#[derive(Debug)]
pub(super) struct Classes(BTreeMap<Term, usize>);

impl Classes {
    pub(super) fn new(facts: &[(Term, Term)]) -> Self {
        let terms: BTreeSet<Term> = facts.iter().flat_map(|(a, b)| [*a, *b]).collect();
        let numbers: BTreeMap<Term, usize> = terms.into_iter().zip(0..).collect();
        let mut union = UnionFind::new(numbers.len());
        for (a, b) in facts {
            if let (Some(a), Some(b)) = (numbers.get(a), numbers.get(b)) {
                union.union(*a, *b);
            }
        }
        Self(numbers.into_iter().map(|(term, number)| (term, union.find(number))).collect())
    }

    /// Every term with the number of its class.
    pub(super) fn terms(&self) -> impl Iterator<Item = (Term, usize)> {
        self.0.iter().map(|(term, class)| (*term, *class))
    }

    pub(super) fn class_of(&self, term: Term) -> Option<usize> {
        self.0.get(&term).copied()
    }
}
