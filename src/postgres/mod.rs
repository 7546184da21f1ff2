//! Postgres: questions to the source, one file a question.
//!
//! [`Source`] makes connections and checks that each is still to the same history (R10); the files beside it
//! each ask one thing. This folder knows the vocabulary only, never a stage.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use tokio_postgres::{Client, Statement};

use crate::change::TableId;

pub mod account;
pub mod address;
pub mod barrier;
pub mod canonical;
pub mod catalogue;
pub mod connect;
pub mod describe;
pub mod error;
pub mod lookup;
mod prepared;
pub mod process;
pub mod publication;
mod reads;
pub mod run;
pub mod server;
pub mod slot;
pub mod tls;
pub mod write;

pub use error::Error;
pub use slot::History;

/// The source: where it is, and which history its connections must belong to.
pub struct Source {
    address: address::Address,
    expected: Mutex<Option<History>>,
    /// Counts changes of `expected`: connections of an earlier count are closed.
    count: AtomicU64,
}

impl Source {
    /// A source whose history is not known yet: any is taken.
    #[must_use]
    pub fn new(address: address::Address) -> Self {
        Self { address, expected: Mutex::new(None), count: AtomicU64::new(0) }
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &address::Address {
        &self.address
    }

    /// From now on only connections to this history are made.
    pub fn expect(&self, history: History) {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        if expected.as_ref() != Some(&history) {
            *expected = Some(history);
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts the histories so far.
    #[must_use]
    pub fn history(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// A connection of this role with kck's settings, to whatever history answers there.
    ///
    /// # Errors
    /// What the source said.
    pub async fn connect_to_any(
        &self,
        role: &str,
        settings: &[(&str, &str)],
    ) -> Result<Client, Error> {
        connect::connect(&self.address, role, settings).await
    }

    /// A connection of this role with kck's settings, checked to be to the expected history's primary.
    ///
    /// # Errors
    /// What the source said, or [`Error::Refused`] for another history or a standby.
    pub async fn connect(&self, role: &str, settings: &[(&str, &str)]) -> Result<Client, Error> {
        let client = self.connect_to_any(role, settings).await?;
        let facts = within(QUESTION_AT_MOST, slot::facts(&client)).await?;
        let refused = |message: String, hint: &str| Error::Refused {
            action: "check the source",
            sqlstate: String::new(),
            message,
            hint: hint.to_owned(),
        };
        if facts.in_recovery {
            return Err(refused(
                "the source is a standby".to_owned(),
                "give the address of the primary",
            ));
        }
        let found = facts.history;
        let expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match expected {
            Some(expected) if expected != found => Err(refused(
                format!("the source is another server or timeline: {found:?}, not {expected:?}"),
                "restart kck: it begins a new epoch",
            )),
            _ => Ok(client),
        }
    }
}

/// The connection for kck's own small questions; opened when needed, and again when it was lost.
pub struct Housekeeping {
    source: std::sync::Arc<Source>,
    open: Option<Open>,
}

struct Open {
    client: Client,
    /// The history that the connection was checked against (R10).
    history: u64,
    barrier: Statement,
    catalogue: Option<Statement>,
}

/// No small question takes longer; one that does is given up with its connection: a way that swallows what is sent
/// tells nobody.
const QUESTION_AT_MOST: Duration = Duration::from_secs(30);
/// Definitions are looked at every second or so, and certificates wait for it.
const LOOK_AT_MOST: Duration = Duration::from_secs(12);
/// A barrier is answered at once, and everything waits for it.
const BARRIER_AT_MOST: Duration = Duration::from_secs(8);

impl Housekeeping {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new(source: std::sync::Arc<Source>) -> Self {
        Self { source, open: None }
    }

    /// Takes a barrier.
    ///
    /// # Errors
    /// What the source said; the next call opens a new connection.
    pub async fn barrier(&mut self) -> Result<barrier::Barrier, Error> {
        let open = self.open().await?;
        let answer = within(BARRIER_AT_MOST, barrier::take(&open.client, &open.barrier)).await;
        self.judge(answer)
    }

    /// Makes the source write a small commit and flush its log up to there; gives a position just before its end.
    ///
    /// # Errors
    /// What the source said.
    pub async fn nudge(&mut self) -> Result<crate::change::Lsn, Error> {
        let open = self.open().await?;
        let answer = within(BARRIER_AT_MOST, barrier::nudge(&open.client)).await;
        self.judge(answer)
    }

    /// Looks at the definitions of these objects.
    ///
    /// # Errors
    /// What the source said.
    pub async fn catalogue(
        &mut self,
        objects: &catalogue::Objects,
    ) -> Result<catalogue::Catalogue, Error> {
        let open = self.open().await?;
        let question = match &open.catalogue {
            Some(question) => question,
            None => {
                let prepared = open.client.prepare(catalogue::QUESTION).await;
                open.catalogue.insert(prepared.map_err(|error| {
                    Error::from_postgres("prepare the look at the catalogue", error)
                })?)
            }
        };
        let answer = within(LOOK_AT_MOST, catalogue::look(&open.client, question, objects)).await;
        self.judge(answer)
    }

    /// Reads a publication, if it exists.
    ///
    /// # Errors
    /// What the source said.
    pub async fn publication(
        &mut self,
        name: &str,
    ) -> Result<Option<publication::Publication>, Error> {
        let open = self.open().await?;
        let answer = within(QUESTION_AT_MOST, publication::publication(&open.client, name)).await;
        self.judge(answer)
    }

    /// Takes those of these tables that must not be published any more out of a publication; they come back.
    ///
    /// # Errors
    /// What the source said.
    pub async fn withdraw(
        &mut self,
        name: &str,
        tables: &BTreeSet<TableId>,
    ) -> Result<BTreeSet<TableId>, Error> {
        let open = self.open().await?;
        let answer =
            within(QUESTION_AT_MOST, publication::withdraw(&open.client, name, tables)).await;
        self.judge(answer)
    }

    /// Whether the walsender with this process id counts as a synchronous standby.
    ///
    /// # Errors
    /// What the source said.
    pub async fn is_standby(&mut self, pid: i32) -> Result<bool, Error> {
        let open = self.open().await?;
        let answer = within(BARRIER_AT_MOST, slot::sync_state(&open.client, pid)).await;
        let state = self.judge(answer)?;
        Ok(matches!(state.as_deref(), Some("sync" | "quorum" | "potential")))
    }

    /// Looks at a slot, if it exists.
    ///
    /// # Errors
    /// What the source said; the next call opens a new connection.
    pub async fn slot(&mut self, name: &str) -> Result<Option<slot::Slot>, Error> {
        let open = self.open().await?;
        let answer = within(BARRIER_AT_MOST, slot::slot(&open.client, name)).await;
        self.judge(answer)
    }

    /// The connection, for a question of another file.
    ///
    /// # Errors
    /// What the source said.
    pub async fn client(&mut self) -> Result<&mut Client, Error> {
        Ok(&mut self.open().await?.client)
    }

    /// Gives up on whatever was asked.
    pub fn hang_up(&mut self) {
        self.open = None;
    }

    async fn open(&mut self) -> Result<&mut Open, Error> {
        let history = self.source.history();
        let usable = |open: &Open| !open.client.is_closed() && open.history == history;
        if !self.open.as_ref().is_some_and(usable) {
            // A missing standby must not hold kck's own small writes up.
            let settings = [("synchronous_commit", "local"), ("statement_timeout", "20s")];
            let client = self.source.connect("housekeeping", &settings).await?;
            let barrier = within(QUESTION_AT_MOST, barrier::prepare(&client)).await?;
            self.open = Some(Open { client, history, barrier, catalogue: None });
        }
        self.open.as_mut().ok_or(Error::Refused {
            action: "open the housekeeping connection",
            sqlstate: String::new(),
            message: "it closed at once".to_owned(),
            hint: String::new(),
        })
    }

    fn judge<T>(&mut self, answer: Result<T, Error>) -> Result<T, Error> {
        if matches!(answer, Err(Error::Gone { .. } | Error::Unreachable { .. })) {
            self.open = None;
        }
        answer
    }
}

/// A question that is given up after `limit`.
async fn within<T>(
    limit: Duration,
    question: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, question).await {
        Ok(answer) => answer,
        Err(elapsed) => Err(Error::Gone { action: "ask the source", source: elapsed.into() }),
    }
}

/// An error and its causes in one line.
#[must_use]
pub fn describe_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
