//! Many seeds, each in a process of its own.

use std::process::{Command, ExitCode, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use stint_sim::Plant;

use crate::args::{RunArgs, SeedArgs};

/// Two runs of one seed gave different bytes.
const NOT_DETERMINISTIC: u8 = 12;
/// A process that ended in no way of its own.
const CRASH: u8 = 13;

/// Simulates the seed twice and compares what both printed.
pub fn twice(args: &SeedArgs) -> ExitCode {
    let both: Vec<Output> = (0..2).filter_map(|_| child(args.seed, args.plant, false)).collect();
    let [one, two] = &both[..] else { return ExitCode::from(CRASH) };
    print!("{}", last_line(one));
    if one.stdout == two.stdout {
        println!("twice the same {} bytes", one.stdout.len());
        return ExitCode::from(code(one));
    }
    let (one, two) = (String::from_utf8_lossy(&one.stdout), String::from_utf8_lossy(&two.stdout));
    let differs = one.lines().zip(two.lines()).enumerate().find(|(_, (a, b))| a != b);
    match differs {
        Some((line, (a, b))) => println!("NOT DETERMINISTIC at line {}:\n  {a}\n  {b}", line + 1),
        None => println!("NOT DETERMINISTIC: one trace is longer"),
    }
    ExitCode::from(NOT_DETERMINISTIC)
}

/// Simulates seeds side by side; the first bad exit code is the answer.
pub fn run(args: &RunArgs) -> ExitCode {
    let next = AtomicU64::new(args.from);
    let worst = Mutex::new((0, 0));
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= args.from + args.seeds {
                        return;
                    }
                    let code = one(seed, args.plant);
                    let mut worst = worst.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    if code != 0 {
                        *worst = (if worst.0 == 0 { code } else { worst.0 }, worst.1 + 1);
                    }
                }
            });
        }
    });
    let (code, bad) = *worst.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    println!("{} seeds, {bad} bad", args.seeds);
    ExitCode::from(code)
}

fn one(seed: u64, plant: Option<Plant>) -> u8 {
    let Some(output) = child(seed, plant, true) else { return CRASH };
    print!("{}", last_line(&output));
    code(&output)
}

fn child(seed: u64, plant: Option<Plant>, quiet: bool) -> Option<Output> {
    let program = std::env::current_exe().ok()?;
    let mut command = Command::new(program);
    command.args(["seed", &seed.to_string()]);
    if let Some(plant) = plant {
        command.args(["--plant", plant.as_str()]);
    }
    if quiet {
        command.arg("--quiet");
    }
    match command.output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("seed {seed} cannot be started: {error}");
            None
        }
    }
}

fn code(output: &Output) -> u8 {
    output.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(CRASH)
}

fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().last() {
        Some(line) => format!("{line}\n"),
        None => format!("{:?}: {}\n", output.status, String::from_utf8_lossy(&output.stderr)),
    }
}
