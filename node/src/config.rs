//! What an operator may set: one struct from one TOML file, `STINT_*` variables and flags (flag over variable over
//! file over default). Every value is checked here, with where it came from; inside the node it is right. Each key is
//! described once, in `sections.rs`.

mod check;
mod describe;
mod formats;
mod gpus;
mod layers;
mod machine;
mod reference;
pub mod replicated;
mod sections;
#[cfg(test)]
mod testing;
mod texts;
mod users;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

pub use crate::limits::CLOCK_DRIFT_PERCENT;
pub use check::BESIDE_SOCKET;
pub use gpus::Gpus;
pub use machine::{Machine, default_data_dir};
pub use reference::{KeyInfo, keys};
pub use sections::{
    ApiConfig, ArtifactsConfig, ClusterConfig, Config, ExecutorConfig, GROUP_SOCKET, HttpConfig, LogConfig,
    NodeConfig, PeersConfig, RaftConfig, SecretsConfig, SlurmConfig,
};

pub use users::{Account, UserRule};

use describe::Settings as _;
use layers::Layers;

/// Attempts a node runs at once for each of its cores, unless `executor.slots` says otherwise.
const SLOTS_PER_CORE: u64 = 8;

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

/// How fast a lost leader is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaftProfile {
    /// 50 / 125–225 ms: the default.
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
            Self::Fast => (50, 125, 225),
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
        Self::load_on(&Machine::detect(env), file, env, overrides)
    }

    /// The effective configuration of a machine like `machine`.
    pub fn load_on(
        machine: &Machine,
        file: Option<&Path>,
        env: &BTreeMap<String, String>,
        overrides: &Overrides,
    ) -> Result<Self, ConfigError> {
        let mut config = Config::on(machine);
        let mut layers = Layers::new(&mut config);
        if let Some(path) = file {
            layers.add_file(path)?;
        }
        layers.add_variables(env);
        layers.add_flags(overrides);
        config.with(machine, layers)
    }

    /// The effective configuration of a file with this text alone.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn from_text(machine: &Machine, text: &str) -> Result<Self, ConfigError> {
        let mut config = Config::on(machine);
        let mut layers = Layers::new(&mut config);
        layers.add_text(Path::new("stint.toml"), text)?;
        config.with(machine, layers)
    }

    fn with(self, machine: &Machine, mut layers: Layers) -> Result<Self, ConfigError> {
        let mut config = self;
        config.visit("", &mut |key| layers.fill(key));
        config.derive(machine, &mut layers);
        config.origins = layers.values.into_iter().map(|(key, (_, origin))| (key, origin)).collect();
        let mut problems = layers.problems;
        if problems.is_empty() {
            problems.extend(config.check().into_iter().filter(|p| p.severity == Severity::Error));
        }
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(problems)) }
    }

    /// Defaults that depend on other keys.
    fn derive(&mut self, machine: &Machine, layers: &mut Layers) {
        if !layers.is_set("api.socket") {
            self.api.socket = self.node.data_dir.join("stint.sock");
        }
        if !layers.is_set("peers.advertise") {
            match derived_advertise(machine, self.peers.listen) {
                Ok(address) => self.peers.advertise = address,
                Err(message) => layers.refuse("peers.advertise", &Origin::Default, message),
            }
        }
        if !layers.is_set("executor.slots") {
            let slots = self.executor.cpu_milli.div_ceil(1000) * SLOTS_PER_CORE;
            self.executor.slots = slots.clamp(1, 100_000) as u32;
        }
        if let (Some((_, origin)), true) = (layers.values.get("executor.gpus"), layers.is_set("executor.gpu"))
        {
            let origin = origin.clone();
            let message = "GPUs are listed as [[executor.gpu]] too: keep one of both";
            layers.refuse("executor.gpus", &origin, message);
        }
        for (class, rules) in &mut self.classes {
            // A lower cap takes the default with it.
            if !layers.is_set(&format!("classes.{class}.default_timeout")) {
                rules.default_timeout_ms = rules.default_timeout_ms.min(rules.max_timeout_ms);
            }
        }
    }

    /// What is wrong with a value that only its user can judge.
    pub fn problem(&self, key: &str, message: String) -> Problem {
        Problem { severity: Severity::Error, key: key.into(), origin: self.origin(key), message }
    }

    fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or_default()
    }
}

/// The address others reach this node at, when there is only one that it can be.
fn derived_advertise(machine: &Machine, listen: SocketAddr) -> Result<String, String> {
    if !listen.ip().is_unspecified() {
        return Ok(listen.to_string());
    }
    match machine.addresses.as_slice() {
        [] => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, listen.port())).to_string()),
        [only] => Ok(SocketAddr::from((*only, listen.port())).to_string()),
        several => {
            let shown: Vec<String> = several.iter().map(|a| format!("{a}:{}", listen.port())).collect();
            Err(format!(
                "this machine has several addresses: set it (--advertise) to the one that the other peers reach ({}), \
                 or to 127.0.0.1:{} for a cluster on this machine alone",
                shown.join(", "),
                listen.port()
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{from_file, machine};
    use super::*;
    use stint_protocol::{Class, Runtime};

    #[test]
    fn defaults_come_from_the_machine() {
        let config = from_file("");
        assert_eq!(
            (config.node.name.as_str(), config.node.data_dir.to_str()),
            ("host", Some("/var/lib/stint"))
        );
        assert_eq!(config.peers.advertise, "10.0.0.1:7001");
        assert_eq!(config.api.socket.to_str(), Some("/var/lib/stint/stint.sock"));
        assert_eq!((config.executor.cpu_milli, config.executor.memory_bytes), (4000, 9 << 30));
        assert_eq!(config.executor.runtimes, [Runtime::Crun, Runtime::Docker]);
        assert_eq!(config.raft.profile, RaftProfile::Fast);
        assert!(config.executor.sandbox && config.check().is_empty(), "{:?}", config.check());
    }

    #[test]
    fn the_advertised_address_is_derived_only_when_there_is_one() {
        let with = |addresses: &[[u8; 4]], listen: &str| {
            let addresses = addresses.iter().map(|a| Ipv4Addr::from(*a)).collect();
            derived_advertise(&Machine { addresses, ..machine() }, listen.parse().unwrap())
        };
        assert_eq!(with(&[], "0.0.0.0:7001").unwrap(), "127.0.0.1:7001");
        assert_eq!(with(&[[10, 0, 0, 9]], "[::]:7001").unwrap(), "10.0.0.9:7001");
        let two = [[10, 0, 0, 9], [172, 17, 0, 1]];
        assert_eq!(with(&two, "10.0.0.9:7001").unwrap(), "10.0.0.9:7001");
        let message = with(&two, "0.0.0.0:7001").unwrap_err();
        assert!(message.contains("10.0.0.9:7001, 172.17.0.1:7001"), "{message}");
    }

    #[test]
    fn a_lower_cap_takes_the_default_timeout_with_it() {
        let rules = from_file("[classes.gpu]\nmax_timeout = \"1m\"").classes[&Class::Gpu].clone();
        assert_eq!((rules.default_timeout_ms, rules.max_timeout_ms), (60_000, 60_000));
    }
}
