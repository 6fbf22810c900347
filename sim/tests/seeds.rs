//! Seeds that must pass, each simulated in a process of its own; and two runs of one seed, which must be the same bytes.

use std::process::{Command, Output};

fn sim(words: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_stint-sim")).args(words).output();
    output.unwrap_or_else(|error| panic!("stint-sim cannot be started: {error}"))
}

fn passes(words: &[&str]) {
    let output = sim(words);
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

/// Each line of the file: a seed that once broke a rule, the rule, and what it was.
#[test]
fn seeds_that_once_failed_pass() {
    for line in include_str!("../regressions.txt").lines().filter(|line| !line.starts_with('#')) {
        let Some(seed) = line.split_whitespace().next().filter(|seed| !seed.starts_with("fast:")) else {
            continue;
        };
        passes(&["seed", seed, "--quiet"]);
    }
}

/// A checker that catches nothing is worth nothing.
#[test]
fn planted_faults_are_caught() {
    for (plant, seed) in [("late_kill", "302"), ("false_account", "301")] {
        let output = sim(&["seed", seed, "--quiet", "--plant", plant]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(10), "{plant} is not caught by seed {seed}: {text}");
    }
}
