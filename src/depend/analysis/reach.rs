//! Places where tables are read → how a changed row there leads to keys.
//!
//! Each place gets a *rank*: 0 where the row itself says it, else one more than the highest of the places that its
//! lookup joins. A lookup joins places of lower rank only. That is what makes lookups on later states sound (R7): of
//! the rows on a path that changed meanwhile, the one of the lowest rank finds the key by its own change. Two places
//! that could only be looked up through each other would both miss a key whose rows come and go together, so one of
//! them is followed by fewer parameters instead.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    column, described,
    expression::Piece,
    fact::{Classes, Fact, Term, Tuple},
    occurrence::{Occurrence, Occurrences, Place},
    term::{Parameters, oid},
};
use crate::{
    depend::{
        lookup::{Lookup, Operand},
        rule::{AnyOf, Binding, Column, Is, Reach, Rule, Test},
    },
    description::{Description, Table},
    quote,
};

/// The rule of each occurrence, in their order.
pub(super) fn rules(
    occurrences: &Occurrences,
    parameters: &Parameters<'_>,
    names: &[String],
) -> Vec<Rule> {
    let description = parameters.description;
    let places: Vec<Around<'_>> = occurrences
        .all
        .iter()
        .map(|occurrence| Around::new(occurrence, occurrences, parameters, description))
        .collect();
    let every: BTreeMap<Place, usize> =
        places.iter().filter_map(|around| Some((around.place?, 0))).collect();
    let best: Vec<usize> = places.iter().map(|around| around.paths(&every).bound()).collect();
    let mut ranks: BTreeMap<Place, usize> = BTreeMap::new();
    let mut found: Vec<Option<Rule>> = vec![None; places.len()];
    while found.iter().any(Option::is_none) {
        let open = || {
            places
                .iter()
                .zip(&best)
                .enumerate()
                .filter(|(at, _)| found.get(*at).is_some_and(Option::is_none))
        };
        let paths = open().map(|(at, (around, best))| (at, around.paths(&ranks), *best));
        let paths: Vec<(usize, Paths, usize)> = paths.collect();
        let ready = |(_, paths, best): &&(usize, Paths, usize)| paths.bound() >= *best;
        let mut chosen: Vec<&(usize, Paths, usize)> = paths.iter().filter(ready).collect();
        if chosen.is_empty() {
            // Rows that others refer to by their key change less often than those that refer to them.
            let preferred = |(at, paths, _): &&(usize, Paths, usize)| {
                let referred = places.get(*at).is_some_and(Around::is_referred_to);
                (paths.bound(), referred, usize::MAX - at)
            };
            chosen.extend(paths.iter().max_by_key(preferred));
        }
        for (at, paths, _) in chosen {
            let Some(around) = places.get(*at) else { continue };
            let (rule, rank) = around.rule(paths, names);
            if let Some(place) = around.place {
                let known = ranks.entry(place).or_default();
                *known = (*known).max(rank);
            }
            if let Some(slot) = found.get_mut(*at) {
                *slot = Some(rule);
            }
        }
    }
    found.into_iter().flatten().collect()
}

/// A place, with what is around it.
struct Around<'a> {
    occurrence: &'a Occurrence,
    place: Option<Place>,
    classes: Classes,
    tuples: &'a BTreeMap<Tuple, (crate::change::TableId, Place)>,
    parameters: &'a Parameters<'a>,
    description: &'a Description,
}

/// What binds each parameter, over which rows.
#[derive(Debug, Default)]
struct Paths {
    /// For each parameter the term that binds it.
    parameters: Vec<Binding<Term>>,
    /// The rows joined, each after the one that it is joined to.
    joined: Vec<Tuple>,
    rank: usize,
}

impl Paths {
    fn bound(&self) -> usize {
        self.parameters.iter().filter(|binding| binding.by().is_some()).count()
    }
}

impl<'a> Around<'a> {
    fn new(
        occurrence: &'a Occurrence,
        occurrences: &'a Occurrences,
        parameters: &'a Parameters<'a>,
        description: &'a Description,
    ) -> Self {
        let own = |tuple| occurrences.tuples.get(&tuple).map(|(_, place)| *place);
        Self {
            occurrence,
            place: occurrence.tuple.and_then(own),
            classes: Classes::new(&occurrence.facts),
            tuples: &occurrences.tuples,
            parameters,
            description,
        }
    }

    /// The shortest ways to the parameters over places that have a rank.
    fn paths(&self, ranks: &BTreeMap<Place, usize>) -> Paths {
        let count = self.description.parameters.len();
        let Some(own) = self.occurrence.tuple else {
            return Paths { parameters: vec![Binding::Any; count], ..Paths::default() };
        };
        // Row by row, the nearest first; each with the one that it was reached from.
        let mut reached: Vec<(Tuple, Option<Tuple>)> = vec![(own, None)];
        let mut at = 0;
        while let Some((from, _)) = reached.get(at).copied() {
            at += 1;
            let linked = self
                .classes
                .all()
                .filter(|class| class.iter().any(|term| term.tuple() == Some(from)));
            let next: BTreeSet<Tuple> = linked.flatten().filter_map(|term| term.tuple()).collect();
            for tuple in next {
                let known = reached.iter().any(|(known, _)| *known == tuple);
                if !known && self.may_join(tuple, ranks) {
                    reached.push((tuple, Some(from)));
                }
            }
        }
        let parameters: Vec<Binding<Term>> =
            (0..count).map(|parameter| self.binding(parameter, &reached)).collect();
        let mut joined: Vec<Tuple> = Vec::new();
        for term in parameters.iter().filter_map(Binding::by) {
            let mut way = term.tuple();
            while let Some(tuple) = way.filter(|tuple| *tuple != own && !joined.contains(tuple)) {
                joined.push(tuple);
                let from = reached.iter().find(|(known, _)| *known == tuple);
                way = from.and_then(|(_, from)| *from);
            }
        }
        let rank = |tuple: &Tuple| Some(*ranks.get(&self.tuples.get(tuple)?.1)? + 1);
        let rank = joined.iter().filter_map(rank).max().unwrap_or(0);
        Paths { parameters, joined, rank }
    }

    /// Whether rows of others have its primary key.
    fn is_referred_to(&self) -> bool {
        let Some(own) = self.occurrence.tuple else { return false };
        let key = self.table_of(own).map(|table| &table.key);
        self.classes.all().any(|class| {
            let of_key = |term: &Term| {
                matches!(term, Term::Column { tuple, column } if *tuple == own
                && key.is_some_and(|key| key.contains(column)))
            };
            class.iter().any(of_key)
                && class.iter().any(|term| term.tuple().is_some_and(|tuple| tuple != own))
        })
    }

    /// Only tables whose own changes come, and whose rows kck's role sees as the query does.
    fn may_join(&self, tuple: Tuple, ranks: &BTreeMap<Place, usize>) -> bool {
        self.tuples.get(&tuple).is_some_and(|(table, place)| {
            ranks.contains_key(place)
                && self.place != Some(*place)
                && described(self.description, *table).is_some_and(|table| {
                    table.persistence == 'p' && !table.system && !table.row_security
                })
        })
    }

    /// What binds a parameter: a value of the nearest row that equals it, else one that it is on one side of.
    fn binding(&self, parameter: usize, reached: &[(Tuple, Option<Tuple>)]) -> Binding<Term> {
        let Some(type_) = self.description.parameters.get(parameter) else { return Binding::Any };
        let parameter = Term::Parameter(parameter);
        let nearest = |terms: &[Term]| {
            let of = |tuple: Tuple| terms.iter().copied().find(|term| term.tuple() == Some(tuple));
            reached.iter().find_map(|(tuple, _)| of(*tuple))
        };
        if let Some(term) = nearest(self.classes.equals(parameter)) {
            return if type_.oid == oid::NUMERIC {
                Binding::Number(term)
            } else {
                Binding::Text(term)
            };
        }
        let is_parameter =
            |term: &Term| *term == parameter || self.classes.equals(parameter).contains(term);
        let sides = self.occurrence.facts.iter().filter_map(|fact| match fact {
            Fact::AtMost(order, low, high) if is_parameter(low) => {
                Some(Binding::AtMost(*order, nearest(self.classes.equals(*high))?))
            }
            Fact::AtMost(order, low, high) if is_parameter(high) => {
                Some(Binding::AtLeast(*order, nearest(self.classes.equals(*low))?))
            }
            _ => None,
        });
        let nearness = |binding: &Binding<Term>| {
            let tuple = binding.by().and_then(|term| term.tuple());
            reached.iter().position(|(known, _)| Some(*known) == tuple)
        };
        sides.min_by_key(nearness).unwrap_or(Binding::Any)
    }

    fn rule(&self, paths: &Paths, names: &[String]) -> (Rule, usize) {
        let only = self.tests();
        if paths.bound() == 0 {
            let why = match self.occurrence.tuple {
                None => "it is read where no condition is followed".to_owned(),
                Some(_) if names.is_empty() => "it has no parameters".to_owned(),
                Some(_) => format!("no condition leads from it to :{}", names.join(", :")),
            };
            return (Rule { only, reach: Reach::Product(why) }, 0);
        }
        let own = self.occurrence.tuple;
        let in_row = |binding: &Binding<Term>| match binding.by() {
            None => Some(binding.map(|_| Vec::new())),
            Some(term) if matches!(term, Term::Column { .. }) && term.tuple() == own => {
                Some(binding.map(|term| self.own_columns(*term, binding)))
            }
            Some(_) => None,
        };
        if let Some(row) = paths.parameters.iter().map(in_row).collect::<Option<Vec<_>>>() {
            return (Rule { only, reach: Reach::Row(row) }, 0);
        }
        match self.lookup(paths) {
            Some(lookup) => (Rule { only, reach: Reach::Lookup(Arc::new(lookup)) }, paths.rank),
            None => {
                let why = "a name on the way to the parameters is not known".to_owned();
                (Rule { only, reach: Reach::Product(why) }, 0)
            }
        }
    }

    /// All columns of the row that equal one of it; of a side only that one.
    fn own_columns(&self, term: Term, binding: &Binding<Term>) -> Vec<Column> {
        let equal = match binding {
            Binding::Text(_) | Binding::Number(_) => self.classes.equals(term),
            _ => &[],
        };
        let terms: BTreeSet<Term> =
            equal.iter().copied().filter(|one| one.tuple() == term.tuple()).chain([term]).collect();
        terms.into_iter().filter_map(|term| self.column(term)).collect()
    }

    fn table_of(&self, tuple: Tuple) -> Option<&'a Table> {
        described(self.description, self.tuples.get(&tuple)?.0)
    }

    fn column(&self, term: Term) -> Option<Column> {
        let Term::Column { tuple, column: number } = term else { return None };
        column(self.table_of(tuple)?, number)
    }

    /// The tests that rows of this place must pass.
    fn tests(&self) -> Vec<AnyOf> {
        let Some(own) = self.occurrence.tuple else { return Vec::new() };
        let single = self.tests_of(own).map(|(column, is)| vec![Test { column, is }]);
        let several = self.occurrence.facts.iter().filter_map(|fact| match fact {
            Fact::Either(any) => self.any_of(own, any),
            _ => None,
        });
        let mut tests: Vec<AnyOf> = single.chain(several).collect();
        tests.sort();
        tests.dedup();
        tests
    }

    /// Tests of which one passes, where all are of columns of this row.
    fn any_of(&self, tuple: Tuple, any: &[(Term, Is)]) -> Option<AnyOf> {
        let test = |(term, is): &(Term, Is)| {
            let here = term.tuple() == Some(tuple);
            Some(Test { column: self.column(*term).filter(|_| here)?, is: is.clone() })
        };
        let mut any = any.iter().map(test).collect::<Option<AnyOf>>()?;
        any.sort();
        Some(any)
    }

    fn tests_of(&self, tuple: Tuple) -> impl Iterator<Item = (Column, Is)> {
        self.occurrence.facts.iter().filter_map(move |fact| {
            let (term, is) = match fact {
                Fact::Passes(term, is) => (*term, is.clone()),
                Fact::Null(term) => (*term, Is::Null),
                Fact::Equal(..) | Fact::AtMost(..) | Fact::Either(_) => return None,
            };
            let here =
                |term: &Term| term.tuple() == Some(tuple) && matches!(term, Term::Column { .. });
            let term = if is == Is::Null {
                Some(term).filter(here)
            } else {
                self.classes.equals(term).iter().copied().find(here)
            };
            Some((self.column(term?)?, is))
        })
    }

    fn lookup(&self, paths: &Paths) -> Option<Lookup> {
        let own = self.occurrence.tuple?;
        let mut joined = paths.joined.clone();
        joined.reverse();
        let mut writer = Writer { around: self, own, joined, row: Vec::new() };
        let mut equal = Vec::new();
        for class in self.classes.all() {
            let here = class.iter().filter(|term| {
                term.tuple().is_some_and(|tuple| tuple == own || writer.joined.contains(&tuple))
            });
            let terms: Vec<Term> = here.copied().collect();
            for pair in terms.windows(2) {
                if let [a, b] = pair {
                    equal.push((writer.operand(*a)?, writer.operand(*b)?));
                }
            }
        }
        let parameters = paths.parameters.iter().map(|binding| match binding.by() {
            None => Some(Binding::Any),
            Some(term) => {
                let operand = writer.operand(*term)?;
                Some(binding.map(|_| operand))
            }
        });
        let parameters = parameters.collect::<Option<Vec<_>>>()?;
        let name = |tuple: &Tuple| {
            let table = self.table_of(*tuple)?;
            Some(quote::qualified(&table.schema, &table.name))
        };
        let tables = writer.joined.iter().map(name).collect::<Option<Vec<_>>>()?;
        let only = writer.joined.iter().enumerate().flat_map(|(at, tuple)| {
            self.tests_of(*tuple).filter_map(move |(column, is)| in_sql(at, &column, &is))
        });
        let only: BTreeSet<String> = only.collect();
        Some(Lookup {
            tables,
            equal,
            only: only.into_iter().collect(),
            parameters,
            steps: paths.rank,
            row: writer.row,
        })
    }
}

/// A test of a joined table in SQL; `None` for what is not worth it.
fn in_sql(table: usize, column: &Column, is: &Is) -> Option<String> {
    let name = format!("t{table}.{}", quote::name(&column.name));
    let list = |texts: &BTreeSet<String>| {
        texts.iter().map(|text| quote::literal(text)).collect::<Vec<_>>().join(", ")
    };
    match is {
        Is::Null => Some(format!("{name} is null")),
        Is::NotNull => Some(format!("{name} is not null")),
        Is::OneOf(texts) => Some(format!("pg_catalog.format('%s', {name}) in ({})", list(texts))),
        Is::NoneOf(texts) => {
            Some(format!("pg_catalog.format('%s', {name}) not in ({})", list(texts)))
        }
        Is::AtMost(..) | Is::AtLeast(..) => None,
    }
}

/// Writes terms as operands of a lookup, noting which columns of the changed row it needs.
struct Writer<'w, 'a> {
    around: &'w Around<'a>,
    own: Tuple,
    joined: Vec<Tuple>,
    row: Vec<Column>,
}

impl Writer<'_, '_> {
    fn operand(&mut self, term: Term) -> Option<Operand> {
        match term {
            Term::Parameter(_) => None,
            Term::Column { tuple, .. } if tuple == self.own => {
                let column = self.around.column(term)?;
                let (at, type_name) = self.given(column)?;
                Some(Operand::Row(at, type_name))
            }
            Term::Column { tuple, .. } => {
                let table = self.joined.iter().position(|joined| *joined == tuple)?;
                Some(Operand::Table(table, self.around.column(term)?.name))
            }
            Term::Expression { tuple, number } => {
                let expression = self.around.parameters.numbered(number)?;
                let mut sql = String::new();
                for piece in expression.pieces {
                    match piece {
                        Piece::Sql(text) => sql.push_str(&text),
                        Piece::Column(column) => {
                            let operand = self.operand(Term::Column { tuple, column })?;
                            sql.push_str(&operand.sql());
                        }
                    }
                }
                Some(Operand::Expression(sql))
            }
        }
    }

    /// The place of a column among what is needed of the row, and the name of its type.
    fn given(&mut self, column: Column) -> Option<(usize, String)> {
        let type_name = self.around.description.types.get(&column.type_oid)?.clone();
        let at = self.row.iter().position(|known| *known == column).unwrap_or_else(|| {
            self.row.push(column);
            self.row.len() - 1
        });
        Some((at, type_name))
    }
}
