//! Values by key from file, variables and flags, a later layer over an earlier one. What is not known is refused with
//! where it stands and what it may have been meant to be.

use std::collections::BTreeMap;
use std::path::Path;

use stint_protocol::Class;
use stint_sdk::suggest;
use toml::Value;

use super::{ConfigError, Origin, Overrides, Problem, Severity};

/// The keys outside `classes`. The variable of `a.b_c` is `STINT_A_B_C`.
const KEYS: &[&str] = &[
    "node.name",
    "node.data_dir",
    "peers.listen",
    "peers.advertise",
    "api.listen",
    "api.socket",
    "http.listen",
    "log.format",
    "log.filter",
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
    "executor.docker.socket",
    "executor.docker.allowed_images",
    "executor.docker.require_digest",
    "executor.docker.pull",
    "executor.docker.credentials",
    "executor.docker.network",
    "executor.docker.user",
    "executor.docker.pids",
    "executor.docker.tmp_size",
    "executor.docker.shm_size",
    "executor.docker.swap",
    "artifacts.roots",
    "secrets.dir",
    "blobs.copies",
    "blobs.max_size",
    "blobs.reserve",
    "blobs.sweep_after",
    "blobs.heal_after",
    "blobs.keep_files",
    "blobs.max_unpacked",
    "blobs.keep_unpacked",
    "executor.crun.roots",
    "executor.crun.user",
    "executor.crun.network",
    "executor.crun.networks",
    "executor.crun.pids",
    "executor.crun.tmp_size",
    "executor.crun.shm_size",
    "executor.crun.swap",
    "executor.slurm.folder",
    "executor.slurm.bin",
    "executor.slurm.conf",
    "executor.slurm.submit_options",
    "executor.slurm.user",
    "executor.slurm.poll",
    "executor.mounts.readable",
    "executor.mounts.writable",
    "executor.process.writable",
    "executor.process.user",
    "executor.process.network",
    "executor.process.networks",
    "executor.process.pids",
    "executor.process.tmp_size",
    "executor.process.shm_size",
    "executor.process.swap",
    "cluster.name",
    "cluster.max_version",
];
/// A second, shorter variable of a key.
const SHORT_FILTER: [&str; 2] = ["STINT_LOG", "log.filter"];
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

/// Values by key, a later layer over an earlier one, and what was wrong on the way.
#[derive(Default)]
pub(super) struct Layers {
    pub(super) values: BTreeMap<String, (Value, Origin)>,
    pub(super) problems: Vec<Problem>,
}

impl Layers {
    pub(super) fn refuse(&mut self, key: &str, origin: &Origin, message: impl Into<String>) {
        let (key, origin) = (key.to_string(), origin.clone());
        self.problems.push(Problem { severity: Severity::Error, key, origin, message: message.into() });
    }

    pub(super) fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
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

    pub(super) fn add_variables(&mut self, env: &BTreeMap<String, String>) {
        let known = known_keys().map(|key| (variable_of(&key), key));
        let variables: BTreeMap<String, String> =
            known.chain([SHORT_FILTER.map(String::from).into()]).collect();
        let sections =
            ["NODE", "PEERS", "API", "HTTP", "LOG", "RAFT", "EXECUTOR", "BLOBS", "CLUSTER", "CLASSES"];
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

    pub(super) fn add_flags(&mut self, overrides: &Overrides) {
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
    pub(super) fn get<T>(
        &mut self,
        key: &str,
        convert: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
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

    pub(super) fn is_set(&self, key: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use crate::config::Origin;
    use crate::config::testing::{load, refusals};
    use stint_protocol::{Class, Runtime};

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
        assert_eq!((config.api.listen, config.log.filter.as_str()), (None, "debug"));
        assert_eq!(config.executor.runtimes, [Runtime::Process, Runtime::Crun]);
        assert_eq!((config.executor.labels["rack"].as_str(), config.executor.sandbox), ("7", false));
        assert_eq!((config.executor.memory_bytes, config.classes[&Class::Gpu].max_gpus), (2 << 30, 8));
    }

    #[test]
    fn the_log_can_be_set_in_every_layer() {
        let config = load("", &[("STINT_LOG", "")], &[]).0.unwrap();
        assert_eq!((config.log.format.as_str(), config.log.filter.as_str()), ("text", "info,openraft=error"));
        let file = "[log]\nformat = \"json\"\nfilter = \"warn\"\n";
        let config = load(file, &[("STINT_LOG", "debug"), ("STINT_LOG_FILTER", "trace")], &[]).0.unwrap();
        assert_eq!((config.log.format.as_str(), config.log.filter.as_str()), ("json", "trace"));
        let message = refusals("", &[("STINT_LOG_FORMAT", "xml"), ("STINT_LOG_FROMAT", "json")], &[]);
        assert!(message.contains("text, json") && message.contains("\"STINT_LOG_FORMAT\""), "{message}");
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
}
