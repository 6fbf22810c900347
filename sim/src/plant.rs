//! Planted wrong behaviours: each must be caught by a checker. The product's code is the same; what it stands on lies.

use std::str::FromStr;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// The watchdog forgets deadlines: what is not renewed runs on.
    LateKill,
    /// A sync of the disk does nothing: acknowledged before it is stable.
    LyingDisk,
    /// A restarted leader takes its term again without an election.
    LeaderRestore,
    /// A machine that lost power says it can account for what it ran.
    FalseAccount,
    /// The clock of one machine runs at half speed, far beyond the drift that leases allow for.
    SlowClock,
}

impl Plant {
    /// Every one.
    pub const ALL: [Plant; 5] =
        [Plant::LateKill, Plant::LyingDisk, Plant::LeaderRestore, Plant::FalseAccount, Plant::SlowClock];

    /// The word of the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Plant::LateKill => "late_kill",
            Plant::LyingDisk => "lying_disk",
            Plant::LeaderRestore => "leader_restore",
            Plant::FalseAccount => "false_account",
            Plant::SlowClock => "slow_clock",
        }
    }
}

impl FromStr for Plant {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known: Vec<&str> = Plant::ALL.iter().map(|plant| plant.as_str()).collect();
        let found = Plant::ALL.into_iter().find(|plant| plant.as_str() == word);
        found.ok_or_else(|| format!("unknown plant {word:?}: use {}", known.join(", ")))
    }
}
