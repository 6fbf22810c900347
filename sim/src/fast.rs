//! The fast layer: the product's pure parts (state machine, planner, the leader's and a report's steps, the agent's
//! decisions, the watchdog's core) over an abstract log, with no task, thread or socket; hundreds of seeds a second in one
//! process.
//!
//! What is abstract stands for Raft as the lease rules rely on it (docs/internals/leases.md#the-logs-side): a committed
//! entry stays, every new leader has each, a deposed leader's last entry is kept or lost, and only a quorum can say who
//! leads. The full layer (`world`) tests that promise itself.

mod checkers;
mod clients;
mod clock;
mod crowd;
mod election;
mod event;
mod faults;
mod host;
mod host_model;
mod image_clients;
mod leader;
mod log;
mod machine;
mod network;
mod oracle;
mod plant;
mod process;
mod queue;
mod sessions;
mod settings;
mod shape;
mod sweep;
mod trace;
mod workflows;
mod world;

pub use crowd::has_crowd;
pub use plant::FastPlant;
pub use sweep::{Sweep, run_caught, sweep};

use crate::oracle::Violation;
use world::World;

/// What came of a seed.
pub struct FastReport {
    pub seed: u64,
    pub violation: Option<Violation>,
    /// Equal for equal traces.
    pub hash: u64,
    /// Empty unless it was asked for.
    pub trace: String,
    pub simulated_ms: u64,
    pub commands: u64,
    pub faults: u64,
    pub attempts: usize,
    pub finished: usize,
    /// Tasks that waited at once, at most.
    pub most_waiting: usize,
}

/// Runs one seed to its end. Knows nothing but its arguments.
pub fn run_fast(seed: u64, plant: Option<FastPlant>, keep_trace: bool) -> FastReport {
    plant::plant_in_product(plant);
    let mut world = World::new(seed, plant, keep_trace);
    world.live();
    plant::plant_in_product(None);
    let (attempts, finished) = world.oracle.counts();
    FastReport {
        seed,
        violation: world.oracle.violation.clone(),
        hash: world.oracle.trace.hash(),
        simulated_ms: world.now,
        commands: world.log.commands,
        faults: world.trouble.faults,
        attempts,
        finished,
        most_waiting: world.most_waiting,
        trace: world.oracle.trace.into_text(),
    }
}
