//! Four little tables and five products over them: their rules for kck, and their queries in plain loops.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use kck::{
    change::{Change, Column as Announced, Datum, Old, Relation, TableId},
    depend::{
        Binding, Column, Index, Reach, Rule, Rules, TableRules,
        lookup::{Asked, Lookup, Operand},
    },
    description::{Description, Mentions, Question},
    entry::Fingerprint,
    key::Key,
    product::{Draft, Policy, Product, Recipe},
};

use super::mutation::Mutation;

/// Rows that a table may have.
pub(crate) const ROWS: usize = 3;
/// Small numbers: an id, a reference, a parameter.
pub(crate) type Row = [u8; 3];
/// `a(id, b, v)`, `b(id, c)`, `c(id, p)`, `d(id, p, v)`.
pub(crate) const TABLES: [(&str, &[&str]); 4] =
    [("a", &["id", "b", "v"]), ("b", &["id", "c"]), ("c", &["id", "p"]), ("d", &["id", "p", "v"])];
const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const D: usize = 3;

/// All rows of all tables, by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Tables([[Option<Row>; ROWS]; 4]);

/// What one transaction did to one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RowChange {
    pub(crate) table: usize,
    pub(crate) id: usize,
    pub(crate) old: Option<Row>,
    pub(crate) new: Option<Row>,
}

/// The products; `Shifting` has two definitions, of which one counts at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Asks {
    /// Rows of `a` over `b` and `c` to the parameter: direct, one step, two steps.
    Chain,
    /// Rows of `d` by their own column.
    Plain,
    /// Rows of `a` by a rule that only knows the product.
    Whole,
    /// Rows of `d` by one parameter of two.
    Partial,
    /// Rows of `d` by one column, or by another after it was edited.
    Shifting,
}

pub(crate) const ALL: [Asks; 5] =
    [Asks::Chain, Asks::Plain, Asks::Whole, Asks::Partial, Asks::Shifting];

impl Tables {
    pub(crate) fn first() -> Self {
        let row =
            |id: u8| [Some([id, id, 0]), Some([id, id, 0]), Some([id, id, 0]), Some([id, id, 1])];
        let rows = [0, 1].map(row);
        Self(std::array::from_fn(|table| [rows[0][table], rows[1][table], None]))
    }

    pub(crate) fn row(&self, table: usize, id: usize) -> Option<Row> {
        self.0[table][id]
    }

    pub(crate) fn change(&mut self, change: &RowChange) {
        self.0[change.table][change.id] = change.new;
    }

    fn rows(&self, table: usize) -> impl Iterator<Item = Row> {
        self.0[table].into_iter().flatten()
    }

    fn by_id(&self, table: usize, id: u8) -> Option<Row> {
        self.0[table].get(usize::from(id)).copied().flatten()
    }

    /// The answer that Postgres would give, as a number that is another for every other answer.
    pub(crate) fn answer(&self, key: &Key, definition: u8) -> u64 {
        let wanted: Vec<u8> = key.values().iter().map(|value| value.parse().unwrap()).collect();
        let p = wanted[0];
        let rows: Vec<Row> = match asks(key.product()) {
            Asks::Chain => {
                let leads = |row: &Row| {
                    let b = self.by_id(B, row[1])?;
                    Some(self.by_id(C, b[1])?[1])
                };
                self.rows(A).filter(|row| leads(row) == Some(p)).collect()
            }
            Asks::Plain => self.rows(D).filter(|row| row[1] == p).collect(),
            Asks::Whole => self.rows(A).filter(|row| row[2] == p).collect(),
            Asks::Partial => {
                self.rows(D).filter(|row| row[1] == p && row[2] != wanted[1]).collect()
            }
            Asks::Shifting => {
                let column = if definition == 0 { 1 } else { 2 };
                self.rows(D).filter(|row| row[column] == p).collect()
            }
        };
        rows.iter().flatten().fold(1, |text, number| text * 7 + u64::from(*number))
    }

    /// A lookup, read from its structure: the changed rows joined with the tables as they are now.
    pub(crate) fn look_up(&self, asked: &Asked) -> Vec<(usize, Vec<Option<String>>)> {
        let mut answer = Vec::new();
        for (number, (lookup, rows)) in asked.lookups.all.iter().zip(&asked.rows).enumerate() {
            for given in rows {
                let mut joined: Vec<Vec<(usize, Row)>> = vec![Vec::new()];
                for table in &lookup.tables {
                    let table = table_named(table);
                    let with = |before: &Vec<(usize, Row)>| {
                        let before = before.clone();
                        self.rows(table)
                            .map(move |row| [before.as_slice(), &[(table, row)]].concat())
                            .collect::<Vec<_>>()
                    };
                    joined = joined.iter().flat_map(with).collect();
                }
                for rows in joined {
                    let value = |operand: &Operand| match operand {
                        Operand::Row(at, _) => given[*at].to_string(),
                        Operand::Table(at, column) => {
                            let (table, row) = rows[*at];
                            row[column_named(table, column)].to_string()
                        }
                        Operand::Expression(sql) => panic!("no rule here has {sql}"),
                    };
                    if lookup.equal.iter().all(|(one, other)| value(one) == value(other)) {
                        let parameters = lookup.parameters.iter();
                        answer.push((number, parameters.map(|by| by.by().map(value)).collect()));
                    }
                }
            }
        }
        answer
    }
}

fn table_named(name: &str) -> usize {
    TABLES.iter().position(|(table, _)| *table == name).unwrap()
}

fn column_named(table: usize, name: &str) -> usize {
    TABLES[table].1.iter().position(|column| *column == name).unwrap()
}

pub(crate) fn asks(product: &str) -> Asks {
    ALL.into_iter().find(|asks| asks.name() == product).unwrap()
}

impl Asks {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Plain => "plain",
            Self::Whole => "whole",
            Self::Partial => "partial",
            Self::Shifting => "shifting",
        }
    }

    /// What it means, without the generation.
    pub(crate) fn fingerprint(self, definition: u8) -> Fingerprint {
        let definition = if self == Self::Shifting { definition } else { 0 };
        let number = ALL.iter().position(|asks| *asks == self).unwrap_or_default();
        Fingerprint([u8::try_from(number).unwrap() * 2 + definition + 1; 16])
    }

    fn rules(self, definition: u8, mutation: Option<Mutation>) -> Vec<(usize, Rule)> {
        let row = |columns: &[&str]| Reach::Row(columns.iter().map(|name| bound(name)).collect());
        match self {
            Self::Chain => {
                let steps = |steps: usize| match mutation {
                    Some(Mutation::NoClosure) => 0,
                    Some(Mutation::OneStepOfTwo) => steps.min(1),
                    _ => steps,
                };
                let over_b = lookup("b", &[("b", "c"), ("c", "p")], steps(2));
                let over_c = lookup("c", &[("c", "p")], steps(1));
                vec![(A, rule(over_b)), (B, rule(over_c)), (C, rule(row(&["p"])))]
            }
            Self::Plain => vec![(D, rule(row(&["p"])))],
            Self::Whole => vec![(A, Rule::product("it is told so"))],
            Self::Partial => {
                vec![(D, rule(Reach::Row(vec![bound("p"), Binding::Any])))]
            }
            Self::Shifting => vec![(D, rule(row(&[if definition == 0 { "p" } else { "v" }])))],
        }
    }
}

fn rule(reach: Reach) -> Rule {
    Rule { only: Vec::new(), reach }
}

fn column(name: &str) -> Column {
    Column { name: name.to_owned(), type_oid: 20 }
}

fn bound(name: &str) -> Binding<Vec<Column>> {
    Binding::Text(vec![column(name)])
}

/// From a column of the changed row over tables, each reached by its id and left by a column, to the parameter.
fn lookup(from: &str, over: &[(&str, &str)], steps: usize) -> Reach {
    let mut at = Operand::Row(0, "int8".to_owned());
    let mut equal = Vec::new();
    for (number, (_, out)) in over.iter().enumerate() {
        equal.push((at, Operand::Table(number, "id".to_owned())));
        at = Operand::Table(number, (*out).to_owned());
    }
    Reach::Lookup(Arc::new(Lookup {
        row: vec![column(from)],
        tables: over.iter().map(|(table, _)| (*table).to_owned()).collect(),
        equal,
        only: Vec::new(),
        parameters: vec![Binding::Text(at)],
        steps,
    }))
}

/// The index of all products, with one definition of the one that shifts.
pub(crate) fn index(definition: u8, mutation: Option<Mutation>) -> Arc<Index> {
    let analysed = |asks: &Asks| {
        let mut tables: BTreeMap<TableId, TableRules> = BTreeMap::new();
        for (table, rule) in asks.rules(definition, mutation) {
            let name = TABLES[table].0.to_owned();
            let new = || TableRules {
                name,
                publishable: true,
                columns: None,
                told: None,
                rules: Vec::new(),
                finer: Vec::new(),
            };
            tables.entry(id(table)).or_insert_with(new).rules.push(rule);
        }
        (product(*asks, definition), Rules { tables, ..Rules::default() })
    };
    Arc::new(Index::of_rules(ALL.iter().map(analysed)))
}

fn product(asks: Asks, definition: u8) -> Arc<Product> {
    let question = Question {
        parameters: Vec::new(),
        pieces: vec![String::new()],
        holes: Vec::new(),
        mentions: Some(Mentions::default()),
        offset: 0,
        parts: Vec::new(),
    };
    let (name, file) = (asks.name().to_owned(), PathBuf::new());
    let (policy, text, calls) = (Policy::default(), String::new(), Vec::new());
    let draft = Draft { name, file, policy, question, recipe: Recipe::Sql, text, calls };
    Arc::new(Product {
        draft,
        parameters: Vec::new(),
        description: Description::default(),
        fingerprint: asks.fingerprint(definition),
        shape: Fingerprint::default(),
        by_time: false,
    })
}

fn id(table: usize) -> TableId {
    TableId(u32::try_from(table).unwrap() + 1)
}

fn relation(table: usize) -> Arc<Relation> {
    static RELATIONS: OnceLock<Vec<Arc<Relation>>> = OnceLock::new();
    let of = |table: usize| {
        let (name, columns) = TABLES[table];
        let announced =
            |name: &&str| Announced { name: (*name).to_owned(), type_oid: 20, identity: true };
        let columns = columns.iter().map(announced).collect();
        let (schema, name) = ("public".to_owned(), name.to_owned());
        Arc::new(Relation { table: id(table), schema, name, identity: b'f', columns })
    };
    Arc::clone(&RELATIONS.get_or_init(|| (0..TABLES.len()).map(of).collect())[table])
}

impl RowChange {
    /// As the stream tells it; the old row is whole.
    pub(crate) fn told(&self) -> Option<Change> {
        let relation = relation(self.table);
        let row = |row: Row| -> Vec<Datum> {
            let text = |number: &u8| Datum::Text(Bytes::from(number.to_string()));
            row[..relation.columns.len()].iter().map(text).collect()
        };
        match (self.old.map(row), self.new.map(row)) {
            (None, None) => None,
            (None, Some(new)) => Some(Change::Insert { relation: Arc::clone(&relation), new }),
            (Some(old), Some(new)) => {
                Some(Change::Update { relation: Arc::clone(&relation), old: Old::Whole(old), new })
            }
            (Some(old), None) => {
                Some(Change::Delete { relation: Arc::clone(&relation), old: Old::Whole(old) })
            }
        }
    }

    /// A change that fits the tables: the row goes, or comes, or gets other numbers.
    pub(crate) fn fitting(tables: &Tables, mut seed: u32) -> Self {
        let mut pick = |of: u32| {
            let picked = seed % of;
            seed /= of;
            u8::try_from(picked).unwrap()
        };
        let table = usize::from(pick(4));
        let id = pick(3);
        let old = tables.row(table, usize::from(id));
        let row = match table {
            A => [id, pick(3), pick(2)],
            D => [id, pick(2), pick(2)],
            _ => [id, pick(3), 0],
        };
        let goes = pick(4) == 0 && old.is_some();
        let new = (!goes).then_some(row);
        Self { table, id: usize::from(id), old, new }
    }
}
