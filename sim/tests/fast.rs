//! The fast layer: fresh seeds pass, the same seed gives the same trace, and every planted wrong behaviour is caught.

use std::sync::Mutex;

use stint_sim::{FastPlant, Severity, Sweep, run_fast, sweep};

/// Seeds within which each plant must be caught.
const CAUGHT_WITHIN: u64 = 50;

/// The first seed in which a rule of safety is broken.
fn first_caught(plant: FastPlant) -> Option<u64> {
    let safety = |seed: &u64| {
        let violation = run_fast(*seed, Some(plant), false).violation;
        violation.is_some_and(|violation| violation.severity == Severity::Safety)
    };
    (0..CAUGHT_WITHIN).find(safety)
}

fn all_are_caught(of_the_product: bool) {
    for plant in FastPlant::ALL.into_iter().filter(|plant| plant.needs_feature() == of_the_product) {
        let first = first_caught(plant);
        println!("{} is caught by seed {first:?}", plant.as_str());
        assert!(first.is_some(), "{} is not caught in {CAUGHT_WITHIN} seeds", plant.as_str());
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

/// Lines `fast:SEED` of the file: each once broke a rule.
#[test]
fn fast_seeds_that_once_failed_pass() {
    for line in include_str!("../regressions.txt").lines() {
        let seed = line.split_whitespace().next().and_then(|word| word.strip_prefix("fast:"));
        let Some(seed) = seed.and_then(|seed| seed.parse().ok()) else { continue };
        let report = run_fast(seed, None, false);
        assert!(report.violation.is_none(), "fast:{seed}: {:?}", report.violation);
    }
}
