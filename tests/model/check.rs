//! The promises of DESIGN section 2, looked at after every action.

use kck::{
    change::{Lsn, Position},
    entry::{Meta, Stamp},
    key::Key,
    serve::read::stands,
};

use super::{compute::Answer, mutation::Mutation, process::Process, source::Seen, world::World};

/// What a reader is told beside the answer.
#[derive(Debug, Clone, Copy)]
struct Claim {
    position: Lsn,
    fresh: bool,
}

impl World {
    pub(crate) fn broken(&mut self, what: String) {
        if self.violation.is_none() {
            self.violation = Some(what);
        }
    }

    /// Everything that must hold now.
    pub(crate) fn check(&mut self) {
        let Some(process) = self.process.take() else { return };
        // Until kck notices another history, what it says is of the one it knows.
        if process.timeline == self.source.timeline {
            self.check_positions(&process);
            for key in self.keys.clone() {
                self.check_answer(&process, &key);
            }
        }
        self.process = Some(process);
    }

    /// F <= V; V passes no commit that is not visible.
    fn check_positions(&mut self, process: &Process) {
        let progress = &process.progress;
        let (visible, settled) = (progress.visible, progress.settled);
        if settled > visible {
            self.broken(format!("F {settled} is ahead of V {visible}"));
        }
        let passed = self.source.up_to(visible) & !self.source.visible;
        if passed != 0 {
            self.broken(format!("V {visible} passed a commit that is invisible"));
        }
    }

    /// R14: what is acknowledged is recorded.
    pub(crate) fn check_acknowledged(&mut self, position: Lsn) {
        let recorded = self.store.state().recorded;
        let epoch = self.process.as_ref().map(|process| process.progress.epoch);
        if epoch == Some(recorded.epoch) && position > recorded.lsn {
            self.broken(format!("{position} is acknowledged and {recorded} recorded"));
        }
    }

    /// Promises 1 and 3: what a reader would be told of a key now is so.
    fn check_answer(&mut self, process: &Process, key: &Key) {
        let progress = process.progress;
        if process.ledger.has_left(key.product()) {
            return;
        }
        let Some(mut standing) = process.ledger.standing(key) else { return };
        standing.fresh &= process.ledger.is_cached(key.product(), progress.visible);
        let Some(answer) = self.bytes(key, &standing.meta) else { return };
        let told = stands(&standing, &progress);
        if told.position.epoch != progress.epoch {
            return;
        }
        // F says more than the certificate, which is of a barrier: nothing up to it can still touch what is unmarked.
        let settled = if told.stale { Lsn(0) } else { progress.settled };
        let claim = Claim { position: told.position.lsn.max(settled), fresh: !told.stale };
        self.claim(process, key, &answer, claim);
        let own = self.source.up_to(standing.meta.as_of.lsn);
        if own & !answer.seen != 0 && self.same_bytes(&standing.meta, &answer) {
            self.broken(format!("{key} says as of {} and has not seen that", standing.meta.as_of));
        }
    }

    /// The bytes that go with what the ledger says.
    fn bytes(&self, key: &Key, meta: &Meta) -> Option<Answer> {
        let stored = self.store.keys.get(key).and_then(|cells| cells.entry.value());
        let stamp = match self.mutation {
            Some(Mutation::BytesOfAnyStamp) => stored.map_or(meta.stamp, |stored| stored.stamp),
            Some(Mutation::StampReused) => meta.snapshot,
            _ => meta.stamp,
        };
        self.answers.get(&(key.clone(), stamp)).copied()
    }

    fn same_bytes(&self, meta: &Meta, answer: &Answer) -> bool {
        meta.digest == answer.value && meta.version == answer.version
    }

    /// The answer equals the query on what it saw and every commit up to `position`.
    fn claim(&mut self, process: &Process, key: &Key, answer: &Answer, claim: Claim) {
        let Claim { position, fresh } = claim;
        let noticed = process.incarnation == self.source.incarnation;
        let mut seen: Seen = answer.seen;
        if noticed && fresh {
            seen &= self.source.surviving();
        }
        let definition = if fresh { process.definition } else { answer.definition };
        let truth = seen | self.source.up_to(position);
        let found = (truth, definition, answer.value);
        if self.verified.insert(key.clone(), found) == Some(found) {
            return;
        }
        let value = self.source.tables(truth).answer(key, definition);
        if value != answer.value {
            let freshly = if fresh { "fresh" } else { "stale" };
            self.broken(format!(
                "{key} is told as {freshly} as of {position}: saw {:b}, should have {truth:b}",
                answer.seen
            ));
        }
    }

    /// An answer that is not kept has every commit up to its `as_of`.
    pub(crate) fn claim_uncached(&mut self, key: &Key, as_of: Position, seen: Seen) {
        let missed = self.source.up_to(as_of.lsn) & !seen;
        if missed != 0 && as_of.epoch == self.store.state().epoch {
            self.broken(format!("{key}, uncached, says as of {as_of} and missed {missed:b}"));
        }
    }

    /// Promise 2: stamps of what is written grow strictly.
    pub(crate) fn stamped(&mut self, key: &Key, stamp: Stamp) {
        let before = self.stamps.insert(key.clone(), stamp).unwrap_or_default();
        if stamp <= before {
            self.broken(format!("{key}: stamp {} after {}", stamp.0, before.0));
        }
    }

    /// Promise 2: versions of what is kept and told never go back, and never stand for other bytes.
    pub(crate) fn told(&mut self, key: &Key, answer: &Answer) {
        let told = self.versions.entry(key.clone()).or_insert((answer.version, answer.value));
        let (version, value) = std::mem::replace(told, (answer.version, answer.value));
        if answer.version < version || (answer.version == version && answer.value != value) {
            self.broken(format!("{key}: version {} after {version}", answer.version));
        }
    }

    /// Promise 2: what is stored of a key never loses what it had seen.
    pub(crate) fn check_replaced(&mut self, key: &Key, before: &Meta, after: &Meta) {
        let given =
            |meta: &Meta| self.answers.get(&(key.clone(), meta.stamp)).map(|answer| answer.seen);
        let (Some(before_seen), Some(after_seen)) = (given(before), given(after)) else { return };
        if before.as_of.epoch == after.as_of.epoch
            && before_seen & self.source.surviving() & !after_seen != 0
        {
            self.broken(format!("{key}: an older answer replaced a newer one in the store"));
        }
    }
}
