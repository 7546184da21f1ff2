//! Depends: what a product of another recipe than SQL depends on → SQL that reads it, which nobody runs.
//!
//! Postgres is asked what it means: so its rules and types, and whatever moves under it, are found as those of any
//! product. Whole rows of tables are read, since nobody knows what a program looks at.

use super::{
    Draft, Fault,
    recipe::{Dependency, Match},
};
use crate::{description::ParameterSpec, quote};

/// An answer may be any JSON.
pub(super) const NOTHING: &str = "select null::pg_catalog.json as value";

/// A table's name as a person writes it → quoted: `Shop."Sales"` is `"shop"."Sales"`.
pub(super) fn table_name(said: &str) -> Option<String> {
    let (mut parts, mut rest) = (Vec::new(), said);
    loop {
        let part;
        (part, rest) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find('"')?;
                (quoted.get(..end)?.to_owned(), quoted.get(end + 1..)?)
            }
            None => {
                let end = rest.find('.').unwrap_or(rest.len());
                let (name, rest) = rest.split_at_checked(end)?;
                let plain = |c: char| c == '_' || c == '$' || c.is_alphanumeric();
                let begins = |c: char| c == '_' || c.is_alphabetic();
                if !name.starts_with(begins) || !name.chars().all(plain) {
                    return None;
                }
                (name.to_lowercase(), rest)
            }
        };
        if part.is_empty() {
            return None;
        }
        parts.push(quote::name(&part));
        match rest.strip_prefix('.') {
            Some(behind) => rest = behind,
            None if rest.is_empty() && parts.len() <= 2 => return Some(parts.join(".")),
            None => return None,
        }
    }
}

/// SQL that reads what a product depends on, while it is written.
pub(super) struct Reads {
    pub(super) sql: String,
    /// See [`Question::parts`].
    pub(super) parts: Vec<(usize, usize)>,
}

impl Reads {
    pub(super) fn new() -> Self {
        Self { sql: String::new(), parts: Vec::new() }
    }

    /// From here on it comes from that offset of the file.
    pub(super) fn part(&mut self, offset: usize) {
        self.parts.push((self.sql.len(), offset));
    }

    /// The next branch.
    pub(super) fn branch(&mut self, offset: usize) {
        self.part(offset);
        if !self.sql.is_empty() {
            self.sql.push_str("\nunion all\n");
        }
    }

    /// Whole rows of a table: whichever column changes may count.
    pub(super) fn table(&mut self, name: &str, depends: &Dependency) {
        self.branch(depends.offset);
        self.sql.push_str(&format!(
            "select case when ({name}.*) is null then null::pg_catalog.json end as value from "
        ));
        self.part(depends.offset);
        self.sql.push_str(name);
        for (number, one) in depends.matches.iter().enumerate() {
            self.sql.push_str(if number == 0 { " where " } else { " and " });
            self.part(one.offset);
            self.sql.push_str(&format!("{name}.{} ", quote::name(&one.theirs)));
            self.part(one.offset);
            self.sql.push_str(&format!("= :{}", one.own));
        }
    }

    /// What is there where nothing was read.
    pub(super) fn finish(mut self) -> Self {
        if self.sql.is_empty() {
            self.part(0);
            self.sql.push_str(NOTHING);
        }
        self
    }
}

/// Parameters of a product that it does not have.
pub(super) fn strangers(
    draft: &Draft,
    depends: &Dependency,
    inner: &Draft,
) -> Result<(), Vec<Fault>> {
    let own = inner.question.parameters.iter().take(inner.parameters());
    let names: Vec<&str> = own.map(|one| one.name.as_str()).collect();
    let strange = depends.matches.iter().filter(|one| !names.contains(&one.theirs.as_str()));
    let fault = |one: &Match| {
        let what = format!("product '{}' has no parameter '{}'", inner.name, one.theirs);
        let hint = if names.contains(&one.own.as_str()) {
            format!(
                "turn it around: their parameter is left, this product's right: {{ {} = \"{}\" }}",
                one.own, one.theirs
            )
        } else if names.is_empty() {
            "it has no parameters: leave match out".to_owned()
        } else {
            format!("its parameters: {}", names.join(", "))
        };
        draft.fault(one.offset, what, hint)
    };
    let faults: Vec<Fault> = strange.map(fault).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// Reads a product that another depends on: its tables where it follows changes. Parameters that nothing is matched
/// with become hidden ones, of which nothing is said.
pub(super) fn product(
    reads: &mut Reads,
    depends: &Dependency,
    inner: &Draft,
    parameters: &mut Vec<ParameterSpec>,
) {
    reads.branch(depends.offset);
    let typed = |value: String, one: &ParameterSpec| match &one.type_name {
        Some(name) => format!("{value}::{name}"),
        None => value,
    };
    let mut values = Vec::new();
    for (at, one) in inner.question.parameters.iter().enumerate() {
        let matched = depends.matches.iter().find(|matched| matched.theirs == one.name);
        let name = match matched.filter(|_| at < inner.parameters()) {
            Some(matched) => matched.own.clone(),
            None if inner.policy.change => {
                let name = format!("kck_any_{}", parameters.len());
                let (default, offset) = (None, depends.offset);
                let type_name = one.type_name.clone();
                parameters.push(ParameterSpec { name: name.clone(), type_name, default, offset });
                name
            }
            None => continue,
        };
        values.push(typed(format!("(:{name})"), one));
    }
    const VALUE: &str = "select null::pg_catalog.json as value";
    if inner.policy.change {
        // A comment may end the other's text.
        let sql = inner.question.sql(|at| values.get(at).cloned().unwrap_or_default());
        reads.sql.push_str(&format!("{VALUE} from (\n{sql}\n) as kck_product"));
    } else {
        reads.sql.push_str(VALUE);
    }
    // A cast may make anything of anything: whether one can be the other is asked as well.
    for one in &depends.matches {
        let theirs = inner.question.parameters.iter().find(|theirs| theirs.name == one.theirs);
        if let Some(type_name) = theirs.and_then(|theirs| theirs.type_name.as_ref()) {
            reads.branch(depends.offset);
            reads.sql.push_str(&format!("{VALUE} where (:{} ", one.own));
            reads.part(one.offset);
            reads.sql.push_str(&format!("= null::{type_name}) is null"));
        }
    }
}
