//! A read: key and demand → answer. What a read means, whatever the protocol (R5, R8, R9; DESIGN section 10).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    change::{Epoch, Lsn, Position, SourceTime},
    entry::{Fingerprint, Meta, Stamp},
    key::Key,
    observe::ReadSource,
    product::{Product, Stale},
    progress::Progress,
    recompute::{Error, ledger::Standing, queue::Want},
};

use super::{Context, form::Form, share::Client};

/// A position a reader demands, maybe of a certain epoch: `0/16B3748` or `3:0/16B3748`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The epoch it was given in, if it says so.
    pub epoch: Option<Epoch>,
    /// The position.
    pub lsn: Lsn,
}

/// What a reader demands beyond an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// At least this position (R9).
    pub min_lsn: Option<Token>,
    /// Exact as of at most this long ago.
    pub max_staleness: Option<Duration>,
    /// A computation that starts after the request.
    pub fresh: bool,
    /// Only a version newer than this.
    pub after: Option<u64>,
    /// How long to wait for it.
    pub wait: Duration,
    /// Who asks: computations count against its share.
    pub client: Client,
}

impl Demand {
    /// Whatever stands.
    #[must_use]
    pub fn plain(wait: Duration, client: Client) -> Self {
        Self { min_lsn: None, max_staleness: None, fresh: false, after: None, wait, client }
    }
}

/// What an answer is exact as of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsOf {
    /// Every commit up to here is in the answer or does not touch it.
    pub lsn: Lsn,
    /// It equals the query run on the source at some moment not before this.
    pub time: SourceTime,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The JSON as Postgres made it.
    pub body: Bytes,
    /// Grows with every change of the bytes.
    pub version: u64,
    /// When the bytes last changed, on the source's clock.
    pub modified: SourceTime,
    /// What it is exact as of.
    pub as_of: AsOf,
    /// A later commit is known to touch it.
    pub stale: bool,
    /// When it stops being an answer.
    pub expires: Option<SourceTime>,
    /// Whole seconds until then, where the product has `expire`.
    pub ttl: Option<u64>,
    /// Where it came from.
    pub source: ReadSource,
    /// Which bytes these are; zero where they are not kept.
    pub stamp: Stamp,
    /// The definition that they answer.
    pub fingerprint: Fingerprint,
}

/// How an entry stands when it is answered: judged against one look at how far kck is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stands {
    /// In which epoch, and where: what a demanded position is compared with.
    pub position: Position,
    /// It equals the query run on the source at some moment not before this.
    pub time: SourceTime,
    /// A later commit is known to touch it.
    pub stale: bool,
}

/// An answer with the position that it meets.
struct Held {
    answer: Answer,
    position: Position,
}

/// What a read came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The answer.
    Answer(Answer),
    /// `after` was given and there is nothing newer within `wait`; the answer as it stands.
    Unchanged(Answer),
}

/// Answers a key as demanded.
///
/// # Errors
/// [`Error::NotFreshInTime`] when the demand is not met within its `wait`; what a computation came to otherwise.
pub async fn read(
    context: &Context,
    product: &Arc<Product>,
    key: &Key,
    demand: &Demand,
) -> Result<Outcome, Error> {
    let read = Read { context, product, key, demand, deadline: Instant::now() + demand.wait };
    let outcome = if demand.after.is_some() {
        // Boxed, as is all that a hit does not come to: its future is moved with every request.
        Box::pin(read.newer()).await
    } else {
        read.once(demand.fresh).await.map(Outcome::Answer)
    };
    if let Ok(Outcome::Answer(answer) | Outcome::Unchanged(answer)) = &outcome {
        context.observer.answered(answer.source, answer.stale);
    }
    outcome
}

struct Read<'a> {
    context: &'a Context,
    product: &'a Arc<Product>,
    key: &'a Key,
    demand: &'a Demand,
    deadline: Instant,
}

impl Read<'_> {
    /// Waits for a version above `after`; the first of all is what stands.
    async fn newer(&self) -> Result<Outcome, Error> {
        let after = self.demand.after.unwrap_or(0);
        // Computed once for the asking; what comes then is waited for.
        let mut fresh = self.demand.fresh;
        let watching = self.context.recompute.watch(vec![self.key.clone()]);
        loop {
            watching.take();
            let answer = self.once(std::mem::take(&mut fresh)).await?;
            if answer.version > after {
                return Ok(Outcome::Answer(answer));
            }
            if answer.stale {
                self.context.recompute.queue_stale(self.key);
            }
            if tokio::time::timeout_at(self.deadline.into(), watching.moved()).await.is_err() {
                return Ok(Outcome::Unchanged(answer));
            }
        }
    }

    /// One answer that meets the demand.
    async fn once(&self, fresh: bool) -> Result<Answer, Error> {
        self.epoch_agrees()?;
        if fresh {
            Box::pin(self.until_visible()).await?;
            return Ok(Box::pin(self.computed(Want::New, ReadSource::Miss)).await?.answer);
        }
        if self.demand.min_lsn.is_none()
            && self.demand.max_staleness.is_none()
            && let Some(held) = self.standing(ReadSource::Hit).await
            && (!held.answer.stale || self.product.draft.policy.stale == Stale::Serve)
        {
            if held.answer.stale {
                self.context.recompute.queue_stale(self.key);
            }
            return Ok(held.answer);
        }
        Box::pin(self.demanded()).await
    }

    /// Waits, and computes where waiting cannot help, until the demand is met.
    async fn demanded(&self) -> Result<Answer, Error> {
        let mut progress = self.context.progress.clone();
        let mut source = ReadSource::Hit;
        loop {
            self.epoch_agrees()?;
            let now = *progress.borrow_and_update();
            let computed = match self.standing(source).await {
                Some(held) if self.meets(&held) => return Ok(held.answer),
                Some(held) if !held.answer.stale && self.can_be_certified() => None,
                // Computing before V is there would only have to be done again.
                _ if self.waits_for_visible(&now) || self.is_behind(&now) => None,
                Some(_) if now.as_of() < self.context.recompute.ledger().mark_of(self.key) => None,
                Some(_) => Some(self.computed(Want::AtLeast(now.as_of()), ReadSource::Wait).await?),
                None => {
                    Some(self.computed(Want::AtLeast(self.least(&now)), ReadSource::Miss).await?)
                }
            };
            // Without a demand a miss may say `stale` (R4), unless the product waits for the fresh one.
            if let Some(held) = computed
                && self.meets(&held)
            {
                return Ok(held.answer);
            }
            source = ReadSource::Wait;
            self.context.recompute.hasten();
            self.moved(&mut progress).await?;
        }
    }

    /// The demanded position in the present epoch. Inside a page's header it counts as the page's start, as the
    /// stream and certificates name it.
    fn demanded_position(&self, now: &Progress) -> Option<Position> {
        let token = self.demand.min_lsn?;
        let lsn = token.lsn.floor_to_record_end(now.segment_bytes);
        Some(Position { epoch: token.epoch.unwrap_or(now.epoch), lsn })
    }

    /// A computation that starts before V is at the demanded position may not see it.
    async fn until_visible(&self) -> Result<(), Error> {
        let mut progress = self.context.progress.clone();
        self.context.recompute.hasten();
        loop {
            // Copied: nothing else may be locked while it is.
            let now = *progress.borrow_and_update();
            if !(self.waits_for_visible(&now) || self.is_behind(&now)) {
                return self.epoch_agrees();
            }
            self.moved(&mut progress).await?;
        }
    }

    /// Returns when kck has come further, within the deadline.
    async fn moved(&self, progress: &mut watch::Receiver<Progress>) -> Result<(), Error> {
        match tokio::time::timeout_at(self.deadline.into(), progress.changed()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Error::Stopping),
            Err(_) => Err(self.context.recompute.too_late("")),
        }
    }

    /// Where a running computation must have begun to be worth waiting for.
    fn least(&self, now: &Progress) -> Position {
        self.demanded_position(now).unwrap_or_default()
    }

    fn can_be_certified(&self) -> bool {
        self.product.is_certified()
    }

    fn waits_for_visible(&self, now: &Progress) -> bool {
        self.demanded_position(now).is_some_and(|demanded| now.as_of() < demanded)
    }

    /// After a start V is behind where it was: what is computed then is older than what is kept, and is not kept.
    fn is_behind(&self, now: &Progress) -> bool {
        let standing = self.context.recompute.ledger().standing(self.key);
        standing.is_some_and(|standing| now.as_of() < standing.meta.as_of)
    }

    fn epoch_agrees(&self) -> Result<(), Error> {
        let epoch = self.context.progress.borrow().epoch;
        match self.demand.min_lsn {
            Some(Token { epoch: Some(asked), .. }) if asked != epoch => {
                Err(self.context.recompute.too_late("another epoch"))
            }
            _ => Ok(()),
        }
    }

    /// R9 and `max_staleness`; without either, whether the product lets a stale answer pass.
    fn meets(&self, held: &Held) -> bool {
        let now = *self.context.progress.borrow();
        // The position of an unmarked answer includes the certificate, of a marked one it is its own.
        let position = self.demanded_position(&now).is_none_or(|demanded| {
            held.position.epoch == demanded.epoch && held.position >= demanded
        });
        let age = self.demand.max_staleness.is_none_or(|age| {
            let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
            let clock = now.source_now(Instant::now());
            clock.is_some_and(|clock| held.answer.as_of.time.0 >= clock.0.saturating_sub(age))
        });
        let waits = self.demand.min_lsn.is_none()
            && self.demand.max_staleness.is_none()
            && self.product.draft.policy.stale == Stale::Wait;
        position && age && !(waits && held.answer.stale)
    }

    /// What the entry answers now; a miss when its bytes are not to be had.
    async fn standing(&self, source: ReadSource) -> Option<Held> {
        let (standing, progress) = self.context.recompute.read(self.key)?;
        // One of another definition, or made from what is none any more, stands in only where stale answers are served,
        // and meets no demand.
        let demanded = self.demand.min_lsn.is_some() || self.demand.max_staleness.is_some();
        if (standing.meta.fingerprint != self.product.fingerprint || !standing.sound)
            && (demanded || self.product.draft.policy.stale == Stale::Wait)
        {
            return None;
        }
        let body = self.body(&standing).await?;
        Some(self.held(&standing.meta, body, stands(&standing, &progress), source))
    }

    /// The bytes of this very stamp: from memory, else from the store. Without them there is no entry: they were
    /// never written, or are on their way, and whoever computes the key then joins who does.
    async fn body(&self, standing: &Standing) -> Option<Bytes> {
        let stamp = standing.meta.stamp;
        if let Some(body) = self.context.near.get(self.key, stamp) {
            return Some(body);
        }
        match self.context.store.get(self.key).await {
            Ok(Some(entry)) if entry.meta.stamp == stamp => {
                let near = &self.context.near;
                near.insert(self.key.clone(), Form::Json, stamp, entry.body.clone());
                Some(entry.body)
            }
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%error, "reading an entry waits for the store");
                None
            }
        }
    }

    async fn computed(&self, want: Want, source: ReadSource) -> Result<Held, Error> {
        let share = self.context.misses.take(&self.demand.client, Instant::now());
        share.map_err(|retry| Error::OverShare { retry })?;
        let result = self.context.recompute.compute(self.key, want, self.deadline).await;
        let fresh = match result {
            Ok(fresh) => fresh,
            Err(error) => return self.instead(error).await,
        };
        if fresh.cached {
            let (stamp, body) = (fresh.meta.stamp, fresh.body.clone());
            self.context.near.insert(self.key.clone(), Form::Json, stamp, body);
        }
        let stands = match self.context.recompute.read(self.key) {
            Some((standing, progress))
                if fresh.cached && standing.meta.stamp == fresh.meta.stamp =>
            {
                stands(&standing, &progress)
            }
            // Not kept, or another was kept meanwhile: it is what it was as of its own statement.
            _ => Stands {
                position: fresh.meta.as_of,
                time: fresh.meta.as_of_time,
                stale: fresh.meta.as_of < self.context.recompute.ledger().mark_of(self.key),
            },
        };
        Ok(self.held(&fresh.meta, fresh.body.clone(), stands, source))
    }

    /// A computation that failed leaves the last entry, stale, under `stale = "serve"` and without a demand.
    async fn instead(&self, error: Error) -> Result<Held, Error> {
        let demanded = self.demand.fresh
            || self.demand.min_lsn.is_some()
            || self.demand.max_staleness.is_some();
        let serves = self.product.draft.policy.stale == Stale::Serve && !demanded;
        let failed = matches!(
            error,
            Error::SourceUnavailable(_) | Error::ProductBroken { .. } | Error::NoAnswer { .. }
        );
        match self.standing(ReadSource::Hit).await {
            Some(held) if serves && failed => Ok(held),
            _ => Err(error),
        }
    }

    fn held(&self, meta: &Meta, body: Bytes, stands: Stands, source: ReadSource) -> Held {
        let now = self.context.progress.borrow().source_now(Instant::now());
        let ttl = meta.expires.map(|expires| {
            // Before the first barrier the source's clock is known from the statement alone.
            let left = expires.0.saturating_sub(now.unwrap_or(meta.as_of_time).0);
            u64::try_from(left / 1_000_000).unwrap_or(0)
        });
        let answer = Answer {
            body,
            version: meta.version,
            modified: meta.modified,
            as_of: AsOf { lsn: stands.position.lsn, time: stands.time },
            stale: stands.stale,
            expires: meta.expires,
            ttl,
            source,
            stamp: meta.stamp,
            fingerprint: meta.fingerprint,
        };
        Held { answer, position: stands.position }
    }
}

/// R8: an unmarked answer of a matched product is exact as of the certificate or its own, whichever is later. The
/// certificate is one that was given before the answer was found unmarked.
#[must_use]
pub fn stands(standing: &Standing, progress: &Progress) -> Stands {
    let own = standing.meta.as_of;
    let (mut position, mut time) = (own, standing.meta.as_of_time);
    if let Some(certificate) = progress.certified()
        && standing.fresh
        && standing.certified
        && progress.epoch == own.epoch
    {
        position.lsn = own.lsn.max(certificate.lsn);
        time = time.max(certificate.time);
    }
    Stands { position, time, stale: !standing.fresh }
}
