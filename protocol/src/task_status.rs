//! Where a task stands, in the words that the command line, the API and `stint explain` share.

use std::fmt;
use std::str::FromStr;

use crate::class::UnknownWord;

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskStatus {
    /// It waits for a node, or for the time of its next attempt.
    Queued,
    /// A node holds its lease and prepares it; its program has not begun.
    Starting,
    /// Slurm has its job, or is about to get it; the job has not begun.
    Pending,
    /// A node holds its lease, and its program has begun.
    Running,
    /// Its user cancelled it, and its node has yet to say that it has stopped.
    Stopping,
    /// It waits to be woken.
    Suspended,
    Finished,
}

/// All of them, for whoever wrote another word.
const WORDS: &str = "queued, starting, pending, running, stopping, suspended, finished";

impl TaskStatus {
    pub const ALL: [TaskStatus; 7] = [
        TaskStatus::Queued,
        TaskStatus::Starting,
        TaskStatus::Pending,
        TaskStatus::Running,
        TaskStatus::Stopping,
        TaskStatus::Suspended,
        TaskStatus::Finished,
    ];

    /// The word users see and write.
    pub fn as_str(self) -> &'static str {
        match self {
            TaskStatus::Queued => "queued",
            TaskStatus::Starting => "starting",
            TaskStatus::Pending => "pending",
            TaskStatus::Running => "running",
            TaskStatus::Stopping => "stopping",
            TaskStatus::Suspended => "suspended",
            TaskStatus::Finished => "finished",
        }
    }
}

impl FromStr for TaskStatus {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let known = TaskStatus::ALL.into_iter().find(|status| status.as_str() == text);
        known.ok_or_else(|| UnknownWord::new("state", text, WORDS))
    }
}

impl fmt::Display for TaskStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
