//! The commands of `stint-sim`, one a file.

pub mod campaign;
pub mod child;
pub mod exit;
pub mod explain;
pub mod failure;
pub mod hints;
pub mod library;
pub mod page;
pub mod progress;
pub mod real;
pub mod recorded_event;
pub mod regressions;
pub mod replay;
pub mod run;
pub mod run_context;
pub mod scenarios;
pub mod seed;
pub mod shrink;
pub mod state;
pub mod stopwatch;
pub mod timeline;
pub mod twice;

/// What a command did: the exit code, or why it failed.
pub type Done = Result<u8, failure::Failure>;
