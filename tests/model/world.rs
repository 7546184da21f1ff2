//! Source, store and one start of kck, and everything that can happen next.

use std::collections::BTreeMap;

use kck::{change::Lsn, entry::Stamp, key::Key, recompute::queue::Stale};

use super::{
    cells::{Store, Write},
    compute::Answer,
    mutation::Mutation,
    pipeline::Stage,
    process::Process,
    source::{Seen, Source, Waits},
};

/// What can happen. Numbers choose among what there is, so that a history of which some actions are left out still is
/// one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Two seeds of changes, and what its visibility waits for.
    Commit(u32, Option<u32>, Waits),
    Publish(u8),
    Flush,
    Write,
    Open,
    CrashSource,
    LoseSlot,
    /// To the end of one of its commits.
    Restore(u8),
    /// One write that is under way arrives.
    Land(u8),
    OpenStream,
    Disconnect,
    ReceiveChange,
    Receive,
    Idle,
    Acknowledge,
    Advance,
    MarkEarly,
    Record,
    Join,
    Edit,
    Ask(u8, u8),
    Take,
    Snapshot(u8),
    Arrive(u8),
    ArriveUnrecorded(u8),
    Finish(u8),
    Untrack(u8),
    Forget,
    Crash,
    Boot,
    GoOn,
}

impl Action {
    /// The same with changes of these tables only.
    pub(crate) fn within(self, tables: &[u32]) -> Self {
        let within = |seed: u32| {
            let table = usize::try_from(seed % 1024).unwrap() % tables.len();
            seed / 1024 * 4 + tables[table]
        };
        match self {
            Self::Commit(first, second, waits) => {
                Self::Commit(within(first), second.map(within), waits)
            }
            other => other,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) source: Source,
    pub(crate) store: Store,
    pub(crate) process: Option<Process>,
    pub(crate) mutation: Option<Mutation>,
    /// Of the product that shifts, as its file says.
    pub(crate) definition: u8,
    pub(crate) keys: Vec<Key>,
    /// Every answer that was given a stamp.
    pub(crate) answers: BTreeMap<(Key, Stamp), Answer>,
    /// The last stamp that was written of each key, and the last version that was told, with its bytes.
    pub(crate) stamps: BTreeMap<Key, Stamp>,
    pub(crate) versions: BTreeMap<Key, (u64, u64)>,
    /// What was found right of each key last: commits, definition, answer.
    pub(crate) verified: BTreeMap<Key, (Seen, u8, u64)>,
    pub(crate) violation: Option<String>,
}

impl World {
    /// Everything is joined, every key is computed, nothing has happened.
    pub(crate) fn new(keys: &[&str], mutation: Option<Mutation>) -> Self {
        let mut world = Self {
            source: Source::new(),
            store: Store::default(),
            process: None,
            mutation: None,
            definition: 0,
            keys: keys.iter().map(|key| Key::from_stored(key)).collect(),
            answers: BTreeMap::new(),
            stamps: BTreeMap::new(),
            versions: BTreeMap::new(),
            verified: BTreeMap::new(),
            violation: None,
        };
        world.drain();
        world.refresh();
        world.drain();
        // What the edges do wrong they do from here on.
        world.mutation = mutation;
        if mutation.is_some() {
            world.act(Action::Crash);
            world.drain();
        }
        world
    }

    /// Does one action; whether it could be done.
    pub(crate) fn act(&mut self, action: Action) -> bool {
        let done = self.apply(action);
        if done {
            self.check();
        }
        done
    }

    fn apply(&mut self, action: Action) -> bool {
        let at = |number: u8| usize::from(number);
        match action {
            Action::Commit(first, second, waits) => {
                let seeds: Vec<u32> = std::iter::once(first).chain(second).collect();
                self.source.commit(&seeds, waits)
            }
            Action::Publish(number) => {
                let ready = self.source.publishable();
                let chosen = ready.get(at(number) % ready.len().max(1));
                chosen.map(|number| self.source.publish(*number)).is_some()
            }
            Action::Flush => self.source.flush(),
            Action::Write => {
                self.source.write();
                true
            }
            Action::Open => self.source.open(),
            Action::CrashSource | Action::LoseSlot | Action::Restore(_) => self.harm(action),
            Action::Land(number) => self.land(at(number)),
            Action::OpenStream => self.open(),
            Action::Disconnect => self.disconnect(),
            Action::ReceiveChange => self.receive_change(),
            Action::Receive => self.receive(),
            Action::Idle => self.idle(),
            Action::Acknowledge => self.acknowledge(),
            Action::Advance => self.advance(),
            Action::MarkEarly => self.mark_early(),
            Action::Record => self.record(),
            Action::Join => self.join(),
            Action::Edit => self.edit(),
            Action::Ask(key, want) => self.ask(at(key) % self.keys.len(), want),
            Action::Take => self.take(),
            Action::Snapshot(job) => self.snapshot(at(job)),
            Action::Arrive(job) => self.arrive(at(job), true),
            Action::ArriveUnrecorded(job) => self.arrive(at(job), false),
            Action::Finish(job) => self.finish(at(job)),
            Action::Untrack(key) => self.untrack(at(key) % self.keys.len()),
            Action::Forget => self.forget(),
            Action::Crash => self.process.take().is_some(),
            Action::Boot => self.boot(),
            Action::GoOn => self.go_on(),
        }
    }

    fn harm(&mut self, action: Action) -> bool {
        match action {
            Action::LoseSlot if self.source.slot.is_none() => return false,
            Action::LoseSlot => self.source.slot = None,
            Action::Restore(number) => {
                let log = &self.source.log;
                let Some(last) = log.get(usize::from(number) % log.len().max(1)) else {
                    return false;
                };
                let to = self.source.commits[*last].end;
                if to > self.source.flushed {
                    return false;
                }
                self.source.restore(to);
            }
            _ => self.source.crash(),
        }
        self.disconnect();
        true
    }

    fn disconnect(&mut self) -> bool {
        self.process.as_mut().and_then(|process| process.stream.take()).is_some()
    }

    fn land(&mut self, number: usize) -> bool {
        if self.store.flying.is_empty() {
            return false;
        }
        let flying = self.store.flying.remove(number % self.store.flying.len());
        self.take_in(flying.write);
        true
    }

    fn take_in(&mut self, write: Write) {
        let entry = match &write {
            Write::Entry(key, ..) => Some(key.clone()),
            _ => None,
        };
        let stored = |world: &Self, key: &Key| world.store.keys.get(key)?.entry.value().cloned();
        let before = entry.as_ref().and_then(|key| stored(self, key));
        self.store.apply(write);
        if let (Some(key), Some(before)) = (entry, before)
            && let Some(after) = stored(self, &key)
        {
            self.check_replaced(&key, &before, &after);
        }
    }

    /// These writes arrive at once.
    pub(crate) fn land_now(&mut self, ids: &[u32]) {
        while let Some(at) = self.store.flying.iter().position(|flying| ids.contains(&flying.id)) {
            self.land(at);
        }
    }

    /// Everything that is under way comes to its end, in a fair order.
    pub(crate) fn drain(&mut self) {
        const FAIR: [Action; 15] = [
            Action::Boot,
            Action::GoOn,
            Action::OpenStream,
            Action::Flush,
            Action::Acknowledge,
            Action::Publish(0),
            Action::Receive,
            Action::Idle,
            Action::Land(0),
            Action::Join,
            Action::Forget,
            Action::Take,
            Action::Snapshot(0),
            Action::Arrive(0),
            Action::Finish(0),
        ];
        let mut quiet = 0;
        for _ in 0..100 {
            let mut moved = false;
            for action in FAIR {
                moved |= (0..20).take_while(|_| self.apply(action)).count() > 0;
            }
            for _ in 0..7 {
                moved |= self.apply(Action::MarkEarly) || self.apply(Action::Record);
                // This half goes round and round.
                self.apply(Action::Advance);
            }
            self.check();
            quiet = if moved { 0 } else { quiet + 1 };
            if quiet > 2 || self.violation.is_some() {
                return;
            }
        }
    }

    /// Every key is to be computed.
    fn refresh(&mut self) {
        let Some(process) = &mut self.process else { return };
        for key in &self.keys {
            let stale = Stale { since: *super::process::SENT, rate: 1.0, not_before: None };
            assert!(process.queue.refresh(key, stale).is_ok(), "there is room");
        }
    }

    /// After a quiet time every key can be had fresh, as of everything there is.
    pub(crate) fn check_quiet(&mut self) {
        // A product that joins waits for a position that a crash may have taken; a source that goes on passes it.
        self.source.catch_up();
        self.drain();
        self.refresh();
        self.drain();
        if self.violation.is_some() {
            return;
        }
        let Some(process) = &self.process else {
            return self.broken("quiet: kck does not start".to_owned());
        };
        let (certificate, end) = (process.progress.certificate, self.source.flushed);
        let stage = matches!(process.stage, Stage::Idle | Stage::Barrier(_));
        let stale: Vec<String> = self
            .keys
            .iter()
            .filter(|key| !process.ledger.standing(key).is_some_and(|standing| standing.fresh))
            .map(ToString::to_string)
            .collect();
        let certified = certificate.map_or(Lsn(0), |certificate| certificate.lsn);
        if certified < end {
            let visible = process.progress.visible;
            self.broken(format!(
                "quiet: certified to {certified}, V {visible}, the log ends at {end} (between steps: {stage})"
            ));
        } else if !stale.is_empty() {
            self.broken(format!("quiet: not to be had fresh: {stale:?}"));
        }
    }
}
