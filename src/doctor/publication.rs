//! kck's publication and the identities of its tables → findings D11 to D14, D16 and D18.

use std::collections::BTreeSet;

use super::{Facts, Finding, Source};
use crate::{change::TableId, postgres::publication::Publication};

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
    findings.extend(shape(facts, source, publication));
    findings
}

/// The statements that make it right, each to be pasted.
fn mend(source: &Source) -> Vec<String> {
    source.unpublished.iter().map(|statement| format!("{statement};")).collect()
}

/// kck's own start mends what its role may mend.
fn mendable(source: &Source) -> bool {
    let role = &source.server.role;
    role.superuser
        || (role.owns_publication.unwrap_or(role.may_publish)
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

/// What is not as it should be of a publication that is there. One list of statements makes all of it right, so it
/// stands below the first.
fn shape(facts: &Facts<'_>, source: &Source, publication: &Publication) -> Vec<Finding> {
    let checks = [
        ("D12", members(facts, source, publication)),
        ("D14", sends(facts, source, publication)),
        ("D18", roots(facts, source, publication)),
    ];
    let first = checks.iter().find(|(_, found)| found.is_err()).map(|(id, _)| *id);
    let judged = checks.into_iter().map(|(id, found)| match found {
        Ok(found) => Finding::pass(id, found),
        Err(found) => {
            let fix = if first == Some(id) {
                amended(source)
            } else {
                vec![format!("what stands below {} does this as well", first.unwrap_or(id))]
            };
            if mendable(source) {
                Finding::warn(id, found, fix)
            } else {
                Finding::fail(id, found, fix)
            }
        }
    });
    judged.collect()
}

fn amended(source: &Source) -> Vec<String> {
    if !mendable(source) {
        return as_owner(source);
    }
    let mut fix = vec!["kck does so when it starts, and kck doctor --fix now:".to_owned()];
    fix.extend(mend(source));
    fix
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

/// What is well, or what is not.
type Said = Result<String, String>;

fn members(facts: &Facts<'_>, source: &Source, publication: &Publication) -> Said {
    let name = &facts.config.publication;
    let unusable: BTreeSet<TableId> = source.unusable.iter().map(|table| table.table).collect();
    let read: BTreeSet<TableId> = facts.products.tables.keys().copied().collect();
    let wanted = &read - &unusable;
    let (missing, surplus) = (&wanted - &publication.tables, &publication.tables - &wanted);
    let mut wrong = Vec::new();
    if !missing.is_empty() {
        wrong.push(format!("lacks {}", names(source, &missing)));
    }
    let (harmed, unread): (BTreeSet<TableId>, BTreeSet<TableId>) =
        surplus.iter().copied().partition(|table| unusable.contains(table));
    if !harmed.is_empty() {
        wrong.push(format!("harms the writers of {} (D16)", names(source, &harmed)));
    }
    if !unread.is_empty() {
        wrong.push(format!("has {}, which no product that loads reads", names(source, &unread)));
    }
    if wrong.is_empty() {
        return Ok(format!("publication {name} has the tables that products read, and no other"));
    }
    Err(format!("publication {name} {}", wrong.join("; ")))
}

fn sends(facts: &Facts<'_>, source: &Source, publication: &Publication) -> Said {
    let name = &facts.config.publication;
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
        return Ok(format!("publication {name} sends every change, whole"));
    }
    Err(format!("publication {name} does not send {}", lacks.join(", nor ")))
}

fn names(source: &Source, tables: &BTreeSet<TableId>) -> String {
    let name = |table: &TableId| {
        let right = source.rights.iter().find(|right| right.table == table.0);
        right.map_or_else(|| format!("table {}", table.0), |right| right.name.clone())
    };
    tables.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn roots(facts: &Facts<'_>, source: &Source, publication: &Publication) -> Said {
    if !publication.via_root {
        let name = &facts.config.publication;
        return Err(format!(
            "publication {name} sends changes of a partition under its own name, not its root's"
        ));
    }
    let partitioned = source.rights.iter().filter(|right| right.partitioned);
    let partitioned: Vec<&str> = partitioned.map(|right| right.name.as_str()).collect();
    if partitioned.is_empty() {
        return Ok("no table that products read is partitioned".to_owned());
    }
    Ok(format!(
        "changes come under the root's name ({}); ATTACH, DETACH and TRUNCATE of a partition are found within seconds",
        partitioned.join(", ")
    ))
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
            fix.push("or let it leave the publication, as below D12".to_owned());
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
