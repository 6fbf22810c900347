//! `stint sim`: hands everything to the program `stint-sim`, which lies beside this one. The simulator is a program of
//! its own: it replaces the clock and the chance of its whole process.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::Done;
use crate::failure::Failure;

const PROGRAM: &str = "stint-sim";

#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub struct SimArgs {
    /// What `stint-sim` is told; `stint sim --help` shows what it knows
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    pub args: Vec<OsString>,
}

/// Becomes the simulator; comes back only when it cannot be started.
pub fn run(args: &[OsString]) -> Done {
    let beside = beside();
    let program = beside.clone().filter(|path| path.is_file()).unwrap_or_else(|| PROGRAM.into());
    // The name by which it tells its users what to do next.
    let called = std::env::args().next().unwrap_or_else(|| "stint".into());
    let error = Command::new(&program).arg0(format!("{called} sim")).args(args).exec();
    let at = beside.as_deref().and_then(|path| path.parent()).map(|folder| folder.display().to_string());
    Err(match error.kind() {
        ErrorKind::NotFound => Failure::Failed(format!(
            "the simulator {PROGRAM} is neither in {} nor in PATH\n\
             build it with: cargo build --profile dist -p stint-sim\n\
             and put target/dist/{PROGRAM} beside stint, or into a folder of PATH",
            at.unwrap_or_else(|| "the folder of stint".into())
        )),
        _ => Failure::Failed(format!("cannot start the simulator {}: {error}", program.display())),
    })
}

/// Where it is when both were built or installed together.
fn beside() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.join(PROGRAM))
}
