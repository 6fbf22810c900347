//! The Docker runtime. The node asks and sweeps ([`watch`]); each attempt has a *monitor*, a child of the watchdog, that
//! pulls, creates, starts, follows and removes its one container. Containers belong to the daemon, so nothing of them
//! dies with us by itself. What ends them in time:
//!
//! * the watchdog holds a handle on the container's first process and kills by it, without asking the daemon;
//! * the monitor is told by the kernel when the watchdog dies, and kills likewise;
//! * what both left behind is removed by the next watchdog, and what nobody accounts for by the node's sweep.

mod begun;
mod container;
pub mod credentials;
pub mod credentials_watch;
pub mod engine;
mod init_report;
mod logs;
mod monitor;
pub mod pull;
mod refusal;
pub mod runtime;
mod settle;
mod stop_level;
mod verdict;
pub mod watch;
mod watchdog_side;

use stint_protocol::LeaseId;

use crate::shim_api::layout::folder_name;

pub use watchdog_side::MODES;

/// The name of an attempt's container.
pub fn container_name(lease: LeaseId) -> String {
    format!("stint-{}", folder_name(lease))
}

/// Whether a process is in a container, as its cgroups say.
fn belongs(pid: i32, container: &str) -> bool {
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    container.len() >= 12 && cgroups.contains(container)
}

/// The label that says which executor (its folder) a container belongs to.
pub const LABEL_EXECUTOR: &str = "stint.executor";
/// The label with the task's tenant.
pub const LABEL_TENANT: &str = "stint.tenant";
/// The label with the task's class.
pub const LABEL_CLASS: &str = "stint.class";
/// The label with the attempt, as its folder is named.
pub const LABEL_LEASE: &str = "stint.lease";
