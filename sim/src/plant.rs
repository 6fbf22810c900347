//! Planted wrong behaviours: each must be caught by a checker. Some lie in what the product stands on; the others in its
//! own code, at the points that the modules `mutations` of `stint_node`, `stint_raft` and `stint_slurm_bridge` list.

use std::str::FromStr;

use stint_node::mutations::Mutation as NodeMutation;
use stint_raft::mutations::Mutation as RaftMutation;
use stint_slurm_bridge::mutations::Mutation as SlurmMutation;

use crate::oracle::Severity;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// The watchdog forgets deadlines: what is not renewed runs on.
    LateKill,
    /// An attempt has no last stop of its own: with its watchdog stopped it runs on.
    NoLastStop,
    /// A sync of the disk does nothing: acknowledged before it is stable.
    LyingDisk,
    /// A restarted leader takes its term again without an election.
    LeaderRestore,
    /// A machine that lost power says it can account for what it ran.
    FalseAccount,
    /// The clock of one machine runs at half speed, far beyond the drift that leases allow for.
    SlowClock,
    /// A job's guard never ends a program for time: it runs on when nobody gives it any more.
    SlurmDeafGuard,
    /// A job's guard counts the time it was given from when it reads of it, and not from when it asked.
    SlurmLateCount,
    /// A job that Slurm begins again begins its program again.
    SlurmBeginsTwice,
    /// In the product's own code.
    Node(NodeMutation),
    Raft(RaftMutation),
    Slurm(SlurmMutation),
}

/// Every plant with its word. `StaleOrders` is not here: between whole nodes an answer reaches only the call that waits
/// for it, so orders are never stale; the fast layer, where late answers arrive, plants and catches it.
const WORDS: [(&str, Plant); 28] = [
    ("late_kill", Plant::LateKill),
    ("no_last_stop", Plant::NoLastStop),
    ("lying_disk", Plant::LyingDisk),
    ("leader_restore", Plant::LeaderRestore),
    ("false_account", Plant::FalseAccount),
    ("slow_clock", Plant::SlowClock),
    ("slurm_deaf_guard", Plant::SlurmDeafGuard),
    ("slurm_late_count", Plant::SlurmLateCount),
    ("slurm_begins_twice", Plant::SlurmBeginsTwice),
    ("stale_read", Plant::Node(NodeMutation::StaleRead)),
    ("renew_after_revoke", Plant::Node(NodeMutation::RenewAfterRevoke)),
    ("act_before_own_term_entry", Plant::Node(NodeMutation::ActBeforeOwnTermEntry)),
    ("skip_drift_margin", Plant::Node(NodeMutation::SkipDriftMargin)),
    ("release_on_new_incarnation", Plant::Node(NodeMutation::ReleaseOnNewIncarnation)),
    ("wall_clock_jump", Plant::Node(NodeMutation::WallClockJump)),
    ("renew_without_quorum", Plant::Node(NodeMutation::RenewWithoutQuorum)),
    ("ignore_version_gate", Plant::Node(NodeMutation::IgnoreVersionGate)),
    ("stamp_from_old_term", Plant::Node(NodeMutation::StampFromOldTerm)),
    ("stamp_refused", Plant::Node(NodeMutation::StampRefused)),
    ("ack_before_fsync", Plant::Raft(RaftMutation::AckBeforeSync)),
    ("forget_vote", Plant::Raft(RaftMutation::ForgetVote)),
    ("trust_what_is_read", Plant::Raft(RaftMutation::TrustWhatIsRead)),
    ("several_leaders_a_term", Plant::Raft(RaftMutation::SeveralLeadersATerm)),
    ("await_own_report", Plant::Raft(RaftMutation::AwaitOwnReport)),
    ("slurm_always_obeyed", Plant::Slurm(SlurmMutation::AlwaysObeyed)),
    ("slurm_speaks_first", Plant::Slurm(SlurmMutation::SlurmSpeaksFirst)),
    ("slurm_cancelled_before_it_ran", Plant::Slurm(SlurmMutation::CancelledBeforeItRan)),
    ("slurm_grant_while_waiting", Plant::Slurm(SlurmMutation::GrantWhileWaiting)),
];

impl Plant {
    /// Every one.
    pub const ALL: [Plant; WORDS.len()] = {
        let mut all = [Plant::LateKill; WORDS.len()];
        let mut at = 0;
        while at < WORDS.len() {
            all[at] = WORDS[at].1;
            at += 1;
        }
        all
    };

    /// The word of the command line.
    pub fn as_str(self) -> &'static str {
        WORDS.iter().find(|(_, plant)| *plant == self).map_or("unnamed", |(word, _)| word)
    }

    /// Whether it lies in the product's own code, which only a build with the feature `mutations` can change.
    pub fn needs_mutations(self) -> bool {
        matches!(self, Plant::Node(_) | Plant::Raft(_) | Plant::Slurm(_))
    }

    /// How it must be caught: all of them break a promise, but that a peer whose disk lied sees so itself when it starts,
    /// and refuses to.
    pub fn expected(self) -> Severity {
        match self {
            Plant::LyingDisk => Severity::Crash,
            _ => Severity::Safety,
        }
    }

    /// Plants it for the rest of this process. Those under the product are planted where the world is made.
    #[cfg(feature = "mutations")]
    pub(crate) fn plant(self) {
        match self {
            Plant::Node(mutation) => stint_node::mutations::plant(Some(mutation)),
            Plant::Raft(mutation) => stint_raft::mutations::plant(Some(mutation)),
            Plant::Slurm(mutation) => stint_slurm_bridge::mutations::plant(Some(mutation)),
            _ => {}
        }
    }

    /// This build has nothing to plant in the product.
    #[cfg(not(feature = "mutations"))]
    pub(crate) fn plant(self) {}
}

impl FromStr for Plant {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = WORDS.map(|(word, _)| word).join(", ");
        let found = WORDS.into_iter().find(|(known, _)| *known == word).map(|(_, plant)| plant);
        let plant = found.ok_or_else(|| format!("unknown plant {word:?}: use {known}"))?;
        if plant.needs_mutations() && !cfg!(feature = "mutations") {
            return Err(format!(
                "{word} lies in the product's own code, which this build cannot change: use stint-sim-mutants \
                 (cargo build --profile ci -p stint-sim --features mutations)"
            ));
        }
        Ok(plant)
    }
}
