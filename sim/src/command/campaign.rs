//! Many seeds side by side, counted as they end.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::command::child::{self, Ended, Print};
use crate::command::failure::Failure;
use crate::command::progress::Progress;
use crate::command::run_context::RunContext;
use crate::command::state::State;
use crate::command::stopwatch::Stopwatch;
use crate::command::{exit, twice};

/// What is to be done.
pub struct Plan {
    pub from: u64,
    pub seeds: u64,
    pub jobs: usize,
    pub at_most: Option<Duration>,
    pub state: Option<PathBuf>,
    pub twice_percent: u64,
    pub stop_at_first: bool,
}

/// Why a campaign ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    AllDone,
    TimeOver,
    FirstBad,
    Interrupted,
}

/// What the workers share.
struct Workers<'a> {
    context: &'a RunContext,
    plan: &'a Plan,
    results: Mutex<SeedResults>,
}

struct SeedResults {
    state: State,
    progress: Progress,
    /// The seed to look at next.
    at: u64,
    stopped: Option<Stopped>,
    failure: Option<Failure>,
}

/// Simulates seeds until all are done, or the time is over.
pub fn run(context: &RunContext, plan: &Plan) -> Result<(State, Stopped), Failure> {
    let new = State::new(context, plan.from);
    let state = match &plan.state {
        Some(path) => State::open(path, new)?,
        None => new,
    };
    if state.done > 0 {
        eprintln!("going on: {} seeds were done before, {} of them bad", state.done, state.bad.len());
    }
    let progress = Progress::new(plan.seeds, &state);
    let results = SeedResults { at: state.next, state, progress, stopped: None, failure: None };
    let workers = Workers { context, plan, results: Mutex::new(results) };
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs {
            scope.spawn(|| workers.work());
        }
    });
    let mut results = workers.results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    results.progress.clear();
    match results.failure {
        Some(failure) => Err(failure),
        None => Ok((results.state, results.stopped.unwrap_or(Stopped::AllDone))),
    }
}

impl Workers<'_> {
    fn results(&self) -> MutexGuard<'_, SeedResults> {
        self.results.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn work(&self) {
        while let Some(seed) = self.next() {
            let began = Stopwatch::start();
            let ended = self.simulate(seed);
            let mut results = self.results();
            if let Err(failure) = ended.and_then(|ended| self.on_end(&mut results, &ended, began.elapsed())) {
                results.failure.get_or_insert(failure);
            }
        }
    }

    /// The next seed that is not done yet; none when it is time to stop.
    fn next(&self) -> Option<u64> {
        let mut results = self.results();
        if results.failure.is_some() || results.stopped.is_some() {
            return None;
        }
        while results.state.has(results.at) {
            results.at += 1;
        }
        if results.at >= self.plan.from.saturating_add(self.plan.seeds) {
            return None;
        }
        if self.plan.at_most.is_some_and(|most| results.progress.spent() >= most) {
            results.stopped = Some(Stopped::TimeOver);
            return None;
        }
        results.at += 1;
        Some(results.at - 1)
    }

    /// Once, or twice for some: which ones depends on the seed alone.
    fn simulate(&self, seed: u64) -> Result<(Ended, bool), Failure> {
        let mixed = (seed ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        if mixed % 100 >= self.plan.twice_percent {
            return Ok((child::simulate(self.context, seed, None, Print::Result)?, false));
        }
        let [mut one, two] = twice::both(self.context, seed)?;
        if let Some(difference) = twice::difference(&one, &two)
            && !two.interrupted
        {
            one.verdict.code = exit::NOT_DETERMINISTIC;
            one.verdict.rule = Some("the same seed gives the same bytes".into());
            one.verdict.what = Some(difference);
        }
        one.interrupted |= two.interrupted;
        Ok((one, true))
    }

    fn on_end(
        &self,
        results: &mut SeedResults,
        (ended, twice): &(Ended, bool),
        took: Duration,
    ) -> Result<(), Failure> {
        if ended.interrupted {
            results.stopped = Some(Stopped::Interrupted);
            return Ok(());
        }
        results.state.count(&ended.verdict);
        results.state.twice += u64::from(*twice);
        results.state.spent_ms += took.as_millis() as u64 / self.plan.jobs as u64;
        if ended.verdict.code != exit::FINE {
            results.progress.clear();
            self.tell_bad(ended);
            if self.plan.stop_at_first {
                results.stopped = Some(Stopped::FirstBad);
            }
        }
        results.progress.step(&results.state);
        self.plan.state.as_ref().map_or(Ok(()), |path| results.state.save(path))
    }

    fn tell_bad(&self, ended: &Ended) {
        let verdict = &ended.verdict;
        let rule = verdict.rule.as_deref().unwrap_or_default();
        eprintln!("BAD seed {} ({}): {rule}", verdict.seed, exit::word(verdict.code));
        eprintln!("    {}", verdict.what.as_deref().unwrap_or_default());
        let verb = if verdict.code == exit::NOT_DETERMINISTIC { "twice" } else { "replay" };
        eprintln!("    {}", self.context.command(verb, verdict.seed, None));
    }
}
