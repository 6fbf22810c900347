//! Which crate of ours may use which (ARCHITECTURE.md). A new arrow is a decision: change both.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const ARROWS: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("scheduler", &["protocol"]),
    ("raft", &[]),
    ("raft/histogram", &[]),
    ("executor", &["protocol"]),
    ("slurm-bridge", &["executor", "protocol"]),
    ("sdk", &["protocol"]),
    ("node", &["scheduler", "raft", "executor", "slurm-bridge", "protocol", "sdk"]),
    ("cli", &["sdk", "protocol", "node", "executor"]),
    ("sim", &["node", "scheduler", "raft", "executor", "slurm-bridge", "protocol", "sdk"]),
];

fn manifest(root: &Path, crate_name: &str) -> toml::Table {
    let path = root.join(crate_name).join("Cargo.toml");
    std::fs::read_to_string(&path).unwrap().parse().unwrap()
}

fn ours(manifest: &toml::Table) -> BTreeSet<String> {
    let tables = ["dependencies", "dev-dependencies", "build-dependencies"];
    let names = tables.iter().filter_map(|t| manifest.get(*t)?.as_table()).flat_map(|t| t.keys());
    names.filter_map(|name| name.strip_prefix("stint-")).map(String::from).collect()
}

#[test]
fn the_arrows_between_crates_are_the_agreed_ones() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let workspace: toml::Table = std::fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
    let members: BTreeSet<String> = workspace["workspace"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m.as_str().unwrap().to_string())
        .collect();
    let known: BTreeMap<&str, BTreeSet<String>> =
        ARROWS.iter().map(|(name, may)| (*name, may.iter().map(|m| m.to_string()).collect())).collect();
    assert_eq!(members, known.keys().map(|k| k.to_string()).collect(), "a crate without agreed arrows");
    for (name, may) in known {
        let uses = ours(&manifest(root, name));
        let extra: Vec<_> = uses.difference(&may).collect();
        assert!(extra.is_empty(), "{name} uses {extra:?}, which the architecture does not allow");
    }
}

#[test]
fn only_raft_names_openraft_and_only_sim_names_turmoil() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (name, _) in ARROWS {
        let manifest = manifest(root, name);
        let uses = |dependency: &str| {
            let tables = ["dependencies", "dev-dependencies"];
            tables.iter().any(|t| manifest.get(*t).and_then(|t| t.get(dependency)).is_some())
        };
        assert!(!uses("openraft") || *name == "raft", "{name} names openraft");
        assert!(!(uses("turmoil") || uses("mad-turmoil")) || *name == "sim", "{name} names turmoil");
    }
}

/// Source files below a folder, with their text.
fn sources(folder: &str) -> Vec<(std::path::PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(folder);
    let mut folders = vec![root];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    files
}

#[test]
fn only_fronts_know_outward_protocols() {
    let of_a_front =
        |path: &Path| path.ends_with("start/fronts.rs") || path.to_string_lossy().contains("/front");
    let (fronts, others): (Vec<_>, Vec<_>) =
        sources("node/src").into_iter().partition(|(path, _)| of_a_front(path));
    assert!(fronts.len() >= 8 && others.len() > 60, "the node's files were not found");
    for (path, text) in others {
        for word in ["tonic", "prost", "axum", "v1::"] {
            assert!(!text.contains(word), "{} names {word}", path.display());
        }
    }
}

#[test]
fn the_service_is_apart_from_fronts() {
    let files: Vec<_> = sources("node/src/service");
    assert!(files.len() > 12, "the service's files were not found");
    for (path, text) in files {
        assert!(!text.contains("crate::front"), "{} names a front", path.display());
    }
}

/// A call that nobody checked would be open to all: each operation stands at the one method that does it, and each method
/// asks for one.
#[test]
fn every_operation_of_the_service_is_checked_where_it_is_done() {
    let files = sources("node/src/service");
    let is = |path: &Path, name: &str| path.ends_with(format!("service/{name}.rs"));
    let (_, access) = files.iter().find(|(path, _)| is(path, "access")).unwrap();
    let listed = access.split("\noperations! {\n").nth(1).unwrap().split("\n}").next().unwrap();
    let operations: Vec<&str> = listed.lines().map(|row| row.trim().split(':').next().unwrap()).collect();
    assert!(operations.len() > 15, "{operations:?}");
    let elsewhere: Vec<_> = files.iter().filter(|(path, _)| !is(path, "access")).collect();
    for operation in &operations {
        let asks = format!("(caller, Operation::{operation}");
        let found: usize = elsewhere.iter().map(|(_, text)| text.matches(&asks).count()).sum();
        assert_eq!(found, 1, "places that check {operation}");
    }
    let with_a_caller = elsewhere.iter().filter(|(path, _)| !is(path, "health"));
    let taking_a_caller = |text: &str| {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ").replace("( &self", "(&self");
        let heads = text.split("pub ").filter_map(|item| item.split(')').next());
        heads.filter(|head| head.contains("fn ") && head.contains("(&self, caller: &Principal")).count()
    };
    let methods: usize = with_a_caller.map(|(_, text)| taking_a_caller(text)).sum();
    assert_eq!(methods, operations.len(), "public methods that somebody calls");
}

#[test]
fn the_scheduler_reads_no_clock_and_no_hash_map() {
    let files = sources("scheduler/src");
    assert!(files.len() > 10, "the scheduler's files were not found");
    for (path, text) in files {
        for word in [
            "std::thread",
            "std::fs",
            "std::net",
            "tokio",
            "Instant",
            "SystemTime",
            "HashMap",
            "HashSet",
            "rand::",
        ] {
            assert!(!text.contains(word), "{} names {word}", path.display());
        }
    }
}
