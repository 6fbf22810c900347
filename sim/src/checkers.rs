//! The properties that are checked, one a file. Each is told what happens and answers what is wrong with it.

mod answers;
pub mod bounded;
pub mod deadlines;
mod fencing;
mod honest_outcome;
mod kept;
mod log_matching;
mod no_overcommit;
mod one_attempt;
mod one_holder;
mod one_leader;
mod released;
mod same_state;
mod time_keeps;
mod versions;

pub use answers::{Answers, Floor};
pub use fencing::Fencing;
pub use honest_outcome::HonestOutcome;
pub use kept::Kept;
pub use log_matching::LogMatching;
pub use no_overcommit::NoOvercommit;
pub use one_attempt::OneAttempt;
pub use one_holder::OneHolder;
pub use one_leader::OneLeader;
pub use released::Released;
pub use same_state::SameState;
pub use time_keeps::TimeKeeps;
pub use versions::Versions;
