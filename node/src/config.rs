//! What an operator may set: one struct from one TOML file, `STINT_*` variables and flags (flag over variable over
//! file over default). Every value is checked here, with where it came from; inside the node it is right.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use stint_executor::FixedGpu;
use stint_protocol::limits::{LABEL_BYTES, LABELS};
use stint_protocol::{Class, ClassRules, GpuId, GpuInfo, Runtime};
use stint_sdk::{suggest, units};
use toml::Value;

/// The clocks of two machines drift apart by at most this part of the elapsed time (DESIGN §5, rule 2): 1 %, a
/// hundred times what a crystal does, because virtual machines are worse.
pub const CLOCK_DRIFT_PERCENT: u64 = 1;
/// Bytes of a unix socket's path (`sun_path` less its end).
const SOCKET_PATH_BYTES: usize = 107;
/// Attempts a node runs at once for each of its cores, unless `executor.slots` says otherwise.
const SLOTS_PER_CORE: u64 = 8;

/// Everything a node is started with.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub node: NodeConfig,
    pub peers: PeersConfig,
    pub api: ApiConfig,
    pub http: HttpConfig,
    pub raft: RaftConfig,
    pub executor: ExecutorConfig,
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
    /// Kept at the end of a lease for the kill itself (DESIGN §5, rule 3).
    pub kill_margin_ms: u64,
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

/// Used at bootstrap only.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterConfig {
    pub name: String,
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

/// What the defaults depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub hostname: String,
    pub cores: u64,
    pub memory_bytes: u64,
    pub root: bool,
    /// Addresses of its own that other machines may reach.
    pub addresses: Vec<Ipv4Addr>,
}

impl Machine {
    /// This machine, as far as `/proc` and the control group tell.
    pub fn detect() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let total = number_after(&read("/proc/meminfo"), "MemTotal:").map_or(1 << 30, |kib| kib * 1024);
        let allowed = read("/sys/fs/cgroup/memory.max").trim().parse().unwrap_or(u64::MAX);
        Self {
            hostname: Some(read("/proc/sys/kernel/hostname").trim().to_string())
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "localhost".into()),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory_bytes: total.min(allowed),
            root: is_root(),
            addresses: own_addresses(&read("/proc/net/fib_trie")),
        }
    }
}

/// Where a node keeps its data unless told otherwise: `/var/lib/stint` for root, else below the home folder.
pub fn default_data_dir(env: &BTreeMap<String, String>) -> PathBuf {
    data_dir_for(is_root(), env)
}

fn data_dir_for(root: bool, env: &BTreeMap<String, String>) -> PathBuf {
    let set = |name: &str| env.get(name).filter(|v| v.starts_with('/')).map(PathBuf::from);
    if root {
        return "/var/lib/stint".into();
    }
    let share = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    share.unwrap_or_else(|| "/var/lib".into()).join("stint")
}

/// The effective user id is the second number of the line `Uid:`.
fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

fn number_after(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Addresses that the kernel's routing table marks as local, without loopback.
fn own_addresses(fib_trie: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last = None;
    for line in fib_trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(last.filter(|a| !a.is_loopback()));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The keys outside `classes`. The variable of `a.b_c` is `STINT_A_B_C`.
const KEYS: &[&str] = &[
    "node.name",
    "node.data_dir",
    "peers.listen",
    "peers.advertise",
    "api.listen",
    "api.socket",
    "http.listen",
    "raft.profile",
    "raft.snapshot_every_entries",
    "raft.extra_sync_delay_ms",
    "executor.enabled",
    "executor.classes",
    "executor.runtimes",
    "executor.sandbox",
    "executor.cpus",
    "executor.memory",
    "executor.slots",
    "executor.gpus",
    "executor.gpu",
    "executor.labels",
    "executor.crun_path",
    "executor.max_log_bytes",
    "executor.kill_margin_ms",
    "cluster.name",
];
/// The keys of `[classes.<class>]`.
const CLASS_KEYS: &[&str] = &[
    "runtimes",
    "default_timeout",
    "max_timeout",
    "default_cpus",
    "default_memory",
    "default_gpus",
    "max_gpus",
    "lease_ttl",
];

fn known_keys() -> impl Iterator<Item = String> {
    let of_class = |class: Class| CLASS_KEYS.iter().map(move |key| format!("classes.{class}.{key}"));
    KEYS.iter().map(|key| key.to_string()).chain(Class::ALL.into_iter().flat_map(of_class))
}

fn variable_of(key: &str) -> String {
    format!("STINT_{}", key.replace('.', "_").to_uppercase())
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
        let mut config = build(machine, env, &mut layers);
        config.origins = layers.values.into_iter().map(|(key, (_, origin))| (key, origin)).collect();
        let mut problems = layers.problems;
        if problems.is_empty() {
            problems.extend(config.check().into_iter().filter(|p| p.severity == Severity::Error));
        }
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(problems)) }
    }

    /// What does not fit together, and what is risky.
    pub fn check(&self) -> Vec<Problem> {
        let mut findings = Findings { config: self, problems: Vec::new() };
        check_listeners(&mut findings);
        check_executor(&mut findings);
        check_classes(&mut findings);
        if self.raft.extra_sync_delay_ms > 0 {
            findings.warn("raft.extra_sync_delay_ms", "slows every commit down: for benchmarks only");
        }
        findings.problems
    }

    /// What the leader waits beyond a lease of `ttl_ms` before it counts it as over (DESIGN §5, rule 2):
    /// election timeout + drift over the lease + kill margin.
    pub fn lease_margin_ms(&self, ttl_ms: u64) -> u64 {
        let election = self.raft.profile.timing().election_timeout_max_ms;
        election + ttl_ms.div_ceil(100) * CLOCK_DRIFT_PERCENT + self.executor.kill_margin_ms
    }

    /// The margin that is enough for every class: the one of the longest lease.
    pub fn longest_lease_margin_ms(&self) -> u64 {
        let longest = self.classes.values().map(|rules| rules.lease_ttl_ms).max().unwrap_or(0);
        self.lease_margin_ms(longest)
    }

    /// The shortest lease that outlives one change of leader: a task may use half of its lease to stop, so in the
    /// other half a failover (two election timeouts), the drift and the kill margin must fit.
    pub fn shortest_lease_ttl_ms(&self) -> u64 {
        let failover = 2 * self.raft.profile.timing().election_timeout_max_ms;
        let needed = 2 * (failover + self.executor.kill_margin_ms);
        (needed * 100).div_ceil(100 - 2 * CLOCK_DRIFT_PERCENT)
    }

    /// Where the administrator's certificates are written at bootstrap.
    pub fn credentials_dir(&self) -> PathBuf {
        self.node.data_dir.join("credentials")
    }

    /// Every effective value as a configuration file, with its origin as a comment.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut section = String::new();
        for (key, value) in self.rendered() {
            let (of, name) = key.rsplit_once('.').unwrap_or(("", &key));
            if of != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                let _ = writeln!(text, "{gap}[{of}]{}", section_note(of));
                section = of.to_string();
            }
            let _ = writeln!(text, "{name} = {value}  # {}", self.origin(&key));
        }
        text
    }

    fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or_default()
    }

    fn rendered(&self) -> Vec<(String, String)> {
        let mut rows = self.rendered_services();
        rows.extend(self.rendered_executor());
        rows.push(("cluster.name".into(), quote(&self.cluster.name)));
        for (class, rules) in &self.classes {
            rows.extend(rendered_rules(*class, rules));
        }
        rows
    }

    fn rendered_services(&self) -> Vec<(String, String)> {
        let optional = |address: Option<SocketAddr>| address.map_or_else(String::new, |a| a.to_string());
        let rows = [
            ("node.name", quote(&self.node.name)),
            ("node.data_dir", quote(self.node.data_dir.to_string_lossy())),
            ("peers.listen", quote(self.peers.listen.to_string())),
            ("peers.advertise", quote(&self.peers.advertise)),
            ("api.listen", quote(optional(self.api.listen))),
            ("api.socket", quote(self.api.socket.to_string_lossy())),
            ("http.listen", quote(optional(self.http.listen))),
            ("raft.profile", quote(self.raft.profile.as_str())),
            ("raft.snapshot_every_entries", self.raft.snapshot_every_entries.to_string()),
            ("raft.extra_sync_delay_ms", self.raft.extra_sync_delay_ms.to_string()),
        ];
        owned(rows)
    }

    fn rendered_executor(&self) -> Vec<(String, String)> {
        let e = &self.executor;
        let gpus = match &e.gpus {
            Gpus::Auto => ("executor.gpus", quote("auto")),
            Gpus::None => ("executor.gpus", quote("none")),
            Gpus::Listed(list) => ("executor.gpu", inline_list(list.iter().map(rendered_gpu))),
        };
        let labels = e.labels.iter().map(|(k, v)| format!("{} = {}", quote(k), quote(v)));
        let rows = [
            ("executor.enabled", e.enabled.to_string()),
            ("executor.classes", inline_list(e.classes.iter().map(|c| quote(c.as_str())))),
            ("executor.runtimes", inline_list(e.runtimes.iter().map(|r| quote(r.as_str())))),
            ("executor.sandbox", e.sandbox.to_string()),
            ("executor.cpus", units::show_cpus(e.cpu_milli)),
            ("executor.memory", quote(units::exact_bytes(e.memory_bytes))),
            ("executor.slots", e.slots.to_string()),
            gpus,
            ("executor.labels", format!("{{ {} }}", labels.collect::<Vec<_>>().join(", "))),
            ("executor.crun_path", quote(e.crun_path.to_string_lossy())),
            ("executor.max_log_bytes", e.max_log_bytes.to_string()),
            ("executor.kill_margin_ms", e.kill_margin_ms.to_string()),
        ];
        owned(rows)
    }
}

fn section_note(section: &str) -> &'static str {
    match section {
        "cluster" => "  # used at bootstrap only",
        _ if section.starts_with("classes.") => "  # used at bootstrap only; replicated from then on",
        _ => "",
    }
}

fn rendered_gpu(gpu: &FixedGpu) -> String {
    let FixedGpu { info: GpuInfo { id, model, memory_bytes, index }, in_use_file } = gpu;
    let memory = quote(units::exact_bytes(*memory_bytes));
    let (id, model) = (quote(id.as_str()), quote(model));
    let file = in_use_file.as_ref().map(|file| format!(", in_use_file = {}", quote(file.to_string_lossy())));
    let file = file.unwrap_or_default();
    format!("{{ id = {id}, model = {model}, memory = {memory}, index = {index}{file} }}")
}

fn rendered_rules(class: Class, rules: &ClassRules) -> Vec<(String, String)> {
    let rows = [
        ("runtimes", inline_list(rules.runtimes.iter().map(|r| quote(r.as_str())))),
        ("default_timeout", quote(units::exact_duration(rules.default_timeout_ms))),
        ("max_timeout", quote(units::exact_duration(rules.max_timeout_ms))),
        ("default_cpus", units::show_cpus(u64::from(rules.default_cpu_milli))),
        ("default_memory", quote(units::exact_bytes(rules.default_memory_bytes))),
        ("default_gpus", rules.default_gpus.to_string()),
        ("max_gpus", rules.max_gpus.to_string()),
        ("lease_ttl", quote(units::exact_duration(rules.lease_ttl_ms))),
    ];
    rows.into_iter().map(|(key, value)| (format!("classes.{class}.{key}"), value)).collect()
}

fn owned<const N: usize>(rows: [(&str, String); N]) -> Vec<(String, String)> {
    rows.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}

fn quote(text: impl AsRef<str>) -> String {
    Value::from(text.as_ref()).to_string()
}

fn inline_list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

/// Values by key, a later layer over an earlier one, and what was wrong on the way.
#[derive(Default)]
struct Layers {
    values: BTreeMap<String, (Value, Origin)>,
    problems: Vec<Problem>,
}

impl Layers {
    fn refuse(&mut self, key: &str, origin: &Origin, message: impl Into<String>) {
        let (key, origin) = (key.to_string(), origin.clone());
        self.problems.push(Problem { severity: Severity::Error, key, origin, message: message.into() });
    }

    fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let read = |source| ConfigError::Read { path: path.into(), source };
        let text = std::fs::read_to_string(path).map_err(read)?;
        let syntax = |error: toml::de::Error| ConfigError::Syntax {
            path: path.into(),
            line: line_of(&text, error.span().map_or(0, |s| s.start)),
            message: error.message().replace('\n', ", "),
        };
        let spans = toml::de::DeTable::parse(&text).map_err(syntax)?;
        let values: toml::Table = text.parse().map_err(syntax)?;
        let file = SourceFile { path, text: &text };
        self.add_table(&file, "", spans.get_ref(), values);
        Ok(())
    }

    fn add_table(
        &mut self,
        file: &SourceFile,
        above: &str,
        spans: &toml::de::DeTable<'_>,
        mut values: toml::Table,
    ) {
        for (name, span) in spans {
            let name_text = name.get_ref().as_ref();
            let key = if above.is_empty() { name_text.to_string() } else { format!("{above}.{name_text}") };
            let Some(value) = values.remove(name_text) else { continue };
            let origin = file.origin(name.span().start);
            if known_keys().any(|known| known == key) {
                self.values.insert(key, (value, origin));
            } else if !is_section(&key) {
                let message = unknown_message(above, name_text);
                self.refuse(&key, &origin, message);
            } else if let (Value::Table(inner), Some(inner_spans)) = (value, span.get_ref().as_table()) {
                self.add_table(file, &key, inner_spans, inner);
            } else {
                self.refuse(&key, &origin, format!("is a section: write [{key}] and its keys below"));
            }
        }
    }

    fn add_variables(&mut self, env: &BTreeMap<String, String>) {
        let variables: BTreeMap<String, String> = known_keys().map(|key| (variable_of(&key), key)).collect();
        let sections = ["NODE", "PEERS", "API", "HTTP", "RAFT", "EXECUTOR", "CLUSTER", "CLASSES"];
        for (name, value) in env.iter().filter(|(name, _)| name.starts_with("STINT_")) {
            let origin = Origin::Variable(name.clone());
            if let Some(key) = variables.get(name) {
                self.values.insert(key.clone(), (Value::from(value.as_str()), origin));
            } else if sections.iter().any(|s| name["STINT_".len()..].starts_with(&format!("{s}_"))) {
                let hint = suggest::hint(name, variables.keys().map(String::as_str));
                self.refuse(name, &origin, format!("is no variable of Stint{hint}; unset it or correct it"));
            }
        }
    }

    fn add_flags(&mut self, overrides: &Overrides) {
        for (key, (flag, value)) in &overrides.0 {
            let origin = Origin::Flag(flag.clone());
            if known_keys().any(|known| known == *key) {
                self.values.insert(key.clone(), (Value::from(value.as_str()), origin));
            } else {
                let known: Vec<String> = known_keys().collect();
                let hint = suggest::hint(key, known.iter().map(String::as_str));
                self.refuse(key, &origin, format!("is no key of the configuration{hint}"));
            }
        }
    }

    /// The converted value of `key`, if one is set; what cannot be converted becomes a problem.
    fn get<T>(&mut self, key: &str, convert: impl FnOnce(&Value) -> Result<T, String>) -> Option<T> {
        let (value, origin) = self.values.get(key)?;
        match convert(value) {
            Ok(value) => Some(value),
            Err(message) => {
                let origin = origin.clone();
                self.refuse(key, &origin, message);
                None
            }
        }
    }

    fn is_set(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }
}

struct SourceFile<'a> {
    path: &'a Path,
    text: &'a str,
}

impl SourceFile<'_> {
    fn origin(&self, offset: usize) -> Origin {
        Origin::File { path: self.path.into(), line: line_of(self.text, offset) }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
}

fn is_section(key: &str) -> bool {
    known_keys().any(|known| known.starts_with(&format!("{key}.")))
}

fn unknown_message(above: &str, name: &str) -> String {
    let prefix = if above.is_empty() { String::new() } else { format!("{above}.") };
    let mut siblings: Vec<String> = known_keys()
        .filter_map(|key| key.strip_prefix(&prefix).map(|rest| rest.split('.').next().unwrap_or(rest).into()))
        .collect();
    siblings.dedup();
    let hint = suggest::hint(name, siblings.iter().map(String::as_str));
    let hint = if hint.is_empty() { format!("; known here: {}", siblings.join(", ")) } else { hint };
    format!("unknown key{hint}")
}

/// Takes every value out of the layers, or its default.
fn build(machine: &Machine, env: &BTreeMap<String, String>, layers: &mut Layers) -> Config {
    let name = layers.get("node.name", node_name).unwrap_or_else(|| machine.hostname.clone());
    let data_dir = layers.get("node.data_dir", absolute).unwrap_or_else(|| data_dir_for(machine.root, env));
    let socket = layers.get("api.socket", absolute).unwrap_or_else(|| data_dir.join("stint.sock"));
    Config {
        peers: build_peers(machine, layers),
        api: ApiConfig {
            listen: layers.get("api.listen", listener).unwrap_or_else(|| Some(loopback(7002))),
            socket,
        },
        http: HttpConfig {
            listen: layers.get("http.listen", listener).unwrap_or_else(|| Some(loopback(9097))),
        },
        raft: RaftConfig {
            profile: layers.get("raft.profile", raft_profile).unwrap_or(RaftProfile::Fast),
            snapshot_every_entries: layers
                .get("raft.snapshot_every_entries", whole(100, 10_000_000))
                .unwrap_or(50_000),
            extra_sync_delay_ms: layers.get("raft.extra_sync_delay_ms", whole(0, 10_000)).unwrap_or(0),
        },
        executor: build_executor(machine, layers),
        cluster: ClusterConfig {
            name: layers.get("cluster.name", node_name).unwrap_or_else(|| "stint".into()),
        },
        classes: Class::ALL.into_iter().map(|class| (class, build_rules(class, layers))).collect(),
        node: NodeConfig { name, data_dir },
        origins: BTreeMap::new(),
    }
}

fn build_peers(machine: &Machine, layers: &mut Layers) -> PeersConfig {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7001));
    let listen =
        layers.get("peers.listen", parsed::<SocketAddr>("an address like 0.0.0.0:7001")).unwrap_or(any);
    let advertise = layers.get("peers.advertise", host_and_port);
    let advertise = match advertise {
        Some(address) => address,
        None if layers.is_set("peers.advertise") => String::new(),
        None => derived_advertise(machine, listen).unwrap_or_else(|message| {
            layers.refuse("peers.advertise", &Origin::Default, message);
            String::new()
        }),
    };
    PeersConfig { listen, advertise }
}

/// The address others reach this node at, when there is only one that it can be.
fn derived_advertise(machine: &Machine, listen: SocketAddr) -> Result<String, String> {
    if !listen.ip().is_unspecified() {
        return Ok(listen.to_string());
    }
    match machine.addresses.as_slice() {
        [] => Ok(loopback(listen.port()).to_string()),
        [only] => Ok(SocketAddr::from((*only, listen.port())).to_string()),
        several => {
            let shown: Vec<String> = several.iter().map(|a| format!("{a}:{}", listen.port())).collect();
            Err(format!(
                "this machine has several addresses: set it to the one that the other peers reach ({}), \
                 or to 127.0.0.1:{} for a cluster on this machine alone",
                shown.join(", "),
                listen.port()
            ))
        }
    }
}

fn build_executor(machine: &Machine, layers: &mut Layers) -> ExecutorConfig {
    let cpu_milli = layers.get("executor.cpus", cpus).unwrap_or(machine.cores * 1000);
    let slots = cpu_milli.div_ceil(1000) * SLOTS_PER_CORE;
    ExecutorConfig {
        enabled: layers.get("executor.enabled", boolean).unwrap_or(true),
        classes: layers
            .get("executor.classes", words::<Class>)
            .unwrap_or_else(|| vec![Class::CpuShort, Class::CpuLong, Class::Gpu]),
        runtimes: layers
            .get("executor.runtimes", words::<Runtime>)
            .unwrap_or_else(|| vec![Runtime::Crun, Runtime::Docker]),
        sandbox: layers.get("executor.sandbox", boolean).unwrap_or(true),
        cpu_milli,
        memory_bytes: layers
            .get("executor.memory", bytes)
            .unwrap_or_else(|| (machine.memory_bytes / 10 * 9) >> 20 << 20),
        slots: layers.get("executor.slots", whole(1, 100_000)).unwrap_or(slots.clamp(1, 100_000)) as u32,
        gpus: build_gpus(layers),
        labels: layers.get("executor.labels", labels).unwrap_or_default(),
        crun_path: layers.get("executor.crun_path", text).unwrap_or_else(|| "crun".into()).into(),
        max_log_bytes: layers.get("executor.max_log_bytes", bytes).unwrap_or(16 << 20),
        kill_margin_ms: layers.get("executor.kill_margin_ms", whole(100, 60_000)).unwrap_or(500),
    }
}

fn build_gpus(layers: &mut Layers) -> Gpus {
    let word = layers.get("executor.gpus", gpu_source);
    let listed = layers.get("executor.gpu", gpu_tables);
    match (word, listed) {
        (Some(_), Some(_)) => {
            let origin = layers.values["executor.gpus"].1.clone();
            layers.refuse(
                "executor.gpus",
                &origin,
                "GPUs are listed as [[executor.gpu]] too: keep one of both",
            );
            Gpus::None
        }
        (_, Some(list)) => Gpus::Listed(list),
        (word, None) => word.unwrap_or(Gpus::Auto),
    }
}

fn build_rules(class: Class, layers: &mut Layers) -> ClassRules {
    let base = ClassRules::default_for(class);
    let key = |name: &str| format!("classes.{class}.{name}");
    let max_timeout_ms = layers.get(&key("max_timeout"), duration_ms).unwrap_or(base.max_timeout_ms);
    let max_gpus = layers.get(&key("max_gpus"), whole(0, 64)).map_or(base.max_gpus, |n| n as u32);
    ClassRules {
        runtimes: layers.get(&key("runtimes"), words::<Runtime>).unwrap_or(base.runtimes),
        // A lower cap takes the default with it, unless that is set too.
        default_timeout_ms: layers
            .get(&key("default_timeout"), duration_ms)
            .unwrap_or(base.default_timeout_ms.min(max_timeout_ms)),
        max_timeout_ms,
        default_cpu_milli: layers
            .get(&key("default_cpus"), or_zero(cpus))
            .map_or(base.default_cpu_milli, |milli| milli.min(u64::from(u32::MAX)) as u32),
        default_memory_bytes: layers
            .get(&key("default_memory"), or_zero(bytes))
            .unwrap_or(base.default_memory_bytes),
        default_gpus: layers.get(&key("default_gpus"), whole(0, 64)).map_or(base.default_gpus, |n| n as u32),
        max_gpus,
        lease_ttl_ms: layers.get(&key("lease_ttl"), duration_ms).unwrap_or(base.lease_ttl_ms),
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

// Converters. Variables and flags arrive as text, so each one takes text too.

fn text(value: &Value) -> Result<String, String> {
    value
        .as_str()
        .filter(|t| !t.is_empty())
        .map(String::from)
        .ok_or_else(|| "must be a text, not empty".into())
}

fn parsed<T: FromStr>(what: &'static str) -> impl Fn(&Value) -> Result<T, String> {
    move |value| {
        let parsed = value.as_str().and_then(|t| t.parse().ok());
        parsed.ok_or_else(|| format!("{value} is not {what}"))
    }
}

fn whole(least: u64, most: u64) -> impl Fn(&Value) -> Result<u64, String> {
    move |value| {
        let number = match value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        number
            .filter(|n| (least..=most).contains(n))
            .ok_or_else(|| format!("{value} is not a whole number from {least} to {most}"))
    }
}

fn boolean(value: &Value) -> Result<bool, String> {
    match (value, value.as_str()) {
        (Value::Boolean(flag), _) => Ok(*flag),
        (_, Some("true")) => Ok(true),
        (_, Some("false")) => Ok(false),
        _ => Err(format!("{value} is neither true nor false")),
    }
}

fn bytes(value: &Value) -> Result<u64, String> {
    let bytes = match value {
        Value::String(text) => units::parse_bytes(text).map_err(|e| e.to_string())?,
        Value::Integer(number) => u64::try_from(*number).unwrap_or(0),
        _ => return Err(format!("{value} is not an amount of memory: write for example \"8GiB\"")),
    };
    if bytes == 0 { Err("must be more than 0: write for example \"8GiB\"".into()) } else { Ok(bytes) }
}

fn duration_ms(value: &Value) -> Result<u64, String> {
    let wrong = || format!("{value} is not a duration: write for example \"15m\", in quotes");
    let text = value.as_str().ok_or_else(wrong)?;
    let duration = units::parse_duration(text).map_err(|e| e.to_string())?;
    if duration.is_zero() { Err("must be more than 0".into()) } else { Ok(duration.as_millis() as u64) }
}

fn cpus(value: &Value) -> Result<u64, String> {
    match value {
        Value::String(text) => units::parse_cpus(text).map_err(|e| e.to_string()),
        _ => {
            let cores = value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
            let milli = cores.and_then(units::cpus_to_milli);
            milli.ok_or_else(|| format!("{value} is not a number of cores: write for example 4 or 0.5"))
        }
    }
}

/// Slurm decides about cores and memory itself; 0 leaves them to it.
fn or_zero(convert: fn(&Value) -> Result<u64, String>) -> impl Fn(&Value) -> Result<u64, String> {
    move |value| match value {
        Value::Integer(0) => Ok(0),
        Value::String(text) if matches!(text.as_str(), "0" | "0B") => Ok(0),
        _ => convert(value),
    }
}

fn texts(value: &Value) -> Result<Vec<String>, String> {
    let wrong = || format!("{value} is not a list of texts: write for example [\"a\", \"b\"]");
    match value {
        Value::String(text) => {
            Ok(text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(String::from).collect())
        }
        Value::Array(items) => {
            items.iter().map(|item| item.as_str().map(String::from).ok_or_else(wrong)).collect()
        }
        _ => Err(wrong()),
    }
}

fn words<T: FromStr<Err: fmt::Display> + PartialEq>(value: &Value) -> Result<Vec<T>, String> {
    let mut known: Vec<T> = Vec::new();
    for word in texts(value)? {
        let item = word.parse().map_err(|e: T::Err| e.to_string())?;
        if known.contains(&item) {
            return Err(format!("{word:?} stands there twice: keep one"));
        }
        known.push(item);
    }
    Ok(known)
}

fn labels(value: &Value) -> Result<BTreeMap<String, String>, String> {
    let pairs: BTreeMap<String, String> = match value {
        Value::Table(table) => table
            .iter()
            .map(|(k, v)| {
                let shown = v.as_str().map_or_else(|| v.to_string(), String::from);
                (k.clone(), shown)
            })
            .collect(),
        Value::String(_) => texts(value)?
            .iter()
            .map(|pair| {
                let (key, value) =
                    pair.split_once('=').ok_or_else(|| format!("{pair:?} is not KEY=VALUE"))?;
                Ok((key.to_string(), value.to_string()))
            })
            .collect::<Result<_, String>>()?,
        _ => return Err(format!("{value} is not a table of labels: write {{ zone = \"a\" }}")),
    };
    let fits = |(k, v): (&String, &String)| !k.is_empty() && k.len() <= LABEL_BYTES && v.len() <= LABEL_BYTES;
    if pairs.len() > LABELS || !pairs.iter().all(fits) {
        return Err(format!("at most {LABELS} labels, keys of 1 and values of 0 to {LABEL_BYTES} bytes"));
    }
    Ok(pairs)
}

fn node_name(value: &Value) -> Result<String, String> {
    let name = text(value)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() <= 63 && name.chars().all(plain) {
        Ok(name)
    } else {
        Err(format!("{name:?} is no name: up to 63 letters, digits, '-', '_' and '.'"))
    }
}

fn absolute(value: &Value) -> Result<PathBuf, String> {
    std::path::absolute(text(value)?).map_err(|e| format!("is no usable path: {e}"))
}

/// `""` switches a listener off.
fn listener(value: &Value) -> Result<Option<SocketAddr>, String> {
    match value.as_str() {
        Some("") => Ok(None),
        _ => parsed("an address like 127.0.0.1:7002, nor \"\" for off")(value).map(Some),
    }
}

fn host_and_port(value: &Value) -> Result<String, String> {
    let address = text(value)?;
    let (host, port) = address.rsplit_once(':').unwrap_or((&address, ""));
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(format!("{address:?} is not host:port, for example node-1.example:7001"));
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        return Err(format!("{address:?} is no address that others can reach: write this machine's own"));
    }
    Ok(address)
}

fn raft_profile(value: &Value) -> Result<RaftProfile, String> {
    let known = RaftProfile::ALL.map(RaftProfile::as_str);
    let found = RaftProfile::ALL.into_iter().find(|p| value.as_str() == Some(p.as_str()));
    found.ok_or_else(|| format!("{value} is no profile: use one of {}", known.join(", ")))
}

fn gpu_source(value: &Value) -> Result<Gpus, String> {
    match value.as_str() {
        Some("auto") => Ok(Gpus::Auto),
        Some("none") => Ok(Gpus::None),
        _ => Err(format!(
            "{value} is neither \"auto\" nor \"none\"; to list GPUs write [[executor.gpu]] tables"
        )),
    }
}

fn gpu_tables(value: &Value) -> Result<Vec<FixedGpu>, String> {
    let tables = value.as_array().ok_or("is a list: write [[executor.gpu]] and its keys below")?;
    let mut gpus: Vec<FixedGpu> = Vec::new();
    for (position, table) in tables.iter().enumerate() {
        let table = table.as_table().ok_or("is a list of tables: write [[executor.gpu]]")?;
        let gpu = gpu_table(position, table)?;
        if gpus.iter().any(|known| known.info.id == gpu.info.id) {
            return Err(format!("the id {:?} stands there twice: each device is listed once", gpu.info.id));
        }
        gpus.push(gpu);
    }
    Ok(gpus)
}

fn gpu_table(position: usize, table: &toml::Table) -> Result<FixedGpu, String> {
    let known = ["id", "model", "memory", "index", "in_use_file"];
    if let Some(wrong) = table.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("unknown key {wrong:?}{}", suggest::hint(wrong, known)));
    }
    let id =
        table.get("id").ok_or("an id is missing: write the device's UUID as `nvidia-smi -L` shows it")?;
    let info = GpuInfo {
        id: GpuId::new(&text(id)?).map_err(|e| e.to_string())?,
        model: table.get("model").map(text).transpose()?.unwrap_or_default(),
        memory_bytes: table.get("memory").map(bytes).transpose()?.unwrap_or(0),
        index: table.get("index").map(whole(0, 255)).transpose()?.unwrap_or(position as u64) as u32,
    };
    let in_use_file = table.get("in_use_file").map(text).transpose()?.map(PathBuf::from);
    Ok(FixedGpu { info, in_use_file })
}

struct Findings<'a> {
    config: &'a Config,
    problems: Vec<Problem>,
}

impl Findings<'_> {
    fn error(&mut self, key: &str, message: impl Into<String>) {
        self.add(Severity::Error, key, message.into());
    }

    fn warn(&mut self, key: &str, message: impl Into<String>) {
        self.add(Severity::Warning, key, message.into());
    }

    fn add(&mut self, severity: Severity, key: &str, message: String) {
        let origin = self.config.origin(key);
        self.problems.push(Problem { severity, key: key.into(), origin, message });
    }
}

fn check_listeners(findings: &mut Findings) {
    let config = findings.config;
    if let (Some(api), Some(http)) = (config.api.listen, config.http.listen) {
        let overlap = api.ip() == http.ip() || api.ip().is_unspecified() || http.ip().is_unspecified();
        if overlap && api.port() == http.port() && api.port() != 0 {
            findings
                .error("http.listen", format!("port {} is api.listen's too: give one another", api.port()));
        }
    }
    if config.http.listen.is_some_and(|http| !http.ip().is_loopback()) {
        let risk = "is plain text on a network: everyone who reaches it reads health and metrics";
        findings.warn("http.listen", risk);
    }
    let socket_bytes = config.api.socket.as_os_str().len();
    if socket_bytes > SOCKET_PATH_BYTES {
        let advice = "set api.socket to a shorter path";
        let length = format!("has {socket_bytes} bytes and a unix socket's path at most {SOCKET_PATH_BYTES}");
        findings.error("api.socket", format!("{length}: {advice}"));
    }
}

fn check_executor(findings: &mut Findings) {
    let executor = &findings.config.executor;
    if !executor.enabled {
        return;
    }
    let runs = |runtime| executor.runtimes.contains(&runtime);
    if executor.runtimes.is_empty() || executor.classes.is_empty() {
        let advice = "set executor.enabled = false for a node that runs nothing";
        findings.error("executor.runtimes", format!("no runtime or no class is left: {advice}"));
        return;
    }
    if runs(Runtime::Process) && !executor.sandbox {
        findings.warn("executor.sandbox", "is off: processes see this machine's files and network");
    }
    if runs(Runtime::Mock) {
        findings.warn("executor.runtimes", "mock runs nothing: it only says so; for tests");
    }
    for class in &executor.classes {
        let rules = &findings.config.classes[class];
        if !rules.runtimes.iter().any(|runtime| runs(*runtime)) {
            let needed: Vec<&str> = rules.runtimes.iter().map(|r| r.as_str()).collect();
            let message = format!("{class} needs one of the runtimes {}; none is offered", needed.join(", "));
            findings.warn("executor.classes", message);
        }
    }
}

fn check_classes(findings: &mut Findings) {
    let shortest = findings.config.shortest_lease_ttl_ms();
    let profile = findings.config.raft.profile;
    for (class, rules) in &findings.config.classes {
        let key = |name: &str| format!("classes.{class}.{name}");
        if rules.runtimes.is_empty() {
            findings.error(&key("runtimes"), "is empty: name at least one runtime");
        }
        if rules.default_timeout_ms > rules.max_timeout_ms {
            let most = units::exact_duration(rules.max_timeout_ms);
            findings.error(&key("default_timeout"), format!("is over max_timeout ({most}): lower one"));
        }
        if rules.default_gpus > rules.max_gpus {
            findings.error(&key("max_gpus"), format!("is under default_gpus ({})", rules.default_gpus));
        }
        if rules.lease_ttl_ms < shortest {
            let margin = findings.config.executor.kill_margin_ms;
            findings.error(
                &key("lease_ttl"),
                format!(
                    "{} ms is too short: with raft.profile {} and kill_margin_ms {margin} a lease lasts at \
                     least {shortest} ms, so that a change of the leader does not kill tasks",
                    rules.lease_ttl_ms,
                    profile.as_str()
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            hostname: "host".into(),
            cores: 4,
            memory_bytes: 10 << 30,
            root: true,
            addresses: vec![Ipv4Addr::new(10, 0, 0, 1)],
        }
    }

    fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    fn load(
        text: &str,
        env: &[(&str, &str)],
        flags: &[(&str, &str, &str)],
    ) -> (Result<Config, ConfigError>, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stint.toml");
        std::fs::write(&path, text).unwrap();
        let mut overrides = Overrides::default();
        for (key, flag, value) in flags {
            overrides.set(key, flag, *value);
        }
        let loaded = Config::load_on(&machine(), Some(&path), &variables(env), &overrides);
        (loaded, path.display().to_string())
    }

    fn from_file(text: &str) -> Config {
        load(text, &[], &[]).0.unwrap()
    }

    /// The messages, with the file's path taken off.
    fn refusals(text: &str, env: &[(&str, &str)], flags: &[(&str, &str, &str)]) -> String {
        let (loaded, path) = load(text, env, flags);
        loaded.unwrap_err().to_string().replace(&path, "stint.toml")
    }

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
    fn a_user_keeps_data_at_home() {
        let home = variables(&[("HOME", "/home/u")]);
        assert_eq!(data_dir_for(false, &home).to_str(), Some("/home/u/.local/share/stint"));
        let xdg = variables(&[("HOME", "/home/u"), ("XDG_DATA_HOME", "/data")]);
        assert_eq!(data_dir_for(false, &xdg).to_str(), Some("/data/stint"));
    }

    #[test]
    fn a_flag_wins_over_a_variable_and_that_over_the_file() {
        let file = "[node]\nname = \"file\"\n[executor]\nslots = 1\ncpus = 1\n";
        let env = [("STINT_NODE_NAME", "variable"), ("STINT_EXECUTOR_SLOTS", "2")];
        let flags = [("node.name", "--name", "flag")];
        let config = load(file, &env, &flags).0.unwrap();
        let executor = &config.executor;
        assert_eq!((config.node.name.as_str(), executor.slots, executor.cpu_milli), ("flag", 2, 1000));
        assert_eq!(config.origin("node.name"), Origin::Flag("--name".into()));
        assert_eq!(config.origin("executor.slots"), Origin::Variable("STINT_EXECUTOR_SLOTS".into()));
        assert!(matches!(config.origin("executor.cpus"), Origin::File { line: 5, .. }));
    }

    #[test]
    fn everything_can_be_said_in_variables() {
        let env = [
            ("STINT_API_LISTEN", ""),
            ("STINT_EXECUTOR_RUNTIMES", "process, crun"),
            ("STINT_EXECUTOR_LABELS", "zone=a,rack=7"),
            ("STINT_EXECUTOR_SANDBOX", "false"),
            ("STINT_EXECUTOR_MEMORY", "2GiB"),
            ("STINT_CLASSES_GPU_MAX_GPUS", "8"),
            ("STINT_LOG", "debug"),
        ];
        let config = load("", &env, &[]).0.unwrap();
        assert_eq!(config.api.listen, None);
        assert_eq!(config.executor.runtimes, [Runtime::Process, Runtime::Crun]);
        assert_eq!((config.executor.labels["rack"].as_str(), config.executor.sandbox), ("7", false));
        assert_eq!((config.executor.memory_bytes, config.classes[&Class::Gpu].max_gpus), (2 << 30, 8));
    }

    #[test]
    fn unknown_keys_are_refused_with_line_and_suggestion() {
        let text = "[node]\nnmae = \"x\"\n\n[exekutor]\n[classes.gpu]\nlease_tll = \"10s\"\n[classes.tpu]\n";
        let expected = [
            "stint.toml:2: node.nmae: unknown key (did you mean \"name\"?)",
            "stint.toml:4: exekutor: unknown key (did you mean \"executor\"?)",
            "stint.toml:6: classes.gpu.lease_tll: unknown key (did you mean \"lease_ttl\"?)",
            "stint.toml:7: classes.tpu: unknown key (did you mean \"gpu\"?)",
        ];
        let message = refusals(text, &[], &[]);
        let mut found: Vec<&str> = message.lines().collect();
        found.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn unknown_variables_and_flags_are_refused() {
        let message = refusals("", &[("STINT_NODE_NMAE", "x")], &[("raft.profil", "--set", "lan")]);
        assert!(
            message.contains("variable STINT_NODE_NMAE") && message.contains("\"STINT_NODE_NAME\""),
            "{message}"
        );
        assert!(
            message.contains("flag --set: raft.profil") && message.contains("\"raft.profile\""),
            "{message}"
        );
    }

    #[test]
    fn wrong_values_say_what_to_change() {
        let cases = [
            ("[node]\nname = 7", "stint.toml:2: node.name: must be a text"),
            ("[node]\nname = \"a b\"", "up to 63 letters"),
            ("node = 7", "write [node]"),
            ("[node\n", "stint.toml:1: "),
            ("[peers]\nlisten = \"everywhere\"", "not an address like 0.0.0.0:7001"),
            ("[peers]\nadvertise = \"0.0.0.0:7001\"", "write this machine's own"),
            ("[peers]\nadvertise = \"host\"", "not host:port"),
            ("[raft]\nprofile = \"quick\"", "use one of fast, lan, tight, wan"),
            ("[raft]\nsnapshot_every_entries = 1", "whole number from 100"),
            ("[executor]\nmemory = \"8XB\"", "unknown unit"),
            ("[executor]\ncpus = 0", "number of cores"),
            ("[executor]\nruntimes = [\"podman\"]", "unknown runtime \"podman\""),
            ("[executor]\nruntimes = [\"crun\", \"oci\"]", "twice"),
            ("[executor]\nruntimes = []", "executor.enabled = false"),
            ("[executor]\nsandbox = 1", "neither true nor false"),
            ("[executor]\ngpus = \"all\"", "neither \"auto\" nor \"none\""),
            ("[[executor.gpu]]\nmodel = \"H200\"", "nvidia-smi -L"),
            ("[[executor.gpu]]\nid = \"a\"\n[[executor.gpu]]\nid = \"a\"", "listed once"),
            ("[[executor.gpu]]\nid = \"a\"\nmemroy = \"1GiB\"", "did you mean \"memory\"?"),
            ("[executor]\ngpus = \"none\"\n[[executor.gpu]]\nid = \"a\"", "keep one of both"),
            ("[classes.gpu]\nmax_timeout = 600", "in quotes"),
            ("[classes.gpu]\nmax_timeout = \"1m\"\ndefault_timeout = \"2m\"", "is over max_timeout (1m)"),
            ("[api]\nlisten = \"0.0.0.0:9097\"", "port 9097 is api.listen's too"),
        ];
        for (text, part) in cases {
            let message = refusals(text, &[], &[]);
            assert!(message.contains(part), "{text:?}: {message}");
        }
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
    fn a_lease_must_outlive_a_change_of_leader() {
        let config = from_file("");
        // 300 ms election + 1 % of 10 s + 500 ms for the kill.
        assert_eq!(config.lease_margin_ms(10_000), 900);
        // 2 × (2 × 300 + 500) / 0.98
        assert_eq!(config.shortest_lease_ttl_ms(), 2245);
        let short = "[classes.cpu_short]\nlease_ttl = \"2s\"";
        assert!(refusals(short, &[], &[]).contains("at least 2245 ms"));
        assert_eq!(
            from_file("[classes.cpu_short]\nlease_ttl = \"2250ms\"").classes[&Class::CpuShort].lease_ttl_ms,
            2250
        );
        for profile in ["fast", "lan", "tight", "wan"] {
            from_file(&format!("[raft]\nprofile = \"{profile}\""));
        }
    }

    #[test]
    fn a_lower_cap_takes_the_default_timeout_with_it() {
        let rules = from_file("[classes.gpu]\nmax_timeout = \"1m\"").classes[&Class::Gpu].clone();
        assert_eq!((rules.default_timeout_ms, rules.max_timeout_ms), (60_000, 60_000));
    }

    #[test]
    fn risks_are_warned_of() {
        let text = "[http]\nlisten = \"0.0.0.0:9097\"\n[executor]\nsandbox = false\nruntimes = [\"process\", \"mock\"]\n\
                    classes = [\"gpu_slurm\"]\n[raft]\nextra_sync_delay_ms = 5\n";
        let problems = from_file(text).check();
        let keys: Vec<&str> = problems.iter().map(|p| p.key.as_str()).collect();
        let expected = [
            "http.listen",
            "executor.sandbox",
            "executor.runtimes",
            "executor.classes",
            "raft.extra_sync_delay_ms",
        ];
        assert_eq!(keys, expected);
        assert!(problems.iter().all(|p| p.severity == Severity::Warning));
    }

    #[test]
    fn a_long_socket_path_is_refused() {
        let flags = [("node.data_dir", "--data-dir", "/".to_string() + &"x".repeat(100))];
        let flags = flags.each_ref().map(|(key, flag, value)| (*key, *flag, value.as_str()));
        assert!(refusals("", &[], &flags).contains("at most 107"));
    }

    #[test]
    fn what_is_printed_reads_back() {
        let text = "[node]\nname = \"n1\"\n[[executor.gpu]]\nid = \"GPU-1\"\nmodel = \"H200\"\nmemory = \"139GiB\"\n\
                    [executor.labels]\nzone = \"a\"\n\"odd key\" = \"q\\\"\"\n[classes.gpu]\nmax_gpus = 4\n";
        let config = from_file(text);
        let printed = config.to_toml();
        assert!(
            printed.contains("[classes.gpu]  # used at bootstrap only; replicated from then on\n"),
            "{printed}"
        );
        assert!(
            printed.contains("stint.toml:2\n") && printed.contains("profile = \"fast\"  # default\n"),
            "{printed}"
        );
        let mut again = from_file(&printed);
        again.origins = config.origins.clone();
        assert_eq!(again, config);
    }

    #[test]
    fn own_addresses_are_read_from_the_routing_table() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.9\n        \
                    /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        \
                    /32 host LOCAL\n     |-- 10.0.0.9\n        /32 host LOCAL\n";
        assert_eq!(own_addresses(trie), [Ipv4Addr::new(10, 0, 0, 9)]);
    }
}
