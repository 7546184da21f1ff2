//! A subscription: keys → their values now, each change of them, and how fresh they are; whatever the protocol.
//!
//! It is pulled: nothing is made before the reader takes it. A key that moves many times meanwhile is read once, so a
//! slow reader gets only the latest and costs what it watches. Versions of a key never go back; what could not be
//! read is said once and tried again with every beat.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{sync::watch, time::Sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    key::Key,
    observe::Observer,
    product::Catalog,
    recompute::{Moved, Watching},
    stage::Stage,
};

use super::{
    Context, Who,
    problem::{Kind, Problem},
    read::{self, Answer, AsOf, Demand, Outcome},
    share::{Client, Place},
};

/// How long a reader is left without a word.
pub const BEAT: Duration = Duration::from_secs(5);

/// How many keys of one subscription are read at once.
const READS_AT_ONCE: usize = 16;

/// What a reader is told.
#[derive(Debug)]
pub enum Event {
    /// A key has this answer.
    Value(Key, Answer),
    /// The last sent answers of these keys are exact as of this.
    Fresh(Vec<Key>, AsOf),
    /// A key, as it was asked for, cannot be answered; without one nothing can, and the subscription ends.
    Trouble(Option<String>, Problem),
    /// Nothing is fresh; the reader is not forgotten.
    Beat,
}

/// The keys of a subscription, each once, and what is known of them.
#[derive(Debug)]
struct Watched {
    /// As it was asked for.
    path: String,
    key: Key,
    /// The version last sent; zero when none was, or trouble since.
    sent: u64,
    /// The trouble last sent, if there was no answer since.
    trouble: Option<Kind>,
    /// When it moved, if that is not told yet.
    moved: Option<Instant>,
    reading: bool,
}

type Reading = Pin<Box<dyn Future<Output = (usize, Result<Answer, Problem>)> + Send>>;

/// See the module.
pub struct Subscription {
    context: Arc<Context>,
    who: Arc<Who>,
    keys: Vec<Watched>,
    watching: Watching,
    reading: FuturesUnordered<Reading>,
    /// To be read as soon as there is room.
    again: BTreeSet<usize>,
    beat: Pin<Box<Sleep>>,
    catalog: watch::Receiver<Arc<Catalog>>,
    shutdown: CancellationToken,
    ended: bool,
    _place: Place<Client>,
}

impl Subscription {
    /// Subscribes to these keys, as written in a path. `resume` is the last id that the reader has seen: what it has
    /// is not sent again.
    ///
    /// # Errors
    /// A key that cannot be, or the client's last place being taken.
    pub async fn open(
        context: Arc<Context>,
        who: Arc<Who>,
        paths: Vec<String>,
        resume: Option<&str>,
        shutdown: CancellationToken,
    ) -> Result<Self, Problem> {
        let place = context.subscriptions.take(who.client.clone()).ok_or_else(|| {
            let hint = "close one, or raise limits.subscriptions";
            Problem::new(Kind::TooManyRequests, "this client has too many subscriptions", hint)
                .after(BEAT)
        })?;
        let mut keys: Vec<Watched> = Vec::with_capacity(paths.len());
        for path in paths {
            let (_, key) = who.reads(&context, &path).await?;
            if !keys.iter().any(|watched| watched.key == key) {
                let (sent, trouble, moved, reading) = (0, None, None, false);
                keys.push(Watched { path, key, sent, trouble, moved, reading });
            }
        }
        let catalog = context.catalog.clone();
        let watching = context.recompute.watch(keys.iter().map(|own| own.key.clone()).collect());
        // Readers that came at one moment are not all spoken to at one moment.
        let sixteenth = u32::try_from(context.subscriptions.taken() % 16).unwrap_or(0);
        let first = BEAT - BEAT / 32 * sixteenth;
        let mut subscription = Self {
            again: (0..keys.len()).collect(),
            context,
            who,
            keys,
            watching,
            reading: FuturesUnordered::new(),
            beat: Box::pin(tokio::time::sleep(first)),
            catalog,
            shutdown,
            ended: false,
            _place: place,
        };
        if let Some(versions) = resume.and_then(|id| subscription.versions(id)) {
            for (watched, version) in subscription.keys.iter_mut().zip(versions) {
                watched.sent = version;
            }
        }
        Ok(subscription)
    }

    /// What the reader is told next; `None` after the end.
    pub async fn next(&mut self) -> Option<Event> {
        let ends = self.who.ends;
        while !self.ended {
            self.start_reading();
            let token_ends = async {
                match ends {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Some(self.end(Problem::draining())),
                () = token_ends => return Some(self.end(Problem::unauthorized())),
                // Before the keys, so that it comes also where they never rest.
                () = self.beat.as_mut() => return Some(self.on_beat()),
                Some((at, answered)) = self.reading.next() => {
                    let event = self.answered(at, answered);
                    if event.is_some() {
                        return event;
                    }
                }
                () = self.watching.moved() => self.moved(),
                Ok(()) = self.catalog.changed() => self.again.extend(0..self.keys.len()),
            }
        }
        None
    }

    /// Where what was told is counted.
    #[must_use]
    pub fn observer(&self) -> &Observer {
        &self.context.observer
    }

    /// Whether everything that is known has been told: only then does an id stand for all that the reader has.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.again.is_empty() && self.reading.is_empty()
    }

    /// What the reader has, for [`Subscription::open`] of the same keys.
    #[must_use]
    pub fn id(&self) -> String {
        let mut id = format!("{:x}", self.digest());
        for watched in &self.keys {
            write!(id, "-{:x}", watched.sent).expect("a text in memory grows");
        }
        id
    }

    /// The versions of an id of the same keys in the same order.
    fn versions(&self, id: &str) -> Option<Vec<u64>> {
        let mut parts = id.split('-').map(|part| u64::from_str_radix(part, 16));
        let own = parts.next()?.ok()? == self.digest();
        let versions = parts.collect::<Result<Vec<u64>, _>>().ok()?;
        (own && versions.len() == self.keys.len()).then_some(versions)
    }

    /// Tells lists of keys apart.
    fn digest(&self) -> u64 {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        for watched in &self.keys {
            hash.update(watched.key.as_str());
            hash.update([0]);
        }
        hash.finalize().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
    }

    fn moved(&mut self) {
        let Moved { keys, since } = self.watching.take();
        for at in keys {
            self.again.insert(at);
            if let Some(watched) = self.keys.get_mut(at) {
                watched.moved = watched.moved.or(since);
            }
        }
    }

    fn end(&mut self, problem: Problem) -> Event {
        self.ended = true;
        Event::Trouble(None, problem)
    }

    fn start_reading(&mut self) {
        while self.reading.len() < READS_AT_ONCE {
            let free = |at: &&usize| self.keys.get(**at).is_some_and(|watched| !watched.reading);
            let Some(at) = self.again.iter().find(free).copied() else { return };
            self.again.remove(&at);
            if let Some(watched) = self.keys.get_mut(at) {
                watched.reading = true;
                let (context, who) = (Arc::clone(&self.context), Arc::clone(&self.who));
                let read = read_key(context, who, watched.path.clone(), watched.key.clone());
                self.reading.push(Box::pin(read.map(move |answered| (at, answered))));
            }
        }
    }

    fn answered(&mut self, at: usize, answered: Result<Answer, Problem>) -> Option<Event> {
        let watched = self.keys.get_mut(at)?;
        watched.reading = false;
        match answered {
            Ok(answer) => {
                let news = answer.version > watched.sent;
                if news {
                    watched.sent = answer.version;
                }
                watched.trouble = None;
                if let Some(moved) = watched.moved.take() {
                    self.context.observer.took(Stage::Push, moved.elapsed());
                }
                news.then(|| Event::Value(watched.key.clone(), answer))
            }
            Err(problem) if problem.kind == Kind::Draining => Some(self.end(problem)),
            Err(problem) => {
                let news = watched.trouble.replace(problem.kind) != Some(problem.kind);
                // Whatever comes next says that it is over.
                watched.sent = 0;
                news.then(|| Event::Trouble(Some(watched.path.clone()), problem))
            }
        }
    }

    /// What is fresh is said to be; the rest is looked at again.
    fn on_beat(&mut self) -> Event {
        self.beat.as_mut().reset(tokio::time::Instant::now() + BEAT);
        let (mut fresh, mut as_of) = (Vec::new(), None::<AsOf>);
        for (at, watched) in self.keys.iter().enumerate() {
            let standing = self.context.recompute.read(&watched.key);
            let told = standing.filter(|(standing, _)| standing.meta.version == watched.sent);
            match told {
                Some((standing, progress)) if standing.fresh => {
                    if standing.certified {
                        let stands = read::stands(&standing, &progress);
                        let own = AsOf { lsn: stands.position.lsn, time: stands.time };
                        let least = |least: AsOf| AsOf {
                            lsn: least.lsn.min(own.lsn),
                            time: least.time.min(own.time),
                        };
                        as_of = Some(as_of.map_or(own, least));
                        fresh.push(watched.key.clone());
                    }
                }
                _ => {
                    self.again.insert(at);
                }
            }
        }
        as_of.map_or(Event::Beat, |as_of| Event::Fresh(fresh, as_of))
    }
}

/// One key, as it is asked for now: what it means, and who may read it, may have changed.
async fn read_key(
    context: Arc<Context>,
    who: Arc<Who>,
    path: String,
    key: Key,
) -> Result<Answer, Problem> {
    let (product, now) = who.reads(&context, &path).await?;
    if now != key {
        let hint = "subscribe again";
        return Err(Problem::new(Kind::BadRequest, "the key means another now", hint));
    }
    let demand = Demand::plain(context.limits.wait, who.client.clone());
    let (Outcome::Answer(answer) | Outcome::Unchanged(answer)) =
        read::read(&context, &product, &key, &demand).await?;
    who.still_reads(&context, product, &key, &answer).await?;
    Ok(answer)
}
