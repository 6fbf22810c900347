//! The `stint` command: starts a peer, and speaks to a cluster through the native API.

mod args;
mod commands;
mod connect;
mod demo;
mod draft;
mod failure;
mod output;
mod table;
mod task_file;
mod view;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::failure::Failure;

fn main() -> ExitCode {
    // The watchdog is this binary too; it must start before any thread, runtime or parser exists.
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == "shim") {
        return stint_executor::shim::main(words);
    }
    let cli = Cli::parse();
    let is_run = matches!(cli.command, Command::Run(_));
    match commands::dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            ExitCode::from(if is_run { failure.exit_code_of_run() } else { failure.exit_code() })
        }
    }
}

/// What a command did: the exit code, or why it failed.
pub(crate) type Done = Result<u8, Failure>;
