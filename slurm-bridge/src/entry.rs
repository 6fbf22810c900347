//! One attempt that was handed to Slurm: what is known of it, and whether that proves that it has ended.

use stint_executor::Launch;
use stint_protocol::{BootMs, EndKind};

use crate::desk::Work;
use crate::door::{By, Exit, Grant, Order, Record, Seen};
use crate::state::{How, Over, REFUSAL, Told, of_shell};

/// A shell's codes for programs that TERM and KILL ended.
const TERMINATED: i32 = 128 + 15;
const KILLED: i32 = 128 + 9;

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
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
pub struct Glance {
    /// Its job was over before it began.
    pub last: bool,
    /// And for so long that everything it wrote is seen.
    pub all: bool,
    /// The time that it was given was over.
    pub late: bool,
}

pub struct Entry {
    /// What it takes to submit it; none after a restart.
    pub launch: Option<Box<Launch>>,
    pub record: Record,
    pub phase: Phase,
    /// Tries to submit it.
    pub submits: u32,
    /// The end of its lease, by this node's clock; none before the leader renews what an earlier process left.
    pub leased_until: Option<BootMs>,
    /// The last that was asked for, and what was answered last.
    pub asked: u64,
    pub granted: Option<Grant>,
    pub order: Order,
    pub exit: Option<Exit>,
    /// When that was first seen.
    pub exit_at: BootMs,
    pub over: Option<Over>,
    /// When Slurm was first heard to say so.
    pub over_at: BootMs,
    /// Its job runs, as Slurm says.
    pub runs: bool,
    /// Slurm is ending its processes: how it ended is told soon.
    pub is_ending: bool,
    /// When this node had Slurm kill it, last; while that is kept first, also which record it waits for.
    pub killed_at: Option<BootMs>,
    pub kill_waits: Option<u64>,
    /// Lists in a row that did not show its job, and when the first of them was asked for.
    pub missed: Option<(u32, BootMs)>,
    pub look_at: BootMs,
    pub looking: Option<Glance>,
    /// It was looked at since its job was over.
    pub looked: bool,
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
    pub waiting: Option<(u64, Grant)>,
    /// What it wrote could not be read last: said once.
    pub unreadable: bool,
    /// An order could not be written.
    pub order_again: bool,
    /// Slurm's words on how it is.
    pub words: String,
}

/// Whether Slurm may have ended a program that its job tells of so. One that is killed with its job may be gone before
/// its job hears of it.
fn is_slurms(code: i32, by: By) -> bool {
    by == By::Slurm || by == By::Itself && matches!(code, TERMINATED | KILLED)
}

impl Entry {
    pub fn new(launch: Option<Box<Launch>>, record: Record, now: BootMs) -> Self {
        Self {
            launch,
            record,
            phase: Phase::Preparing,
            submits: 0,
            leased_until: None,
            asked: 0,
            granted: None,
            order: Order::Run,
            exit: None,
            exit_at: BootMs(0),
            over: None,
            over_at: BootMs(0),
            runs: false,
            is_ending: false,
            killed_at: None,
            kill_waits: None,
            missed: None,
            look_at: now,
            looking: None,
            looked: false,
            seen_all: false,
            seen_late: false,
            listed: false,
            since: now,
            granting: false,
            waiting: None,
            unreadable: false,
            order_again: false,
            words: String::new(),
        }
    }

    /// Whether it ended because this node told it to, as far as anybody knows: what it was told may have come too late,
    /// or never.
    pub fn obeyed(&self) -> bool {
        match self.exit {
            Some(Exit::Code { by: By::Node, .. }) => true,
            Some(Exit::Code { code, by }) => self.cancelled_here() && is_slurms(code, by),
            Some(_) => false,
            None => self.record.granted_until.is_none() || self.cancelled_here(),
        }
    }

    /// Whether Slurm ended its job as this node asked. One that did not run then shows neither signal nor code: Slurm may
    /// have begun it again, and what became of the first time is not known.
    fn cancelled_here(&self) -> bool {
        let ran = |over: &Over| over.how == How::Cancelled && over.code.is_some_and(|code| code != (0, 0));
        self.record.killed && self.over.as_ref().is_some_and(ran)
    }

    /// Its record is kept, or not: whether what waited for that is granted.
    pub fn may_grant(&mut self, grant: Grant, kept: bool) -> bool {
        let may = kept && self.order == Order::Run;
        if may {
            self.granted = Some(grant);
        } else {
            // It asks again, or this number is answered with the next look.
            (self.granting, self.asked) = (false, self.asked.saturating_sub(1));
        }
        may
    }

    /// Keeps what is known of it.
    pub fn store(&mut self) -> Work {
        self.record.revision += 1;
        Work::Store(self.record.clone())
    }

    /// Whether its job may have written something: it runs, or did.
    pub fn may_write(&self) -> bool {
        let handed = matches!(self.phase, Phase::Handed { .. });
        handed && (self.runs || self.record.granted_until.is_some() || self.over.is_some())
    }

    pub fn see(&mut self, seen: Seen, now: BootMs) {
        self.missed = None;
        self.words = seen.words;
        self.is_ending = seen.told == Told::Ends;
        match seen.told {
            Told::Waits => {
                (self.runs, self.over, self.looked) = (false, None, false);
                self.seen_all = false;
            }
            Told::Runs | Told::Ends => {
                (self.runs, self.over, self.looked) = (true, None, false);
                self.seen_all = false;
            }
            Told::Over(over) => {
                if self.over.is_none() {
                    (self.look_at, self.over_at) = (BootMs(0), now);
                }
                (self.runs, self.over) = (false, Some(over));
            }
        }
    }

    /// How an attempt ended whose job did without having been given time.
    pub fn unbegun(&self, over: &Over) -> (EndKind, String) {
        let (kind, words) = match (over.how, self.exit) {
            (How::Ended, Some(Exit::NotRunnable)) => {
                (EndKind::NotRunnable, "its program is not on Slurm's nodes")
            }
            (How::Ended, _) => (EndKind::Lost, "its job ended before its program could begin"),
            (How::TimedOut, _) => (EndKind::Lost, "Slurm ended its job before its program could begin"),
            _ => over.verdict(None),
        };
        (kind, self.with_slurms(words))
    }

    /// How its program ended, once that is proven. `out_of_time`: all it was given is over, or it said how it ended and
    /// Slurm does not notice. `unheard`: Slurm may still say why.
    pub fn verdict(&self, out_of_time: bool, unheard: bool) -> Option<(EndKind, String)> {
        let shell = match self.exit {
            Some(Exit::Code { code, .. }) => Some(code),
            _ => None,
        };
        // Told so by its job, which knows better than Slurm why.
        let own = match self.exit {
            Some(Exit::Code { code, by }) if !is_slurms(code, by) => Some(of_shell(code)),
            _ => None,
        };
        let again = self.exit.is_none() && self.over.as_ref().is_some_and(Over::is_refusal);
        let gone = self.over.is_some() && self.looked;
        let forgotten = self.missed.is_some_and(|(times, _)| times > 1);
        let words = |(kind, words): (EndKind, &str)| (kind, self.with_slurms(words));
        let told = (EndKind::Lost, "it was told to end");
        let refused = matches!(self.exit, Some(Exit::Code { code: REFUSAL, by: By::Slurm }));
        let slurms = |over: &Over| match over.how {
            How::Cancelled if self.record.killed => words(told.clone()),
            How::Ended if refused => words((EndKind::Lost, "Slurm ended its job before its program began")),
            _ => words(over.verdict(shell)),
        };
        match (&self.over, self.exit) {
            (_, Some(Exit::NotRunnable)) => {
                let found = (
                    EndKind::NotRunnable,
                    "its program is not on Slurm's nodes, or cannot be executed there",
                );
                (gone || forgotten || out_of_time).then(|| words(found))
            }
            (_, Some(Exit::OutOfTime)) => {
                let late = (EndKind::Lost, "its job was given no more time in time, and ended it");
                (gone || out_of_time).then(|| words(late))
            }
            // Slurm began it a second time; of the first time nothing is known.
            (Some(_), None) if again => None,
            (_, Some(Exit::Code { by: By::Node, .. })) => {
                (gone || forgotten || out_of_time).then(|| words(told.clone()))
            }
            // Slurm's word for how it ended comes second: the job's own says why. Without one, that Slurm counts a job as
            // over is no proof: its node may have been cut off.
            (Some(over), Some(_)) if gone || out_of_time => {
                let own = own.filter(|_| over.how != How::OutOfMemory);
                Some(own.map_or_else(|| slurms(over), |kind| (kind, String::new())))
            }
            // It may have ended by itself just before.
            (Some(over), None)
                if out_of_time
                    && (self.seen_all || self.looked && !matches!(over.how, How::Ended | How::Cancelled)) =>
            {
                Some(slurms(over))
            }
            (None, Some(Exit::Code { code, by })) if forgotten || out_of_time => {
                match (by == By::Slurm, self.record.killed && is_slurms(code, by)) {
                    _ if unheard && is_slurms(code, by) => None,
                    (_, true) => Some(words(told)),
                    (true, _) => Some(words((EndKind::Lost, "Slurm ended it, and does not say why"))),
                    _ => Some((of_shell(code), String::new())),
                }
            }
            _ => None,
        }
    }

    pub fn with_slurms(&self, words: &str) -> String {
        match (words.is_empty(), self.words.is_empty()) {
            (true, _) => String::new(),
            (false, true) => words.to_owned(),
            (false, false) => format!("{words} ({})", self.words),
        }
    }
}
