//! Every key as users see it: a configuration printed as a file that reads back to the same, each value with where it
//! came from (`--print-config`), and the reference table of the documentation.

use super::describe::Settings as _;
use super::layers::variable_of;
use super::{Config, Machine};

/// One key of the configuration, as the reference tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// `section.name`
    pub key: String,
    /// What to write.
    pub kind: String,
    pub default: String,
    pub meaning: String,
    /// The `STINT_*` variables that set it.
    pub variables: Vec<String>,
    /// The flag of `stint node` and what stands for its value, if it has one.
    pub flag: Option<&'static str>,
}

/// Every key, in the order of the reference.
pub fn keys() -> Vec<KeyInfo> {
    let machine = Machine {
        hostname: String::new(),
        cores: 1,
        memory_bytes: 0,
        data_dir: "/".into(),
        addresses: Vec::new(),
    };
    let mut keys = Vec::new();
    Config::on(&machine).visit("", &mut |key| {
        let shown = || key.slot.show().map_or_else(|| "none".into(), |value| format!("`{value}`"));
        let variables = std::iter::once(variable_of(&key.name));
        keys.push(KeyInfo {
            kind: key.slot.kind(),
            default: key.about.default.map_or_else(shown, String::from),
            meaning: key.about.meaning.trim().into(),
            variables: variables.chain(key.about.short_variable.map(String::from)).collect(),
            flag: key.about.flag,
            key: key.name,
        });
    });
    keys
}

impl Config {
    /// Every effective value as a configuration file, with its origin as a comment.
    pub fn to_toml(&self) -> String {
        let mut sections: Vec<(String, String)> = Vec::new();
        self.clone().visit("", &mut |key| {
            let Some(value) = key.slot.show() else { return };
            let (section, name) = key.name.rsplit_once('.').unwrap_or(("", &key.name));
            let line = format!("{name} = {value}  # {}\n", self.origin(&key.name));
            match sections.iter_mut().find(|(known, _)| known == section) {
                Some((_, lines)) => lines.push_str(&line),
                None => sections.push((section.into(), format!("[{section}]{}\n{line}", note(section)))),
            }
        });
        sections.into_iter().map(|(_, lines)| lines).collect::<Vec<_>>().join("\n")
    }
}

fn note(section: &str) -> &'static str {
    match section {
        "cluster" => "  # name: used at bootstrap only",
        _ if section.starts_with("classes.") => "  # used at bootstrap only; replicated from then on",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use crate::config::testing::from_file;

    #[test]
    fn what_is_printed_reads_back() {
        let text = "[node]\nname = \"n1\"\n[[executor.gpu]]\nid = \"GPU-1\"\nmodel = \"H200\"\nmemory = \"139GiB\"\n\
                    [artifacts]\nroots = [\"/data/in\"]\n[secrets]\ndir = \"/etc/stint/secrets\"\n\
                    [executor.labels]\nzone = \"a\"\n\"odd key\" = \"q\\\"\"\n[classes.gpu]\nmax_gpus = 4\n\
                    [executor.crun]\nnetworks = [\"none\", \"host\"]\ntmp_size = \"1GiB\"\n[executor.docker]\nswap = \"2GiB\"\ncredentials = \"/etc/stint/docker-config.json\"\n";
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
}
