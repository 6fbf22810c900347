//! Seeds that once broke a rule: each must pass.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::args::{RegressionsArgs, cores};
use crate::command::child::{self, Print};
use crate::command::failure::{Failure, print};
use crate::command::run_context::RunContext;
use crate::command::{Done, exit, library};

const FILE: &str = include_str!("../../regressions.txt");

/// One line of the file: `seed scenario rule plant story`.
#[derive(Debug, PartialEq, Eq)]
pub struct Regression<'a> {
    pub seed: u64,
    pub scenario: &'a str,
    pub rule: &'a str,
    /// The fault of the story, planted again, that this seed catches; `-` when another seed does; `simulator` when the
    /// fault was the simulator's own.
    pub plant: &'a str,
    pub story: &'a str,
}

/// Simulates all of them.
pub fn run(args: &RegressionsArgs) -> Done {
    let all = read(FILE)?;
    let (next, codes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.unwrap_or_else(cores) {
            scope.spawn(|| {
                while let Some(regression) = all.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let code = simulate(regression);
                    codes.lock().unwrap_or_else(PoisonError::into_inner).push(code);
                }
            });
        }
    });
    let codes = codes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let codes = codes.into_iter().collect::<Result<Vec<u8>, Failure>>()?;
    let bad = codes.iter().filter(|code| **code != exit::FINE).count();
    print(&format!("{} regressions, {bad} bad\n", codes.len()))?;
    Ok(exit::gravest(codes))
}

fn simulate(regression: &Regression<'_>) -> Done {
    let Regression { seed, scenario, plant, story, .. } = *regression;
    let context = RunContext::new(library::load(scenario)?, scenario.into(), None)?;
    let verdict = child::simulate(&context, seed, None, Print::Result)?.verdict;
    if verdict.code != exit::FINE {
        eprintln!("BAD {}\n    it once was: {story} (plant: {plant})", verdict.message());
        eprintln!("    {}", context.command("replay", seed, None));
    }
    Ok(verdict.code)
}

/// The lines that are no comments, and no seeds of the fast layer: its test has those.
pub fn read(text: &str) -> Result<Vec<Regression<'_>>, Failure> {
    let full = |line: &&str| !line.is_empty() && !line.starts_with('#') && !line.starts_with("fast:");
    let lines = text.lines().map(str::trim).filter(full);
    lines.map(|line| parse(line).ok_or_else(|| wrong(line))).collect()
}

fn parse(line: &str) -> Option<Regression<'_>> {
    let mut fields = line.splitn(5, ' ');
    let seed = fields.next()?.parse().ok()?;
    let (scenario, rule) = (fields.next()?, fields.next()?);
    Some(Regression { seed, scenario, rule, plant: fields.next()?, story: fields.next()? })
}

fn wrong(line: &str) -> Failure {
    Failure::Usage(format!("regressions.txt: {line:?} is not `seed scenario rule plant story`"))
}

#[cfg(test)]
mod tests {
    use stint_sim::Plant;

    use super::*;

    #[test]
    fn every_line_names_a_known_scenario() {
        let all = read(FILE).unwrap();
        assert!(!all.is_empty());
        for regression in all {
            assert!(library::names().any(|name| name == regression.scenario), "{regression:?}");
            assert!(regression.rule.contains('-') && !regression.story.is_empty(), "{regression:?}");
            let is_known = Plant::ALL.iter().any(|plant| plant.as_str() == regression.plant);
            assert!(is_known || ["-", "simulator"].contains(&regression.plant), "{regression:?}");
        }
    }

    #[test]
    fn a_line_without_a_scenario_is_refused() {
        assert!(read("1 a-rule").is_err());
    }
}
