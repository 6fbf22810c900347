//! The watchdog process (`stint shim`): one small process for each node. It spawns the attempts, holds their deadlines,
//! keeps their output and kills what was not renewed, whether its node lives, hangs or is gone. No network. One thread does
//! everything; a second one moves output into files, so that no disk makes the first one late. The first one makes all children and
//! lives as long as the process: what a child gets when its parent dies, it gets when the thread dies that made it.
//!
//! It survives its node (own session). When it is killed itself, every attempt dies with it: the init of each pid
//! namespace has `PDEATHSIG = KILL`. The next watchdog reads the journal and reports such attempts as lost after it saw
//! that nothing of them is left.

mod attempts;
mod cgroup;
mod cgroup_pool;
mod container_init;
mod journal;
mod outputs;
mod probe;
mod recover;
mod sandbox_dirs;
mod server;
mod verdict;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use journal::replay as replay_journal;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::log::log;
use crate::shim_api::ALREADY_RUNNING;
use crate::shim_api::layout::Layout;
use crate::{limits, sys};

/// What the watchdog is told on its command line.
#[derive(Debug)]
struct Options {
    data_dir: PathBuf,
    idle_ms: u64,
}

/// Entry point of `stint shim --data-dir DIR [--idle-ms N]`. Call it before anything starts a thread.
/// The calling process returns when the watchdog listens; the watchdog itself goes on in the background.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let options = match parse(args) {
        Ok(options) => options,
        Err(message) => {
            talk(format_args!("{message}\nusage: stint shim --data-dir DIR [--idle-ms N]"));
            return ExitCode::from(2);
        }
    };
    match launch(&options) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            talk(format_args!("{e}"));
            ExitCode::FAILURE
        }
    }
}

/// To whoever called it: its own log is not open yet.
fn talk(message: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "stint shim: {message}");
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Options, String> {
    let mut args = args.into_iter();
    let (mut data_dir, mut idle_ms) = (None, limits::SHIM_IDLE_MS);
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{} needs a value", flag.display()));
        match flag.to_str() {
            Some("--data-dir") => data_dir = Some(PathBuf::from(value()?)),
            Some("--idle-ms") => {
                let text = value()?;
                let number = text.to_str().and_then(|t| t.parse().ok());
                idle_ms = number.ok_or_else(|| format!("--idle-ms {} is not a number", text.display()))?;
            }
            _ => return Err(format!("unknown argument {}", flag.display())),
        }
    }
    Ok(Options { data_dir: data_dir.ok_or("--data-dir is missing")?, idle_ms })
}

/// Forks the watchdog off and waits until it listens. Gives the exit code of the caller.
fn launch(options: &Options) -> io::Result<u8> {
    sys::reset_signals();
    sys::set_umask(limits::UMASK);
    // An attempt takes up to five: a handle, two pipes, two files.
    sys::raise_open_files();
    let layout = Layout::new(&std::path::absolute(&options.data_dir)?);
    for folder in layout.folders() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let (mut ready, ready_writer) = io::pipe()?;
    match sys::fork()? {
        sys::Fork::Parent(_) => {
            drop(ready_writer);
            let mut answer = [0u8; 1];
            match ready.read(&mut answer)? {
                1 => Ok(answer[0]),
                _ => Err(io::Error::other(format!(
                    "it ended while starting; see {}",
                    layout.shim_log().display()
                ))),
            }
        }
        sys::Fork::Child => {
            drop(ready);
            sys::new_session();
            let code = i32::from(serve(&layout, options.idle_ms, ready_writer).is_err());
            sys::exit_now(code)
        }
    }
}

/// The life of the watchdog. Errors are written to its log.
fn serve(layout: &Layout, idle_ms: u64, mut ready_writer: io::PipeWriter) -> io::Result<()> {
    let lock = OpenOptions::new().create(true).truncate(false).write(true).read(true).open(layout.lock())?;
    if !sys::lock_for_process(&lock)? {
        return ready_writer.write_all(&[ALREADY_RUNNING]);
    }
    leave_terminal(layout)?;
    if let Err(e) = container_init::install(layout) {
        log!(Watchdog, "containers will not start: writing {}: {e}", layout.container_init().display());
    }
    let result = server::Server::open(layout, idle_ms).and_then(|mut server| {
        ready_writer.write_all(&[0])?;
        drop(ready_writer);
        server.run()
    });
    if let Err(e) = &result {
        log!(Watchdog, "it ends: {e}");
    }
    drop(lock);
    result
}

fn leave_terminal(layout: &Layout) -> io::Result<()> {
    let null = File::open("/dev/null")?;
    let log = OpenOptions::new().create(true).append(true).open(layout.shim_log())?;
    sys::replace_fd(&null, 0)?;
    sys::replace_fd(&log, 1)?;
    sys::replace_fd(&log, 2)?;
    std::env::set_current_dir("/")
}
