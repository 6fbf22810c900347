//! The fast layer: fresh seeds pass, the same seed gives the same trace, and every planted wrong behaviour is caught.

use std::sync::Mutex;

use stint_sim::{FastPlant, Severity, Sweep, has_crowd, run_fast, sweep};

/// Seeds within which each plant must be caught.
const CAUGHT_WITHIN: u64 = 50;

/// The first seed in which a rule of safety is broken, or in which a task waits for nothing.
fn first_caught(plant: FastPlant) -> Option<u64> {
    let caught = |seed: &u64| {
        let violation = run_fast(*seed, Some(plant), false).violation;
        violation.is_some_and(|violation| {
            violation.severity == Severity::Safety || violation.rule == "a task that fits waits for no plan"
        })
    };
    (0..CAUGHT_WITHIN).find(caught)
}

/// Lines `fast:SEED rule plant story`: a seed that once broke a rule, and the fault of its story, planted again.
fn stories() -> Vec<(u64, String, Option<FastPlant>)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/regressions.txt");
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let lines = text.lines().filter_map(|line| line.strip_prefix("fast:"));
    let story = |line: &str| {
        let fields: Vec<&str> = line.split(' ').take(3).collect();
        let plant = Some(fields[2]).filter(|plant| !["-", "simulator"].contains(plant));
        let plant = plant
            .map(|word| FastPlant::ALL.into_iter().find(|plant| plant.as_str() == word).expect("a plant"));
        (fields[0].parse().expect("a seed"), fields[1].replace('-', " "), plant)
    };
    lines.map(story).collect()
}

fn all_are_caught(of_the_product: bool) {
    let of_this_kind =
        |plant: &FastPlant| plant.needs_feature() == of_the_product && !plant.is_of_workflows();
    let stored: Vec<FastPlant> = stories().into_iter().filter_map(|(_, _, plant)| plant).collect();
    for plant in FastPlant::ALL.into_iter().filter(|plant| of_this_kind(plant) && !stored.contains(plant)) {
        let first = first_caught(plant);
        println!("{} is caught by seed {first:?}", plant.as_str());
        assert!(first.is_some(), "{} is not caught in {CAUGHT_WITHIN} seeds", plant.as_str());
    }
    // Some need a rare coincidence: a seed is stored that has it.
    for (seed, rule, plant) in stories() {
        let Some(plant) = plant.filter(of_this_kind) else { continue };
        let violation = run_fast(seed, Some(plant), false).violation;
        let caught = violation.as_ref().is_some_and(|violation| violation.rule == rule);
        assert!(caught, "fast:{seed} with {}, not caught by {rule:?}: {violation:?}", plant.as_str());
    }
}

#[test]
fn fresh_seeds_pass() {
    let failed = Mutex::new(Vec::new());
    sweep(&Sweep { seeds: 200, from: 1_000_000, jobs: 2, plant: None }, |report| {
        if let Some(violation) = &report.violation {
            let mut failed = failed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            failed.push(format!("fast:{}: {violation:?}", report.seed));
        }
        let quiet = report.commands < 200 || report.faults < 20;
        assert!(!quiet || report.violation.is_some(), "seed {} is too quiet", report.seed);
    });
    let failed = failed.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    assert!(failed.is_empty(), "{failed:#?}");
}

/// The planner, the log and the queues at the size of real life.
#[test]
fn ten_thousand_waiting_tasks_are_in_nobodys_way() {
    for seed in (0..).filter(|seed| has_crowd(*seed)).take(2) {
        let report = run_fast(seed, None, false);
        assert!(report.violation.is_none(), "fast:{seed}: {:?}", report.violation);
        assert!(report.most_waiting >= 10_000, "fast:{seed}: {} waited", report.most_waiting);
        assert!(report.finished > report.most_waiting, "fast:{seed}: {} finished", report.finished);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..20 {
        let (one, two) = (run_fast(seed, None, true), run_fast(seed, None, true));
        assert_eq!((one.hash, one.trace), (two.hash, two.trace), "seed {seed}");
    }
}

#[test]
fn plants_around_the_product_are_caught() {
    all_are_caught(false);
}

/// Needs `--features mutations`: these lie in the product's own code.
#[cfg(feature = "mutations")]
#[test]
fn plants_in_the_product_are_caught() {
    all_are_caught(true);
}

/// How workflow instances are treated, in the product's code and around it.
#[test]
fn plants_in_workflows_are_caught() {
    let plants = FastPlant::ALL.into_iter().filter(|plant| plant.is_of_workflows());
    for plant in plants.filter(|plant| !plant.needs_feature() || cfg!(feature = "mutations")) {
        let first = first_caught(plant);
        println!("{} is caught by seed {first:?}", plant.as_str());
        assert!(first.is_some(), "{} is not caught in {CAUGHT_WITHIN} seeds", plant.as_str());
    }
}

/// Each of them once broke a rule.
#[test]
fn fast_seeds_that_once_failed_pass() {
    for (seed, ..) in stories() {
        let report = run_fast(seed, None, false);
        assert!(report.violation.is_none(), "fast:{seed}: {:?}", report.violation);
    }
}
