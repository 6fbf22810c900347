//! What is to be started: a program, and the container or the jail that it is put into.

use std::ffi::CString;

/// A crun container to be run by the init of the namespace.
#[derive(Debug)]
pub struct Container {
    /// Folder, arguments and environment of `crun create`, and arguments of `crun start`.
    pub create: Vec<CString>,
    pub start: Vec<CString>,
    pub env: Vec<CString>,
    /// Where `crun create` writes the container's process id, as seen from the namespace.
    pub pid_file: CString,
    /// The descriptor at which the container's first process tells why it could not execute the program.
    pub refusals: i32,
    /// What the container's first process waits at; `crun start` takes it away as it lets the program begin.
    pub gate: CString,
    pub overlay: Option<Overlay>,
    /// Laid before crun runs.
    pub mounts: Vec<BindMount>,
}

/// What of the host is laid somewhere for a container.
#[derive(Debug)]
pub struct BindMount {
    /// No part of it may be a link when it is mounted.
    pub source: CString,
    pub place: CString,
    pub writable: bool,
}

/// A layer over a root file system that others use too: mount points are made in it, and go with the attempt.
#[derive(Debug)]
pub struct Overlay {
    /// An empty folder, over which a tmpfs is mounted, and folders to be made in it.
    pub scratch: CString,
    pub folders: [CString; 3],
    /// The last of them, and how it is mounted.
    pub options: CString,
}

/// What a program without a container is shut into: the host's files, all read-only, with a few places of its own.
#[derive(Debug)]
pub struct Jail {
    /// Options of the file systems at `/tmp` and `/dev/shm`.
    pub tmp: CString,
    pub shm: CString,
    /// An executable image, to be seen as `/tmp/binary`.
    pub binary: Option<CString>,
    /// A folder with its secrets, to be seen as `/tmp/secrets`.
    pub secrets: Option<CString>,
    pub shown: Vec<VisiblePath>,
    /// Device files that it must not open.
    pub hidden: Vec<CString>,
    /// User and group that it runs as; none: those of the watchdog.
    pub user: Option<(u32, u32)>,
    /// Further groups of that user.
    pub groups: Vec<u32>,
    /// Open files: at first and at most.
    pub open_files: (u64, u64),
}

/// A folder or file of the host that is seen as it is, and the folders above it that may have to be made in `/tmp`.
#[derive(Debug)]
pub struct VisiblePath {
    pub path: CString,
    pub above: Vec<CString>,
    pub access: Access,
    /// Else a file.
    pub folder: bool,
}

/// What of it a program may do there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Write; links in its path are followed, as the operator named it.
    Operators,
    /// Write; a task named it, so no part of the path may be a link.
    Write,
    /// The same, for reading only.
    Read,
}

/// Folders of `executor.process.writable` at most.
pub const WRITABLE: usize = 16;
/// What is shown at most, with what a task mounts: their descriptors lie on the init's stack.
pub const SHOWN: usize = WRITABLE + stint_protocol::limits::MOUNTS;
/// The work folder of a program in a jail.
pub const JAIL_WORK: &str = "/tmp/work";
/// Its secrets.
pub const JAIL_SECRETS: &str = "/tmp/secrets";
/// An executable image in a jail.
pub const JAIL_BINARY: &str = "/tmp/binary";

/// One program, ready to be started.
#[derive(Debug)]
pub struct Program {
    pub folder: CString,
    pub work: CString,
    /// Folders below it to be made, outermost first.
    pub made: Vec<CString>,
    /// Where it starts, when that is not its work folder; a container's is its own affair.
    pub starts_in: Option<CString>,
    /// Files for its output, which it never sees.
    pub stdout: CString,
    pub stderr: CString,
    /// Paths to try in order, as a search in `PATH` gives them.
    pub candidates: Vec<CString>,
    pub arguments: Vec<CString>,
    pub environment: Vec<CString>,
    /// `cgroup.procs` files to enter.
    pub cgroups: Vec<CString>,
    pub container: Option<Container>,
    pub jail: Option<Jail>,
    /// User and group that get the work folder and the pipes for output.
    pub owner: Option<(u32, u32)>,
    /// Nothing but a loopback of its own. Only with namespaces.
    pub own_network: bool,
    /// What its init sends it when it is to end.
    pub stop_signal: i32,
}
