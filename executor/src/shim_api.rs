//! What node and watchdog share: where their files are, what programs find inside, and what the two say to each other.
//! Both import it; it imports neither.

pub mod inside;
pub mod layout;
pub mod request;
pub mod wire;

/// Exit code of a watchdog when another one already serves its folder.
pub const ALREADY_RUNNING: u8 = 3;

/// What is said of an attempt that ended itself.
pub const LEASE_OVER: &str =
    "its lease was over, and neither its node nor its watchdog stopped it: it ended itself";
