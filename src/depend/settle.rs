//! V and barriers → F and the certificate (R7, R8). Pure.
//!
//! Invariant: F <= V, and a certificate is given only for a barrier whose insert position F has reached.
//! While every match is direct or whole-product nothing waits for a lookup, so F is V.

use std::collections::VecDeque;

use crate::{change::Lsn, progress::Certificate};

/// Barriers that F has not reached yet; past it every second one is let go, which only delays.
const BARRIERS_KEPT: usize = 64;

/// Follows V, and knows which barriers are settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settle {
    visible: Lsn,
    waiting: VecDeque<Certificate>,
    certificate: Option<Certificate>,
}

impl Settle {
    /// Starts at the recorded position.
    #[must_use]
    pub fn new(visible: Lsn) -> Self {
        Self { visible, waiting: VecDeque::new(), certificate: None }
    }

    /// Every commit up to here is matched, durably marked and visible. Lower positions are ignored.
    pub fn reach(&mut self, visible: Lsn) {
        self.visible = self.visible.max(visible);
        while self.waiting.front().is_some_and(|barrier| barrier.lsn <= self.visible) {
            self.certificate = self.waiting.pop_front();
        }
    }

    /// A barrier saw the log at `barrier.lsn`. Barriers come in the order they were sent.
    pub fn barrier(&mut self, barrier: Certificate) {
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
        self.visible
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

    proptest! {
        /// The certificate is the newest barrier at or below V, unless barriers were let go for their number.
        #[test]
        fn a_certificate_is_never_ahead_of_v(steps in prop::collection::vec((any::<bool>(), 0u64..20), 1..200)) {
            let sent = Instant::now();
            let mut settle = Settle::new(Lsn(0));
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
