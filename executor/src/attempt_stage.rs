//! Where an attempt is on its host, from its launch to its end.

use std::fmt;

/// Where an attempt is. It only moves down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptStage {
    /// What it needs is being brought here.
    Preparing(Preparation),
    /// On its way to the watchdog, not sent yet.
    Outbox,
    With(Executing, Execution),
    /// Nothing of it runs any more; its outputs are being kept, and its end waits for that.
    Finishing,
    /// It has ended; the cluster has not said yet that it recorded the end.
    Ended,
}

/// What an attempt that is being prepared waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preparation {
    Image,
    /// Bytes of its input files that the cluster keeps.
    Inputs,
    /// Its work folder, with input files and secrets.
    Files,
    /// The file systems of what it mounts.
    Mounts,
    /// Until nobody uses the devices that it was given.
    Devices,
    /// Others of its runtime are starting.
    Turn,
}

/// Who executes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executing {
    Watchdog,
    /// This process: the attempt is a mock, or was refused and its end is about to be told.
    Node,
    Slurm,
}

/// How far its program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    Starting,
    Running,
    /// It is asked to end, or is being killed.
    Stopping {
        started: bool,
    },
}

impl AttemptStage {
    pub fn is_with(&self, who: Executing) -> bool {
        matches!(self, AttemptStage::With(with, _) if *with == who)
    }

    /// Whether its program has begun.
    pub fn has_started(&self) -> bool {
        match self {
            AttemptStage::Preparing(_) | AttemptStage::Outbox => false,
            AttemptStage::With(_, execution) => {
                matches!(execution, Execution::Running | Execution::Stopping { started: true })
            }
            AttemptStage::Finishing | AttemptStage::Ended => true,
        }
    }
}

impl fmt::Display for AttemptStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttemptStage::Preparing(what) => write!(f, "preparing: {what}"),
            AttemptStage::Outbox => f.write_str("on its way to the watchdog"),
            AttemptStage::With(who, execution) => write!(f, "with {who}: {execution}"),
            AttemptStage::Finishing => f.write_str("finishing: its outputs"),
            AttemptStage::Ended => f.write_str("ended, not recorded yet"),
        }
    }
}

impl fmt::Display for Preparation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Preparation::Image => "its image",
            Preparation::Inputs => "its inputs",
            Preparation::Files => "its files and secrets",
            Preparation::Mounts => "what it mounts",
            Preparation::Devices => "its devices",
            Preparation::Turn => "others that are starting",
        })
    }
}

impl fmt::Display for Executing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Executing::Watchdog => "the watchdog",
            Executing::Node => "this node",
            Executing::Slurm => "Slurm",
        })
    }
}

impl fmt::Display for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Execution::Starting => "starting",
            Execution::Running => "running",
            Execution::Stopping { .. } => "stopping",
        })
    }
}
