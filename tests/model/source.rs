//! The source: a log of commits, of which some are visible, some flushed, and some lost in a crash.

use kck::change::{Lsn, Snapshot, SourceTime, Transaction, Xid};

use super::shop::{RowChange, Tables};

/// A set of commits, by their numbers: what a snapshot saw.
pub(crate) type Seen = u64;

/// Commits that one history may have.
pub(crate) const COMMITS_MAX: usize = 60;

/// Bytes of a commit, and of what else is written to the log.
const RECORD: u64 = 10;

/// When a commit becomes visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Waits {
    /// Whenever: `synchronous_commit = off`.
    Nothing,
    /// After it is flushed.
    Flush,
    /// After kck, a synchronous standby, has acknowledged it.
    Kck,
}

#[derive(Debug, Clone, Hash)]
pub(crate) struct Commit {
    pub(crate) xid: u64,
    pub(crate) changes: Vec<RowChange>,
    pub(crate) end: Lsn,
    waits: Waits,
}

#[derive(Debug, Clone, Copy, Hash)]
pub(crate) struct Slot {
    pub(crate) confirmed: Lsn,
    /// What a crash leaves of it.
    saved: Lsn,
}

#[derive(Debug, Clone, Hash)]
pub(crate) struct Source {
    /// Every commit there ever was, also lost ones; the number is the place.
    pub(crate) commits: Vec<Commit>,
    /// The commits of this history, in the log's order.
    pub(crate) log: Vec<usize>,
    pub(crate) visible: Seen,
    /// Transactions that have an id and have not ended.
    open: Vec<u64>,
    next_xid: u64,
    /// The highest id that ended.
    completed: u64,
    pub(crate) insert: Lsn,
    /// The furthest that it ever was.
    furthest: Lsn,
    pub(crate) flushed: Lsn,
    /// Counts crashes.
    pub(crate) incarnation: u32,
    pub(crate) timeline: i64,
    pub(crate) slot: Option<Slot>,
}

impl Source {
    pub(crate) fn new() -> Self {
        Self {
            commits: Vec::new(),
            log: Vec::new(),
            visible: 0,
            open: Vec::new(),
            next_xid: 100,
            completed: 99,
            insert: Lsn(100),
            furthest: Lsn(100),
            flushed: Lsn(100),
            incarnation: 0,
            timeline: 1,
            slot: None,
        }
    }

    pub(crate) fn tables(&self, seen: Seen) -> Tables {
        let mut tables = Tables::first();
        let commits = self.commits.iter().enumerate().filter(|(number, _)| seen >> number & 1 == 1);
        commits.flat_map(|(_, commit)| &commit.changes).for_each(|change| tables.change(change));
        tables
    }

    /// The commits of this history up to a position.
    pub(crate) fn up_to(&self, position: Lsn) -> Seen {
        let within = self.log.iter().filter(|number| self.commits[**number].end <= position);
        within.fold(0, |seen, number| seen | 1 << number)
    }

    pub(crate) fn surviving(&self) -> Seen {
        self.up_to(Lsn(u64::MAX))
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let invisible = self.log.iter().filter(|number| self.visible >> **number & 1 == 0);
        let invisible = invisible.map(|number| self.commits[*number].xid);
        let xmax = self.completed + 1;
        let mut in_progress: Vec<u64> =
            self.open.iter().copied().chain(invisible).filter(|xid| *xid < xmax).collect();
        in_progress.sort_unstable();
        let xmin = in_progress.first().copied().unwrap_or(xmax);
        Snapshot { xmin, xmax, in_progress }
    }

    /// A transaction commits; rows that an invisible one changed are locked.
    pub(crate) fn commit(&mut self, seeds: &[u32], waits: Waits) -> bool {
        let mut tables = self.tables(self.visible);
        let unseen = self.log.iter().filter(|number| self.visible >> **number & 1 == 0);
        let locked: Vec<(usize, usize)> = unseen
            .flat_map(|number| &self.commits[*number].changes)
            .map(|change| (change.table, change.id))
            .collect();
        let mut changes: Vec<RowChange> = Vec::new();
        for seed in seeds {
            let change = RowChange::fitting(&tables, *seed);
            let row = (change.table, change.id);
            if change.old != change.new && !locked.contains(&row) {
                tables.change(&change);
                changes.push(change);
            }
        }
        if changes.is_empty() || self.commits.len() >= COMMITS_MAX {
            return false;
        }
        let xid = if self.open.is_empty() { self.begin() } else { self.open.remove(0) };
        self.insert = Lsn(self.insert.0 + RECORD);
        self.log.push(self.commits.len());
        self.commits.push(Commit { xid, changes, end: self.insert, waits });
        true
    }

    fn begin(&mut self) -> u64 {
        self.next_xid += 1;
        self.next_xid - 1
    }

    /// Another transaction takes an id, and will commit later.
    pub(crate) fn open(&mut self) -> bool {
        if self.open.len() >= 2 {
            return false;
        }
        let xid = self.begin();
        self.open.push(xid);
        true
    }

    /// Something else is written.
    pub(crate) fn write(&mut self) {
        self.insert = Lsn(self.insert.0 + RECORD / 2);
    }

    /// As much is written as was lost.
    pub(crate) fn catch_up(&mut self) {
        self.insert = self.insert.max(self.furthest);
    }

    pub(crate) fn flush(&mut self) -> bool {
        if let Some(slot) = &mut self.slot {
            slot.saved = slot.confirmed;
        }
        std::mem::replace(&mut self.flushed, self.insert) != self.insert
    }

    /// Commits that could become visible now.
    pub(crate) fn publishable(&self) -> Vec<usize> {
        let confirmed = self.slot.map(|slot| slot.confirmed);
        let ready = |number: &&usize| {
            let commit = &self.commits[**number];
            self.visible >> **number & 1 == 0
                && match commit.waits {
                    Waits::Nothing => true,
                    Waits::Flush => commit.end <= self.flushed,
                    // Without its slot kck is no standby.
                    Waits::Kck => confirmed.is_none_or(|confirmed| commit.end <= confirmed),
                }
        };
        self.log.iter().filter(ready).copied().collect()
    }

    pub(crate) fn publish(&mut self, number: usize) {
        self.visible |= 1 << number;
        self.completed = self.completed.max(self.commits[number].xid);
    }

    /// What was not flushed is gone, its ids and positions are given out again; what was is visible.
    pub(crate) fn crash(&mut self) {
        self.furthest = self.furthest.max(self.insert);
        self.keep(self.flushed);
        self.incarnation += 1;
        // Recovery ends with a checkpoint.
        self.insert = Lsn(self.flushed.0 + RECORD);
        self.flushed = self.insert;
        if let Some(slot) = &mut self.slot {
            slot.confirmed = slot.saved;
        }
    }

    /// A backup is restored up to a position: another timeline, without the slot.
    pub(crate) fn restore(&mut self, to: Lsn) {
        self.furthest = self.furthest.max(self.insert);
        self.keep(to);
        self.incarnation += 1;
        self.timeline += 1;
        (self.insert, self.flushed, self.slot) = (to, to, None);
    }

    fn keep(&mut self, to: Lsn) {
        let commits = &self.commits;
        self.log.retain(|number| commits[*number].end <= to);
        self.visible = self.surviving();
        self.open.clear();
        self.completed =
            self.log.iter().map(|number| self.commits[*number].xid).max().unwrap_or(99);
        self.next_xid = self.completed + 1;
    }

    /// A slot begins where everything before is finished; this makes that so.
    pub(crate) fn create_slot(&mut self) -> Lsn {
        self.flush();
        for number in self.log.clone() {
            self.publish(number);
        }
        self.slot = Some(Slot { confirmed: self.insert, saved: self.insert });
        self.insert
    }

    /// The next commit that a walsender sends after this position.
    pub(crate) fn next_after(&self, position: Lsn) -> Option<usize> {
        let sent = |number: &&usize| {
            let end = self.commits[**number].end;
            position < end && end <= self.flushed
        };
        self.log.iter().find(sent).copied()
    }

    /// Where a walsender is that has sent everything up to `position`, in a keepalive.
    pub(crate) fn sent(&self, position: Lsn) -> Lsn {
        let next = self.next_after(position).map(|number| Lsn(self.commits[number].end.0 - 1));
        next.unwrap_or(self.flushed).max(position)
    }

    pub(crate) fn transaction(&self, number: usize) -> Transaction {
        let commit = &self.commits[number];
        let xid = Xid(u32::try_from(commit.xid).unwrap());
        Transaction { xid, end: commit.end, time: SourceTime(0) }
    }
}
