//! What products read, looked at again and again → marks for what the stream does not say (R14).
//!
//! A changed definition marks its products as a whole and takes them out of the cache until they are analysed
//! anew; definitions found as they were analysed carry the certificate on.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    change::Lsn,
    observe::{Event, Observer},
    postgres::{Error as SourceError, Housekeeping, catalogue::Objects, describe_chain},
    product::Catalog,
    progress::{Certificate, Progress},
    recompute,
    store::{Store, state},
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
    objects: Objects,
    definitions: String,
    catalogue: String,
}

impl Definitions {
    /// Looks for as long as kck runs.
    pub async fn run(mut self) {
        let mut wanted = self.recompute.wanted();
        let mut known = self.known();
        loop {
            let looked_at = Instant::now();
            let pause = match self.look(&mut known).await {
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
        let catalog = Arc::clone(&self.catalog.borrow());
        let follows = catalog.ready().filter(|product| product.draft.policy.change);
        follows
            .map(|product| {
                let description = &product.description;
                let known = Known {
                    objects: Objects::of(description),
                    definitions: description.definitions.clone(),
                    catalogue: description.catalogue.clone(),
                };
                (product.name().to_owned(), known)
            })
            .collect()
    }

    /// One look. Its certificate is that of a barrier answered before the question was sent (R14).
    async fn look(&mut self, known: &mut BTreeMap<String, Known>) -> Result<(), Error> {
        let barrier = self.source.barrier().await?;
        let mut all = Objects::default();
        known.values().for_each(|known| all.extend(&known.objects));
        let found = self.source.catalogue(&all).await?;
        let mut changed = BTreeMap::new();
        for (product, known) in known.iter_mut() {
            if found.fingerprint(&known.objects) == known.catalogue {
                continue;
            }
            // One past what this look could see: the commit that made the change ends at or below it.
            changed.insert(product.clone(), Lsn(found.insert.0 + 1));
            if found.definitions(&known.objects) != known.definitions {
                self.leave(product).await?;
            }
        }
        if !changed.is_empty() {
            let marks = self.recompute.mark(&HashMap::new(), &changed);
            let cells: Vec<_> =
                marks.products.iter().map(|(product, at)| state::mark(product, *at)).collect();
            self.store.save(&cells).await?;
            for product in changed.keys() {
                self.observer.note(Event::DefinitionChanged { product: product.clone() });
                if let Some(known) = known.get_mut(product) {
                    known.definitions = found.definitions(&known.objects);
                    known.catalogue = found.fingerprint(&known.objects);
                }
            }
            self.source.nudge().await?;
            self.recompute.wake(&marks);
        }
        let certificate =
            Certificate { lsn: barrier.insert, time: barrier.time, sent: barrier.sent };
        self.progress.send_modify(|progress| progress.definitions = Some(certificate));
        Ok(())
    }

    /// The product is not what was analysed: it leaves the list of those matched, durably, and is answered
    /// uncached until it is analysed anew.
    async fn leave(&self, product: &str) -> Result<(), Error> {
        self.recompute.ledger().joins(product, Lsn(u64::MAX));
        self.store.save(&[state::matched(product, None, self.recompute.state_stamp())]).await?;
        Ok(())
    }
}
