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
    book: Mutex<SeedResults>,
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
    let book = SeedResults { at: state.next, state, progress, stopped: None, failure: None };
    let desk = Workers { context, plan, book: Mutex::new(book) };
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs {
            scope.spawn(|| desk.work());
        }
    });
    let mut book = desk.book.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    book.progress.clear();
    match book.failure {
        Some(failure) => Err(failure),
        None => Ok((book.state, book.stopped.unwrap_or(Stopped::AllDone))),
    }
}

impl Workers<'_> {
    fn book(&self) -> MutexGuard<'_, SeedResults> {
        self.book.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn work(&self) {
        while let Some(seed) = self.next() {
            let began = Stopwatch::start();
            let ended = self.simulate(seed);
            let mut book = self.book();
            if let Err(failure) = ended.and_then(|ended| self.on_end(&mut book, &ended, began.elapsed())) {
                book.failure.get_or_insert(failure);
            }
        }
    }

    /// The next seed that is not done yet; none when it is time to stop.
    fn next(&self) -> Option<u64> {
        let mut book = self.book();
        if book.failure.is_some() || book.stopped.is_some() {
            return None;
        }
        while book.state.has(book.at) {
            book.at += 1;
        }
        if book.at >= self.plan.from.saturating_add(self.plan.seeds) {
            return None;
        }
        if self.plan.at_most.is_some_and(|most| book.progress.spent() >= most) {
            book.stopped = Some(Stopped::TimeOver);
            return None;
        }
        book.at += 1;
        Some(book.at - 1)
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
        book: &mut SeedResults,
        (ended, twice): &(Ended, bool),
        took: Duration,
    ) -> Result<(), Failure> {
        if ended.interrupted {
            book.stopped = Some(Stopped::Interrupted);
            return Ok(());
        }
        book.state.count(&ended.verdict);
        book.state.twice += u64::from(*twice);
        book.state.spent_ms += took.as_millis() as u64 / self.plan.jobs as u64;
        if ended.verdict.code != exit::FINE {
            book.progress.clear();
            self.tell_bad(ended);
            if self.plan.stop_at_first {
                book.stopped = Some(Stopped::FirstBad);
            }
        }
        book.progress.step(&book.state);
        self.plan.state.as_ref().map_or(Ok(()), |path| book.state.save(path))
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
