//! Pool: the programs of one command → answers; starts them when they are needed, and again when they are lost.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::{
    Fault, Settings, Use,
    program::{Asked, GREETING_WITHIN, Program},
    protocol::{Ask, Of},
};

/// After a program was lost or could not be started, the next is started after this, doubling …
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// … up to this; from the beginning where one has run so long.
const PAUSE_MOST: Duration = Duration::from_secs(30);
const STEADY: Duration = Duration::from_secs(10);
/// A request waits so long for a program to be tried again; else it fails at once, and says why.
const PATIENCE: Duration = Duration::from_secs(1);
/// Programs that a request for a product is given to.
const TRIES: usize = 2;
/// For all programs of a pool to end.
const CLOSE_WITHIN: Duration = Duration::from_secs(8);

/// The programs of one command.
pub struct Pool {
    settings: Arc<Settings>,
    command: Vec<String>,
    /// Locked for one decision.
    state: Mutex<State>,
    /// Something has changed for who waits for a program.
    changed: Notify,
    /// Whoever gives keys to pools looks again.
    freed: Arc<Notify>,
    tasks: TaskTracker,
}

struct State {
    programs: Vec<Arc<Program>>,
    starting: usize,
    used: Use,
    /// What one takes at once, as far as is known.
    concurrency: usize,
    /// Permits given.
    given: usize,
    /// One after the other.
    failures: u32,
    /// Not before this, and why.
    retry: Option<(Instant, String)>,
    closed: bool,
}

impl State {
    /// Programs at once at most: as many as are said, or as it takes for products of one command that depend on each
    /// other not to wait for each other for ever.
    fn limit(&self) -> usize {
        self.used.workers.max(self.used.levels.div_ceil(self.concurrency))
    }
}

/// A place for one request.
pub struct Permit(Arc<Pool>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.state().given -= 1;
        self.0.freed.notify_one();
    }
}

/// A program that has a request. One whose answer nobody waits for any more is ended with what it does.
struct Placed {
    program: Arc<Program>,
    over: bool,
}

impl Placed {
    /// Of a program that has been told of it.
    fn on(program: Arc<Program>) -> Self {
        Self { program, over: false }
    }

    /// It has answered, or never will.
    fn over(mut self) {
        self.over = true;
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.program.leave();
        if !self.over {
            self.program.kill("whoever asked it has given up");
        }
    }
}

/// What to do about a request.
enum Place {
    On(Placed),
    /// Until something changes, or this.
    Wait(Option<Instant>),
}

impl Pool {
    pub(super) fn new(
        settings: Arc<Settings>,
        command: Vec<String>,
        used: Use,
        freed: Arc<Notify>,
    ) -> Arc<Self> {
        let state = State {
            programs: Vec::new(),
            starting: 0,
            used,
            concurrency: 1,
            given: 0,
            failures: 0,
            retry: None,
            closed: false,
        };
        let (changed, tasks) = (Notify::new(), TaskTracker::new());
        Arc::new(Self { settings, command, state: Mutex::new(state), changed, freed, tasks })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What no one waits for does not go while no program can be started.
    pub(super) fn room(
        self: &Arc<Self>,
        level: usize,
        urgent: bool,
    ) -> Result<Permit, Option<Instant>> {
        let mut state = self.state();
        if let Some((at, _)) = &state.retry
            && *at > Instant::now()
            && state.programs.is_empty()
            && !urgent
        {
            return Err(Some(*at));
        }
        // A place stays free for each level below: what a program asks for while it is asked must find one.
        let places = state.limit().saturating_mul(state.concurrency);
        if state.given >= places.saturating_sub(level - 1) {
            return Err(None);
        }
        state.given += 1;
        Ok(Permit(Arc::clone(self)))
    }

    pub(super) fn limit(&self, used: Use) {
        self.state().used = used;
    }

    /// Asks a program, another one if the first is lost.
    pub(super) async fn ask(self: &Arc<Self>, ask: &Ask, within: Duration) -> Result<Bytes, Fault> {
        // A program that has to start first takes nothing of the time of its answer.
        let placed_by = Instant::now() + GREETING_WITHIN + within;
        let tries = if matches!(ask.of, Of::Product(_)) { TRIES } else { 1 };
        let mut lost = String::new();
        for _ in 0..tries {
            let placed = self.place(placed_by, within).await?;
            let program = Arc::clone(&placed.program);
            if !program.greeting.knows(&ask.of) {
                let (name, knows) = (ask.of.name().to_owned(), program.greeting.products());
                placed.over();
                return Err(Fault::Unknown { name, knows });
            }
            let asked = program.ask(ask, Instant::now() + within).await;
            placed.over();
            self.changed.notify_waiters();
            match asked {
                Asked::Said(said) => return said.map_err(Fault::Said),
                Asked::Lost(why) => lost = why,
                Asked::Late => {
                    program.kill(&format!("it did not answer within {} ms", within.as_millis()));
                    return Err(Fault::Late(within));
                }
            }
        }
        Err(Fault::Lost(lost))
    }

    /// A program with room, started if there is none.
    async fn place(self: &Arc<Self>, deadline: Instant, within: Duration) -> Result<Placed, Fault> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let until = match self.find()? {
                Place::On(placed) => return Ok(placed),
                Place::Wait(until) => until.map_or(deadline, |until| until.min(deadline)),
            };
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(until.into()) => {}
            }
            if Instant::now() >= deadline {
                return Err(Fault::Late(within));
            }
        }
    }

    fn find(self: &Arc<Self>) -> Result<Place, Fault> {
        let mut state = self.state();
        if state.closed {
            return Err(Fault::Down("kck is stopping, or nobody needs it any more".to_owned()));
        }
        let open = state.programs.iter().filter(|program| program.has_room());
        if let Some(program) = open.min_by_key(|program| program.load()) {
            program.enter();
            return Ok(Place::On(Placed::on(Arc::clone(program))));
        }
        if state.programs.len() + state.starting >= state.limit() {
            return Ok(Place::Wait(None));
        }
        let now = Instant::now();
        match &state.retry {
            Some((at, why)) if *at > now => {
                if state.programs.is_empty() && state.starting == 0 && *at > now + PATIENCE {
                    return Err(Fault::Down(why.clone()));
                }
                Ok(Place::Wait(Some(*at)))
            }
            _ => {
                state.starting += 1;
                let pool = Arc::clone(self);
                self.tasks.spawn(async move { pool.run_one().await });
                Ok(Place::Wait(None))
            }
        }
    }

    /// One program, from its start to its end.
    async fn run_one(self: &Arc<Self>) {
        let started = Program::start(&self.settings, &self.command).await;
        let (program, attending) = {
            let mut state = self.state();
            state.starting -= 1;
            match started {
                Ok((program, attending)) => {
                    state.concurrency = program.greeting.concurrency;
                    state.programs.push(Arc::clone(&program));
                    if state.closed {
                        program.close();
                    }
                    (program, attending)
                }
                Err(why) => {
                    self.failed(&mut state, why);
                    drop(state);
                    self.wake();
                    return;
                }
            }
        };
        tracing::info!(program = %self.name(), name = %program.greeting.name, "runs");
        self.wake();
        let began = Instant::now();
        let why = attending.attend().await;
        {
            let mut state = self.state();
            state.programs.retain(|one| !Arc::ptr_eq(one, &program));
            if began.elapsed() >= STEADY {
                state.failures = 0;
            }
            if !state.closed {
                self.failed(&mut state, why);
            }
        }
        self.wake();
    }

    fn failed(&self, state: &mut State, why: String) {
        let doubled = PAUSE_FIRST.saturating_mul(1 << state.failures.min(16));
        let pause = doubled.min(PAUSE_MOST);
        state.failures = state.failures.saturating_add(1);
        tracing::warn!(program = %self.name(), why, pause_ms = pause.as_millis(), "a program was lost");
        state.retry = Some((Instant::now() + pause, why));
    }

    /// The command, as people know it.
    fn name(&self) -> String {
        super::protocol::shown(&self.command.join(" "))
    }

    fn wake(&self) {
        self.changed.notify_waiters();
        self.freed.notify_one();
    }

    /// Ends its programs: each may finish what it has.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.programs.iter().for_each(|program| program.close());
        drop(state);
        self.tasks.close();
        self.wake();
    }

    pub(super) async fn closed(&self) {
        if tokio::time::timeout(CLOSE_WITHIN, self.tasks.wait()).await.is_err() {
            tracing::warn!(program = %self.name(), "a program does not end");
        }
    }
}
