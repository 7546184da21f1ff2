//! Processes as they are → lists of them; somebody who asks → a run.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    change::SourceTime,
    process::Run,
    product::{Fault, ProcessSlot},
};

use super::problem::{Kind, Problem, echo};

/// All processes, by their names.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Name → process.
    pub processes: BTreeMap<String, Listed>,
    /// Faults of files that are no processes.
    pub faults: Vec<Fault>,
}

/// A process as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What its file says.
    pub slot: ProcessSlot,
    /// When it is due next; `None` where only asking runs it.
    pub next: Option<SourceTime>,
    /// Its last runs, the oldest first; the last may be running.
    pub runs: Vec<Run>,
}

impl Listing {
    /// Processes that run now.
    #[must_use]
    pub fn running(&self) -> usize {
        let last = self.processes.values().filter_map(|listed| listed.runs.last());
        last.filter(|run| run.end.is_none()).count()
    }
}

/// Why a process was not begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is none.
    Unknown,
    /// Its file does not load.
    Broken,
    /// It runs.
    Running,
    /// kck does not know what time it is at the source, or does not read its slot.
    Away,
}

/// Somebody wants a process to run; the answer is the number of its run.
#[derive(Debug)]
pub struct Ask {
    /// Which.
    pub process: String,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<u64, Refusal>>,
}

/// What is shown of processes, and where they are asked for.
#[derive(Debug, Clone)]
pub struct Processes {
    /// As they are now.
    pub listing: watch::Receiver<Arc<Listing>>,
    asks: mpsc::Sender<Ask>,
}

impl Processes {
    /// Shows this, and asks there.
    #[must_use]
    pub fn new(listing: watch::Receiver<Arc<Listing>>, asks: mpsc::Sender<Ask>) -> Self {
        Self { listing, asks }
    }

    /// Begins a run; gives its number.
    ///
    /// # Errors
    /// Why it was not begun.
    pub async fn run(&self, name: &str) -> Result<u64, Problem> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask { process: name.to_owned(), reply };
        let asked = self.asks.try_send(ask).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Problem::new(Kind::TooManyRequests, "too many ask for processes", "try again")
            }
            mpsc::error::TrySendError::Closed(_) => stopping(),
        });
        asked?;
        answer.await.map_err(|_| stopping())?.map_err(|refusal| problem(name, &refusal))
    }
}

fn stopping() -> Problem {
    Problem::new(Kind::Draining, "kck is stopping", "try again in a moment")
}

fn problem(name: &str, refusal: &Refusal) -> Problem {
    let echoed = echo(name);
    let (kind, message, hint) = match refusal {
        Refusal::Unknown => {
            let message = format!("there is no process '{echoed}'");
            (Kind::UnknownProcess, message, "GET /processes lists them")
        }
        Refusal::Broken => {
            let message = format!("the process '{echoed}' does not work");
            (Kind::ProductBroken, message, "GET /processes says why")
        }
        Refusal::Running => {
            let message = format!("the process '{echoed}' runs already");
            (
                Kind::Conflict,
                message,
                "try again when it has ended; GET /processes says when it began",
            )
        }
        Refusal::Away => {
            let message = format!("the process '{echoed}' cannot be begun now");
            (Kind::SourceUnavailable, message, "see /readyz; nothing was run")
        }
    };
    Problem::new(kind, message, hint).with_args([echoed])
}
