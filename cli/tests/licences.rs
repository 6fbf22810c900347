//! The licence and the source of every crate that is built are ones that `deny.toml` allows: the part of
//! `cargo deny check` that must hold also where that tool is not installed.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// What `deny.toml` says of licences.
struct Rules {
    allowed: BTreeSet<String>,
    /// Licences that one crate may have.
    exceptions: Vec<(String, BTreeSet<String>)>,
}

impl Rules {
    fn read(root: &Path) -> Self {
        let deny: toml::Table = std::fs::read_to_string(root.join("deny.toml")).unwrap().parse().unwrap();
        let licences = &deny["licenses"];
        let args = |list: &toml::Value| -> BTreeSet<String> {
            list.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_string()).collect()
        };
        let exception =
            |entry: &toml::Value| (entry["crate"].as_str().unwrap().to_string(), args(&entry["allow"]));
        Self {
            allowed: args(&licences["allow"]),
            exceptions: licences["exceptions"].as_array().unwrap().iter().map(exception).collect(),
        }
    }

    fn allow(&self, name: &str, licence: &str) -> bool {
        let own = self.exceptions.iter().find(|(of, _)| of == name).map(|(_, licences)| licences);
        // `MPL-2.0+` is that version or a later one at our choice.
        let known = |id: &str| {
            let id = id.trim_end_matches('+');
            self.allowed.contains(id) || own.is_some_and(|own| own.contains(id))
        };
        allows(licence, &known)
    }
}

/// Whether an SPDX expression can be met with licences that are known. `/`, as old manifests write, is OR.
fn allows(expression: &str, known: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let args: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &args[..];
    let met = any(&mut rest, known);
    assert!(rest.is_empty(), "{expression:?} is no licence expression: {rest:?} is left");
    met
}

fn any(args: &mut &[&str], known: &dyn Fn(&str) -> bool) -> bool {
    let mut met = all(args, known);
    while let ["OR", rest @ ..] = *args {
        *args = rest;
        met |= all(args, known);
    }
    met
}

fn all(args: &mut &[&str], known: &dyn Fn(&str) -> bool) -> bool {
    let mut met = one(args, known);
    while let ["AND", rest @ ..] = *args {
        *args = rest;
        met &= one(args, known);
    }
    met
}

fn one(args: &mut &[&str], known: &dyn Fn(&str) -> bool) -> bool {
    match *args {
        ["(", rest @ ..] => {
            *args = rest;
            let met = any(args, known);
            let [")", rest @ ..] = *args else { panic!("a parenthesis is not closed before {args:?}") };
            *args = rest;
            met
        }
        [id, "WITH", exception, rest @ ..] => {
            *args = rest;
            known(&format!("{id} WITH {exception}"))
        }
        [id, rest @ ..] => {
            *args = rest;
            known(id)
        }
        [] => panic!("a licence is missing"),
    }
}

/// Every crate that is built for this machine, tests and build scripts included.
fn crates(root: &Path) -> Vec<Value> {
    let host = Command::new("rustc").arg("-vV").output().unwrap().stdout;
    let host = String::from_utf8(host).unwrap();
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

#[test]
fn every_crate_has_an_allowed_licence_and_source() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let rules = Rules::read(root);
    let crates = crates(root);
    assert!(crates.len() > 100, "the dependencies were not found");
    let mut wrong = Vec::new();
    for package in &crates {
        let (name, version) = (package["name"].as_str().unwrap(), &package["version"]);
        match package["license"].as_str() {
            None => wrong.push(format!("{name} {version} names no licence")),
            Some(licence) if !rules.allow(name, licence) => {
                wrong.push(format!("{name} {version} has the licence {licence}"));
            }
            Some(_) => {}
        }
        // Ours have no source.
        if let Some(source) = package["source"].as_str().filter(|source| *source != CRATES_IO) {
            wrong.push(format!("{name} {version} comes from {source}"));
        }
    }
    assert!(wrong.is_empty(), "deny.toml does not allow:\n{}", wrong.join("\n"));
    let names: BTreeSet<&str> = crates.iter().filter_map(|package| package["name"].as_str()).collect();
    for (of, _) in &rules.exceptions {
        assert!(names.contains(of.as_str()), "deny.toml has an exception for {of}, which is not used");
    }
}

#[test]
fn licence_expressions_are_read_as_spdx_says() {
    let known = |id: &str| ["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].contains(&id);
    let fine = [
        "MIT",
        "GPL-3.0 OR MIT",
        "GPL-3.0/MIT",
        "(MIT OR GPL-3.0) AND Unicode-3.0",
        "GPL-3.0 AND ISC OR MIT",
        "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
    ];
    for expression in fine {
        assert!(allows(expression, &known), "{expression}");
    }
    for expression in ["GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0", "(MIT OR ISC) AND GPL-3.0"] {
        assert!(!allows(expression, &known), "{expression}");
    }
}
