//! What a server says of itself and of kck's role → findings D01 to D10, D21, D23 to D25, D27 to D31 and D36.

use super::{Facts, Finding, Source, host::Host, is_local, size};
use crate::{
    capture::probe::Answer,
    postgres::{address::TlsMode, server::Server},
    quote,
};

const HOUR_SECONDS: f64 = 3600.0;
/// More than a year is no number to plan by.
const HOURS_SHOWN_MAX: f64 = 9999.0;
const CLOCK_OFF_MICROS_MAX: u64 = 1_000_000;
const SPILLED_BYTES_MAX: u64 = 1 << 30;
const KEEP_MEGABYTES_MIN: u64 = 1024;
const SENDER_MILLIS_MIN: i64 = 5000;
/// Settings that end sessions are harmless when they take this long.
const ENDS_SESSIONS_MILLIS_MIN: i64 = 60_000;

/// Of a standby nothing else is asked.
pub(super) fn standby(source: &Source) -> Vec<Finding> {
    let fix = vec!["in kck.toml, below [source]: url = the address of the primary".to_owned()];
    vec![version(source), Finding::fail("D25", "the server is a standby", fix)]
}

pub(super) fn judge(facts: &Facts<'_>, source: &Source, host: Host) -> Vec<Finding> {
    let server = &source.server;
    let mut findings = vec![
        direct(facts, source, host),
        version(source),
        wal_level(source, host),
        replication(server, host),
        powers(source),
        free_slots(facts, source, host),
        free_senders(source, host),
        keep(facts, source, host),
        idle(server, host),
        sender_timeout(server, host),
        standbys(server),
        failover(source),
        Finding::pass("D25", "the server is the primary"),
        tls(facts, server),
        clock(source),
        spilled(server, host),
        session_timeouts(server),
        encoding(server),
    ];
    findings.extend(transactions(server));
    findings.extend(copies(source));
    findings
}

fn direct(facts: &Facts<'_>, source: &Source, host: Host) -> Finding {
    let apart = facts.config.replication_url.is_some();
    let whose = if apart { "replication_url" } else { "url" };
    match &source.direct {
        Answer::Server(system) if *system != source.facts.history.system_identifier => {
            let fix = vec![
                "in kck.toml, below [source]: let url and replication_url lead to one server"
                    .to_owned(),
            ];
            Finding::fail("D01", "url and replication_url lead to two servers", fix)
        }
        Answer::Server(_) if source.changes_session && !apart => {
            let found = "behind url is a pooler that changes sessions between statements";
            Finding::fail("D01", found, host.direct(&source.server, facts.address))
        }
        Answer::Server(_) if source.changes_session => {
            let fix = vec!["let the pooler keep sessions together (pool_mode = session), or give url the server's own address".to_owned()];
            Finding::warn("D01", "url leads to a pooler that changes sessions", fix)
        }
        Answer::Server(_) => {
            Finding::pass("D01", format!("{whose} leads to the server, which sends its log there"))
        }
        Answer::Refused { sqlstate, .. } if sqlstate == "42501" => {
            Finding::pass("D01", format!("{whose} leads to the server; for the right see D04"))
        }
        Answer::Refused { sqlstate, .. } if sqlstate == "53300" => Finding::pass(
            "D01",
            format!("{whose} leads to the server; for a free walsender see D07"),
        ),
        Answer::Refused { sqlstate, message }
            if matches!(sqlstate.as_str(), "08P01" | "0A000" | "42704") =>
        {
            let found = format!("{whose} leads to a pooler, which does not replicate: {message}");
            Finding::fail("D01", found, host.direct(&source.server, facts.address))
        }
        Answer::Refused { sqlstate, message } => {
            let fix = vec![format!(
                "let {} in for replication, in pg_hba.conf or at the host",
                facts.address.user()
            )];
            let found = format!("replication is refused: {message} (SQLSTATE {sqlstate})");
            Finding::fail("D01", found, fix)
        }
        Answer::Nobody(why) => {
            let fix = vec![format!("check that [source] {whose} leads to the server itself")];
            Finding::fail("D01", format!("no replication connection at {whose}: {why}"), fix)
        }
    }
}

fn version(source: &Source) -> Finding {
    // Distributions add a version of their own.
    let version = source.server.version.split(' ').next().unwrap_or_default();
    let found = format!("PostgreSQL {version}");
    let advise = |what: &str| vec![format!("upgrade the server{what}")];
    match source.facts.version_num {
        150_000.. => Finding::pass("D02", found),
        140_000.. => Finding::warn("D02", found, advise(" when you can: 15 and later are advised")),
        _ => Finding::fail("D02", format!("{found}, and kck needs 14"), advise(" to 14 or later")),
    }
}

fn wal_level(source: &Source, host: Host) -> Finding {
    let level = source.facts.wal_level.as_str();
    if level == "logical" {
        return Finding::pass("D03", "wal_level is logical");
    }
    let fix = host.setting("wal_level", "logical", true);
    Finding::fail("D03", format!("wal_level is {level}, not logical"), fix)
}

fn replication(server: &Server, host: Host) -> Finding {
    let name = &server.role.name;
    if server.role.replication {
        return Finding::pass("D04", format!("role {name} may read the log"));
    }
    Finding::fail("D04", format!("role {name} may not read the log"), host.replication(name))
}

/// What a role that reads need not be able to do.
fn powers(source: &Source) -> Finding {
    let role = &source.server.role;
    if role.superuser {
        let found = format!("role {} is a superuser, and kck needs none", role.name);
        return Finding::warn("D05", found, least_role(source));
    }
    let (mut has, mut not) = (Vec::new(), Vec::new());
    for (does, word) in [(role.creates_databases, "createdb"), (role.creates_roles, "createrole")] {
        if does {
            has.push(word);
            not.push(format!("no{word}"));
        }
    }
    if has.is_empty() {
        return Finding::pass(
            "D05",
            format!("role {} has no powers that it does not need", role.name),
        );
    }
    let found = format!("role {} has {}, and kck needs none of it", role.name, has.join(" and "));
    let alter = format!("alter role {} {};", quote::name(&role.name), not.join(" "));
    Finding::warn("D05", found, vec![alter])
}

/// A role that may read the log and what the products read, and no more.
fn least_role(source: &Source) -> Vec<String> {
    let name = if source.server.role.name == "kck" { "kck_reader" } else { "kck" };
    let role = quote::name(name);
    let how = if name == "kck" && source.server.knows_kck { "alter" } else { "create" };
    let mut fix = vec![format!("{how} role {role} login replication;")];
    let mentioned = || source.rights.iter().filter(|right| right.mentioned && !right.system);
    let mut schemas: Vec<&str> = mentioned().map(|right| right.quoted_schema.as_str()).collect();
    schemas.dedup();
    let tables: Vec<&str> = mentioned().map(|right| right.name.as_str()).collect();
    if !tables.is_empty() {
        fix.push(format!("grant usage on schema {} to {role};", schemas.join(", ")));
        fix.push(format!("grant select on {} to {role};", tables.join(", ")));
    }
    fix.push(format!("give it a password, let it in by pg_hba.conf, and name it in [source] url: postgres://{name}@…"));
    fix
}

fn free_slots(facts: &Facts<'_>, source: &Source, host: Host) -> Finding {
    let server = &source.server;
    let most = server.number("max_replication_slots").unwrap_or_default();
    let used = i64::try_from(server.slots.len()).unwrap_or(i64::MAX);
    if source.slot.is_some() {
        let found = format!("slot {} is there; {used} of {most} slots are used", facts.config.slot);
        return Finding::pass("D06", found);
    }
    if used < most {
        return Finding::pass("D06", format!("{used} of {most} slots are used"));
    }
    let fix = host.setting("max_replication_slots", &(used + 5).to_string(), true);
    Finding::fail("D06", format!("all {most} slots are used, none is left for kck"), fix)
}

fn free_senders(source: &Source, host: Host) -> Finding {
    let server = &source.server;
    let most = u64::try_from(server.number("max_wal_senders").unwrap_or_default()).unwrap_or(0);
    let used = server.walsenders;
    let holds = source.slot.as_ref().is_some_and(|slot| slot.holder.is_some());
    let refused = matches!(&source.direct, Answer::Refused { sqlstate, .. } if sqlstate == "53300");
    if holds || (used < most && !refused) {
        return Finding::pass("D07", format!("{used} of {most} walsenders are used"));
    }
    let fix = host.setting("max_wal_senders", &(used.max(most) + 5).to_string(), true);
    Finding::fail("D07", format!("all {most} walsenders are used, none is left for kck"), fix)
}

/// The longest that kck may stand still.
fn keep(facts: &Facts<'_>, source: &Source, host: Host) -> Finding {
    const NAME: &str = "max_slot_wal_keep_size";
    let guard = facts.config.wal_limit_bytes;
    let megabytes = source.server.number(NAME).unwrap_or(-1);
    let advised = format!("{}MB", (guard >> 20).saturating_mul(2).max(KEEP_MEGABYTES_MIN));
    let fix = || host.setting(NAME, &advised, false);
    match u64::try_from(megabytes) {
        Err(_) => {
            let found = format!(
                "{NAME} has no limit: while kck is stopped, the log kept for its slot grows; to wal_limit ({}) it is {}",
                size(guard),
                headroom(guard, source)
            );
            Finding::warn("D08", found, fix())
        }
        Ok(0) => {
            let found = format!("{NAME} is 0: the slot is lost at the next checkpoint");
            Finding::fail("D08", found, fix())
        }
        Ok(megabytes) => {
            let bytes = megabytes.saturating_mul(1 << 20);
            let found = format!("{NAME} is {}: {}", size(bytes), headroom(bytes, source));
            if megabytes < KEEP_MEGABYTES_MIN {
                return Finding::warn("D08", found, fix());
            }
            Finding::pass("D08", found)
        }
    }
}

/// How long the log takes to grow by so much, as it grows now.
fn headroom(bytes: u64, source: &Source) -> String {
    let (written, during) = source.written;
    let hours = during.as_secs_f64() / HOUR_SECONDS;
    // Lossy above 2^53 bytes, which is more log than an hour has.
    let rate = lossy(written) / hours.max(f64::MIN_POSITIVE);
    let hours = (lossy(bytes) / rate.max(f64::MIN_POSITIVE)).min(HOURS_SHOWN_MAX);
    format!("{hours:.0} h at the {:.0} MB/h written now", rate / lossy(1 << 20))
}

#[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
fn lossy(bytes: u64) -> f64 {
    bytes as f64
}

fn idle(server: &Server, host: Host) -> Finding {
    const NAME: &str = "idle_replication_slot_timeout";
    match server.number(NAME) {
        Some(seconds @ 1..) => {
            let found = format!(
                "{NAME} is {seconds} s: a kck that is stopped for longer loses its slot and computes everything anew"
            );
            Finding::warn("D09", found, host.setting(NAME, "0", false))
        }
        _ => Finding::pass("D09", "a slot may be idle for as long as it takes"),
    }
}

fn sender_timeout(server: &Server, host: Host) -> Finding {
    const NAME: &str = "wal_sender_timeout";
    let fix = || host.setting(NAME, "60s", false);
    match server.number(NAME).unwrap_or_default() {
        0 => {
            let found = format!("{NAME} is 0: the server never lets go of a kck that is gone");
            Finding::warn("D10", found, fix())
        }
        millis @ 1..SENDER_MILLIS_MIN => {
            let found = format!("{NAME} is {millis} ms: a short pause ends the stream");
            Finding::warn("D10", found, fix())
        }
        millis => Finding::pass("D10", format!("{NAME} is {} s", millis / 1000)),
    }
}

fn transactions(server: &Server) -> Vec<Finding> {
    let mut findings = Vec::new();
    for long in &server.long {
        let found = format!(
            "pid {} ({}) has been in a transaction for {} min: the log from then on is kept, and making a slot waits if it has written",
            long.pid, long.name, long.minutes
        );
        let fix = vec![
            "end that transaction, or its session if nobody needs it:".to_owned(),
            format!("select pg_terminate_backend({});", long.pid),
        ];
        findings.push(Finding::warn("D21", found, fix));
    }
    for gid in &server.prepared {
        let found = format!(
            "transaction '{gid}' is prepared and nobody ends it: the log from then on is kept, and making a slot waits"
        );
        let fix = vec![
            "commit it, or:".to_owned(),
            format!("rollback prepared {};", quote::literal(gid)),
        ];
        findings.push(Finding::warn("D21", found, fix));
    }
    if findings.is_empty() {
        findings.push(Finding::pass("D21", "no transaction has run for 5 min"));
    }
    findings
}

fn standbys(server: &Server) -> Finding {
    match server.text("synchronous_standby_names") {
        "" => Finding::pass("D23", "commits wait for no standby"),
        names => {
            let found = format!(
                "commits wait for standbys ({names}), and kck serves none before others can see it"
            );
            let fix = vec![
                "nothing, if that is meant: answers come later by what the standby takes"
                    .to_owned(),
            ];
            Finding::warn("D23", found, fix)
        }
    }
}

fn failover(source: &Source) -> Finding {
    let server = &source.server;
    if server.standbys == 0 && !server.slots.iter().any(|slot| slot.physical) {
        return Finding::pass("D24", "no standby follows the server");
    }
    let restarts = "after a failover kck computes everything anew";
    if source.facts.version_num < 170_000 {
        let fix = vec!["upgrade to 17 or later, where slots follow a failover".to_owned()];
        return Finding::warn("D24", format!("slots do not follow a failover: {restarts}"), fix);
    }
    let named = server.text("synchronized_standby_slots");
    let listed: Vec<&str> =
        named.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let stalls = listed
        .iter()
        .find(|name| !server.slots.iter().any(|slot| slot.name == **name && slot.active));
    if let Some(name) = stalls {
        let found = format!(
            "synchronized_standby_slots has {name}, which nobody reads: kck's stream stands still"
        );
        let fix = vec![
            "start that standby, or take the name out:".to_owned(),
            format!("alter system set synchronized_standby_slots = '{}';", without(&listed, name)),
            "select pg_reload_conf();".to_owned(),
        ];
        return Finding::warn("D24", found, fix);
    }
    match &source.slot {
        Some(slot) if !slot.failover => {
            let fix = vec![
                "stop kck, type kck teardown, and start it again: it makes a slot that follows"
                    .to_owned(),
            ];
            Finding::warn("D24", format!("kck's slot does not follow a failover: {restarts}"), fix)
        }
        _ if listed.is_empty() => {
            let fix = vec![
                "on the primary: synchronized_standby_slots = the standby's slot".to_owned(),
                "on the standby: sync_replication_slots = on, hot_standby_feedback = on, and dbname in primary_conninfo".to_owned(),
            ];
            Finding::warn(
                "D24",
                format!("no standby is set to take kck's slot over: {restarts}"),
                fix,
            )
        }
        _ => Finding::pass("D24", format!("kck's slot follows a failover to {named}")),
    }
}

fn without(listed: &[&str], name: &str) -> String {
    listed.iter().filter(|listed| **listed != name).copied().collect::<Vec<_>>().join(", ")
}

fn tls(facts: &Facts<'_>, server: &Server) -> Finding {
    let mode = facts.address.tls().mode;
    match &server.tls {
        _ if is_local(facts.address) => Finding::pass("D27", "the source is on this machine"),
        Some(version) if mode == TlsMode::VerifyFull => {
            Finding::pass("D27", format!("{version}, and the server is verified"))
        }
        Some(version) => {
            let fix = vec!["add sslmode=verify-full to [source] url, and sslrootcert=FILE where the authority is not the machine's own".to_owned()];
            Finding::warn(
                "D27",
                format!("{version}, but whoever answers is believed to be the server"),
                fix,
            )
        }
        None => {
            let fix = vec![
                "turn ssl on at the server, and add sslmode=verify-full to [source] url".to_owned(),
            ];
            Finding::warn("D27", "rows and passwords travel in the clear", fix)
        }
    }
}

fn clock(source: &Source) -> Finding {
    let off = source.clock_micros.abs_diff(source.server.clock_micros);
    let found = format!("the clocks of kck and the source are {} ms apart", off / 1000);
    if off <= CLOCK_OFF_MICROS_MAX {
        return Finding::pass("D28", found);
    }
    let fix = vec!["let both machines keep the time by NTP".to_owned()];
    Finding::warn("D28", found, fix)
}

fn spilled(server: &Server, host: Host) -> Finding {
    const NAME: &str = "logical_decoding_work_mem";
    let memory = u64::try_from(server.number(NAME).unwrap_or_default()).unwrap_or(0);
    let found = format!(
        "decoding has written {} to disk, with {NAME} of {}",
        size(server.spilled_bytes),
        size(memory.saturating_mul(1 << 10))
    );
    if server.spilled_bytes <= SPILLED_BYTES_MAX {
        return Finding::pass("D29", found);
    }
    Finding::warn("D29", found, host.setting(NAME, "256MB", false))
}

fn session_timeouts(server: &Server) -> Finding {
    let short = ["idle_session_timeout", "transaction_timeout"].into_iter().find(|name| {
        matches!(server.number(name), Some(millis) if 0 < millis && millis < ENDS_SESSIONS_MILLIS_MIN)
    });
    let role = &server.role.name;
    let Some(name) = short else {
        return Finding::pass("D30", format!("no limit ends the sessions of role {role}"));
    };
    let millis = server.number(name).unwrap_or_default();
    let fix = vec![format!("alter role {} set {name} = 0;", quote::name(role))];
    Finding::warn(
        "D30",
        format!("{name} is {millis} ms for role {role}: kck connects again and again"),
        fix,
    )
}

fn encoding(server: &Server) -> Finding {
    match server.text("server_encoding") {
        "UTF8" => Finding::pass("D31", "the database is in UTF8"),
        other => {
            let fix = vec![
                "create a database with encoding 'UTF8', and move the tables there".to_owned(),
            ];
            let found =
                format!("the database is in {other}: a text that is not UTF-8 breaks its product");
            Finding::warn("D31", found, fix)
        }
    }
}

fn copies(source: &Source) -> Option<Finding> {
    let lines = source.entries.as_ref()?;
    let role = &source.server.role.name;
    if lines.is_empty() || !source.server.role.replication {
        return Some(Finding::pass("D36", format!("role {role} cannot copy the whole server")));
    }
    let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
    let found = format!("role {role} may copy the whole server, by pg_hba.conf");
    let fix = vec![
        format!(
            "let lines {} of pg_hba.conf (database replication) name other roles: kck needs none of them",
            lines.join(", ")
        ),
        "select pg_reload_conf();".to_owned(),
    ];
    Some(Finding::warn("D36", found, fix))
}
