//! The properties that are checked, one a file. Each is told what happens and answers what is wrong with it.

mod kept;
mod one_attempt;
mod one_holder;
mod one_leader;
mod same_state;

pub use kept::Kept;
pub use one_attempt::OneAttempt;
pub use one_holder::OneHolder;
pub use one_leader::OneLeader;
pub use same_state::SameState;
