//! Managing keys: a key or a prefix → computed anew, forgotten, listed, explained; whatever the protocol.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};

use crate::{
    change::{Position, SourceTime},
    key::Key,
    product::Product,
    recompute::queue::Want,
    serve::read::{self, Stands},
};

use super::{
    Context, Who,
    problem::{Kind, Problem},
    resolve,
};

/// Keys that are computed at once for one request.
const AT_ONCE: usize = 64;

/// How long one key may take to be computed.
const EACH_WITHIN: Duration = Duration::from_secs(60);

/// Keys that are looked at for one list, whoever may read them.
const SCANNED_AT_ONCE: usize = 10_000;

/// Keys that are forgotten in one write.
const FORGET_AT_ONCE: usize = 1000;

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One key, tracked or not.
    Key(Key),
    /// Every tracked key that begins so, by whole segments.
    Prefix(Prefix),
}

/// A product, maybe with the first of its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    /// Its name.
    pub product: String,
    /// Whole segments, with a `/` behind the last where parameters are given.
    text: String,
}

/// What became of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done {
    /// How many there were.
    pub keys: u64,
    /// How many of them could not be computed.
    pub failed: u64,
}

/// A tracked key as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub key: Key,
    /// Its entry, if there is one.
    pub entry: Option<Standing>,
}

/// An entry as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What it is exact as of, and whether it is stale.
    pub stands: Stands,
    /// Of its bytes.
    pub version: u64,
    /// When they last changed.
    pub modified: SourceTime,
    /// What its computation cost.
    pub cost: Duration,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// Which.
    pub key: Key,
    /// Changes are matched against it.
    pub tracked: bool,
    /// Somebody is told of its changes.
    pub watched: bool,
    /// It was read since it was last computed.
    pub hot: bool,
    /// Its entry, if there is one.
    pub entry: Option<Standing>,
    /// The newest commit that is known to touch it; none in this start's memory.
    pub mark: Option<Position>,
}

impl Context {
    /// What a path names: a key wherever a read would take it for one, else a prefix; with a `/` at its end always
    /// that.
    ///
    /// # Errors
    /// An unknown product, or parameters of which no key can be.
    pub async fn target(&self, path: &str) -> Result<Target, Problem> {
        if let Some(prefix) = path.strip_suffix('/') {
            return self.prefix(prefix).await.map(Target::Prefix);
        }
        match resolve::from_path(self, path).await {
            Ok((_, key)) => Ok(Target::Key(key)),
            Err(problem) if problem.kind == Kind::ParameterCount => {
                // Too many are no prefix either.
                self.prefix(path).await.map(Target::Prefix).map_err(|_| problem)
            }
            Err(problem) => Err(problem),
        }
    }

    async fn prefix(&self, path: &str) -> Result<Prefix, Problem> {
        let (product, values) = resolve::prefix(self, path).await?;
        let mut text = String::new();
        crate::key::write_key(&mut text, &product, values.iter().map(String::as_str));
        if !values.is_empty() {
            text.push('/');
        }
        Ok(Prefix { product, text })
    }

    fn keys_of(&self, prefix: &Prefix) -> Vec<Key> {
        let ledger = self.recompute.ledger();
        let keys = ledger.keys_from(&prefix.product, &prefix.text);
        keys.take_while(|key| key.as_str().starts_with(&prefix.text)).cloned().collect()
    }

    fn keys(&self, target: &Target) -> Vec<Key> {
        match target {
            Target::Key(key) => vec![key.clone()],
            Target::Prefix(prefix) => self.keys_of(prefix),
        }
    }

    /// Computes what is named anew, and waits for it.
    pub async fn refresh(&self, target: &Target) -> Done {
        let computed = stream::iter(self.keys(target)).map(|key| async move {
            let deadline = Instant::now() + EACH_WITHIN;
            self.recompute.compute(&key, Want::New, deadline).await.is_ok()
        });
        let mut computed = computed.buffer_unordered(AT_ONCE);
        let mut done = Done::default();
        while let Some(well) = computed.next().await {
            done.keys += 1;
            done.failed += u64::from(!well);
        }
        done
    }

    /// Forgets what is named: its entries, and that it is followed.
    ///
    /// # Errors
    /// When the store does not take it; some may be forgotten.
    pub async fn purge(&self, target: &Target) -> Result<Done, Problem> {
        let mut keys = self.keys(target);
        {
            let ledger = self.recompute.ledger();
            keys.retain(|key| ledger.is_tracked(key));
        }
        for some in keys.chunks(FORGET_AT_ONCE) {
            self.recompute.untrack_all(some).await.map_err(|error| {
                tracing::warn!(%error, "forgetting keys waits for the store");
                let hint = "try again; /readyz says since when";
                Problem::new(Kind::SourceUnavailable, "the store cannot be written to now", hint)
            })?;
        }
        Ok(Done { keys: keys.len() as u64, failed: 0 })
    }

    /// The next tracked keys of a product behind this one, in the order of their texts, as far as `who` may read
    /// them; and where the rest begins, if there is one.
    pub async fn list(
        &self,
        who: &Who,
        product: &Arc<Product>,
        after: &str,
        most: usize,
    ) -> (Vec<Listed>, Option<Key>) {
        let keys: Vec<Key> = {
            let ledger = self.recompute.ledger();
            let keys = ledger.keys_from(product.name(), after);
            let keys = keys.filter(|key| key.as_str() > after);
            keys.take(SCANNED_AT_ONCE).cloned().collect()
        };
        let all = keys.len() < SCANNED_AT_ONCE;
        let (mut listed, last) = (Vec::new(), keys.last().cloned());
        for key in keys {
            if who.may_read(self, product, &key).await.is_ok() {
                if listed.len() == most {
                    let next = listed.last().map(|last: &Listed| last.key.clone());
                    return (listed, next);
                }
                let entry = self.standing(&key);
                listed.push(Listed { key, entry });
            }
        }
        (listed, last.filter(|_| !all))
    }

    /// What is known of a key.
    #[must_use]
    pub fn why(&self, key: &Key) -> Why {
        let (tracked, hot, mark) = {
            let ledger = self.recompute.ledger();
            (ledger.is_tracked(key), ledger.is_hot(key), ledger.mark_of(key))
        };
        let mark = Some(mark).filter(|mark| mark.lsn.0 > 0);
        let (watched, entry) = (self.recompute.is_watched(key), self.standing(key));
        Why { key: key.clone(), tracked, watched, hot, entry, mark }
    }

    fn standing(&self, key: &Key) -> Option<Standing> {
        let (standing, progress) = self.recompute.look(key)?;
        Some(Standing {
            stands: read::stands(&standing, &progress),
            version: standing.meta.version,
            modified: standing.meta.modified,
            cost: Duration::from_micros(u64::from(standing.meta.cost_us)),
        })
    }
}
