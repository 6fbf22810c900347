//! `stint-sim`: simulates seeds, each in a process of its own. The exit codes stand in `command/exit.rs` and in --help.

mod args;
mod command;
mod fast_commands;
mod system_random;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::command::{Done, exit, explain, regressions, replay, run, scenarios, seed, shrink, twice};

/// The fast layer takes a sixth less time with it.
#[global_allocator]
static ALLOCATOR: stint_executor::MiMalloc = stint_executor::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(code) = fast_commands::carry_out(&args) {
        return code;
    }
    // Before anything else takes chance from the system: all of a simulated process comes from its seed.
    seed::take_over_chance(std::env::args().skip(1));
    match dispatch(Cli::parse().command) {
        Ok(code) => ExitCode::from(code),
        Err(failure) if failure.is_closed_pipe() => ExitCode::from(exit::CLOSED_PIPE),
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(command: Command) -> Done {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Replay(args) => replay::run(args),
        Command::Twice(args) => twice::run(args),
        Command::Shrink(args) => shrink::run(&args),
        Command::Explain(args) => explain::run(args),
        Command::Scenarios(args) => scenarios::run(&args),
        Command::Regressions(args) => regressions::run(&args),
        Command::Seed(args) => seed::run(&args),
    }
}
