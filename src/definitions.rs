//! What products read, looked at again and again → marks for what the stream does not say (R14).
//!
//! A changed definition marks its products as a whole and takes them out of the cache until they are analysed
//! anew; definitions found as they were analysed carry the certificate on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    change::{Lsn, Position, TableId},
    depend::Index,
    load,
    observe::{Event, Observer},
    postgres::{
        Error as SourceError, Housekeeping,
        catalogue::{Catalogue, Objects},
        describe_chain,
        publication::Publication,
    },
    product::{Catalog, Product},
    progress::{Certificate, Progress},
    recompute::{self, Marks},
    store::{
        Store,
        state::{self, Matched},
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
    pub catalog: watch::Receiver<Arc<Catalog>>,
    /// Marks and readers.
    pub recompute: recompute::Handle,
    /// Where marks lie.
    pub store: Arc<dyn Store>,
    /// What each product is matched as.
    pub matched: BTreeMap<String, Matched>,
    /// The tables of each product come from here.
    pub index: watch::Receiver<Arc<Index>>,
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

/// What a product stands on, as it was last seen.
struct Known {
    /// What is listed of it while it is matched.
    matched: Matched,
    /// The tables that must be published for it.
    tables: BTreeSet<TableId>,
    objects: Objects,
    definitions: String,
    /// See [`load::seen`].
    seen: String,
}

impl Definitions {
    /// Looks for as long as kck runs.
    pub async fn run(mut self) {
        let mut wanted = self.recompute.wanted();
        let mut known = self.known();
        let mut all = Objects::default();
        known.values().for_each(|known| all.extend(&known.objects));
        loop {
            let looked_at = Instant::now();
            let pause = match self.look(&mut known, &all).await {
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

    fn known(&self) -> BTreeMap<String, Known> {
        let (catalog, index) =
            (Arc::clone(&self.catalog.borrow()), Arc::clone(&self.index.borrow()));
        let known = |product: &Arc<Product>| {
            let description = &product.description;
            let known = Known {
                matched: self.matched.get(product.name())?.clone(),
                tables: load::tables_of(&index, product.name()),
                objects: Objects::of(description),
                definitions: description.definitions.clone(),
                seen: self.matched.get(product.name())?.catalogue.clone(),
            };
            Some((product.name().to_owned(), known))
        };
        catalog.ready().filter_map(known).collect()
    }

    /// One look. Its certificate is that of a barrier answered before the question was sent (R14).
    async fn look(
        &mut self,
        known: &mut BTreeMap<String, Known>,
        all: &Objects,
    ) -> Result<(), Error> {
        let epoch = self.progress.borrow().epoch;
        let barrier = self.source.barrier().await?;
        let publication = self.source.publication(&self.publication).await?.unwrap_or_default();
        let found = self.source.catalogue(all).await?;
        if self.progress.borrow().epoch != epoch {
            // What was seen may be another history's.
            return Ok(());
        }
        for (product, known) in known.iter_mut() {
            let seen = load::seen(&found.fingerprint(&known.objects), &publication, &known.tables);
            if seen != known.seen {
                self.changed(product, known, &publication, &found).await?;
                known.seen = seen;
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

    /// What a product stands on is another than it was: it is marked, and leaves where its analysis holds no more
    /// or changes of its tables may be missing.
    async fn changed(
        &mut self,
        product: &str,
        known: &mut Known,
        publication: &Publication,
        found: &Catalogue,
    ) -> Result<(), Error> {
        // One past what this look could see: the commit that made the change ends at or below it.
        let at = Lsn(found.insert.0 + 1);
        if let Some(mark) = self.mark(product, at).await? {
            self.recompute.wake_later(Marks { keys: Vec::new(), products: vec![mark] });
        }
        let withdrawn = self.source.withdraw(&self.publication, &known.tables).await?;
        let analysed = found.definitions(&known.objects) == known.definitions;
        let membership = publication.identity(&known.tables);
        let followed = known.tables.is_subset(&publication.complete())
            && known.seen.ends_with(&format!(" {membership}"))
            && withdrawn.is_empty();
        if analysed && followed {
            known.matched.catalogue =
                load::seen(&found.fingerprint(&known.objects), publication, &known.tables);
            self.list(product, &known.matched).await?;
        } else {
            self.leave(product).await?;
        }
        self.observer.note(Event::DefinitionChanged { product: product.to_owned() });
        Ok(())
    }

    async fn mark(&self, product: &str, at: Lsn) -> Result<Option<(String, Position)>, Error> {
        let Some(at) = self.recompute.ledger().mark_product(product, at) else { return Ok(None) };
        self.store.save(&[state::mark(product, at)]).await?;
        Ok(Some((product.to_owned(), at)))
    }

    /// What is seen now is what a restart compares with; one that has not joined is listed when it has.
    async fn list(&self, product: &str, matched: &Matched) -> Result<(), Error> {
        if !self.recompute.ledger().is_cached(product, Lsn(u64::MAX - 1)) {
            return Ok(());
        }
        let stamp = self.recompute.state_stamp();
        self.store.save(&[state::matched(product, Some(matched.clone()), stamp)]).await?;
        Ok(())
    }

    /// The product is not what was analysed, or not followed: it leaves the list of those matched, durably, and is
    /// answered uncached until it is analysed anew.
    async fn leave(&self, product: &str) -> Result<(), Error> {
        self.recompute.ledger().leave(product);
        self.store.save(&[state::matched(product, None, self.recompute.state_stamp())]).await?;
        Ok(())
    }
}
