//! A scenario from a real cluster: settings of its nodes' files, and a recorded workload.

mod config;
mod workload;

pub use config::take_over;
pub use workload::play;

/// What one seed may last, in milliseconds of simulated time (an hour, less the end).
const LONGEST_MS: u64 = 3_500_000;
