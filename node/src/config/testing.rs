//! What the tests of the configuration share.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::{Config, ConfigError, Machine, Overrides};

pub fn machine() -> Machine {
    Machine {
        hostname: "host".into(),
        cores: 4,
        memory_bytes: 10 << 30,
        data_dir: "/var/lib/stint".into(),
        addresses: vec![Ipv4Addr::new(10, 0, 0, 1)],
    }
}

pub fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

pub fn load(
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

pub fn from_file(text: &str) -> Config {
    load(text, &[], &[]).0.unwrap()
}

/// The messages, with the file's path taken off.
pub fn refusals(text: &str, env: &[(&str, &str)], flags: &[(&str, &str, &str)]) -> String {
    let (loaded, path) = load(text, env, flags);
    loaded.unwrap_err().to_string().replace(&path, "stint.toml")
}
