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
