//! Hands attempts to Slurm: an execution host whose machine is a Slurm cluster ([`Bridge`]). Knows no scheduling.
//!
//! Slurm is asked and used, and never trusted with a promise of ours: its controller forgets jobs, starts them again
//! after a crash, and answers late or not at all. What keeps two attempts of a task apart is the attempt's lease, which
//! the job itself holds: it asks for time by a file, runs its program only while it was given some, and ends it in time
//! by its own clock ([`script`]). So
//!
//! * a job that nobody knows of any more (a lost answer to `sbatch`, a node that is gone) never begins its program;
//! * one that runs and is no longer given time has ended when what it was given is over, whatever Slurm says;
//! * one that Slurm forgot goes on, and leaves its exit code in its folder.
//!
//! | module | |
//! |---|---|
//! | [`controller`] | what to do when, pure: time and answers are handed in, the simulator runs the same code |
//! | [`doors`] | the two doors: Slurm, and the folder that its nodes share with this one |
//! | [`state`] | Slurm's words for how jobs are and how they end |
//! | [`host`] | the controller as a `Host` beside the local one |
//! | [`command`], [`job_dir`], [`script`] | the real doors: the command line, files, and what runs on Slurm's nodes |

pub mod command;
pub mod controller;
#[cfg(any(test, feature = "fuzzing"))]
pub mod decoders;
pub mod doors;
pub mod host;
mod job;
pub mod job_dir;
pub mod limits;
pub mod mutations;
pub mod script;
pub mod state;

pub use host::{Bridge, Doors};
