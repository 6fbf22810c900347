//! What a simulated program does: each task has its ways, each attempt of it a run time of its own.

use stint_protocol::{BootMs, EndKind, LeaseId};

use crate::recorded;
use crate::rng::SeededRng;
use crate::scenario::Workload;

/// What a program will do.
pub struct Program {
    pub since: BootMs,
    /// None: hangs until it is stopped.
    pub ends_at: Option<BootMs>,
    pub end: EndKind,
    pub obeys_term: bool,
    /// It was killed, and is gone then.
    pub dies_at: Option<BootMs>,
}

/// Why it does not even start.
pub fn spawn_failure(lease: LeaseId, rules: &Workload) -> Option<EndKind> {
    match behaviour(lease, rules) {
        Behaviour::CannotStart(kind) => Some(kind),
        _ => None,
    }
}

enum Behaviour {
    Succeeds,
    Hangs,
    Fails(EndKind),
    CannotStart(EndKind),
}

/// The same for every attempt of a task, but for failures that lie with the machine.
fn behaviour(lease: LeaseId, rules: &Workload) -> Behaviour {
    let task = lease.task.0;
    let mut rng = SeededRng::new(task as u64 ^ (task >> 64) as u64, 0x5000);
    let percent = rng.below(100);
    if percent < rules.hanging_percent {
        return Behaviour::Hangs;
    }
    if percent >= rules.hanging_percent + rules.failing_percent {
        return Behaviour::Succeeds;
    }
    let first = lease.attempt == 1;
    match rng.below(10) {
        0..=3 => Behaviour::Fails(EndKind::Exited(rng.between(1, 255) as i32)),
        4 => Behaviour::Fails(EndKind::Signalled(11)),
        5 | 6 => Behaviour::Fails(EndKind::OutOfMemory),
        7 => Behaviour::CannotStart(EndKind::NotRunnable),
        // These lie with the machine: another attempt may do better.
        8 if first => Behaviour::CannotStart(EndKind::StartFailed),
        9 if first => Behaviour::Fails(EndKind::StartFailed),
        _ => Behaviour::Succeeds,
    }
}

impl Program {
    /// Begins now.
    pub fn drawn(lease: LeaseId, rules: &Workload, rng: &mut SeededRng, now: BootMs) -> Self {
        let run_ms = if rules.run_ms.is_empty() { 0 } else { rng.within(*rng.clone().pick(&rules.run_ms)) };
        let (hangs, end) = match behaviour(lease, rules) {
            Behaviour::Succeeds => (false, EndKind::Exited(0)),
            Behaviour::Hangs => (true, EndKind::Exited(0)),
            Behaviour::Fails(kind) | Behaviour::CannotStart(kind) => (false, kind),
        };
        let ends_at = (!hangs).then(|| now.plus(run_ms));
        Self { since: now, ends_at, end, obeys_term: !rng.one_in(3), dies_at: None }
    }

    /// A recorded task does what was recorded.
    pub fn or_recorded(self, command: &[String]) -> Self {
        let Some((run_ms, code)) = recorded::recorded_run(command) else { return self };
        Self { ends_at: run_ms.map(|ms| self.since.plus(ms)), end: EndKind::Exited(code), ..self }
    }

    /// How it has ended by now, if it has.
    pub fn over(&self, now: BootMs) -> Option<EndKind> {
        if self.dies_at.is_some_and(|at| at <= now) {
            return Some(EndKind::Signalled(9));
        }
        self.ends_at.is_some_and(|at| at <= now).then(|| self.end.clone())
    }

    /// It is killed: gone at this time, or earlier.
    pub fn dies(&mut self, at: BootMs) {
        self.dies_at = Some(self.dies_at.map_or(at, |known| known.min(at)));
    }
}
