//! The steps of the pipeline: barrier → released → durable → V → acknowledged. [`crate::pipeline`] has their order.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    capture::Control,
    change::{Lsn, Position},
    depend::{lookup::Asked, pending::Group, settle::Settle},
    inbox::Inbox,
    observe::{Counter, Event, Observer},
    postgres::{
        Housekeeping,
        barrier::Barrier,
        lookup::{Lookups, Question},
    },
    progress::{Certificate, Progress},
    recompute::{self, Marks},
    stage::Stage,
    store::{Store, state},
};

/// A barrier runs at least this often (R8).
const BARRIER_EVERY: Duration = Duration::from_millis(250);
/// With somebody waiting for the certificate, at most this often.
const HASTENED_EVERY: Duration = Duration::from_millis(50);
/// So many transactions released at once are a backlog …
const BACKLOG: u64 = 32;
/// … in which a barrier comes at most this often while nobody waits: each takes the source's time and kck's.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);
/// While a commit is delivered and not visible, the next barrier comes after this, doubling …
const INVISIBLE_FIRST: Duration = Duration::from_micros(200);
/// … up to this.
const INVISIBLE_MOST: Duration = Duration::from_millis(20);
/// An invisible commit makes kck ask whether the source waits for kck itself, after this …
const STANDBY_AFTER: Duration = Duration::from_millis(5);
/// … again after this, since settings change …
const STANDBY_EVERY: Duration = Duration::from_millis(500);
/// … and is marked early after this in any case (R3).
const EARLY_AFTER: Duration = Duration::from_secs(1);
/// Positions are recorded and acknowledged at most this often, save when the source waits for it.
const ACKNOWLEDGE_EVERY: Duration = Duration::from_millis(500);
/// A certificate that lags this long beside a reader makes kck nudge the source (R8) …
const NUDGE_AFTER: Duration = Duration::from_millis(20);
/// … at most this often.
const NUDGE_EVERY: Duration = Duration::from_secs(1);
/// Between tries of a store or a source that is away.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(5);
/// The same of a barrier: a source that shuts down waits for what comes after.
const RETRY_BARRIER_MOST: Duration = Duration::from_secs(1);

/// What a [`Step`] stands on.
pub struct Parts {
    /// Questions to the source.
    pub source: Housekeeping,
    /// What rows of other tables say.
    pub lookups: Lookups,
    /// The longest lookup path of the products that were matched before.
    pub steps: usize,
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
    /// Whether the source makes commits wait for kck, and when that was asked.
    standby: Option<(bool, Instant)>,
    /// A reader came since the last barrier.
    hastened: bool,
    /// The last barrier released a backlog.
    behind: bool,
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
        // In one epoch of one process V never goes back: the ledger still has every mark up to it.
        let visible = inbox.pending().settled().max(parts.progress.borrow().visible);
        let (now, recorded) = (Instant::now(), parts.resume);
        parts.progress.send_modify(|progress| {
            progress.visible = visible;
            progress.segment_bytes = parts.segment_bytes;
        });
        Self {
            wanted: parts.recompute.wanted(),
            settle: Settle::new(visible, parts.steps),
            parts,
            invisible: None,
            standby: None,
            hastened: false,
            behind: false,
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
        if let Some((_, pause)) = self.invisible {
            return since(pause).await;
        }
        if self.behind && !self.hastened {
            tokio::select! {
                () = since(BACKLOG_PAUSE) => {}
                _ = self.wanted.changed() => self.hasten(),
            }
        }
        while inbox.pending().is_empty() {
            let soon = if self.hastened { HASTENED_EVERY } else { BARRIER_EVERY };
            tokio::select! {
                () = inbox.arrived.notified() => return,
                () = inbox.idled.notified() => self.reach(inbox),
                // The sender lives as long as the handle beside it.
                _ = self.wanted.changed() => self.hasten(),
                () = since(soon) => return,
            }
        }
    }

    /// A reader waits: the source is asked how far it is, once for all who wait.
    fn hasten(&mut self) {
        if !self.hastened {
            self.parts.control.hasten();
        }
        self.hastened = true;
    }

    /// R1: what is visible and where the log is. `None` while the source is away.
    pub async fn barrier(&mut self) -> Option<Barrier> {
        let asked = Instant::now();
        let taken = self.parts.source.barrier().await;
        self.barrier_at = Some(Instant::now());
        self.hastened = false;
        match taken {
            Ok(barrier) => {
                self.parts.observer.count(Counter::Barriers, 1);
                self.parts.observer.took(Stage::Barrier, asked.elapsed());
                self.parts.observer.part("source", None);
                self.retry = RETRY_FIRST;
                Some(barrier)
            }
            Err(error) => {
                self.parts.observer.part("source", Some(crate::postgres::describe_chain(&error)));
                tokio::time::sleep(self.retry).await;
                self.retry = (self.retry * 2).min(RETRY_BARRIER_MOST);
                None
            }
        }
    }

    /// R2: what rows of other tables say of a released group, on a snapshot begun after its release. A lookup that fails
    /// or finds too much makes its product touched as a whole.
    pub async fn look_up(&mut self, inbox: &Inbox, group: &mut Group) {
        if group.asked.is_empty() {
            return;
        }
        let asked: Vec<Asked> = std::mem::take(&mut group.asked).into_values().collect();
        let questions: Vec<Question<'_>> =
            asked.iter().map(|asked| (asked.lookups.sql.as_str(), asked.arguments())).collect();
        let openings = inbox.openings();
        let began = Instant::now();
        let answers = self.parts.lookups.ask(&questions).await;
        self.parts.observer.took(Stage::Lookup, began.elapsed());
        self.parts.observer.count(Counter::Lookups, questions.len() as u64);
        let mut fault = None;
        for (asked, answer) in asked.iter().zip(answers) {
            let found = match answer {
                Ok(answer) => {
                    let product = &asked.lookups.product;
                    self.settle.looked_up(group.after, answer.saw, asked.lookups.steps());
                    let belongs = inbox.looked_up(openings, group.end, answer.saw, product);
                    belongs.then(|| asked.found(&answer.rows)).flatten()
                }
                Err(error) => {
                    fault = Some(crate::postgres::describe_chain(&error));
                    None
                }
            };
            match found {
                Some(found) => group.found(found),
                None => group.touch(&asked.lookups.product),
            }
        }
        self.parts.observer.part("lookup", fault);
    }

    /// R2: the tracked keys and the products that a released group touches.
    #[must_use]
    pub fn mark(&self, group: &Group) -> Marks {
        let began = Instant::now();
        let marks = self.parts.recompute.mark(&group.keys, &group.patterns, &group.products);
        if group.transactions > 0 {
            self.parts.observer.took(Stage::Match, began.elapsed());
        }
        marks
    }

    /// R3: marks are durable before V passes them, however long the store takes.
    pub async fn write(&self, marks: &Marks) {
        if marks.keys.is_empty() && marks.products.is_empty() {
            return;
        }
        let began = Instant::now();
        let stamp = |(product, at): &(String, Position)| state::mark(product, *at);
        let cells: Vec<_> = marks.products.iter().map(stamp).collect();
        let cells = &cells;
        self.durably(|store| async move {
            store.mark(&marks.keys).await?;
            store.save(cells).await
        })
        .await;
        self.parts.observer.took(Stage::Mark, began.elapsed());
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
        let waits = !inbox.pending().is_empty();
        if group.transactions > 0 {
            inbox.firm().marked(group.end);
            self.behind = group.transactions >= BACKLOG;
        }
        let insert = barrier.insert.floor_to_record_end(self.parts.segment_bytes);
        self.settle.barrier(Certificate { lsn: insert, time: barrier.time, sent: barrier.sent });
        self.invisible = match self.invisible {
            _ if !waits => None,
            Some((since, pause)) if group.transactions == 0 => {
                Some((since, (pause * 2).min(INVISIBLE_MOST)))
            }
            _ => Some((Instant::now(), INVISIBLE_FIRST)),
        };
        self.parts.progress.send_modify(|progress| {
            progress.insert = insert;
            progress.clock = Some((barrier.time, barrier.sent));
        });
        self.reach(inbox);
        if group.transactions > 0 {
            self.parts.observer.note(Event::Marked {
                end: group.end,
                transactions: group.transactions,
                keys: marks.keys.len() as u64,
                products: marks.products.len() as u64,
            });
        }
    }

    /// V moves to what is marked; while nothing waits, to the position of the last keepalive.
    fn reach(&mut self, inbox: &Inbox) {
        let (visible, received) = {
            let pending = inbox.pending();
            (pending.settled(), pending.received())
        };
        self.settle.reach(visible);
        let settle = &self.settle;
        self.parts.progress.send_if_modified(|progress| {
            let before = *progress;
            progress.received = received;
            progress.visible = settle.visible();
            progress.settled = settle.settled();
            progress.certificate = settle.certificate();
            // What only moved what was received helps nobody who waits.
            (progress.visible, progress.certificate) != (before.visible, before.certificate)
        });
        let as_of = self.parts.progress.borrow().as_of();
        self.parts.recompute.wake_due(as_of);
    }

    /// Beside asynchronous commits the stream lies behind the insert position until something is flushed:
    /// a reader's certificate must not wait for chance (R8).
    async fn nudge(&mut self) {
        let late =
            self.settle.waiting().is_some_and(|barrier| barrier.sent.elapsed() > NUDGE_AFTER);
        let read = self.parts.recompute.was_read_within(NUDGE_EVERY);
        if !(late && read) || self.nudged_at.elapsed() < NUDGE_EVERY {
            return;
        }
        self.nudged_at = Instant::now();
        if let Err(error) = self.parts.source.nudge().await {
            tracing::warn!(%error, "certificates may lag beside asynchronous commits");
        }
        self.parts.control.hasten();
    }

    /// R3: commits that are delivered and stay invisible, perhaps because the source waits for kck itself, get
    /// whole-product marks at once and may be acknowledged. V stays below them.
    pub async fn mark_early(&mut self, inbox: &Inbox) {
        let Some((since, _)) = self.invisible else { return };
        let waited = since.elapsed();
        if waited < STANDBY_AFTER || (waited < EARLY_AFTER && !self.is_standby(inbox).await) {
            return;
        }
        self.mark_all_early(inbox).await;
    }

    /// The source answers no barrier, though its stream may go on: one that shuts down in order has ended every other
    /// connection, and waits until all that it sent is acknowledged. What was delivered is marked early past the usual
    /// limit, and what is durable is recorded and acknowledged.
    pub async fn unanswered(&mut self, inbox: &Inbox) {
        if !inbox.pending().is_empty() {
            let (since, _) = *self.invisible.get_or_insert((Instant::now(), INVISIBLE_FIRST));
            if since.elapsed() >= EARLY_AFTER {
                self.mark_all_early(inbox).await;
            }
        }
        self.record(inbox).await;
    }

    async fn mark_all_early(&mut self, inbox: &Inbox) {
        let early = inbox.pending().unmarked();
        if early.transactions == 0 {
            return;
        }
        let marks = self.parts.recompute.mark(&HashMap::new(), &HashMap::new(), &early.products);
        self.write(&marks).await;
        let cells = &[state::early_cell(&early.all, self.parts.recompute.state_stamp())];
        self.durably(|store| async move { store.save(cells).await }).await;
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
        match self.standby {
            Some((standby, asked)) if asked.elapsed() < STANDBY_EVERY => return standby,
            _ => {}
        }
        let standby = self.parts.source.is_standby(pid).await.unwrap_or(false);
        self.standby = Some((standby, Instant::now()));
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

    /// R10: what is not firm is deleted before the recorded position may pass what it saw; a restart would take it
    /// for firm then.
    async fn settle_doubts(&self, inbox: &Inbox) {
        let doubts = inbox.doubts().clone();
        let Some(highest) = doubts.iter().map(|(_, stamp)| *stamp).max() else { return };
        self.durably(|_| self.parts.recompute.purge(highest, &doubts)).await;
        // They are only ever added to.
        inbox.doubts().drain(..doubts.len());
    }

    /// R10: lookups that are not firm count as whole products, durably, before a position passes them.
    async fn pay(&self, inbox: &Inbox) {
        let owed = inbox.firm().owed().clone();
        if !owed.is_empty() {
            let marks = self.parts.recompute.mark(&HashMap::new(), &HashMap::new(), &owed);
            self.write(&marks).await;
            inbox.firm().paid(&owed);
            self.parts.recompute.wake_later(marks);
        }
    }

    async fn record(&mut self, inbox: &Inbox) {
        self.pay(inbox).await;
        let position = inbox.recordable();
        if position <= self.recorded {
            return;
        }
        self.settle_doubts(inbox).await;
        let epoch = self.parts.progress.borrow().epoch;
        let recorded = Position { epoch, lsn: position };
        let early = inbox.pending().early();
        let stamp = || self.parts.recompute.state_stamp();
        let cells = &[state::recorded(recorded, stamp()), state::early_cell(&early, stamp())];
        self.durably(|store| async move { store.save(cells).await }).await;
        self.recorded = position;
        self.recorded_at = Instant::now();
        self.parts.control.acknowledge(position);
        self.parts.progress.send_modify(|progress| progress.acknowledged = position);
    }
}
