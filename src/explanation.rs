//! What kck says of how a product follows its tables: for people, and as JSON for tools.

use std::{collections::BTreeSet, fmt};

use serde::Serialize;

/// How a product follows the tables it reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The product's name.
    pub product: String,
    /// The coarsest class of all its rules: `direct`, `lookup`, `partial`, `range`, `product`, `time`.
    pub class: String,
    /// The parameters' names, in key order.
    pub parameters: Vec<String>,
    /// Every table it reads, views expanded.
    pub tables: Vec<Table>,
    /// Why the answer may change without a change of a row.
    pub time: Vec<String>,
    /// Products whose SQL is a part of its own.
    pub products: Vec<String>,
    /// Products that it depends on, and whose answers make it stale when they change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub depends: Vec<String>,
    /// What makes its keys be computed again, as its header says it.
    pub refresh: Vec<String>,
    /// The keys that are computed before anybody reads them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm: Option<String>,
}

/// How one table is followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Table {
    /// Schema and name.
    pub table: String,
    /// The coarsest class of its rules.
    pub class: String,
    /// What a change of it costs.
    pub costs: &'static str,
    /// The columns read: an UPDATE of others touches nothing. `null` where every UPDATE counts.
    pub columns: Option<BTreeSet<String>>,
    /// One for each way in which it is read; a change touches what any one of them says.
    pub rules: Vec<Rule>,
    /// What would make it finer or cheaper.
    pub finer: Vec<Finer>,
}

/// One way in which a table is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Its class.
    pub class: String,
    /// Which keys a changed row touches, in words.
    pub touches: String,
    /// Rows that fail one of these touch nothing.
    pub only: Vec<String>,
}

/// Something that a person can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finer {
    /// What is lost without it.
    pub why: String,
    /// The statements, each on its own; any one of them will do.
    pub sql: Vec<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parameters: Vec<String> =
            self.parameters.iter().map(|name| format!(":{name}")).collect();
        writeln!(f, "{} ({}): {}", self.product, parameters.join(", "), self.class)?;
        for product in &self.products {
            writeln!(f, "  contains product {product}")?;
        }
        for product in &self.depends {
            writeln!(f, "  depends on product {product}")?;
        }
        for table in &self.tables {
            writeln!(f, "  {}: {}, a change costs {}", table.table, table.class, table.costs)?;
            for rule in &table.rules {
                writeln!(f, "    {}: {}", rule.class, rule.touches)?;
                if !rule.only.is_empty() {
                    writeln!(f, "      only rows with {}", rule.only.join(" and "))?;
                }
            }
            if let Some(columns) = &table.columns {
                let names: Vec<&str> = columns.iter().map(String::as_str).collect();
                let names = if names.is_empty() { "none" } else { &names.join(", ") };
                writeln!(f, "    an UPDATE counts if it changes one of: {names}")?;
            }
            for finer in &table.finer {
                writeln!(f, "    finer: {}", finer.why)?;
                for (at, sql) in finer.sql.iter().enumerate() {
                    writeln!(f, "      {}{sql}", if at > 0 { "or: " } else { "" })?;
                }
            }
        }
        self.time.iter().try_for_each(|reason| writeln!(f, "  time: it {reason}"))?;
        for schedule in self.refresh.iter().filter(|entry| *entry != "change") {
            writeln!(f, "  computed again: {schedule}")?;
        }
        self.warm.iter().try_for_each(|warm| writeln!(f, "  warm: {warm}"))
    }
}
