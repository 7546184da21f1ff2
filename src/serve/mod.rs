//! Serve: entries → readers.
//!
//! What a read means lives in [`read`], and what a write does in [`mod@write`], whatever the protocol; [`http`] speaks
//! both. Serve asks recompute for computations, the store for bytes and the source for writes; it must never know
//! capture or depend.
//!
//! Invariant: bytes are answered as fresh only if their stamp is the ledger's and the ledger calls it fresh (R5).

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    explanation::Explanation, observe::Observer, postgres, product::Catalog, progress::Progress,
    recompute, store::Store,
};

pub mod auth;
pub mod fields;
pub mod form;
pub mod http;
pub mod manage;
pub mod near;
pub mod pack;
pub mod problem;
pub mod process;
pub mod read;
pub mod resolve;
pub mod share;
pub mod subscribe;
pub mod who;
pub mod write;

pub use who::Who;

/// Bounds on what one reader may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest a read may wait.
    pub wait: Duration,
    /// Keys in one request.
    pub keys_per_request: usize,
    /// A request's body, in bytes.
    pub body_bytes: u64,
    /// Connections at once.
    pub connections: usize,
    /// How long caches may answer with what they have while kck answers with failures; zero: not at all.
    pub stale_if_error: Duration,
}

/// A product's name → how it follows its tables, if it is matched.
pub type Explain = Arc<dyn Fn(&str) -> Option<Explanation> + Send + Sync>;

/// What every protocol is given.
#[derive(Clone)]
pub struct Context {
    /// The products as they are now.
    pub catalog: watch::Receiver<Arc<Catalog>>,
    /// Computations and the ledger.
    pub recompute: recompute::Handle,
    /// Entries at rest.
    pub store: Arc<dyn Store>,
    /// Answer bytes in memory.
    pub near: Arc<near::Near>,
    /// How far kck is.
    pub progress: watch::Receiver<Progress>,
    /// Canonical texts that only the source knows.
    pub canonical: Arc<resolve::Canonicaliser>,
    /// Where updates run.
    pub writer: Arc<postgres::write::Pool>,
    /// What runs on schedule.
    pub processes: process::Processes,
    /// How a product follows its tables.
    pub explain: Explain,
    /// How the parts are.
    pub health: watch::Receiver<Arc<Health>>,
    /// Where events go.
    pub observer: Observer,
    /// Bounds on what one reader may ask.
    pub limits: Limits,
    /// Who asks.
    pub gate: auth::Gate,
    /// How users log in, if they do.
    pub login: Option<auth::login::Login>,
    /// Computations that each client may cause.
    pub misses: Arc<share::Budget>,
    /// Subscriptions, of which each client may have some.
    pub subscriptions: Arc<share::Places<share::Client>>,
    /// Connections, of which each address may have some.
    pub connections: Arc<share::Places<IpAddr>>,
}

/// Whether kck is up, and what keeps it from being well.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// Reads could be answered once since the start.
    pub ready: bool,
    /// Told to stop.
    pub draining: bool,
    /// What is not well.
    pub reasons: Vec<Reason>,
    /// The slot, as last seen.
    pub slot: SlotHealth,
}

impl Health {
    /// Whether the replication stream is open.
    #[must_use]
    pub fn streaming(&self) -> bool {
        self.ready && !self.reasons.iter().any(|reason| reason.part == "stream")
    }
}

/// A part that is not well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// `source`, `stream`, `store`, `product`.
    pub part: &'static str,
    /// Since when, on kck's own clock, as `YYYY-MM-DDTHH:MM:SS.ffffffZ`.
    pub since: String,
    /// `KCKgnn`.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// The replication slot as last seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlotHealth {
    /// Its name.
    pub name: String,
    /// WAL kept for it, in bytes.
    pub retained_bytes: u64,
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: String,
    /// How much more log the source keeps before it gives the slot up by itself; none without a limit there.
    pub safe_wal_bytes: Option<u64>,
    /// At the present rate of writing the slot is given up in so long, should nothing be acknowledged any more.
    pub left: Option<Duration>,
}
