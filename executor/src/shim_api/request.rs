//! What the watchdog is told of an attempt that it has to start.

use minicbor::{Decode, Encode};
use stint_protocol::{BootMs, Class, LeaseId, Network, Runtime, TaskName, Tenant};

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Pull {
    /// When the daemon does not have it.
    #[n(0)]
    #[default]
    Missing,
    #[n(1)]
    Never,
    #[n(2)]
    Always,
}

impl Pull {
    pub const ALL: [Pull; 3] = [Pull::Missing, Pull::Never, Pull::Always];

    /// The word users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Pull::Missing => "missing",
            Pull::Never => "never",
            Pull::Always => "always",
        }
    }
}

/// How the watchdog runs an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Mode {
    /// Session and process group only.
    #[n(0)]
    Direct,
    /// Namespaces and cgroup, as far as the host permits.
    #[n(1)]
    Sandboxed,
    /// A crun container.
    #[n(2)]
    Crun,
    /// A container of the Docker daemon.
    #[n(3)]
    Docker,
}

/// What a Docker attempt needs beyond what every one does.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DockerRequest {
    #[n(0)]
    pub socket: String,
    /// Full name, checked against what the node allows.
    #[n(1)]
    pub image: String,
    #[n(2)]
    pub pull: Pull,
    #[n(3)]
    pub network: String,
    #[n(4)]
    pub user: u32,
    #[n(5)]
    pub group: u32,
    #[n(6)]
    pub pids: u64,
    /// Ids of the lease's devices.
    #[n(7)]
    pub gpus: Vec<String>,
    #[n(8)]
    pub labels: Vec<(String, String)>,
    /// Sizes of `/tmp` and `/dev/shm`.
    #[n(9)]
    pub tmp_bytes: u64,
    #[n(10)]
    pub shm_bytes: u64,
    /// Where the monitor reads credentials for registries; never what they are.
    #[n(11)]
    pub credentials: Option<String>,
    /// One of the daemon's runtimes; none: its default.
    #[n(12)]
    #[cbor(default)]
    pub runtime: Option<String>,
    /// Further groups of the user.
    #[n(13)]
    #[cbor(default)]
    pub groups: Vec<u32>,
}

/// One attempt to be started. The environment is complete and closed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StartRequest {
    #[n(0)]
    pub lease: LeaseId,
    #[n(1)]
    pub mode: Mode,
    #[n(2)]
    pub command: Vec<String>,
    /// `NAME=value`.
    #[n(3)]
    pub environment: Vec<String>,
    #[n(4)]
    pub deadline: BootMs,
    #[n(5)]
    pub grace_ms: u64,
    #[n(6)]
    pub kill_margin_ms: u64,
    #[n(7)]
    pub run_timeout_ms: u64,
    #[n(8)]
    pub memory_bytes: u64,
    #[n(9)]
    pub cpu_milli: u64,
    /// Absolute path of crun.
    #[n(10)]
    pub crun: Option<String>,
    /// Indexes of GPU device files.
    #[n(11)]
    pub gpus: Vec<u32>,
    /// Ids of the GPUs of `gpus`.
    #[n(12)]
    pub gpu_ids: Vec<String>,
    #[n(13)]
    pub docker: Option<Box<DockerRequest>>,
    /// None: the host's system folders, read-only.
    #[n(14)]
    pub root: Option<Box<Root>>,
    /// Of a sandboxed process and of crun.
    #[n(15)]
    pub confinement: Option<Box<Confinement>>,
    /// Its folder was made by the node, with files in it.
    #[n(16)]
    pub own_folder: bool,
    #[n(17)]
    pub secrets: Option<Box<GivenSecrets>>,
    /// Beyond its memory.
    #[n(18)]
    pub swap_bytes: u64,
    /// Absolute as the program sees it, or below its work folder. None: its work folder.
    #[n(19)]
    pub working_dir: Option<String>,
    /// What of this host it sees beside that.
    #[n(20)]
    pub mounts: Vec<ResolvedMount>,
    #[n(21)]
    pub labels: AttemptLabels,
    /// What asks its program to end, where its image says it. None: TERM.
    #[n(22)]
    pub stop_signal: Option<i32>,
    /// Folders of its image that its program may write in, as the program sees them.
    #[n(23)]
    #[cbor(default)]
    pub volumes: Vec<String>,
}

/// Whose an attempt is: what lines about it say, also after a restart of the node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AttemptLabels {
    #[n(0)]
    pub tenant: Tenant,
    #[n(1)]
    pub class: Class,
    #[n(2)]
    pub task_name: Option<TaskName>,
    #[n(3)]
    pub runtime: Runtime,
    #[n(4)]
    pub image: Option<String>,
}

/// A folder or file of this host that an attempt sees.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ResolvedMount {
    /// Absolute and without links: whoever mounts it follows none.
    #[n(0)]
    pub source: String,
    /// Absolute, as the program sees it.
    #[n(1)]
    pub target: String,
    #[n(2)]
    pub writable: bool,
    /// Else a file.
    #[n(3)]
    pub folder: bool,
}

impl StartRequest {
    /// The variables of its secrets, whose files it sees in this folder.
    pub fn secret_variables(&self, place: &str) -> Vec<String> {
        let variables = self.secrets.iter().flat_map(|secrets| &secrets.variables);
        variables.map(|(variable, name)| format!("{variable}={place}/{name}")).collect()
    }
}

/// The secrets of an attempt that are files.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GivenSecrets {
    /// Where they are on this host.
    #[n(0)]
    pub folder: String,
    /// Variables that hold the path of a file, and the file's name.
    #[n(1)]
    pub variables: Vec<(String, String)>,
}

/// What an attempt runs instead of a program of the host.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Root {
    /// One executable file: the first word of the command.
    #[n(0)]
    Executable(#[n(0)] String),
    /// A root file system, and the folder inside in which the program starts.
    #[n(1)]
    Folder(#[n(0)] String, #[n(1)] Option<String>),
}

impl Root {
    /// The one executable file.
    pub fn executable(&self) -> Option<&str> {
        match self {
            Root::Executable(file) => Some(file),
            Root::Folder(..) => None,
        }
    }
}

/// What an attempt is kept from.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Confinement {
    /// Counts when the watchdog is root.
    #[n(0)]
    pub user: u32,
    #[n(1)]
    pub group: u32,
    /// Processes and threads.
    #[n(2)]
    pub pids: u64,
    #[n(3)]
    pub network: Network,
    /// Sizes of `/tmp` and `/dev/shm`.
    #[n(4)]
    pub tmp_bytes: u64,
    #[n(5)]
    pub shm_bytes: u64,
    /// Folders of the host that a sandboxed process may write in.
    #[n(6)]
    pub writable: Vec<String>,
    /// Further groups of the user.
    #[n(7)]
    #[cbor(default)]
    pub groups: Vec<u32>,
}
