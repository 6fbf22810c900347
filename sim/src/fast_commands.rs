//! `stint-sim fast` and `stint-sim fast-seed`: the fast layer's seeds, in this process.

use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Mutex;

use stint_sim::{FastPlant, FastReport, Sweep, run_caught, sweep};

use crate::command::exit;

pub const USAGE: &str =
    "  stint-sim fast --seeds N [--from S] [--jobs J] [--plant P]   pure layer: many seeds in one process
  stint-sim fast-seed S [--plant P] [--quiet]                  one of them, with its trace, twice over";

/// Failing seeds that are printed; the rest is only counted.
const SHOWN: usize = 20;
/// Seeds between two looks at the clock.
const LOOKS: u64 = 64;
/// Seconds between two lines of progress.
const PROGRESS_S: u64 = 10;

/// Carries out the command if it is one of this layer's.
pub fn carry_out(args: &[String]) -> Option<ExitCode> {
    let (command, rest) = args.split_first()?;
    let done = match command.as_str() {
        "fast" => many(rest),
        "fast-seed" => one(rest),
        _ => return None,
    };
    Some(done.unwrap_or_else(|problem| {
        eprintln!("{problem}\n\nusage:\n{USAGE}");
        ExitCode::from(exit::USAGE)
    }))
}

fn one(args: &[String]) -> Result<ExitCode, String> {
    let mut args = args.iter();
    let seed = value(args.next())?;
    let (mut plant, mut quiet) = (None, false);
    while let Some(word) = args.next() {
        match word.as_str() {
            "--plant" => plant = Some(value::<FastPlant>(args.next())?),
            "--quiet" => quiet = true,
            other => return Err(format!("unknown option {other:?}")),
        }
    }
    let report = run_caught(seed, plant, true);
    if !quiet {
        print!("{}", report.trace);
    }
    println!("{}", line(&report));
    let again = run_caught(seed, plant, true);
    if (again.hash, &again.trace) != (report.hash, &report.trace) {
        println!("NOT DETERMINISTIC: another run of it gave {:016x}", again.hash);
        return Ok(ExitCode::from(exit::NOT_DETERMINISTIC));
    }
    Ok(ExitCode::from(report.violation.map_or(0, |violation| violation.severity as u8)))
}

/// Seconds since the machine started. The clocks of the C library are not those of the machine in this program: the
/// full layer's simulation has taken their place.
fn uptime_s() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// What is counted over all seeds.
struct Tally {
    begun_s: f64,
    shown_at: u64,
    seeds: u64,
    commands: u64,
    faults: u64,
    attempts: u64,
    failed: usize,
    /// The gravest exit code so far.
    worst: u8,
}

fn many(args: &[String]) -> Result<ExitCode, String> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut wanted = Sweep { seeds: 1_000, from: 0, jobs, plant: None };
    let mut args = args.iter();
    while let Some(word) = args.next() {
        match word.as_str() {
            "--seeds" => wanted.seeds = value(args.next())?,
            "--from" => wanted.from = value(args.next())?,
            "--jobs" => wanted.jobs = value(args.next())?,
            "--plant" => wanted.plant = Some(value(args.next())?),
            other => return Err(format!("unknown option {other:?}")),
        }
    }
    let begun_s = uptime_s();
    let tally = Tally {
        begun_s,
        shown_at: 0,
        seeds: 0,
        commands: 0,
        faults: 0,
        attempts: 0,
        failed: 0,
        worst: exit::FINE,
    };
    let tally = Mutex::new(tally);
    // A panic is told with its seed; the hook's own words would only stand between.
    std::panic::set_hook(Box::new(|_| {}));
    sweep(&wanted, |report| {
        tally.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).count(report, wanted.plant);
    });
    let tally = tally.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    println!("{}", tally.line());
    Ok(ExitCode::from(tally.worst))
}

impl Tally {
    fn count(&mut self, report: &FastReport, plant: Option<FastPlant>) {
        self.seeds += 1;
        self.commands += report.commands;
        self.faults += report.faults;
        self.attempts += report.attempts as u64;
        if let Some(violation) = &report.violation {
            self.failed += 1;
            self.worst = exit::gravest([self.worst, violation.severity as u8]);
            if self.failed <= SHOWN {
                let plant = plant.map_or(String::new(), |plant| format!(" --plant {}", plant.as_str()));
                println!("{}\n  again: stint-sim fast-seed {}{plant}", line(report), report.seed);
            }
        }
        if !self.seeds.is_multiple_of(LOOKS) {
            return;
        }
        let seconds = (uptime_s() - self.begun_s) as u64;
        if seconds >= self.shown_at + PROGRESS_S {
            self.shown_at = seconds;
            println!("{}", self.line());
        }
    }

    fn line(&self) -> String {
        let seconds = uptime_s() - self.begun_s;
        let Tally { seeds, commands, faults, attempts, failed, .. } = self;
        let speed = *seeds as f64 / seconds.max(0.001);
        format!(
            "{seeds} seeds, {failed} bad, {speed:.0} seeds/s in {seconds:.1} s: {commands} commands, {attempts} attempts, {faults} faults"
        )
    }
}

fn line(report: &FastReport) -> String {
    let FastReport { seed, hash, simulated_ms, commands, faults, attempts, finished, .. } = report;
    let verdict = match &report.violation {
        None => "ok".to_owned(),
        Some(violation) => format!("{:?} \"{}\": {}", violation.severity, violation.rule, violation.what),
    };
    format!(
        "fast:{seed} {hash:016x} {simulated_ms} ms, {commands} commands, {faults} faults, {attempts} attempts, {finished} tasks finished: {verdict}"
    )
}

fn value<T: FromStr<Err: ToString>>(word: Option<&String>) -> Result<T, String> {
    let word = word.ok_or("a value is missing")?;
    word.parse().map_err(|e: T::Err| format!("{word:?}: {}", e.to_string()))
}
