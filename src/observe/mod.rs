//! Everything worth noticing → logs, metrics, tests.
//!
//! One enum, two folds: [`Event`] becomes a log line and moves counters; tests subscribe and wait for events
//! instead of sleeping. Nothing here holds a row's values, SQL or a secret.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{broadcast, watch};

use crate::{
    change::{Epoch, Lsn, SourceTime},
    key::Key,
    process,
    stage::{Stage, Stages},
};

mod log;

/// How many events a slow subscriber may lag behind before it loses some.
const EVENTS_KEPT: usize = 4096;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The replication connection opened.
    StreamOpened {
        /// Where delivery begins.
        at: Lsn,
    },
    /// The replication connection was lost and is tried again.
    StreamLost {
        /// Why.
        error: String,
        /// In how long.
        retry: Duration,
    },
    /// Another process reads the slot; kck stands by.
    StandingBy {
        /// Who holds it, as far as the source tells.
        holder: String,
    },
    /// The source's history broke: every entry is stale (R10).
    EpochBegan {
        /// The new one.
        epoch: Epoch,
        /// Why.
        why: String,
    },
    /// A group was matched and its marks are durable.
    Marked {
        /// Its end.
        end: Lsn,
        /// How many transactions.
        transactions: u64,
        /// How many keys were marked.
        keys: u64,
        /// How many whole products were marked.
        products: u64,
    },
    /// Products were marked as a whole before their commits were visible (R3).
    MarkedEarly {
        /// The newest of these commits.
        end: Lsn,
        /// How many transactions.
        transactions: u64,
    },
    /// A key was computed and accepted.
    Refreshed {
        /// Which.
        key: Key,
        /// Whether its bytes changed.
        changed: bool,
        /// Whether commits had marked what it replaces.
        marked: bool,
    },
    /// A statement for some keys ran.
    Computed {
        /// How many keys it answered.
        keys: u64,
        /// How long it took.
        took: Duration,
    },
    /// A key's statement failed with the source up.
    ComputeFailed {
        /// Which.
        key: Key,
        /// The SQLSTATE, or what stands for it.
        code: String,
    },
    /// A key of a product costs a multiple of what it used to, several statements in a row: its plan may have flipped.
    CostJumped {
        /// Which product.
        product: String,
        /// How long the source was at work for one key.
        before: Duration,
        /// And is now.
        after: Duration,
    },
    /// Who computes keys came to an unexpected end, and is replaced.
    WorkerDied {
        /// Why.
        why: String,
    },
    /// Somebody had to look at a part that is down; said once when it goes and once when it comes back.
    Part {
        /// Which: `source`, `stream`, `store`.
        part: &'static str,
        /// What is wrong; `None` when it is well again.
        trouble: Option<String>,
    },
    /// A product does not work.
    ProductBroken {
        /// Which.
        product: String,
        /// Why, for people.
        why: String,
    },
    /// A product's file does not load as it is now: it runs as it was.
    ProductKept {
        /// Which.
        product: String,
        /// Why, for people.
        why: String,
    },
    /// A product was analysed while kck runs, and is answered so from now on.
    ProductLoaded {
        /// Which.
        product: String,
        /// It means something else than before, or must be matched anew: it is answered uncached until it has joined.
        anew: bool,
    },
    /// A product's file is gone, and so are its entries.
    ProductRemoved {
        /// Which.
        product: String,
    },
    /// An update's file was taken up, while kck runs.
    UpdateLoaded {
        /// Which.
        update: String,
    },
    /// An update does not work.
    UpdateBroken {
        /// Which.
        update: String,
        /// Why, for people.
        why: String,
    },
    /// An update's file does not load as it is now: it runs as it was.
    UpdateKept {
        /// Which.
        update: String,
        /// Why, for people.
        why: String,
    },
    /// An update's file is gone.
    UpdateRemoved {
        /// Which.
        update: String,
    },
    /// An update was committed.
    Updated {
        /// Which.
        update: String,
    },
    /// An update was not committed, or nobody knows.
    UpdateFailed {
        /// Which.
        update: String,
        /// The SQLSTATE; empty where it was not the source that refused.
        code: String,
        /// Why, as far as it holds no row's values.
        why: String,
    },
    /// Something of a process.
    Process {
        /// Which.
        process: String,
        /// What.
        said: process::Said,
    },
    /// A product is matched from this position on.
    ProductJoined {
        /// Which.
        product: String,
        /// Answered uncached until V passes this.
        until: Lsn,
    },
    /// A table's definition changed under a product, which was marked as a whole (R14).
    DefinitionChanged {
        /// Which product.
        product: String,
    },
    /// The list of tracked keys is being read from the store.
    Rebuilding {
        /// So many so far.
        keys: u64,
    },
    /// The list of tracked keys is as an earlier start left it.
    Rebuilt {
        /// How many.
        keys: u64,
        /// How long reading took.
        took: Duration,
    },
    /// A product's schedule struck: its keys are computed again.
    Ticked {
        /// Which.
        product: String,
        /// When that was due.
        at: SourceTime,
    },
    /// A product's warm keys were taken up.
    Warmed {
        /// Which product.
        product: String,
        /// How many keys are warm.
        keys: u64,
        /// For how many there was no room.
        left_out: u64,
    },
    /// A product's warm keys could not be asked for; they stay as they were.
    WarmFailed {
        /// Which product.
        product: String,
        /// Why, as far as it holds no row's values.
        why: String,
    },
    /// The slot held too much WAL and was given up.
    SlotDropped {
        /// How much it held, in bytes.
        retained_bytes: u64,
    },
    /// A named point of the protocol was reached where a test asked to stop.
    Halted {
        /// Which.
        point: Point,
    },
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadSource {
    /// Memory or the store.
    Hit,
    /// Computed while the reader waited.
    Miss,
    /// Held back until it was fresh enough.
    Wait,
}

/// Named points of the protocol, where a crash hurts most; tests stop there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// A group is released and not yet matched.
    Match,
    /// A group is matched and its marks are not yet written.
    Mark,
    /// Marks are durable and nothing is acknowledged.
    Acknowledge,
    /// A result was accepted and is not yet written.
    Put,
    /// A product that joins is marked and not yet listed.
    Join,
}

impl std::str::FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "match" => Ok(Self::Match),
            "mark" => Ok(Self::Mark),
            "acknowledge" => Ok(Self::Acknowledge),
            "put" => Ok(Self::Put),
            "join" => Ok(Self::Join),
            _ => Err(format!("'{text}' is none of match, mark, acknowledge, put, join")),
        }
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// What is counted; [`Counter::NAMES`] has the metric names.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Counter { $($(#[doc = $doc])* $variant,)* }

        impl Counter {
            /// Metric name and help text, in the order of the variants.
            pub const NAMES: &[(&str, &str)] = &[$(($name, concat!($($doc),*)),)*];
        }
    };
}

counters! {
    /// Row changes received from the stream.
    Changes = "kck_changes_total",
    /// Transactions matched.
    Transactions = "kck_transactions_total",
    /// Keys marked by commits.
    Marks = "kck_marks_total",
    /// Whole-product marks by commits.
    ProductMarks = "kck_product_marks_total",
    /// Statements that computed keys.
    Batches = "kck_batches_total",
    /// Keys computed by them.
    Computed = "kck_computed_total",
    /// Looks at keys that must wait because the source was used enough.
    OverBudget = "kck_over_budget_total",
    /// Computations that failed.
    ComputeFailures = "kck_compute_failures_total",
    /// Products whose keys began to cost a multiple of what they used to.
    CostJumps = "kck_cost_jumps_total",
    /// Ends of those who compute that were not expected; others took over.
    WorkersDied = "kck_workers_died_total",
    /// Refreshes whose bytes did not change.
    Unchanged = "kck_unchanged_total",
    /// Reads answered from memory or the store.
    Hits = "kck_hits_total",
    /// Reads that computed.
    Misses = "kck_misses_total",
    /// Reads that waited to be fresh enough.
    Waits = "kck_waits_total",
    /// Answers that said stale.
    Stale = "kck_stale_total",
    /// Events sent to subscribers.
    Events = "kck_events_total",
    /// Openings of the replication connection.
    Connections = "kck_stream_connections_total",
    /// Barriers taken.
    Barriers = "kck_barriers_total",
    /// Lookups asked of the source.
    Lookups = "kck_lookups_total",
    /// Updates that were committed.
    Updates = "kck_updates_total",
    /// Updates that the source refused, or could not be asked.
    UpdateFailures = "kck_update_failures_total",
    /// Runs of processes that began.
    ProcessRuns = "kck_process_runs_total",
    /// Runs of processes that did not end well.
    ProcessFailures = "kck_process_failures_total",
    /// Times that a product was due by its schedule.
    Ticks = "kck_ticks_total",
    /// Keys that were computed again before they expired.
    EarlyRefreshes = "kck_early_refreshes_total",
    /// Keys that the store held when kck started.
    Rebuilt = "kck_rebuilt_keys_total",
    /// Keys that were let go of to make room.
    Evicted = "kck_evicted_total",
}

/// What became of a product's keys that commits had marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refreshes {
    /// Marked keys that were computed again.
    pub marked: u64,
    /// Those of them whose bytes did not change.
    pub unchanged: u64,
}

impl Refreshes {
    /// The share that was marked for nothing; `None` before anything was marked.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    pub fn false_positive_ratio(self) -> Option<f64> {
        (self.marked > 0).then(|| self.unchanged as f64 / self.marked as f64)
    }
}

/// Where events go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Observer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    counters: Vec<AtomicU64>,
    events: broadcast::Sender<Event>,
    halt: watch::Sender<Option<Point>>,
    /// By product; locked to count one refresh.
    refreshes: Mutex<BTreeMap<String, Refreshes>>,
    /// What is down now, and why; locked to say each change once.
    down: Mutex<BTreeMap<&'static str, String>>,
    stages: Stages,
}

impl Default for Observer {
    fn default() -> Self {
        let counters = Counter::NAMES.iter().map(|_| AtomicU64::new(0)).collect();
        let events = broadcast::Sender::new(EVENTS_KEPT);
        Self {
            inner: Arc::new(Inner {
                counters,
                events,
                halt: watch::Sender::new(None),
                refreshes: Mutex::default(),
                down: Mutex::default(),
                stages: Stages::default(),
            }),
        }
    }
}

impl Observer {
    /// Counts a read that was answered, and whether it said `stale`. It is no event: to wake whoever listens would be
    /// most of what a hit costs.
    pub fn answered(&self, source: ReadSource, stale: bool) {
        let counter = match source {
            ReadSource::Hit => Counter::Hits,
            ReadSource::Miss => Counter::Misses,
            ReadSource::Wait => Counter::Waits,
        };
        self.count(counter, 1);
        if stale {
            self.count(Counter::Stale, 1);
        }
    }

    /// Notes an event: counts it, logs it, tells whoever listens.
    pub fn note(&self, event: Event) {
        self.count_event(&event);
        log::log(&event);
        // Without a listener there is nobody to tell.
        drop(self.inner.events.send(event));
    }

    /// A part is down, or well; noted when that changes.
    pub fn part(&self, part: &'static str, trouble: Option<String>) {
        let changed = {
            let mut down = self.inner.down.lock().unwrap_or_else(PoisonError::into_inner);
            match &trouble {
                Some(trouble) => down.insert(part, trouble.clone()).is_none(),
                None => down.remove(part).is_some(),
            }
        };
        if changed {
            self.note(Event::Part { part, trouble });
        }
    }

    /// Every event from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// A stage took so long.
    pub fn took(&self, stage: Stage, time: Duration) {
        self.inner.stages.took(stage, time);
    }

    /// How long each stage took.
    #[must_use]
    pub fn stages(&self) -> &Stages {
        &self.inner.stages
    }

    /// Adds to a counter.
    pub fn count(&self, counter: Counter, by: u64) {
        if let Some(cell) = self.inner.counters.get(counter as usize) {
            cell.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// What a counter stands at.
    #[must_use]
    pub fn counted(&self, counter: Counter) -> u64 {
        self.inner.counters.get(counter as usize).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    /// What became of the keys of each product that commits had marked.
    #[must_use]
    pub fn refreshes(&self) -> BTreeMap<String, Refreshes> {
        self.inner.refreshes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count_refresh(&self, product: &str, changed: bool) {
        let mut all = self.inner.refreshes.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = match all.get_mut(product) {
            Some(counted) => counted,
            None => all.entry(product.to_owned()).or_default(),
        };
        counted.marked += 1;
        counted.unchanged += u64::from(!changed);
    }

    /// Makes everyone who reaches `point` wait there; `None` lets all go on.
    pub fn halt_at(&self, point: Option<Point>) {
        self.inner.halt.send_replace(point);
    }

    /// A named point: returns at once unless a test asked to stop here.
    pub async fn reach(&self, point: Point) {
        if *self.inner.halt.borrow() == Some(point) {
            self.note(Event::Halted { point });
            let mut halt = self.inner.halt.subscribe();
            // The sender lives in `self`, so waiting cannot fail.
            drop(halt.wait_for(|halt| *halt != Some(point)).await);
        }
    }

    /// As [`Observer::reach`], where there is something to stop at.
    pub async fn reach_if(&self, something: bool, point: Point) {
        if something {
            self.reach(point).await;
        }
    }

    /// The counters in Prometheus's text format.
    #[must_use]
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        for ((name, help), cell) in Counter::NAMES.iter().zip(&self.inner.counters) {
            let value = cell.load(Ordering::Relaxed);
            text.push_str(&format!("# HELP {name}{help}\n# TYPE {name} counter\n{name} {value}\n"));
        }
        text + &self.inner.stages.metrics()
    }

    fn count_event(&self, event: &Event) {
        match event {
            Event::StreamOpened { .. } => self.count(Counter::Connections, 1),
            Event::Marked { transactions, keys, products, .. } => {
                self.count(Counter::Transactions, *transactions);
                self.count(Counter::Marks, *keys);
                self.count(Counter::ProductMarks, *products);
            }
            Event::MarkedEarly { .. } => self.count(Counter::ProductMarks, 1),
            Event::Refreshed { key, changed, marked } => {
                self.count(Counter::Unchanged, u64::from(!changed));
                if *marked {
                    self.count_refresh(key.product(), *changed);
                }
            }
            Event::Computed { keys, took } => {
                self.took(Stage::Recompute, *took);
                self.count(Counter::Batches, 1);
                self.count(Counter::Computed, *keys);
            }
            Event::ComputeFailed { .. } => self.count(Counter::ComputeFailures, 1),
            Event::CostJumped { .. } => self.count(Counter::CostJumps, 1),
            Event::WorkerDied { .. } => self.count(Counter::WorkersDied, 1),
            Event::Updated { .. } => self.count(Counter::Updates, 1),
            Event::Ticked { .. } => self.count(Counter::Ticks, 1),
            Event::UpdateFailed { .. } => self.count(Counter::UpdateFailures, 1),
            Event::Process { said: process::Said::Began { .. }, .. } => {
                self.count(Counter::ProcessRuns, 1);
            }
            Event::Process { said: process::Said::Ended { outcome, .. }, .. } => {
                self.count(Counter::ProcessFailures, u64::from(!outcome.is_well()));
            }
            _ => {}
        }
    }
}
