//! The fewest faults of a seed that still break the same rule: found by leaving faults out (delta debugging). Chances of
//! a fault are its own, so leaving one out changes no other.

mod search;

use std::path::{Path, PathBuf};
use std::time::Duration;

use stint_sim::FaultId;

use crate::args::{Only, ShrinkArgs, cores};
use crate::command::child::{self, Print};
use crate::command::failure::{self, Failure, print};
use crate::command::recorded_event::Verdict;
use crate::command::run_context::RunContext;
use crate::command::stopwatch::Stopwatch;
use crate::command::{Done, exit};

/// A time of trouble is not made shorter than this, in milliseconds.
const SHORTEST_TROUBLE_MS: u64 = 1_000;

/// Shrinks one seed.
pub fn run(args: &ShrinkArgs) -> Done {
    let context = RunContext::load(&args.world)?;
    eprintln!("simulating seed {} with all its faults", args.seed);
    let whole = child::simulate(&context, args.seed, None, Print::Result)?.verdict;
    let Some(rule) = whole.rule.clone() else {
        print(&format!(
            "{}\nseed {} breaks no rule: there is nothing to shrink\n",
            whole.message(),
            args.seed
        ))?;
        return Ok(exit::FINE);
    };
    eprintln!("it breaks \"{rule}\" after {} faults", whole.faults.len());
    let mut shrinker = Shrinker {
        context,
        seed: args.seed,
        rule,
        jobs: args.jobs.unwrap_or_else(cores),
        watch: Stopwatch::start(),
        at_most: args.at_most,
        tries_left: args.tries,
        tries: 0,
    };
    let faults: Vec<FaultId> = whole.faults.iter().filter_map(|word| word.parse().ok()).collect();
    let fewest = search::fewest(faults, &mut |candidates| shrinker.first_that_fails(candidates))?;
    let only = Only(fewest);
    let saved =
        args.save_scenario.clone().unwrap_or_else(|| PathBuf::from(format!("shrunk-{}.toml", args.seed)));
    let shorter = shrinker.shorten(&only, whole.code, &saved)?;
    shrinker.tell(&whole, &only, shorter.as_ref())
}

struct Shrinker {
    context: RunContext,
    seed: u64,
    rule: String,
    jobs: usize,
    watch: Stopwatch,
    at_most: Duration,
    tries_left: u64,
    tries: u64,
}

impl Shrinker {
    /// The place of the first candidate that breaks the same rule, if one does before the tries or the time are over.
    fn first_that_fails(&mut self, candidates: &[Vec<FaultId>]) -> Result<Option<usize>, Failure> {
        for (round, some) in candidates.chunks(self.jobs).enumerate() {
            if self.is_over() {
                return Ok(None);
            }
            let some = &some[..some.len().min(usize::try_from(self.tries_left).unwrap_or(usize::MAX))];
            self.tries_left -= some.len() as u64;
            self.tries += some.len() as u64;
            let verdicts = self.simulate_all(some)?;
            if let Some(place) = verdicts.iter().position(|verdict| self.is_same(verdict)) {
                eprintln!("  {:>3} tries: {} enough", self.tries, faults_are(some[place].len()));
                return Ok(Some(round * self.jobs + place));
            }
        }
        Ok(None)
    }

    fn simulate_all(&self, candidates: &[Vec<FaultId>]) -> Result<Vec<Verdict>, Failure> {
        std::thread::scope(|scope| {
            let start = |faults: &Vec<FaultId>| {
                let only = Only(faults.clone());
                scope.spawn(move || child::simulate(&self.context, self.seed, Some(&only), Print::Result))
            };
            let threads: Vec<_> = candidates.iter().map(start).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<child::Ended, Failure>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(|thread| Ok(join(thread)?.verdict)).collect()
        })
    }

    fn is_same(&self, verdict: &Verdict) -> bool {
        verdict.rule.as_ref() == Some(&self.rule)
    }

    fn is_over(&self) -> bool {
        self.tries_left == 0 || self.watch.elapsed() >= self.at_most
    }

    /// Halves the time of trouble while the same rule breaks. Only where the end of trouble comes before the violation;
    /// otherwise the simulation has ended by itself before.
    fn shorten(&mut self, only: &Only, code: u8, save: &Path) -> Result<Option<Shorter>, Failure> {
        let mut found = None;
        while code == exit::LIVENESS && !self.is_over() {
            let mut scenario = self.context.scenario.clone();
            scenario.time.trouble_ms /= 2;
            if scenario.time.trouble_ms < SHORTEST_TROUBLE_MS {
                break;
            }
            let trouble_ms = scenario.time.trouble_ms;
            let shorter = RunContext::new(scenario, save.display().to_string(), self.context.plant)?;
            self.tries_left -= 1;
            self.tries += 1;
            let verdict = child::simulate(&shorter, self.seed, Some(only), Print::Result)?.verdict;
            if !self.is_same(&verdict) {
                break;
            }
            eprintln!("  {:>3} tries: {trouble_ms} ms of trouble are enough", self.tries);
            failure::write(save, &shorter.text)?;
            self.context = shorter;
            found = Some(Shorter { trouble_ms, file: save.to_owned() });
        }
        Ok(found)
    }

    fn tell(&self, whole: &Verdict, only: &Only, shorter: Option<&Shorter>) -> Done {
        let verdict = child::simulate(&self.context, self.seed, Some(only), Print::Result)?.verdict;
        let (before, after) = (whole.faults.len(), only.0.len());
        let mut text = format!("seed {} breaks \"{}\" with {after} of {before} faults", self.seed, self.rule);
        text += &format!(" ({only}), found in {} simulations\n", self.tries);
        text += &format!("  {}\n", verdict.what.as_deref().unwrap_or_default());
        if let Some(Shorter { trouble_ms, file }) = shorter {
            text +=
                &format!("{trouble_ms} ms of trouble are enough: the scenario is in {}\n", file.display());
        }
        if self.is_over() {
            text += "the tries or the time were over: fewer faults may do; raise --tries or --for\n";
        }
        text += &format!("{}\n", self.context.command("replay", self.seed, Some(only)));
        text += &format!("{}\n", self.context.command("explain", self.seed, Some(only)));
        print(&text)?;
        Ok(verdict.code)
    }
}

fn faults_are(many: usize) -> String {
    if many == 1 { "1 fault is".into() } else { format!("{many} faults are") }
}

/// A shorter time of trouble that is enough.
struct Shorter {
    trouble_ms: u64,
    file: PathBuf,
}
