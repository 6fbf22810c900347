//! Containers of Docker, as the watchdog starts them: its child is a monitor, and the container's first process is killed by a
//! handle that the watchdog holds itself, whatever the monitor and the daemon do.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::sync::atomic::Ordering::SeqCst;

use stint_protocol::{AttemptEnd, BootMs, LeaseId};

use super::{monitor, verdict};
use crate::limits;
use crate::runtimes::watchdog_side::{AttemptMonitor, Modes, Start, StartError, Started, WatchdogRuntime};
use crate::shim_api::layout::Layout;
use crate::shim_api::request::Mode;
use crate::sys::spawn::{Child, Spawner};
use crate::sys::{self, StatusSlot};

pub const MODES: Modes = &[(Mode::Docker, &Docker)];

#[derive(Debug)]
struct Docker;

impl WatchdogRuntime for Docker {
    /// The daemon makes the container's.
    fn has_cgroup(&self) -> bool {
        false
    }

    fn keeps_folder(&self) -> bool {
        true
    }

    /// Its image may have to be pulled.
    fn start_ms(&self) -> Option<u64> {
        Some(limits::DOCKER_START_MS)
    }

    fn start(&self, start: Start<'_>) -> Result<Started, StartError> {
        let Start { layout, request, folder, spawner, slot: index, .. } = start;
        let unsaid = StartError::Impossible("the node did not say how to use Docker");
        let docker = request.docker.as_ref().ok_or(unsaid)?;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        // Before anything is created: the next watchdog finds by it what this one leaves.
        made.and_then(|()| std::fs::write(monitor::mark_file(layout, request.lease), &docker.socket))
            .map_err(StartError::while_doing("making its folder"))?;
        let slot = spawner.empty_slot(index);
        let child = spawner
            .monitor(|notice| monitor::run(layout, request, slot, &|| monitor::tell_slot(notice, index)))
            .map_err(StartError::while_doing("starting its monitor"))?;
        let container = Container::new(layout, request.lease, docker.socket.clone());
        Ok(Started { child, contained: true, monitor: Some(Box::new(container)), output: None })
    }

    fn left_by(&self, layout: &Layout, lease: LeaseId) -> Option<Box<dyn AttemptMonitor>> {
        let socket = std::fs::read_to_string(monitor::mark_file(layout, lease)).ok()?;
        Some(Box::new(Container::new(layout, lease, socket)))
    }
}

/// What the watchdog knows of a container.
#[derive(Debug)]
struct Container {
    layout: Layout,
    lease: LeaseId,
    /// Of the daemon that has it.
    socket: String,
    process: Option<OwnedFd>,
    killed_at: Option<BootMs>,
}

impl Container {
    fn new(layout: &Layout, lease: LeaseId, socket: String) -> Self {
        Self { layout: layout.clone(), lease, socket, process: None, killed_at: None }
    }
}

impl AttemptMonitor for Container {
    /// Takes a handle on the container's first process, when it still is the one that the monitor found.
    fn hold(&mut self, slot: &StatusSlot) {
        let pid = slot.container.load(SeqCst);
        if self.process.is_none()
            && pid > 0
            // The handle comes first: a start time that agrees afterwards shows that it was this process all along. The other
            // way round a stranger that got the number in between would be killed.
            && let Ok(handle) = sys::pidfd_open(pid)
            && sys::start_ticks(pid) == Some(slot.container_since.load(SeqCst))
        {
            self.process = Some(handle);
        }
    }

    /// A monitor that hangs is killed too; another one clears up.
    fn kill(&mut self, monitor: &Child, slot: &StatusSlot) {
        self.hold(slot);
        if let Some(process) = &self.process {
            sys::pidfd_signal(process, libc::SIGKILL);
        }
        let now = sys::boot_now();
        let first = *self.killed_at.get_or_insert(now);
        let hangs = now.since(first) > limits::MONITOR_HUNG_MS;
        if hangs {
            self.killed_at = None;
        }
        sys::pidfd_signal(&monitor.pidfd, if hangs { libc::SIGKILL } else { libc::SIGUSR1 });
    }

    fn is_over(&self, slot: &StatusSlot) -> bool {
        verdict::recorded_end(slot).is_some()
    }

    /// The kind comes from shared memory, the words from a file.
    fn end(&self, slot: &StatusSlot) -> Option<AttemptEnd> {
        let kind = verdict::recorded_end(slot)?;
        let written = std::fs::read(verdict::end_file(&self.layout, self.lease)).ok();
        let written = written.and_then(|bytes| minicbor::decode::<AttemptEnd>(&bytes).ok());
        let lost = || AttemptEnd::new(self.lease, kind.clone(), "its message could not be kept".into(), 0);
        let written = written.unwrap_or_else(lost);
        Some(AttemptEnd { lease: self.lease, kind, ..written })
    }

    fn clear_away(&self, spawner: &Spawner, slot: Option<&'static StatusSlot>) -> io::Result<Child> {
        spawner.monitor(|_| monitor::clean(&self.layout, self.lease, &self.socket, slot))
    }
}
