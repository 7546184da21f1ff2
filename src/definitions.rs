//! What products read, looked at again and again → marks for what the stream does not say (R14).
//!
//! A changed definition marks its products as a whole and takes them out of the cache until they are analysed
//! anew; definitions found as they were analysed carry the certificate on.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    change::{Lsn, Position},
    observe::{Event, Observer},
    postgres::{
        Error as SourceError, Housekeeping,
        catalogue::{Catalogue, Objects},
        describe_chain,
        publication::Publication,
    },
    progress::{Certificate, Progress},
    recompute::{self, Marks},
    roster::{Known, Members, Roster},
    store::{
        Store,
        state::{self, Seen},
    },
};

/// While nobody waits.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// While somebody waits for a certificate.
const HASTENED_EVERY: Duration = Duration::from_millis(50);
/// While the source or the store is away.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// What looking at definitions stands on.
pub struct Definitions {
    /// Questions to the source.
    pub source: Housekeeping,
    /// The products as they were analysed.
    pub roster: Arc<Roster>,
    /// Marks and readers.
    pub recompute: recompute::Handle,
    /// Where marks lie.
    pub store: Arc<dyn Store>,
    /// Of the publication.
    pub publication: String,
    /// Where the certificate is published.
    pub progress: watch::Sender<Progress>,
    /// Where events go.
    pub observer: Observer,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

/// Everyone, as they were when they last changed.
#[derive(Default)]
struct Asked {
    count: Option<u64>,
    known: BTreeMap<String, Arc<Known>>,
    all: Objects,
}

impl Asked {
    fn follow(&mut self, members: &Members) {
        if self.count == Some(members.count()) {
            return;
        }
        let mut all = Objects::default();
        members.known().values().for_each(|known| all.extend(&known.objects));
        *self = Self { count: Some(members.count()), known: members.known().clone(), all };
    }
}

impl Definitions {
    /// Looks for as long as kck runs.
    pub async fn run(mut self) {
        let mut wanted = self.recompute.wanted();
        let mut asked = Asked::default();
        loop {
            let looked_at = Instant::now();
            let pause = match self.look(&mut asked).await {
                Ok(()) => {
                    self.observer.part("definitions", None);
                    LOOK_EVERY
                }
                Err(error) => {
                    self.observer.part("definitions", Some(describe_chain(&error)));
                    RETRY_EVERY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep_until((looked_at + HASTENED_EVERY).into()).await;
                }
            }
        }
    }

    /// One look. Its certificate is that of a barrier answered before the question was sent (R14). It holds also for
    /// who became known after the question: they are cached only from a later barrier on.
    async fn look(&mut self, asked: &mut Asked) -> Result<(), Error> {
        asked.follow(&*self.roster.members().await);
        let epoch = self.progress.borrow().epoch;
        let barrier = self.source.barrier().await?;
        let publication = self.source.publication(&self.publication).await?.unwrap_or_default();
        let found = self.source.catalogue(&asked.all).await?;
        if self.progress.borrow().epoch != epoch {
            // What was seen may be another history's.
            return Ok(());
        }
        for (product, known) in &asked.known {
            let seen = known.seen_in(&found, &publication);
            if known.seen.as_ref() != Some(&seen) {
                self.moved(product, known, seen, (&publication, &found)).await?;
            }
        }
        if self.recompute.waits_for_visible() {
            // On an idle source only kck's own message lets V pass what was marked here.
            self.source.nudge().await?;
        }
        let certificate =
            Certificate { lsn: barrier.insert, time: barrier.time, sent: barrier.sent };
        self.progress.send_modify(|progress| {
            if progress.epoch == epoch {
                progress.definitions = Some(certificate);
            }
        });
        Ok(())
    }

    /// What a product stands on is another than it was.
    async fn moved(
        &mut self,
        product: &str,
        known: &Arc<Known>,
        seen: Seen,
        (publication, found): (&Publication, &Catalogue),
    ) -> Result<(), Error> {
        let roster = Arc::clone(&self.roster);
        let mut members = roster.members().await;
        if !members.knows(product, known) {
            return Ok(());
        }
        if !known.works {
            if known.seen.is_some() {
                members.ask(product);
                roster.changed();
            }
            members.see(product, seen);
            return Ok(());
        }
        let analysed = found.definitions(&known.objects) == known.definitions;
        if analysed && !known.followed {
            members.see(product, seen);
            return Ok(());
        }
        self.changed(&mut members, product, known, seen, (publication, found), analysed).await?;
        self.observer.note(Event::DefinitionChanged { product: product.to_owned() });
        Ok(())
    }

    /// The product is marked, and leaves where its analysis holds no more or changes of its tables may be missing.
    async fn changed(
        &mut self,
        members: &mut Members,
        product: &str,
        known: &Known,
        seen: Seen,
        (publication, found): (&Publication, &Catalogue),
        analysed: bool,
    ) -> Result<(), Error> {
        // One past what this look could see: the commit that made the change ends at or below it.
        let at = Lsn(found.insert.0 + 1);
        if let Some(mark) = self.mark(product, at).await? {
            self.recompute.wake_later(Marks { keys: Vec::new(), products: vec![mark] });
        }
        let withdrawn = self.source.withdraw(&self.publication, &known.tables).await?;
        let followed = known.tables.is_subset(&publication.complete())
            && known.seen.as_ref().is_some_and(|before| before.membership == seen.membership)
            && withdrawn.is_empty();
        let stamp = self.recompute.state_stamp();
        if analysed && followed {
            members.see(product, seen);
            // What is seen now is what a restart compares with; one that has not joined is listed when it has.
            if let Some(known) = members.known().get(product)
                && !members.is_joining(product)
            {
                let matched = Some(known.matched());
                self.store.save(&[state::matched(product, matched, stamp)]).await?;
            }
            return Ok(());
        }
        self.recompute.ledger().leave(product);
        self.store.save(&[state::matched(product, None, stamp)]).await?;
        members.leave(product);
        members.ask(product);
        self.roster.changed();
        Ok(())
    }

    async fn mark(&self, product: &str, at: Lsn) -> Result<Option<(String, Position)>, Error> {
        let Some(at) = self.recompute.ledger().mark_product(product, at) else { return Ok(None) };
        self.store.save(&[state::mark(product, at)]).await?;
        Ok(Some((product.to_owned(), at)))
    }
}
