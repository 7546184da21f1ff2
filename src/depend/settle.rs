//! V, lookup positions and barriers → F and the certificate (R7, R8). Pure.
//!
//! Invariant: F <= V, and F passes a commit only when V has passed everything that its lookups may have seen, and
//! what the lookups of that may have seen, once for each step of the longest path. A certificate is given only for a
//! barrier whose insert position F has reached.

use std::collections::VecDeque;

use crate::{change::Lsn, progress::Certificate};

/// Barriers that F has not reached yet; past it every second one is let go, which only delays.
const BARRIERS_KEPT: usize = 64;

/// Groups with lookups that F has not passed; past it the two oldest count as one, which only delays.
const GROUPS_KEPT: usize = 10_000;

/// Transactions whose rows were looked up together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LookedUp {
    /// The end of the last commit before them.
    after: Lsn,
    /// The lookups saw the log up to here; not known before the first barrier of a start.
    saw: Option<Lsn>,
}

/// Follows V, and knows which barriers are settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settle {
    visible: Lsn,
    settled: Lsn,
    /// Steps of the longest path that any lookup took.
    steps: usize,
    /// In commit order; those that can hold F up no more are gone.
    groups: VecDeque<LookedUp>,
    waiting: VecDeque<Certificate>,
    certificate: Option<Certificate>,
}

impl Settle {
    /// Starts at the recorded position. `steps` is of the longest lookup path of the products that were matched: all
    /// that was looked up before counts as one group, looked up at the first barrier.
    #[must_use]
    pub fn new(visible: Lsn, steps: usize) -> Self {
        let before = (steps > 0).then_some(LookedUp { after: Lsn(0), saw: None });
        let settled = if steps > 0 { Lsn(0) } else { visible };
        Self {
            visible,
            settled,
            steps,
            groups: before.into_iter().collect(),
            waiting: VecDeque::new(),
            certificate: None,
        }
    }

    /// Commits after `after` were looked up by paths of up to `steps`, and the lookups saw no more than `saw`. Before V
    /// reaches them.
    pub fn looked_up(&mut self, after: Lsn, saw: Lsn, steps: usize) {
        self.steps = self.steps.max(steps);
        if self.groups.len() >= GROUPS_KEPT
            && let (Some(first), Some(second)) = (self.groups.pop_front(), self.groups.front_mut())
        {
            let saw = first.saw.zip(second.saw).map(|(one, other)| one.max(other));
            *second = LookedUp { after: first.after, saw };
        }
        self.groups.push_back(LookedUp { after, saw: Some(saw) });
    }

    /// Every commit up to here is matched, durably marked and visible. Lower positions are ignored.
    pub fn reach(&mut self, visible: Lsn) {
        self.visible = self.visible.max(visible);
        let ends = self.groups.iter().rev().map(|group| group.after.min(self.visible));
        let candidates = std::iter::once(self.visible).chain(ends);
        let reached =
            candidates.take_while(|to| *to > self.settled).find(|to| self.is_settled(*to));
        self.settled = reached.unwrap_or(self.settled);
        let settled = self.settled;
        self.groups.retain(|group| group.saw.is_none_or(|saw| saw > settled));
        while self.waiting.front().is_some_and(|barrier| barrier.lsn <= settled) {
            self.certificate = self.waiting.pop_front();
        }
    }

    /// The closure of R7.
    fn is_settled(&self, to: Lsn) -> bool {
        let mut needed = to;
        for _ in 0..self.steps {
            if needed > self.visible {
                return false;
            }
            let within = needed;
            for group in self.groups.iter().take_while(|group| group.after < within) {
                let Some(saw) = group.saw else { return false };
                needed = needed.max(saw);
            }
        }
        needed <= self.visible
    }

    /// A barrier saw the log at `barrier.lsn`. Barriers come in the order they were sent.
    pub fn barrier(&mut self, barrier: Certificate) {
        // The log ends before where it was: a crash of the source took what was not flushed, and a certificate for a
        // position above may never come.
        self.waiting.retain(|earlier| earlier.lsn <= barrier.lsn);
        for group in self.groups.iter_mut().filter(|group| group.saw.is_none()) {
            group.saw = Some(barrier.lsn);
        }
        if self.waiting.len() >= BARRIERS_KEPT {
            let mut keep = false;
            self.waiting.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.waiting.push_back(barrier);
        self.reach(self.visible);
    }

    /// V.
    #[must_use]
    pub fn visible(&self) -> Lsn {
        self.visible
    }

    /// F.
    #[must_use]
    pub fn settled(&self) -> Lsn {
        self.settled
    }

    /// The newest barrier that F has reached.
    #[must_use]
    pub fn certificate(&self) -> Option<Certificate> {
        self.certificate
    }

    /// The oldest barrier that F has not reached.
    #[must_use]
    pub fn waiting(&self) -> Option<&Certificate> {
        self.waiting.front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::SourceTime;
    use proptest::prelude::*;
    use std::time::Instant;

    fn barrier(lsn: u64, time: i64, sent: Instant) -> Certificate {
        Certificate { lsn: Lsn(lsn), time: SourceTime(time), sent }
    }

    #[test]
    fn what_a_crash_of_the_source_took_is_not_waited_for() {
        let sent = Instant::now();
        let mut settle = Settle::new(Lsn(10), 0);
        settle.barrier(barrier(90, 1, sent));
        settle.barrier(barrier(30, 2, sent));
        settle.reach(Lsn(30));
        assert_eq!(settle.certificate(), Some(barrier(30, 2, sent)), "the log may never reach 90");
    }

    proptest! {
        /// The certificate is the newest barrier at or below V, unless barriers were let go for their number.
        #[test]
        fn a_certificate_is_never_ahead_of_v(steps in prop::collection::vec((any::<bool>(), 0u64..20), 1..200)) {
            let sent = Instant::now();
            let mut settle = Settle::new(Lsn(0), 0);
            let (mut insert, mut all) = (0, Vec::new());
            for (time, (is_barrier, by)) in (0i64..).zip(steps) {
                if is_barrier {
                    insert += by;
                    all.push(barrier(insert, time, sent));
                    settle.barrier(barrier(insert, time, sent));
                } else {
                    settle.reach(Lsn(settle.visible().0 + by));
                }
                let best = all.iter().rfind(|barrier| barrier.lsn <= settle.visible()).copied();
                match (settle.certificate(), best) {
                    (Some(given), Some(best)) => prop_assert!(given.time <= best.time && given.lsn <= settle.visible()),
                    (None, None) => {}
                    (None, Some(_)) => prop_assert!(all.len() > BARRIERS_KEPT),
                    (Some(_), None) => prop_assert!(false, "a certificate from nothing"),
                }
            }
        }
    }
}
