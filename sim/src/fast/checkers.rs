//! The properties of the fast layer, one a file. Each is told what happens and answers what is wrong with it.

mod alone;
mod bounds;
mod deadlines;
mod endings;
mod in_force;
mod outcomes;
mod promises;
mod replicas;
mod room;
mod stamps;
mod touched;

pub use alone::alone;
pub use bounds::Bounds;
pub use deadlines::Deadlines;
pub use endings::{Endings, ending_of};
pub use in_force::InForce;
pub use outcomes::Outcomes;
pub use promises::Promises;
pub use replicas::Replicas;
pub use room::Room;
pub use stamps::Stamps;
pub use touched::touched;
