//! Docker attempts: the watchdog's child is a keeper, and the container's first process is killed by a handle that the
//! watchdog holds itself, whatever the keeper and the daemon do.

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::sync::atomic::Ordering::SeqCst;

use stint_protocol::{AttemptEnd, BootMs, LeaseId};

use super::Attempts;
use crate::complain::complain;
use crate::limits;
use crate::runtimes::docker::{keeper, verdict};
use crate::shim_api::request::{Mode, Order};
use crate::sys::spawn::Child;
use crate::sys::{self, Slot};

/// What the watchdog knows of a container.
#[derive(Debug, Default)]
pub struct Kept {
    process: Option<OwnedFd>,
    killed_at: Option<BootMs>,
}

impl Kept {
    /// Takes a handle on the container's first process, when it still is the one that the keeper found.
    pub fn found(&mut self, slot: &Slot) {
        let pid = slot.container.load(SeqCst);
        if self.process.is_none()
            && pid > 0
            && let Ok(handle) = sys::pidfd_open(pid)
            && sys::start_ticks(pid) == Some(slot.container_since.load(SeqCst))
        {
            self.process = Some(handle);
        }
    }

    /// Kills the container, and has the keeper see to it. A keeper that hangs is killed too; another one clears up.
    pub fn kill(&mut self, keeper: &Child, slot: &Slot) {
        self.found(slot);
        if let Some(process) = &self.process {
            sys::pidfd_signal(process, libc::SIGKILL);
        }
        let now = sys::boot_now();
        let first = *self.killed_at.get_or_insert(now);
        let hangs = now.since(first) > limits::KEEPER_HUNG_MS;
        if hangs {
            self.killed_at = None;
        }
        sys::pidfd_signal(&keeper.pidfd, if hangs { libc::SIGKILL } else { libc::SIGUSR1 });
    }
}

/// The run time that is guarded from the launch on. A Docker attempt's own counts from when its program began.
pub fn first_timeout(order: &Order) -> u64 {
    if order.mode == Mode::Docker {
        order.run_timeout_ms.saturating_add(limits::DOCKER_START_MS)
    } else {
        order.run_timeout_ms
    }
}

impl Attempts {
    pub(super) fn spawn_keeper(&mut self, order: &Order) -> Result<(u32, Child, bool), String> {
        let Some(docker) = &order.docker else {
            return Err("the node did not say how to use Docker".into());
        };
        let folder = self.layout.attempt(order.lease);
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        // Before anything is created: the next watchdog finds by it what this one leaves.
        made.and_then(|()| std::fs::write(keeper::mark_file(&self.layout, order.lease), &docker.socket))
            .map_err(|e| format!("making its folder: {e}"))?;
        let index = self.take_slot().ok_or("the watchdog holds as many attempts as it can")?;
        let slot = self.spawner.empty_slot(index);
        let layout = self.layout.clone();
        let child = self
            .spawner
            .keeper(|notice| keeper::run(&layout, order, slot, &|| keeper::tell_slot(notice, index)));
        match child {
            Ok(child) => Ok((index, child, true)),
            Err(e) => {
                self.free_slots.push(index);
                Err(format!("starting its keeper: {e}"))
            }
        }
    }

    /// Whether a keeper is gone that has not said how its attempt ended: it was killed.
    pub(super) fn lacks_docker_end(&self, lease: LeaseId) -> bool {
        let Some(attempt) = self.running.get(&lease) else { return false };
        attempt.order.mode == Mode::Docker && verdict::told_end(self.spawner.slot(attempt.slot)).is_none()
    }

    /// How the keeper says that its attempt ended: the kind from shared memory, the words from a file.
    pub(super) fn docker_end(&self, lease: LeaseId, slot: &Slot) -> Option<AttemptEnd> {
        let kind = verdict::told_end(slot)?;
        let written = std::fs::read(verdict::end_file(&self.layout, lease)).ok();
        let written = written.and_then(|bytes| minicbor::decode::<AttemptEnd>(&bytes).ok());
        let lost = || AttemptEnd::new(lease, kind.clone(), "its message could not be kept".into(), 0);
        let written = written.unwrap_or_else(lost);
        Some(AttemptEnd { lease, kind, ..written })
    }

    /// Puts another keeper in the place of one that was killed; it only clears up.
    pub(super) fn clear_up(&mut self, lease: LeaseId) {
        let Some(attempt) = self.running.get_mut(&lease) else { return };
        let Some(docker) = &attempt.order.docker else { return };
        attempt.kept.found(self.spawner.slot(attempt.slot));
        attempt.kept.kill(&attempt.child, self.spawner.slot(attempt.slot));
        let (layout, slot) = (&self.layout, self.spawner.slot(attempt.slot));
        match self.spawner.keeper(|_| keeper::clean(layout, lease, &docker.socket, Some(slot))) {
            Ok(child) => {
                self.by_pid.insert(child.pid, lease);
                attempt.child = child;
            }
            Err(e) => {
                complain!(Watchdog, lease, "clearing up its container: {e}");
                attempt.gone.get_or_insert(super::Gone { reaped: None, why: None, at: sys::boot_now() });
            }
        }
    }
}
