pub mod docker;
pub mod mock;
