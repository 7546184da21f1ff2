//! Marks and results → what is fresh: the list of tracked keys. Pure; one lock around it, no I/O, no clock.
//!
//! Invariants: per key stamps grow strictly, also over purges, evictions and restarts (R6); `as_of` of a kept
//! entry never goes back; an entry is fresh only if no mark of its key or product is above its `as_of`, it was
//! computed in this epoch under the product's present fingerprint, and it is firm or its connection still
//! stands (R5, R10).

use std::{collections::HashMap, sync::Arc};

use crate::{
    change::{Epoch, Lsn, Position, SourceTime},
    entry::{Fingerprint, Lease, Meta, Stamp},
    key::Key,
    pattern::Pattern,
    product::Product,
    store::{Forget, Scanned, Track},
};

use super::{
    below::Links,
    early::Early,
    keys::{Keys, Number},
    patterns::Patterns,
    schedule::Punctual,
    tracked::{Flag, Tracked},
};

/// What the ledger is told of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Entries of another one are not fresh.
    pub fingerprint: Fingerprint,
    /// Entries of another one cannot stand in.
    pub shape: Fingerprint,
    /// Changes are matched for it: its entries can be certified.
    pub certified: bool,
}

impl Terms {
    /// Those of a product.
    #[must_use]
    pub fn of(product: &Product) -> Self {
        let certified = product.is_certified();
        Self { fingerprint: product.fingerprint, shape: product.shape, certified }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ProductState {
    mark: Position,
    pub(super) terms: Terms,
    /// Answered uncached until V has passed this (R1, R11); no entry of it is kept before.
    joins: Lsn,
    /// It is not what was analysed any more: uncached until it is analysed anew.
    left: bool,
    /// Its entries are stale when its schedule is overdue.
    pub(super) punctual: Option<Punctual>,
}

/// A key's entry as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What the store holds, without the bytes.
    pub meta: Meta,
    /// Whether it is fresh (R5).
    pub fresh: bool,
    /// Whether its product is matched, so that certificates raise its `as_of`.
    pub certified: bool,
    /// Whether it is what it says to be as of its own `as_of`: what it was made from is still there, and no crash of the
    /// source can have taken back what it saw. What is not meets no demand.
    pub sound: bool,
}

/// What a statement gave for one key, before it is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Computed {
    /// The tracking it was begun under.
    pub lease: Lease,
    /// V when it began.
    pub as_of: Position,
    /// The replication connection's count when it began.
    pub connection: u64,
    /// The source's clock when its statement began.
    pub time: SourceTime,
    /// The packed snapshot; zero when it had none.
    pub snapshot: Stamp,
    /// The source's insert position that its statement saw.
    pub insert: Lsn,
    /// The definition it answers.
    pub fingerprint: Fingerprint,
    /// The shape of the answer.
    pub shape: Fingerprint,
    /// Of its bytes.
    pub digest: u64,
    /// When it expires, if its product does.
    pub expires: Option<SourceTime>,
    /// What it cost.
    pub cost_us: u32,
    /// How long it is.
    pub bytes: u32,
}

impl Computed {
    fn meta(&self, stamp: Stamp, version: u64, modified: SourceTime) -> Meta {
        Meta {
            stamp,
            lease: self.lease,
            as_of: self.as_of,
            as_of_time: self.time,
            snapshot: self.snapshot,
            insert: self.insert,
            fingerprint: self.fingerprint,
            shape: self.shape,
            digest: self.digest,
            version,
            modified,
            expires: self.expires,
            cost_us: self.cost_us,
            bytes: self.bytes,
        }
    }
}

/// What became of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is the key's entry now; write it.
    Accepted {
        /// With this.
        meta: Box<Meta>,
        /// Whether the bytes are others than before.
        changed: bool,
        /// Whether commits had marked what it replaces: unchanged bytes were marked for nothing.
        marked: bool,
    },
    /// Something happened meanwhile that makes it worthless: compute again.
    Void,
}

/// The list of tracked keys.
#[derive(Debug, Clone)]
pub struct Ledger {
    epoch: Epoch,
    term: u32,
    counter: u64,
    connection: u64,
    /// At least every stamp of purges and untracks so far, and every stamp of earlier starts (R6).
    floor: Stamp,
    version_floor: u64,
    pub(super) keys: Keys,
    /// The same keys by their parameters, for products that commits reach by patterns.
    pub(super) patterns: Patterns,
    pub(super) products: HashMap<Arc<str>, ProductState>,
    /// Keys that are read, by when they are computed again before they expire.
    pub(super) early: Early,
    /// How many keys are warm.
    pub(super) warm: usize,
    /// Where the next key is looked for that can go.
    pub(super) hand: Number,
    /// Which keys depend on which, where no commit tells of all changes.
    pub(super) links: Option<Arc<Links>>,
    /// Keys to be woken: they are outdated …
    pub(super) outdated: Vec<Key>,
    /// … or were, and something that they need is there; not those that are being computed.
    pub(super) waiting: Vec<Key>,
}

impl Ledger {
    /// An empty ledger of this start: stamps and versions go on above the floors.
    #[must_use]
    pub fn new(epoch: Epoch, term: u32, floor: Stamp, version_floor: u64) -> Self {
        Self {
            epoch,
            term,
            counter: 0,
            connection: 0,
            floor,
            version_floor,
            keys: Keys::new(),
            patterns: Patterns::default(),
            products: HashMap::new(),
            early: Early::default(),
            warm: 0,
            hand: 0,
            links: None,
            outdated: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Lists a product with its whole-product mark, or changes its terms; a mark never goes back.
    pub fn product(&mut self, name: &str, terms: Terms, mark: Position) {
        if self.products.get(name).is_some_and(|state| state.terms != terms) {
            self.lose_definition(name);
        }
        let state = self.products.entry(name.into()).or_insert(ProductState {
            mark,
            terms,
            joins: Lsn(0),
            left: false,
            punctual: None,
        });
        state.terms = terms;
        state.mark = state.mark.max(mark);
    }

    /// The product is answered uncached until V has passed `until`; `Lsn(u64::MAX)` while that is not known.
    /// One that left stays so; whether it joins comes back.
    pub fn joins(&mut self, name: &str, until: Lsn) -> bool {
        match self.products.get_mut(name) {
            Some(state) if !state.left => {
                state.joins = until;
                true
            }
            _ => false,
        }
    }

    /// What the product reads is not what was analysed: it is answered uncached from now on.
    pub fn leave(&mut self, name: &str) {
        self.lose_product(name);
        if let Some(state) = self.products.get_mut(name) {
            (state.left, state.joins) = (true, Lsn(u64::MAX));
        }
    }

    /// The product is known again, analysed anew or refused: it is answered uncached until it has joined, and its
    /// entries may stand in as stale.
    pub fn come_back(&mut self, name: &str) {
        if let Some(state) = self.products.get_mut(name) {
            (state.left, state.joins) = (false, Lsn(u64::MAX));
        }
    }

    /// There is no such product any more, and no key of it.
    pub fn drop_product(&mut self, name: &str) {
        self.products.remove(name);
    }

    /// Whether the product is not what was analysed: its entries are no answers any more.
    #[must_use]
    pub fn has_left(&self, name: &str) -> bool {
        self.products.get(name).is_none_or(|state| state.left)
    }

    /// Whether entries of this product may be kept and used when V is at `visible`.
    #[must_use]
    pub fn is_cached(&self, name: &str, visible: Lsn) -> bool {
        self.products.get(name).is_some_and(|state| state.joins <= visible)
    }

    /// Takes a key that an earlier start tracked (R14). `firm_up_to` is the recorded position: an entry whose
    /// statement saw more is not firm, and comes back to be deleted durably before more is recorded.
    pub fn recover(&mut self, scanned: Scanned, firm_up_to: Lsn) -> Option<(Key, Stamp)> {
        let Scanned { key, lease: Some(lease), mark, meta } = scanned else { return None };
        // An entry of another lease is rubbish; its stamp and version were issued all the same.
        let stamp = meta.as_ref().map_or(self.floor, |meta| meta.stamp.max(self.floor));
        let version = meta.as_ref().map_or(0, |meta| meta.version);
        let entry = meta.filter(|meta| meta.lease == lease);
        let doubtful = entry.as_ref().is_some_and(|meta| meta.insert > firm_up_to);
        let stamp = if doubtful { stamp.next() } else { stamp };
        let mut tracked = Tracked::new(key.clone(), lease, stamp);
        tracked.version = version;
        tracked.set_mark(mark.unwrap_or_default());
        tracked.set(Flag::Recorded, true);
        tracked.set(Flag::Doubtful, doubtful);
        let number = self.enlist(tracked);
        if let Some(meta) = &entry {
            self.keys.keep(number, meta);
        }
        doubtful.then_some((key, stamp))
    }

    fn enlist(&mut self, tracked: Tracked) -> Number {
        let key = tracked.key().clone();
        let number = self.keys.insert(tracked);
        self.patterns.insert(number, &key);
        number
    }

    /// Whether a key is tracked, with an entry or without.
    #[must_use]
    pub fn is_tracked(&self, key: &Key) -> bool {
        self.keys.number(key).is_some()
    }

    /// How many keys are tracked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key is tracked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.len() == 0
    }

    /// How long the bodies of all entries are together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.keys.bytes()
    }

    /// The keys of a product from this text on, in the order of their texts.
    pub fn keys_from<'a>(
        &'a self,
        product: &str,
        from: &str,
    ) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.keys.from(product, from).map(Tracked::key)
    }

    /// The keys of a product.
    pub fn keys_of<'a>(&'a self, product: &str) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.keys_from(product, "")
    }

    /// The keys of a product whose statement saw more of the source's log than this.
    pub fn computed_after<'a>(
        &'a self,
        product: &str,
        insert: Lsn,
    ) -> impl Iterator<Item = &'a Key> + use<'a> {
        let tracked = self.keys.from(product, "");
        let after = move |tracked: &&Tracked| tracked.insert().is_some_and(|seen| seen > insert);
        tracked.filter(after).map(Tracked::key)
    }

    /// Lets a key in, before its statement begins (R4). A track record still to be written comes back.
    pub fn track(&mut self, key: &Key) -> (Lease, Option<Track>) {
        if let Some(tracked) = self.keys.get_mut(key) {
            let lease = tracked.lease();
            if tracked.is(Flag::Recorded) {
                return (lease, None);
            }
            // Above the stamp of a deletion that may still be under way: at equal stamps it would win.
            tracked.stamp = tracked.stamp.next();
            return (lease, Some(Track { key: key.clone(), lease, stamp: tracked.stamp }));
        }
        self.counter += 1;
        let lease = Lease { term: self.term, counter: self.counter };
        let stamp = self.floor.next();
        self.enlist(Tracked::new(key.clone(), lease, stamp));
        (lease, Some(Track { key: key.clone(), lease, stamp }))
    }

    /// The track record of this lease is durable.
    pub fn recorded(&mut self, key: &Key, lease: Lease) {
        if let Some(tracked) = self.keys.get_mut(key).filter(|tracked| tracked.lease() == lease) {
            tracked.set(Flag::Recorded, true);
        }
    }

    /// Commit `at` touches these keys (R3): those that are tracked come back, to be marked durably. A commit that
    /// comes again marks again: its mark may never have been written.
    pub fn mark<'a>(
        &mut self,
        touched: impl IntoIterator<Item = (&'a Key, Lsn)>,
    ) -> Vec<(Key, Position)> {
        let mut marks = Vec::new();
        for (key, at) in touched {
            let at = Position { epoch: self.epoch, lsn: at };
            if let Some(tracked) = self.keys.get_mut(key)
                && tracked.mark() <= at
            {
                tracked.set_mark(at);
                marks.push((key.clone(), at));
            }
        }
        marks.extend(self.mark_below(&marks));
        marks
    }

    /// Commit `at` touches the keys that agree with these patterns (R3).
    pub fn mark_patterns<'a>(
        &mut self,
        touched: impl IntoIterator<Item = (&'a Pattern, Lsn)>,
    ) -> Vec<(Key, Position)> {
        let mut marks = Vec::new();
        for (pattern, at) in touched {
            let keys = self.agreeing([pattern]);
            marks.extend(self.mark(keys.iter().map(|key| (key, at))));
        }
        marks
    }

    /// Commit `at` may touch any key of this product (R3).
    pub fn mark_product(&mut self, product: &str, at: Lsn) -> Option<Position> {
        let mark = Position { epoch: self.epoch, lsn: at };
        let state = self.products.get_mut(product).filter(|state| state.mark <= mark)?;
        state.mark = mark;
        for reader in self.all_readers(product) {
            if let Some(state) = self.products.get_mut(reader.as_str()) {
                state.mark = state.mark.max(mark);
            }
        }
        Some(mark)
    }

    /// A key as it stands: `None` when nothing can be answered from its entry.
    #[must_use]
    pub fn standing(&self, key: &Key) -> Option<Standing> {
        let tracked = self.keys.get(key)?;
        let meta = self.keys.meta_of(tracked)?;
        let product = self.products.get(key.product())?;
        let terms = &product.terms;
        if meta.shape != terms.shape {
            return None;
        }
        let (fresh, sound) = (self.stands(tracked, &meta, product), tracked.is_sound());
        Some(Standing { meta, fresh, certified: terms.certified, sound })
    }

    /// Whether this entry of a key is fresh (R5).
    fn stands(&self, tracked: &Tracked, meta: &Meta, product: &ProductState) -> bool {
        tracked.is_sound()
            && meta.fingerprint == product.terms.fingerprint
            && meta.as_of.epoch == self.epoch
            && meta.as_of >= tracked.mark().max(product.mark)
    }

    /// Whether a key has an entry that is fresh.
    #[must_use]
    pub fn is_fresh(&self, key: &Key) -> bool {
        self.standing(key).is_some_and(|standing| standing.fresh)
    }

    /// Counts a read at `seconds` of kck's own clock: the key is hot until its next refresh. Whether it is to be computed
    /// again before all others that expire comes back.
    pub fn read(&mut self, key: &Key, seconds: u32) -> bool {
        let Some(tracked) = self.keys.get_mut(key) else { return false };
        tracked.heat_up(seconds);
        let cold = !tracked.is(Flag::Hot);
        tracked.set(Flag::Hot, true);
        cold && self.keys.meta(key).is_some_and(|meta| self.early.watch(key, &meta))
    }

    /// How often the key was read of late; refreshes do not count.
    #[must_use]
    pub fn heat(&self, key: &Key, seconds: u32) -> f32 {
        self.keys.get(key).map_or(0.0, |tracked| tracked.heat(seconds))
    }

    /// What the key's entry cost; nothing where there is none.
    #[must_use]
    pub fn cost_us(&self, key: &Key) -> u32 {
        self.keys.get(key).filter(|tracked| tracked.has_entry()).map_or(0, Tracked::cost_us)
    }

    /// Whether the key was read since its last refresh.
    #[must_use]
    pub fn is_hot(&self, key: &Key) -> bool {
        self.keys.get(key).is_some_and(|tracked| tracked.is(Flag::Hot))
    }

    /// The newest commit known to touch the key or its whole product: what is older is stale. At least the
    /// beginning of this epoch.
    #[must_use]
    pub fn mark_of(&self, key: &Key) -> Position {
        let epoch = Position { epoch: self.epoch, lsn: Lsn(0) };
        let product = self.products.get(key.product()).map(|state| state.mark);
        let own = self.keys.get(key).map(Tracked::mark);
        epoch.max(product.unwrap_or_default()).max(own.unwrap_or_default())
    }

    /// Judges a result (R6). Nothing may be written with its stamp or version before they are reserved.
    pub fn accept(&mut self, key: &Key, computed: &Computed) -> Verdict {
        let (epoch, connection, floor) = (self.epoch, self.connection, self.floor);
        let version_floor = self.version_floor;
        let Some(product) = self.products.get(key.product()) else { return Verdict::Void };
        let Some(number) = self.keys.number(key) else { return Verdict::Void };
        let Some(tracked) = self.keys.at(number) else { return Verdict::Void };
        if tracked.lease() != computed.lease
            || computed.as_of.epoch != epoch
            || computed.connection != connection
            || computed.fingerprint != product.terms.fingerprint
        {
            return Verdict::Void;
        }
        let old = self.keys.meta_of(tracked);
        let old = old.as_ref();
        let doubtful = tracked.is(Flag::Doubtful);
        let comparable = old.filter(|old| !doubtful && old.as_of.epoch == epoch);
        if comparable
            .is_some_and(|old| computed.snapshot.0 != 0 && computed.snapshot < old.snapshot)
            || old.is_some_and(|old| computed.as_of < old.as_of)
        {
            return Verdict::Void;
        }
        let mark = tracked.mark().max(product.mark);
        let was_fresh = old.is_some_and(|old| self.stands(tracked, old, product));
        // The rest of what makes it so was looked at above.
        let fresh = !tracked.is(Flag::Touched) && mark <= computed.as_of;
        let marked = old.is_some_and(|old| old.as_of.epoch == epoch && old.as_of < mark);
        let same = old.filter(|old| old.digest == computed.digest && old.shape == computed.shape);
        let changed = same.is_none();
        let (version, modified) = same.map_or_else(
            || {
                let clock = u64::try_from(computed.time.0).unwrap_or(0);
                (clock.max(tracked.version + 1).max(version_floor + 1), computed.time)
            },
            |old| (old.version, old.modified),
        );
        let stamp = computed.snapshot.max(tracked.stamp.next()).max(floor.next());
        let meta = computed.meta(stamp, version, modified);
        self.keys.keep(number, &meta);
        if let Some(tracked) = self.keys.at_mut(number) {
            tracked.stamp = stamp;
            tracked.set(Flag::Doubtful, false);
            tracked.set(Flag::Outdated, tracked.is(Flag::Touched));
            tracked.set(Flag::Hot, false);
            if tracked.warm() != 0 {
                self.early.watch(key, &meta);
            }
        }
        self.replaced(key, (was_fresh, fresh), changed);
        Verdict::Accepted { meta: Box::new(meta), changed, marked }
    }

    /// The first half of R13: results in flight are void from now on, changes still mark; what is to be
    /// deleted durably comes back. Its stamp raises the floor.
    pub fn untrack(&mut self, key: &Key) -> Option<Forget> {
        self.counter += 1;
        let lease = Lease { term: self.term, counter: self.counter };
        if self.keys.get(key).is_some_and(Tracked::has_entry) {
            self.lose(vec![key.clone()]);
        }
        self.keys.let_go(key);
        let tracked = self.keys.get_mut(key)?;
        tracked.set_lease(lease);
        tracked.set(Flag::Recorded, false);
        tracked.stamp = tracked.stamp.next().max(self.floor.next());
        self.floor = self.floor.max(tracked.stamp);
        self.version_floor = self.version_floor.max(tracked.version);
        Some(Forget { key: key.clone(), stamp: tracked.stamp, mark: tracked.mark() })
    }

    /// The version of an answer that is not kept: at least `clock`, above every one that was issued for the key before,
    /// and below every one after it.
    pub fn surpassed(&mut self, key: &Key, clock: u64) -> u64 {
        let issued = self.keys.get(key).map_or(0, |tracked| tracked.version);
        self.version_floor = clock.max(issued + 1).max(self.version_floor + 1);
        self.version_floor
    }

    /// The second half: the deletion is durable and the key was not tracked anew meanwhile.
    pub fn forget(&mut self, forgotten: &Forget) {
        let Forget { key, stamp, .. } = forgotten;
        let Some(number) = self.keys.number(key) else { return };
        let gone = |tracked: &Tracked| tracked.stamp == *stamp && !tracked.has_entry();
        if self.keys.at(number).is_some_and(gone) {
            self.patterns.remove(number, key);
            let forgot = self.keys.remove(key);
            self.warm -= usize::from(forgot.is_some_and(|tracked| tracked.warm() != 0));
        }
    }

    /// The replication connection was lost after delivering `received`: entries whose statement saw more are
    /// not firm, and results in flight are void (R10). What is not firm comes back, to be deleted durably at these
    /// stamps before more is recorded; here it may still stand in, as stale.
    pub fn disconnected(&mut self, received: Lsn) -> Vec<(Key, Stamp)> {
        self.connection += 1;
        let mut doubts = Vec::new();
        for tracked in self.keys.all_mut() {
            if tracked.insert().is_some_and(|insert| insert > received) {
                tracked.set(Flag::Doubtful, true);
                tracked.stamp = tracked.stamp.next();
                doubts.push((tracked.key().clone(), tracked.stamp));
            }
        }
        self.lose(doubts.iter().map(|(key, _)| key.clone()).collect());
        doubts
    }

    /// The source's history broke: every entry is stale, marks of the old one count no more (R10).
    pub fn begin_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.connection += 1;
    }

    /// Counts the openings of the replication connection, as results must carry it.
    #[must_use]
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// Which start of kck this is.
    #[must_use]
    pub fn term(&self) -> u32 {
        self.term
    }

    /// Which history of the source this is.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
}

#[cfg(test)]
mod tests {
    use super::{super::temperature::LOOKED_AT, *};
    use proptest::prelude::*;

    fn at(epoch: u8, lsn: u64) -> Position {
        Position { epoch: Epoch(epoch), lsn: Lsn(lsn) }
    }

    fn terms(definition: u8) -> Terms {
        let fingerprint = Fingerprint([definition; 16]);
        Terms { fingerprint, shape: Fingerprint([0; 16]), certified: true }
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(Epoch(1), 1, Stamp(1000), 1000);
        ledger.product("p", terms(1), Position::default());
        ledger
    }

    fn result(ledger: &Ledger, lease: Lease, as_of: u64, snapshot: u64, digest: u64) -> Computed {
        Computed {
            lease,
            as_of: Position { epoch: ledger.epoch(), lsn: Lsn(as_of) },
            connection: ledger.connection(),
            time: SourceTime(i64::try_from(as_of).unwrap()),
            snapshot: Stamp(snapshot),
            insert: Lsn(as_of),
            fingerprint: Fingerprint([1; 16]),
            shape: Fingerprint([0; 16]),
            digest,
            expires: None,
            cost_us: 1,
            bytes: 1,
        }
    }

    fn kept(ledger: &mut Ledger, key: &Key, as_of: u64, snapshot: u64, digest: u64) -> Verdict {
        let (lease, _) = ledger.track(key);
        let computed = result(ledger, lease, as_of, snapshot, digest);
        ledger.accept(key, &computed)
    }

    fn fresh(ledger: &Ledger, key: &Key) -> Option<bool> {
        ledger.standing(key).map(|standing| standing.fresh)
    }

    #[derive(Debug, Clone)]
    enum Step {
        Keep { as_of: u64, snapshot: u64, digest: u64 },
        Mark(u64),
        MarkProduct(u64),
        Untrack,
        Forget,
        Disconnect(u64),
        Epoch,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u64..50, 0u64..5000, 0u64..3).prop_map(|(as_of, snapshot, digest)| Step::Keep { as_of, snapshot, digest }),
            2 => (0u64..50).prop_map(Step::Mark),
            1 => (0u64..50).prop_map(Step::MarkProduct),
            1 => Just(Step::Untrack),
            1 => Just(Step::Forget),
            1 => (0u64..50).prop_map(Step::Disconnect),
            1 => Just(Step::Epoch),
        ]
    }

    proptest! {
        /// R5 and R6 over any history of one key: stamps and versions grow strictly, `as_of` of a kept entry
        /// does not go back, and fresh means that no mark since is above it.
        #[test]
        fn stamps_grow_and_fresh_means_unmarked(steps in prop::collection::vec(step(), 1..80)) {
            let (mut ledger, key) = (ledger(), Key::new("p", ["1"]));
            let (mut stamps, mut versions) = (Stamp(1000), 1000);
            let mut forgotten: Option<Forget> = None;
            let (mut marked, mut held): (Position, Option<Position>) = (Position::default(), None);
            let mut epoch = 1;
            for step in steps {
                match step {
                    Step::Keep { as_of, snapshot, digest } => {
                        let (lease, track) = ledger.track(&key);
                        if let Some(track) = track {
                            prop_assert!(track.stamp > stamps || forgotten.is_none());
                            stamps = stamps.max(track.stamp);
                        }
                        let computed = result(&ledger, lease, as_of, snapshot, digest);
                        match ledger.accept(&key, &computed) {
                            Verdict::Accepted { meta, changed, .. } => {
                                prop_assert!(meta.stamp > stamps && meta.stamp >= computed.snapshot);
                                prop_assert!(!changed || meta.version > versions);
                                prop_assert!(held.is_none_or(|held| computed.as_of >= held));
                                (stamps, versions) = (meta.stamp, versions.max(meta.version));
                                held = Some(computed.as_of);
                            }
                            Verdict::Void => {}
                        }
                    }
                    Step::Mark(lsn) => {
                        let marks = ledger.mark([(&key, Lsn(lsn))]);
                        if !marks.is_empty() {
                            marked = marked.max(at(epoch, lsn));
                        }
                    }
                    Step::MarkProduct(lsn) => {
                        ledger.mark_product("p", Lsn(lsn));
                        marked = marked.max(at(epoch, lsn));
                    }
                    Step::Untrack => {
                        if let Some(forget) = ledger.untrack(&key) {
                            prop_assert!(forget.stamp > stamps);
                            stamps = forget.stamp;
                            forgotten = Some(forget);
                            held = None;
                        }
                    }
                    Step::Forget => {
                        if let Some(forget) = forgotten.take() {
                            ledger.forget(&forget);
                        }
                    }
                    Step::Disconnect(received) => {
                        for (_, stamp) in ledger.disconnected(Lsn(received)) {
                            prop_assert!(stamp > stamps);
                            stamps = stamp;
                        }
                    }
                    Step::Epoch if epoch < 100 => {
                        epoch += 1;
                        ledger.begin_epoch(Epoch(epoch));
                    }
                    Step::Epoch => {}
                }
                if let Some(standing) = ledger.standing(&key).filter(|standing| standing.fresh) {
                    prop_assert!(standing.meta.as_of >= ledger.mark_of(&key));
                    prop_assert!(standing.meta.as_of.epoch == Epoch(epoch));
                    prop_assert!(ledger.keys.get(&key).is_none_or(|tracked| tracked.mark() <= marked));
                }
            }
        }
    }

    #[test]
    fn a_mark_that_comes_while_the_statement_runs_makes_it_stale() {
        let (mut ledger, key) = (ledger(), Key::new("p", ["1"]));
        let (lease, _) = ledger.track(&key);
        let computed = result(&ledger, lease, 10, 5000, 1);
        assert_eq!(ledger.mark([(&key, Lsn(11))]).len(), 1);
        assert!(matches!(ledger.accept(&key, &computed), Verdict::Accepted { .. }));
        assert_eq!(fresh(&ledger, &key), Some(false));
        kept(&mut ledger, &key, 11, 5001, 2);
        assert_eq!(fresh(&ledger, &key), Some(true));
    }

    #[test]
    fn a_key_that_is_not_tracked_is_not_marked_but_its_product_is() {
        let (mut ledger, key) = (ledger(), Key::new("p", ["1"]));
        assert!(ledger.mark([(&key, Lsn(11))]).is_empty());
        ledger.mark_product("p", Lsn(12));
        kept(&mut ledger, &key, 11, 5000, 1);
        assert_eq!(
            fresh(&ledger, &key),
            Some(false),
            "a whole-product mark counts for keys tracked later"
        );
        kept(&mut ledger, &key, 12, 5000, 1);
        assert_eq!(fresh(&ledger, &key), Some(true));
    }

    #[test]
    fn an_older_snapshot_or_position_is_void() {
        let (mut ledger, key) = (ledger(), Key::new("p", ["1"]));
        kept(&mut ledger, &key, 10, 5000, 1);
        assert_eq!(kept(&mut ledger, &key, 10, 4999, 2), Verdict::Void);
        assert_eq!(kept(&mut ledger, &key, 9, 5001, 2), Verdict::Void);
        assert!(matches!(
            kept(&mut ledger, &key, 10, 5000, 2),
            Verdict::Accepted { changed: true, .. }
        ));
    }

    #[test]
    fn results_of_another_connection_lease_or_definition_are_void() {
        let (mut ledger, key) = (ledger(), Key::new("p", ["1"]));
        let (lease, _) = ledger.track(&key);
        let computed = result(&ledger, lease, 10, 5000, 1);
        assert!(ledger.disconnected(Lsn(100)).is_empty());
        assert_eq!(ledger.accept(&key, &computed), Verdict::Void);
        let computed = result(&ledger, lease, 10, 5000, 1);
        ledger.untrack(&key);
        assert_eq!(ledger.accept(&key, &computed), Verdict::Void);
        let (lease, _) = ledger.track(&key);
        let computed = result(&ledger, lease, 10, 5000, 1);
        ledger.product("p", terms(2), Position::default());
        assert_eq!(ledger.accept(&key, &computed), Verdict::Void);
    }

    #[test]
    fn what_is_not_firm_is_stale_after_the_connection_was_lost() {
        let (mut ledger, key) = (ledger(), Key::new("p", ["1"]));
        kept(&mut ledger, &key, 10, 5000, 1);
        ledger.disconnected(Lsn(10));
        assert_eq!(
            fresh(&ledger, &key),
            Some(true),
            "the stream had reached what its statement saw"
        );
        let doubts = ledger.disconnected(Lsn(9));
        assert_eq!(doubts.len(), 1, "it is deleted durably, or a restart would find it firm");
        assert_eq!(fresh(&ledger, &key), Some(false));
        // Of what may have been taken back nothing is compared: its snapshot may be ahead of the source's.
        assert!(matches!(
            kept(&mut ledger, &key, 10, 10, 1),
            Verdict::Accepted { changed: false, .. }
        ));
        assert_eq!(fresh(&ledger, &key), Some(true));
    }

    #[test]
    fn a_restart_takes_what_is_firm_and_of_its_lease() {
        let mut before = ledger();
        let keys: Vec<Key> = ["1", "2", "3"].iter().map(|value| Key::new("p", [*value])).collect();
        let mut metas = Vec::new();
        for (key, as_of) in keys.iter().zip([10, 20, 10]) {
            let Verdict::Accepted { meta, .. } = kept(&mut before, key, as_of, 5000, 1) else {
                panic!("kept")
            };
            metas.push(*meta);
        }
        let mut ledger = Ledger::new(Epoch(1), 2, Stamp(9000), 9000);
        ledger.product("p", terms(1), Position::default());
        for (index, (key, meta)) in keys.iter().zip(metas).enumerate() {
            let lease = if index == 2 { Lease { term: 1, counter: 99 } } else { meta.lease };
            let scanned =
                Scanned { key: key.clone(), lease: Some(lease), mark: None, meta: Some(meta) };
            let doubt = ledger.recover(scanned, Lsn(10));
            assert_eq!(doubt.is_some(), index == 1);
        }
        assert_eq!(
            keys.iter().map(|key| fresh(&ledger, key)).collect::<Vec<_>>(),
            [Some(true), Some(false), None]
        );
        let Verdict::Accepted { meta, .. } = kept(&mut ledger, &keys[1], 30, 5000, 2) else {
            panic!("kept")
        };
        assert!(meta.stamp > Stamp(9000) && meta.version > 9000, "above the floors");
    }

    #[test]
    fn a_product_that_left_does_not_join() {
        let mut ledger = ledger();
        ledger.leave("p");
        assert!(!ledger.joins("p", Lsn(7)));
        assert!(!ledger.is_cached("p", Lsn(100)));
    }

    #[test]
    fn one_that_comes_back_stands_in_until_it_has_joined() {
        let (mut ledger, key) = (ledger(), Key::new("p", ["1"]));
        kept(&mut ledger, &key, 10, 5000, 1);
        ledger.leave("p");
        ledger.product("p", terms(2), Position::default());
        ledger.come_back("p");
        assert!(!ledger.has_left("p") && !ledger.is_cached("p", Lsn(100)));
        assert_eq!(fresh(&ledger, &key), Some(false), "it is of another definition");
        assert!(ledger.joins("p", Lsn(7)) && ledger.is_cached("p", Lsn(7)));
    }

    #[test]
    fn a_commit_that_comes_again_marks_again() {
        let (mut ledger, key) = (ledger(), Key::new("p", ["1"]));
        ledger.track(&key);
        assert_eq!(ledger.mark([(&key, Lsn(11))]).len(), 1);
        assert_eq!(
            ledger.mark([(&key, Lsn(11))]).len(),
            1,
            "the first may never have been written"
        );
        assert!(
            ledger.mark_product("p", Lsn(11)).is_some()
                && ledger.mark_product("p", Lsn(11)).is_some()
        );
        assert!(ledger.mark([(&key, Lsn(10))]).is_empty());
    }

    #[test]
    fn room_is_made_also_where_no_entry_is() {
        let (mut ledger, key) = (ledger(), Key::new("p", ["1"]));
        ledger.track(&key);
        assert_eq!(ledger.coldest(0, |_| false), Some(key));
    }

    #[test]
    fn who_is_spared_does_not_keep_others_from_going() {
        let mut ledger = ledger();
        let keys: Vec<Key> = (0..300).map(|n| Key::new("p", [n.to_string().as_str()])).collect();
        for key in &keys {
            kept(&mut ledger, key, 10, 5000, 1);
        }
        let spared = |key: &Key| key.as_str() != "p/299";
        let tries = std::iter::repeat_with(|| ledger.coldest(0, spared)).take(300 / LOOKED_AT + 1);
        assert_eq!(tries.flatten().collect::<Vec<_>>(), [keys[299].clone()]);
    }

    #[test]
    fn a_scan_drives_out_itself_and_not_what_is_read() {
        let mut ledger = ledger();
        let name = |kind: &str, n: u32| Key::new("p", [format!("{kind}{n}").as_str()]);
        for n in 0..500 {
            let key = name("hot", n);
            kept(&mut ledger, &key, 10, 5000, 1);
            ledger.read(&key, 0);
        }
        for n in 0..10_000 {
            while ledger.len() >= 1000 {
                let coldest = ledger.coldest(60, |_| false).unwrap();
                let forget = ledger.untrack(&coldest).unwrap();
                ledger.forget(&forget);
            }
            kept(&mut ledger, &name("scan", n), 10, 5000, 1);
        }
        let lost = (0..500).filter(|n| !ledger.is_tracked(&name("hot", *n))).count();
        assert!(lost < 25, "{lost} of 500 that are read were driven out");
        assert_eq!((ledger.len(), ledger.bytes()), (1000, 1000));
    }

    #[test]
    fn a_product_that_joins_is_not_cached_before_its_position() {
        let mut ledger = ledger();
        assert!(ledger.is_cached("p", Lsn(0)));
        assert!(ledger.joins("p", Lsn(7)));
        assert_eq!((ledger.is_cached("p", Lsn(6)), ledger.is_cached("p", Lsn(7))), (false, true));
    }
}
