//! One start of kck: what is in memory, how it is rebuilt from what is durable, and where it goes on (app, resume, follow).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
    time::Instant,
};

use kck::{
    capture::acknowledge::Positions,
    change::{Epoch, Lsn, Position, SourceTime, Xid},
    depend::{Index, Matcher, firm::Firm, pending::Pending, settle::Settle},
    entry::{Fingerprint, Stamp},
    key::Key,
    load::with_generation,
    postgres::slot,
    progress::{Certificate, Progress},
    recompute::{
        ledger::{Ledger, Terms},
        queue::{Order, Queue},
    },
    resume::{broken, joins},
    store::{
        Forget, Scanned,
        encoding::Cells,
        state::{self, Matched, Origin, Seen, State},
    },
};

use super::{
    cells::Write,
    compute::{Job, Waiter},
    mutation::Mutation,
    pipeline::Stage,
    shop::{self, ALL, Asks},
    world::World,
};

/// Distinct keys of one transaction; small, so that histories pass it.
const KEYS_MOST: usize = 6;
/// See `recompute::reserve`.
const STAMP_BLOCK: u64 = 1 << 32;
const VERSION_BLOCK: u64 = 60_000_000;

/// Ages are not modelled: every barrier was sent now.
pub(crate) static SENT: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The replication connection.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    /// Everything up to here was sent.
    pub(crate) position: Lsn,
    /// Changes of the next commit that were sent already.
    pub(crate) told: usize,
    /// The position of the last keepalive.
    pub(crate) idled: Lsn,
    /// An acknowledgement on its way.
    pub(crate) acknowledging: Option<Lsn>,
}

/// A product that joins: the position of its whole-product mark, and the writes it waits for.
#[derive(Debug, Clone)]
pub(crate) struct Joiner {
    pub(crate) product: &'static str,
    pub(crate) until: Option<Lsn>,
    pub(crate) listed: bool,
    pub(crate) writes: Vec<u32>,
}

#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) timeline: i64,
    /// The source's crashes that the stream has noticed.
    pub(crate) incarnation: u32,
    pub(crate) definition: u8,
    pub(crate) matched: BTreeMap<String, Matched>,
    pub(crate) ledger: Ledger,
    pub(crate) queue: Queue<Waiter>,
    pub(crate) pending: Pending,
    pub(crate) positions: Positions,
    pub(crate) firm: Firm,
    pub(crate) settle: Settle,
    pub(crate) progress: Progress,
    pub(crate) matcher: Matcher,
    pub(crate) index: Arc<Index>,
    pub(crate) doubts: Vec<(Key, Stamp)>,
    pub(crate) stage: Stage,
    pub(crate) stream: Option<Stream>,
    /// What the stream was told last.
    pub(crate) acknowledged: Lsn,
    pub(crate) recorded: Lsn,
    pub(crate) jobs: Vec<Job>,
    pub(crate) job_number: u32,
    pub(crate) leaving: Vec<(Forget, Vec<u32>, bool)>,
    pub(crate) joiners: Vec<Joiner>,
    sequence: u64,
    reserved: (Stamp, u64),
    /// For a mutation: what was visible when the first pending commit arrived.
    pub(crate) seen_before: (u64, Lsn),
}

/// Where to go on.
struct Resumed {
    position: Position,
    early: Vec<(Xid, Lsn)>,
    new_epoch: bool,
}

impl World {
    /// A start of kck, up to where reads are answered. One action: what crashes within it leaves is not modelled.
    pub(crate) fn boot(&mut self) -> bool {
        if self.process.is_some() {
            return false;
        }
        let state = self.store.state();
        let term = state.term + 1;
        let mut sequence = u64::from(term) << 32;
        self.save(state::term(term, sequence));
        self.save(state::starts(&state.begun(), sequence));
        let resumed = self.resume(&mut sequence);
        let definition = self.definition;
        let listed = self.joins(&state, resumed.new_epoch, definition, &mut sequence);
        let floor = state.stamp_floor.next();
        let (floors, reserved) = match self.mutation {
            Some(Mutation::NoFloor) => ((Stamp(0), 0), (Stamp(u64::MAX), u64::MAX)),
            _ => ((floor, state.version_floor), (state.stamp_floor, state.version_floor)),
        };
        let ledger = Ledger::new(resumed.position.epoch, term, floors.0, floors.1);
        let index = shop::index(definition, self.mutation);
        let progress = Progress {
            epoch: resumed.position.epoch,
            definitions: Some(Certificate {
                lsn: Lsn(u64::MAX),
                time: SourceTime(i64::MAX),
                sent: *SENT,
            }),
            ..Progress::default()
        };
        let mut process = Process {
            timeline: self.source.timeline,
            incarnation: self.source.incarnation,
            definition,
            matched: listed.matched,
            ledger,
            queue: Queue::new(100, Order::Worth),
            pending: Pending::new(Lsn(0), &[], KEYS_MOST),
            positions: Positions::new(Lsn(0)),
            firm: Firm::default(),
            settle: Settle::new(Lsn(0), 0),
            progress,
            matcher: Matcher::new(Arc::clone(&index)),
            index,
            doubts: Vec::new(),
            stage: Stage::Idle,
            stream: None,
            acknowledged: Lsn(0),
            recorded: Lsn(0),
            jobs: Vec::new(),
            job_number: 0,
            leaving: Vec::new(),
            joiners: Vec::new(),
            sequence,
            reserved,
            seen_before: (0, Lsn(0)),
        };
        process.ensure(&mut self.store, floor, state.version_floor);
        process.list(&state, self.mutation);
        let rubbish = process.recover(&self.store.keys, &state, self.mutation);
        rubbish.iter().flat_map(Write::forget).for_each(|write| self.store.apply(write));
        process.go_on(&resumed, self.mutation);
        process.joins(&listed.joining.iter().map(String::as_str).collect::<Vec<_>>());
        self.process = Some(process);
        true
    }

    /// The stream has ended for good: where the same process goes on (follow).
    pub(crate) fn go_on(&mut self) -> bool {
        let ended = self.source.slot.is_none()
            || self
                .process
                .as_ref()
                .is_some_and(|process| process.timeline != self.source.timeline);
        let Some(mut process) = self.process.take_if(|process| ended && process.stream.is_none())
        else {
            return false;
        };
        let received = process.pending.received();
        process.doubts.extend(process.ledger.disconnected(received));
        for (product, at) in process.firm.lost(received) {
            process.ledger.mark_product(&product, at);
        }
        let mut sequence = process.sequence;
        let resumed = self.resume(&mut sequence);
        process.sequence = sequence;
        if resumed.new_epoch {
            process.ledger.begin_epoch(resumed.position.epoch);
            let definitions = process.progress.definitions;
            let connection = process.progress.connection;
            process.progress = Progress {
                epoch: resumed.position.epoch,
                visible: resumed.position.lsn,
                definitions,
                connection,
                ..Progress::default()
            };
        }
        process.joiners.clear();
        let all = process.matched.keys().map(String::as_str);
        let waits =
            |name: &&str| resumed.new_epoch || !process.ledger.is_cached(name, Lsn(u64::MAX - 1));
        let joining: Vec<&'static str> =
            all.filter(waits).map(|name| shop::asks(name).name()).collect();
        for product in &joining {
            self.save(state::matched(product, None, process.state_stamp()));
        }
        process.timeline = self.source.timeline;
        process.incarnation = self.source.incarnation;
        process.go_on(&resumed, self.mutation);
        process.joins(&joining);
        self.process = Some(process);
        true
    }

    pub(crate) fn save(&mut self, cell: kck::store::StateCell) {
        self.store.apply(Write::State(cell));
    }

    /// Where the record says that kck stopped, or a new epoch where that cannot be gone on from.
    fn resume(&mut self, sequence: &mut u64) -> Resumed {
        let state = self.store.state();
        let origin = Origin {
            system_identifier: "7".to_owned(),
            timeline: self.source.timeline,
            slot: "kck".to_owned(),
            database: "shop".to_owned(),
        };
        let slot = self.source.slot.map(|slot| shown(slot.confirmed));
        let why = broken(&state, &origin, slot.as_ref(), Some(self.source.insert));
        let goes_on = self.mutation == Some(Mutation::NoEpoch) && state.origin.is_some();
        let mut stamp = || {
            *sequence += 1;
            *sequence
        };
        if why.is_none() || goes_on {
            self.save(state::recorded(state.recorded, stamp()));
            self.save(state::early_cell(&state.early, stamp()));
            if self.source.slot.is_none() {
                self.source.create_slot();
            }
            return Resumed { position: state.recorded, early: state.early, new_epoch: false };
        }
        let epoch = Epoch(state.epoch.0 + 1);
        let mut cells = vec![state::epoch(epoch, stamp()), state::early_cell(&[], stamp())];
        cells.extend(state.matched.keys().map(|name| state::matched(name, None, stamp())));
        let position = Position { epoch, lsn: self.source.create_slot() };
        cells.extend([state::recorded(position, stamp()), state::origin(&origin, stamp())]);
        cells.into_iter().for_each(|cell| self.save(cell));
        Resumed { position, early: Vec::new(), new_epoch: true }
    }

    fn joins(
        &mut self,
        state: &State,
        new_epoch: bool,
        definition: u8,
        sequence: &mut u64,
    ) -> kck::resume::Joins {
        let means =
            |asks: &Asks| (asks.name().to_owned(), (asks.fingerprint(definition), Seen::default()));
        let wanted: BTreeMap<String, (Fingerprint, Seen)> = ALL.iter().map(means).collect();
        let counter = std::cell::Cell::new(*sequence);
        let stamp = || {
            counter.set(counter.get() + 1);
            counter.get()
        };
        let listed = joins(&state.matched, &wanted, |_| new_epoch, |_| BTreeSet::new(), stamp);
        *sequence = counter.get();
        listed.cells.iter().for_each(|cell| self.save(cell.clone()));
        listed
    }
}

/// The slot as the source shows it.
fn shown(confirmed: Lsn) -> slot::Slot {
    slot::Slot {
        ours: true,
        holder: None,
        wal_status: "reserved".to_owned(),
        safe_wal_size: None,
        confirmed_flush_lsn: Some(confirmed),
        restart_lsn: None,
        retained_bytes: 0,
        invalidation_reason: None,
        failover: false,
    }
}

impl Process {
    pub(crate) fn state_stamp(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Nothing up to here is issued again after a restart. A reservation is waited for: here it is one action with
    /// what needs it.
    pub(crate) fn ensure(&mut self, store: &mut super::cells::Store, stamp: Stamp, version: u64) {
        let (stamps, versions) = self.reserved;
        if stamp <= stamps && version <= versions {
            return;
        }
        let stamps = Stamp(stamp.max(stamps).0 + STAMP_BLOCK);
        let versions = version.max(versions) + VERSION_BLOCK;
        let cell = state::floors(stamps, versions, self.state_stamp());
        store.apply(Write::State(cell));
        self.reserved = (stamps, versions);
    }

    /// What the product means now, with the generation of its matching.
    pub(crate) fn fingerprint(&self, product: &str) -> Fingerprint {
        let generation = self.matched.get(product).map_or(0, |matched| matched.generation);
        with_generation(shop::asks(product).fingerprint(self.definition), generation)
    }

    /// The products enter the ledger with their marks.
    fn list(&mut self, state: &State, mutation: Option<Mutation>) {
        for asks in ALL {
            let mark = state.marks.get(asks.name()).copied().unwrap_or_default();
            let forgotten = mutation == Some(Mutation::MarksForgotten);
            let mark = if forgotten { Position::default() } else { mark };
            self.ledger.product(asks.name(), self.terms(asks.name()), mark);
        }
    }

    pub(crate) fn terms(&self, product: &str) -> Terms {
        let shape = Fingerprint::default();
        Terms { fingerprint: self.fingerprint(product), shape, certified: true }
    }

    /// Tracked keys, from the store; what no track record keeps comes back, to be deleted.
    fn recover(
        &mut self,
        keys: &BTreeMap<Key, Cells<kck::entry::Meta>>,
        state: &State,
        mutation: Option<Mutation>,
    ) -> Vec<Forget> {
        let mut rubbish = Vec::new();
        let begun = state.begun();
        let firm = |stamp| match mutation {
            Some(Mutation::AllFirm) => Lsn(u64::MAX),
            _ => state::firm_up_to(&begun, stamp),
        };
        for (key, cells) in keys.iter().filter(|(_, cells)| cells.is_live()) {
            let mark = cells.mark.value().copied();
            let Some(lease) = cells.lease.value().copied() else {
                let stamp = state.stamp_floor.next();
                let mark = mark.unwrap_or_default();
                rubbish.push(Forget { key: key.clone(), stamp, mark });
                continue;
            };
            let mark = mark.filter(|_| mutation != Some(Mutation::MarksForgotten));
            let meta = cells.entry.value().cloned();
            let scanned = Scanned { key: key.clone(), lease: Some(lease), mark, meta };
            let issued = scanned.meta.as_ref().map_or(Stamp(0), |meta| meta.stamp);
            self.doubts.extend(self.ledger.recover(scanned, firm(issued)));
        }
        rubbish
    }

    /// A new inbox and new steps from a position (`Inbox::new`, `Step::new`).
    fn go_on(&mut self, resumed: &Resumed, mutation: Option<Mutation>) {
        let resume = resumed.position.lsn;
        let early: &[_] =
            if mutation == Some(Mutation::VIgnoresEarly) { &[] } else { &resumed.early };
        self.pending = Pending::new(resume, early, KEYS_MOST);
        self.positions = Positions::new(resume);
        self.firm = Firm::default();
        self.stage = Stage::Idle;
        (self.acknowledged, self.recorded) = (resume, resume);
        let visible = self.pending.settled().max(self.progress.visible);
        self.progress.visible = visible;
        let steps = if mutation == Some(Mutation::FAtOnce) { 0 } else { self.index.steps() };
        self.settle = Settle::new(visible, steps);
    }

    /// These products are answered uncached until they have joined.
    pub(crate) fn joins(&mut self, joining: &[&str]) {
        for asks in ALL.iter().filter(|asks| joining.contains(&asks.name())) {
            self.ledger.joins(asks.name(), Lsn(u64::MAX));
            let (until, listed, writes) = (None, false, Vec::new());
            self.joiners.push(Joiner { product: asks.name(), until, listed, writes });
        }
    }

    /// The products that have not joined.
    pub(crate) fn joining(&self) -> BTreeSet<&'static str> {
        self.joiners.iter().map(|joiner| joiner.product).collect()
    }
}
