//! What the analysis of a product found: table → rules, and why time alone can change the answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use super::lookup::Lookup;
use crate::{
    change::TableId,
    explanation::Finer,
    pattern::{Order, Ordered},
    product::Policy,
};

/// How a change of one table leads to keys of one product: by rows in which all tests may hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Rows that fail all tests of one of these touch nothing.
    pub only: Vec<AnyOf>,
    /// Which keys the others touch.
    pub reach: Reach,
}

/// From a row to keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// The row says it: what binds each parameter, in key order. Several columns are all equal to the parameter, so
    /// any one that is known will do.
    Row(Vec<Binding<Vec<Column>>>),
    /// Rows of other tables say it.
    Lookup(Arc<Lookup>),
    /// Any key may be touched; in words, why nothing finer is sound.
    Product(String),
}

/// What binds one parameter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Binding<T> {
    /// Nothing.
    Any,
    /// It has the same canonical text.
    Text(T),
    /// It is the same number, whatever its scale.
    Number(T),
    /// It is at most this.
    AtMost(Order, T),
    /// It is at least this.
    AtLeast(Order, T),
}

/// Tests of which one must pass.
pub type AnyOf = Vec<Test>;

/// A test that SQL makes with constants alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Test {
    /// What is tested.
    pub column: Column,
    /// What must hold of it.
    pub is: Is,
}

/// What must hold of a column; NULL fails all but the first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Is {
    /// `is null`.
    Null,
    /// `is not null`.
    NotNull,
    /// One of these canonical texts.
    OneOf(BTreeSet<String>),
    /// None of these canonical texts.
    NoneOf(BTreeSet<String>),
    /// At most this value, whose text comes with it.
    AtMost(Order, Ordered, String),
    /// At least this value.
    AtLeast(Order, Ordered, String),
}

/// A column as it was when the product was analysed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Column {
    /// Its name: the stream has other numbers, but the SQL means the name.
    pub name: String,
    /// Its type.
    pub type_oid: u32,
}

/// A table's rules: a change touches what any one of them says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRules {
    /// Schema and name.
    pub name: String,
    /// Whether a publication can have it; no change of another one ever comes.
    pub publishable: bool,
    /// The columns that the product reads: an UPDATE that leaves them as they are touches nothing. `None` where
    /// every UPDATE counts.
    pub columns: Option<BTreeSet<String>>,
    /// What the stream's old rows are to be believed of; `None`: all that they say. Partitions have identities of their
    /// own, and where the root has REPLICA IDENTITY FULL their NULLs may be values that were not sent.
    pub told: Option<BTreeSet<String>>,
    /// One for each way in which the product reads it, never none.
    pub rules: Vec<Rule>,
    /// What would make them finer or cheaper.
    pub finer: Vec<Finer>,
}

/// What was found of a product.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// Every table and partitioned table that is read.
    pub tables: BTreeMap<TableId, TableRules>,
    /// Why the answer may change without a change of a row; empty but for class time.
    pub time: Vec<String>,
    /// Tables whose row security applies to kck's role.
    pub row_security: Vec<String>,
    /// Functions that are labelled IMMUTABLE and read tables, as ALTER FUNCTION names them: Postgres may take an old
    /// answer of theirs for the present one.
    pub mislabelled: Vec<String>,
    /// The parameters' names, in key order.
    pub parameters: Vec<String>,
    /// The products whose SQL is a part of this one's.
    pub products: Vec<String>,
    /// The products that it says it depends on.
    pub depends: Vec<String>,
}

/// How much a change costs and how exactly it is followed, the finest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The row says the key.
    Direct,
    /// Rows of other tables say it.
    Lookup,
    /// Some parameters are determined.
    Partial,
    /// Parameters are on one side of a value.
    Range,
    /// Any key may be touched.
    Product,
    /// Rows do not announce every change.
    Time,
}

impl Rule {
    /// A rule by which any row may touch any key.
    #[must_use]
    pub fn product(why: impl Into<String>) -> Self {
        Self { only: Vec::new(), reach: Reach::Product(why.into()) }
    }

    /// Forgets what binds others than the first so many parameters.
    pub(super) fn keep(&mut self, parameters: usize) {
        match &mut self.reach {
            Reach::Product(_) => {}
            Reach::Row(bindings) => bindings.truncate(parameters),
            Reach::Lookup(lookup) => {
                let mut kept = (**lookup).clone();
                kept.parameters.truncate(parameters);
                *lookup = Arc::new(kept);
            }
        }
        let bound = match &self.reach {
            Reach::Product(_) => return,
            Reach::Row(bindings) => bindings.iter().any(|one| one.by().is_some()),
            Reach::Lookup(lookup) => lookup.parameters.iter().any(|one| one.by().is_some()),
        };
        if !bound {
            self.reach = Reach::Product("nothing of it is matched with a parameter".to_owned());
        }
    }

    /// Its class.
    #[must_use]
    pub fn class(&self) -> Class {
        match &self.reach {
            Reach::Product(_) => Class::Product,
            Reach::Row(bindings) => class(bindings).unwrap_or(Class::Direct),
            Reach::Lookup(lookup) => class(&lookup.parameters).unwrap_or(Class::Lookup),
        }
    }
}

/// Of bindings that leave keys open; `None` where they name one key.
fn class<T>(bindings: &[Binding<T>]) -> Option<Class> {
    let any = |of: fn(&Binding<T>) -> bool| bindings.iter().any(of);
    let ranged = any(|binding| matches!(binding, Binding::AtMost(..) | Binding::AtLeast(..)));
    let bound = any(|binding| !matches!(binding, Binding::Any));
    match (ranged, bound, any(|binding| matches!(binding, Binding::Any))) {
        (true, ..) => Some(Class::Range),
        (_, false, true) => Some(Class::Product),
        (_, true, true) => Some(Class::Partial),
        (_, _, false) => None,
    }
}

impl<T> Binding<T> {
    /// The same binding of something else.
    pub fn map<U>(&self, to: impl FnOnce(&T) -> U) -> Binding<U> {
        match self {
            Binding::Any => Binding::Any,
            Binding::Text(by) => Binding::Text(to(by)),
            Binding::Number(by) => Binding::Number(to(by)),
            Binding::AtMost(order, by) => Binding::AtMost(*order, to(by)),
            Binding::AtLeast(order, by) => Binding::AtLeast(*order, to(by)),
        }
    }

    /// What it is bound by.
    pub fn by(&self) -> Option<&T> {
        match self {
            Binding::Any => None,
            Binding::Text(by)
            | Binding::Number(by)
            | Binding::AtMost(_, by)
            | Binding::AtLeast(_, by) => Some(by),
        }
    }
}

impl Is {
    /// Whether a value passes: a canonical text, or NULL. What cannot be compared passes.
    #[must_use]
    pub fn holds(&self, value: Option<&str>) -> bool {
        match (self, value) {
            (Is::Null, value) => value.is_none(),
            (_, None) => false,
            (Is::NotNull, Some(_)) => true,
            (Is::OneOf(texts), Some(value)) => texts.contains(value),
            (Is::NoneOf(texts), Some(value)) => !texts.contains(value),
            (Is::AtMost(order, most, _), Some(value)) => {
                order.read(value).is_none_or(|value| value <= *most)
            }
            (Is::AtLeast(order, least, _), Some(value)) => {
                order.read(value).is_none_or(|value| *least <= value)
            }
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::Direct => "direct",
            Class::Lookup => "lookup",
            Class::Partial => "partial",
            Class::Range => "range",
            Class::Product => "product",
            Class::Time => "time",
        })
    }
}

impl Rules {
    /// The coarsest class of all its rules.
    #[must_use]
    pub fn class(&self) -> Class {
        if !self.time.is_empty() {
            return Class::Time;
        }
        let rules = self.tables.values().flat_map(|table| &table.rules);
        rules.map(Rule::class).max().unwrap_or(Class::Direct)
    }

    /// The columns whose values lead from a changed row of a table to keys.
    #[must_use]
    pub fn key_columns(&self, table: TableId) -> BTreeSet<&str> {
        let rules = self.tables.get(&table).into_iter().flat_map(|table| &table.rules);
        let columns = rules.flat_map(|rule| match &rule.reach {
            Reach::Product(_) => Vec::new(),
            Reach::Row(bindings) => bindings.iter().filter_map(Binding::by).flatten().collect(),
            Reach::Lookup(lookup) => lookup.row.iter().collect(),
        });
        columns.map(|column| column.name.as_str()).collect()
    }

    /// Why a product of this policy cannot be served rightly, and what to do; `None` if it can.
    #[must_use]
    pub fn refusal(&self, policy: &Policy) -> Option<String> {
        if let (Some(table), false) = (self.row_security.first(), policy.own_row_security) {
            return Some(format!(
                "row security of {table} applies to kck's role: say rls = \"kck\" if its answers are meant"
            ));
        }
        if let Some(function) = self.mislabelled.first() {
            return Some(format!(
                "{function} is labelled IMMUTABLE and reads tables: alter function {function} stable"
            ));
        }
        let bounded = policy.expire.is_some() || policy.is_timed();
        if self.time.is_empty() || !policy.change || bounded {
            return None;
        }
        Some(format!(
            "no row announces that it {}: say how long an answer is good for, with expire, or when it is computed again, with every or cron in refresh",
            self.time.join(", ")
        ))
    }
}
