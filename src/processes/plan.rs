//! Plan: schedules, the source's clock and what ran before → what runs now, and what is remembered of it. Pure.
//!
//! Invariants: of one process one run goes on at a time; ticks that were missed, however many and for whatever reason,
//! are one run; ticks that pass while it runs are none, and it goes on at the first tick after its end; a tick that was
//! run is not run again after a restart, which leaves its run as interrupted.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    change::SourceTime,
    process::{End, Kept, Outcome, Run},
    product::Schedule,
    recompute::schedule::Clock,
};

/// Runs that are remembered of a process.
pub const RUNS_KEPT: usize = 20;

/// Why a process does not run now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is none of that name.
    Unknown,
    /// It runs.
    Running,
}

/// All processes.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    processes: BTreeMap<String, Planned>,
    /// Of those that are not taken up yet, what an earlier start remembered.
    before: BTreeMap<String, Kept>,
}

#[derive(Debug, Clone, Default)]
struct Planned {
    /// Without one it only runs when asked.
    clock: Option<Clock>,
    last: Option<SourceTime>,
    /// The oldest first; the last may be running.
    runs: VecDeque<Run>,
    /// Its file is gone: it is forgotten when its run has ended.
    gone: bool,
}

impl Plan {
    /// None yet; `before` is what an earlier start remembered.
    #[must_use]
    pub fn new(before: BTreeMap<String, Kept>) -> Self {
        Self { processes: BTreeMap::new(), before }
    }

    /// A process has this schedule from now on. One that it had goes on; another begins now, or at this start where the
    /// process last ran before it. Says whether something else is to be remembered now.
    pub fn take_up(&mut self, name: &str, schedule: Option<&Schedule>, now: SourceTime) -> bool {
        let mut moved = false;
        let mut began = now;
        if let Some(Kept { last, runs }) = self.before.remove(name) {
            let planned = self.processes.entry(name.to_owned()).or_default();
            (planned.last, planned.runs) = (last, runs.into());
            // A clock that was put back does not make a process wait for the time it lost.
            began = last.map_or(now, |last| last.min(now));
            for run in planned.runs.iter_mut().filter(|run| run.end.is_none()) {
                run.end = Some(End { took: None, outcome: Outcome::Interrupted });
                moved = true;
            }
        }
        let planned = self.processes.entry(name.to_owned()).or_default();
        planned.gone = false;
        let known = planned.clock.take();
        planned.clock = schedule.map(|schedule| match known {
            Some(clock) if clock.schedule() == schedule => clock,
            _ => Clock::begun(schedule.clone(), began),
        });
        if let (Some(_), None) = (&planned.clock, planned.last) {
            // A restart before the first tick does not begin the period anew.
            planned.last = Some(began);
            moved = true;
        }
        moved
    }

    /// There is no such process any more. Says whether it is forgotten already: one that runs is when it has ended.
    pub fn remove(&mut self, name: &str) -> bool {
        self.before.remove(name);
        match self.processes.get_mut(name) {
            Some(planned) if planned.running().is_some() => {
                (planned.gone, planned.clock) = (true, None);
                false
            }
            _ => {
                self.processes.remove(name);
                true
            }
        }
    }

    /// Begins what is due: each process once, however many ticks it missed.
    pub fn begin_due(&mut self, now: SourceTime) -> Vec<(String, Run)> {
        let mut begun = Vec::new();
        for (name, planned) in &mut self.processes {
            if planned.running().is_some() {
                continue;
            }
            if let Some(tick) = planned.clock.as_mut().and_then(|clock| clock.strike(now)) {
                planned.last = Some(tick);
                begun.push((name.clone(), planned.begin(Some(tick), now)));
            }
        }
        begun
    }

    /// Begins a process that somebody asked for. Its schedule goes on as it was.
    ///
    /// # Errors
    /// [`Refused`]
    pub fn begin_asked(&mut self, name: &str, now: SourceTime) -> Result<Run, Refused> {
        let planned = self.processes.get_mut(name).filter(|planned| !planned.gone);
        let planned = planned.ok_or(Refused::Unknown)?;
        if planned.running().is_some() {
            return Err(Refused::Running);
        }
        Ok(planned.begin(None, now))
    }

    /// The run of a process has ended. Says whether the process is gone, and forgotten with it.
    pub fn ended(&mut self, name: &str, end: End, now: SourceTime) -> bool {
        let Some(planned) = self.processes.get_mut(name) else { return true };
        if let Some(run) = planned.runs.back_mut().filter(|run| run.end.is_none()) {
            run.end = Some(end);
        }
        // What passed meanwhile is not made up for.
        if let Some(tick) = planned.clock.as_mut().and_then(|clock| clock.strike(now)) {
            planned.last = Some(tick);
        }
        if planned.gone {
            self.processes.remove(name);
        }
        !self.processes.contains_key(name)
    }

    /// When the next tick of any process is that does not run.
    #[must_use]
    pub fn next(&self) -> Option<SourceTime> {
        let waiting = self.processes.values().filter(|planned| planned.running().is_none());
        waiting.filter_map(|planned| planned.clock.as_ref()?.next()).min()
    }

    /// When a process is due next; `None` where only asking runs it.
    #[must_use]
    pub fn next_of(&self, name: &str) -> Option<SourceTime> {
        self.processes.get(name)?.clock.as_ref()?.next()
    }

    /// What is to be remembered of a process.
    #[must_use]
    pub fn kept(&self, name: &str) -> Option<Kept> {
        let planned = self.processes.get(name)?;
        Some(Kept { last: planned.last, runs: planned.runs.iter().cloned().collect() })
    }
}

impl Planned {
    fn running(&self) -> Option<&Run> {
        self.runs.back().filter(|run| run.end.is_none())
    }

    fn begin(&mut self, tick: Option<SourceTime>, now: SourceTime) -> Run {
        let number = self.runs.back().map_or(1, |run| run.number + 1);
        let run = Run { number, tick, started: now, end: None };
        self.runs.push_back(run.clone());
        while self.runs.len() > RUNS_KEPT {
            self.runs.pop_front();
        }
        run
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recompute::schedule::PUT_BACK;
    use proptest::prelude::*;
    use std::time::Duration;

    const DONE: End = End { took: Some(Duration::ZERO), outcome: Outcome::Done };

    fn schedule(text: &str) -> Schedule {
        Schedule::read(text).unwrap().unwrap()
    }

    fn at(seconds: i64) -> SourceTime {
        SourceTime(seconds * 1_000_000)
    }

    /// A plan of one process that runs every ten seconds, taken up at 0.
    fn every_ten() -> Plan {
        let mut plan = Plan::default();
        assert!(plan.take_up("p", Some(&schedule("every 10s")), at(0)));
        plan
    }

    /// The ticks that begin at this time.
    fn ticks(plan: &mut Plan, now: i64) -> Vec<Option<SourceTime>> {
        plan.begin_due(at(now)).into_iter().map(|(_, run)| run.tick).collect()
    }

    #[test]
    fn missed_ticks_are_one_run() {
        let mut plan = every_ten();
        assert!(ticks(&mut plan, 9).is_empty());
        assert_eq!(ticks(&mut plan, 57), [Some(at(50))]);
        assert!(ticks(&mut plan, 58).is_empty(), "it runs");
        assert!(!plan.ended("p", DONE, at(58)));
        assert_eq!((ticks(&mut plan, 59).len(), plan.next()), (0, Some(at(60))));
    }

    #[test]
    fn a_long_run_goes_on_at_the_next_tick_after_its_end() {
        let mut plan = every_ten();
        assert_eq!(ticks(&mut plan, 10).len(), 1);
        assert!(ticks(&mut plan, 45).is_empty());
        plan.ended("p", DONE, at(47));
        assert!(ticks(&mut plan, 49).is_empty());
        assert_eq!(ticks(&mut plan, 50), [Some(at(50))]);
    }

    #[test]
    fn a_restart_leaves_an_interrupted_run_and_runs_what_was_missed_once() {
        let mut plan = every_ten();
        assert_eq!(ticks(&mut plan, 10).len(), 1);
        let mut again = Plan::new([("p".to_owned(), plan.kept("p").unwrap())].into());
        assert!(again.take_up("p", Some(&schedule("every 10s")), at(15)));
        assert_eq!(
            again.kept("p").unwrap().runs[0].end.as_ref().unwrap().outcome,
            Outcome::Interrupted
        );
        assert!(ticks(&mut again, 15).is_empty(), "the tick counts as run");
        assert_eq!(ticks(&mut again, 49), [Some(at(40))]);
        assert_eq!(again.kept("p").unwrap().runs[1].number, 2);
    }

    #[test]
    fn whoever_asks_gets_a_run_unless_it_runs() {
        let mut plan = every_ten();
        assert_eq!(plan.begin_asked("q", at(1)), Err(Refused::Unknown));
        assert_eq!(plan.begin_asked("p", at(1)).unwrap().number, 1);
        assert_eq!(plan.begin_asked("p", at(2)), Err(Refused::Running));
        plan.ended("p", DONE, at(3));
        assert_eq!(plan.next(), Some(at(10)), "the schedule is as it was");
        plan.take_up("asked", None, at(3));
        assert!(plan.begin_asked("asked", at(4)).is_ok() && plan.next_of("asked").is_none());
    }

    #[test]
    fn one_that_goes_is_forgotten_when_its_run_has_ended() {
        let mut plan = every_ten();
        assert_eq!(ticks(&mut plan, 10).len(), 1);
        assert!(!plan.remove("p"));
        assert_eq!(plan.begin_asked("p", at(11)), Err(Refused::Unknown));
        assert!(plan.ended("p", DONE, at(12)) && plan.kept("p").is_none());
        assert!(every_ten().remove("p"));
    }

    #[test]
    fn an_edited_schedule_begins_now_and_the_same_goes_on() {
        let mut plan = every_ten();
        plan.take_up("p", Some(&schedule("every 10s")), at(8));
        assert_eq!(plan.next(), Some(at(10)));
        plan.take_up("p", Some(&schedule("every 20s")), at(8));
        assert_eq!(plan.next(), Some(at(28)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// The clock goes on, or is set.
        Clock(i64),
        Look,
        Ends,
        Asks,
        Restarts,
        Edits,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0_i64..40).prop_map(Step::Clock),
            1 => (-5_000_i64..5_000).prop_map(Step::Clock),
            8 => Just(Step::Look),
            5 => Just(Step::Ends),
            1 => Just(Step::Asks),
            1 => Just(Step::Restarts),
            1 => Just(Step::Edits),
        ]
    }

    proptest! {
        /// Whatever happens to clock, runs and kck: no two runs at once; no tick twice and none before one that ran,
        /// unless the clock was put back; of many missed ticks the last; none that passed during a run; and what is due
        /// runs at the first look.
        #[test]
        fn no_overlap_no_storm_and_one_run_for_many_missed_ticks(
            steps in proptest::collection::vec(step(), 1..120),
            minutely in any::<bool>(),
        ) {
            let schedules = [schedule("every 10s"), schedule("cron * * * * *")];
            let mut own = usize::from(minutely);
            let mut now = 100_000_i64;
            let mut plan = Plan::default();
            plan.take_up("p", Some(&schedules[own]), at(now));
            let (mut running, mut last, mut free_since, mut highest) = (false, None::<SourceTime>, at(now), now);
            for step in steps {
                match step {
                    Step::Clock(by) => {
                        now += by;
                        // Ticks come again, once, after a clock that was put back by much.
                        if by < 0 {
                            last = None;
                            free_since = at(i64::MIN / 2_000_000);
                        }
                        highest = highest.max(now);
                    }
                    Step::Look => {
                        let due = plan.next().is_some_and(|next| next <= at(now));
                        let begun = plan.begin_due(at(now));
                        prop_assert!(begun.len() <= 1);
                        prop_assert!(!running || begun.is_empty(), "overlap");
                        prop_assert!(running || !due || !begun.is_empty(), "what is due runs");
                        if let Some((_, run)) = begun.into_iter().next() {
                            let tick = run.tick.unwrap();
                            prop_assert!(tick <= at(now) && tick > free_since, "{tick:?} {free_since:?}");
                            prop_assert!(last.is_none_or(|last| tick > last), "a tick twice");
                            prop_assert!(plan.next_of("p").unwrap() > at(now), "another is due at once");
                            (running, last) = (true, Some(tick));
                        }
                    }
                    Step::Ends if running => {
                        plan.ended("p", DONE, at(now));
                        (running, free_since) = (false, at(now));
                        prop_assert!(plan.next().unwrap() > at(now), "what passed is not made up for");
                    }
                    Step::Asks => {
                        let asked = plan.begin_asked("p", at(now));
                        prop_assert_eq!(asked.is_err(), running);
                        running = true;
                    }
                    Step::Restarts => {
                        let kept = plan.kept("p").unwrap();
                        prop_assert!(kept.runs.len() <= RUNS_KEPT);
                        plan = Plan::new([("p".to_owned(), kept)].into());
                        plan.take_up("p", Some(&schedules[own]), at(now));
                        // What passed during a run that was cut off was missed like any other.
                        (running, free_since) = (false, last.unwrap_or(at(i64::MIN / 2_000_000)));
                    }
                    Step::Edits => {
                        own = 1 - own;
                        plan.take_up("p", Some(&schedules[own]), at(now));
                        free_since = free_since.min(at(now));
                    }
                    Step::Ends => {}
                }
                let runs = plan.kept("p").unwrap().runs;
                prop_assert!(runs.iter().filter(|run| run.end.is_none()).count() <= 1);
                prop_assert!(runs.windows(2).all(|pair| pair[0].number + 1 == pair[1].number));
                // A clock that was put back makes nobody wait for the time it lost.
                plan.clone().begin_due(at(now));
                let waits = i64::try_from(PUT_BACK.as_secs()).unwrap() + 60;
                let mut looked = plan.clone();
                looked.begin_due(at(now));
                prop_assert!(looked.next().is_none_or(|next| next <= at(now + waits)));
            }
        }
    }
}
