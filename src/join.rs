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
    change::{Lsn, Position, TableId},
    observe::{Event, Observer, Point},
    postgres::{
        Error as SourceError, Housekeeping, describe_chain,
        publication::{Writer, still_there, writers},
    },
    progress::Progress,
    recompute::{self, Marks},
    roster::{Known, Members, Roster},
    store::{Store, state},
};

/// Between two looks at who still writes.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between tries while source or store are away.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// What joining stands on.
pub struct Joining {
    /// Questions to the source.
    pub source: Housekeeping,
    /// Reopens the connection.
    pub control: Arc<dyn Control>,
    /// Who joins.
    pub roster: Arc<Roster>,
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

/// Who still writes to the tables of a product of this generation.
type Waiting = BTreeMap<String, (u64, Vec<Writer>)>;

/// Joins whoever comes, each as soon as it can. Returns when the stream has ended for good.
pub async fn run(mut joining: Joining) {
    let mut waiting = Waiting::new();
    loop {
        match joining.round(&mut waiting).await {
            Ok(true) => {
                joining.published().await;
                joining.observer.part("join", None);
                joining.roster.joiners_came().await;
            }
            Ok(false) => tokio::time::sleep(LOOK_EVERY).await,
            Err(Error::Ended) => return,
            Err(error) => {
                joining.observer.part("join", Some(describe_chain(&error)));
                tokio::time::sleep(RETRY_EVERY).await;
            }
        }
    }
}

impl Joining {
    /// One look at who still writes; products with nobody left to wait for join. Whether nobody is left to join comes
    /// back.
    async fn round(&mut self, waiting: &mut Waiting) -> Result<bool, Error> {
        let joiners: BTreeMap<String, Arc<Known>> = {
            let members = self.roster.members().await;
            let own = |(name, known): (&String, &Arc<Known>)| (name.clone(), Arc::clone(known));
            members.joiners().map(own).collect()
        };
        waiting.retain(|name, (generation, _)| {
            joiners.get(name).is_some_and(|known| known.generation == *generation)
        });
        let mut ready = Vec::new();
        for (name, known) in &joiners {
            // Whose answers it reads has joined before: what it reads then is of the present definition.
            if known.depends.iter().any(|other| joiners.contains_key(other)) {
                continue;
            }
            let client = self.source.client().await?;
            let left = match waiting.get(name) {
                Some((_, left)) => still_there(client, left).await?,
                None => writers(client, &known.tables).await?,
            };
            if left.is_empty() {
                ready.push((name, known));
            }
            waiting.insert(name.clone(), (known.generation, left));
        }
        if !ready.is_empty() {
            self.open_for(&ready).await?;
            // Whoever is ready was matched by its own rules before this barrier was sent.
            let until = self.source.barrier().await?.insert.floor_to_record_end(self.segment_bytes);
            let roster = Arc::clone(&self.roster);
            let mut members = roster.members().await;
            for (name, known) in &ready {
                if members.knows(name, known) && members.is_joining(name) {
                    self.join(&mut members, name, known, until).await?;
                }
            }
            // An idle source's stream may lie behind the insert position: kck's own message lets V pass it.
            self.source.nudge().await?;
        }
        Ok(self.roster.members().await.joiners().next().is_none())
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

    /// The connection is opened anew where a table was published since it was.
    async fn open_for(&mut self, ready: &[(&String, &Arc<Known>)]) -> Result<(), Error> {
        let read: BTreeSet<TableId> =
            ready.iter().flat_map(|(_, known)| &known.tables).copied().collect();
        let unopened = self.roster.members().await.unopened(&read);
        if !unopened.is_empty() {
            self.reopen().await?;
            self.roster.members().await.opened(&unopened);
        }
        Ok(())
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

    /// Durable before it shows: the mark first, since listed without it a restart would go on as if nothing had been
    /// missed; a crash before the list is written makes it join again.
    async fn join(
        &self,
        members: &mut Members,
        product: &str,
        known: &Known,
        until: Lsn,
    ) -> Result<(), Error> {
        let epoch = self.progress.borrow().epoch;
        let position = Position { epoch, lsn: until };
        self.store.save(&[state::mark(product, position)]).await?;
        self.observer.reach(Point::Join).await;
        let stamp = self.recompute.state_stamp();
        self.store.save(&[state::matched(product, Some(known.matched()), stamp)]).await?;
        let keys = {
            let mut ledger = self.recompute.ledger();
            ledger.mark_product(product, until);
            ledger.joins(product, until);
            ledger.keys_of(product).map(|key| (key.clone(), position)).collect()
        };
        members.joined(product);
        // What was kept before, and is read or watched, is computed as soon as it is kept again.
        self.recompute.wake_later(Marks { keys, products: Vec::new() });
        self.observer.note(Event::ProductJoined { product: product.to_owned(), until });
        Ok(())
    }
}
