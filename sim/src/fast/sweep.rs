//! Many seeds over threads. A panic in a seed is that seed's violation.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{FastPlant, FastReport, run_fast};
use crate::oracle::{Severity, Violation};

/// Which seeds, and how.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    pub seeds: u64,
    pub from: u64,
    pub jobs: usize,
    pub plant: Option<FastPlant>,
}

/// Runs them, each once; `done` hears of each report, from any thread.
pub fn sweep(sweep: &Sweep, done: impl Fn(&FastReport) + Sync) {
    let next = AtomicU64::new(sweep.from);
    let until = sweep.from.saturating_add(sweep.seeds);
    std::thread::scope(|scope| {
        for _ in 0..sweep.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= until {
                        return;
                    }
                    done(&run_caught(seed, sweep.plant, false));
                }
            });
        }
    });
}

/// Runs a seed; a panic becomes a violation, and the trace is lost with it.
pub fn run_caught(seed: u64, plant: Option<FastPlant>, keep_trace: bool) -> FastReport {
    caught(seed, || run_fast(seed, plant, keep_trace))
}

fn caught(seed: u64, run: impl FnOnce() -> FastReport) -> FastReport {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        let violation = Violation { severity: Severity::Crash, rule: "no panic", what: text.to_owned() };
        FastReport {
            seed,
            violation: Some(violation),
            hash: 0,
            trace: String::new(),
            simulated_ms: 0,
            commands: 0,
            faults: 0,
            attempts: 0,
            finished: 0,
            most_waiting: 0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_the_seeds_own_violation() {
        let report = caught(7, || panic!("{} of a seed", "the middle"));
        let violation = report.violation.unwrap_or_else(|| panic!("it was not noticed"));
        assert_eq!((violation.severity, violation.what.as_str()), (Severity::Crash, "the middle of a seed"));
        assert_eq!((report.seed, Severity::Crash as u8), (7, 13));
    }
}
