//! One attempt that was handed to Slurm: what is known of it, and whether that proves that it has ended.

use stint_executor::Launch;
use stint_protocol::{BootMs, EndKind};

use crate::controller::JobAction;
use crate::doors::{JobCommand, JobRecord, ListedJob, ProgramExit, StoppedBy, TimeGrant};
use crate::mutations::{Mutation, planted};
use crate::state::{EndReason, JobEnd, JobState, REFUSAL, end_of_shell_code};

/// A shell's codes for programs that TERM and KILL ended.
const TERMINATED: i32 = 128 + 15;
const KILLED: i32 = 128 + 9;

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobPhase {
    /// Its folder is made.
    Preparing,
    /// Its record is written: from then on there may be a job of it.
    Storing,
    Submitting,
    /// Slurm has it, or may have it. `since`: when `sbatch` was done.
    Handed {
        since: BootMs,
    },
}

/// A look under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    /// Its job was over before it began.
    pub last: bool,
    /// And for so long that everything it wrote is seen.
    pub all: bool,
    /// The time that it was given was over.
    pub late: bool,
}

pub struct SlurmJob {
    /// What it takes to submit it; none after a restart.
    pub launch: Option<Box<Launch>>,
    pub record: JobRecord,
    pub phase: JobPhase,
    /// Tries to submit it.
    pub submits: u32,
    /// The end of its lease, by this node's clock; none before the leader renews what an earlier process left.
    pub leased_until: Option<BootMs>,
    /// The last that was asked for, and what was answered last.
    pub asked: u64,
    pub granted: Option<TimeGrant>,
    pub command: JobCommand,
    pub exit: Option<ProgramExit>,
    /// When that was first seen.
    pub exit_at: BootMs,
    pub ended: Option<JobEnd>,
    /// When Slurm was first heard to say so.
    pub ended_at: BootMs,
    /// Its job runs, as Slurm says.
    pub is_running: bool,
    /// Slurm is ending its processes: how it ended is told soon.
    pub is_ending: bool,
    /// When this node had Slurm kill it, last; while that is kept first, also which record it waits for.
    pub killed_at: Option<BootMs>,
    pub kill_waits: Option<u64>,
    /// Lists in a row that did not show its job, and when the first of them was asked for.
    pub missed: Option<(u32, BootMs)>,
    pub poll_at: BootMs,
    pub polling: Option<Poll>,
    /// It was looked at since its job was over.
    pub polled: bool,
    /// Everything that its job wrote was seen.
    pub seen_all: bool,
    /// It was looked at since the time that it was given was over.
    pub seen_late: bool,
    /// Slurm was asked since this process of the node knows of it.
    pub listed: bool,
    /// Since when this process of the node knows of it.
    pub since: BootMs,
    /// What was granted is being written.
    pub granting: bool,
    /// What is granted once the record of that revision is kept.
    pub waiting: Option<(u64, TimeGrant)>,
    /// What it wrote could not be read last: said once.
    pub unreadable: bool,
    /// An order could not be written.
    pub command_again: bool,
    /// Slurm's words on how it is.
    pub message: String,
}

/// Whether Slurm may have ended a program that its job tells of so. One that is killed with its job may be gone before
/// its job hears of it.
fn is_slurms(code: i32, by: StoppedBy) -> bool {
    by == StoppedBy::Slurm || by == StoppedBy::Itself && matches!(code, TERMINATED | KILLED)
}

impl SlurmJob {
    pub fn new(launch: Option<Box<Launch>>, record: JobRecord, now: BootMs) -> Self {
        Self {
            launch,
            record,
            phase: JobPhase::Preparing,
            submits: 0,
            leased_until: None,
            asked: 0,
            granted: None,
            command: JobCommand::Run,
            exit: None,
            exit_at: BootMs(0),
            ended: None,
            ended_at: BootMs(0),
            is_running: false,
            is_ending: false,
            killed_at: None,
            kill_waits: None,
            missed: None,
            poll_at: now,
            polling: None,
            polled: false,
            seen_all: false,
            seen_late: false,
            listed: false,
            since: now,
            granting: false,
            waiting: None,
            unreadable: false,
            command_again: false,
            message: String::new(),
        }
    }

    /// Whether it ended because this node told it to, as far as anybody knows: what it was told may have come too late,
    /// or never.
    pub fn obeyed(&self) -> bool {
        match self.exit {
            _ if planted(Mutation::AlwaysObeyed) => true,
            Some(ProgramExit::Code { by: StoppedBy::Node, .. }) => true,
            Some(ProgramExit::Code { code, by }) => self.cancelled_here() && is_slurms(code, by),
            Some(_) => false,
            None => self.record.granted_until.is_none() || self.cancelled_here(),
        }
    }

    /// Whether Slurm ended its job as this node asked. One that did not run then shows neither signal nor code: Slurm may
    /// have begun it again, and what became of the first time is not known.
    fn cancelled_here(&self) -> bool {
        let ran = |over: &JobEnd| {
            let ran = over.code.is_some_and(|code| code != (0, 0)) || planted(Mutation::CancelledBeforeItRan);
            over.reason == EndReason::Cancelled && ran
        };
        self.record.killed && self.ended.as_ref().is_some_and(ran)
    }

    /// Its record is kept, or not: whether what waited for that is granted.
    pub fn may_grant(&mut self, grant: TimeGrant, kept: bool) -> bool {
        let may = kept && self.command == JobCommand::Run;
        if may {
            self.granted = Some(grant);
        } else {
            // It asks again, or this number is answered with the next look.
            (self.granting, self.asked) = (false, self.asked.saturating_sub(1));
        }
        may
    }

    /// Keeps what is known of it.
    pub fn store(&mut self) -> JobAction {
        self.record.revision += 1;
        JobAction::Store(self.record.clone())
    }

    /// Whether its job may have written something: it runs, or did.
    pub fn may_write(&self) -> bool {
        let handed = matches!(self.phase, JobPhase::Handed { .. });
        handed && (self.is_running || self.record.granted_until.is_some() || self.ended.is_some())
    }

    pub fn on_listed(&mut self, seen: ListedJob, now: BootMs) {
        self.missed = None;
        self.message = seen.message;
        self.is_ending = seen.state == JobState::Completing;
        match seen.state {
            JobState::Waiting => {
                (self.is_running, self.ended, self.polled) = (false, None, false);
                self.seen_all = false;
            }
            JobState::Running | JobState::Completing => {
                (self.is_running, self.ended, self.polled) = (true, None, false);
                self.seen_all = false;
            }
            JobState::Ended(over) => {
                if self.ended.is_none() {
                    (self.poll_at, self.ended_at) = (BootMs(0), now);
                }
                (self.is_running, self.ended) = (false, Some(over));
            }
        }
    }

    /// How an attempt ended whose job did without having been given time.
    pub fn end_before_start(&self, over: &JobEnd) -> (EndKind, String) {
        let (kind, message) = match (over.reason, self.exit) {
            (EndReason::Ended, Some(ProgramExit::NotRunnable)) => {
                (EndKind::NotRunnable, "its program is not on Slurm's nodes")
            }
            (EndReason::Ended, _) => (EndKind::Lost, "its job ended before its program could begin"),
            (EndReason::TimedOut, _) => (EndKind::Lost, "Slurm ended its job before its program could begin"),
            _ => over.verdict(None),
        };
        (kind, self.with_slurm_message(message))
    }

    /// How its program ended, once that is proven. `out_of_time`: all it was given is over, or it said how it ended and
    /// Slurm does not notice. `unheard`: Slurm may still say why.
    pub fn verdict(&self, out_of_time: bool, unheard: bool) -> Option<(EndKind, String)> {
        let shell = match self.exit {
            Some(ProgramExit::Code { code, .. }) => Some(code),
            _ => None,
        };
        // Told so by its job, which knows better than Slurm why.
        let own = match self.exit {
            Some(ProgramExit::Code { code, by }) if !is_slurms(code, by) => Some(end_of_shell_code(code)),
            _ => None,
        };
        let again = self.exit.is_none() && self.ended.as_ref().is_some_and(JobEnd::is_refusal);
        let gone = self.ended.is_some() && self.polled;
        let forgotten = self.missed.is_some_and(|(times, _)| times > 1);
        let message = |(kind, message): (EndKind, &str)| (kind, self.with_slurm_message(message));
        let ended_by_order = (EndKind::Lost, "it was told to end");
        let refused = matches!(self.exit, Some(ProgramExit::Code { code: REFUSAL, by: StoppedBy::Slurm }));
        let slurms = |over: &JobEnd| match over.reason {
            EndReason::Cancelled if self.record.killed => message(ended_by_order.clone()),
            EndReason::Ended if refused => {
                message((EndKind::Lost, "Slurm ended its job before its program began"))
            }
            _ => message(over.verdict(shell)),
        };
        match (&self.ended, self.exit) {
            (_, Some(ProgramExit::NotRunnable)) => {
                let found = (
                    EndKind::NotRunnable,
                    "its program is not on Slurm's nodes, or cannot be executed there",
                );
                (gone || forgotten || out_of_time).then(|| message(found))
            }
            (_, Some(ProgramExit::OutOfTime)) => {
                let late = (EndKind::Lost, "its job was given no more time in time, and ended it");
                (gone || out_of_time).then(|| message(late))
            }
            // Slurm began it a second time; of the first time nothing is known.
            (Some(_), None) if again => None,
            (_, Some(ProgramExit::Code { by: StoppedBy::Node, .. })) => {
                (gone || forgotten || out_of_time).then(|| message(ended_by_order.clone()))
            }
            // Slurm's word for how it ended comes second: the job's own says why. Without one, that Slurm counts a job as
            // over is no proof: its node may have been cut off.
            (Some(over), Some(_)) if gone || out_of_time => {
                let own = own.filter(|_| over.reason != EndReason::OutOfMemory);
                Some(own.map_or_else(|| slurms(over), |kind| (kind, String::new())))
            }
            (Some(over), None) if (gone || out_of_time) && planted(Mutation::SlurmSpeaksFirst) => {
                Some(slurms(over))
            }
            // It may have ended by itself just before.
            (Some(over), None)
                if out_of_time
                    && (self.seen_all
                        || self.polled
                            && !matches!(over.reason, EndReason::Ended | EndReason::Cancelled)) =>
            {
                Some(slurms(over))
            }
            (None, Some(ProgramExit::Code { code, by })) if forgotten || out_of_time => {
                match (by == StoppedBy::Slurm, self.record.killed && is_slurms(code, by)) {
                    _ if unheard && is_slurms(code, by) => None,
                    (_, true) => Some(message(ended_by_order)),
                    (true, _) => Some(message((EndKind::Lost, "Slurm ended it, and does not say why"))),
                    _ => Some((end_of_shell_code(code), String::new())),
                }
            }
            _ => None,
        }
    }

    pub fn with_slurm_message(&self, message: &str) -> String {
        match (message.is_empty(), self.message.is_empty()) {
            (true, _) => String::new(),
            (false, true) => message.to_owned(),
            (false, false) => format!("{message} ({})", self.message),
        }
    }
}
