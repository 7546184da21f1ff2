//! The steps of the pipeline: barrier → released → durable → V → acknowledged. [`crate::pipeline`] has their order.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    capture::{Control, acknowledge::Positions},
    change::{Lsn, Position, Snapshot, Transaction, Xid},
    depend::{
        pending::{Group, Pending},
        settle::{Settle, floor_to_record_end},
    },
    observe::{Counter, Event, Observer},
    postgres::{Housekeeping, barrier::Barrier},
    progress::{Certificate, Progress},
    recompute::{self, Marks},
    store::{Store, state},
};

/// A barrier runs at least this often (R8).
const BARRIER_EVERY: Duration = Duration::from_millis(250);
/// With somebody waiting for the certificate, at most this often.
const HASTENED_EVERY: Duration = Duration::from_millis(50);
/// While a commit is delivered and not visible, the next barrier comes after this, doubling …
const INVISIBLE_FIRST: Duration = Duration::from_micros(200);
/// … up to this.
const INVISIBLE_MOST: Duration = Duration::from_millis(20);
/// An invisible commit makes kck ask whether the source waits for kck itself, after this …
const STANDBY_AFTER: Duration = Duration::from_millis(5);
/// … and is marked early after this in any case (R3).
const EARLY_AFTER: Duration = Duration::from_secs(1);
/// Positions are recorded and acknowledged at most this often, save when the source waits for it.
const ACKNOWLEDGE_EVERY: Duration = Duration::from_millis(500);
/// A certificate that lags this long beside a reader makes kck nudge the source (R8) …
const NUDGE_AFTER: Duration = Duration::from_millis(300);
/// … at most this often.
const NUDGE_EVERY: Duration = Duration::from_secs(1);
/// Transactions that may wait for their release; past it the log waits in the source.
const PENDING_MOST: usize = 50_000;
/// Distinct keys of one transaction; past it its products count as touched whole (R1).
const KEYS_MOST: usize = 100_000;
/// Between tries of a store or a source that is away.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(5);

/// Where the two halves of the pipeline meet.
pub struct Inbox {
    /// Locked for one event or one release at a time.
    pending: Mutex<Pending>,
    /// What may be acknowledged; locked after `pending` where both are.
    positions: Mutex<Positions>,
    arrived: Notify,
    taken: Notify,
    /// The process that sends to us, at the source.
    walsender: Mutex<Option<i32>>,
}

impl Inbox {
    /// Goes on from the recorded position; `early` are transactions acknowledged and not seen visible.
    #[must_use]
    pub fn new(resume: Lsn, early: &[(Xid, Lsn)]) -> Self {
        Self {
            pending: Mutex::new(Pending::new(resume, early, KEYS_MOST)),
            positions: Mutex::new(Positions::new(resume)),
            arrived: Notify::new(),
            taken: Notify::new(),
            walsender: Mutex::new(None),
        }
    }

    /// What has arrived, for one decision.
    pub fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn positions(&self) -> MutexGuard<'_, Positions> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when there is room for another transaction.
    pub async fn room(&self) {
        while self.pending().len() >= PENDING_MOST {
            self.taken.notified().await;
        }
    }

    /// The connection was opened at `at`, to this process at the source.
    pub fn opened(&self, at: Lsn, pid: i32) {
        self.pending().opened(at);
        self.positions().opened();
        *self.walsender.lock().unwrap_or_else(PoisonError::into_inner) = Some(pid);
    }

    /// A transaction is complete.
    pub fn commit(&self, transaction: &Transaction) {
        self.pending().commit(transaction);
        self.positions().received(transaction.end);
        self.arrived.notify_one();
    }

    /// Everything up to here was delivered.
    pub fn idle(&self, position: Lsn) {
        self.pending().idle(position);
        self.positions().idle(position);
        self.arrived.notify_one();
    }

    /// Takes what this snapshot releases.
    #[must_use]
    pub fn release(&self, snapshot: &Snapshot) -> Group {
        let group = self.pending().release(snapshot);
        self.taken.notify_one();
        group
    }

    fn walsender(&self) -> Option<i32> {
        *self.walsender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a [`Step`] stands on.
pub struct Parts {
    /// Questions to the source.
    pub source: Housekeeping,
    /// Tells the stream what is durable.
    pub control: Arc<dyn Control>,
    /// Marks and readers.
    pub recompute: recompute::Handle,
    /// Where positions and marks go.
    pub store: Arc<dyn Store>,
    /// How far kck is, for everyone.
    pub progress: watch::Sender<Progress>,
    /// Where events go.
    pub observer: Observer,
    /// The recorded position.
    pub resume: Lsn,
    /// The source's `wal_segment_size`.
    pub segment_bytes: u64,
}

/// The steps from a barrier to an acknowledgement, and what they remember between.
pub struct Step {
    parts: Parts,
    /// Changes when a reader waits for a certificate.
    wanted: watch::Receiver<u64>,
    settle: Settle,
    /// Since when the first pending commit is delivered and not visible, and the pause before the next barrier.
    invisible: Option<(Instant, Duration)>,
    /// Whether the source makes commits wait for kck; asked once a connection.
    standby: Option<(i32, bool)>,
    recorded: Lsn,
    recorded_at: Instant,
    nudged_at: Instant,
    barrier_at: Option<Instant>,
    retry: Duration,
}

impl Step {
    /// Goes on from where `inbox` stands.
    #[must_use]
    pub fn new(parts: Parts, inbox: &Inbox) -> Self {
        let visible = inbox.pending().settled();
        let (now, recorded) = (Instant::now(), parts.resume);
        parts.progress.send_modify(|progress| progress.visible = visible);
        Self {
            wanted: parts.recompute.wanted(),
            parts,
            settle: Settle::new(visible),
            invisible: None,
            standby: None,
            recorded,
            recorded_at: now,
            nudged_at: now,
            barrier_at: None,
            retry: RETRY_FIRST,
        }
    }

    /// Returns true when a barrier is due: something arrived, somebody waits, or the time is up; false when kck is
    /// told to stop.
    pub async fn pause(&mut self, inbox: &Inbox, shutdown: &CancellationToken) -> bool {
        tokio::select! {
            () = shutdown.cancelled() => false,
            () = self.due(inbox) => true,
        }
    }

    async fn due(&mut self, inbox: &Inbox) {
        let last = self.barrier_at;
        let since = |span: Duration| async move {
            if let Some(last) = last {
                tokio::time::sleep_until((last + span).into()).await;
            }
        };
        match self.invisible {
            Some((_, pause)) => since(pause).await,
            None if !inbox.pending().is_empty() => {}
            None => tokio::select! {
                () = inbox.arrived.notified() => {}
                // The sender lives as long as the handle beside it.
                _ = self.wanted.changed() => {
                    self.parts.control.hasten();
                    since(HASTENED_EVERY).await;
                }
                () = since(BARRIER_EVERY) => {}
            },
        }
    }

    /// R1: what is visible and where the log is. `None` while the source is away.
    pub async fn barrier(&mut self) -> Option<Barrier> {
        let taken = self.parts.source.barrier().await;
        self.barrier_at = Some(Instant::now());
        match taken {
            Ok(barrier) => {
                self.parts.observer.count(Counter::Barriers, 1);
                self.parts.observer.part("source", None);
                self.retry = RETRY_FIRST;
                Some(barrier)
            }
            Err(error) => {
                self.parts.observer.part("source", Some(crate::postgres::describe_chain(&error)));
                tokio::time::sleep(self.retry).await;
                self.retry = (self.retry * 2).min(RETRY_MOST);
                None
            }
        }
    }

    /// R3: marks are durable before V passes them, however long the store takes.
    pub async fn write(&mut self, marks: &Marks) {
        let stamp = |(product, at): &(String, Position)| state::mark(product, *at);
        let cells: Vec<_> = marks.products.iter().map(stamp).collect();
        self.durably(|store| {
            let cells = cells.clone();
            async move {
                store.mark(&marks.keys).await?;
                store.save(&cells).await
            }
        })
        .await;
    }

    /// Repeats a write until the store has taken it. Nothing is acknowledged meanwhile.
    async fn durably<F: Future<Output = Result<(), crate::store::Error>>>(
        &self,
        write: impl Fn(Arc<dyn Store>) -> F,
    ) {
        let mut retry = RETRY_FIRST;
        while let Err(error) = write(Arc::clone(&self.parts.store)).await {
            self.parts.observer.part("store", Some(crate::postgres::describe_chain(&error)));
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(RETRY_MOST);
        }
        self.parts.observer.part("store", None);
    }

    /// R7 and R8: V moves to what is marked, and certificates follow it.
    pub fn settle(&mut self, inbox: &Inbox, barrier: &Barrier, group: &Group, marks: &Marks) {
        let (visible, received, waits) = {
            let pending = inbox.pending();
            (pending.settled(), pending.received(), !pending.is_empty())
        };
        self.settle.reach(visible);
        if group.transactions > 0 {
            inbox.positions().durable(group.end);
        }
        let insert = floor_to_record_end(barrier.insert, self.parts.segment_bytes);
        self.settle.barrier(Certificate { lsn: insert, time: barrier.time, sent: barrier.sent });
        self.invisible = match self.invisible {
            _ if !waits => None,
            Some((since, pause)) if group.transactions == 0 => {
                Some((since, (pause * 2).min(INVISIBLE_MOST)))
            }
            _ => Some((Instant::now(), INVISIBLE_FIRST)),
        };
        let settle = &self.settle;
        self.parts.progress.send_modify(|progress| {
            progress.received = received;
            progress.visible = settle.visible();
            progress.settled = settle.settled();
            progress.certificate = settle.certificate();
            progress.clock = Some((barrier.time, barrier.sent));
        });
        if group.transactions > 0 {
            self.parts.observer.note(Event::Marked {
                end: group.end,
                transactions: group.transactions,
                keys: marks.keys.len() as u64,
                products: marks.products.len() as u64,
            });
        }
    }

    /// Beside asynchronous commits the stream lies behind the insert position until something is flushed:
    /// a reader's certificate must not wait for chance (R8).
    async fn nudge(&mut self) {
        let late =
            self.settle.waiting().is_some_and(|barrier| barrier.sent.elapsed() > NUDGE_AFTER);
        if late
            && self.parts.recompute.was_read_within(NUDGE_EVERY)
            && self.nudged_at.elapsed() > NUDGE_EVERY
        {
            self.nudged_at = Instant::now();
            if let Err(error) = self.parts.source.nudge().await {
                tracing::warn!(%error, "certificates may lag beside asynchronous commits");
            }
        }
        if late {
            self.parts.control.hasten();
        }
    }

    /// R3: commits that are delivered and stay invisible, perhaps because the source waits for kck itself, get
    /// whole-product marks at once and may be acknowledged. V stays below them.
    pub async fn mark_early(&mut self, inbox: &Inbox) {
        let Some((since, _)) = self.invisible else { return };
        let waited = since.elapsed();
        if waited < STANDBY_AFTER || (waited < EARLY_AFTER && !self.is_standby(inbox).await) {
            return;
        }
        let early = inbox.pending().unmarked();
        if early.transactions == 0 {
            return;
        }
        let marks = self.parts.recompute.mark(&HashMap::new(), &early.products);
        self.write(&marks).await;
        let cell = state::early_cell(&early.all, self.parts.recompute.state_stamp());
        self.durably(|store| {
            let cell = cell.clone();
            async move { store.save(&[cell]).await }
        })
        .await;
        inbox.pending().marked_early(early.end);
        for (_, end) in &early.all {
            inbox.positions().covered(*end);
        }
        self.parts
            .observer
            .note(Event::MarkedEarly { end: early.end, transactions: early.transactions });
        self.recorded_at =
            Instant::now().checked_sub(ACKNOWLEDGE_EVERY).unwrap_or(self.recorded_at);
    }

    async fn is_standby(&mut self, inbox: &Inbox) -> bool {
        let Some(pid) = inbox.walsender() else { return false };
        if let Some((asked, standby)) = self.standby
            && asked == pid
        {
            return standby;
        }
        let standby = self.parts.source.is_standby(pid).await.unwrap_or(false);
        self.standby = Some((pid, standby));
        standby
    }

    /// R14: the position is recorded, after the marks it covers, before it is sent.
    pub async fn acknowledge(&mut self, inbox: &Inbox) {
        self.nudge().await;
        if self.recorded_at.elapsed() >= ACKNOWLEDGE_EVERY {
            self.record(inbox).await;
        }
    }

    /// What was released is recorded, so that the next start finds its entries firm.
    pub async fn finish(&mut self, inbox: &Inbox) {
        self.record(inbox).await;
    }

    async fn record(&mut self, inbox: &Inbox) {
        let position = inbox.positions().position();
        if position <= self.recorded {
            return;
        }
        let epoch = self.parts.progress.borrow().epoch;
        let recorded = Position { epoch, lsn: position };
        let early = inbox.pending().early();
        let stamp = || self.parts.recompute.state_stamp();
        let cells = [state::recorded(recorded, stamp()), state::early_cell(&early, stamp())];
        self.durably(|store| {
            let cells = cells.clone();
            async move { store.save(&cells).await }
        })
        .await;
        self.recorded = position;
        self.recorded_at = Instant::now();
        self.parts.control.acknowledge(position);
        self.parts.progress.send_modify(|progress| progress.acknowledged = position);
    }
}
