//! How far the start of a program is, or at what it failed, as the slot of its attempt says.

use std::sync::atomic::Ordering::SeqCst;

use crate::sys::StatusSlot;

/// What is known about an attempt, in `StatusSlot::phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Nothing,
    Running,
    Exited,
    Failed,
    /// Its init starts the program, which may have begun.
    Starting,
    /// Its init ended it, because its lease was over.
    LeaseOver,
}

impl Phase {
    pub fn in_slot(slot: &StatusSlot) -> Self {
        match slot.phase.load(SeqCst) {
            1 => Phase::Running,
            2 => Phase::Exited,
            3 => Phase::Failed,
            4 => Phase::Starting,
            5 => Phase::LeaseOver,
            _ => Phase::Nothing,
        }
    }
}

/// Where starting failed, in `StatusSlot::step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    Unknown = 0,
    ParentDied = 1,
    Mounts = 2,
    Folder = 3,
    Logs = 4,
    Cgroup = 5,
    UserMap = 6,
    Clone = 7,
    Exec = 8,
    CrunCreate = 9,
    CrunStart = 10,
    CrunPid = 11,
    Network = 12,
    Privileges = 13,
    Root = 14,
    Writable = 15,
    WorkingDir = 16,
    Descriptors = 17,
    HostMount = 18,
    CrunUnknown = 19,
}

impl Step {
    pub fn in_slot(slot: &StatusSlot) -> Self {
        use Step::*;
        let all = [
            ParentDied,
            Mounts,
            Folder,
            Logs,
            Cgroup,
            UserMap,
            Clone,
            Exec,
            CrunCreate,
            CrunStart,
            CrunPid,
            Network,
            Privileges,
            Root,
            Writable,
            WorkingDir,
            Descriptors,
            HostMount,
            CrunUnknown,
        ];
        let number = slot.step.load(SeqCst);
        all.into_iter().find(|s| *s as u32 == number).unwrap_or(Step::Unknown)
    }

    /// What was being done, for a message.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Unknown => "starting it",
            Step::ParentDied => "starting it while the watchdog ended",
            Step::Mounts => "setting up its mounts",
            Step::Folder => "making its work folder",
            Step::Logs => "opening its output files",
            Step::Cgroup => "entering its cgroup",
            Step::UserMap => "mapping users",
            Step::Clone => "starting the process",
            Step::Exec => "executing the program",
            Step::CrunCreate => "crun create",
            Step::CrunStart => "crun start",
            Step::CrunUnknown => "crun start failed, and it is not known whether the program began",
            Step::CrunPid => "reading the container's process id",
            Step::Network => "entering its network",
            Step::Privileges => "giving up privileges",
            Step::Writable => "finding a folder of executor.process.writable",
            Step::WorkingDir => "going to its working directory",
            Step::HostMount => "mounting what it asked for (was it replaced by a link?)",
            Step::Descriptors => "making a table of descriptors of its own",
            Step::Root => "laying a writable layer over its root file system",
        }
    }
}
