//! The stream, epoch after epoch: runs the pipeline, and begins anew where the source's history broke (R10).

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::{
    advance::{self, Step},
    canary::Canary,
    capture::{
        self, Stream,
        guard::{self, Verdict},
        stream::{self, Replication},
    },
    change::Lsn,
    entry::Stamp,
    inbox::Inbox,
    join::{self, Joining},
    key::Key,
    observe::Event,
    parts::{Failure, Parts},
    pipeline::{self, Pipeline},
    postgres::{Housekeeping, describe_chain, lookup::Lookups, slot},
    progress::Progress,
    resume::{Resumed, Resuming},
    store::state::{self, State},
};

/// New epochs within an hour, past which the next waits until the hour is over.
const EPOCHS_AN_HOUR: usize = 3;
const HOUR: Duration = Duration::from_secs(3600);
/// Between tries while the source or the store is away.
const RETRY_EVERY: Duration = Duration::from_secs(2);

/// How one connection's life, or one slot's, came to its end.
enum Ended {
    /// A new epoch must begin, or a person must help.
    Stream(capture::Error),
    /// The slot must be given up, or is lost.
    Guard(Verdict),
    /// kck was told to stop.
    Stopped,
    /// Somebody else reads the slot.
    Taken(String),
}

/// Where the first stream goes on, as the start found it.
pub(crate) struct First {
    pub(crate) resumed: Resumed,
    /// Entries that are not firm.
    pub(crate) doubts: Vec<(Key, Stamp)>,
}

/// Follows the source until the process ends.
///
/// # Errors
/// What makes it impossible, before the stream was ever open.
pub(crate) async fn run(
    parts: Arc<Parts>,
    first: First,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let First { mut resumed, mut doubts } = first;
    let mut again = Again { parts: Arc::clone(&parts), epochs: VecDeque::new(), verdict: None };
    loop {
        let inbox = Arc::new(Inbox::new(resumed.position.lsn, &resumed.early, doubts));
        let ended = Box::pin(once(&parts, &resumed, &inbox, &shutdown)).await;
        let opened = parts.progress.borrow().connection > 0;
        match ended {
            Ended::Stopped => return Ok(()),
            // It leads now: what this one knows is old from here on, and writing it would harm the other.
            Ended::Taken(holder) => {
                let what = format!("the slot is read by another now: {holder}");
                return Err(Failure::new(what, "start kck again: it stands by"));
            }
            Ended::Guard(Verdict::OverLimit { retained_bytes }) => {
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    () = give_up_slot(&parts, retained_bytes) => {}
                }
                again.verdict = Some("the slot held too much log and was given up".to_owned());
            }
            Ended::Guard(Verdict::Lost) => again.verdict = Some("the slot was lost".to_owned()),
            Ended::Stream(error @ capture::Error::SlotLost { .. }) => {
                again.verdict = Some(describe_chain(&error));
            }
            Ended::Stream(error) if !opened => return Err(failure(error)),
            Ended::Stream(error) => {
                parts.observer.part("stream", Some(describe_chain(&error)));
                tokio::time::sleep(RETRY_EVERY).await;
            }
        }
        // What statements saw beyond the last stream is not firm, and results in flight are void (R10).
        let received = inbox.pending().received();
        doubts = inbox.undecided();
        doubts.extend(parts.recompute.ledger().disconnected(received));
        // No more was recorded than what is firm: the rest comes again and is looked up again.
        for (product, at) in inbox.lost(received) {
            parts.recompute.ledger().mark_product(&product, at);
        }
        parts.recompute.wake_outdated();
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            next = again.next() => resumed = next?,
        }
    }
}

fn failure(error: capture::Error) -> Failure {
    let hint = match &error {
        capture::Error::Refused { hint, .. } => hint.clone(),
        _ => String::new(),
    };
    Failure::new(describe_chain(&error), hint)
}

/// One stream, from its first opening until it ends for good.
async fn once(
    parts: &Arc<Parts>,
    resumed: &Resumed,
    inbox: &Arc<Inbox>,
    shutdown: &CancellationToken,
) -> Ended {
    let history = resumed.facts.history.clone();
    let settings = stream::Settings {
        slot: parts.names.slot.clone(),
        publication: parts.names.publication.clone(),
        ..stream::Settings::new(parts.replication.clone(), history, resumed.position.lsn)
    };
    let mut events = parts.observer.subscribe();
    let stream = match Replication::start(settings, parts.observer.clone()).await {
        Ok(stream) => stream,
        Err(error) => return Ended::Stream(error),
    };
    let control = stream.control();

    let segment_bytes = u64::try_from(resumed.facts.wal_segment_size).unwrap_or(0);
    let source = || Housekeeping::new(Arc::clone(&parts.source));
    let step = step(parts, resumed.position.lsn, segment_bytes, Arc::clone(&control));
    let step = Step::new(step, inbox);
    let pipeline = Pipeline {
        index: parts.index.subscribe(),
        inbox: Arc::clone(inbox),
        recompute: parts.recompute.clone(),
        progress: parts.progress.clone(),
        observer: parts.observer.clone(),
    };
    let joining = Joining {
        source: source(),
        control,
        roster: Arc::clone(&parts.roster),
        recompute: parts.recompute.clone(),
        store: Arc::clone(&parts.store),
        progress: parts.progress.subscribe(),
        segment_bytes,
        observer: parts.observer.clone(),
    };
    let guard = guard::watch(
        source(),
        &parts.names.slot,
        parts.config.wal_limit_bytes,
        |slot, left| parts.weigh(slot, left),
        &parts.observer,
    );
    let canary = Canary {
        source: source(),
        inbox: Arc::clone(inbox),
        recompute: parts.recompute.clone(),
        progress: parts.progress.subscribe(),
        observer: parts.observer.clone(),
    };
    let sings = async {
        canary.run().await;
        std::future::pending().await
    };
    let joined = async {
        join::run(joining).await;
        std::future::pending().await
    };
    tokio::select! {
        holder = taken(&mut events) => Ended::Taken(holder),
        ended = pipeline::run(pipeline, Box::new(stream), step, shutdown) => match ended {
            Ok(()) => Ended::Stopped,
            Err(error) => Ended::Stream(error),
        },
        verdict = guard => Ended::Guard(verdict),
        never = joined => never,
        never = sings => never,
    }
}

/// What the pipeline's second half stands on.
fn step(
    parts: &Parts,
    resume: Lsn,
    segment_bytes: u64,
    control: Arc<dyn capture::Control>,
) -> advance::Parts {
    advance::Parts {
        source: Housekeeping::new(Arc::clone(&parts.source)),
        lookups: Lookups::new(Arc::clone(&parts.source)),
        steps: parts.index.borrow().steps(),
        control,
        recompute: parts.recompute.clone(),
        store: Arc::clone(&parts.store),
        progress: parts.progress.clone(),
        observer: parts.observer.clone(),
        resume,
        segment_bytes,
    }
}

/// Returns when the stream finds its slot read by somebody else.
async fn taken(events: &mut broadcast::Receiver<Event>) -> String {
    loop {
        match events.recv().await {
            Ok(Event::StandingBy { holder }) => return holder,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
        }
    }
}

/// A cache can: the slot is dropped, and found missing by whoever comes next (R10).
async fn give_up_slot(parts: &Parts, retained_bytes: u64) {
    let mut source = Housekeeping::new(Arc::clone(&parts.source));
    loop {
        let dropped = match source.client().await {
            Ok(client) => slot::drop_slot(client, &parts.names.slot).await,
            Err(error) => Err(error),
        };
        match dropped {
            Ok(_) => return parts.observer.note(Event::SlotDropped { retained_bytes }),
            Err(error) => parts.observer.part("slot", Some(describe_chain(&error))),
        }
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

/// Where to go on after a stream has ended.
struct Again {
    parts: Arc<Parts>,
    /// When new epochs began, of late.
    epochs: VecDeque<Instant>,
    /// Why the history does not go on: known until a new epoch is durable, whatever the source shows meanwhile.
    verdict: Option<String>,
}

impl Again {
    /// Returns once source and store could both be asked.
    ///
    /// # Errors
    /// Another has led since: what this one knows is old, and it must not take the slot from that one.
    async fn next(&mut self) -> Result<Resumed, Failure> {
        loop {
            let attempted = match self.is_succeeded().await {
                Ok(true) => {
                    let what = "another kck has read the slot since this one did";
                    return Err(Failure::new(what, "start kck again: it stands by"));
                }
                Ok(false) => self.attempt().await,
                Err(failure) => Err(failure),
            };
            match attempted {
                Ok(resumed) => {
                    self.parts.observer.part("stream", None);
                    return Ok(resumed);
                }
                Err(failure) => self.parts.observer.part("stream", Some(failure.to_string())),
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Whether a later start has begun on the same store.
    async fn is_succeeded(&self) -> Result<bool, Failure> {
        let state = State::decode(&self.parts.store.load().await?)?;
        Ok(self.parts.recompute.ledger().term() < state.term)
    }

    async fn attempt(&mut self) -> Result<Resumed, Failure> {
        while self.epochs.front().is_some_and(|at| at.elapsed() > HOUR) {
            self.epochs.pop_front();
        }
        if self.verdict.is_some() && self.epochs.len() >= EPOCHS_AN_HOUR {
            return Err(Failure::new(
                "the source's history broke three times within an hour",
                "see the log for why; kck tries again when the hour is over",
            ));
        }
        let parts = &self.parts;
        let client = parts.source.connect_to_any("describe", &[]).await?;
        let _publishing = parts.roster.publishing().await;
        let index = Arc::clone(&parts.index.borrow());
        let wanted = index.tables().collect();
        let resuming = Resuming {
            client: &client,
            store: &parts.store,
            names: &parts.names,
            observer: &parts.observer,
        };
        let stamp = || parts.recompute.state_stamp();
        let resumed = resuming.resume(&wanted, self.verdict.as_deref(), stamp).await?;
        if resumed.new_epoch {
            self.epochs.push_back(Instant::now());
            self.verdict = None;
            begin_epoch(parts, &resumed);
        }
        join_again(parts, &resumed).await?;
        Ok(resumed)
    }
}

/// The new epoch shows everywhere before it is told, and before anything else may fail: every product is uncached
/// until it has joined again.
fn begin_epoch(parts: &Parts, resumed: &Resumed) {
    parts.source.expect(resumed.facts.history.clone());
    {
        let mut ledger = parts.recompute.ledger();
        ledger.begin_epoch(resumed.position.epoch);
        for product in parts.catalog.borrow().ready().filter(|product| product.draft.policy.change)
        {
            ledger.joins(product.name(), Lsn(u64::MAX));
        }
    }
    parts.progress.send_modify(|progress| {
        *progress = Progress {
            epoch: resumed.position.epoch,
            visible: resumed.position.lsn,
            connection: progress.connection,
            segment_bytes: progress.segment_bytes,
            ..Progress::default()
        };
    });
    let why = resumed.began.clone().unwrap_or_default();
    parts.observer.note(Event::EpochBegan { epoch: resumed.position.epoch, why });
}

/// In a new epoch every product joins again, as it is; otherwise those that had not joined yet, and those of which a
/// table was published anew. What left stays away until it is analysed.
async fn join_again(parts: &Parts, resumed: &Resumed) -> Result<(), Failure> {
    let mut members = parts.roster.members().await;
    members.publish(&resumed.published);
    let mut cells = Vec::new();
    for (name, known) in members.known().clone() {
        let published = !known.tables.is_disjoint(&resumed.published);
        let again = resumed.new_epoch || published || members.is_joining(&name);
        if known.followed && again {
            members.rejoin(&name);
            parts.recompute.ledger().joins(&name, Lsn(u64::MAX));
            cells.push(state::matched(&name, None, parts.recompute.state_stamp()));
        }
    }
    parts.store.save(&cells).await?;
    parts.roster.wake_joiners();
    Ok(())
}
