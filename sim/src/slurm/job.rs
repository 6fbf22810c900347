//! What runs on Slurm's nodes: `stint_slurm_bridge::script` as it behaves, with a simulated program.

use std::collections::BTreeMap;

use stint_executor::Launch;
use stint_protocol::{BootMs, EndKind, LeaseId};
use stint_slurm_bridge::doors::{JobCommand, JobId, ProgramExit, StoppedBy};
use stint_slurm_bridge::state::{EndReason, REFUSAL, end_of_shell_code};

use super::doors::GUARD_MS;
use super::{Inner, SLURM};
use crate::oracle::Start;
use crate::plant::Plant;
use crate::program::{Program, spawn_failure};
use crate::rng::SeededRng;

/// Between two looks of a script, in milliseconds; a second in truth.
const LOOK_MS: u64 = 100;
/// How long it waits for its first answer, in milliseconds.
const FIRST_ANSWER_MS: u64 = 6_000;
/// When it asks again without an answer, in milliseconds.
const ASK_AGAIN_MS: u64 = 400;
/// How much less than what it was given a run time may be to count as over: clocks differ.
const TIMEOUT_SLACK_MS: u64 = 400;

/// How far a node's clock and the world's may come apart within a lease, in milliseconds.
const CLOCKS_MS: u64 = 60;
/// How wrong the clocks of Slurm's nodes go, in millionths: as `limits::CLOCK_DRIFT_PERCENT` allows.
const DRIFT_PPM: u64 = 10_000;

/// Why Slurm kills what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Cancelled,
    Preempted,
    /// The controller does not know of it any more.
    Orphaned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Order,
    Time,
}

/// A job's script and its program.
pub struct Script {
    pub job: JobId,
    /// The controller counts it as the job; not one that it forgot.
    pub is_current: bool,
    launch: Launch,
    /// How much faster than the world's the clock of its machine goes, in millionths; below zero: slower.
    drift_ppm: i64,
    /// None: it has not even looked whether it is the first.
    begun: bool,
    next_ms: u64,
    give_up_ms: u64,
    number: u64,
    asked_ms: u64,
    /// When each question without an answer was asked.
    open: BTreeMap<u64, u64>,
    answered: u64,
    given_ms: u64,
    until_ms: u64,
    order: JobCommand,
    /// Why its program was told to end: by its node, or as its time was over. The first reason counts.
    reason: Option<Reason>,
    program: Option<Program>,
    killed: Option<(u64, Ending)>,
}

/// How a job is over: Slurm's word, and its exit code.
type Left = (EndReason, Option<(i32, i32)>);

impl Script {
    pub fn new(job: JobId, launch: Launch, rng: &mut SeededRng, now: u64) -> Self {
        let mut script = Self {
            job,
            is_current: true,
            launch,
            drift_ppm: rng.between(0, 2 * DRIFT_PPM) as i64 - DRIFT_PPM as i64,
            begun: false,
            next_ms: now,
            give_up_ms: 0,
            number: 0,
            asked_ms: 0,
            open: BTreeMap::new(),
            answered: 0,
            given_ms: 0,
            until_ms: 0,
            order: JobCommand::Run,
            reason: None,
            program: None,
            killed: None,
        };
        script.give_up_ms = script.clock(now) + FIRST_ANSWER_MS;
        script
    }

    /// What the clock of its machine shows.
    fn clock(&self, now: u64) -> u64 {
        now.saturating_add_signed(now as i64 * self.drift_ppm / 1_000_000)
    }

    fn lease(&self) -> LeaseId {
        self.launch.lease
    }

    /// Slurm kills it then, or earlier.
    pub fn dies(&mut self, at_ms: u64, why: Ending) {
        self.is_current &= why != Ending::Orphaned;
        if self.killed.is_none_or(|(known, _)| at_ms < known) {
            self.killed = Some((at_ms, why));
        }
    }

    /// Goes on to `now`; answers how the job is over.
    pub fn step(&mut self, slurm: &mut Inner, now: u64) -> Option<Left> {
        if let Some((_, why)) = self.killed.filter(|(at, _)| *at <= now) {
            let kind = if why == Ending::Cancelled { self.stopped_kind(slurm, now) } else { EndKind::Lost };
            self.ends_with_its_job(slurm, kind, now);
            let how = if why == Ending::Cancelled { EndReason::Cancelled } else { EndReason::Preempted };
            return Some((how, Some((0, 15))));
        }
        if let Some(left) = self.program.as_ref().and_then(|program| program.over(BootMs(now))) {
            return Some(self.ends_by_itself(slurm, left, now));
        }
        if self.program.is_some() {
            self.must_have_time(slurm, now);
        }
        if now < self.next_ms {
            return None;
        }
        self.next_ms = now + LOOK_MS;
        if !self.begun {
            let folder = slurm.folders.entry(self.lease()).or_default();
            let first = !std::mem::replace(&mut folder.began, true);
            if !first && slurm.plant != Some(Plant::SlurmBeginsTwice) {
                return Some((EndReason::Ended, Some((REFUSAL, 0))));
            }
            self.begun = true;
            self.ask(slurm, now);
            return None;
        }
        self.hear(slurm, now);
        if self.program.is_some() {
            self.guard(slurm, now);
            return None;
        }
        let clock = self.clock(now);
        if self.order != JobCommand::Run {
            return Some(self.refuses(slurm, ProgramExit::Code { code: REFUSAL, by: StoppedBy::Node }, now));
        }
        if self.answered == 0 {
            if clock >= self.asked_ms + ASK_AGAIN_MS {
                self.ask(slurm, now);
            }
            let gives_up = clock >= self.give_up_ms;
            return gives_up.then(|| self.refuses(slurm, ProgramExit::OutOfTime, now));
        }
        if clock >= self.until_ms {
            return Some(self.refuses(slurm, ProgramExit::OutOfTime, now));
        }
        self.begin(slurm, now)
    }

    /// Ends without having begun its program, and says why.
    fn refuses(&self, slurm: &mut Inner, exit: ProgramExit, now: u64) -> Left {
        let at = slurm.seen_at(now);
        slurm.folders.entry(self.lease()).or_default().exit.write(at, exit);
        (EndReason::Ended, Some((REFUSAL, 0)))
    }

    fn ask(&mut self, slurm: &mut Inner, now: u64) {
        self.number += 1;
        self.asked_ms = self.clock(now);
        self.open.insert(self.number, self.asked_ms);
        let at = slurm.seen_at(now);
        let (number, job) = (self.number, self.job);
        slurm.folders.entry(self.lease()).or_default().ask.write(at, (number, job));
    }

    fn hear(&mut self, slurm: &mut Inner, now: u64) {
        let Some(grant) = slurm.folders.entry(self.lease()).or_default().go.read(now) else { return };
        self.order = grant.command;
        let Some(asked_ms) = self.open.get(&grant.number).copied() else { return };
        self.open.retain(|number, _| *number > grant.number);
        let from = if slurm.plant == Some(Plant::SlurmLateCount) { self.clock(now) } else { asked_ms };
        (self.answered, self.given_ms) = (grant.number, grant.left_ms);
        self.until_ms = self.until_ms.max(from + grant.left_ms);
    }

    fn begin(&mut self, slurm: &mut Inner, now: u64) -> Option<Left> {
        let lease = self.lease();
        let folder = slurm.folders.entry(lease).or_default();
        if folder.given_up {
            slurm.violate("what is given up never begins", format!("{lease} begins in Slurm"));
        }
        let at = slurm.seen_at(now);
        match spawn_failure(lease, &slurm.rules) {
            Some(EndKind::NotRunnable) => {
                let folder = slurm.folders.entry(lease).or_default();
                folder.began_program = true;
                folder.exit.write(at, ProgramExit::NotRunnable);
                slurm.oracle.on_end(SLURM, lease, &EndKind::NotRunnable, false);
                return Some((EndReason::Ended, Some((127, 0))));
            }
            // A node of Slurm that fails as it begins.
            Some(_) => {
                slurm.folders.entry(lease).or_default().began_program = true;
                slurm.oracle.on_end(SLURM, lease, &EndKind::Lost, false);
                return Some((EndReason::NodeFailed, None));
            }
            None => {}
        }
        slurm.folders.entry(lease).or_default().began_program = true;
        let program = Program::drawn(lease, &slurm.rules, &mut slurm.rng, BootMs(now));
        self.program = Some(program.or_recorded(&self.launch.spec.command));
        slurm.oracle.on_start(&Start::from_launch(SLURM, &self.launch));
        None
    }

    /// Ends the program in time, and asks for more before that.
    fn guard(&mut self, slurm: &mut Inner, now: u64) {
        let grace_ms = self.launch.spec.stop_grace_ms;
        let deaf = slurm.plant == Some(Plant::SlurmDeafGuard);
        let (soon, clock) = (now + slurm.rng.between(1, 60), self.clock(now));
        let Some(program) = self.program.as_mut() else { return };
        if clock >= self.until_ms && !deaf || self.order == JobCommand::Kill {
            self.reason.get_or_insert(if self.order == JobCommand::Kill {
                Reason::Order
            } else {
                Reason::Time
            });
            program.dies(BootMs(soon));
        } else if self.reason.is_none()
            && (self.order == JobCommand::Term || clock + grace_ms >= self.until_ms)
            && !deaf
        {
            self.reason = Some(if self.order == JobCommand::Term { Reason::Order } else { Reason::Time });
            if program.obeys_term {
                program.dies(BootMs(soon));
            }
        }
        let again_ms = if self.answered == self.number { self.given_ms / 3 } else { ASK_AGAIN_MS };
        if self.order == JobCommand::Run && clock >= self.asked_ms + again_ms {
            self.ask(slurm, now);
        }
    }

    fn must_have_time(&self, slurm: &Inner, now: u64) {
        // Both what its node was given and what its node gave; the clocks differ a little.
        let granted = slurm.folders.get(&self.lease()).map_or(0, |folder| folder.granted_until_ms);
        let until =
            slurm.deadlines.get(&self.lease()).copied().unwrap_or(0).min(granted + GUARD_MS + CLOCKS_MS);
        slurm.oracle.on_running(SLURM, self.lease(), BootMs(now), BootMs(until));
    }

    /// How an attempt ended that was told to: its run time was over, or something else.
    fn stopped_kind(&self, slurm: &Inner, now: u64) -> EndKind {
        let granted_ms = slurm.folders.get(&self.lease()).and_then(|folder| folder.granted_ms);
        let ran_ms = now - granted_ms.unwrap_or(now);
        let over = ran_ms + TIMEOUT_SLACK_MS >= self.launch.spec.timeout_ms;
        if over { EndKind::TimedOut } else { EndKind::Cancelled }
    }

    fn program_ends(&mut self, slurm: &Inner, kind: EndKind) {
        if self.program.take().is_some() {
            slurm.oracle.on_end(SLURM, self.lease(), &kind, true);
        }
    }

    /// Slurm ends it. Where its program obeys TERM its script has the time to say so.
    fn ends_with_its_job(&mut self, slurm: &mut Inner, kind: EndKind, now: u64) {
        let obeys = self.program.as_ref().is_some_and(|program| program.obeys_term);
        if obeys && slurm.rng.one_in(2) {
            let code = 128 + 15;
            slurm.oracle.on_seen_as(self.lease(), &end_of_shell_code(code));
            let by = if self.reason == Some(Reason::Order) { StoppedBy::Node } else { StoppedBy::Slurm };
            let exit = if self.reason == Some(Reason::Time) {
                ProgramExit::OutOfTime
            } else {
                ProgramExit::Code { code, by }
            };
            let at = slurm.seen_at(now);
            slurm.folders.entry(self.lease()).or_default().exit.write(at, exit);
        }
        self.program_ends(slurm, kind);
    }

    fn ends_by_itself(&mut self, slurm: &mut Inner, own: EndKind, now: u64) -> Left {
        let kind = match &own {
            _ if self.reason == Some(Reason::Time) => EndKind::Lost,
            _ if self.reason == Some(Reason::Order) => self.stopped_kind(slurm, now),
            EndKind::Exited(code) => end_of_shell_code(*code),
            // What the node of Slurm does wrong.
            EndKind::StartFailed | EndKind::StartRefused => EndKind::Lost,
            other => other.clone(),
        };
        let (how, code) = match &own {
            EndKind::Exited(code) => (EndReason::Ended, *code),
            EndKind::Signalled(signal) => (EndReason::Ended, 128 + signal),
            EndKind::OutOfMemory => (EndReason::OutOfMemory, 137),
            _ => (EndReason::NodeFailed, 1),
        };
        self.program_ends(slurm, kind);
        if own == EndKind::OutOfMemory {
            // All that the script itself sees.
            slurm.oracle.on_seen_as(self.lease(), &EndKind::Signalled(9));
        }
        if how != EndReason::NodeFailed {
            let at = slurm.seen_at(now);
            let exit = match self.reason {
                Some(Reason::Time) => ProgramExit::OutOfTime,
                Some(Reason::Order) => ProgramExit::Code { code, by: StoppedBy::Node },
                None => ProgramExit::Code { code, by: StoppedBy::Itself },
            };
            slurm.folders.entry(self.lease()).or_default().exit.write(at, exit);
        }
        (how, Some((code, 0)))
    }
}
