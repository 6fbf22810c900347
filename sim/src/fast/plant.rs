//! The wrong behaviours that can be planted in the fast layer. Each must be caught.

use std::str::FromStr;

use super::shape::Pace;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastPlant {
    RenewAfterRevoke,
    /// A new leader acts on what it has applied, though entries of its predecessors may be missing.
    ActBeforeOwnTermEntry,
    SkipDriftMargin,
    /// A node's new incarnation frees the leases of the earlier one at once.
    ReleaseOnNewIncarnation,
    OldReceiptTimes,
    WallClockJump,
    /// The watchdog forgets the ends of leases.
    LateKill,
    /// A machine that lost power says it can account for what it ran.
    FalseAccount,
    StaleOrders,
    /// A node counts its leases from when orders came, not from when the report was sent.
    LeaseFromReceipt,
    /// A leader renews without asking a quorum.
    RenewWithoutQuorum,
    /// A sweep deletes by a confirmed state, without waiting for an entry of its own, and however young a file is.
    SweepBlindly,
    /// A sweep deletes what is old by a confirmed state, without waiting for an entry of its own.
    SweepWithoutEntry,
    /// The same when it found a file spare twice.
    SweepFoundTwice,
    /// A sweep deletes what was asked for since it was found, if that is long ago too.
    SweepAskedFor,
    LaunchWithoutDevices,
    /// A new leader renews a lease before it has looked how long it may already be.
    RenewUnseen,
    /// An entry's time counts from when it was written.
    StampWhenWritten,
    /// A leader whose clock was set right writes nothing to catch up with it.
    NeverCatchUp,
    /// A leader plans only when there are commands.
    PlanOnChangesOnly,
    /// A leader keeps an entry's effect as it was before its plan.
    EffectWithoutPlan,
    /// A task starts beside attempts with which its tenant, or theirs, shares no node.
    ShareDedicated,
    /// A tenant that shares its nodes with nobody starts on those of others, too.
    LeaveDedicated,
    /// A request that saves a step and comes again is told that the step was there.
    RetryAnswersFound,
    /// A launch writes whose lease is over.
    StaleLaunchWrites,
    /// A suspended task is woken twice.
    WakeStaysIndexed,
    /// A second sleep on one id is over at once.
    SleepIgnoresOrdinal,
    /// The last word on how an instance ended counts.
    EndOverwritten,
    /// What paused an instance pauses it again.
    PauseSurvivesResume,
    /// A program is stopped for its sleep that does something else.
    HibernateWhileBusy,
    /// A program is told that its step is kept before it is in the log.
    AnswerBeforeCommit,
    /// A program gets what was sent to its step before the log says so.
    TakeBeforeCommit,
}

impl FastPlant {
    /// Every one.
    pub const ALL: [FastPlant; 32] = [
        FastPlant::RenewAfterRevoke,
        FastPlant::ActBeforeOwnTermEntry,
        FastPlant::SkipDriftMargin,
        FastPlant::ReleaseOnNewIncarnation,
        FastPlant::OldReceiptTimes,
        FastPlant::WallClockJump,
        FastPlant::LateKill,
        FastPlant::FalseAccount,
        FastPlant::StaleOrders,
        FastPlant::LeaseFromReceipt,
        FastPlant::RenewWithoutQuorum,
        FastPlant::SweepBlindly,
        FastPlant::SweepWithoutEntry,
        FastPlant::SweepFoundTwice,
        FastPlant::SweepAskedFor,
        FastPlant::LaunchWithoutDevices,
        FastPlant::RenewUnseen,
        FastPlant::StampWhenWritten,
        FastPlant::NeverCatchUp,
        FastPlant::PlanOnChangesOnly,
        FastPlant::EffectWithoutPlan,
        FastPlant::ShareDedicated,
        FastPlant::LeaveDedicated,
        FastPlant::RetryAnswersFound,
        FastPlant::StaleLaunchWrites,
        FastPlant::WakeStaysIndexed,
        FastPlant::SleepIgnoresOrdinal,
        FastPlant::EndOverwritten,
        FastPlant::PauseSurvivesResume,
        FastPlant::HibernateWhileBusy,
        FastPlant::AnswerBeforeCommit,
        FastPlant::TakeBeforeCommit,
    ];

    /// The word of the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            FastPlant::RenewAfterRevoke => "renew_after_revoke",
            FastPlant::ActBeforeOwnTermEntry => "act_before_own_term_entry",
            FastPlant::SkipDriftMargin => "skip_drift_margin",
            FastPlant::ReleaseOnNewIncarnation => "release_on_new_incarnation",
            FastPlant::OldReceiptTimes => "old_receipt_times",
            FastPlant::WallClockJump => "wall_clock_jump",
            FastPlant::LateKill => "late_kill",
            FastPlant::FalseAccount => "false_account",
            FastPlant::StaleOrders => "stale_orders",
            FastPlant::LeaseFromReceipt => "lease_from_receipt",
            FastPlant::RenewWithoutQuorum => "renew_without_quorum",
            FastPlant::SweepBlindly => "sweep_blindly",
            FastPlant::SweepWithoutEntry => "sweep_without_entry",
            FastPlant::SweepFoundTwice => "sweep_found_twice",
            FastPlant::SweepAskedFor => "sweep_asked_for",
            FastPlant::LaunchWithoutDevices => "launch_without_devices",
            FastPlant::RenewUnseen => "renew_unseen",
            FastPlant::StampWhenWritten => "stamp_when_written",
            FastPlant::NeverCatchUp => "never_catch_up",
            FastPlant::PlanOnChangesOnly => "plan_on_changes_only",
            FastPlant::EffectWithoutPlan => "effect_without_plan",
            FastPlant::ShareDedicated => "share_dedicated",
            FastPlant::LeaveDedicated => "leave_dedicated",
            FastPlant::RetryAnswersFound => "retry_answers_found",
            FastPlant::StaleLaunchWrites => "stale_launch_writes",
            FastPlant::WakeStaysIndexed => "wake_stays_indexed",
            FastPlant::SleepIgnoresOrdinal => "sleep_ignores_ordinal",
            FastPlant::EndOverwritten => "end_overwritten",
            FastPlant::PauseSurvivesResume => "pause_survives_resume",
            FastPlant::HibernateWhileBusy => "hibernate_while_busy",
            FastPlant::AnswerBeforeCommit => "answer_before_commit",
            FastPlant::TakeBeforeCommit => "take_before_commit",
        }
    }

    /// The pace in which it shows: where everything goes wrong at once, some mistakes show once in many seeds, so they
    /// are looked for where they matter. None: in any.
    pub fn pace(self) -> Option<Pace> {
        match self {
            // Somebody has to ask while the end of a lease is being written.
            FastPlant::RenewAfterRevoke => Some(Pace::SlowDisks),
            // Programs that outlast their first lease are renewed by a leader that was split off.
            FastPlant::RenewWithoutQuorum => Some(Pace::Steady),
            // Clocks drift apart by more than a margin only over long leases.
            FastPlant::SkipDriftMargin => Some(Pace::Long),
            _ => None,
        }
    }

    /// Whether it lies in how files are swept. These show when an entry takes longer than files stay, so files stay for
    /// less long with them, and there are images in every seed.
    pub fn is_of_sweeps(self) -> bool {
        use FastPlant::*;
        matches!(self, SweepWithoutEntry | SweepFoundTwice | SweepAskedFor)
    }

    /// Whether it lies in which tenants share a node: the operator says so of some, in every seed.
    pub fn is_of_dedication(self) -> bool {
        matches!(self, FastPlant::ShareDedicated | FastPlant::LeaveDedicated)
    }

    /// Whether it lies in how workflow instances are treated. There are some in every seed with these.
    pub fn is_of_workflows(self) -> bool {
        use FastPlant::*;
        matches!(
            self,
            RetryAnswersFound
                | StaleLaunchWrites
                | WakeStaysIndexed
                | SleepIgnoresOrdinal
                | EndOverwritten
                | PauseSurvivesResume
                | HibernateWhileBusy
                | AnswerBeforeCommit
                | TakeBeforeCommit
        )
    }

    /// Whether it lies in the product's own code, which only a build with the feature `mutations` can change.
    pub fn needs_feature(self) -> bool {
        use FastPlant::*;
        match self {
            RenewAfterRevoke | ActBeforeOwnTermEntry | SkipDriftMargin | ReleaseOnNewIncarnation => true,
            OldReceiptTimes | WallClockJump | StaleOrders | RenewWithoutQuorum => true,
            LaunchWithoutDevices | RenewUnseen | StampWhenWritten | NeverCatchUp | PlanOnChangesOnly => true,
            EffectWithoutPlan | ShareDedicated | LeaveDedicated => true,
            RetryAnswersFound | StaleLaunchWrites | WakeStaysIndexed | SleepIgnoresOrdinal => true,
            EndOverwritten | PauseSurvivesResume | HibernateWhileBusy => true,
            AnswerBeforeCommit | TakeBeforeCommit => false,
            LateKill | FalseAccount | LeaseFromReceipt | SweepBlindly => false,
            SweepWithoutEntry | SweepFoundTwice | SweepAskedFor => false,
        }
    }
}

impl FromStr for FastPlant {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known: Vec<&str> = FastPlant::ALL.iter().map(|plant| plant.as_str()).collect();
        let found = FastPlant::ALL.into_iter().find(|plant| plant.as_str() == word);
        let plant = found.ok_or_else(|| format!("unknown plant {word:?}: use {}", known.join(", ")))?;
        if plant.needs_feature() && !cfg!(feature = "mutations") {
            return Err(format!("{word} lies in the product's code: build with --features mutations"));
        }
        Ok(plant)
    }
}

/// Plants what lies in the product's code, for this thread.
#[cfg(feature = "mutations")]
pub fn plant_in_product(plant: Option<FastPlant>) {
    use stint_node::mutations::{Mutation, plant as set};
    plant_in_state(plant);
    set(match plant {
        Some(FastPlant::RenewAfterRevoke) => Some(Mutation::RenewAfterRevoke),
        Some(FastPlant::ActBeforeOwnTermEntry) => Some(Mutation::ActBeforeOwnTermEntry),
        Some(FastPlant::SkipDriftMargin) => Some(Mutation::SkipDriftMargin),
        Some(FastPlant::ReleaseOnNewIncarnation) => Some(Mutation::ReleaseOnNewIncarnation),
        Some(FastPlant::OldReceiptTimes) => Some(Mutation::OldReceiptTimes),
        Some(FastPlant::WallClockJump) => Some(Mutation::WallClockJump),
        Some(FastPlant::StaleOrders) => Some(Mutation::StaleOrders),
        Some(FastPlant::RenewWithoutQuorum) => Some(Mutation::RenewWithoutQuorum),
        Some(FastPlant::LaunchWithoutDevices) => Some(Mutation::LaunchWithoutDevices),
        Some(FastPlant::RenewUnseen) => Some(Mutation::RenewUnseen),
        Some(FastPlant::StampWhenWritten) => Some(Mutation::StampWhenWritten),
        Some(FastPlant::NeverCatchUp) => Some(Mutation::NeverCatchUp),
        Some(FastPlant::PlanOnChangesOnly) => Some(Mutation::PlanOnChangesOnly),
        Some(FastPlant::EffectWithoutPlan) => Some(Mutation::EffectWithoutPlan),
        _ => None,
    });
}

/// Plants what lies in the state machine.
#[cfg(feature = "mutations")]
fn plant_in_state(plant: Option<FastPlant>) {
    use stint_scheduler::mutations::{Mutation, plant as set};
    set(match plant {
        Some(FastPlant::ShareDedicated) => Some(Mutation::ShareDedicated),
        Some(FastPlant::LeaveDedicated) => Some(Mutation::LeaveDedicated),
        Some(FastPlant::RetryAnswersFound) => Some(Mutation::RetryAnswersFound),
        Some(FastPlant::StaleLaunchWrites) => Some(Mutation::StaleLaunchWrites),
        Some(FastPlant::WakeStaysIndexed) => Some(Mutation::WakeStaysIndexed),
        Some(FastPlant::SleepIgnoresOrdinal) => Some(Mutation::SleepIgnoresOrdinal),
        Some(FastPlant::EndOverwritten) => Some(Mutation::EndOverwritten),
        Some(FastPlant::PauseSurvivesResume) => Some(Mutation::PauseSurvivesResume),
        Some(FastPlant::HibernateWhileBusy) => Some(Mutation::HibernateWhileBusy),
        _ => None,
    });
}

#[cfg(not(feature = "mutations"))]
pub fn plant_in_product(_: Option<FastPlant>) {}
