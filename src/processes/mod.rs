//! Processes: files of what runs on schedule, the source's clock and whoever asks → runs, and what became of them.
//!
//! [`plan`] decides; this acts. A run begins only when it is durable that it does, so that no restart runs its tick
//! again. It runs here because this kck reads the slot: another stands by, or has nothing to do with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    change::SourceTime,
    observe::Event,
    parts::Parts,
    process::{End, Kept, Outcome, Run, Said},
    product::{Process, ProcessSlot, Work, files::Drafts, listed},
    recompute::outside::Recipes,
    reload::{LOOK_EVERY, aside, told},
    serve::process::{Ask, Listed, Listing, Refusal},
    store::{StateCell, state},
};

pub mod plan;
mod run;

use plan::{Plan, Refused};

/// The longest pause: a clock that was set, or a machine that slept, is noticed after it.
const PAUSE_MOST: Duration = Duration::from_secs(1);
/// When kck is told to stop, a run has so long to end by itself.
const STOP_GRACE: Duration = Duration::from_secs(7);
/// Who may ask for processes at once.
pub const ASKS_WAITING: usize = 64;

/// A run that begins when it is durable that it does.
struct Pending {
    process: Arc<Process>,
    run: Run,
}

/// Keeps processes running as the files and the clock say.
pub(crate) struct Processes {
    parts: Arc<Parts>,
    /// Who does what is not in SQL.
    recipes: Arc<Recipes>,
    drafts: Drafts,
    slots: BTreeMap<String, ProcessSlot>,
    plan: Plan,
    asks: mpsc::Receiver<Ask>,
    listing: watch::Sender<Arc<Listing>>,
    /// Files that moved and are not taken up: before the clock is known nothing can be.
    due: BTreeSet<String>,
    /// Processes of which something else is to be remembered.
    unsaved: BTreeSet<String>,
    pending: Vec<Pending>,
    /// Something else is to be shown.
    moved: bool,
    running: JoinSet<(String, u64, End)>,
    stop: CancellationToken,
}

/// How the rest of kck reaches processes.
pub(crate) struct Ends {
    pub(crate) asks: mpsc::Receiver<Ask>,
    pub(crate) listing: watch::Sender<Arc<Listing>>,
}

/// What a start finds: the files, and what was remembered.
pub(crate) struct Known {
    pub(crate) drafts: Drafts,
    pub(crate) before: BTreeMap<String, Kept>,
}

impl Processes {
    /// Goes on from the files as the start read them, and from what was remembered.
    pub(crate) fn new(
        parts: Arc<Parts>,
        recipes: Arc<Recipes>,
        Known { drafts, before }: Known,
        Ends { asks, listing }: Ends,
    ) -> Self {
        let due = drafts.names().chain(before.keys()).cloned().collect();
        Self {
            parts,
            recipes,
            drafts,
            slots: BTreeMap::new(),
            plan: Plan::new(before),
            asks,
            listing,
            due,
            unsaved: BTreeSet::new(),
            pending: Vec::new(),
            moved: true,
            running: JoinSet::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Runs until told to stop; what runs then has a while to end.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut hangups = signal(SignalKind::hangup()).ok();
        let (mut all, mut looked) = (true, Instant::now());
        while !shutdown.is_cancelled() {
            if all || looked.elapsed() >= LOOK_EVERY {
                self.look(all).await;
                looked = Instant::now();
            }
            if let Some(now) = self.now() {
                self.take_up(now);
                if self.leads() {
                    self.begin_due(now);
                }
                self.save().await;
            }
            self.show();
            all = false;
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = told(&mut hangups) => all = true,
                () = tokio::time::sleep(self.pause()) => {}
                Some(ask) = self.asks.recv() => self.asked(ask),
                Some(ended) = self.running.join_next() => self.ended(ended),
            }
        }
        self.stop().await;
    }

    fn now(&self) -> Option<SourceTime> {
        self.parts.progress.borrow().source_now(Instant::now())
    }

    /// Whoever reads the slot runs processes; while the stream is away somebody else may.
    fn leads(&self) -> bool {
        self.parts.health.borrow().streaming()
    }

    fn pause(&self) -> Duration {
        let next = self.plan.next().zip(self.now());
        let until =
            next.map(|(next, now)| u64::try_from(next.0.saturating_sub(now.0)).unwrap_or(0));
        // A tick that is due and cannot begin is looked at again a little later.
        let least = Duration::from_millis(20);
        until.map_or(PAUSE_MOST, Duration::from_micros).clamp(least, PAUSE_MOST)
    }

    async fn look(&mut self, all: bool) {
        let drafts = std::mem::take(&mut self.drafts);
        let (drafts, moved) = aside(drafts, move |drafts| drafts.look(all)).await;
        self.drafts = drafts;
        self.due.extend(moved);
    }

    /// What files say now is what runs from now on.
    fn take_up(&mut self, now: SourceTime) {
        if self.due.is_empty() {
            return;
        }
        self.moved = true;
        for name in std::mem::take(&mut self.due) {
            let Some(said) = self.drafts.said(&name).cloned() else {
                self.slots.remove(&name);
                if self.plan.remove(&name) {
                    self.unsaved.insert(name.clone());
                }
                self.note(&name, Said::Removed);
                continue;
            };
            let slot = ProcessSlot::after(self.slots.get(&name), said);
            let why = listed(slot.faults());
            let said = match &slot {
                ProcessSlot::Broken { .. } => Said::Broken { why },
                ProcessSlot::Ready { .. } if !why.is_empty() => Said::Kept { why },
                ProcessSlot::Ready { process, .. } => {
                    if self.plan.take_up(&name, process.schedule(), now) {
                        self.unsaved.insert(name.clone());
                    }
                    Said::Loaded
                }
            };
            if self.slots.get(&name) != Some(&slot) {
                self.note(&name, said);
            }
            self.slots.insert(name, slot);
        }
        let work = self.slots.values().filter_map(ProcessSlot::process);
        let means = work.filter_map(|process| match &process.work {
            Work::Outside(means) => Some(means.clone()),
            Work::Sql { .. } => None,
        });
        let catalog = Arc::clone(&self.parts.catalog.borrow());
        self.recipes.beside(means.collect(), &catalog);
        let broken: Vec<&str> = self
            .slots
            .iter()
            .filter(|(_, slot)| !slot.faults().is_empty())
            .map(|(name, _)| name.as_str())
            .collect();
        let trouble = (!broken.is_empty()).then(|| broken.join(", "));
        self.parts.observer.part("process", trouble);
    }

    fn note(&self, process: &str, said: Said) {
        self.parts.observer.note(Event::Process { process: process.to_owned(), said });
    }

    fn begin_due(&mut self, now: SourceTime) {
        for (name, run) in self.plan.begin_due(now) {
            self.begin(name, run);
        }
    }

    fn begin(&mut self, name: String, run: Run) {
        let process = self.slots.get(&name).and_then(ProcessSlot::process);
        self.pending.extend(process.map(|process| Pending { process: Arc::clone(process), run }));
        self.unsaved.insert(name);
        self.moved = true;
    }

    fn asked(&mut self, Ask { process, reply }: Ask) {
        let begun = match (self.slots.get(&process), self.now().filter(|_| self.leads())) {
            // Its file is there, and is taken up as soon as the time is known.
            (None, _) if self.due.contains(&process) => Err(Refusal::Away),
            (None, _) => Err(Refusal::Unknown),
            (Some(ProcessSlot::Broken { .. }), _) => Err(Refusal::Broken),
            (Some(_), None) => Err(Refusal::Away),
            (Some(_), Some(now)) => match self.plan.begin_asked(&process, now) {
                Ok(run) => Ok(run),
                Err(Refused::Unknown) => Err(Refusal::Unknown),
                Err(Refused::Running) => Err(Refusal::Running),
            },
        };
        let answer = begun.map(|run| {
            let number = run.number;
            self.begin(process, run);
            number
        });
        // Whoever asked may have gone.
        drop(reply.send(answer));
    }

    /// What is remembered is made durable; then what waits for that begins.
    async fn save(&mut self) {
        if self.unsaved.is_empty() {
            return;
        }
        let stamp = self.parts.recompute.state_stamp();
        let cell = |name: &String| state::process(name, self.plan.kept(name).as_ref(), stamp);
        let cells: Vec<StateCell> = self.unsaved.iter().map(cell).collect();
        if let Err(error) = self.parts.store.save(&cells).await {
            tracing::warn!(%error, "processes wait for the store");
            return;
        }
        self.unsaved.clear();
        for Pending { process, run } in std::mem::take(&mut self.pending) {
            let (parts, stop, number) = (Arc::clone(&self.parts), self.stop.clone(), run.number);
            let recipes = Arc::clone(&self.recipes);
            self.note(process.name(), Said::Began { run: number });
            self.running.spawn(async move {
                let end = run::run(&parts, &recipes, &process, &stop).await;
                (process.name().to_owned(), number, end)
            });
        }
    }

    fn ended(&mut self, ended: Result<(String, u64, End), tokio::task::JoinError>) {
        let (name, run, end) = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return,
        };
        self.note(&name, Said::Ended { run, outcome: end.outcome.clone() });
        if let Some(now) = self.now() {
            self.plan.ended(&name, end, now);
        }
        self.unsaved.insert(name);
        self.moved = true;
    }

    /// What of all this others see.
    fn show(&mut self) {
        let faults = self.drafts.faults();
        if !self.moved && self.listing.borrow().faults == faults {
            return;
        }
        let one = |(name, slot): (&String, &ProcessSlot)| {
            let runs = self.plan.kept(name).unwrap_or_default().runs;
            let next = self.plan.next_of(name);
            (name.clone(), Listed { slot: slot.clone(), next, runs })
        };
        let processes: BTreeMap<String, Listed> = self.slots.iter().map(one).collect();
        let faults = faults.to_vec();
        self.listing.send_replace(Arc::new(Listing { processes, faults }));
        self.moved = false;
    }

    async fn stop(mut self) {
        // What waits for the store has not begun, and its tick is not remembered.
        for Pending { process, .. } in std::mem::take(&mut self.pending) {
            let end = End { took: None, outcome: Outcome::Interrupted };
            if let Some(now) = self.now() {
                self.plan.ended(process.name(), end, now);
            }
            self.unsaved.remove(process.name());
        }
        let stop = self.stop.clone();
        let patience = tokio::time::sleep(STOP_GRACE);
        tokio::pin!(patience);
        while !self.running.is_empty() {
            tokio::select! {
                () = &mut patience, if !stop.is_cancelled() => stop.cancel(),
                Some(ended) = self.running.join_next() => self.ended(ended),
            }
        }
        self.save().await;
    }
}
