//! Where the executor keeps its files under the node's data folder.

use std::path::{Path, PathBuf};

use stint_protocol::{LeaseId, TaskId};

use super::inside::INIT_FILE;

/// The executor's folder `{data_dir}/executor`.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

/// The watchdog's socket inside the executor's folder.
pub const SOCKET: &str = "shim.sock";

impl Layout {
    pub fn new(data_dir: &Path) -> Self {
        Self { root: data_dir.join("executor") }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn socket(&self) -> PathBuf {
        self.root.join(SOCKET)
    }

    /// Locked by the living watchdog.
    pub fn lock(&self) -> PathBuf {
        self.root.join("shim.lock")
    }

    /// What the watchdog complains about.
    pub fn shim_log(&self) -> PathBuf {
        self.root.join("shim.log")
    }

    pub fn journal(&self) -> PathBuf {
        self.root.join("spool/journal")
    }

    /// Says that mock attempts ran, which no restart can account for.
    pub fn mock_mark(&self) -> PathBuf {
        self.root.join("mock-used")
    }

    pub fn attempts(&self) -> PathBuf {
        self.root.join("attempts")
    }

    pub fn attempt(&self, lease: LeaseId) -> PathBuf {
        self.attempts().join(folder_name(lease))
    }

    /// Folders in which attempts run. An attempt that leaves anything takes its folder along to `attempts`; one that
    /// leaves nothing hands it to the next: making files is the slowest part of starting a short program on a disk
    /// that is being synced.
    pub fn sandbox_dirs(&self) -> PathBuf {
        self.root.join("homes")
    }

    pub fn sandbox_dir(&self, number: u32) -> PathBuf {
        self.sandbox_dirs().join(number.to_string())
    }

    /// State of crun.
    pub fn crun_state(&self) -> PathBuf {
        self.root.join("crun")
    }

    /// The first program of containers, which they mount.
    pub fn container_init(&self) -> PathBuf {
        self.root.join(INIT_FILE)
    }

    /// Folders that an image wants to be written in, by their number.
    pub fn volume(&self, lease: LeaseId, number: usize) -> PathBuf {
        self.attempt(lease).join("volumes").join(number.to_string())
    }

    /// The folder of this node's cgroups, in each hierarchy.
    pub fn cgroup_label(&self) -> String {
        format!("stint-{:08x}", crc32c::crc32c(self.root.as_os_str().as_encoded_bytes()))
    }

    /// Folders to make before the first start.
    pub fn folders(&self) -> [PathBuf; 5] {
        [self.root.clone(), self.root.join("spool"), self.attempts(), self.sandbox_dirs(), self.crun_state()]
    }
}

/// What the name of a sandbox folder's cgroup begins with.
pub const SANDBOX_DIR_CGROUP: &str = "home-";

/// The name of the cgroup of a sandbox folder, which one attempt there hands on to the next. Others have the name of their
/// attempt's folder.
pub fn sandbox_dir_name(sandbox_dir: u32) -> String {
    format!("{SANDBOX_DIR_CGROUP}{sandbox_dir}")
}

/// The name of an attempt's folder: `{task}-{attempt}`.
pub fn folder_name(lease: LeaseId) -> String {
    format!("{}-{}", lease.task, lease.attempt)
}

/// The lease of a folder's name.
pub fn parse_folder_name(name: &str) -> Option<LeaseId> {
    let (task, attempt) = name.rsplit_once('-')?;
    Some(LeaseId { task: task.parse::<TaskId>().ok()?, attempt: attempt.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_read_back() {
        let lease = LeaseId { task: TaskId(0x1234_5678), attempt: 17 };
        assert_eq!(parse_folder_name(&folder_name(lease)), Some(lease));
        assert_eq!(parse_folder_name("lost+found"), None);
    }
}
