//! `stint sim` becomes the program beside it, with its words and its exit code; and says what to do when it is missing.
#![allow(clippy::unwrap_used)]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A folder with `stint` in it, and nothing else.
fn installed() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let stint = folder.path().join("stint");
    if std::fs::hard_link(env!("CARGO_BIN_EXE_stint"), &stint).is_err() {
        std::fs::copy(env!("CARGO_BIN_EXE_stint"), &stint).unwrap();
    }
    (folder, stint)
}

/// A simulator that shows its words and exits with 11.
fn fake(at: &Path) {
    std::fs::write(at, "#!/bin/sh\nfor word in \"$@\"; do echo \"[$word]\"; done\nexit 11\n").unwrap();
    std::fs::set_permissions(at, Permissions::from_mode(0o755)).unwrap();
}

fn stint(program: &Path, path: &Path, args: &[&str]) -> Output {
    Command::new(program).args(args).env("PATH", path).output().unwrap()
}

#[test]
fn every_word_and_the_exit_code_pass_through() {
    let (folder, program) = installed();
    fake(&folder.path().join("stint-sim"));
    let output = stint(&program, Path::new("/nowhere"), &["sim", "run", "--help", "-o", "json", "--", "a b"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "[run]\n[--help]\n[-o]\n[json]\n[--]\n[a b]\n");
    assert_eq!(output.status.code(), Some(11));
}

#[test]
fn one_in_path_is_found_and_one_beside_comes_first() {
    let (folder, program) = installed();
    let other = tempfile::tempdir().unwrap();
    fake(&other.path().join("stint-sim"));
    assert_eq!(stint(&program, other.path(), &["sim"]).status.code(), Some(11));
    std::fs::write(folder.path().join("stint-sim"), "#!/bin/sh\nexit 12\n").unwrap();
    std::fs::set_permissions(folder.path().join("stint-sim"), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(stint(&program, other.path(), &["sim"]).status.code(), Some(12));
}

#[test]
fn a_missing_simulator_is_told_with_what_to_do() {
    let (folder, program) = installed();
    let output = stint(&program, Path::new("/nowhere"), &["sim", "run"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for word in ["stint-sim", "cargo build", "PATH", &folder.path().display().to_string()] {
        assert!(said.contains(word), "{word} is missing: {said}");
    }
}
