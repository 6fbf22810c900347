//! What the operator of a node sets: which runtimes it has, what tasks may do with each, how much is kept.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use stint_protocol::{Network, NodeRules, Runtime, TaskLimits};

use crate::gpu::GpuSource;
use crate::limits;
use crate::observer::Observer;
use crate::shim_api::request::Pull;
use crate::store::Store;
use crate::sys;
use crate::users::UserAndGroup;

/// How much of ended attempts is kept (acknowledged ones only; others are always kept).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepEnded {
    pub count: usize,
    pub age_ms: u64,
}

impl Default for KeepEnded {
    /// A thousand attempts, a day.
    fn default() -> Self {
        Self { count: 1000, age_ms: 24 * 3_600_000 }
    }
}

/// What attempts may take of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskLimits {
    /// Bytes of one attempt's files; 0: as many as there are.
    pub attempt_bytes: u64,
    /// Bytes that stay free, a twentieth of the disk at most; 0: none.
    pub reserve_bytes: u64,
}

/// How much is kept of what attempts leave as outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputLimits {
    /// Bytes of one file, its holes included.
    pub file_bytes: u64,
    /// Bytes of all files of an attempt.
    pub all_bytes: u64,
    /// How long keeping them may take where the task's timeout is shorter, in milliseconds.
    pub keep_ms: u64,
}

impl Default for OutputLimits {
    /// A model and its checkpoints, over a slow network.
    fn default() -> Self {
        Self { file_bytes: 10 << 30, all_bytes: 50 << 30, keep_ms: limits::KEEP_LEAST_MS }
    }
}

/// How a node uses its host.
#[derive(Clone, Debug)]
pub struct HostOptions {
    pub data_dir: PathBuf,
    /// Starts the watchdog, for example `[current_exe, "shim"]`; arguments are appended.
    pub shim_command: Vec<OsString>,
    /// Own pid and mount namespace for each attempt, memory limit by cgroup. Off: session and process group only.
    pub sandbox: bool,
    /// Runtimes the operator enabled.
    pub runtimes: Vec<Runtime>,
    /// The least number of a user that tasks run as, where they run as those who submitted them. None: as those of their tenants.
    pub run_as: Option<u32>,
    /// Tenants whose tasks are taken, as `NodeRules` has them; empty: none are named, and all are taken.
    pub tenants: Vec<String>,
    pub crun_path: PathBuf,
    /// Time between KILL and the end of a lease: covers killing and reaping.
    pub kill_margin_ms: u64,
    /// A disk that takes a few bytes for longer than this, in milliseconds, hangs: nothing is started on it.
    pub disk_timeout_ms: u64,
    /// What attempts may take of the disk.
    pub disk: DiskLimits,
    /// Bytes kept of each output stream; 0 = no cap.
    pub max_log_bytes: u64,
    pub keep_ended: KeepEnded,
    pub outputs: OutputLimits,
    pub gpus: GpuSource,
    pub docker: DockerOptions,
    /// Folders of this host whose files tasks may name as inputs.
    pub artifact_roots: Vec<PathBuf>,
    /// Folder with a file `TENANT/NAME` for each secret.
    pub secrets_dir: Option<PathBuf>,
    /// Where images, inputs and outputs of the cluster are. None: outputs stay on this host.
    pub store: Option<Arc<dyn Store>>,
    /// Who is told what is done.
    pub observer: Option<Arc<dyn Observer>>,
    pub crun: CrunOptions,
    pub process: ProcessOptions,
    /// What tasks may mount.
    pub mounts: MountRules,
}

impl HostOptions {
    /// Tells whoever looks on.
    pub fn observe(&self, tell: impl FnOnce(&dyn Observer)) {
        if let Some(observer) = &self.observer {
            tell(observer.as_ref());
        }
    }

    /// What tasks may name of this host, and whose they may be, as it is offered. A folder also counts under its true name: what a task names there is
    /// looked at by its own.
    pub fn rules(&self) -> NodeRules {
        let shown = |folders: &[PathBuf]| {
            let mut all: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
            let real = folders.iter().filter_map(|folder| std::fs::canonicalize(folder).ok());
            all.extend(real.map(|folder| folder.display().to_string()));
            all.sort_unstable();
            all.dedup();
            all
        };
        NodeRules {
            docker_images: self.docker.allowed_images.clone(),
            docker_by_digest: self.docker.require_digest,
            image_roots: self.crun.roots.iter().map(|root| root.display().to_string()).collect(),
            input_roots: shown(&self.artifact_roots),
            secrets: self.secrets_dir.is_some(),
            tenants: (!self.tenants.is_empty()).then(|| self.tenants.clone()),
            one_user: None,
            // Only root changes its user.
            run_as: self.run_as.filter(|_| sys::effective_ids().0 == 0),
        }
    }

    /// The defaults: sandboxed, process and mock runtimes on, no GPUs.
    pub fn new(data_dir: PathBuf, shim_command: Vec<OsString>) -> Self {
        Self {
            data_dir,
            shim_command,
            sandbox: true,
            runtimes: vec![Runtime::Process, Runtime::Mock],
            run_as: None,
            tenants: Vec::new(),
            crun_path: "crun".into(),
            kill_margin_ms: limits::KILL_MARGIN_MS,
            disk_timeout_ms: limits::DISK_TIMEOUT_MS,
            disk: DiskLimits::default(),
            max_log_bytes: limits::LOG_BYTES,
            keep_ended: KeepEnded::default(),
            outputs: OutputLimits::default(),
            gpus: GpuSource::None,
            docker: DockerOptions::default(),
            artifact_roots: Vec::new(),
            secrets_dir: None,
            store: None,
            observer: None,
            crun: CrunOptions::default(),
            process: ProcessOptions::default(),
            mounts: MountRules::default(),
        }
    }
}

/// What a task gets when it asks for nothing, and the most that it may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Processes and threads of one attempt.
    pub pids: u64,
    /// Sizes of `/tmp` and `/dev/shm`.
    pub tmp_bytes: u64,
    pub shm_bytes: u64,
    /// Beyond its memory; a task that asks for none gets none.
    pub swap_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { pids: limits::PIDS, tmp_bytes: limits::TMP_BYTES, shm_bytes: limits::SHM_BYTES, swap_bytes: 0 }
    }
}

impl Bounds {
    /// What a task gets of them.
    pub fn given(&self, asked: Option<&TaskLimits>) -> Bounds {
        let asked = |of: fn(&TaskLimits) -> Option<u64>| asked.and_then(of);
        Bounds {
            pids: asked(|limits| limits.pids.map(u64::from)).unwrap_or(self.pids),
            tmp_bytes: asked(|limits| limits.tmp_bytes).unwrap_or(self.tmp_bytes),
            shm_bytes: asked(|limits| limits.shm_bytes).unwrap_or(self.shm_bytes),
            swap_bytes: asked(|limits| limits.swap_bytes).unwrap_or(0),
        }
    }
}

/// The rules that crun and the sandbox of processes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfineOptions {
    /// User and group of every program; never root. None: those of its tenant. Counts when the node is root.
    pub user: Option<UserAndGroup>,
    /// Of tasks that ask for none.
    pub network: Network,
    /// Those that a task may ask for, beside `none` and `network`.
    pub networks: Vec<Network>,
    pub bounds: Bounds,
}

impl Default for ConfineOptions {
    /// The tenant's user, no network, 512 processes.
    fn default() -> Self {
        Self { user: None, network: Network::None, networks: vec![Network::None], bounds: Bounds::default() }
    }
}

/// How a node uses crun.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CrunOptions {
    pub confine: ConfineOptions,
    /// Folders under which a task's root file system may lie; none = no task brings one.
    pub roots: Vec<PathBuf>,
}

/// How a node sandboxes processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessOptions {
    pub confine: ConfineOptions,
    /// Folders of the host that programs may write in, as far as their user may.
    pub writable: Vec<PathBuf>,
}

/// How a node uses its Docker daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerOptions {
    pub socket: PathBuf,
    /// Patterns of images that may run; empty = none may.
    pub allowed_images: Vec<String>,
    /// Only images that are named by digest.
    pub require_digest: bool,
    pub pull: Pull,
    /// The file of credentials for registries, as `docker login` writes it; none = none are sent.
    pub credentials: Option<PathBuf>,
    /// `none`, `bridge` or a network of the daemon's; never the host's.
    pub network: String,
    /// One of the daemon's runtimes, such as gVisor's `runsc`. None: the one that it has for containers that name none.
    pub runtime: Option<String>,
    /// User and group of every program. None: those of its tenant.
    pub user: Option<UserAndGroup>,
    pub bounds: Bounds,
}

impl Default for DockerOptions {
    fn default() -> Self {
        Self {
            socket: "/var/run/docker.sock".into(),
            allowed_images: Vec::new(),
            require_digest: false,
            pull: Pull::Missing,
            credentials: None,
            network: "none".into(),
            runtime: None,
            user: None,
            bounds: Bounds::default(),
        }
    }
}

/// What tasks may name in their mounts; with Docker these folders only, else also what lies below them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountRules {
    pub readable: Vec<PathBuf>,
    /// Also for reading.
    pub writable: Vec<PathBuf>,
}
