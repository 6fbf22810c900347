//! The command line.

use std::str::FromStr;

use stint_sim::Plant;

pub const USAGE: &str = "usage:
  stint-sim seed S [--quiet] [--plant P]           simulate one seed, print its trace and hash
  stint-sim twice S [--plant P]                    simulate it in two processes and compare the bytes
  stint-sim run --seeds N [--from S] [--jobs J] [--plant P]
plants: late_kill, lying_disk, leader_restore, false_account, slow_clock";

/// What to do.
pub enum Args {
    Seed(SeedArgs),
    Twice(SeedArgs),
    Run(RunArgs),
}

/// One seed.
pub struct SeedArgs {
    pub seed: u64,
    pub quiet: bool,
    pub plant: Option<Plant>,
}

/// Many seeds.
pub struct RunArgs {
    pub seeds: u64,
    pub from: u64,
    pub jobs: usize,
    pub plant: Option<Plant>,
}

/// Reads the words after the program's name.
pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Args, String> {
    let command = words.next().ok_or("what should be done?")?;
    match command.as_str() {
        "seed" => seed(words).map(Args::Seed),
        "twice" => seed(words).map(Args::Twice),
        "run" => run(words).map(Args::Run),
        other => Err(format!("unknown command {other:?}")),
    }
}

fn seed(mut words: impl Iterator<Item = String>) -> Result<SeedArgs, String> {
    let mut args = SeedArgs { seed: value(words.next())?, quiet: false, plant: None };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quiet" => args.quiet = true,
            "--plant" => args.plant = Some(value(words.next())?),
            other => return Err(format!("unknown option {other:?}")),
        }
    }
    Ok(args)
}

fn run(mut words: impl Iterator<Item = String>) -> Result<RunArgs, String> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut args = RunArgs { seeds: 10, from: 0, jobs, plant: None };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seeds" => args.seeds = value(words.next())?,
            "--from" => args.from = value(words.next())?,
            "--jobs" => args.jobs = value(words.next())?,
            "--plant" => args.plant = Some(value(words.next())?),
            other => return Err(format!("unknown option {other:?}")),
        }
    }
    Ok(args)
}

fn value<T: FromStr<Err: ToString>>(word: Option<String>) -> Result<T, String> {
    let word = word.ok_or("a value is missing")?;
    word.parse().map_err(|e: T::Err| format!("{word:?}: {}", e.to_string()))
}
