//! The `stint` command: starts a peer, and speaks to a cluster through the native API.

// What others named must not steer a terminal: `output` is the way out.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod commands;
mod connect;
#[cfg(test)]
mod decoders;
mod demo;
mod draft;
mod failure;
mod files;
mod join_token;
mod key_flags;
mod logs;
mod output;
mod script;
mod signals;
mod spool;
mod table;
mod task_file;
mod text;
mod view;

use std::process::ExitCode;

use crate::args::Command;
use crate::failure::Failure;

/// A node's and a watchdog's differ (docs/decisions/0008-allocator.md).
#[global_allocator]
static ALLOCATOR: stint_executor::Allocator = stint_executor::Allocator;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        // The watchdog is this binary too; it must start before any thread, runtime or parser exists.
        Some(word) if word == "shim" => return stint_executor::shim::main(args),
        // Every word behind `sim` is the simulator's own, also those that mean something here.
        Some(word) if word == "sim" => return exit(commands::sim::run(&args.collect::<Vec<_>>()), false),
        _ => {}
    }
    let cli = match args::parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(code) => return ExitCode::from(code),
    };
    let is_run = matches!(cli.command, Command::Run(_));
    exit(commands::dispatch(cli), is_run)
}

/// The exit code of what was done.
fn exit(done: Done, is_run: bool) -> ExitCode {
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print();
            ExitCode::from(if is_run { failure.exit_code_of_run() } else { failure.exit_code() })
        }
    }
}

/// What a command did: the exit code, or why it failed.
pub(crate) type Done = Result<u8, Failure>;
