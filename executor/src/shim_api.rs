//! What node and watchdog share: where their files are, and what they say to each other. Both import it; it imports
//! neither.

pub mod layout;
pub mod wire;
