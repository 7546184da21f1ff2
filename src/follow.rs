//! The stream, epoch after epoch: runs the pipeline, and begins anew where the source's history broke (R10).

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    advance::{self, Inbox, Step},
    app::{Failure, Parts},
    capture::{
        self, Stream,
        guard::{self, Verdict},
        stream::{self, Replication},
    },
    change::Lsn,
    join::{self, Joiner, Joining},
    load,
    observe::Event,
    pipeline::{self, Pipeline},
    postgres::{Housekeeping, describe_chain, slot},
    progress::Progress,
    resume::{Resumed, Resuming},
    store::state,
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
}

/// Follows the source until the process ends.
///
/// # Errors
/// What makes it impossible, before the stream was ever open.
pub(crate) async fn run(
    parts: Arc<Parts>,
    mut resumed: Resumed,
    mut joiners: Vec<Joiner>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let mut epochs: VecDeque<Instant> = VecDeque::new();
    loop {
        let ended = once(&parts, &resumed, joiners, &shutdown).await;
        let opened = parts.progress.borrow().connection > 0;
        parts.progress.send_modify(|progress| progress.streaming = false);
        match ended {
            Ended::Guard(Verdict::OverLimit { retained_bytes }) => {
                give_up_slot(&parts, retained_bytes).await;
            }
            Ended::Guard(Verdict::Lost) | Ended::Stream(capture::Error::SlotLost { .. }) => {}
            Ended::Stopped => return Ok(()),
            Ended::Stream(error) if !opened => return Err(failure(error)),
            Ended::Stream(error) => {
                parts.observer.part("stream", Some(describe_chain(&error)));
                tokio::time::sleep(RETRY_EVERY).await;
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            next = again(&parts, &mut epochs) => (resumed, joiners) = next,
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
    joiners: Vec<Joiner>,
    shutdown: &CancellationToken,
) -> Ended {
    let history = resumed.facts.history.clone();
    let settings = stream::Settings {
        slot: parts.names.slot.clone(),
        publication: parts.names.publication.clone(),
        ..stream::Settings::new(parts.replication.clone(), history, resumed.position.lsn)
    };
    let stream = match Replication::start(settings, parts.observer.clone()).await {
        Ok(stream) => stream,
        Err(error) => return Ended::Stream(error),
    };
    let control = stream.control();
    let inbox = Arc::new(Inbox::new(resumed.position.lsn, &resumed.early));
    let segment_bytes = u64::try_from(resumed.facts.wal_segment_size).unwrap_or(0);
    let step = advance::Parts {
        source: Housekeeping::new(Arc::clone(&parts.source)),
        control: Arc::clone(&control),
        recompute: parts.recompute.clone(),
        store: Arc::clone(&parts.store),
        progress: parts.progress.clone(),
        observer: parts.observer.clone(),
        resume: resumed.position.lsn,
        segment_bytes,
    };
    let step = Step::new(step, &inbox);
    let pipeline = Pipeline {
        index: parts.index.subscribe(),
        inbox,
        recompute: parts.recompute.clone(),
        progress: parts.progress.clone(),
        observer: parts.observer.clone(),
    };
    let joining = Joining {
        source: Housekeeping::new(Arc::clone(&parts.source)),
        control,
        recompute: parts.recompute.clone(),
        store: Arc::clone(&parts.store),
        progress: parts.progress.subscribe(),
        segment_bytes,
        observer: parts.observer.clone(),
    };
    let guard = guard::watch(
        Housekeeping::new(Arc::clone(&parts.source)),
        &parts.names.slot,
        parts.config.wal_limit_bytes,
        |slot| parts.weigh(slot),
        &parts.observer,
    );
    let joined = async {
        join::run(joining, joiners).await;
        std::future::pending().await
    };
    tokio::select! {
        ended = pipeline::run(pipeline, Box::new(stream), step, shutdown) => match ended {
            Ok(()) => Ended::Stopped,
            Err(error) => Ended::Stream(error),
        },
        verdict = guard => Ended::Guard(verdict),
        never = joined => never,
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

/// Where to go on after the stream ended, once source and store can both be asked.
async fn again(parts: &Arc<Parts>, epochs: &mut VecDeque<Instant>) -> (Resumed, Vec<Joiner>) {
    loop {
        match resume_again(parts, epochs).await {
            Ok(resumed) => {
                parts.observer.part("stream", None);
                return resumed;
            }
            Err(failure) => parts.observer.part("stream", Some(failure.to_string())),
        }
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

async fn resume_again(
    parts: &Arc<Parts>,
    epochs: &mut VecDeque<Instant>,
) -> Result<(Resumed, Vec<Joiner>), Failure> {
    while epochs.front().is_some_and(|at| at.elapsed() > HOUR) {
        epochs.pop_front();
    }
    if epochs.len() >= EPOCHS_AN_HOUR {
        return Err(Failure::new(
            "the source's history broke three times within an hour",
            "see the log for why; kck tries again when the hour is over",
        ));
    }
    let client = parts.source.connect_to_any("describe", &[]).await?;
    let index = Arc::clone(&parts.index.borrow());
    let wanted = index.tables().collect();
    let stamp = || parts.recompute.state_stamp();
    let resuming = Resuming {
        client: &client,
        store: &parts.store,
        names: &parts.names,
        observer: &parts.observer,
    };
    let resumed = resuming.resume(&wanted, stamp).await?;
    if resumed.new_epoch {
        epochs.push_back(Instant::now());
        parts.source.expect(resumed.facts.history.clone());
        parts.recompute.ledger().begin_epoch(resumed.position.epoch);
        parts.progress.send_modify(|progress| {
            *progress = Progress {
                epoch: resumed.position.epoch,
                visible: resumed.position.lsn,
                connection: progress.connection,
                ..Progress::default()
            };
        });
    }
    let joiners = joiners_again(parts, &resumed).await?;
    Ok((resumed, joiners))
}

/// In a new epoch every product joins again, as it is; otherwise those of which a table was published anew.
async fn joiners_again(parts: &Arc<Parts>, resumed: &Resumed) -> Result<Vec<Joiner>, Failure> {
    let (catalog, index) = (Arc::clone(&parts.catalog.borrow()), Arc::clone(&parts.index.borrow()));
    let mut joiners = Vec::new();
    for product in catalog.ready().filter(|product| product.draft.policy.change) {
        let tables = load::tables_of(&index, product.name());
        let published = tables.iter().any(|table| resumed.published.contains(table));
        let waits = !parts.recompute.ledger().is_cached(product.name(), Lsn(u64::MAX - 1));
        if !(resumed.new_epoch || published || waits) {
            continue;
        }
        let Some(matched) = parts.matched.get(product.name()).copied() else { continue };
        parts.recompute.ledger().joins(product.name(), Lsn(u64::MAX));
        let stamp = parts.recompute.state_stamp();
        parts.store.save(&[state::matched(product.name(), None, stamp)]).await?;
        joiners.push(Joiner { product: product.name().to_owned(), matched, tables, published });
    }
    Ok(joiners)
}
