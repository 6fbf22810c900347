//! Why an attempt is not launched: how it ends, and what its user has to know. Whoever prepares an attempt answers with
//! one; the attempt then ends so without ever having run.

use stint_protocol::EndKind;
use stint_protocol::limits::clip;

/// What runtimes say when the node is at fault: its disk, its cgroups, its devices, what it has too little of.
const OF_THE_NODE: [&str; 16] = [
    "no space left",
    "quota exceeded",
    "input/output error",
    "read-only file system",
    "too many open files",
    "cannot allocate memory",
    "resource temporarily unavailable",
    "device or resource busy",
    "cgroup",
    "systemd",
    "dbus",
    "device driver",
    "nvidia",
    "failed to create endpoint",
    "network",
    "timed out",
];

/// How a start ended that a runtime refused in these words: the node's fault where they show it, else nobody knows yet.
pub fn blame(message: &str) -> EndKind {
    let said = message.to_lowercase();
    let of_the_node = OF_THE_NODE.iter().any(|part| said.contains(part));
    if of_the_node { EndKind::StartFailed } else { EndKind::StartRefused }
}

/// The same by a number of the kernel.
pub fn blame_errno(number: i32) -> EndKind {
    use libc::{
        EAGAIN, EBUSY, EDQUOT, EIO, EMFILE, ENFILE, ENODEV, ENOMEM, ENOSPC, ENOSYS, EPERM, EROFS, ETIMEDOUT,
    };
    let of_the_node =
        [EAGAIN, EBUSY, EDQUOT, EIO, EMFILE, ENFILE, ENODEV, ENOMEM, ENOSPC, ENOSYS, EPERM, EROFS, ETIMEDOUT];
    if of_the_node.contains(&number) { EndKind::StartFailed } else { EndKind::StartRefused }
}

/// How an attempt ended whose program could not be executed, with this number of the kernel: the same for every runtime.
pub fn not_executed(name: &str, number: i32) -> Refusal {
    let advice = match number {
        libc::ENOENT if name.contains('/') => "no such file where it runs (or its interpreter is missing)",
        libc::ENOENT => "command not found in PATH: give its full path or set PATH in env",
        libc::ENOTDIR => "no such file where it runs",
        libc::EACCES => {
            "permission denied: is the file executable (chmod +x) and its file system not noexec?"
        }
        libc::ENOEXEC => {
            "not a program this machine can run: one for another machine, or a script without a first line such as #!/bin/sh"
        }
        libc::E2BIG => "arguments and environment are too long for the kernel",
        libc::EISDIR | libc::ELOOP | libc::ENAMETOOLONG | libc::EINVAL => "not a program",
        _ => {
            let error = std::io::Error::from_raw_os_error(number);
            return Refusal::new(blame_errno(number), clip(format!("executing {name:?} failed: {error}")));
        }
    };
    Refusal::not_runnable(clip(format!("{name:?}: {advice}")))
}

/// The refusal of a launch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub kind: EndKind,
    pub message: String,
}

impl Refusal {
    pub fn new(kind: EndKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// This node cannot do it now; another one may.
    pub fn start_failed(message: impl Into<String>) -> Self {
        Self::new(EndKind::StartFailed, message)
    }

    /// No node can: the task asks for something impossible.
    pub fn not_runnable(message: impl Into<String>) -> Self {
        Self::new(EndKind::NotRunnable, message)
    }

    /// A rule of this node's operator forbids it.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(EndKind::Denied, message)
    }

    /// Something that the task names is not on this node; another one may have it.
    pub fn files_missing(message: impl Into<String>) -> Self {
        Self::new(EndKind::FilesMissing, message)
    }

    pub fn is_denied(&self) -> bool {
        self.kind == EndKind::Denied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What runtimes said on real machines.
    #[test]
    fn only_what_the_node_shows_to_be_its_own_is_its_fault() {
        let of_the_node = [
            "write /sys/fs/cgroup/stint/memory.max: Device or resource busy",
            "mkdir /var/lib/docker/overlay2/x: no space left on device",
            "could not select device driver \"\" with capabilities: [[gpu]]",
            "open file: Too many open files",
        ];
        for message in of_the_node {
            assert_eq!(blame(message), EndKind::StartFailed, "{message}");
        }
        for message in ["mount `proc` to `proc`: Not a directory", "invalid rootfs", ""] {
            assert_eq!(blame(message), EndKind::StartRefused, "{message}");
        }
        assert_eq!(blame_errno(libc::ENOSPC), EndKind::StartFailed);
        assert_eq!(blame_errno(libc::ENOTDIR), EndKind::StartRefused);
    }
}
