//! Doctor: facts of source, products, store and settings → [`Finding`]s: what is well, what is not, and what to
//! type.
//!
//! Why apart from the asking: what to say of a server is decided from plain values, so a host that is not at hand
//! can be judged in a test. Nothing here asks or changes anything.
//!
//! Invariant: a fix can be pasted: SQL ends with a semicolon and has this database's own names.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::{
    capture::probe::Answer,
    config::Config,
    postgres::{
        self,
        address::{Address, Endpoint},
    },
    store::state::Origin,
};

mod finding;
mod host;
mod product;
mod publication;
mod setup;
mod slot;
mod source;

pub use finding::{Finding, Report, Summary, Verdict};
pub use product::{Products, Read};

/// What there is to judge.
pub struct Facts<'a> {
    /// The settings.
    pub config: &'a Config,
    /// Where questions go.
    pub address: &'a Address,
    /// What the source said, or why it said nothing.
    pub source: Result<Box<Source>, Refusal>,
    /// What kck is to serve; the source is needed to know more of it than the files' own faults.
    pub products: Products,
    /// What lies in the store.
    pub store: Result<Stored, Refusal>,
    /// Whether the address to serve at can be had.
    pub listening: Result<(), String>,
}

/// Why something could not be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What was tried, and the fact that matters.
    pub what: String,
    /// What to do; may be empty.
    pub hint: String,
}

/// What the source said.
pub struct Source {
    /// What knocking for replication led to.
    pub direct: Answer,
    /// Statements reach one session after the other.
    pub changes_session: bool,
    /// The server.
    pub facts: postgres::slot::Facts,
    /// The rest of it, and kck's role.
    pub server: postgres::server::Server,
    /// kck's clock, in microseconds, when the server told its own.
    pub clock_micros: i64,
    /// How much log the server wrote in which time.
    pub written: (u64, Duration),
    /// kck's slot.
    pub slot: Option<postgres::slot::Slot>,
    /// kck's publication.
    pub publication: Option<postgres::publication::Publication>,
    /// Tables that products read or the publication has, and that must not be published.
    pub unusable: Vec<postgres::publication::Unusable>,
    /// What would make the publication right.
    pub unpublished: Vec<String>,
    /// Tables whose writers suffer, where the publication has all tables.
    pub identity_less: Vec<String>,
    /// What kck's role may do with what products read.
    pub rights: Vec<postgres::server::Rights>,
    /// Lines of `pg_hba.conf` by which the role may copy the whole server, where it may read them.
    pub entries: Option<Vec<i32>>,
}

/// What lies in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// Nothing stays.
    Memory,
    /// There is nothing yet; it will be made where this says.
    Nothing(String),
    /// Whose positions it holds.
    Of(Option<Origin>),
    /// A running kck has it.
    Locked(PathBuf),
}

/// Judges everything. `fixed` is what was mended before it was asked.
#[must_use]
pub fn judge(facts: &Facts<'_>, fixed: Vec<String>) -> Report {
    let mut findings = setup::judge(facts);
    findings.extend(product::judge(&facts.products));
    match &facts.source {
        Err(refusal) => findings.push(unreachable(facts, refusal)),
        // Positions, slots and publications are the primary's.
        Ok(source) if source.facts.in_recovery => findings.extend(source::standby(source)),
        Ok(source) => {
            let host = host::Host::of(&source.server, facts.address);
            findings.extend(source::judge(facts, source, host));
            findings.extend(slot::judge(facts, source, host));
            findings.extend(publication::judge(facts, source));
            findings.extend(product::judge_rights(facts, source));
        }
    }
    Report::new(findings, fixed)
}

fn unreachable(facts: &Facts<'_>, refusal: &Refusal) -> Finding {
    let hint = Some(&refusal.hint).filter(|hint| !hint.is_empty());
    let hint = hint.map_or_else(
        || "check that the source runs and that [source] url is right".to_owned(),
        Clone::clone,
    );
    let found =
        format!("{}: {}; what needs it was left out", facts.address, one_line(&refusal.what));
    Finding::fail("D01", found, vec![hint])
}

/// A text of several lines in one.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `10GB`, `512MB`, `0kB`: as Postgres counts, rounded down.
fn size(bytes: u64) -> String {
    let (unit, shift) = match bytes {
        0..0x10_0000 => ("kB", 10),
        0x10_0000..0x4000_0000 => ("MB", 20),
        _ => ("GB", 30),
    };
    format!("{}{unit}", bytes >> shift)
}

/// Whether kck's readers or the source would be beyond this machine.
fn is_local(address: &Address) -> bool {
    address.endpoints().iter().all(|endpoint| match endpoint {
        Endpoint::Unix(_) => true,
        Endpoint::Tcp { host, address, .. } => {
            let ip = address.or_else(|| host.parse().ok());
            ip.map_or(host == "localhost", |ip| ip.is_loopback())
        }
    })
}

/// Whether whoever serves here can be reached from elsewhere.
fn is_open(listen: SocketAddr) -> bool {
    !listen.ip().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        change::{Lsn, TableId},
        postgres::{
            publication::Publication,
            server::{AnySlot, Long, Rights, Role, Server},
            slot::{History, Holder, Slot},
        },
    };

    fn server() -> Server {
        let settings = [
            ("max_replication_slots", "10"),
            ("max_wal_senders", "10"),
            ("max_slot_wal_keep_size", "20480"),
            ("wal_sender_timeout", "60000"),
            ("logical_decoding_work_mem", "65536"),
            ("server_encoding", "UTF8"),
        ];
        Server {
            version: "17.2".into(),
            settings: settings.iter().map(|(name, to)| ((*name).into(), (*to).into())).collect(),
            role: Role {
                name: "kck".into(),
                replication: true,
                may_publish: true,
                may_describe: true,
                owns_publication: Some(true),
                ..Role::default()
            },
            slots: vec![AnySlot { name: "kck".into(), active: true, ..AnySlot::default() }],
            ..Server::default()
        }
    }

    /// A source with which all is well.
    fn source() -> Source {
        let history = History { system_identifier: "7".into(), timeline: 1 };
        Source {
            direct: Answer::Server("7".into()),
            changes_session: false,
            facts: postgres::slot::Facts {
                history,
                version_num: 170_002,
                wal_level: "logical".into(),
                wal_segment_size: 16 << 20,
                in_recovery: false,
                database: "shop".into(),
                insert_lsn: Some(Lsn(1)),
            },
            server: server(),
            clock_micros: 0,
            written: (1 << 20, Duration::from_secs(1)),
            slot: Some(Slot {
                ours: true,
                holder: Some(Holder { pid: 5, name: Some("kck/capture".into()), address: None }),
                wal_status: "reserved".into(),
                safe_wal_size: None,
                confirmed_flush_lsn: Some(Lsn(1)),
                restart_lsn: Some(Lsn(1)),
                retained_bytes: 0,
                invalidation_reason: None,
                failover: true,
            }),
            publication: Some(Publication {
                all_actions: true,
                via_root: true,
                ..Publication::default()
            }),
            unusable: vec![],
            unpublished: vec![],
            identity_less: vec![],
            rights: vec![],
            entries: Some(vec![]),
        }
    }

    fn judged(change: impl FnOnce(&mut Source)) -> Report {
        let mut source = source();
        change(&mut source);
        let config = Config::parse("", "kck.toml".as_ref(), ".".as_ref(), &[]).unwrap();
        let address = "postgres://kck@localhost/shop".parse().unwrap();
        let origin = Origin {
            system_identifier: "7".into(),
            timeline: 1,
            slot: "kck".into(),
            database: "shop".into(),
        };
        let facts = Facts {
            config: &config,
            address: &address,
            source: Ok(Box::new(source)),
            products: Products { ready: 1, ..Products::default() },
            store: Ok(Stored::Of(Some(origin))),
            listening: Ok(()),
        };
        judge(&facts, vec![])
    }

    #[track_caller]
    fn check(id: &str, verdict: Verdict, says: &str, change: impl FnOnce(&mut Source)) {
        let report = judged(change);
        let found = report.findings.iter().find(|found| found.id == id && found.verdict == verdict);
        assert!(found.is_some_and(|found| found.to_string().contains(says)), "{report}");
    }

    fn set(name: &'static str, to: &'static str) -> impl FnOnce(&mut Source) {
        move |source| drop(source.server.settings.insert(name.into(), to.into()))
    }

    #[test]
    fn nothing_is_said_against_what_is_well() {
        let report = judged(|_| ());
        assert_eq!((report.summary.warn, report.summary.fail), (0, 0), "{report}");
    }

    #[test]
    fn the_servers_settings_are_judged() {
        use Verdict::{Fail, Warn};
        check("D08", Warn, "no limit", set("max_slot_wal_keep_size", "-1"));
        check("D08", Fail, "set max_slot_wal_keep_size =", set("max_slot_wal_keep_size", "0"));
        check("D08", Verdict::Pass, "6 h at the 3600 MB/h", |_| ());
        check("D09", Warn, "300 s", set("idle_replication_slot_timeout", "300"));
        check("D10", Warn, "'60s';", set("wal_sender_timeout", "0"));
        check("D10", Warn, "2000 ms", set("wal_sender_timeout", "2000"));
        check("D23", Warn, "other", set("synchronous_standby_names", "other"));
        check("D30", Warn, "alter role \"kck\" set idle_session_timeout = 0;", |source| {
            set("idle_session_timeout", "1000")(source);
        });
        check("D31", Warn, "LATIN1", set("server_encoding", "LATIN1"));
        check("D02", Fail, "needs 14", |source| source.facts.version_num = 130_000);
        check("D28", Warn, "2000 ms", |source| source.clock_micros = 2_000_000);
        check("D29", Warn, "256MB", |source| source.server.spilled_bytes = 2 << 30);
    }

    #[test]
    fn a_way_that_does_not_lead_to_the_server_is_told() {
        let refuse = |sqlstate: &str| {
            let refused =
                Answer::Refused { sqlstate: sqlstate.into(), message: "no such thing".into() };
            move |source: &mut Source| source.direct = refused
        };
        check("D01", Verdict::Fail, "replication_url = ", refuse("08P01"));
        check("D01", Verdict::Pass, "D04", refuse("42501"));
        check("D01", Verdict::Fail, "28000", refuse("28000"));
        check("D07", Verdict::Fail, "max_wal_senders", |source| {
            source.slot = None;
            refuse("53300")(source);
        });
        check("D01", Verdict::Fail, "two servers", |source| {
            source.direct = Answer::Server("8".into());
        });
        check("D01", Verdict::Fail, "changes sessions", |source| source.changes_session = true);
    }

    #[test]
    fn a_standby_is_asked_nothing_else() {
        let report = judged(|source| source.facts.in_recovery = true);
        assert!(report.findings.iter().any(|found| found.id == "D25" && !report.sound()));
        assert!(!report.findings.iter().any(|found| found.id == "D11"), "{report}");
    }

    #[test]
    fn powers_that_are_not_needed_are_told() {
        check("D05", Verdict::Warn, "\"kck\" nocreatedb nocreaterole;", |source| {
            (source.server.role.creates_databases, source.server.role.creates_roles) = (true, true);
        });
        check("D05", Verdict::Warn, "create role \"kck_reader\" login replication;", |source| {
            source.server.role.superuser = true;
        });
        check("D36", Verdict::Warn, "lines 3, 9", |source| source.entries = Some(vec![3, 9]));
    }

    #[test]
    fn what_holds_the_log_is_told() {
        check("D21", Verdict::Warn, "select pg_terminate_backend(9);", |source| {
            source.server.long = vec![Long { pid: 9, name: "psql".into(), minutes: 7 }];
        });
        check("D21", Verdict::Warn, "rollback prepared E'it''s';", |source| {
            source.server.prepared = vec!["it's".into()];
        });
        check("D22", Verdict::Warn, "select pg_drop_replication_slot(E'old');", |source| {
            source.server.slots.push(AnySlot { name: "old".into(), ..AnySlot::default() });
        });
        check("D22", Verdict::Warn, "6GB of log kept for it, of 10GB", |source| {
            source.slot.as_mut().unwrap().retained_bytes = 6 << 30;
        });
        check("D22", Verdict::Warn, "read by pid 6, pg_recvlogical, which is no kck", |source| {
            let holder = Holder { pid: 6, name: Some("pg_recvlogical".into()), address: None };
            source.slot.as_mut().unwrap().holder = Some(holder);
        });
        check("D22", Verdict::Fail, "another name", |source| {
            source.slot.as_mut().unwrap().ours = false;
        });
    }

    #[test]
    fn a_slot_that_does_not_follow_a_failover_is_told() {
        let followed = |source: &mut Source| source.server.standbys = 1;
        check("D24", Verdict::Warn, "sync_replication_slots", followed);
        check("D24", Verdict::Warn, "does not follow", |source| {
            followed(source);
            source.slot.as_mut().unwrap().failover = false;
        });
        check("D24", Verdict::Warn, "gone", |source| {
            followed(source);
            set("synchronized_standby_slots", "gone")(source);
        });
        check("D24", Verdict::Warn, "upgrade", |source| {
            followed(source);
            source.facts.version_num = 160_000;
        });
    }

    #[test]
    fn a_publication_is_mended_by_whoever_may() {
        let deaf = |source: &mut Source| {
            let publication = source.publication.as_mut().unwrap();
            (publication.all_actions, publication.via_root) = (false, false);
            publication.filtered = [TableId(1)].into();
            source.unpublished = vec!["alter publication it".into()];
            source.rights = vec![Rights {
                table: 1,
                name: "app.t".into(),
                publishable: true,
                owned: true,
                ..Rights::default()
            }];
        };
        check("D14", Verdict::Warn, "filter on app.t", deaf);
        check("D14", Verdict::Warn, "kck doctor --fix", deaf);
        check("D18", Verdict::Warn, "below D14", deaf);
        check("D14", Verdict::Fail, "as the owner", |source| {
            deaf(source);
            source.server.role.owns_publication = Some(false);
        });
        check("D11", Verdict::Fail, "may not make it", |source| {
            source.publication = None;
            source.server.role.owns_publication = None;
            source.server.role.may_publish = false;
        });
    }
}
