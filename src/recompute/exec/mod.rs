//! Exec: keys → answers of programs that are kept running.
//!
//! Products with the same command share a [`pool::Pool`]; a pool starts, asks and ends its programs, and
//! [`protocol`] has what is said between kck and them. Each program runs under `kck guard`, so that nothing of it
//! outlives kck.
//!
//! Invariant: whatever a program does, it takes nothing but the place of its own pool: no task, lock or line of
//! others waits for it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

pub mod pool;
mod program;
pub mod protocol;

use pool::{Permit, Pool};
use protocol::Ask;

/// How programs are started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// kck itself, which guards them.
    pub guard: PathBuf,
    /// Where they run.
    pub directory: PathBuf,
    /// Where kck serves.
    pub server: String,
    /// Variables of the environment that are not theirs.
    pub hidden: Vec<String>,
    /// Bytes of one answer at most.
    pub answer_bytes: usize,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No program runs.
    #[error("its program does not run: {0}")]
    Down(String),
    /// The program was lost while it had the request.
    #[error("its program was lost: {0}")]
    Lost(String),
    /// It took too long.
    #[error("its program did not answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// The program does not know what it was asked for.
    #[error("its program does not know '{name}': it knows {knows}")]
    Unknown {
        /// What it was asked for.
        name: String,
        /// What it knows.
        knows: String,
    },
    /// The program says why.
    #[error("its program says: {0}")]
    Said(String),
}

impl Fault {
    /// The fact without what a program wrote.
    #[must_use]
    pub fn fact(&self) -> &'static str {
        match self {
            Self::Down(_) => "its program does not run",
            Self::Lost(_) => "its program was lost",
            Self::Late(_) => "its program did not answer in time",
            Self::Unknown { .. } => "its program does not know it",
            Self::Said(_) => "its program says that it cannot",
        }
    }
}

/// How the products of one command use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Programs at once, at most: the smallest number that a product says.
    pub workers: usize,
    /// The most that one of its products leaves to others, and its own place.
    pub levels: usize,
}

/// By command.
pub type Used = BTreeMap<Vec<String>, Use>;

/// The programs of all products.
pub struct Programs {
    settings: Arc<Settings>,
    /// By command; locked to look.
    pools: Mutex<BTreeMap<Vec<String>, Arc<Pool>>>,
    /// What is known of commands in use; locked to look.
    used: Mutex<Used>,
    /// Some pool has room that it had not.
    freed: Arc<Notify>,
}

impl Programs {
    /// None runs yet.
    #[must_use]
    pub fn new(settings: Settings, freed: Arc<Notify>) -> Self {
        Self {
            settings: Arc::new(settings),
            pools: Mutex::default(),
            used: Mutex::default(),
            freed,
        }
    }

    fn pool(&self, command: &[String], workers: usize) -> Arc<Pool> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(command) {
            return Arc::clone(pool);
        }
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner).get(command).copied();
        let used = used.unwrap_or(Use { workers, levels: 1 });
        let (settings, freed) = (Arc::clone(&self.settings), Arc::clone(&self.freed));
        let pool = Pool::new(settings, command.to_vec(), used, freed);
        pools.insert(command.to_vec(), Arc::clone(&pool));
        pool
    }

    /// A place for one request, where there is one now. `level` is that of the product: 1 where it depends on no other
    /// of the same command.
    ///
    /// # Errors
    /// When to ask again; `None`: when some place is free again.
    pub fn room(
        &self,
        (command, workers): (&[String], usize),
        level: usize,
        urgent: bool,
    ) -> Result<Permit, Option<Instant>> {
        self.pool(command, workers).room(level, urgent)
    }

    /// Asks a program of this command, and gives what it said; of which there are at most `workers`, where no product
    /// says less.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(
        &self,
        (command, workers): (&[String], usize),
        ask: &Ask,
        within: Duration,
    ) -> Result<bytes::Bytes, Fault> {
        self.pool(command, workers).ask(ask, within).await
    }

    /// These commands are in use: programs of others end.
    pub fn keep(&self, used: Used) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|command, pool| match used.get(command) {
            Some(used) => {
                pool.limit(*used);
                true
            }
            None => {
                pool.close();
                false
            }
        });
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = used;
    }

    /// Ends all of them, and waits until they have ended or been given up.
    pub async fn close(&self) {
        let pools: Vec<Arc<Pool>> = {
            let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
            pools.values().cloned().collect()
        };
        pools.iter().for_each(|pool| pool.close());
        for pool in pools {
            pool.closed().await;
        }
    }
}

/// How commands are used by products, each with its level.
#[must_use]
pub fn used<'a>(products: impl Iterator<Item = (&'a [String], Use)>) -> Used {
    let mut all = Used::new();
    for (command, one) in products {
        let used = all.entry(command.to_vec()).or_insert(one);
        used.workers = used.workers.min(one.workers);
        used.levels = used.levels.max(one.levels);
    }
    all
}
