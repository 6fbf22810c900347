//! Processes of seeds: started, waited for, and what they printed.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output};

use stint_sim::guard;

use crate::args::Only;
use crate::command::failure::Failure;
use crate::command::recorded_event::{Line, Verdict};
use crate::command::run_context::RunContext;
use crate::command::{Done, exit};

/// Signals by which a user or an operator ends everything.
const INTERRUPTS: [i32; 2] = [2, 15];

/// How one seed's process ended.
#[derive(Debug)]
pub struct Ended {
    pub verdict: Verdict,
    /// A user stopped it: it says nothing about the seed.
    pub interrupted: bool,
    /// Everything it printed.
    pub printed: Vec<u8>,
}

/// What a process shall print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Print {
    Result,
    Events,
}

/// Simulates one seed in a process of its own.
pub fn simulate(
    context: &RunContext,
    seed: u64,
    only: Option<&Only>,
    print: Print,
) -> Result<Ended, Failure> {
    let mut command = command(context, seed, only)?;
    command.arg("--json");
    if print == Print::Result {
        command.arg("--quiet");
    }
    let output = command.output().map_err(Failure::Start)?;
    Ok(ended(seed, output))
}

/// Simulates one seed in a process that prints where this one does; answers its exit code.
pub fn show(context: &RunContext, seed: u64, only: Option<&Only>, json: bool) -> Done {
    let mut command = command(context, seed, only)?;
    if json {
        command.arg("--json");
    }
    let status = command.status().map_err(Failure::Start)?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::CRASH))
}

fn command(context: &RunContext, seed: u64, only: Option<&Only>) -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe().map_err(Failure::Start)?);
    command.args(["seed", &seed.to_string()]).arg(context.path());
    if let Some(plant) = context.plant {
        command.args(["--plant", plant.as_str()]);
    }
    if let Some(only) = only {
        command.args(["--only", &only.to_string()]);
    }
    Ok(command)
}

fn ended(seed: u64, output: Output) -> Ended {
    let last_line = output.stdout.trim_ascii_end().rsplit(|byte| *byte == b'\n').next();
    let verdict: Option<Verdict> = last_line.and_then(|line| serde_json::from_slice(line).ok());
    let code = output.status.code().and_then(|code| u8::try_from(code).ok());
    let verdict = match verdict {
        Some(verdict) if Some(verdict.code) == code => verdict,
        _ => crashed(seed, &output),
    };
    let interrupted = output.status.signal().is_some_and(|signal| INTERRUPTS.contains(&signal));
    Ended { verdict, interrupted, printed: output.stdout }
}

/// A process that ended in no way of its own.
fn crashed(seed: u64, output: &Output) -> Verdict {
    if output.status.signal() == Some(guard::SIGNAL) {
        let what = format!(
            "virtual time stood still for {} s of processor time: something runs in a loop without a pause",
            guard::LIMIT_S
        );
        return without_result(seed, "virtual time goes on", what);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = said.lines().rev().take(3).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    let what = format!("{}: {}", output.status, last.join(" / "));
    without_result(seed, "the process of a seed ends by itself", what)
}

fn without_result(seed: u64, rule: &str, what: String) -> Verdict {
    Verdict {
        seed,
        hash: String::new(),
        simulated_ms: 0,
        summary: String::new(),
        code: exit::CRASH,
        rule: Some(rule.into()),
        what: Some(what),
        faults: Vec::new(),
    }
}

/// The events that a process printed, beside its result.
pub fn events(ended: &Ended) -> Vec<Line> {
    let lines = ended.printed.split(|byte| *byte == b'\n');
    lines.filter_map(|line| serde_json::from_slice(line).ok()).collect()
}
