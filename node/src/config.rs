//! What an operator may set: one struct from one TOML file, `STINT_*` variables and flags (flag over variable over
//! file over default). Every value is checked here, with where it came from; inside the node it is right.

mod build;
mod check;
mod convert;
mod layers;
mod machine;
mod show;
#[cfg(test)]
mod testing;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use stint_executor::{CrunSettings, DockerSettings, FixedGpu, MountSettings, ProcessSettings};
use stint_protocol::{Class, ClassRules, Runtime, Version};

use crate::blobs::BlobSettings;
pub use crate::limits::CLOCK_DRIFT_PERCENT;
pub use machine::{Machine, default_data_dir};

use layers::Layers;

/// Everything a node is started with.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub node: NodeConfig,
    pub peers: PeersConfig,
    pub api: ApiConfig,
    pub http: HttpConfig,
    pub log: LogConfig,
    pub raft: RaftConfig,
    pub executor: ExecutorConfig,
    pub blobs: BlobSettings,
    pub cluster: ClusterConfig,
    /// Rules by class. Used at bootstrap only; from then on they are replicated.
    pub classes: BTreeMap<Class, ClassRules>,
    origins: BTreeMap<String, Origin>,
}

/// Who this node is and where its data lies.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    pub name: String,
    /// Always absolute.
    pub data_dir: PathBuf,
}

/// Raft, reports and blobs between peers: QUIC with mutual TLS.
#[derive(Clone, Debug, PartialEq)]
pub struct PeersConfig {
    pub listen: SocketAddr,
    /// `host:port` that the other peers use; port 0 stands for the port that was bound.
    pub advertise: String,
}

/// The native gRPC API.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiConfig {
    /// TCP with mutual TLS; none = off.
    pub listen: Option<SocketAddr>,
    pub socket: PathBuf,
}

/// Health and metrics, in plain text.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpConfig {
    /// None = off.
    pub listen: Option<SocketAddr>,
}

/// What a node says on stderr.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    pub format: LogFormat,
    /// Levels by target, as `info,stint::task=debug`.
    pub filter: String,
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line, its fields beside time and level.
    Json,
}

impl LogFormat {
    const ALL: [LogFormat; 2] = [Self::Text, Self::Json];

    /// The word users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// How peers agree.
#[derive(Clone, Debug, PartialEq)]
pub struct RaftConfig {
    pub profile: RaftProfile,
    /// Log entries between two snapshots.
    pub snapshot_every_entries: u64,
    /// Added to every sync, to see how a slow disk would do; for benchmarks only.
    pub extra_sync_delay_ms: u64,
}

/// What this node runs and how.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecutorConfig {
    pub enabled: bool,
    pub classes: Vec<Class>,
    /// In order of preference. Those that are not installed are left out at start, with a message.
    pub runtimes: Vec<Runtime>,
    /// Whether the process runtime confines what it starts.
    pub sandbox: bool,
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    /// Attempts at once.
    pub slots: u32,
    pub gpus: Gpus,
    pub labels: BTreeMap<String, String>,
    /// A path, or a name looked up in PATH.
    pub crun_path: PathBuf,
    /// Kept of each of stdout and stderr of an attempt, in bytes.
    pub max_log_bytes: u64,
    /// Kept at the end of a lease for the kill itself (docs/internals/leases.md#stop-inside).
    pub kill_margin_ms: u64,
    pub docker: DockerSettings,
    /// Folders of this host whose files tasks may name as inputs (`artifacts.roots`).
    pub artifact_roots: Vec<PathBuf>,
    /// Folder with a file `TENANT/NAME` for each secret (`secrets.dir`).
    pub secrets_dir: Option<PathBuf>,
    pub crun: CrunSettings,
    pub process: ProcessSettings,
    /// What tasks may mount.
    pub mounts: MountSettings,
    pub slurm: SlurmConfig,
}

/// How a node hands tasks to Slurm.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlurmConfig {
    /// Seen at the same path by this node and by Slurm's nodes.
    pub folder: Option<PathBuf>,
    /// Folder of `sbatch`, `squeue` and `scancel`.
    pub bin: Option<PathBuf>,
    /// `SLURM_CONF`.
    pub conf: Option<PathBuf>,
    /// Further options of `sbatch`.
    pub submit_options: Vec<String>,
    /// User and group that jobs run as; needed where this node is root.
    pub user: Option<(u32, u32)>,
    /// Between two lists of all jobs, in milliseconds.
    pub poll_ms: u64,
}

/// Where the GPUs of a node come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Gpus {
    /// Asked of the driver (NVML).
    Auto,
    None,
    /// `[[executor.gpu]]` tables.
    Listed(Vec<FixedGpu>),
}

/// The cluster that this node belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterConfig {
    /// Used at bootstrap only.
    pub name: String,
    /// The highest version that this peer may speak: held back during an upgrade, released when all run the new program.
    pub max_version: Version,
}

/// How fast a lost leader is noticed (DECISIONS, "timing").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaftProfile {
    /// 50 / 150–300 ms: the default.
    Fast,
    /// 100 / 300–600 ms: where syncs stall.
    Lan,
    /// 30 / 100–150 ms: good disks only.
    Tight,
    /// 250 / 1000–2000 ms: peers far apart.
    Wan,
}

/// The times of a profile, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftTiming {
    pub heartbeat_ms: u64,
    pub election_timeout_min_ms: u64,
    pub election_timeout_max_ms: u64,
}

impl RaftProfile {
    const ALL: [RaftProfile; 4] = [Self::Fast, Self::Lan, Self::Tight, Self::Wan];

    /// The word users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Lan => "lan",
            Self::Tight => "tight",
            Self::Wan => "wan",
        }
    }

    /// Heartbeat and election timeouts.
    pub fn timing(self) -> RaftTiming {
        let (heartbeat_ms, election_timeout_min_ms, election_timeout_max_ms) = match self {
            Self::Fast => (50, 150, 300),
            Self::Lan => (100, 300, 600),
            Self::Tight => (30, 100, 150),
            Self::Wan => (250, 1000, 2000),
        };
        RaftTiming { heartbeat_ms, election_timeout_min_ms, election_timeout_max_ms }
    }
}

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    #[default]
    Default,
    File {
        path: PathBuf,
        line: usize,
    },
    Variable(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Variable(name) => write!(f, "variable {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Whether a node may start with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// One thing that is wrong or risky about a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    pub key: String,
    pub origin: Origin,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.origin, self.key, self.message)
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}:{line}: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, message: String },
    /// Every wrong value at once.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

/// Values given as flags, by key.
#[derive(Clone, Debug, Default)]
pub struct Overrides(BTreeMap<String, (String, String)>);

impl Overrides {
    /// Sets `key` (`section.name`) to `value`; `flag` is how the user wrote it. Lists are separated by commas.
    pub fn set(&mut self, key: &str, flag: &str, value: impl Into<String>) {
        self.0.insert(key.into(), (flag.into(), value.into()));
    }
}

impl Config {
    /// The effective configuration of this machine.
    pub fn load(
        file: Option<&Path>,
        env: &BTreeMap<String, String>,
        overrides: &Overrides,
    ) -> Result<Self, ConfigError> {
        Self::load_on(&Machine::detect(), file, env, overrides)
    }

    /// The effective configuration of a machine like `machine`.
    pub fn load_on(
        machine: &Machine,
        file: Option<&Path>,
        env: &BTreeMap<String, String>,
        overrides: &Overrides,
    ) -> Result<Self, ConfigError> {
        let mut layers = Layers::default();
        if let Some(path) = file {
            layers.add_file(path)?;
        }
        layers.add_variables(env);
        layers.add_flags(overrides);
        let mut config = build::build(machine, env, &mut layers);
        config.origins = layers.values.into_iter().map(|(key, (_, origin))| (key, origin)).collect();
        let mut problems = layers.problems;
        if problems.is_empty() {
            problems.extend(config.check().into_iter().filter(|p| p.severity == Severity::Error));
        }
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(problems)) }
    }

    /// Where the administrator's certificates are written at bootstrap.
    pub fn credentials_dir(&self) -> PathBuf {
        self.node.data_dir.join("credentials")
    }

    /// What is wrong with a value that only its user can judge.
    pub fn problem(&self, key: &str, message: String) -> Problem {
        Problem { severity: Severity::Error, key: key.into(), origin: self.origin(key), message }
    }

    fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or_default()
    }
}
