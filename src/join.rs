//! A product that was not matched → matched and cached (R1, R11).
//!
//! Whoever may have written rows that no stream will tell of is waited for; then the connection is opened anew
//! where tables were just published; then the product is marked as a whole at the source's insert position, and
//! is cached once V has passed that. Until then it is answered uncached.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    capture::Control,
    change::{Position, TableId},
    observe::{Event, Observer},
    postgres::{
        Error as SourceError, Housekeeping, describe_chain,
        publication::{Writer, still_there, writers},
    },
    progress::Progress,
    recompute,
    store::{
        Store,
        state::{self, Matched},
    },
};

/// Between two looks at who still writes.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between tries while source or store are away.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// A product that joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joiner {
    /// Its name.
    pub product: String,
    /// What is listed of it once it has joined.
    pub matched: Matched,
    /// The tables it reads.
    pub tables: BTreeSet<TableId>,
    /// Some of them were published just now.
    pub published: bool,
}

/// What joining stands on.
pub struct Joining {
    /// Questions to the source.
    pub source: Housekeeping,
    /// Reopens the connection.
    pub control: Arc<dyn Control>,
    /// Marks.
    pub recompute: recompute::Handle,
    /// Where marks and the list lie.
    pub store: Arc<dyn Store>,
    /// How far kck is.
    pub progress: watch::Receiver<Progress>,
    /// The source's `wal_segment_size`.
    pub segment_bytes: u64,
    /// Where events go.
    pub observer: Observer,
}

/// Why joining waits.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    #[error("the stream has ended")]
    Ended,
}

/// Joins all of them, each as soon as it can. Returns when none is left.
pub async fn run(mut joining: Joining, mut joiners: Vec<Joiner>) {
    let mut waiting: BTreeMap<String, Vec<Writer>> = BTreeMap::new();
    while !joiners.is_empty() {
        match joining.round(&mut joiners, &mut waiting).await {
            Ok(()) if joiners.is_empty() => {}
            Ok(()) => tokio::time::sleep(LOOK_EVERY).await,
            Err(Error::Ended) => return,
            Err(error) => {
                joining.observer.part("join", Some(describe_chain(&error)));
                tokio::time::sleep(RETRY_EVERY).await;
            }
        }
    }
    joining.published().await;
    joining.observer.part("join", None);
}

impl Joining {
    /// One look at who still writes; products with nobody left to wait for join.
    async fn round(
        &mut self,
        joiners: &mut Vec<Joiner>,
        waiting: &mut BTreeMap<String, Vec<Writer>>,
    ) -> Result<(), Error> {
        let mut ready = Vec::new();
        for joiner in joiners.iter() {
            let client = self.source.client().await?;
            let left = match waiting.get(&joiner.product) {
                Some(left) => still_there(client, left).await?,
                None => writers(client, &joiner.tables).await?,
            };
            if left.is_empty() {
                ready.push(joiner.clone());
            }
            waiting.insert(joiner.product.clone(), left);
        }
        if ready.is_empty() {
            return Ok(());
        }
        if ready.iter().any(|joiner| joiner.published) {
            self.reopen().await?;
        }
        let barrier = self.source.barrier().await?;
        let until = barrier.insert.floor_to_record_end(self.segment_bytes);
        for joiner in &ready {
            self.join(joiner, until).await?;
        }
        // An idle source's stream may lie behind the insert position: kck's own message lets V pass it.
        self.source.nudge().await?;
        joiners.retain(|joiner| !ready.contains(joiner));
        Ok(())
    }

    /// Whoever reads what was published has joined: a restart need not look for them any more.
    async fn published(&self) {
        loop {
            let cell = state::publishing(&BTreeSet::new(), self.recompute.state_stamp());
            match self.store.save(&[cell]).await {
                Ok(()) => return,
                Err(error) => self.observer.part("join", Some(describe_chain(&error))),
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// What the walsender keeps of the publication is as old as its connection. The first opening that is told may be
    /// one that was under way before this was asked for: the second is surely later.
    async fn reopen(&mut self) -> Result<(), Error> {
        self.reopen_once().await?;
        self.reopen_once().await
    }

    async fn reopen_once(&mut self) -> Result<(), Error> {
        let before = self.progress.borrow_and_update().connection;
        self.control.reopen();
        self.progress
            .wait_for(|progress| progress.connection > before)
            .await
            .map_err(|_| Error::Ended)?;
        Ok(())
    }

    async fn join(&self, joiner: &Joiner, until: crate::change::Lsn) -> Result<(), Error> {
        let epoch = self.progress.borrow().epoch;
        let position = Position { epoch, lsn: until };
        let stamp = self.recompute.state_stamp();
        // The mark first: listed without it, a restart would go on as if nothing had been missed.
        self.store.save(&[state::mark(&joiner.product, position)]).await?;
        let matched = Some(joiner.matched.clone());
        self.store.save(&[state::matched(&joiner.product, matched, stamp)]).await?;
        let joined = {
            let mut ledger = self.recompute.ledger();
            ledger.mark_product(&joiner.product, until);
            ledger.joins(&joiner.product, until)
        };
        if !joined {
            // Its definitions changed meanwhile: it stays off the list.
            let stamp = self.recompute.state_stamp();
            self.store.save(&[state::matched(&joiner.product, None, stamp)]).await?;
            return Ok(());
        }
        self.observer.note(Event::ProductJoined { product: joiner.product.clone(), until });
        Ok(())
    }
}
