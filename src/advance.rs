//! The steps of the pipeline: barrier → released → durable → V → acknowledged. [`crate::pipeline`] has their order.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    capture::{Control, acknowledge::Positions},
    change::{Lsn, Position, Snapshot, Transaction, Xid},
    depend::{
        firm::Firm,
        lookup::Asked,
        pending::{Group, Pending},
        settle::Settle,
    },
    entry::Stamp,
    key::Key,
    observe::{Counter, Event, Observer},
    postgres::{
        Housekeeping,
        barrier::Barrier,
        lookup::{Lookups, Question},
    },
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
/// Transactions that may wait for their release, and keys that they may touch; past it the log waits in the source.
const PENDING_MOST: usize = 50_000;
const HELD_MOST: usize = 1_000_000;
/// Distinct keys of one transaction; past it its products count as touched whole (R1).
const KEYS_MOST: usize = 100_000;
/// Between tries of a store or a source that is away.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(5);
/// The same of a barrier: a source that shuts down waits for what comes after.
const RETRY_BARRIER_MOST: Duration = Duration::from_secs(1);

/// Where the two halves of the pipeline meet.
pub struct Inbox {
    /// Locked for one event or one release at a time.
    pending: Mutex<Pending>,
    /// Openings of the connection; counted with `firm` and `pending` locked.
    openings: AtomicU64,
    /// Locked before `pending`, so that a lookup belongs to one connection.
    firm: Mutex<Firm>,
    /// What may be acknowledged; locked after `pending` where both are.
    positions: Mutex<Positions>,
    arrived: Notify,
    idled: Notify,
    taken: Notify,
    /// Entries that are not firm, to be deleted durably before more is recorded (R10).
    doubts: Mutex<Vec<(Key, Stamp)>>,
    /// The process that sends to us, at the source.
    walsender: Mutex<Option<i32>>,
}

impl Inbox {
    /// Goes on from the recorded position; `early` are transactions acknowledged and not seen visible.
    #[must_use]
    pub fn new(resume: Lsn, early: &[(Xid, Lsn)], doubts: Vec<(Key, Stamp)>) -> Self {
        Self {
            pending: Mutex::new(Pending::new(resume, early, KEYS_MOST)),
            openings: AtomicU64::new(0),
            firm: Mutex::default(),
            positions: Mutex::new(Positions::new(resume)),
            arrived: Notify::new(),
            idled: Notify::new(),
            taken: Notify::new(),
            doubts: Mutex::new(doubts),
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
        loop {
            let (waiting, held) = {
                let pending = self.pending();
                (pending.len(), pending.held())
            };
            if waiting < PENDING_MOST && held < HELD_MOST {
                return;
            }
            self.taken.notified().await;
        }
    }

    /// The connection was lost, and these entries are not firm.
    pub fn doubt(&self, doubts: Vec<(Key, Stamp)>) {
        self.doubts().extend(doubts);
    }

    /// Entries that are not firm and not deleted yet, for whoever goes on.
    #[must_use]
    pub fn undecided(&self) -> Vec<(Key, Stamp)> {
        self.doubts().clone()
    }

    fn doubts(&self) -> MutexGuard<'_, Vec<(Key, Stamp)>> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn firm(&self) -> MutexGuard<'_, Firm> {
        self.firm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection was lost after delivering `received`: products whose lookups are not firm count as touched whole
    /// (R10). They are marked durably before more is recorded.
    #[must_use]
    pub fn lost(&self, received: Lsn) -> BTreeMap<String, Lsn> {
        self.firm().lost(received)
    }

    /// The connection was opened at `at`, to this process at the source. What was looked up and is not firm comes back,
    /// to be marked at once.
    #[must_use]
    pub fn opened(&self, at: Lsn, pid: i32) -> BTreeMap<String, Lsn> {
        let owed = {
            let mut firm = self.firm();
            let mut pending = self.pending();
            let owed = firm.lost(pending.received());
            pending.opened(at);
            self.openings.fetch_add(1, Ordering::Relaxed);
            owed
        };
        self.positions().opened();
        *self.walsender.lock().unwrap_or_else(PoisonError::into_inner) = Some(pid);
        owed
    }

    /// A transaction is complete.
    pub fn commit(&self, transaction: &Transaction) {
        {
            // Both at once: what is pending and early must be found covered.
            let mut pending = self.pending();
            let known = pending.commit(transaction);
            let mut positions = self.positions();
            positions.received(transaction.end);
            if known {
                positions.covered(transaction.end);
            }
        }
        self.arrived.notify_one();
    }

    /// Everything up to here was delivered.
    pub fn idle(&self, position: Lsn) {
        self.pending().idle(position);
        self.positions().idle(position);
        self.idled.notify_one();
    }

    /// How often the connection was opened, to be read before a barrier is sent.
    #[must_use]
    pub fn openings(&self) -> u64 {
        self.openings.load(Ordering::Relaxed)
    }

    /// Takes what this snapshot releases. `None` where the connection was opened anew since `openings` was read: after a
    /// crash of the source an id that the snapshot saw may be another transaction's.
    #[must_use]
    pub fn release(&self, snapshot: &Snapshot, openings: u64) -> Option<Group> {
        let mut pending = self.pending();
        let group = (self.openings() == openings).then(|| pending.release(snapshot))?;
        self.taken.notify_one();
        Some(group)
    }

    /// A product was looked up for the group that ends here. False where the connection was opened anew meanwhile: nobody
    /// knows which history was seen.
    fn looked_up(&self, openings: u64, end: Lsn, saw: Lsn, product: &str) -> bool {
        let mut firm = self.firm();
        let same = self.openings() == openings;
        if same {
            firm.looked_up(end, saw, product);
        }
        same
    }

    /// The position up to which everything is matched, marked durably, and firm.
    fn recordable(&self) -> Lsn {
        let received = self.pending().received();
        let firm = self.firm().reached(received);
        let mut positions = self.positions();
        if let Some(end) = firm {
            positions.durable(end);
        }
        positions.position()
    }

    fn walsender(&self) -> Option<i32> {
        *self.walsender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
        while inbox.pending().is_empty() {
            let soon = if self.hastened { HASTENED_EVERY } else { BARRIER_EVERY };
            tokio::select! {
                () = inbox.arrived.notified() => return,
                () = inbox.idled.notified() => self.reach(inbox),
                // The sender lives as long as the handle beside it.
                _ = self.wanted.changed() => {
                    if !self.hastened {
                        self.parts.control.hasten();
                    }
                    self.hastened = true;
                }
                () = since(soon) => return,
            }
        }
    }

    /// R1: what is visible and where the log is. `None` while the source is away.
    pub async fn barrier(&mut self) -> Option<Barrier> {
        let taken = self.parts.source.barrier().await;
        self.barrier_at = Some(Instant::now());
        self.hastened = false;
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
        let answers = self.parts.lookups.ask(&questions).await;
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

    /// R3: marks are durable before V passes them, however long the store takes.
    pub async fn write(&self, marks: &Marks) {
        let stamp = |(product, at): &(String, Position)| state::mark(product, *at);
        let cells: Vec<_> = marks.products.iter().map(stamp).collect();
        let cells = &cells;
        self.durably(|store| async move {
            store.mark(&marks.keys).await?;
            store.save(cells).await
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
        let waits = !inbox.pending().is_empty();
        if group.transactions > 0 {
            inbox.firm().marked(group.end);
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
        self.parts
            .progress
            .send_modify(|progress| progress.clock = Some((barrier.time, barrier.sent)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::SourceTime;

    #[test]
    fn a_barrier_of_before_the_connection_was_lost_releases_nothing() {
        let inbox = Inbox::new(Lsn(10), &[], Vec::new());
        assert!(inbox.opened(Lsn(10), 1).is_empty());
        let openings = inbox.openings();
        let snapshot = Snapshot { xmin: 101, xmax: 101, in_progress: Vec::new() };
        assert!(inbox.opened(Lsn(10), 2).is_empty());
        inbox.commit(&Transaction { xid: Xid(100), end: Lsn(20), time: SourceTime(0) });
        assert_eq!(inbox.release(&snapshot, openings), None);
        let group = inbox.release(&snapshot, inbox.openings());
        assert_eq!(group.map(|group| group.end), Some(Lsn(20)));
    }
}
