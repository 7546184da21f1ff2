//! Keys computed, kept and let go, step by step (worker, handle).

use kck::{
    change::{Lsn, Position, SourceTime},
    entry::{Fingerprint, Lease, Meta, Stamp},
    key::Key,
    recompute::{
        ledger::{Computed, Verdict},
        queue::Want,
    },
    store::Track,
};

use super::{
    cells::{Store, Write},
    mutation::Mutation,
    process::{Process, SENT},
    source::Seen,
    world::World,
};

/// Who waits for a key: with what demand, and past which computation where a new one is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Waiter {
    pub(crate) want: Want,
    pub(crate) past: u32,
}

/// What a statement saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Saw {
    pub(crate) seen: Seen,
    pub(crate) snapshot: Stamp,
    pub(crate) insert: Lsn,
}

/// One computation of one key.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) key: Key,
    number: u32,
    /// `None`: answered uncached.
    lease: Option<Lease>,
    as_of: Position,
    connection: u64,
    fingerprint: Fingerprint,
    definition: u8,
    /// The write of its track record.
    recording: Vec<u32>,
    pub(crate) saw: Option<Saw>,
    /// It was accepted, and waits for its put to return.
    pub(crate) kept: Option<Kept>,
}

/// A result that the ledger took.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    as_of: Position,
    answer: Answer,
    /// None where its track record could not be written.
    put: Vec<u32>,
}

/// An answer as it was given out under a stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) seen: Seen,
    pub(crate) definition: u8,
    pub(crate) value: u64,
    pub(crate) version: u64,
}

impl World {
    /// A reader waits for a key.
    pub(crate) fn ask(&mut self, key: usize, want: u8) -> bool {
        let key = self.keys[key].clone();
        let Some(process) = &mut self.process else { return false };
        process.ledger.read(&key, 0);
        let past = process.jobs.iter().filter(|job| job.key == key).map(|job| job.number).max();
        let want = match want {
            0 => Want::Any,
            1 => Want::AtLeast(process.progress.as_of()),
            _ => Want::New,
        };
        let waiter = Waiter { want, past: past.unwrap_or(0) };
        process.queue.ask(&key, want, waiter, *SENT).is_ok()
    }

    /// R4: the next key enters the ledger, then `as_of` is V.
    pub(crate) fn take(&mut self) -> bool {
        let (store, mutation) = (&mut self.store, self.mutation);
        let Some(process) = &mut self.process else { return false };
        if process.jobs.len() >= 4 {
            return false;
        }
        let candidates = process.queue.candidates(*SENT);
        let first = candidates.first().map(|first| process.queue.take(first, 1, *SENT));
        let Some(key) = first.and_then(|mut claim| claim.keys.pop()) else {
            return false;
        };
        let cached = process.ledger.is_cached(key.product(), process.progress.visible);
        let (mut lease, mut recording) = (None, Vec::new());
        if cached && mutation != Some(Mutation::ReadThenTrack) {
            let (own, track) = process.ledger.track(&key);
            lease = Some(own);
            recording = track.map_or_else(Vec::new, |track| issue_track(process, store, &track));
        }
        let as_of = process.progress.as_of();
        process.queue.begin(std::slice::from_ref(&key), as_of);
        process.job_number += 1;
        process.jobs.push(Job {
            number: process.job_number,
            lease,
            as_of,
            connection: process.ledger.connection(),
            fingerprint: process.fingerprint(key.product()),
            definition: process.definition,
            recording,
            saw: None,
            kept: None,
            key,
        });
        true
    }

    /// The statement takes its snapshot.
    pub(crate) fn snapshot(&mut self, job: usize) -> bool {
        let source = &self.source;
        let Some(process) = &mut self.process else { return false };
        let reachable = process.timeline == source.timeline;
        let Some(job) = process.jobs.get_mut(job).filter(|job| job.saw.is_none() && reachable)
        else {
            return false;
        };
        let snapshot = Stamp::packed(job.as_of.epoch, &source.snapshot());
        job.saw = Some(Saw { seen: source.visible, snapshot, insert: source.insert });
        true
    }

    /// The answer arrives and is judged. `recorded`: its track record was written, as far as kck knows.
    pub(crate) fn arrive(&mut self, at: usize, recorded: bool) -> bool {
        let Some(mut process) = self.process.take() else { return false };
        let ready =
            |job: &&Job| job.kept.is_none() && (!recorded || self.store.arrived(&job.recording));
        let job = process.jobs.get(at).filter(ready).cloned();
        let arrived = job.and_then(|job| job.saw.map(|saw| (job, saw)));
        let arrives = arrived.is_some();
        if let Some((job, saw)) = arrived {
            match self.tracked(&mut process, &job) {
                None => {
                    if process.timeline == self.source.timeline {
                        self.claim_uncached(&job.key, job.as_of, saw.seen);
                    }
                    process.jobs.remove(at);
                    self.answer(&mut process, &job, job.as_of);
                }
                Some(lease) => {
                    if recorded {
                        process.ledger.recorded(&job.key, lease);
                    }
                    self.judge(&mut process, at, lease, recorded);
                }
            }
        }
        self.process = Some(process);
        arrives
    }

    /// The lease that the result counts under.
    fn tracked(&mut self, process: &mut Process, job: &Job) -> Option<Lease> {
        let cached = process.ledger.is_cached(job.key.product(), process.progress.visible);
        if self.mutation != Some(Mutation::ReadThenTrack) || !cached {
            return job.lease;
        }
        let (lease, track) = process.ledger.track(&job.key);
        if let Some(track) = track {
            let ids = issue_track(process, &mut self.store, &track);
            self.land_now(&ids);
            process.ledger.recorded(&job.key, lease);
        }
        Some(lease)
    }

    /// R6: the ledger accepts the result, or it is computed again.
    fn judge(&mut self, process: &mut Process, at: usize, lease: Lease, recorded: bool) {
        let Some((job, saw)) =
            process.jobs.get(at).cloned().and_then(|job| job.saw.map(|saw| (job, saw)))
        else {
            return;
        };
        let value = self.source.tables(saw.seen).answer(&job.key, job.definition);
        let computed = Computed {
            lease,
            as_of: match self.mutation {
                Some(Mutation::AsOfAtArrival) => process.progress.as_of(),
                _ => job.as_of,
            },
            connection: match self.mutation {
                Some(Mutation::ConnectionIgnored) => process.ledger.connection(),
                _ => job.connection,
            },
            time: SourceTime(i64::try_from(saw.insert.0).unwrap()),
            snapshot: saw.snapshot,
            insert: saw.insert,
            fingerprint: job.fingerprint,
            shape: Fingerprint::default(),
            digest: value,
            expires: None,
            cost_us: 1,
            bytes: 0,
        };
        match process.ledger.accept(&job.key, &computed) {
            Verdict::Accepted { mut meta, .. } => {
                if self.mutation == Some(Mutation::StampReused) {
                    meta.stamp = saw.snapshot;
                }
                let (definition, version) = (job.definition, meta.version);
                let answer = Answer { seen: saw.seen, definition, value, version };
                self.answers.insert((job.key.clone(), meta.stamp), answer);
                let as_of = meta.as_of;
                let put = if recorded { self.put(process, &job.key, *meta) } else { Vec::new() };
                let kept = Kept { as_of, answer, put };
                if let Some(job) = process.jobs.get_mut(at) {
                    job.kept = Some(kept);
                }
            }
            Verdict::Void => {
                process.jobs.remove(at);
                for waiter in process.queue.finish(&job.key) {
                    let again = Waiter { want: Want::New, past: waiter.past };
                    drop(process.queue.ask(&job.key, Want::New, again, *SENT));
                }
            }
        }
    }

    fn put(&mut self, process: &mut Process, key: &Key, meta: Meta) -> Vec<u32> {
        self.stamped(key, meta.stamp);
        process.ensure(&mut self.store, meta.stamp, meta.version);
        self.store.issue([Write::Entry(key.clone(), meta.stamp, Some(meta))])
    }

    /// The put has returned, or failed: who waited is answered.
    pub(crate) fn finish(&mut self, at: usize) -> bool {
        let Some(mut process) = self.process.take() else { return false };
        let kept = process.jobs.get(at).and_then(|job| job.kept.clone());
        let finishes = kept.is_some();
        if let Some(Kept { as_of, answer, put }) = kept {
            let job = process.jobs.remove(at);
            if !put.is_empty() && self.store.arrived(&put) {
                self.told(&job.key, &answer);
            }
            self.answer(&mut process, &job, as_of);
        }
        self.process = Some(process);
        finishes
    }

    fn answer(&mut self, process: &mut Process, job: &Job, as_of: Position) {
        for waiter in process.queue.finish(&job.key) {
            let met = match waiter.want {
                Want::Any => true,
                Want::AtLeast(position) => as_of >= position,
                Want::New => job.number > waiter.past,
            };
            if !met {
                self.broken(format!("R12: {} answered {waiter:?} as of {as_of}", job.key));
            }
        }
    }

    /// R13: a key is let go.
    pub(crate) fn untrack(&mut self, key: usize) -> bool {
        let store = &mut self.store;
        let Some(process) = &mut self.process else { return false };
        let Some(forget) = process.ledger.untrack(&self.keys[key]) else { return false };
        process.ensure(store, forget.stamp, 0);
        let [entry, lease, _] = Write::forget(&forget);
        let writes = store.issue([entry, lease]);
        process.leaving.push((forget, writes, false));
        true
    }

    /// Its entry and record are gone: its mark goes; and when that is gone, the ledger forgets it.
    pub(crate) fn forget(&mut self) -> bool {
        let store = &mut self.store;
        let Some(process) = &mut self.process else { return false };
        let durable = process.leaving.iter().position(|(_, writes, _)| store.arrived(writes));
        let Some(at) = durable else { return false };
        let (forget, _, unmarked) = process.leaving.remove(at);
        if unmarked {
            process.ledger.forget(&forget);
        } else {
            let [_, _, mark] = Write::forget(&forget);
            let writes = store.issue([mark]);
            process.leaving.push((forget, writes, true));
        }
        true
    }
}

fn issue_track(process: &mut Process, store: &mut Store, track: &Track) -> Vec<u32> {
    process.ensure(store, track.stamp, 0);
    store.issue([Write::track(track)])
}
