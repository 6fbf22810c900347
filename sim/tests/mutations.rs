//! A checker that catches nothing is worth nothing: every plant is caught within fifty seeds, or by the seeds stored for
//! it, as what it is.
//! Run with `cargo test --profile ci -p stint-sim --features mutations --test mutations`.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use stint_sim::{FastPlant, Plant, run_fast};

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
        "no_last_stop" => "stopped-hosts",
        "wall_clock_jump" => "clock-jumps",
        _ => "mixed-chaos",
    }
}

/// What became of one seed of whole peers, with a plant or without: its exit code, and what was said.
fn simulate(scenario: &str, seed: u64, plant: Option<Plant>) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stint-sim-mutants"));
    command.args(["seed", &seed.to_string(), scenario, "--quiet"]);
    if let Some(plant) = plant {
        command.args(["--plant", plant.as_str()]);
    }
    let output = command.output().unwrap_or_else(|error| panic!("stint-sim-mutants: {error}"));
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The exit code of one seed.
fn code(scenario: &str, seed: u64, plant: Option<Plant>) -> Option<i32> {
    simulate(scenario, seed, plant).0
}

/// A line of regressions.txt: `seed scenario rule plant story`, or `fast:seed rule plant story`.
struct Line<'a> {
    text: &'a str,
    seed: u64,
    /// None: of the fast layer.
    scenario: Option<&'a str>,
    rule: String,
    plant: &'a str,
    story: &'a str,
}

impl<'a> Line<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (seed, rest) = text.split_once(' ')?;
        let (seed, scenario, rest) = match seed.strip_prefix("fast:") {
            Some(seed) => (seed, None, rest),
            None => rest.split_once(' ').map(|(scenario, rest)| (seed, Some(scenario), rest))?,
        };
        let mut fields = rest.splitn(3, ' ');
        let (rule, plant, story) = (fields.next()?.replace('-', " "), fields.next()?, fields.next()?);
        Some(Self { text, seed: seed.parse().ok()?, scenario, rule, plant, story })
    }

    /// Whether this seed shows the fault of the stories above it.
    fn is_planted(&self) -> bool {
        !matches!(self.plant, "-" | "simulator")
    }

    /// What is wrong with it: with its plant it must break its rule, without it none.
    fn check(&self) -> Result<(), String> {
        let (caught, innocent, said) = match self.scenario {
            Some(scenario) => {
                let plant: Plant = self.plant.parse()?;
                let (code, said) = simulate(scenario, self.seed, Some(plant));
                let caught = code != Some(0) && said.contains(&format!("\"{}\"", self.rule));
                (caught, self::code(scenario, self.seed, None) == Some(0), said)
            }
            None => {
                let violation = |plant| run_fast(self.seed, plant, false).violation;
                let found = violation(Some(self.plant.parse::<FastPlant>()?));
                let caught = found.as_ref().is_some_and(|found| found.rule == self.rule);
                (caught, violation(None).is_none(), format!("{found:?}"))
            }
        };
        match (caught, innocent) {
            (true, true) => Ok(()),
            (true, false) => Err(format!("{}\n    breaks a rule without its plant", self.text)),
            (false, _) => Err(format!("{}\n    with its plant: {said}", self.text)),
        }
    }
}

/// Every line that is no comment.
fn lines(text: &str) -> Vec<Line<'_>> {
    let full = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    full.map(|line| Line::read(line).unwrap_or_else(|| panic!("cannot be read: {line}"))).collect()
}

/// Stories of the product whose fault is planted nowhere. The line of a seed that its fault no longer shows in has `-`,
/// and is followed by the line of a seed that it does, whose story begins with "the same".
fn unplanted<'a>(lines: &[Line<'a>]) -> Vec<&'a str> {
    let (mut missing, mut open) = (Vec::new(), Vec::new());
    for line in lines {
        if line.plant == "-" && line.story.starts_with("the same") {
            open.push(line.text);
        } else {
            let shown = line.is_planted() && line.story.starts_with("the same");
            if shown {
                open.clear();
            }
            missing.append(&mut open);
            open.extend((line.plant == "-").then_some(line.text));
        }
    }
    missing.append(&mut open);
    missing
}

const FILE: &str = include_str!("../regressions.txt");

/// Each fault that once broke a rule is noticed by the same rule when it comes back.
#[test]
fn the_fault_of_every_story_is_caught_again() {
    let lines = lines(FILE);
    let missing = unplanted(&lines);
    assert!(missing.is_empty(), "nothing shows that their faults would be noticed again: {missing:#?}");
    let planted: Vec<&Line<'_>> = lines.iter().filter(|line| line.is_planted()).collect();
    let next = AtomicUsize::new(0);
    let some = || {
        let mine = || planted.get(next.fetch_add(1, Ordering::Relaxed));
        std::iter::from_fn(mine).filter_map(|line| line.check().err()).collect::<Vec<String>>()
    };
    let wrong = std::thread::scope(|scope| {
        let both = [scope.spawn(some), scope.spawn(some)];
        both.map(|thread| thread.join().unwrap_or_else(|_| panic!("a seed panicked"))).concat()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_story_without_a_plant_is_noticed() {
    let missing = |text: &str| unplanted(&lines(text)).len();
    let same = "2 quiet a-rule stale_read the same: the seed that shows it";
    assert_eq!(missing("1 quiet a-rule - a story"), 1);
    assert_eq!(missing("1 quiet a-rule simulator a story"), 0);
    assert_eq!(missing(&format!("1 quiet a-rule - a story\n3 quiet a-rule - the same\n{same}")), 0);
    assert_eq!(missing("1 quiet a-rule - a story\nfast:2 a-rule stale_orders another one"), 1);
    assert_eq!(missing(&format!("1 quiet a-rule - a story\n3 quiet a-rule - another one\n{same}")), 1);
}

#[test]
fn every_plant_is_caught() {
    let mut missed = Vec::new();
    let lines = lines(FILE);
    let whole = lines.iter().filter(|line| line.is_planted() && line.scenario.is_some());
    let stored: Vec<Plant> = whole.map(|line| line.plant.parse().expect("a plant")).collect();
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
