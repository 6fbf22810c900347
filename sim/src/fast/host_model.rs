//! Attempts under one watchdog: they start late, run, fail, hang, ignore TERM and die when they are killed.

use std::collections::BTreeMap;

use stint_executor::watchdog::{Action, AttemptTimes, StopCause, Watchdog};
use stint_executor::{Launch, RunningAttempt};
use stint_protocol::{BootMs, EndKind, GpuId, LeaseId, SharedSpec};

use super::shape::Pace;
use super::workflows::PROGRAM;
use crate::rng::SeededRng;

/// Longest time a start takes, in milliseconds.
const START_MS: u64 = 400;
/// What is left of the kill margin when the slowest kill is done, in milliseconds.
const SPARE_MS: u64 = 5;

/// How a host treats attempts, and how long they take.
#[derive(Clone, Copy, Debug)]
pub struct ProgramProfile {
    pub kill_margin_ms: u64,
    pub pace: Pace,
    /// Everything was healed: programs that begin from now on end soon.
    pub healed: bool,
}

/// What happened to an attempt.
#[derive(Debug)]
pub enum AttemptEvent {
    Began { lease: LeaseId, gpus: Vec<GpuId>, spec: SharedSpec },
    Ended { lease: LeaseId, kind: EndKind, since: Option<BootMs> },
}

struct Attempt {
    launch: Launch,
    phase: Phase,
}

enum Phase {
    Starting { at: BootMs },
    Running(Program),
}

/// What a program will do.
struct Program {
    since: BootMs,
    /// None: hangs until it is stopped.
    ends_at: Option<BootMs>,
    end: EndKind,
    obeys_term: bool,
    dies_at: Option<BootMs>,
}

/// One watchdog and what it guards.
#[derive(Default)]
pub struct HostModel {
    watchdog: Watchdog,
    attempts: BTreeMap<LeaseId, Attempt>,
    /// How late it looks at its clock, in milliseconds.
    pub late_ms: u64,
    /// Planted: it forgets the ends of leases.
    pub forgets_ends: bool,
}

impl HostModel {
    pub fn holds(&self, lease: LeaseId) -> bool {
        self.attempts.contains_key(&lease)
    }

    pub fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    pub fn running(&self) -> Vec<RunningAttempt> {
        let one = |(lease, attempt): (&LeaseId, &Attempt)| RunningAttempt {
            lease: *lease,
            started: matches!(attempt.phase, Phase::Running(_)),
            stopping: self.watchdog.stopping(*lease).is_some(),
            deadline: self.watchdog.deadline(*lease).unwrap_or_default(),
        };
        self.attempts.iter().map(one).collect()
    }

    /// Whether the attempt runs, and would run beyond `at` if nobody stopped it.
    pub fn outlasts(&self, lease: LeaseId, at: BootMs) -> bool {
        self.attempts.get(&lease).is_some_and(|attempt| match &attempt.phase {
            Phase::Starting { .. } => false,
            Phase::Running(program) => {
                let times_out = program.since.plus(attempt.launch.spec.timeout_ms);
                program.ends_at.is_none_or(|end| end > at) && times_out > at && program.dies_at.is_none()
            }
        })
    }

    pub fn start(&mut self, launch: Launch, profile: ProgramProfile, now: BootMs, rng: &mut SeededRng) {
        let lease = launch.lease;
        let limits = AttemptTimes {
            deadline: launch.deadline,
            grace_ms: launch.spec.stop_grace_ms,
            kill_margin_ms: profile.kill_margin_ms,
            run_timeout_ms: launch.spec.timeout_ms,
            started_at: now,
        };
        let at = now.plus(if rng.one_in(3) { rng.between(1, START_MS) } else { rng.between(1, 10) });
        self.watchdog.start(lease, limits);
        self.attempts.insert(lease, Attempt { launch, phase: Phase::Starting { at } });
    }

    pub fn renew(&mut self, lease: LeaseId, deadline: BootMs) {
        self.watchdog.renew(lease, deadline);
    }

    pub fn stop(&mut self, lease: LeaseId, why: StopCause) {
        self.watchdog.stop(lease, why);
    }

    /// A program ends by itself.
    pub fn exits(&mut self, lease: LeaseId, now: BootMs, kind: EndKind) {
        if let Some(Phase::Running(program)) = self.attempts.get_mut(&lease).map(|attempt| &mut attempt.phase)
        {
            (program.ends_at, program.end) = (Some(now), kind);
        }
    }

    /// Everything in it dies at once. Answers what ran, and what had not begun.
    pub fn die(&mut self) -> Vec<AttemptEvent> {
        self.watchdog = Watchdog::default();
        let ended = |(lease, attempt): (LeaseId, Attempt)| AttemptEvent::Ended {
            lease,
            kind: EndKind::Lost,
            since: attempt.since(),
        };
        std::mem::take(&mut self.attempts).into_iter().map(ended).collect()
    }

    /// When something is due next.
    pub fn next_wake(&self) -> Option<BootMs> {
        let watchdog = self.watchdog.next_wake().map(|at| at.plus(self.late_ms));
        self.attempts.values().map(Attempt::next).chain([watchdog]).flatten().min()
    }

    /// Does what is due.
    pub fn advance(
        &mut self,
        now: BootMs,
        profile: ProgramProfile,
        rng: &mut SeededRng,
    ) -> Vec<AttemptEvent> {
        let mut happened = Vec::new();
        self.begin_due(now, profile, rng, &mut happened);
        if self.watchdog.next_wake().is_some_and(|at| at.plus(self.late_ms) <= now) {
            self.watch(now, profile, rng, &mut happened);
        }
        let over = |(lease, attempt): (&LeaseId, &Attempt)| Some((*lease, attempt.over(now)?));
        let due: Vec<(LeaseId, EndKind)> = self.attempts.iter().filter_map(over).collect();
        for (lease, kind) in due {
            self.end(lease, kind, &mut happened);
        }
        happened
    }

    fn begin_due(
        &mut self,
        now: BootMs,
        profile: ProgramProfile,
        rng: &mut SeededRng,
        happened: &mut Vec<AttemptEvent>,
    ) {
        let begins = |attempt: &Attempt| matches!(attempt.phase, Phase::Starting { at } if at <= now);
        let due: Vec<LeaseId> =
            self.attempts.iter().filter(|(_, a)| begins(a)).map(|(lease, _)| *lease).collect();
        for lease in due {
            let (Some(deadline), Some(attempt)) =
                (self.watchdog.deadline(lease), self.attempts.get_mut(&lease))
            else {
                continue;
            };
            let limits = AttemptTimes {
                deadline,
                grace_ms: attempt.launch.spec.stop_grace_ms,
                kill_margin_ms: profile.kill_margin_ms,
                run_timeout_ms: attempt.launch.spec.timeout_ms,
                started_at: now,
            };
            if self.watchdog.stopping(lease).is_some() || !Watchdog::may_start(&limits, now) {
                self.end(lease, EndKind::Lost, happened);
                continue;
            }
            match Program::drawn(rng, now, profile) {
                Ok(mut program) => {
                    // What a workflow does is not for its host to say.
                    if attempt.launch.spec.command.first().is_some_and(|word| word == PROGRAM) {
                        program.ends_at = None;
                    }
                    attempt.phase = Phase::Running(program);
                    let gpus = attempt.launch.gpus.iter().map(|gpu| gpu.id.clone()).collect();
                    happened.push(AttemptEvent::Began { lease, gpus, spec: attempt.launch.spec.clone() });
                }
                Err(kind) => self.end(lease, kind, happened),
            }
        }
    }

    fn watch(
        &mut self,
        now: BootMs,
        profile: ProgramProfile,
        rng: &mut SeededRng,
        happened: &mut Vec<AttemptEvent>,
    ) {
        let margin = profile.kill_margin_ms;
        for action in self.watchdog.tick(now) {
            let (lease, why, kill) = match action {
                Action::Term(lease, why) => (lease, why, false),
                Action::Kill(lease, why) => (lease, why, true),
            };
            if self.forgets_ends && why == StopCause::LeaseOver {
                continue;
            }
            let Some(attempt) = self.attempts.get_mut(&lease) else { continue };
            match &mut attempt.phase {
                Phase::Starting { .. } => self.end(lease, EndKind::Lost, happened),
                Phase::Running(program) if kill || program.obeys_term => {
                    // However late the watchdog looked: the kernel is done with a kill before the lease ends.
                    let left = self.watchdog.deadline(lease).map_or(0, |end| end.since(now)).min(margin);
                    let most = if kill { left.saturating_sub(SPARE_MS).max(1) } else { 200 };
                    let takes = if profile.pace == Pace::Long || rng.one_in(2) {
                        most
                    } else {
                        rng.between(1, most.min(60))
                    };
                    let dies = now.plus(takes);
                    program.dies_at = Some(program.dies_at.map_or(dies, |known| known.min(dies)));
                }
                Phase::Running(_) => {}
            }
        }
    }

    fn end(&mut self, lease: LeaseId, own: EndKind, happened: &mut Vec<AttemptEvent>) {
        let kind = self.watchdog.exited(lease).map_or(own, StopCause::end_kind);
        let Some(attempt) = self.attempts.remove(&lease) else { return };
        happened.push(AttemptEvent::Ended { lease, kind, since: attempt.since() });
    }
}

impl Attempt {
    fn since(&self) -> Option<BootMs> {
        match &self.phase {
            Phase::Starting { .. } => None,
            Phase::Running(program) => Some(program.since),
        }
    }

    fn next(&self) -> Option<BootMs> {
        match &self.phase {
            Phase::Starting { at } => Some(*at),
            Phase::Running(program) => [program.ends_at, program.dies_at].into_iter().flatten().min(),
        }
    }

    fn over(&self, now: BootMs) -> Option<EndKind> {
        let Phase::Running(program) = &self.phase else { return None };
        if program.dies_at.is_some_and(|at| at <= now) {
            return Some(EndKind::Signalled(9));
        }
        program.ends_at.is_some_and(|at| at <= now).then(|| program.end.clone())
    }
}

impl Program {
    /// A program, or why it does not come to run.
    fn drawn(rng: &mut SeededRng, now: BootMs, profile: ProgramProfile) -> Result<Self, EndKind> {
        let end = match rng.below(24) {
            0 if rng.one_in(3) => return Err(EndKind::StartRefused),
            0 => return Err(EndKind::StartFailed),
            1 if rng.one_in(2) => return Err(EndKind::NotRunnable),
            2 | 3 => EndKind::Exited(1),
            4 => EndKind::OutOfMemory,
            5 => EndKind::Signalled(11),
            _ => EndKind::Exited(0),
        };
        let lengths = match profile.pace {
            _ if profile.healed => 4,
            Pace::Steady => 30,
            _ => 10,
        };
        let run_ms = match rng.below(lengths) {
            0..=5 => rng.between(1, 800),
            6..=7 => rng.between(800, 4_000),
            _ => rng.between(4_000, 12_000),
        };
        let hangs = rng.one_in(if profile.pace == Pace::Long { 2 } else { 6 }) && !profile.healed;
        let ends_at = (!hangs).then(|| now.plus(run_ms));
        let obeys_term = profile.pace != Pace::Long && !rng.one_in(3);
        Ok(Self { since: now, ends_at, end, obeys_term, dies_at: None })
    }
}
