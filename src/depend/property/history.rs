//! Random commits, as the stream tells them, and lookups on any state between them.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;

use super::{
    evaluate::State,
    generate,
    query::{Choices, KEYED, Row, TABLES, Value},
    tree,
};
use crate::{
    change::{Change, Column, Datum, Old, Relation},
    depend::{
        Binding,
        lookup::{Asked, Lookup, Operand},
    },
};

/// What one commit did.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) changes: Vec<Change>,
    /// In words.
    pub(super) done: Vec<String>,
}

#[derive(Debug)]
pub(super) struct History {
    pub(super) commits: Vec<Commit>,
    /// Before the first commit, and after each.
    pub(super) states: Vec<State>,
}

/// The values that a key's column has.
const KEYS: i64 = 4;

/// Commits that change these tables.
pub(super) fn history(choices: &mut Choices<'_>, tables: &[usize], commits: usize) -> History {
    let mut writer = Writer { relations: relations(choices), choices };
    let mut state: State = vec![Vec::new(); TABLES.len()];
    for table in tables {
        for _ in 0..writer.choices.below(4) {
            writer.insert(*table, &mut state);
        }
    }
    let mut history = History { commits: Vec::new(), states: vec![state.clone()] };
    for _ in 0..commits {
        let mut commit = Commit { changes: Vec::new(), done: Vec::new() };
        for _ in 0..1 + writer.choices.weighed(&[4, 2, 1]) {
            let table = tables[writer.choices.below(tables.len())];
            if let Some((change, done)) = writer.change(table, &mut state) {
                commit.changes.push(change);
                commit.done.push(done);
            }
        }
        history.commits.push(commit);
        history.states.push(state.clone());
    }
    history
}

/// Tables without a key are told whole, the others as it falls.
fn relations(choices: &mut Choices<'_>) -> Vec<Arc<Relation>> {
    let relation = |table: usize| {
        let full = !KEYED[table] || choices.chance(50);
        let columns = TABLES[table].iter().enumerate().map(|(at, type_oid)| Column {
            name: tree::column_name(at),
            type_oid: *type_oid,
            identity: full || at == 0,
        });
        Arc::new(Relation {
            table: tree::table_id(table),
            schema: "public".to_owned(),
            name: tree::table_name(table),
            identity: if full { b'f' } else { b'd' },
            columns: columns.collect(),
        })
    };
    (0..TABLES.len()).map(relation).collect()
}

struct Writer<'w, 'c> {
    choices: &'w mut Choices<'c>,
    relations: Vec<Arc<Relation>>,
}

impl Writer<'_, '_> {
    fn change(&mut self, table: usize, state: &mut State) -> Option<(Change, String)> {
        let kind = self.choices.weighed(&[3, 4, 3, 1]);
        if state[table].is_empty() || kind == 0 {
            let new = self.insert(table, state)?;
            let done = format!("insert t{table} {new:?}");
            let relation = Arc::clone(&self.relations[table]);
            return Some((Change::Insert { relation, new: datums(&new) }, done));
        }
        if kind == 3 && self.choices.chance(30) {
            state[table].clear();
            let relations = vec![Arc::clone(&self.relations[table])];
            return Some((Change::Truncate { relations }, format!("truncate t{table}")));
        }
        let at = self.choices.below(state[table].len());
        let old = state[table][at].clone();
        let relation = Arc::clone(&self.relations[table]);
        if kind >= 2 {
            state[table].swap_remove(at);
            let done = format!("delete t{table} {old:?}");
            return Some((Change::Delete { old: told(&relation, &old), relation }, done));
        }
        let mut new = old.clone();
        for _ in 0..1 + self.choices.below(2) {
            let column = self.choices.below(new.len());
            new[column] = match (KEYED[table], column) {
                (true, 0) if self.choices.chance(50) => self.free(table, state)?,
                (true, 0) => new[column],
                _ => generate::value(self.choices),
            };
        }
        state[table][at].clone_from(&new);
        let done = format!("update t{table} {old:?} -> {new:?}");
        Some((self.updated(&relation, &old, &new), done))
    }

    /// Values that stay may go unsent, as TOASTed ones do.
    fn updated(&mut self, relation: &Arc<Relation>, old: &Row, new: &Row) -> Change {
        let mut sent = datums(new);
        let moved = relation.columns.iter().zip(old.iter().zip(new));
        let moved = moved.into_iter().any(|(column, (old, new))| column.identity && old != new);
        for (at, datum) in sent.iter_mut().enumerate().skip(1) {
            if old[at] == new[at] && new[at].is_some() && self.choices.chance(10) {
                *datum = Datum::Unchanged;
            }
        }
        let whole = relation.identity == b'f';
        let old = if whole || moved { told(relation, old) } else { Old::Unsent };
        Change::Update { relation: Arc::clone(relation), old, new: sent }
    }

    fn insert(&mut self, table: usize, state: &mut State) -> Option<Row> {
        let mut row: Row = TABLES[table].iter().map(|_| generate::value(self.choices)).collect();
        if KEYED[table] {
            row[0] = self.free(table, state)?;
        }
        state[table].push(row.clone());
        Some(row)
    }

    /// A key that no row has.
    fn free(&mut self, table: usize, state: &State) -> Option<Value> {
        let taken: BTreeSet<Value> = state[table].iter().map(|row| row[0]).collect();
        let free: Vec<Value> = (0..KEYS).map(Some).filter(|key| !taken.contains(key)).collect();
        (!free.is_empty()).then(|| free[self.choices.below(free.len())])
    }
}

fn told(relation: &Relation, row: &Row) -> Old {
    if relation.identity == b'f' {
        return Old::Whole(datums(row));
    }
    let kept: Row = row.iter().enumerate().map(|(at, value)| value.filter(|_| at == 0)).collect();
    Old::Identity(datums(&kept))
}

fn datums(row: &Row) -> Vec<Datum> {
    let text = |value: &i64| Datum::Text(Bytes::from(value.to_string()));
    row.iter().map(|value| value.as_ref().map_or(Datum::Null, text)).collect()
}

/// What the lookups' statement would give on a state.
pub(super) fn looked_up(asked: &Asked, state: &State) -> Vec<(usize, Vec<Option<String>>)> {
    let mut answer = BTreeSet::new();
    for (number, (lookup, rows)) in asked.lookups.all.iter().zip(&asked.rows).enumerate() {
        for given in rows {
            let given: Row = given.iter().map(|text| Some(text.parse().unwrap())).collect();
            for joined in combinations(lookup, state) {
                let row = Looked { lookup, given: &given, joined: &joined };
                if row.passes() {
                    answer.insert((number, row.parameters()));
                }
            }
        }
    }
    answer.into_iter().filter_map(|(number, texts)| Some((number, texts?))).collect()
}

fn combinations(lookup: &Lookup, state: &State) -> Vec<Vec<Row>> {
    let mut all: Vec<Vec<Row>> = vec![Vec::new()];
    for table in &lookup.tables {
        let rows = &state[table_number(table)];
        let beside = |joined: Vec<Row>| {
            rows.iter().map(move |row| [joined.as_slice(), std::slice::from_ref(row)].concat())
        };
        all = all.into_iter().flat_map(beside).collect();
    }
    all
}

fn table_number(name: &str) -> usize {
    let number = (0..TABLES.len()).find(|table| name == format!("\"public\".\"t{table}\""));
    number.unwrap()
}

/// A changed row and the rows joined to it.
struct Looked<'l> {
    lookup: &'l Lookup,
    given: &'l Row,
    joined: &'l [Row],
}

impl Looked<'_> {
    fn passes(&self) -> bool {
        self.lookup.equal.iter().all(|(one, other)| {
            let (one, other) = (self.value(one), self.value(other));
            one.is_some() && one == other
        }) && self.lookup.only.iter().all(|only| self.holds(only))
    }

    /// `None` where a parameter that is bound is NULL.
    fn parameters(&self) -> Option<Vec<Option<String>>> {
        let texts = self.lookup.parameters.iter().map(|binding| match binding.by() {
            None => Some(None),
            Some(by) => self.value(by).map(|value| Some(value.to_string())),
        });
        debug_assert!(!self.lookup.parameters.iter().all(|one| *one == Binding::Any));
        texts.collect()
    }

    fn value(&self, operand: &Operand) -> Value {
        match operand {
            Operand::Row(at, _) => self.given[*at],
            Operand::Table(table, column) => self.joined[*table][column_number(column)],
            Operand::Expression(sql) => {
                let (value, rest) = self.expression(sql);
                assert!(rest.is_empty(), "{sql}");
                value
            }
        }
    }

    /// `tN."cM"`, `(r.cN::type)`, `E'N'::type`, or a call of int4plus; and what comes behind it.
    fn expression<'s>(&self, sql: &'s str) -> (Value, &'s str) {
        let sql = sql.trim_start_matches([',', ' ']);
        if let Some(rest) = sql.strip_prefix("\"pg_catalog\".\"int4pl\"(") {
            let (one, rest) = self.expression(rest);
            let (other, rest) = self.expression(rest);
            let rest = rest.strip_prefix(')').unwrap();
            return (one.zip(other).map(|(one, other)| one + other), rest);
        }
        if let Some(rest) = sql.strip_prefix("(r.c") {
            let (at, rest) = rest.split_once("::").unwrap();
            let (_, rest) = rest.split_once(')').unwrap();
            return (self.given[at.parse::<usize>().unwrap()], rest);
        }
        if let Some(rest) = sql.strip_prefix("E'") {
            let (value, rest) = rest.split_once("'::").unwrap();
            let rest = rest.trim_start_matches(|letter: char| letter.is_ascii_lowercase());
            return (Some(value.parse().unwrap()), rest);
        }
        let (table, rest) = sql.strip_prefix('t').unwrap().split_once(".\"").unwrap();
        let (column, rest) = rest.split_once('"').unwrap();
        (self.joined[table.parse::<usize>().unwrap()][column_number(column)], rest)
    }

    /// `tN."cM" is null` and its kin, and `pg_catalog.format('%s', tN."cM") in (E'1', E'2')`.
    fn holds(&self, only: &str) -> bool {
        let Some(rest) = only.strip_prefix("pg_catalog.format('%s', ") else {
            let (value, rest) = self.expression(only);
            return match rest {
                " is null" => value.is_none(),
                " is not null" => value.is_some(),
                _ => panic!("{only}"),
            };
        };
        let (value, rest) = self.expression(rest);
        let (operator, list) = rest.strip_prefix(") ").unwrap().split_once('(').unwrap();
        let list = list.strip_suffix(')').unwrap().split(", ");
        let mut values = list.map(|literal| literal.trim_matches(['E', '\'']).to_owned());
        // `format` writes NULL as the empty text.
        let text = value.map_or_else(String::new, |value| value.to_string());
        match operator {
            "in " => values.any(|value| value == text),
            "not in " => values.all(|value| value != text),
            _ => panic!("{only}"),
        }
    }
}

fn column_number(name: &str) -> usize {
    name.strip_prefix('c').unwrap().parse().unwrap()
}
