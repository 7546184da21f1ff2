//! The acknowledgement law: what was received and what is durable → what may be recorded and acknowledged.
//!
//! The law (DESIGN section 7): the end of the last commit such that it and all before it are durably marked;
//! while nothing is pending, the position of the last keepalive, so that an idle database with a busy neighbour
//! holds no log. "Nothing is pending" is derived from what is pending, never kept as a flag.

use std::collections::VecDeque;

use crate::change::Lsn;

/// What one epoch's stream has delivered and how far it is durable. Survives reopened connections: a commit that
/// was durable once is so when it comes again.
///
/// Invariant: [`Positions::position`] never goes back, and never reaches the end of a commit that is not durable.
#[derive(Debug, Clone)]
pub struct Positions {
    /// Commits that were received, from the first that is not durable on, in the order of their ends.
    pending: VecDeque<Pending>,
    /// Every commit of the log up to here is durable.
    through: Lsn,
    position: Lsn,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    end: Lsn,
    /// Everything up to here was delivered before the next commit began.
    until: Lsn,
    durable: bool,
}

impl Positions {
    /// Nothing received, and everything up to `resume` durable.
    #[must_use]
    pub fn new(resume: Lsn) -> Self {
        Self { pending: VecDeque::new(), through: resume, position: resume }
    }

    /// The connection was opened anew: what is not durable comes again.
    pub fn opened(&mut self) {
        self.pending.clear();
    }

    /// A commit has come, with all its changes.
    pub fn received(&mut self, end: Lsn) {
        self.pending.push_back(Pending { end, until: end, durable: false });
        self.settle();
    }

    /// Outside a transaction, everything up to `position` has been delivered.
    pub fn idle(&mut self, position: Lsn) {
        match self.pending.back_mut() {
            Some(last) => last.until = last.until.max(position),
            None => self.reach(position),
        }
    }

    /// Every commit of the log up to `end` is matched, lookups included, and its marks are durable.
    pub fn durable(&mut self, end: Lsn) {
        self.through = self.through.max(end);
        self.settle();
    }

    /// This commit is covered by durable whole-product marks (R3), whatever is with those before it.
    pub fn covered(&mut self, end: Lsn) {
        let found = self.pending.binary_search_by_key(&end, |pending| pending.end);
        if let Some(pending) = found.ok().and_then(|index| self.pending.get_mut(index)) {
            pending.durable = true;
        }
        self.settle();
    }

    /// What may be recorded, and then acknowledged.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.position
    }

    fn settle(&mut self) {
        while let Some(first) = self.pending.front().copied()
            && (first.durable || first.end <= self.through)
        {
            self.pending.pop_front();
            self.reach(first.until);
        }
    }

    fn reach(&mut self, position: Lsn) {
        self.position = self.position.max(position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    /// What a log holds, at positions 10, 20, 30, …
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Record {
        Commit,
        Neighbour,
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        /// The next record arrives: a commit, or a keepalive where a neighbour wrote.
        Deliver,
        /// Everything up to one of the commits becomes durable, also if it came on an earlier connection.
        Durable(prop::sample::Index),
        /// One commit is covered early.
        Covered(prop::sample::Index),
        /// The position is acknowledged.
        Acknowledge,
        /// The connection breaks and resumes at the acknowledged position.
        Reopen,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let index = any::<prop::sample::Index>;
        vec(
            prop_oneof![
                5 => Just(Step::Deliver),
                2 => index().prop_map(Step::Durable),
                2 => index().prop_map(Step::Covered),
                1 => Just(Step::Acknowledge),
                1 => Just(Step::Reopen),
            ],
            0..80,
        )
    }

    fn log() -> impl Strategy<Value = Vec<Record>> {
        vec(prop_oneof![Just(Record::Commit), Just(Record::Neighbour)], 1..30)
    }

    fn lsn(index: usize) -> Lsn {
        Lsn((index as u64 + 1) * 10)
    }

    /// The slow, obvious law: walk what this connection has delivered, stop at the first commit that is not
    /// durable, and never go back.
    struct Model {
        log: Vec<Record>,
        /// Per record, whether it is durable for good.
        durable: Vec<bool>,
        /// Per record, whether it is covered on this connection.
        covered: Vec<bool>,
        from: usize,
        delivered: usize,
        ever_delivered: usize,
        position: Lsn,
        acknowledged: Lsn,
    }

    impl Model {
        fn new(log: Vec<Record>) -> Self {
            let none = vec![false; log.len()];
            let covered = none.clone();
            let (from, delivered, ever_delivered) = (0, 0, 0);
            let (position, acknowledged, durable) = (Lsn(0), Lsn(0), none);
            Self { log, durable, covered, from, delivered, ever_delivered, position, acknowledged }
        }

        fn commits(&self, range: std::ops::Range<usize>) -> Vec<usize> {
            range.filter(|at| self.log[*at] == Record::Commit).collect()
        }

        fn settle(&mut self) {
            for at in self.from..self.delivered {
                if self.log[at] == Record::Commit && !self.durable[at] && !self.covered[at] {
                    return;
                }
                self.position = self.position.max(lsn(at));
            }
        }

        fn reopen(&mut self) {
            self.from = (0..self.log.len())
                .find(|at| lsn(*at) > self.acknowledged)
                .unwrap_or(self.log.len());
            self.delivered = self.from;
            self.covered.fill(false);
        }
    }

    fn step(model: &mut Model, positions: &mut Positions, step: Step) {
        let ever = model.commits(0..model.ever_delivered);
        let current = model.commits(model.from..model.delivered);
        match step {
            Step::Deliver if model.delivered == model.log.len() => {}
            Step::Deliver => {
                let at = model.delivered;
                model.delivered += 1;
                model.ever_delivered = model.ever_delivered.max(model.delivered);
                match model.log[at] {
                    Record::Commit => positions.received(lsn(at)),
                    Record::Neighbour => positions.idle(lsn(at)),
                }
            }
            Step::Durable(_) if ever.is_empty() => {}
            Step::Durable(index) => {
                let at = *index.get(&ever);
                model.durable[..=at].fill(true);
                positions.durable(lsn(at));
            }
            Step::Covered(_) if current.is_empty() => {}
            Step::Covered(index) => {
                let at = *index.get(&current);
                model.covered[at] = true;
                positions.covered(lsn(at));
            }
            Step::Acknowledge => model.acknowledged = model.position,
            Step::Reopen => {
                model.reopen();
                positions.opened();
            }
        }
        model.settle();
    }

    proptest! {
        #[test]
        fn is_the_slow_obvious_law(log in log(), steps in steps()) {
            let mut model = Model::new(log);
            let mut positions = Positions::new(Lsn(0));
            for one in steps {
                let before = positions.position();
                step(&mut model, &mut positions, one);
                prop_assert!(positions.position() >= before);
                prop_assert_eq!(positions.position(), model.position, "after {:?}", one);
            }
        }
    }

    #[test]
    fn an_idle_database_follows_its_neighbour() {
        let mut positions = Positions::new(Lsn(5));
        positions.idle(Lsn(9));
        assert_eq!(positions.position(), Lsn(9));
    }

    #[test]
    fn a_keepalive_waits_for_the_commit_before_it() {
        let mut positions = Positions::new(Lsn(0));
        positions.received(Lsn(10));
        positions.idle(Lsn(15));
        assert_eq!(positions.position(), Lsn(0));
        positions.durable(Lsn(10));
        assert_eq!(positions.position(), Lsn(15));
    }

    #[test]
    fn a_covered_commit_waits_for_those_before_it() {
        let mut positions = Positions::new(Lsn(0));
        positions.received(Lsn(10));
        positions.received(Lsn(20));
        positions.covered(Lsn(20));
        assert_eq!(positions.position(), Lsn(0));
        positions.durable(Lsn(10));
        assert_eq!(positions.position(), Lsn(20));
    }

    #[test]
    fn what_was_durable_is_so_when_it_comes_again() {
        let mut positions = Positions::new(Lsn(0));
        positions.received(Lsn(10));
        positions.opened();
        positions.durable(Lsn(10));
        positions.received(Lsn(10));
        assert_eq!(positions.position(), Lsn(10));
    }
}
