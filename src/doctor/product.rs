//! Products, what they read and what kck's role may read → findings D17, D19, D20, D32 and D37.

use std::collections::{BTreeMap, BTreeSet};

use super::{Facts, Finding, Source, one_line};
use crate::{change::TableId, explanation::Explanation, quote};

/// What kck is to serve.
#[derive(Debug, Clone, Default)]
pub struct Products {
    /// Where their files are looked for.
    pub folder: String,
    /// How each that works follows its tables.
    pub explained: Vec<Explanation>,
    /// How many work, followed or not.
    pub ready: usize,
    /// What is wrong: of which product or file, in which words, and what to do.
    pub broken: Vec<(String, String, String)>,
    /// The tables that have to be published, by name.
    pub tables: BTreeMap<TableId, String>,
    /// Table → the products that read it.
    pub readers: BTreeMap<TableId, Vec<String>>,
    /// Columns that lead from a row of a table to keys of a product.
    pub keys: Vec<Read>,
    /// The relations that statements name, as they write them.
    pub mentions: BTreeSet<String>,
}

/// By which columns of a table a product is followed.
#[derive(Debug, Clone)]
pub struct Read {
    /// The product.
    pub product: String,
    /// The table.
    pub table: TableId,
    /// The columns.
    pub columns: BTreeSet<String>,
}

pub(super) fn judge(products: &Products) -> Vec<Finding> {
    let mut findings = load(products);
    // Nothing is known of how they are followed where the source is away or none of them loads.
    if !products.explained.is_empty() {
        findings.extend(finer(&products.explained));
        findings.extend(time(&products.explained));
    }
    findings
}

fn load(products: &Products) -> Vec<Finding> {
    let broken = products.broken.iter().map(|(name, what, hint)| {
        let fix = Some(one_line(hint)).filter(|hint| !hint.is_empty());
        Finding::fail("D32", format!("{name}: {}", one_line(what)), Vec::from_iter(fix))
    });
    let mut findings: Vec<Finding> = broken.collect();
    if findings.is_empty() && products.ready == 0 {
        let fix = vec![format!("put a SELECT into {}/NAME.sql", products.folder)];
        return vec![Finding::warn("D32", "there are no products", fix)];
    }
    if findings.is_empty() {
        findings.push(Finding::pass("D32", format!("all {} products load", products.ready)));
    }
    findings
}

/// Statements, and the products that gain.
type Gain<'a> = (&'a [String], Vec<&'a str>);

/// What a better identity or an index would gain; the same of several products is said once.
fn finer(explained: &[Explanation]) -> Vec<Finding> {
    let mut gains: BTreeMap<(&str, &str), Gain<'_>> = BTreeMap::new();
    for product in explained {
        for table in &product.tables {
            for finer in &table.finer {
                let gain = gains.entry((&table.table, &finer.why));
                gain.or_insert((&finer.sql, Vec::new())).1.push(&product.product);
            }
        }
    }
    if gains.is_empty() {
        return vec![Finding::pass("D17", "every product is followed as finely as can be")];
    }
    let said = gains.into_iter().map(|((table, why), (sql, products))| {
        let mut fix = Vec::new();
        for (at, sql) in sql.iter().enumerate() {
            // A remark behind the statement is a step of its own, so that the statement can be pasted.
            let (sql, when) = match sql.rsplit_once("; -- ") {
                Some((sql, when)) => (sql, format!(", {when}")),
                None => (sql.as_str(), String::new()),
            };
            fix.extend((at > 0).then(|| format!("or{when}:")));
            fix.extend(statements(sql));
        }
        Finding::warn("D17", format!("{} over {table}: {why}", products.join(", ")), fix)
    });
    said.collect()
}

/// Each statement of a text that has no quotes but those of names.
fn statements(sql: &str) -> Vec<String> {
    let mut quoted = false;
    let ends = |sign: char| {
        quoted ^= sign == '"';
        sign == ';' && !quoted
    };
    let parts = sql.split(ends).map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| format!("{part};")).collect()
}

fn time(explained: &[Explanation]) -> Vec<Finding> {
    let timed = explained.iter().filter(|product| !product.time.is_empty());
    let said: Vec<Finding> = timed
        .map(|product| {
            let reasons = product.time.join(", ");
            Finding::pass(
                "D20",
                format!(
                    "{}: it {reasons}; its header says how long an answer is good for",
                    product.product
                ),
            )
        })
        .collect();
    if said.is_empty() {
        return vec![Finding::pass("D20", "every answer changes by rows alone")];
    }
    said
}

/// What the source is needed for.
pub(super) fn judge_rights(facts: &Facts<'_>, source: &Source) -> Vec<Finding> {
    let mut findings = generated(&facts.products, source);
    findings.push(reads(source));
    findings
}

fn generated(products: &Products, source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Read { product, table, columns } in &products.keys {
        let Some(right) = source.rights.iter().find(|right| right.table == table.0) else {
            continue;
        };
        let sought: Vec<&str> = right
            .generated
            .iter()
            .map(String::as_str)
            .filter(|column| columns.contains(*column))
            .collect();
        if sought.is_empty() {
            continue;
        }
        let found = format!(
            "{product} over {}: the stream does not have generated column {}, so any change touches every key",
            right.name,
            sought.join(", ")
        );
        let fix = vec!["compare the columns that it is made of, or an ordinary column".to_owned()];
        findings.push(Finding::warn("D19", found, fix));
    }
    if findings.is_empty() {
        findings.push(Finding::pass("D19", "no generated column leads to keys"));
    }
    findings
}

/// The right to read what statements name.
fn reads(source: &Source) -> Finding {
    let role = quote::name(&source.server.role.name);
    let named = || source.rights.iter().filter(|right| right.mentioned && !right.system);
    let (mut fix, mut lacks) = (Vec::new(), Vec::new());
    let mut schemas = BTreeSet::new();
    for right in named() {
        if !right.usage && schemas.insert(&right.quoted_schema) {
            fix.push(format!("grant usage on schema {} to {role};", right.quoted_schema));
            lacks.push(format!("schema {}", right.quoted_schema));
        }
        if !right.selects {
            fix.push(format!("grant select on {} to {role};", right.name));
            lacks.push(right.name.clone());
        }
    }
    let name = &source.server.role.name;
    if !lacks.is_empty() {
        let found = format!("role {name} may not read {}", lacks.join(", "));
        return Finding::fail("D37", found, fix);
    }
    if !source.server.role.may_describe {
        let fix = vec![format!(
            "grant temp on database {} to {role};",
            quote::name(&source.facts.database)
        )];
        let found =
            format!("role {name} has no TEMP here: products are followed by names alone, whole");
        return Finding::warn("D37", found, fix);
    }
    Finding::pass("D37", format!("role {name} may read every relation that products name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_outside_of_names() {
        assert_eq!(
            statements("alter table \"a;b\" replica identity full; drop table \"c\"\"; d\""),
            ["alter table \"a;b\" replica identity full;", "drop table \"c\"\"; d\";"]
        );
    }

    #[test]
    fn the_same_gain_of_several_products_is_said_once() {
        let explained = |product: &str| Explanation {
            depends: vec![],
            product: product.to_owned(),
            class: "direct".to_owned(),
            parameters: vec![],
            tables: vec![crate::explanation::Table {
                table: "public.t".to_owned(),
                class: "direct".to_owned(),
                costs: "a hash",
                columns: None,
                rules: vec![],
                finer: vec![crate::explanation::Finer {
                    why: "no id".to_owned(),
                    sql: vec!["one;".to_owned(), "two; three; -- where it is so".to_owned()],
                }],
            }],
            time: vec![],
            products: vec![],
            refresh: vec![],
            warm: None,
        };
        let said = finer(&[explained("a"), explained("b")]);
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].found, "a, b over public.t: no id");
        assert_eq!(said[0].fix, ["one;", "or, where it is so:", "two;", "three;"]);
    }
}
