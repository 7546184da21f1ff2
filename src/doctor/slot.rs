//! The slots of the server → findings D22: kck's own, and those that nobody reads.

use super::{Facts, Finding, Source, host::Host, size};
use crate::{
    postgres::{connect::application_name, slot::Holder},
    quote,
};

pub(super) fn judge(facts: &Facts<'_>, source: &Source, host: Host) -> Vec<Finding> {
    let name = &facts.config.slot;
    let mut findings = vec![own(facts, source, host)];
    let idle = source.server.slots.iter().filter(|slot| !slot.active && slot.name != *name);
    for slot in idle {
        let kept = slot.retained_bytes.map(|bytes| format!(" and keeps {} of log", size(bytes)));
        let found = format!("nobody reads slot {}{}", slot.name, kept.unwrap_or_default());
        let fix = vec![
            "start its reader, or drop it if it has none any more:".to_owned(),
            format!("select pg_drop_replication_slot({});", quote::literal(&slot.name)),
        ];
        findings.push(Finding::warn("D22", found, fix));
    }
    findings
}

fn own(facts: &Facts<'_>, source: &Source, host: Host) -> Finding {
    let name = &facts.config.slot;
    let Some(slot) = &source.slot else {
        return Finding::pass(
            "D22",
            format!("slot {name} is not there yet: kck makes it when it starts"),
        );
    };
    if !slot.ours {
        let fix = vec!["in kck.toml, below [source]: slot = another name".to_owned()];
        let found = format!("slot {name} is not a logical slot of this database for pgoutput");
        return Finding::fail("D22", found, fix);
    }
    if slot.lost() {
        let why = why_invalid(slot.invalidation_reason.as_deref());
        let found = format!("slot {name} was invalidated ({why}): nothing is followed any more");
        let mut fix = vec![
            "start kck: it makes another and computes everything anew; or drop it now:".to_owned(),
            format!("select pg_drop_replication_slot({});", quote::literal(name)),
        ];
        let keep = facts.config.wal_limit_bytes >> 20;
        let kept = source
            .server
            .number("max_slot_wal_keep_size")
            .and_then(|kept| u64::try_from(kept).ok());
        if kept.is_some_and(|kept| kept < keep) {
            fix.push("so that it does not happen again:".to_owned());
            fix.extend(host.setting(
                "max_slot_wal_keep_size",
                &format!("{}MB", keep.saturating_mul(2)),
                false,
            ));
        }
        return Finding::fail("D22", found, fix);
    }
    if let Some(holder) = slot.holder.as_ref().filter(|holder| is_foreign(holder)) {
        let fix = vec!["stop it, or in kck.toml, below [source]: slot = another name".to_owned()];
        let found = format!("slot {name} is read by {holder}, which is no kck: kck stands by");
        return Finding::warn("D22", found, fix);
    }
    let held = slot
        .holder
        .as_ref()
        .map_or("nobody reads it".to_owned(), |holder| format!("read by {holder}"));
    let (kept, limit) = (slot.retained_bytes, facts.config.wal_limit_bytes);
    let found = format!(
        "slot {name}: {held}; {} of log kept for it, of {} at most",
        size(kept),
        size(limit)
    );
    if kept <= limit / 2 {
        return Finding::pass("D22", found);
    }
    let fix = vec![if slot.holder.is_some() {
        "ask kck status what it waits for; past the limit it gives its slot up".to_owned()
    } else {
        "start kck, or type kck teardown if it is not to come back".to_owned()
    }];
    Finding::warn("D22", found, fix)
}

/// `invalidation_reason` of `pg_replication_slots` in words; before PostgreSQL 17 there is one reason only.
fn why_invalid(reason: Option<&str>) -> &str {
    match reason {
        None | Some("wal_removed") => "too much log was kept for it",
        Some("rows_removed") => "rows of the catalogue that it needs were removed",
        Some("wal_level_insufficient") => "wal_level was lowered on the primary",
        Some("idle_timeout") => "nobody read it for idle_replication_slot_timeout",
        Some(other) => other,
    }
}

/// A reader that says who it is, and is no kck.
fn is_foreign(holder: &Holder) -> bool {
    let kck = application_name("");
    holder.name.as_ref().is_some_and(|name| !name.is_empty() && !name.starts_with(&kck))
}
