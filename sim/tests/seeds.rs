//! Seeds that must pass, each simulated in a process of its own; and two runs of one seed, which must be the same bytes.

use std::process::{Command, Output};

fn sim(args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_stint-sim")).args(args).output();
    output.unwrap_or_else(|error| panic!("stint-sim cannot be started: {error}"))
}

fn passes(args: &[&str]) {
    let output = sim(args);
    let text = String::from_utf8_lossy(&output.stdout);
    let last: Vec<&str> = text.lines().rev().take(3).collect();
    assert_eq!(output.status.code(), Some(0), "{last:#?}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn some_seeds_pass() {
    passes(&["run", "--seeds", "3", "--from", "1", "--jobs", "1"]);
}

#[test]
fn the_same_seed_twice_gives_the_same_bytes() {
    passes(&["twice", "7"]);
}

/// Each line of the file: a seed that once broke a rule, its scenario, the rule, and what it was.
#[test]
fn seeds_that_once_failed_pass() {
    passes(&["regressions", "--jobs", "1"]);
}

/// A checker that catches nothing is worth nothing.
#[test]
fn planted_faults_are_caught() {
    for plant in ["late_kill", "false_account"] {
        let caught = |seed: u32| sim(&["seed", &seed.to_string(), "--quiet", "--plant", plant]).status.code();
        assert!(
            (300..340).any(|seed| caught(seed) == Some(10)),
            "{plant} is caught by no seed from 300 to 339"
        );
    }
}
