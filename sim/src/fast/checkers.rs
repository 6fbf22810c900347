//! The properties of the fast layer, one a file. Each is told what happens and answers what is wrong with it.

mod acked_checkpoints;
mod alone;
mod bounds;
mod deadlines;
mod endings;
mod in_force;
mod instance_fencing;
mod one_end;
mod outcomes;
mod promises;
mod replicas;
mod room;
mod signals;
mod stamps;
mod steps;
mod touched;
mod wakes;

pub use acked_checkpoints::AckedCheckpoints;
pub use alone::alone;
pub use bounds::Bounds;
pub use deadlines::Deadlines;
pub use endings::{Endings, ending_of};
pub use in_force::InForce;
pub use instance_fencing::InstanceFencing;
pub use one_end::OneEnd;
pub use outcomes::Outcomes;
pub use promises::Promises;
pub use replicas::Replicas;
pub use room::Room;
pub use signals::Signals;
pub use stamps::Stamps;
pub use steps::Steps;
pub use touched::touched;
pub use wakes::Wakes;

use stint_scheduler::{InstanceChange, InstanceCommand, State};

/// A command about a workflow instance that is in the log.
pub struct Committed<'a> {
    pub command: &'a InstanceCommand,
    /// What it changed of the instance; none: it was refused.
    pub changes: Option<&'a [InstanceChange]>,
    /// With its whole entry.
    pub state: &'a State,
}
