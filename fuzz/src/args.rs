//! What the task file of the command line needs of its arguments.

pub const DEFAULT_TENANT: &str = "default";
