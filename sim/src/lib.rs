//! Simulates a whole cluster in one process: real nodes, real openraft, real quinn, on virtual time, a virtual network,
//! disks and machines that fail by a seed; checkers watch from outside. One process a seed (see `main`): ids of tokio's
//! tasks are counted by process.

mod checkers;
mod clock;
mod cluster;
mod disk;
mod disk_faults;
mod event;
mod fast;
mod faults;
mod front;
pub mod guard;
mod host;
mod identity;
mod machine;
mod membership;
mod network;
mod offer;
mod operator;
mod oracle;
mod panics;
mod peer;
mod plant;
mod process;
mod program;
mod recorded;
mod rng;
mod rules;
pub mod scenario;
mod slurm;
mod trace;
mod validate;
mod workload;
mod world;

pub use event::{Event, FaultId};
pub use fast::{FastPlant, FastReport, Sweep, has_crowd, run_caught, run_fast, sweep};
pub use faults::kinds as fault_kinds;
pub use oracle::{Severity, Violation};
pub use plant::Plant;
pub use recorded::{RecordedEnd, RecordedTask};
pub use rules::{ClusterRules, Pace, Place};
pub use scenario::Scenario;
pub use slurm::SLURM;
pub use trace::Trace;
pub use workload::REQUESTS as REQUEST_KINDS;
pub use world::{Report, Run, run};
