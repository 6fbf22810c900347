//! Values by key from file, variables and flags, a later layer over an earlier one. What is not known is refused with
//! where it stands and what it may have been meant to be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use stint_sdk::suggest;
use toml::Value;

use super::describe::{Key, Settings};
use super::{ConfigError, Origin, Overrides, Problem, Severity};

/// The variable of `a.b_c` is `STINT_A_B_C`.
pub(super) fn variable_of(key: &str) -> String {
    format!("STINT_{}", key.replace('.', "_").to_uppercase())
}

/// Values by key, a later layer over an earlier one, and what was wrong on the way.
pub(super) struct Layers {
    /// Every key that there is, and its second variable.
    known: Vec<(String, Option<&'static str>)>,
    pub(super) values: BTreeMap<String, (Value, Origin)>,
    pub(super) problems: Vec<Problem>,
}

impl Layers {
    /// For the keys of these settings.
    pub(super) fn new(settings: &mut impl Settings) -> Self {
        let mut known = Vec::new();
        settings.visit("", &mut |key| known.push((key.name, key.about.short_variable)));
        Self { known, values: BTreeMap::new(), problems: Vec::new() }
    }

    fn keys(&self) -> impl Iterator<Item = &str> {
        self.known.iter().map(|(key, _)| key.as_str())
    }

    pub(super) fn refuse(&mut self, key: &str, origin: &Origin, message: impl Into<String>) {
        let (key, origin) = (key.to_string(), origin.clone());
        self.problems.push(Problem { severity: Severity::Error, key, origin, message: message.into() });
    }

    pub(super) fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let read = |source| ConfigError::Read { path: path.into(), source };
        self.add_text(path, &std::fs::read_to_string(path).map_err(read)?)
    }

    pub(super) fn add_text(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let syntax = |error: toml::de::Error| ConfigError::Syntax {
            path: path.into(),
            line: line_of(text, error.span().map_or(0, |s| s.start)),
            message: error.message().replace('\n', ", "),
        };
        let spans = toml::de::DeTable::parse(text).map_err(syntax)?;
        let values: toml::Table = text.parse().map_err(syntax)?;
        let file = SourceFile { path, text };
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
            if self.keys().any(|known| known == key) {
                self.values.insert(key, (value, origin));
            } else if !self.is_section(&key) {
                let message = self.unknown_message(above, name_text);
                self.refuse(&key, &origin, message);
            } else if let (Value::Table(inner), Some(inner_spans)) = (value, span.get_ref().as_table()) {
                self.add_table(file, &key, inner_spans, inner);
            } else {
                self.refuse(&key, &origin, format!("is a section: write [{key}] and its keys below"));
            }
        }
    }

    pub(super) fn add_variables(&mut self, env: &BTreeMap<String, String>) {
        let short = self.known.iter().filter_map(|(key, short)| Some((short.as_ref()?.to_string(), key)));
        let long = self.known.iter().map(|(key, _)| (variable_of(key), key));
        let variables: BTreeMap<String, String> =
            short.chain(long).map(|(variable, key)| (variable, key.clone())).collect();
        let sections: BTreeSet<String> =
            self.keys().filter_map(|key| key.split('.').next()).map(variable_of).collect();
        // In the order of their names: STINT_LOG_FILTER wins over STINT_LOG.
        for (name, value) in env.iter().filter(|(name, _)| name.starts_with("STINT_")) {
            let origin = Origin::Variable(name.clone());
            if let Some(key) = variables.get(name) {
                self.values.insert(key.clone(), (Value::from(value.as_str()), origin));
            } else if sections.iter().any(|section| name.starts_with(&format!("{section}_"))) {
                let hint = suggest::hint(name, variables.keys().map(String::as_str));
                self.refuse(name, &origin, format!("is no variable of Stint{hint}; unset it or correct it"));
            }
        }
    }

    pub(super) fn add_flags(&mut self, overrides: &Overrides) {
        for (key, (flag, value)) in &overrides.0 {
            let origin = Origin::Flag(flag.clone());
            if self.keys().any(|known| known == key) {
                self.values.insert(key.clone(), (Value::from(value.as_str()), origin));
            } else {
                let hint = suggest::hint(key, self.keys());
                self.refuse(key, &origin, format!("is no key of the configuration{hint}"));
            }
        }
    }

    /// Gives a key the value that is set, if one is; what does not fit becomes a problem.
    pub(super) fn fill(&mut self, key: Key<'_>) {
        let Some((value, origin)) = self.values.get(&key.name) else { return };
        if let Err(misfit) = key.slot.read(value) {
            let origin = origin.clone();
            self.refuse(&key.name, &origin, misfit.to_string());
        }
    }

    pub(super) fn is_set(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    fn is_section(&self, key: &str) -> bool {
        let within = format!("{key}.");
        self.keys().any(|known| known.starts_with(&within))
    }

    fn unknown_message(&self, above: &str, name: &str) -> String {
        let prefix = if above.is_empty() { String::new() } else { format!("{above}.") };
        let below = self.keys().filter_map(|key| key.strip_prefix(&prefix)?.split('.').next());
        let mut siblings: Vec<&str> = below.collect();
        siblings.dedup();
        match suggest::hint(name, siblings.iter().copied()) {
            hint if hint.is_empty() => format!("unknown key; known here: {}", siblings.join(", ")),
            hint => format!("unknown key{hint}"),
        }
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
