//! Folded transactions → what a barrier releases: R1's waiting room. Pure.
//!
//! Invariants: a transaction is released only when it and all before it are visible; what was marked early
//! stays until it is seen visible, and V stays below it (R3).

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::{
    change::{Change, Lsn, Snapshot, Transaction, Xid},
    key::Key,
};

use super::{Index, Touched};

#[derive(Debug)]
struct Folded {
    xid: Xid,
    end: Lsn,
    touched: Touched,
    /// Its products are marked as a whole, durably: it may be acknowledged.
    early: bool,
}

/// Transactions handled together: what they touch, each with the newest commit that does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// How many transactions.
    pub transactions: u64,
    /// The end of the last.
    pub end: Lsn,
    /// Keys touched.
    pub keys: HashMap<Key, Lsn>,
    /// Products touched as a whole.
    pub products: BTreeMap<String, Lsn>,
}

/// What has arrived and is not released yet.
#[derive(Debug)]
pub struct Pending {
    current: Touched,
    inside: bool,
    waiting: VecDeque<Folded>,
    /// The newest position delivered, of whatever kind.
    received: Lsn,
    /// The end of the last released transaction, or the resume position.
    released: Lsn,
    /// A position up to which everything was delivered when nothing waited.
    idle: Lsn,
    /// Distinct keys one transaction may touch before its products count as touched whole.
    limit: usize,
}

impl Pending {
    /// Goes on from `resume`; `early` are transactions that were acknowledged and not seen visible.
    #[must_use]
    pub fn new(resume: Lsn, early: &[(Xid, Lsn)], limit: usize) -> Self {
        let mut early = early.to_vec();
        early.sort_by_key(|(_, end)| *end);
        let folded = |(xid, end)| Folded { xid, end, touched: Touched::new(limit), early: true };
        Self {
            current: Touched::new(limit),
            inside: false,
            released: early
                .first()
                .map_or(resume, |(_, end): &(Xid, Lsn)| Lsn(end.0 - 1).min(resume)),
            waiting: early.into_iter().map(folded).collect(),
            received: resume,
            idle: Lsn(0),
            limit,
        }
    }

    /// The connection was opened anew: what was not acknowledged comes again.
    pub fn opened(&mut self, at: Lsn) {
        self.current = Touched::new(self.limit);
        self.inside = false;
        self.waiting.retain(|folded| folded.early);
        self.received = at;
    }

    /// A change of the transaction under way.
    pub fn change(&mut self, index: &Index, change: &Change) {
        self.inside = true;
        index.fold(change, &mut self.current);
    }

    /// The transaction under way has ended. One that comes again after it was acknowledged is left out.
    pub fn commit(&mut self, transaction: &Transaction) {
        let touched = std::mem::replace(&mut self.current, Touched::new(self.limit));
        self.inside = false;
        self.received = self.received.max(transaction.end);
        // After a reconnect only a prefix is kept, all of it acknowledged: what comes again is at or below it.
        let known = self.waiting.back().is_some_and(|last| transaction.end <= last.end);
        if transaction.end > self.released && !known {
            let Transaction { xid, end, .. } = *transaction;
            self.waiting.push_back(Folded { xid, end, touched, early: false });
        }
    }

    /// Outside a transaction everything up to here was delivered.
    pub fn idle(&mut self, position: Lsn) {
        self.received = self.received.max(position);
        if !self.inside {
            self.idle = self.idle.max(position);
        }
    }

    /// How many transactions wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The newest position delivered.
    #[must_use]
    pub fn received(&self) -> Lsn {
        self.received
    }

    /// Takes the transactions that a barrier with this snapshot releases, in commit order.
    pub fn release(&mut self, snapshot: &Snapshot) -> Group {
        let mut group = Group::default();
        while let Some(first) = self.waiting.front()
            && snapshot.sees(first.xid)
        {
            let Some(Folded { end, touched, .. }) = self.waiting.pop_front() else { break };
            group.transactions += 1;
            group.end = end;
            self.released = self.released.max(end);
            for key in touched.keys() {
                group.keys.insert(key.clone(), end);
            }
            for product in touched.products() {
                group.products.insert(product.to_owned(), end);
            }
        }
        group
    }

    /// Where V may stand once everything released is marked durably: with nothing waiting it follows the
    /// positions of keepalives (R8).
    #[must_use]
    pub fn settled(&self) -> Lsn {
        if self.is_empty() { self.released.max(self.idle) } else { self.released }
    }

    /// What waits and is not marked early: their products, each with the newest commit that touches it (R3).
    #[must_use]
    pub fn unmarked(&self) -> Early {
        let mut early = Early::default();
        for folded in self.waiting.iter().filter(|folded| !folded.early) {
            early.end = early.end.max(folded.end);
            early.transactions += 1;
            let keys = folded.touched.keys().map(Key::product);
            for product in keys.chain(folded.touched.products()) {
                early.products.insert(product.to_owned(), folded.end);
            }
        }
        early.all = self.waiting.iter().map(|folded| (folded.xid, folded.end)).collect();
        early
    }

    /// The products of everything up to `end` are marked as a whole, durably, and so is the list of them.
    pub fn marked_early(&mut self, end: Lsn) {
        for folded in &mut self.waiting {
            folded.early |= folded.end <= end;
        }
    }

    /// Acknowledged, or about to be, and not seen visible.
    #[must_use]
    pub fn early(&self) -> Vec<(Xid, Lsn)> {
        self.waiting
            .iter()
            .filter(|folded| folded.early)
            .map(|folded| (folded.xid, folded.end))
            .collect()
    }
}

/// What is to be marked before it is visible.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Early {
    /// The newest of these commits.
    pub end: Lsn,
    /// How many there are.
    pub transactions: u64,
    /// The products they touch.
    pub products: BTreeMap<String, Lsn>,
    /// Every transaction that will then be acknowledged and is not visible.
    pub all: Vec<(Xid, Lsn)>,
}
