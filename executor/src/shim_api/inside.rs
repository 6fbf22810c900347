//! What an attempt finds where, as its program sees it.

/// Marks every process of an attempt: the variable with the path at which what it leaves will be found.
pub const LABEL: &str = "STINT_ATTEMPT_FOLDER";
/// The work folder in a container, where programs start that nobody gave another place.
pub const WORK: &str = "/work";
/// The name of an executable image inside a container.
pub const BINARY: &str = "/binary";
/// The first program of a container (`executor/src/sys/container_init.rs`).
pub const INIT: &str = "/.stint-init";
/// The name of its file on the node.
pub const INIT_FILE: &str = "container-init";
/// Where it says how the task's program ended, when nobody outside would know.
pub const END: &str = "/.stint-end";
/// Where a container finds its secrets.
pub const SECRETS: &str = "/run/secrets";
/// What a program may see of a host that has no image: its system folders.
pub const HOST_FOLDERS: [&str; 8] = ["bin", "etc", "lib", "lib32", "lib64", "opt", "sbin", "usr"];
