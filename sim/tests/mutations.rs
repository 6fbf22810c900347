//! A checker that catches nothing is worth nothing: every plant is caught within fifty seeds, as what it is.
//! Run with `cargo test --profile ci -p stint-sim --features mutations --test mutations`.

use std::process::Command;

use stint_sim::Plant;

/// Seeds that a plant may need.
const SEEDS: u64 = 50;

/// Where everything goes wrong at once, some mistakes show once in many seeds: they are looked for where they matter.
fn scenario(plant: Plant) -> &'static str {
    match plant.as_str() {
        "ack_before_fsync" => concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plants/power-and-slow-disks.toml"),
        "renew_after_revoke" => concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plants/silent-nodes.toml"),
        "slurm_late_count" => concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plants/slurm-stale-folder.toml"),
        "slurm_deaf_guard" | "slurm_begins_twice" => "slurm-chaos",
        "renew_without_quorum" => "leader-cut-with-worker",
        _ => "mixed-chaos",
    }
}

/// The exit code of one seed, with a plant or without.
fn code(scenario: &str, seed: u64, plant: Option<Plant>) -> Option<i32> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stint-sim-mutants"));
    command.args(["seed", &seed.to_string(), scenario, "--quiet"]);
    if let Some(plant) = plant {
        command.args(["--plant", plant.as_str()]);
    }
    let output = command.output();
    output.unwrap_or_else(|error| panic!("stint-sim-mutants cannot be started: {error}")).status.code()
}

#[test]
fn every_plant_is_caught() {
    let mut missed = Vec::new();
    for plant in Plant::ALL {
        let (scenario, expected) = (scenario(plant), plant.expected() as i32);
        let caught = (1..=SEEDS).find(|seed| code(scenario, *seed, Some(plant)) == Some(expected));
        println!("{:<28} {caught:?}", plant.as_str());
        // What catches a plant must not catch the product.
        let innocent = caught.is_some_and(|seed| code(scenario, seed, None) == Some(0));
        if !innocent {
            missed.push(plant.as_str());
        }
    }
    assert!(missed.is_empty(), "not caught within {SEEDS} seeds: {missed:?}");
}

/// The mark that tells such a build from a release is there.
#[test]
fn a_build_with_mutations_says_so() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_stint-sim-mutants")).unwrap_or_default();
    let mark = b"this program can be made to behave wrongly";
    assert!(program.windows(mark.len()).any(|window| window == mark));
}
