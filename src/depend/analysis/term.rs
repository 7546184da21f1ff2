//! Conditions of a rule tree → facts about columns, expressions of them, and parameters.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashSet},
};

use super::{
    clock::clock_words,
    constant::constant,
    expression::{Expression, expression},
    fact::{Fact, Facts, Term, Tuple},
    tree::{Node, Value},
};
use crate::{
    depend::rule::Is,
    description::{Comparison, Description},
    pattern::Order,
};

/// `pg_type.oid`, the same in every database.
pub(super) mod oid {
    pub(in super::super) const BOOLEAN: u32 = 16;
    pub(in super::super) const BYTEA: u32 = 17;
    pub(in super::super) const BIGINT: u32 = 20;
    pub(in super::super) const SMALLINT: u32 = 21;
    pub(in super::super) const INTEGER: u32 = 23;
    pub(in super::super) const TEXT: u32 = 25;
    pub(in super::super) const OID: u32 = 26;
    pub(in super::super) const VARCHAR: u32 = 1043;
    pub(in super::super) const NUMERIC: u32 = 1700;
    pub(in super::super) const DATE: u32 = 1082;
    pub(in super::super) const TIMESTAMP: u32 = 1114;
    pub(in super::super) const TIMESTAMPTZ: u32 = 1184;
    pub(in super::super) const UUID: u32 = 2950;
    pub(in super::super) const ANY_ENUM: u32 = 3500;
}

/// A condition in parts joined by OR says no more than so many lists of tests.
const EITHER_MAX: usize = 16;

/// Two levels of joins that name each other are no tree of Postgres's.
const ALIASES_MAX: usize = 100;

/// A query being visited, and those around it that its columns may come from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'s, 't> {
    pub(super) id: u32,
    /// Where this query is used: the same in every visit.
    pub(super) place: u32,
    pub(super) query: &'t Node<'t>,
    pub(super) outer: Option<&'s Scope<'s, 't>>,
    /// Within the comparison of IN and its kin: the columns of the subquery's answer.
    pub(super) answer: &'s [(i16, Term, u32)],
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
    pub(super) fn column(&self, table: usize, column: i16) -> Option<Term> {
        let (mut table, mut column) = (table, column);
        for _ in 0..ALIASES_MAX {
            let entry = self.entry(table)?;
            let names = match entry.number::<u8>("rtekind")? {
                2 => entry.list("joinaliasvars")?,
                9 => entry.list("groupexprs")?,
                _ => {
                    let tuple = Tuple { scope: self.id, table };
                    return (column > 0).then_some(Term::Column { tuple, column });
                }
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

/// How parameters, columns and conditions look in a tree.
#[derive(Debug)]
pub(super) struct Parameters<'d> {
    pub(super) description: &'d Description,
    /// The functions named `current_setting`.
    settings: HashSet<u32>,
    /// Words of the product's own text that name a passing moment: `today`. Literals may stand for them.
    pub(super) clock: Vec<String>,
    /// By their number.
    expressions: RefCell<Vec<Expression>>,
}

impl<'d> Parameters<'d> {
    /// `sql` is the product's own text.
    pub(super) fn of(description: &'d Description, sql: &str) -> Self {
        let settings = description.functions.iter().filter(|function| {
            function.schema == "pg_catalog" && function.name == "current_setting"
        });
        Self {
            description,
            settings: settings.map(|function| function.oid).collect(),
            clock: clock_words(sql),
            expressions: RefCell::default(),
        }
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

    /// A column, an expression of columns, or a parameter, and the type it has here.
    pub(super) fn term(&self, value: &Value<'_>, scope: &Scope<'_, '_>) -> Option<(Term, u32)> {
        self.term_of(value.node()?, scope)
    }

    fn term_of(&self, node: &Node<'_>, scope: &Scope<'_, '_>) -> Option<(Term, u32)> {
        match node.name {
            "VAR" => {
                let scope = scope.out(node.number("varlevelsup")?)?;
                let term = scope.column(node.number("varno")?, node.number("varattno")?)?;
                Some((term, node.number("vartype")?))
            }
            // The subquery's column in the comparison of IN.
            "PARAM" if node.number::<u8>("paramkind")? == 2 => {
                let column: i16 = node.number("paramid")?;
                let (_, term, type_oid) = scope.answer.iter().find(|(at, ..)| *at == column)?;
                (Some(*type_oid) == node.number("paramtype")).then_some((*term, *type_oid))
            }
            // What does not change the value: text by its other name, and another collation.
            "RELABELTYPE" => {
                let (term, type_oid) = self.term(node.field("arg")?, scope)?;
                let relabelled = node.number("resulttype")?;
                both_text(type_oid, relabelled).then_some((term, relabelled))
            }
            "COLLATEEXPR" | "COLLATE" => self.term(node.field("arg")?, scope),
            _ => self.parameter(node).or_else(|| self.expression(node, scope)),
        }
    }

    fn expression(&self, node: &Node<'_>, scope: &Scope<'_, '_>) -> Option<(Term, u32)> {
        let (expression, type_oid) = expression(self, node, scope)?;
        let tuple = expression.tuple;
        let mut known = self.expressions.borrow_mut();
        let number = known.iter().position(|one| *one == expression).unwrap_or_else(|| {
            known.push(expression);
            known.len() - 1
        });
        Some((Term::Expression { tuple, number: u32::try_from(number).ok()? }, type_oid))
    }

    /// An expression by its number.
    pub(super) fn numbered(&self, number: u32) -> Option<Expression> {
        self.expressions.borrow().get(usize::try_from(number).ok()?).cloned()
    }

    /// What the conjuncts of a condition say.
    pub(super) fn conjuncts(&self, condition: &Value<'_>, scope: &Scope<'_, '_>) -> Facts {
        let Some(node) = condition.node() else { return Facts::new() };
        if node.name == "BOOLEXPR" && node.text("boolop").as_deref() == Some("and") {
            let arguments = node.list("args").unwrap_or_default();
            return arguments.iter().flat_map(|argument| self.conjuncts(argument, scope)).collect();
        }
        match node.name {
            "OPEXPR" => self.comparison(node, scope).unwrap_or_default(),
            "BOOLEXPR" if node.text("boolop").as_deref() == Some("or") => {
                self.either(node.list("args").unwrap_or_default(), scope)
            }
            _ => self.test(node, scope).into_iter().collect(),
        }
    }

    /// What holds where one of several conditions does: a test of each, in all combinations as far as they are few.
    fn either(&self, conditions: &[Value<'_>], scope: &Scope<'_, '_>) -> Facts {
        let mut all: Vec<Vec<(Term, Is)>> = vec![Vec::new()];
        for condition in conditions {
            let mut tests: Vec<Vec<(Term, Is)>> =
                self.conjuncts(condition, scope).into_iter().filter_map(Fact::tests).collect();
            // A condition without a test may hold in any row.
            if tests.is_empty() {
                return Facts::new();
            }
            tests.truncate((EITHER_MAX / all.len()).max(1));
            let with = |one: &Vec<(Term, Is)>| {
                tests.iter().map(|tests| [one.as_slice(), tests].concat()).collect::<Vec<_>>()
            };
            all = all.iter().flat_map(with).collect();
        }
        all.into_iter().filter_map(Fact::either).collect()
    }

    /// A constant that stays what it is: what Postgres made of `today` is another tomorrow.
    pub(super) fn constant(&self, value: &Value<'_>) -> Option<(String, u32)> {
        let passing = [oid::DATE, oid::TIMESTAMP, oid::TIMESTAMPTZ];
        constant(self.description, value)
            .filter(|(_, type_oid)| self.clock.is_empty() || !passing.contains(type_oid))
    }

    /// The two sides of a comparison that one of kck's families decides.
    fn comparison(&self, node: &Node<'_>, scope: &Scope<'_, '_>) -> Option<Facts> {
        let [left, right] = node.list("args")? else { return None };
        let (means, inputs) = self.description.meaning(node.number("opno")?)?;
        let collation: u32 = node.number("inputcollid")?;
        let (mut left, mut right, mut means) = (left, right, means);
        if self.constant(left).is_some() {
            (left, right, means) = (right, left, means.turned());
        }
        let (term, term_type) = self.term(left, scope)?;
        let family = self.family(term_type)?;
        if !self.is_exact(family, collation) {
            return None;
        }
        if let Some((text, type_oid)) = self.constant(right) {
            (self.family(type_oid)? == family).then_some(())?;
            return Some(against_constant(term, means, family, collation, text));
        }
        let (other, other_type) = self.term(right, scope)?;
        let meant = inputs == (term_type, other_type) || inputs == (oid::ANY_ENUM, oid::ANY_ENUM);
        if !meant || self.family(other_type)? != family {
            return None;
        }
        let order = order(family, collation);
        Some(vec![match means {
            Comparison::Equal => Fact::Equal(term, other),
            Comparison::Less | Comparison::AtMost => Fact::AtMost(order?, term, other),
            Comparison::Greater | Comparison::AtLeast => Fact::AtMost(order?, other, term),
            Comparison::Unequal => return None,
        }])
    }

    /// Conditions with constants alone, other than comparisons of two values.
    fn test(&self, node: &Node<'_>, scope: &Scope<'_, '_>) -> Option<Fact> {
        match node.name {
            "SCALARARRAYOPEXPR" => {
                let [tested, list] = node.list("args")? else { return None };
                let (means, _) = self.description.meaning(node.number("opno")?)?;
                let (term, type_oid) = self.term(tested, scope)?;
                let family = self.family(type_oid)?;
                let exact = self.is_exact(family, node.number("inputcollid")?);
                // Its name up to PostgreSQL 14 comes second.
                let list = list.named("ARRAYEXPR").or_else(|| list.named("ARRAY"))?;
                let texts = list.list("elements")?.iter().map(|element| {
                    let (text, element) = self.constant(element)?;
                    (self.family(element)? == family && family != oid::NUMERIC).then_some(text)
                });
                let texts = texts.collect::<Option<BTreeSet<String>>>().filter(|_| exact)?;
                match (means, node.flag("useOr")?) {
                    (Comparison::Equal, true) => Some(Fact::Passes(term, Is::OneOf(texts))),
                    (Comparison::Unequal, false) => Some(Fact::Passes(term, Is::NoneOf(texts))),
                    _ => None,
                }
            }
            "NULLTEST" if !node.flag("argisrow")? => {
                let (term, _) = self.term(node.field("arg")?, scope)?;
                match node.number::<u8>("nulltesttype")? {
                    0 => matches!(term, Term::Column { .. }).then_some(Fact::Null(term)),
                    _ => Some(Fact::Passes(term, Is::NotNull)),
                }
            }
            "VAR" => self.is_bool(node, true, scope),
            "BOOLEXPR" if node.text("boolop").as_deref() == Some("not") => {
                let [denied] = node.list("args")? else { return None };
                self.is_bool(denied.named("VAR")?, false, scope)
            }
            "BOOLEANTEST" => match node.number::<u8>("booltesttype")? {
                0 => self.is_bool(node.field("arg")?.named("VAR")?, true, scope),
                2 => self.is_bool(node.field("arg")?.named("VAR")?, false, scope),
                _ => None,
            },
            _ => None,
        }
    }

    fn is_bool(&self, node: &Node<'_>, wanted: bool, scope: &Scope<'_, '_>) -> Option<Fact> {
        let (term, type_oid) = self.term_of(node, scope)?;
        let text = if wanted { "t" } else { "f" };
        (type_oid == oid::BOOLEAN).then(|| Fact::Passes(term, Is::OneOf([text.to_owned()].into())))
    }

    /// Whether a family's equality under a collation takes only equal texts for equal.
    fn is_exact(&self, family: u32, collation: u32) -> bool {
        family != oid::TEXT
            || collation != 0 && !self.description.nondeterministic_collations.contains(&collation)
    }

    /// Types of one family compare by one equality. Equal values have equal texts, save numerics, which may differ in
    /// scale.
    fn family(&self, type_oid: u32) -> Option<u32> {
        match type_oid {
            oid::SMALLINT | oid::INTEGER | oid::BIGINT => Some(oid::BIGINT),
            oid::TEXT | oid::VARCHAR => Some(oid::TEXT),
            oid::BOOLEAN
            | oid::BYTEA
            | oid::NUMERIC
            | oid::OID
            | oid::DATE
            | oid::TIMESTAMP
            | oid::TIMESTAMPTZ
            | oid::UUID => Some(type_oid),
            _ => self.is_enum(type_oid).then_some(type_oid),
        }
    }

    /// Whether equal values of two types have equal texts, or are numerics both.
    pub(super) fn same_family(&self, one: u32, other: u32) -> bool {
        self.family(one).is_some_and(|family| self.family(other) == Some(family))
    }

    /// Whether a parameter, a column of the answer or what was read of enums shows that a type is one.
    pub(super) fn is_enum(&self, type_oid: u32) -> bool {
        let answer = self.description.columns.iter().map(|column| &column.type_);
        let known = |known: &crate::description::Type| known.oid == type_oid && known.kind == 'e';
        self.description.enums.contains(&type_oid)
            || self.description.parameters.iter().chain(answer).any(known)
    }
}

/// What a comparison with a constant on its right says.
fn against_constant(
    term: Term,
    means: Comparison,
    family: u32,
    collation: u32,
    text: String,
) -> Facts {
    let ordered = || {
        let order = order(family, collation)?;
        Some((order, order.read(&text)?))
    };
    let most = || ordered().map(|(order, value)| Is::AtMost(order, value, text.clone()));
    let least = || ordered().map(|(order, value)| Is::AtLeast(order, value, text.clone()));
    let is = match means {
        // Equal numerics may have different texts.
        Comparison::Equal if family == oid::NUMERIC => vec![most(), least()],
        Comparison::Unequal if family == oid::NUMERIC => vec![],
        Comparison::Equal => vec![Some(Is::OneOf([text.clone()].into()))],
        Comparison::Unequal => vec![Some(Is::NoneOf([text.clone()].into()))],
        Comparison::Less | Comparison::AtMost => vec![most()],
        Comparison::Greater | Comparison::AtLeast => vec![least()],
    };
    is.into_iter().flatten().map(|is| Fact::Passes(term, is)).collect()
}

/// How the texts of a family are ordered; text only where that is byte by byte (`C`, `POSIX`).
fn order(family: u32, collation: u32) -> Option<Order> {
    match family {
        oid::BIGINT | oid::NUMERIC | oid::OID => Some(Order::Number),
        oid::DATE | oid::TIMESTAMP | oid::TIMESTAMPTZ => Some(Order::Time),
        oid::BYTEA => Some(Order::Bytes),
        oid::TEXT if matches!(collation, 950 | 951) => Some(Order::Bytes),
        _ => None,
    }
}

pub(super) fn both_text(one: u32, other: u32) -> bool {
    [one, other].iter().all(|type_oid| matches!(*type_oid, oid::TEXT | oid::VARCHAR))
}
