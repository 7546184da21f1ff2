//! kck's publication and the identities of its tables → findings D11 to D14, D16 and D18.

use std::collections::BTreeSet;

use super::{Facts, Finding, Source};
use crate::{change::TableId, postgres::publication::Publication, quote};

pub(super) fn judge(facts: &Facts<'_>, source: &Source) -> Vec<Finding> {
    let name = &facts.config.publication;
    let mut findings = identities(facts, source);
    let Some(publication) = &source.publication else {
        findings.push(absent(name, source));
        return findings;
    };
    findings.push(Finding::pass("D11", format!("publication {name} is there")));
    if publication.unnamed {
        findings.push(all_tables(name, source));
        return findings;
    }
    findings.push(members(facts, source, publication));
    findings.push(sends(name, source, publication));
    findings.push(roots(name, source, publication));
    findings
}

/// The statements that make it right, each to be pasted.
fn mend(source: &Source) -> Vec<String> {
    source.unpublished.iter().map(|statement| format!("{statement};")).collect()
}

/// kck's own start mends what its role may mend.
fn mendable(source: &Source) -> bool {
    source.server.role.superuser
        || (source.server.role.may_publish
            && source.rights.iter().filter(|right| right.publishable).all(|right| right.owned))
}

fn absent(name: &str, source: &Source) -> Finding {
    if mendable(source) {
        let found = format!("publication {name} is not there yet: kck makes it when it starts");
        return Finding::pass("D11", found);
    }
    let found = format!(
        "publication {name} is not there, and role {} may not make it",
        source.server.role.name
    );
    Finding::fail("D11", found, as_owner(source))
}

fn as_owner(source: &Source) -> Vec<String> {
    let mut fix = vec!["as the owner of the tables and of the publication:".to_owned()];
    fix.extend(mend(source));
    fix
}

/// A publication that is there and not as it should be.
fn wrong(id: &'static str, found: String, source: &Source) -> Finding {
    if mendable(source) {
        let mut fix = vec!["kck does so when it starts, and kck doctor --fix now:".to_owned()];
        fix.extend(mend(source));
        return Finding::warn(id, found, fix);
    }
    Finding::fail(id, found, as_owner(source))
}

fn all_tables(name: &str, source: &Source) -> Finding {
    let mut found = format!("publication {name} has tables that it does not name");
    if !source.identity_less.is_empty() {
        found.push_str(&format!(
            "; UPDATE and DELETE fail on those without a replica identity: {}",
            source.identity_less.join(", ")
        ));
    }
    Finding::fail("D13", found, as_owner(source))
}

fn members(facts: &Facts<'_>, source: &Source, publication: &Publication) -> Finding {
    let name = &facts.config.publication;
    let unusable: BTreeSet<TableId> = source.unusable.iter().map(|table| table.table).collect();
    let missing: Vec<String> = facts
        .products
        .tables
        .iter()
        .filter(|(table, _)| !publication.tables.contains(table) && !unusable.contains(table))
        .map(|(_, name)| name.clone())
        .collect();
    if missing.is_empty() {
        return Finding::pass(
            "D12",
            format!("publication {name} has every table that products read"),
        );
    }
    wrong("D12", format!("publication {name} lacks {}", missing.join(", ")), source)
}

fn sends(name: &str, source: &Source, publication: &Publication) -> Finding {
    let mut lacks = Vec::new();
    if !publication.all_actions {
        lacks.push("some of insert, update, delete and truncate".to_owned());
    }
    if !publication.filtered.is_empty() {
        lacks.push(format!("rows, by a filter on {}", names(source, &publication.filtered)));
    }
    if !publication.narrowed.is_empty() {
        lacks.push(format!("columns, by a list on {}", names(source, &publication.narrowed)));
    }
    if lacks.is_empty() {
        return Finding::pass("D14", format!("publication {name} sends every change, whole"));
    }
    wrong("D14", format!("publication {name} does not send {}", lacks.join(", nor ")), source)
}

fn names(source: &Source, tables: &BTreeSet<TableId>) -> String {
    let name = |table: &TableId| {
        let right = source.rights.iter().find(|right| right.table == table.0);
        right.map_or_else(|| format!("table {}", table.0), |right| right.name.clone())
    };
    tables.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn roots(name: &str, source: &Source, publication: &Publication) -> Finding {
    let partitioned: Vec<&str> = source
        .rights
        .iter()
        .filter(|right| right.partitioned)
        .map(|right| right.name.as_str())
        .collect();
    if !publication.via_root {
        let found =
            format!("publication {name} sends changes of a partition under the partition's name");
        return wrong("D18", found, source);
    }
    if partitioned.is_empty() {
        return Finding::pass("D18", "no table that products read is partitioned");
    }
    let found = format!(
        "changes come under the root's name ({}); ATTACH, DETACH and TRUNCATE of a partition are found within seconds",
        partitioned.join(", ")
    );
    Finding::pass("D18", found)
}

/// What is in the publication harms its writers now; what is not makes its products wait.
fn identities(facts: &Facts<'_>, source: &Source) -> Vec<Finding> {
    let published = source.publication.as_ref().map(|publication| &publication.tables);
    let mut findings = Vec::new();
    let mut tables: Vec<TableId> = source.unusable.iter().map(|table| table.table).collect();
    tables.dedup();
    for table in tables {
        let lines = || source.unusable.iter().filter(|unusable| unusable.table == table);
        let Some(first) = lines().next() else { continue };
        let readers = facts.products.readers.get(&table).map(|readers| readers.join(", "));
        let readers = readers.map(|readers| format!("; read by {readers}")).unwrap_or_default();
        let mut found =
            format!("table {} cannot be followed: {}{readers}", first.name, first.reason);
        let mut fix: Vec<String> =
            lines().map(|line| line.fix.clone()).filter(|fix| !fix.is_empty()).collect();
        if published.is_some_and(|published| published.contains(&table)) {
            found.push_str("; it is published, so UPDATE and DELETE fail on it now");
            fix.push("or, so that its writers go on (kck doctor --fix does it):".to_owned());
            let publication = quote::name(&facts.config.publication);
            fix.push(format!("alter publication {publication} drop table only {};", first.name));
        } else if fix.is_empty() {
            fix.push(
                "let the product read another table, or refresh it by expire alone".to_owned(),
            );
        }
        findings.push(Finding::fail("D16", found, fix));
    }
    if findings.is_empty() {
        findings
            .push(Finding::pass("D16", "every table to be followed has a usable replica identity"));
    }
    findings
}
