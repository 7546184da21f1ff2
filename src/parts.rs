//! What all of kck holds on to while it runs, and why it cannot go on.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    config::Config,
    depend::Index,
    observe::Observer,
    postgres::{self, Source, address::Address},
    product::Catalog,
    progress::Progress,
    recompute::Handle,
    resume::{self, Names},
    roster::Roster,
    serve::{Health, SlotHealth},
    store::{self, Store},
};

/// Why kck cannot start or go on. The text says what was tried and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{what}{}", if hint.is_empty() { String::new() } else { format!("\n  hint: {hint}") })]
pub struct Failure {
    /// What was tried, and the fact that matters.
    pub what: String,
    /// What to do.
    pub hint: String,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}

impl From<postgres::Error> for Failure {
    fn from(error: postgres::Error) -> Self {
        let hint = match &error {
            postgres::Error::Refused { hint, .. } => hint.clone(),
            postgres::Error::Unreachable { .. } => {
                "check that the source runs and that [source] url is right".to_owned()
            }
            _ => String::new(),
        };
        Self::new(postgres::describe_chain(&error), hint)
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Self::new(postgres::describe_chain(&error), "check [store]")
    }
}

impl From<resume::Error> for Failure {
    fn from(error: resume::Error) -> Self {
        match error {
            resume::Error::Source(error) => error.into(),
            resume::Error::Store(error) => error.into(),
            resume::Error::Epochs => {
                Self::new(error.to_string(), "give [store] an empty keyspace or directory")
            }
            resume::Error::ForeignSlot(_) => {
                Self::new(error.to_string(), "give [source] slot another name")
            }
        }
    }
}

/// Everything that lives as long as the process.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) names: Names,
    pub(crate) source: Arc<Source>,
    pub(crate) replication: Address,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) recompute: Handle,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) catalog: watch::Sender<Arc<Catalog>>,
    pub(crate) index: watch::Sender<Arc<Index>>,
    pub(crate) health: watch::Sender<Arc<Health>>,
    pub(crate) observer: Observer,
    /// What products of addresses may take from it.
    pub(crate) environment: Vec<(String, String)>,
    /// Who runs, and on what it stands.
    pub(crate) roster: Arc<Roster>,
}

impl Parts {
    /// The slot as it was just seen, for whoever shows it.
    pub(crate) fn weigh(&self, slot: &postgres::slot::Slot, left: Option<Duration>) {
        self.health.send_modify(|health| {
            let seen = SlotHealth {
                name: self.names.slot.clone(),
                retained_bytes: slot.retained_bytes,
                wal_status: slot.wal_status.clone(),
                safe_wal_bytes: slot.safe_wal_size.map(|bytes| u64::try_from(bytes).unwrap_or(0)),
                left,
            };
            *health = Arc::new(Health { slot: seen, ..(**health).clone() });
        });
    }
}
