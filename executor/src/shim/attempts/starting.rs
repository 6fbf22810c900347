//! How attempts start: what is theirs is taken (a sandbox folder, a slot, a cgroup), the journal knows before and after, and their
//! runtime starts them.

use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;

use stint_protocol::{EndKind, LeaseId};

use super::{Attempt, AttemptOutput, Attempts, last_stop};
use crate::limits;
use crate::log::log;
use crate::runtimes;
use crate::runtimes::watchdog_side::{Start, StartError, Started, WatchdogRuntime};
use crate::shim::cgroup::{Cgroup, CgroupLimits};
use crate::shim::journal::ProcessIdentity;
use crate::shim::outputs::Lost;
use crate::shim_api::request::StartRequest;
use crate::shim_api::wire::FromShim;
use crate::sys;
use crate::sys::spawn::{OutputPipes, Phase};
use crate::watchdog::{AttemptTimes, Watchdog};

impl Attempts {
    /// Starts a batch: one journal write before, one after.
    pub fn start(&mut self, requests: Vec<StartRequest>) {
        let mut fresh = Vec::with_capacity(requests.len());
        for request in requests {
            // Also one that has ended: a request that is repeated after the end must not start it a second time under its
            // number.
            let known = self.running.contains_key(&request.lease)
                || self.ended.contains_key(&request.lease)
                || self.leftovers.holds(request.lease);
            if known {
                continue;
            }
            let Some(runtime) = runtimes::in_mode(request.mode) else {
                self.refuse(request.lease, EndKind::StartFailed, "its watchdog has no such runtime".into());
                continue;
            };
            let own_folder = request.own_folder || runtime.keeps_folder();
            let sandbox_dir = (!own_folder).then(|| self.sandbox_dirs.take());
            self.journal.begun(request.lease, sandbox_dir);
            fresh.push((request, runtime, sandbox_dir));
        }
        let written = self.journal.flush(sys::boot_now());
        for (request, runtime, sandbox_dir) in fresh {
            match &written {
                Ok(()) => self.start_one(request, runtime, sandbox_dir),
                // What the journal does not name counts as never having run, for the node and for a later watchdog: so it
                // must not run.
                Err(e) => {
                    self.give_back(request.lease, sandbox_dir);
                    let message = format!("writing the watchdog's journal: {e}");
                    self.refuse(request.lease, EndKind::StartFailed, message);
                }
            }
        }
    }

    fn start_one(
        &mut self,
        request: StartRequest,
        runtime: &'static dyn WatchdogRuntime,
        sandbox_dir: Option<u32>,
    ) {
        let lease = request.lease;
        let before = sys::boot_now();
        let mut limits = AttemptTimes {
            deadline: request.deadline,
            grace_ms: request.grace_ms,
            kill_margin_ms: request.kill_margin_ms,
            // Guarded from the launch on, also where the program's own run time begins later.
            run_timeout_ms: request.run_timeout_ms.saturating_add(runtime.start_ms().unwrap_or(0)),
            started_at: before,
        };
        if !Watchdog::may_start(&limits, before) {
            self.give_back(lease, sandbox_dir);
            return self.refuse(lease, EndKind::Lost, "its lease was over before it could be started".into());
        }
        let started = self.cgroup_for(&request, runtime, sandbox_dir).and_then(|cgroup| {
            match self.spawn(&request, runtime, sandbox_dir, cgroup.as_ref()) {
                Ok((slot, started)) => Ok((slot, started, cgroup)),
                Err(e) => {
                    self.pending_removal.extend(cgroup);
                    Err(e)
                }
            }
        });
        let (slot, Started { child, contained, monitor, output }, cgroup) = match started {
            Ok(started) => started,
            Err(e) => {
                self.give_back(lease, sandbox_dir);
                return self.refuse(lease, EndKind::StartFailed, e.to_string());
            }
        };
        let output = self.keep_output(lease, sandbox_dir, output);
        let trace = ProcessIdentity { pid: child.pid, before, after: sys::boot_now() };
        self.journal.running(lease, trace);
        limits.started_at = trace.after;
        self.watchdog.start(lease, limits);
        self.by_pid.insert(child.pid, lease);
        self.by_slot[slot as usize] = Some(lease);
        let announced = !contained && Phase::in_slot(self.spawner.slot(slot)) == Phase::Running;
        if announced {
            self.news.push(FromShim::Started(lease, trace.after, sandbox_dir));
        }
        let attempt = Attempt {
            request,
            runtime,
            sandbox_dir,
            slot,
            child,
            trace,
            contained,
            cgroup,
            announced,
            monitor,
            burnt_ms: None,
            gone: None,
            output,
        };
        self.running.insert(lease, attempt);
    }

    /// What cannot be kept is lost, as on a full disk: by now it may run.
    fn keep_output(
        &mut self,
        lease: LeaseId,
        sandbox_dir: Option<u32>,
        pipes: Option<OutputPipes>,
    ) -> AttemptOutput {
        let folder = self.folder(lease, sandbox_dir);
        match pipes.map(|pipes| self.outputs.keep(&folder, pipes)) {
            None => AttemptOutput::Over(Lost::default()),
            Some(Ok(number)) => AttemptOutput::Kept(number),
            Some(Err(e)) => {
                log!(Watchdog, lease, "keeping its output: {e}");
                AttemptOutput::Over(Lost { error: rustix::io::Errno::from_io_error(&e), ..Lost::default() })
            }
        }
    }

    /// Where its work folder and its output are while it runs.
    fn folder(&self, lease: LeaseId, sandbox_dir: Option<u32>) -> PathBuf {
        sandbox_dir.map_or_else(|| self.layout.attempt(lease), |number| self.layout.sandbox_dir(number))
    }

    /// Nothing ran in the sandbox folder of this attempt.
    fn give_back(&mut self, lease: LeaseId, sandbox_dir: Option<u32>) {
        if let Some(sandbox_dir) = sandbox_dir {
            self.sandbox_dirs.leave(&self.layout, lease, sandbox_dir);
        }
    }

    fn cgroup_for(
        &mut self,
        request: &StartRequest,
        runtime: &dyn WatchdogRuntime,
        sandbox_dir: Option<u32>,
    ) -> Result<Option<Cgroup>, StartError> {
        // Processes of a container belong to its daemon and never enter a cgroup of ours; an attempt without a sandbox is
        // promised none.
        if !runtime.has_cgroup() || !self.ability.cgroups.can_kill() {
            return Ok(None);
        }
        let pids = request.confinement.as_ref().map_or(limits::PIDS, |c| c.pids);
        // One more for the init that the program does not see.
        let amounts = CgroupLimits {
            memory_bytes: request.memory_bytes,
            swap_bytes: request.swap_bytes,
            cpu_milli: request.cpu_milli,
            pids: pids.saturating_add(1),
        };
        let cgroup = match sandbox_dir.map(|sandbox_dir| self.cgroup_pool.take(sandbox_dir, amounts)) {
            Some(Ok(cgroup_pool)) => Ok(cgroup_pool),
            other => {
                self.remove_later(other.and_then(Result::err).flatten());
                self.ability.cgroups.create(request.lease, sandbox_dir, amounts)
            }
        };
        cgroup.map(Some).map_err(StartError::while_doing("making its cgroup"))
    }

    fn spawn(
        &mut self,
        request: &StartRequest,
        runtime: &dyn WatchdogRuntime,
        sandbox_dir: Option<u32>,
        cgroup: Option<&Cgroup>,
    ) -> Result<(u32, Started), StartError> {
        let full = StartError::Impossible("the watchdog holds as many attempts as it can");
        let slot = self.take_slot().ok_or(full)?;
        let dead_by = last_stop(request.deadline, request.kill_margin_ms);
        self.spawner.slot(slot).dead_by.store(dead_by.0, SeqCst);
        let folder = self.folder(request.lease, sandbox_dir);
        let started = runtime.start(Start {
            layout: &self.layout,
            request,
            folder,
            cgroups: cgroup.map(Cgroup::procs_paths).unwrap_or_default(),
            namespaces: self.ability.namespaces,
            jails: self.ability.jail,
            spawner: &mut self.spawner,
            slot,
        });
        if started.is_err() {
            self.free_slots.push(slot);
        }
        Ok((slot, started?))
    }

    fn take_slot(&mut self) -> Option<u32> {
        if let Some(slot) = self.free_slots.pop() {
            return Some(slot);
        }
        let slot = self.by_slot.len();
        if slot >= limits::ATTEMPTS {
            return None;
        }
        self.by_slot.push(None);
        Some(slot as u32)
    }
}
