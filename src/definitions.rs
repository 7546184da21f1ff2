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
    change::{Lsn, Position},
    observe::{Event, Observer},
    postgres::{
        Error as SourceError, Housekeeping,
        catalogue::{Catalogue, Objects},
        describe, describe_chain,
        publication::Publication,
    },
    product::{Catalog, Slot},
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
/// For finding out whether products outlast columns that came; past it they are analysed anew.
const DESCRIBE_AT_MOST: Duration = Duration::from_secs(3);
/// While the source or the store is away.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// What looking at definitions stands on.
pub struct Definitions {
    /// Questions to the source.
    pub source: Housekeeping,
    /// For descriptions, which may wait for locks.
    pub describer: Housekeeping,
    /// The products themselves.
    pub catalog: watch::Receiver<Arc<Catalog>>,
    /// What they stand on.
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

/// What one look found.
struct Look {
    publication: Publication,
    found: Catalogue,
    /// Where the log was before the look before.
    last: Lsn,
    describe_until: Instant,
}

/// Everyone, as they were when they last changed.
#[derive(Default)]
struct Asked {
    count: Option<u64>,
    known: BTreeMap<String, Arc<Known>>,
    all: Objects,
    /// A look that was sent at this position found everything as it is known, or noted what was not.
    last: Lsn,
}

impl Asked {
    fn follow(&mut self, members: &Members) {
        if self.count == Some(members.count()) {
            return;
        }
        let mut all = Objects::default();
        members.known().values().for_each(|known| all.extend(&known.objects));
        let (count, known) = (Some(members.count()), members.known().clone());
        *self = Self { count, known, all, last: self.last };
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
        let look = Look {
            publication,
            found,
            last: asked.last,
            describe_until: Instant::now() + DESCRIBE_AT_MOST,
        };
        for (product, known) in &asked.known {
            let seen = known.seen_in(&look.found, &look.publication);
            if known.seen.as_ref() != Some(&seen) {
                self.moved(product, known, seen, &look).await?;
            }
        }
        asked.last = barrier.insert;
        self.describer.hang_up();
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

    /// What a product stands on is another than it was: it is marked, and leaves where its analysis holds no more or
    /// changes of its tables may be missing.
    async fn moved(
        &mut self,
        product: &str,
        known: &Arc<Known>,
        seen: Seen,
        look: &Look,
    ) -> Result<(), Error> {
        let Look { publication, found, .. } = look;
        let roster = Arc::clone(&self.roster);
        let mut members = roster.members().await;
        if !members.knows(product, known) {
            return Ok(());
        }
        if !known.works {
            if known.seen.is_some() {
                members.ask(product);
                roster.wake_reload();
            }
            members.see(product, seen);
            return Ok(());
        }
        let analysed = found.definitions(&known.objects) == known.definitions;
        if analysed && !known.followed && !known.grew(&seen) {
            members.see(product, seen);
            return Ok(());
        }
        // One past what this look could see: the commit that made the change ends at or below it.
        let at = Lsn(found.insert.0 + 1);
        let grown = known.grew(&seen);
        if grown && self.outlasts(product, look).await {
            self.mark_suspects(product, look.last, at).await?;
            members.see(product, seen);
            return Ok(());
        }
        if let Some(mark) = self.mark(product, at).await? {
            self.recompute.wake_later(Marks { keys: Vec::new(), products: vec![mark] });
        }
        let withdrawn = self.source.withdraw(&self.publication, &known.tables).await?;
        let followed = known.tables.is_subset(&publication.complete())
            && known.seen.as_ref().is_some_and(|before| before.membership == seen.membership)
            && withdrawn.is_empty();
        if analysed && followed && !grown {
            self.stays(&mut members, product, seen).await?;
        } else {
            self.leaves(&mut members, product).await?;
        }
        self.observer.note(Event::DefinitionChanged { product: product.to_owned() });
        Ok(())
    }

    /// What is seen now is what a restart compares with; one that has not joined is listed when it has.
    async fn stays(&self, members: &mut Members, product: &str, seen: Seen) -> Result<(), Error> {
        members.see(product, seen);
        if let Some(known) = members.known().get(product)
            && !members.is_joining(product)
        {
            let (matched, stamp) = (Some(known.matched()), self.recompute.state_stamp());
            self.store.save(&[state::matched(product, matched, stamp)]).await?;
        }
        Ok(())
    }

    /// Its analysis holds no more, or changes of its tables may be missing: it leaves the list of those matched,
    /// durably, and is answered uncached until it is analysed anew.
    async fn leaves(&self, members: &mut Members, product: &str) -> Result<(), Error> {
        self.recompute.ledger().leave(product);
        self.recompute.wake_outdated();
        let stamp = self.recompute.state_stamp();
        self.store.save(&[state::matched(product, None, stamp)]).await?;
        members.leave(product);
        members.ask(product);
        self.roster.wake_reload();
        Ok(())
    }

    /// Whether a product means the same though columns came to what it reads. Where that cannot be said soon, it does
    /// not.
    async fn outlasts(&mut self, product: &str, look: &Look) -> bool {
        let slot = self.catalog.borrow().products.get(product).cloned();
        let Some(running) = slot.as_ref().and_then(Slot::product) else { return false };
        let describe = async {
            let client = self.describer.client().await.ok()?;
            describe::describe(client, &running.draft.question).await.ok()
        };
        let described = tokio::time::timeout_at(look.describe_until.into(), describe).await;
        if described.is_err() {
            self.describer.hang_up();
        }
        described.ok().flatten().is_some_and(|grown| running.description.outlasts(&grown))
    }

    /// It means what it meant, but may have meant something else for a moment since the last look: what was computed
    /// since then is.
    async fn mark_suspects(&self, product: &str, last: Lsn, at: Lsn) -> Result<(), Error> {
        let suspects = self.recompute.computed_after(product, last);
        let suspects = suspects.into_iter().map(|key| (key, at)).collect();
        let marks = self.recompute.mark(&suspects, &HashMap::new(), &BTreeMap::new());
        self.store.mark(&marks.keys).await?;
        self.recompute.wake_later(marks);
        Ok(())
    }

    async fn mark(&self, product: &str, at: Lsn) -> Result<Option<(String, Position)>, Error> {
        let Some(at) = self.recompute.ledger().mark_product(product, at) else { return Ok(None) };
        self.store.save(&[state::mark(product, at)]).await?;
        Ok(Some((product.to_owned(), at)))
    }
}
