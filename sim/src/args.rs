//! The command line. What each command does stands in its file under `command/`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use stint_sdk::units;
use stint_sim::{FaultId, Plant};

const AFTER: &str = "\
Exit codes:
  0    no rule was broken
  1    a file cannot be read or written, or a process cannot be started
  2    the command line, a file or a name cannot be understood
  10   safety: something happened that never may
  11   liveness: something that must happen did not
  12   two runs of one seed gave different bytes
  13   crash: a panic, or a peer that gave up
  141  whoever reads the output closed it, as `head` does
  `run` and `regressions` exit with the gravest of their seeds: 10, then 13, 12, 11.

Examples:
  stint-sim run --seeds 1000 --for 10m         a thousand seeds of everything at once, ten minutes at most
  stint-sim run leader-cut-with-worker         another scenario; `stint-sim scenarios` lists them
  stint-sim run --config stint.toml            clusters with the settings of a node's file
  stint-sim explain 302 --html 302.html        what happened in a seed, as a page
  stint-sim shrink 302                         the fewest faults that still break the same rule";

/// Simulates whole clusters from seeds: real nodes on virtual time, with machines, links, disks and clocks that fail.
#[derive(Parser, Debug)]
#[command(name = "stint-sim", version, after_help = AFTER, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Simulate many seeds, each in a process of its own
    Run(RunArgs),
    /// Simulate one seed and print everything that happened
    Replay(ReplayArgs),
    /// Simulate one seed in two processes and compare what they print, byte for byte
    Twice(TwiceArgs),
    /// Find the fewest faults of a seed that still break the same rule
    Shrink(ShrinkArgs),
    /// Tell what happened in a seed: a timeline here, and a page with --html
    Explain(ExplainArgs),
    /// List the scenarios, or show one
    Scenarios(ScenariosArgs),
    /// Simulate every seed that once broke a rule
    Regressions(RegressionsArgs),
    /// One seed in this process: what the other commands start
    #[command(hide = true)]
    Seed(SeedArgs),
}

/// Which world, and what is wrong with it.
#[derive(Args, Clone, Debug)]
pub struct WorldArgs {
    /// A scenario's name (`stint-sim scenarios`) or its TOML file
    #[arg(value_name = "SCENARIO", default_value = "mixed-chaos")]
    pub scenario: String,
    /// Plant a wrong behaviour, which a checker must catch
    #[arg(long, value_name = "NAME", value_parser = plant)]
    pub plant: Option<Plant>,
}

#[derive(Args, Clone, Debug)]
pub struct SeedArgs {
    pub seed: u64,
    #[command(flatten)]
    pub world: WorldArgs,
    /// Leave out every fault but these (lane:number, ...), or `none` for no fault at all
    #[arg(long, value_name = "FAULTS", value_parser = only)]
    pub only: Option<Only>,
    /// Events as JSON lines; the result is the last line
    #[arg(long)]
    pub json: bool,
    /// The result alone
    #[arg(long)]
    pub quiet: bool,
}

#[derive(Args, Debug)]
pub struct ReplayArgs {
    pub seed: u64,
    #[command(flatten)]
    pub world: WorldArgs,
    /// Leave out every fault but these, such as links:3,machines:1; `none` leaves out all
    #[arg(long, value_name = "FAULTS", value_parser = only)]
    pub only: Option<Only>,
    /// Events as JSON lines; the result is the last line
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct TwiceArgs {
    pub seed: u64,
    #[command(flatten)]
    pub world: WorldArgs,
}

#[derive(Args, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    pub world: WorldArgs,
    /// How many seeds
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// The first seed
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub from: u64,
    /// Processes side by side [default: one for each core]
    #[arg(long, value_name = "N", value_parser = jobs)]
    pub jobs: Option<usize>,
    /// Start no seed after this time, such as 10m
    #[arg(long = "for", value_name = "TIME", value_parser = units::parse_duration)]
    pub at_most: Option<Duration>,
    /// Keep count in this file; when it exists, go on where it stopped
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Of a hundred seeds, how many are simulated twice and compared byte for byte
    #[arg(long, value_name = "PERCENT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub twice_percent: u64,
    /// Start no further seed after the first bad one
    #[arg(long)]
    pub stop_at_first: bool,
    /// Settings of a real cluster: a node's configuration file; once for all nodes, or once for each
    #[arg(long, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Tasks to play at their recorded times: JSON lines, see docs/using/simulation.md
    #[arg(long, value_name = "FILE")]
    pub workload: Option<PathBuf>,
    /// Play the recorded tasks this many times faster
    #[arg(long, value_name = "TIMES", default_value_t = 1.0, requires = "workload", value_parser = speedup)]
    pub speedup: f64,
    /// Where the scenario made of --config and --workload is written [default: simulated.toml]
    #[arg(long, value_name = "FILE")]
    pub save_scenario: Option<PathBuf>,
    /// How the summary is shown
    #[arg(long, short = 'o', value_enum, default_value_t)]
    pub output: Format,
}

#[derive(Args, Debug)]
pub struct ShrinkArgs {
    pub seed: u64,
    #[command(flatten)]
    pub world: WorldArgs,
    /// Processes side by side [default: one for each core]
    #[arg(long, value_name = "N", value_parser = jobs)]
    pub jobs: Option<usize>,
    /// Simulations at most
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub tries: u64,
    /// Start no simulation after this time
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = units::parse_duration)]
    pub at_most: Duration,
    /// Where a scenario with a shorter time of trouble is written, if one is found [default: shrunk-SEED.toml]
    #[arg(long, value_name = "FILE")]
    pub save_scenario: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct ExplainArgs {
    pub seed: u64,
    #[command(flatten)]
    pub world: WorldArgs,
    /// Leave out every fault but these, such as links:3,machines:1; `none` leaves out all
    #[arg(long, value_name = "FAULTS", value_parser = only)]
    pub only: Option<Only>,
    /// Write a page that needs nothing else: open it in a browser
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct ScenariosArgs {
    #[command(subcommand)]
    pub command: Option<ScenariosCommand>,
}

#[derive(Subcommand, Debug)]
pub enum ScenariosCommand {
    /// Print a scenario as TOML: the beginning of one of your own
    Show { name: String },
}

#[derive(Args, Debug)]
pub struct RegressionsArgs {
    /// Processes side by side [default: one for each core]
    #[arg(long, value_name = "N", value_parser = jobs)]
    pub jobs: Option<usize>,
}

/// How data is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For programs: one object; fields are only added
    Json,
}

/// Faults to keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Only(pub Vec<FaultId>);

impl std::fmt::Display for Only {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let names: Vec<String> = self.0.iter().map(FaultId::to_string).collect();
        f.write_str(&names.join(","))
    }
}

/// Processes side by side when nobody says.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn plant(word: &str) -> Result<Plant, String> {
    let known = || Plant::ALL.iter().map(|plant| plant.as_str());
    word.parse().map_err(|error| format!("{error}{}", stint_sdk::suggest::hint(word, known())))
}

fn only(names: &str) -> Result<Only, String> {
    if names == "none" {
        return Ok(Only::default());
    }
    names.split(',').map(|word| word.trim().parse()).collect::<Result<_, _>>().map(Only)
}

fn jobs(word: &str) -> Result<usize, String> {
    match word.parse() {
        Ok(jobs @ 1..=1024) => Ok(jobs),
        _ => Err("write a number from 1 to 1024".into()),
    }
}

fn speedup(word: &str) -> Result<f64, String> {
    match word.parse() {
        Ok(times) if (0.001..=10_000.0).contains(&times) => Ok(times),
        _ => Err("write a number from 0.001 to 10000".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn faults_are_read_as_they_are_written() {
        for names in ["links:3,machines:1", "none"] {
            assert_eq!(only(names).unwrap().to_string(), names);
        }
        assert!(only("links").unwrap_err().contains("lane:number"));
    }

    #[test]
    fn a_mistyped_plant_is_answered_with_the_right_one() {
        assert!(plant("late_kil").unwrap_err().contains("late_kill"));
    }
}
