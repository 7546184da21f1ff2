//! Store and listening address → findings D26, D33 and D35.

use super::{Facts, Finding, Stored, is_open, one_line};
use crate::{config::StoreKind, store::state::Origin};

pub(super) fn judge(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = vec![store(facts), listening(facts)];
    findings.extend(origin(facts));
    findings
}

fn store(facts: &Facts<'_>) -> Finding {
    match &facts.store {
        Ok(Stored::Memory) => {
            let fix = vec!["in kck.toml, below [store]: kind = \"embedded\"".to_owned()];
            let found = "answers are kept in memory: every start computes them anew";
            Finding::warn("D33", found, fix)
        }
        Ok(Stored::Nothing(place)) => {
            Finding::pass("D33", format!("the store is not there yet: kck makes {place}"))
        }
        Ok(Stored::Locked(path)) => {
            Finding::pass("D33", format!("a running kck has {} open", path.display()))
        }
        Ok(Stored::Of(_)) => durable(&facts.config.store),
        Err(refusal) => {
            let fix = Some(one_line(&refusal.hint)).filter(|hint| !hint.is_empty());
            Finding::fail("D33", one_line(&refusal.what), Vec::from_iter(fix))
        }
    }
}

/// What the settings give where the store can be read.
fn durable(kind: &StoreKind) -> Finding {
    match kind {
        StoreKind::Cassandra(cassandra) if cassandra.replication == 1 => {
            let found = "the store can be read, and has one copy of each entry: the loss of a node makes kck compute anew";
            let fix = vec![
                "with three nodes or more: replication = 3 below [store] before the keyspace is made, or ALTER KEYSPACE and a repair".to_owned(),
            ];
            Finding::warn("D33", found, fix)
        }
        StoreKind::Cassandra(cassandra) => {
            let copies = cassandra.replication;
            Finding::pass(
                "D33",
                format!("the store can be read, and is to have {copies} copies of each entry"),
            )
        }
        StoreKind::Embedded(_) | StoreKind::Memory => {
            Finding::pass("D33", "the store can be read, and outlasts the loss of power")
        }
    }
}

/// Whether what is stored goes on with what the source is now.
fn origin(facts: &Facts<'_>) -> Option<Finding> {
    let source = facts.source.as_ref().ok()?;
    let stored = match facts.store.as_ref().ok()? {
        Stored::Locked(_) => {
            let found = "a running kck has the store: ask kck status whether it goes on";
            return Some(Finding::pass("D26", found));
        }
        Stored::Memory | Stored::Nothing(_) | Stored::Of(None) => {
            return Some(Finding::pass("D26", "nothing is stored that has to go on"));
        }
        Stored::Of(Some(stored)) => stored,
    };
    let now = Origin {
        system_identifier: source.facts.history.system_identifier.clone(),
        timeline: i64::from(source.facts.history.timeline),
        slot: facts.config.slot.clone(),
        database: source.facts.database.clone(),
    };
    if *stored == now {
        return Some(Finding::pass("D26", "the store is of this source, database and slot"));
    }
    let differs = [
        (stored.system_identifier != now.system_identifier, "server"),
        (stored.timeline != now.timeline, "timeline"),
        (stored.database != now.database, "database"),
        (stored.slot != now.slot, "slot"),
    ];
    let differs: Vec<&str> =
        differs.iter().filter(|(differs, _)| *differs).map(|(_, what)| *what).collect();
    let found = format!("the store is of another {}", differs.join(" and "));
    let place = match &facts.config.store {
        StoreKind::Embedded(_) => "path",
        StoreKind::Cassandra(_) | StoreKind::Memory => "keyspace",
    };
    let fix = vec![format!(
        "nothing, if that is meant: kck computes everything anew; else check [source], and {place} below [store]"
    )];
    Some(Finding::warn("D26", found, fix))
}

fn listening(facts: &Facts<'_>) -> Finding {
    let listen = facts.config.listen;
    if let Err(why) = &facts.listening {
        let fix = vec![
            "nothing, if that is a running kck; else give [http] listen another address".to_owned(),
        ];
        return Finding::warn("D35", format!("{listen} cannot be listened on: {why}"), fix);
    }
    let warn = |found: String, fix: &str| Finding::warn("D35", found, vec![fix.to_owned()]);
    match (is_open(listen), facts.config.auth.is_some(), facts.config.tls.is_some()) {
        (false, ..) => {
            Finding::pass("D35", format!("answers are served at {listen}, on this machine only"))
        }
        (true, false, _) => warn(
            format!("{listen} can be reached from elsewhere, and nobody is asked who they are"),
            "in kck.toml: [auth.jwt], or below [http]: listen = \"127.0.0.1:8080\", behind a gateway of yours",
        ),
        (true, true, false) => warn(
            format!(
                "{listen} can be reached from elsewhere, and tokens and answers go unencrypted"
            ),
            "in kck.toml, below [http]: tls_cert and tls_key, or a gateway of yours that encrypts",
        ),
        (true, true, true) => Finding::pass(
            "D35",
            format!("answers are served at {listen}, encrypted, to who has a token"),
        ),
    }
}
