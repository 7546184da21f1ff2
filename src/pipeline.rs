//! The system in one screen: what the stream delivers becomes marks, V and the certificate. Read this first.
//!
//! Two halves run side by side, so that reading the stream never waits for the source's or the store's
//! answers: `receive` folds changes into the keys they touch; `advance` releases what a barrier has seen,
//! marks it durably, moves V and acknowledges. Invariant: a commit is acknowledged only after every key it
//! touches is durably marked, so a crash repeats work and never loses it (R3).

use std::{collections::HashMap, convert::Infallible, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    advance::Step,
    capture::{self, Event as Delivered, Stream},
    depend::{Index, Matcher},
    inbox::Inbox,
    observe::{Counter, Observer, Point},
    progress::Progress,
    recompute,
};

/// What both halves share.
pub struct Pipeline {
    /// Which change touches what, as it is now.
    pub index: watch::Receiver<Arc<Index>>,
    /// What has arrived and is not released yet.
    pub inbox: Arc<Inbox>,
    /// Marks, and what is computed again.
    pub recompute: recompute::Handle,
    /// How far kck is, for everyone.
    pub progress: watch::Sender<Progress>,
    /// Where events go.
    pub observer: Observer,
}

/// Runs until it is told to stop; what was released by then is recorded.
///
/// # Errors
/// Why the stream ended for good.
pub async fn run(
    pipeline: Pipeline,
    mut stream: Box<dyn Stream>,
    step: Step,
    shutdown: &CancellationToken,
) -> Result<(), capture::Error> {
    tokio::select! {
        ended = receive(stream.as_mut(), &pipeline) => match ended? {},
        () = advance(step, &pipeline, shutdown) => {}
    }
    stream.close().await;
    Ok(())
}

/// Stream → pending. When too much is pending the log waits in the source.
async fn receive(
    stream: &mut dyn Stream,
    pipeline: &Pipeline,
) -> Result<Infallible, capture::Error> {
    let Pipeline { index, inbox, recompute, progress, observer } = pipeline;
    let mut matcher = Matcher::new(Arc::clone(&index.borrow()));
    // A transaction is folded by what is published when its first change arrives, all of it (R1).
    let mut inside = false;
    loop {
        inbox.room().await;
        match stream.next().await? {
            Delivered::Opened { at, pid } => {
                inside = false;
                // What statements saw beyond this is not known to have survived (R10).
                let received = inbox.pending().received();
                let doubts = recompute.ledger().disconnected(received);
                inbox.doubt(doubts);
                recompute.wake_outdated();
                let owed = inbox.opened(at, pid);
                drop(recompute.mark(&HashMap::new(), &HashMap::new(), &owed)); // in the ledger now, durably by `advance`
                progress.send_modify(|progress| progress.connection += 1);
            }
            Delivered::Change(change) => {
                observer.count(Counter::Changes, 1);
                if !std::mem::replace(&mut inside, true) {
                    matcher.follow(&index.borrow());
                }
                inbox.pending().change(&mut matcher, &change);
            }
            Delivered::Commit(transaction) => {
                inside = false;
                inbox.commit(&transaction);
            }
            Delivered::Idle(position) => inbox.idle(position),
        }
    }
}

/// Pending → marks → V → acknowledged.
async fn advance(mut step: Step, pipeline: &Pipeline, shutdown: &CancellationToken) {
    let Pipeline { inbox, recompute, observer, .. } = pipeline;
    // A barrier is due when something has arrived, when somebody waits, or when the time is up.
    while step.pause(inbox, shutdown).await {
        let openings = inbox.openings();
        // R1: what is visible, and where the log is.
        let Some(barrier) = step.barrier().await else {
            step.unanswered(inbox).await;
            continue;
        };
        let released = inbox.release(&barrier.snapshot, openings); //  visible, in commit order
        let Some(mut group) = released else { continue };
        let any = group.transactions > 0;
        let reach = async |point| observer.reach_if(any, point).await;
        reach(Point::Match).await;
        step.look_up(inbox, &mut group).await; //                      R2: what rows of other tables say, only now
        let marks = step.mark(&group); //                              direct, and what was looked up
        reach(Point::Mark).await;
        step.write(&marks).await; //                                   R3: durable, however long the store takes
        reach(Point::Acknowledge).await;
        step.settle(inbox, &barrier, &group, &marks); //               V, F and the certificate (R7, R8)
        recompute.wake(&marks);
        step.mark_early(inbox).await; //                               R3: commits that wait for us to be visible
        step.acknowledge(inbox).await; //                              R14: recorded before it is sent
    }
    step.finish(inbox).await;
}
