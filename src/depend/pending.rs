//! Folded transactions → what a barrier releases: R1's waiting room. Pure.
//!
//! Invariants: a transaction is released only when it and all before it are visible; what was marked early
//! stays until it is seen visible, and V stays below it (R3).

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::{
    change::{Change, Lsn, Snapshot, Transaction, Xid},
    key::Key,
    pattern::Pattern,
};

use super::{
    Matcher, Touched,
    lookup::{Asked, Found, ROWS_MAX},
};

#[derive(Debug, Clone)]
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
    /// The end of the last commit before them.
    pub after: Lsn,
    /// The end of the last.
    pub end: Lsn,
    /// Keys touched.
    pub keys: HashMap<Key, Lsn>,
    /// Touched keys agree with these.
    pub patterns: HashMap<Pattern, Lsn>,
    /// Products touched as a whole.
    pub products: BTreeMap<String, Lsn>,
    /// What is still to be looked up, by product.
    pub asked: BTreeMap<String, Asked>,
}

impl Group {
    fn add(&mut self, touched: &Touched, end: Lsn) {
        self.keys.extend(touched.keys().map(|key| (key.clone(), end)));
        self.patterns.extend(touched.patterns().map(|pattern| (pattern.clone(), end)));
        self.products.extend(touched.products().map(|product| (product.to_owned(), end)));
        for asked in touched.asked() {
            let product = asked.lookups.product.to_string();
            let all = self.asked.entry(product).or_insert_with(|| Asked::new(&asked.lookups));
            if !all.merge(asked) || all.len() > ROWS_MAX {
                self.touch(&asked.lookups.product);
            }
        }
    }

    /// What was looked up for a product. All of it is taken for touched by the newest commit.
    pub fn found(&mut self, found: Found) {
        let end = self.end;
        self.keys.extend(found.keys.into_iter().map(|key| (key, end)));
        self.patterns.extend(found.patterns.into_iter().map(|pattern| (pattern, end)));
    }

    /// Nothing finer is known of a product than that any key may be touched.
    pub fn touch(&mut self, product: &str) {
        self.asked.remove(product);
        self.products.insert(product.to_owned(), self.end);
    }
}

/// What has arrived and is not released yet.
#[derive(Debug, Clone)]
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
    /// Keys held by all that waits; what is marked early holds none.
    held: usize,
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
            held: 0,
            limit,
        }
    }

    /// The connection was opened anew: what was not acknowledged comes again.
    pub fn opened(&mut self, at: Lsn) {
        self.released = self.settled();
        // What was dropped is delivered again, below the positions that the last connection gave after it.
        self.idle = Lsn(0);
        self.current = Touched::new(self.limit);
        self.inside = false;
        self.waiting.retain(|folded| folded.early);
        self.held = 0;
        self.received = at;
    }

    /// A change of the transaction under way.
    pub fn change(&mut self, matcher: &mut Matcher, change: &Change) {
        self.inside = true;
        matcher.fold(change, &mut self.current);
    }

    /// The transaction under way has ended. One that comes again after it was released or marked early is left
    /// out; whether it is such a one comes back, since it may be acknowledged then.
    pub fn commit(&mut self, transaction: &Transaction) -> bool {
        self.released = self.settled();
        let touched = std::mem::replace(&mut self.current, Touched::new(self.limit));
        self.inside = false;
        self.received = self.received.max(transaction.end);
        // After a reconnect only a prefix is kept, all of it acknowledged: what comes again is at or below it.
        let known = self.waiting.back().is_some_and(|last| transaction.end <= last.end);
        if transaction.end > self.released && !known {
            let Transaction { xid, end, .. } = *transaction;
            self.held += touched.held();
            self.waiting.push_back(Folded { xid, end, touched, early: false });
        }
        known
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

    /// How many keys what waits holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
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
        let mut group = Group { after: self.released, ..Group::default() };
        while let Some(first) = self.waiting.front()
            && snapshot.sees(first.xid)
        {
            let Some(Folded { end, touched, .. }) = self.waiting.pop_front() else { break };
            self.held -= touched.held();
            group.transactions += 1;
            group.end = end;
            self.released = self.released.max(end);
            group.add(&touched, end);
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
            for product in folded.touched.all_products() {
                early.products.insert(product.to_owned(), folded.end);
            }
        }
        early.all = self.waiting.iter().map(|folded| (folded.xid, folded.end)).collect();
        early
    }

    /// The products of everything up to `end` are marked as a whole, durably, and so is the list of them: more of
    /// them need not be held.
    pub fn marked_early(&mut self, end: Lsn) {
        for folded in self.waiting.iter_mut().filter(|folded| folded.end <= end) {
            folded.early = true;
            self.held -= folded.touched.held();
            folded.touched.collapse();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::SourceTime;
    use proptest::prelude::*;

    fn transaction(xid: u32, end: u64) -> Transaction {
        Transaction { xid: Xid(xid), end: Lsn(end), time: SourceTime(0) }
    }

    fn sees(xids: &[u32]) -> Snapshot {
        let in_progress = (1..100).filter(|xid| !xids.contains(xid)).map(u64::from).collect();
        Snapshot { xmin: 1, xmax: 100, in_progress }
    }

    #[test]
    fn what_is_visible_waits_for_what_is_before_it() {
        let mut pending = Pending::new(Lsn(10), &[], 9);
        pending.commit(&transaction(5, 20));
        pending.commit(&transaction(6, 30));
        assert_eq!(pending.release(&sees(&[6])).transactions, 0);
        assert_eq!(pending.settled(), Lsn(10));
        let group = pending.release(&sees(&[5, 6]));
        assert_eq!((group.transactions, group.end, pending.settled()), (2, Lsn(30), Lsn(30)));
    }

    #[test]
    fn with_nothing_waiting_v_follows_keepalives() {
        let mut pending = Pending::new(Lsn(10), &[], 9);
        pending.idle(Lsn(15));
        assert_eq!(pending.settled(), Lsn(15));
        pending.commit(&transaction(5, 20));
        pending.idle(Lsn(25));
        assert_eq!(pending.settled(), Lsn(15), "a commit waits");
        pending.release(&sees(&[5]));
        assert_eq!(pending.settled(), Lsn(25), "everything up to there was delivered");
    }

    #[test]
    fn a_reconnect_brings_again_what_was_not_acknowledged() {
        let mut pending = Pending::new(Lsn(10), &[], 9);
        pending.commit(&transaction(5, 20));
        pending.marked_early(Lsn(20));
        pending.commit(&transaction(6, 30));
        pending.opened(Lsn(20));
        assert_eq!(pending.early(), [(Xid(5), Lsn(20))]);
        assert!(pending.commit(&transaction(5, 20)), "it may be acknowledged");
        assert!(!pending.commit(&transaction(6, 30)));
        assert_eq!(pending.len(), 2, "what was kept is not taken twice");
        assert_eq!(pending.release(&sees(&[5, 6])).transactions, 2);
    }

    #[test]
    fn a_keepalive_of_a_lost_connection_counts_no_more() {
        let mut pending = Pending::new(Lsn(10), &[], 9);
        pending.commit(&transaction(5, 20));
        pending.idle(Lsn(25));
        pending.opened(Lsn(10));
        assert_eq!(
            pending.settled(),
            Lsn(10),
            "the commit at 20 was not released, and comes again"
        );
    }

    #[test]
    fn v_starts_below_what_was_acknowledged_early() {
        let mut pending = Pending::new(Lsn(40), &[(Xid(7), Lsn(40)), (Xid(6), Lsn(30))], 9);
        assert_eq!(pending.settled(), Lsn(29));
        pending.idle(Lsn(50));
        assert_eq!(pending.settled(), Lsn(29));
        assert_eq!(pending.release(&sees(&[6])).end, Lsn(30));
        assert_eq!(pending.settled(), Lsn(30));
        pending.release(&sees(&[6, 7]));
        assert_eq!(pending.settled(), Lsn(50));
    }

    proptest! {
        /// R1, R3: whatever arrives, is released, marked early or comes again, V stays below every commit that
        /// was delivered and is not released.
        #[test]
        fn v_never_passes_what_is_not_released(steps in prop::collection::vec((0u8..5, 1u32..30), 1..100)) {
            let mut pending = Pending::new(Lsn(0), &[], 9);
            let (mut end, mut next) = (0, 1);
            let (mut visible, mut delivered, mut acknowledged): (Vec<u32>, Vec<(u32, u64)>, u64) = (vec![], vec![], 0);
            for (step, n) in steps {
                match step {
                    0 => {
                        end += u64::from(n);
                        delivered.push((next, end));
                        pending.commit(&transaction(next, end));
                        next += 1;
                    }
                    1 => pending.idle(Lsn(end)),
                    2 => visible.push(n),
                    3 => {
                        let early = pending.unmarked();
                        pending.marked_early(early.end);
                        acknowledged = acknowledged.max(early.end.0);
                    }
                    _ => {
                        pending.opened(Lsn(acknowledged.max(pending.settled().0)));
                        let again = delivered.clone();
                        for (xid, end) in again {
                            if end > acknowledged.max(pending.settled().0) {
                                pending.commit(&transaction(xid, end));
                            }
                        }
                    }
                }
                let group = pending.release(&sees(&visible));
                prop_assert!(group.transactions == 0 || group.end <= pending.settled());
                let first = delivered.iter().find(|(xid, _)| !visible.contains(xid));
                prop_assert!(first.is_none_or(|(_, end)| pending.settled().0 < *end));
            }
        }
    }
}
