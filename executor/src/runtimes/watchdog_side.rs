//! A runtime as the watchdog uses it: how an attempt is started, what of it the watchdog cannot reach by itself, and what is
//! left when it is over. Everything else (time, journal, cgroup, reaping) is the watchdog's own, and the same for all.

use std::ffi::CString;
use std::fmt::Debug;
use std::io;
use std::path::PathBuf;

use stint_protocol::{AttemptEnd, EndKind, LeaseId};

use crate::shim_api::layout::Layout;
use crate::shim_api::request::{Mode, StartRequest};
use crate::sys::StatusSlot;
use crate::sys::spawn::{Child, Namespaces, OutputPipes, Program, Spawner, Step};

/// What the watchdog does in each of a runtime's modes.
pub type Modes = &'static [(Mode, &'static dyn WatchdogRuntime)];

/// DOOR: a runtime, as the watchdog uses it. It holds nothing of any attempt. The watchdog has one thread and must never be
/// late, so nothing here waits for anything but the clone of a child.
pub trait WatchdogRuntime: Debug + Sync {
    /// Whether its attempts run in cgroups that the watchdog makes.
    fn has_cgroup(&self) -> bool {
        true
    }

    /// Whether the files of its attempts belong to another user than the watchdog's: then no other attempt gets the folder.
    fn keeps_folder(&self) -> bool {
        false
    }

    /// How long starting may take, in milliseconds, where the run time counts only from when the program began. None: it
    /// counts from the launch.
    fn start_ms(&self) -> Option<u64> {
        None
    }

    /// Starts an attempt. After an error nothing of it runs.
    fn start(&self, start: Start<'_>) -> Result<Started, StartError>;

    /// Why a start failed, where the runtime knows more than the step and the number say.
    fn not_started(&self, failed: &Failed<'_>) -> Option<(EndKind, String)> {
        let _ = failed;
        None
    }

    /// What an attempt of an earlier watchdog may have left that no signal of this one reaches.
    fn left_by(&self, layout: &Layout, lease: LeaseId) -> Option<Box<dyn AttemptMonitor>> {
        let _ = (layout, lease);
        None
    }

    /// Removes what the runtime remembers of an attempt of which nothing runs any more. Of an earlier watchdog's attempt
    /// nobody knows which runtime it had: each is asked.
    fn clean(&self, layout: &Layout, lease: LeaseId) {
        let _ = (layout, lease);
    }
}

/// What runs elsewhere than below the watchdog, as a container of a daemon does, so that the watchdog's child only keeps it:
/// it ends when that *monitor* has said how.
pub trait AttemptMonitor: Debug {
    /// The monitor says that the program runs: takes a handle on it.
    fn hold(&mut self, slot: &StatusSlot);

    /// Kills it without asking anybody, and has its monitor see to it.
    fn kill(&mut self, monitor: &Child, slot: &StatusSlot);

    /// Whether its monitor has said how it ended. One that is gone and has not was killed.
    fn is_over(&self, slot: &StatusSlot) -> bool;

    /// How it ended, as its monitor said.
    fn end(&self, slot: &StatusSlot) -> Option<AttemptEnd>;

    /// Forks a child that ends once nothing of it runs, and says so in the slot where there is one.
    fn clear_away(&self, spawner: &Spawner, slot: Option<&'static StatusSlot>) -> io::Result<Child>;
}

/// What an attempt is started with.
pub struct Start<'a> {
    pub layout: &'a Layout,
    pub request: &'a StartRequest,
    /// Its output files and its work folder are here.
    pub folder: PathBuf,
    /// By these files its processes enter its cgroup.
    pub cgroups: Vec<CString>,
    /// None: this host permits no pid and IPC namespaces.
    pub namespaces: Option<Namespaces>,
    /// Whether a program can be shut into its own view of the host.
    pub jails: bool,
    pub spawner: &'a mut Spawner,
    pub slot: u32,
}

/// An attempt with its child.
#[derive(Debug)]
pub struct Started {
    pub child: Child,
    /// Nothing of it outlives its child.
    pub contained: bool,
    /// None: its processes are below the watchdog.
    pub monitor: Option<Box<dyn AttemptMonitor>>,
    /// None: its monitor sees to its output.
    pub output: Option<OutputPipes>,
}

/// A start that failed after the child was there.
pub struct Failed<'a> {
    pub layout: &'a Layout,
    pub request: &'a StartRequest,
    pub step: Step,
    /// An error number, or the exit status of the runtime's own program.
    pub number: i32,
}

/// Why there is no child.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{doing}: {source}")]
    Failed { doing: &'static str, source: io::Error },
    #[error("{0}")]
    Impossible(&'static str),
}

impl StartError {
    /// What was being done when an operation failed.
    pub fn while_doing(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Failed { doing, source }
    }
}

impl Start<'_> {
    /// Starts a program below the watchdog: as the child, or in namespaces whose init is the child.
    pub fn launch(self, program: &Program, namespaces: Option<Namespaces>) -> Result<Started, StartError> {
        let child = match namespaces {
            Some(namespaces) => self.spawner.contained(self.slot, program, namespaces),
            None => self.spawner.direct(self.slot, program),
        };
        let (child, output) = child.map_err(StartError::while_doing("starting the process"))?;
        Ok(Started { child, contained: namespaces.is_some(), monitor: None, output: Some(output) })
    }
}
