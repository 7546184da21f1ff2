//! The pipeline's two halves and joining, step by step (pipeline, advance, join).

use std::collections::BTreeMap;

use kck::{
    change::{Change, Lsn, Old, Position, Snapshot, SourceTime},
    depend::{
        lookup::Asked,
        pending::{Early, Group},
    },
    progress::Certificate,
    store::state,
};

use super::{
    cells::Write,
    mutation::Mutation,
    process::{Process, SENT, Stream},
    shop,
    source::Seen,
    world::World,
};

/// A barrier's answer.
#[derive(Debug, Clone)]
pub(crate) struct Barrier {
    /// Openings of the stream before it was sent.
    openings: u64,
    pub(crate) snapshot: Snapshot,
    pub(crate) insert: Lsn,
}

/// Where the half that advances stands.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    Idle,
    /// A barrier was answered.
    Barrier(Barrier),
    /// Its group is released.
    Released(Barrier, Group),
    /// Lookups run on this snapshot, and read this insert position.
    Looking(Barrier, Group, Seen, Lsn),
    /// Everything of the group is known.
    Matched(Barrier, Group),
    /// Marks are in the ledger, these writes under way.
    Marking(Barrier, Group, Vec<u32>),
    /// V has moved.
    Settled,
    /// Whole-product marks of what waits, then the list of it, are under way.
    MarkingEarly(Early, Vec<u32>, bool),
    /// Entries that are not firm are being deleted: how many, and before which position is recorded.
    Purging(Lsn, usize, Vec<u32>),
    /// Products whose lookups were not firm are being marked.
    Paying(BTreeMap<String, Lsn>, Vec<u32>),
    /// A position is being recorded.
    Recording(Lsn, Vec<u32>),
}

impl World {
    // ---------- the stream

    /// The stream opens, where it stands, if the source's history goes on.
    pub(crate) fn open(&mut self) -> bool {
        let (source, mutation) = (&self.source, self.mutation);
        let Some(process) = &mut self.process else { return false };
        let (Some(slot), None) = (source.slot, &process.stream) else { return false };
        if process.timeline != source.timeline {
            return false;
        }
        let position = process.acknowledged.max(slot.confirmed);
        // It begins by saying how far kck is.
        let acknowledging = Some(process.acknowledged);
        process.stream = Some(Stream { position, told: 0, idled: Lsn(0), acknowledging });
        let received = match mutation {
            Some(Mutation::AllFirm) => Lsn(u64::MAX),
            _ => process.pending.received(),
        };
        if mutation != Some(Mutation::ConnectionIgnored) {
            let doubts = process.ledger.disconnected(received);
            process.doubts.extend(doubts);
        }
        for (product, at) in process.firm.lost(received) {
            process.ledger.mark_product(&product, at);
        }
        process.pending.opened(process.acknowledged);
        process.positions.opened();
        process.progress.connection += 1;
        process.incarnation = source.incarnation;
        true
    }

    /// One more change of the next commit; the commit itself comes with the last.
    pub(crate) fn receive_change(&mut self) -> bool {
        let (source, mutation) = (&self.source, self.mutation);
        let Some(process) = &mut self.process else { return false };
        let Some(stream) = &mut process.stream else { return false };
        let Some(next) = source.next_after(stream.position) else { return false };
        let changes = &source.commits[next].changes;
        if stream.told + 1 >= changes.len() {
            return false;
        }
        stream.told += 1;
        let told = stream.told - 1;
        process.change(&changes[told], told == 0, mutation);
        true
    }

    /// The rest of the next commit.
    pub(crate) fn receive(&mut self) -> bool {
        let (source, mutation) = (&self.source, self.mutation);
        let Some(process) = &mut self.process else { return false };
        let Some(stream) = &mut process.stream else { return false };
        let Some(next) = source.next_after(stream.position) else { return false };
        let told = std::mem::take(&mut stream.told);
        let transaction = source.transaction(next);
        stream.position = transaction.end;
        if process.pending.is_empty() {
            process.seen_before = (source.visible, source.insert);
        }
        for (number, change) in source.commits[next].changes.iter().enumerate().skip(told) {
            process.change(change, number == 0, mutation);
        }
        let known = process.pending.commit(&transaction);
        process.positions.received(transaction.end);
        if known || mutation == Some(Mutation::AcknowledgeBeforeLookups) {
            process.positions.covered(transaction.end);
        }
        if mutation == Some(Mutation::RulesFollowLate) {
            process.matcher.follow(&process.index);
        }
        true
    }

    pub(crate) fn idle(&mut self) -> bool {
        let Some(process) = &mut self.process else { return false };
        let Some(stream) = &mut process.stream else { return false };
        let sent = self.source.sent(stream.position);
        if stream.told > 0 || std::mem::replace(&mut stream.idled, sent) == sent {
            return false;
        }
        process.pending.idle(sent);
        process.positions.idle(sent);
        if matches!(process.stage, Stage::Idle) {
            process.reach();
        }
        true
    }

    /// An acknowledgement arrives at the source.
    pub(crate) fn acknowledge(&mut self) -> bool {
        let Some(stream) = self.process.as_mut().and_then(|process| process.stream.as_mut()) else {
            return false;
        };
        let Some(position) = stream.acknowledging.take() else { return false };
        if let Some(slot) = &mut self.source.slot {
            slot.confirmed = slot.confirmed.max(position);
        }
        self.check_acknowledged(position);
        true
    }

    // ---------- from a barrier to V

    /// One step of the half that advances, when it can go on without a choice.
    pub(crate) fn advance(&mut self) -> bool {
        let Some(mut process) = self.process.take() else { return false };
        let stage = std::mem::replace(&mut process.stage, Stage::Idle);
        let before = process.stage_number(&stage);
        process.stage = self.step(&mut process, stage);
        let went_on = process.stage_number(&process.stage) != before;
        self.process = Some(process);
        went_on
    }

    fn step(&mut self, process: &mut Process, stage: Stage) -> Stage {
        let reachable = process.timeline == self.source.timeline;
        match stage {
            Stage::Idle if reachable => Stage::Barrier(Barrier {
                openings: process.progress.connection,
                snapshot: self.source.snapshot(),
                insert: self.source.insert,
            }),
            Stage::Barrier(barrier) if barrier.openings != process.progress.connection => {
                Stage::Idle
            }
            Stage::Barrier(barrier) => {
                let snapshot = self.releasing(process, &barrier.snapshot);
                let group = process.pending.release(&snapshot);
                Stage::Released(barrier, group)
            }
            Stage::Released(barrier, group) if group.asked.is_empty() => {
                Stage::Matched(barrier, group)
            }
            Stage::Released(barrier, group) if reachable => {
                let (seen, insert) = match self.mutation {
                    Some(Mutation::LookUpBeforeRelease) => process.seen_before,
                    _ => (self.source.visible, self.source.insert),
                };
                Stage::Looking(barrier, group, seen, insert)
            }
            Stage::Looking(barrier, mut group, seen, saw) => {
                let same = barrier.openings == process.progress.connection;
                self.found(process, &mut group, seen, same.then_some(saw));
                Stage::Matched(barrier, group)
            }
            Stage::Matched(barrier, group) => {
                let writes = self.mark(process, &group);
                Stage::Marking(barrier, group, writes)
            }
            Stage::Marking(barrier, group, writes) if self.store.arrived(&writes) => {
                process.settle(&barrier, &group);
                Stage::Settled
            }
            Stage::MarkingEarly(early, writes, listed) if self.store.arrived(&writes) => {
                self.mark_early_on(process, early, listed)
            }
            Stage::Purging(position, count, writes) if self.store.arrived(&writes) => {
                process.doubts.drain(..count);
                self.record_now(process, position)
            }
            Stage::Paying(owed, writes) if self.store.arrived(&writes) => {
                process.firm.paid(&owed);
                Stage::Settled
            }
            Stage::Recording(position, writes) if self.store.arrived(&writes) => {
                process.recorded(position);
                Stage::Idle
            }
            Stage::Settled => Stage::Idle,
            waiting => waiting,
        }
    }

    /// The snapshot that releases; mutations have another than the barrier's.
    fn releasing(&self, process: &Process, snapshot: &Snapshot) -> Snapshot {
        let all = Snapshot { xmin: 1 << 31, xmax: 1 << 31, in_progress: Vec::new() };
        match self.mutation {
            Some(Mutation::NoBarrier) => all,
            Some(Mutation::VisibleFirst) => {
                let waits =
                    |number: &&usize| self.source.commits[**number].end > process.pending.settled();
                let sees = |number: &usize| snapshot.sees(self.source.transaction(*number).xid);
                let waiting: Vec<usize> = self.source.log.iter().filter(waits).copied().collect();
                let last = waiting.iter().rposition(sees).map_or(0, |last| last + 1);
                let mut in_progress: Vec<u64> =
                    waiting[last..].iter().map(|number| self.source.commits[*number].xid).collect();
                in_progress.sort_unstable();
                Snapshot { in_progress, ..all }
            }
            _ => snapshot.clone(),
        }
    }

    /// `saw` is where the log was, unless the connection was opened anew meanwhile.
    fn found(&self, process: &mut Process, group: &mut Group, seen: Seen, saw: Option<Lsn>) {
        let asked: Vec<Asked> = std::mem::take(&mut group.asked).into_values().collect();
        for asked in asked {
            let rows = self.source.tables(seen).look_up(&asked);
            let product = &asked.lookups.product;
            if let Some(saw) = saw {
                process.settle.looked_up(group.after, saw, asked.lookups.steps());
                if self.mutation != Some(Mutation::LookupsFirm) {
                    process.firm.looked_up(group.end, saw, product);
                }
            }
            match saw.and_then(|_| asked.found(&rows)) {
                Some(found) => group.found(found),
                None => group.touch(&asked.lookups.product),
            }
        }
    }

    /// R3: into the ledger, and on their way into the store.
    fn mark(&mut self, process: &mut Process, group: &Group) -> Vec<u32> {
        let ledger = &mut process.ledger;
        let mut keys = ledger.mark(group.keys.iter().map(|(key, at)| (key, *at)));
        keys.extend(ledger.mark_patterns(group.patterns.iter().map(|(by, at)| (by, *at))));
        keys.sort();
        let writes = keys.into_iter().map(|(key, at)| Write::Mark(key, at, true));
        let mut ids = self.store.issue(writes);
        ids.extend(self.mark_products(process, &group.products));
        if self.mutation == Some(Mutation::MarksNotDurable) { Vec::new() } else { ids }
    }

    fn mark_products(
        &mut self,
        process: &mut Process,
        products: &BTreeMap<String, Lsn>,
    ) -> Vec<u32> {
        let marks = products.iter().filter_map(|(product, at)| {
            let at = process.ledger.mark_product(product, *at)?;
            Some(Write::State(state::mark(product, at)))
        });
        self.store.issue(marks.collect::<Vec<_>>())
    }

    /// R3: what waits for its release is marked early.
    pub(crate) fn mark_early(&mut self) -> bool {
        let Some(mut process) = self.process.take() else { return false };
        let early = process.pending.unmarked();
        let begins = matches!(process.stage, Stage::Settled) && early.transactions > 0;
        if begins {
            let writes = self.mark_products(&mut process, &early.products);
            process.stage = Stage::MarkingEarly(early, writes, false);
        }
        self.process = Some(process);
        begins
    }

    fn mark_early_on(&mut self, process: &mut Process, early: Early, listed: bool) -> Stage {
        if !listed && self.mutation != Some(Mutation::EarlyNotRecorded) {
            let cell = state::early_cell(&early.all, process.state_stamp());
            let writes = self.store.issue([Write::State(cell)]);
            return Stage::MarkingEarly(early, writes, true);
        }
        process.pending.marked_early(early.end);
        for (_, end) in &early.all {
            process.positions.covered(*end);
        }
        Stage::Settled
    }

    /// R14: the position is to be recorded, after what is not firm is deleted.
    pub(crate) fn record(&mut self) -> bool {
        let Some(mut process) = self.process.take() else { return false };
        let owed = process.firm.owed().clone();
        if matches!(process.stage, Stage::Settled) && !owed.is_empty() {
            let writes = self.mark_products(&mut process, &owed);
            process.stage = Stage::Paying(owed, writes);
            self.process = Some(process);
            return true;
        }
        if let Some(end) = process.firm.reached(process.pending.received()) {
            process.positions.durable(end);
        }
        let position = process.positions.position();
        let begins = matches!(process.stage, Stage::Settled) && position > process.recorded;
        if begins {
            process.stage = if process.doubts.is_empty() {
                self.record_now(&mut process, position)
            } else {
                let doubts = process.doubts.clone();
                let highest = doubts.iter().map(|(_, stamp)| *stamp).max().unwrap_or_default();
                process.ensure(&mut self.store, highest, 0);
                let purge = doubts.into_iter().map(|(key, stamp)| Write::Entry(key, stamp, None));
                let writes = self.store.issue(purge.collect::<Vec<_>>());
                Stage::Purging(position, writes.len(), writes)
            };
        }
        self.process = Some(process);
        begins
    }

    fn record_now(&mut self, process: &mut Process, position: Lsn) -> Stage {
        let recorded = Position { epoch: process.progress.epoch, lsn: position };
        let mut cells = vec![state::recorded(recorded, process.state_stamp())];
        if self.mutation != Some(Mutation::EarlyNotRecorded) {
            let early = process.pending.early();
            cells.push(state::early_cell(&early, process.state_stamp()));
        }
        if self.mutation == Some(Mutation::AcknowledgeUnrecorded) {
            process.recorded(position);
        }
        Stage::Recording(position, self.store.issue(cells.into_iter().map(Write::State)))
    }

    // ---------- joining

    /// One step of the product that joins first.
    pub(crate) fn join(&mut self) -> bool {
        let (source, store, mutation) = (&self.source, &mut self.store, self.mutation);
        let Some(process) = &mut self.process else { return false };
        let Some(joiner) = process.joiners.first().cloned() else { return false };
        if !store.arrived(&joiner.writes) || process.timeline != source.timeline {
            return false;
        }
        let product = joiner.product;
        let matched = |process: &Process| process.matched.get(product).cloned();
        let (until, listed, writes) = match joiner.until {
            None if mutation == Some(Mutation::JoinUnmarked) => (Some(Lsn(0)), false, Vec::new()),
            None => {
                let at = Position { epoch: process.progress.epoch, lsn: source.insert };
                (Some(at.lsn), false, store.issue([Write::State(state::mark(product, at))]))
            }
            Some(until) if !joiner.listed => {
                let (matched, stamp) = (matched(process), process.state_stamp());
                let cell = state::matched(product, matched, stamp);
                (Some(until), true, store.issue([Write::State(cell)]))
            }
            Some(until) => {
                if until > Lsn(0) {
                    process.ledger.mark_product(product, until);
                }
                process.ledger.joins(product, until);
                process.joiners.remove(0);
                return true;
            }
        };
        process.joiners[0] = super::process::Joiner { product, until, listed, writes };
        true
    }

    /// The product that shifts is edited while kck runs: it leaves the list, durably, and joins by its new rules.
    pub(crate) fn edit(&mut self) -> bool {
        let Some(mut process) = self.process.take() else { return false };
        let name = shop::Asks::Shifting.name();
        let edits = !process.joining().contains(name);
        if edits {
            self.definition = 1 - self.definition;
            process.definition = self.definition;
            self.save(state::matched(name, None, process.state_stamp()));
            let generation = process.state_stamp();
            let definition = shop::Asks::Shifting.fingerprint(self.definition);
            let seen = state::Seen::default();
            let matched = state::Matched { definition, generation, seen };
            process.matched.insert(name.to_owned(), matched);
            process.index = shop::index(self.definition, self.mutation);
            process.joins(&[name]);
            let terms = process.terms(name);
            process.ledger.product(name, terms, Position::default());
        }
        self.process = Some(process);
        edits
    }
}

impl Process {
    /// The first change of a transaction finds the rules as they are then.
    fn change(&mut self, change: &shop::RowChange, first: bool, mutation: Option<Mutation>) {
        if first && mutation != Some(Mutation::RulesFollowLate) {
            self.matcher.follow(&self.index);
        }
        let told = match (change.told(), mutation) {
            (Some(Change::Update { relation, new, .. }), Some(Mutation::NoOldImages)) => {
                Some(Change::Update { relation, old: Old::Whole(new.clone()), new })
            }
            (Some(Change::Delete { .. }), Some(Mutation::NoOldImages)) => None,
            (told, _) => told,
        };
        if let Some(told) = told {
            self.pending.change(&mut self.matcher, &told);
        }
    }

    /// R7 and R8.
    fn settle(&mut self, barrier: &Barrier, group: &Group) {
        if group.transactions > 0 {
            self.firm.marked(group.end);
        }
        let time = SourceTime(i64::try_from(barrier.insert.0).unwrap());
        self.settle.barrier(Certificate { lsn: barrier.insert, time, sent: *SENT });
        self.reach();
    }

    fn reach(&mut self) {
        self.settle.reach(self.pending.settled());
        self.progress.received = self.pending.received();
        self.progress.visible = self.settle.visible();
        self.progress.settled = self.settle.settled();
        self.progress.certificate = self.settle.certificate();
    }

    fn recorded(&mut self, position: Lsn) {
        self.recorded = position;
        self.acknowledged = self.acknowledged.max(position);
        if let Some(stream) = &mut self.stream {
            stream.acknowledging = Some(position);
        }
        self.progress.acknowledged = position;
    }

    fn stage_number(&self, stage: &Stage) -> u8 {
        match stage {
            Stage::Idle => 0,
            Stage::Barrier(_) => 1,
            Stage::Released(..) => 2,
            Stage::Looking(..) => 3,
            Stage::Matched(..) => 4,
            Stage::Marking(..) => 5,
            Stage::Settled => 6,
            Stage::MarkingEarly(_, _, listed) => 7 + u8::from(*listed),
            Stage::Purging(..) => 9,
            Stage::Paying(..) => 10,
            Stage::Recording(..) => 11,
        }
    }
}
