//! Every bound of the bridge, with its unit and its reason.

/// How often an answer of `sbatch` that got lost is followed by another try, when Slurm shows no job of the attempt.
pub const SUBMITS: u32 = 5;
/// Bytes read of a file that a job wrote: one line.
pub const LINE_BYTES: usize = 256;
/// Bytes kept of what a command of Slurm says.
pub const MESSAGE_BYTES: usize = 1_000;
/// Bytes read of what one command of Slurm prints: some hundred thousand jobs.
pub const OUTPUT_BYTES: usize = 64 << 20;
/// Calls to Slurm under way at a time: sites ask their users not to flood the controller.
pub const CALLS: usize = 4;
/// Reads and writes of the shared folder under way at a time: each takes a thread, for as long as the folder hangs.
pub const FILES: usize = 16;
/// The clocks of this node and of Slurm's drift apart by at most this part of the elapsed time: as those of two peers.
pub const CLOCK_DRIFT_PERCENT: u64 = 1;
/// Ended attempts whose numbers are remembered after their end is recorded.
pub const PAST: usize = 10_000;
