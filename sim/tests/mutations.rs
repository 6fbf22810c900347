//! A checker that catches nothing is worth nothing: every plant is caught within fifty seeds, or by the seeds stored for
//! it, as what it is.
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

/// A seed that once broke a rule, and the fault of its story, planted again.
struct Story {
    seed: u64,
    scenario: String,
    rule: String,
    plant: Plant,
}

/// Those of the lines `seed scenario rule plant story` that have a plant.
fn stories() -> Vec<Story> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/regressions.txt");
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("fast:"));
    let fields = lines.map(|line| line.split(' ').take(4).collect::<Vec<&str>>());
    let planted = fields.filter(|fields| fields[3] != "-");
    let story = |fields: Vec<&str>| Story {
        seed: fields[0].parse().expect("a seed"),
        scenario: fields[1].into(),
        rule: fields[2].replace('-', " "),
        plant: fields[3].parse().expect("a plant"),
    };
    planted.map(story).collect()
}

/// Each fault that once broke a rule is noticed by the same rule when it comes back.
#[test]
fn the_fault_of_every_story_is_caught_again() {
    let mut missed = Vec::new();
    for Story { seed, scenario, rule, plant } in stories() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stint-sim-mutants"));
        command.args(["seed", &seed.to_string(), &scenario, "--quiet", "--plant", plant.as_str()]);
        let output = command.output().unwrap_or_else(|error| panic!("stint-sim-mutants: {error}"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{}: {said}", plant.as_str());
        if output.status.success() || !said.contains(&format!("\"{rule}\"")) {
            missed.push(format!("{seed} {scenario} with {}, not caught by {rule:?}: {said}", plant.as_str()));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn every_plant_is_caught() {
    let mut missed = Vec::new();
    let stored: Vec<Plant> = stories().into_iter().map(|story| story.plant).collect();
    for plant in Plant::ALL.into_iter().filter(|plant| !stored.contains(plant)) {
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
