//! What the analysis of a product found: table → rules, and why time alone can change the answer.

use std::collections::BTreeMap;

use crate::{change::TableId, product::Policy};

/// How a change of one table leads to keys of one product.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Only rows matter in which each parameter equals these columns. Per parameter, in key order, at
    /// least one column; several are all equal to it, so any one that is known will do.
    Direct(Vec<Vec<Column>>),
    /// Any row may touch any key; in words, why nothing finer is sound.
    Product(String),
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
    /// One for each way in which the product reads it, never none. `Product` stands alone.
    pub rules: Vec<Rule>,
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
    /// The parameters' names, in key order.
    pub parameters: Vec<String>,
}

impl Rules {
    /// Why a product of this policy cannot be served rightly, and what to do; `None` if it can.
    #[must_use]
    pub fn refusal(&self, policy: &Policy) -> Option<String> {
        if let (Some(table), false) = (self.row_security.first(), policy.own_row_security) {
            return Some(format!(
                "row security of {table} applies to kck's role: say rls = \"kck\" if its answers are meant"
            ));
        }
        if self.time.is_empty() || !policy.change || policy.expire.is_some() {
            return None;
        }
        Some(format!(
            "no row announces that it {}: say how long an answer is good for, with expire",
            self.time.join(", ")
        ))
    }
}
