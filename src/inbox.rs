//! What has arrived and is not released, and what of it may be acknowledged: where the two halves of the pipeline meet.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

use crate::{
    capture::acknowledge::Positions,
    change::{Lsn, Snapshot, Transaction, Xid},
    depend::{
        firm::Firm,
        pending::{Group, Pending},
    },
    entry::Stamp,
    key::Key,
};

/// Transactions that may wait for their release, and keys that they may touch; past it the log waits in the source.
const PENDING_MOST: usize = 50_000;
const HELD_MOST: usize = 1_000_000;
/// Distinct keys of one transaction; past it its products count as touched whole (R1).
const KEYS_MOST: usize = 100_000;
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
    pub(crate) arrived: Notify,
    pub(crate) idled: Notify,
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

    pub(crate) fn positions(&self) -> MutexGuard<'_, Positions> {
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

    pub(crate) fn doubts(&self) -> MutexGuard<'_, Vec<(Key, Stamp)>> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn firm(&self) -> MutexGuard<'_, Firm> {
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
    pub(crate) fn looked_up(&self, openings: u64, end: Lsn, saw: Lsn, product: &str) -> bool {
        let mut firm = self.firm();
        let same = self.openings() == openings;
        if same {
            firm.looked_up(end, saw, product);
        }
        same
    }

    /// The position up to which everything is matched, marked durably, and firm.
    pub(crate) fn recordable(&self) -> Lsn {
        let received = self.pending().received();
        let firm = self.firm().reached(received);
        let mut positions = self.positions();
        if let Some(end) = firm {
            positions.durable(end);
        }
        positions.position()
    }

    pub(crate) fn walsender(&self) -> Option<i32> {
        *self.walsender.lock().unwrap_or_else(PoisonError::into_inner)
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
