//! How attempts end: the watchdog's child is reaped, adopted orphans are killed, and an attempt is reported as ended
//! only after nothing of it was seen any more. Also of attempts that an earlier watchdog left behind.

use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::SeqCst;

use stint_protocol::limits::clip;
use stint_protocol::{AttemptEnd, EndKind, LeaseId, Usage};

use super::{Attempt, AttemptOutput, Attempts, LeaderExit};
use crate::labels::label_of;
use crate::limits;
use crate::log::log;
use crate::runtimes;
use crate::shim::cgroup::Cgroup;
use crate::shim::outputs::Lost;
use crate::shim::verdict::{Evidence, judge};
use crate::sys::{self, Reaped};
use crate::usage;

impl Attempts {
    pub(super) fn term(&self, lease: LeaseId) {
        let Some(attempt) = self.running.get(&lease).filter(|a| a.gone.is_none()) else { return };
        if attempt.contained {
            // Its init passes TERM on to the program's process group.
            sys::pidfd_signal(&attempt.child.pidfd, libc::SIGTERM);
        } else {
            sys::kill_group(attempt.child.pid, libc::SIGTERM);
        }
    }

    /// Reads what an attempt has used before it is killed, where its cgroup will not know.
    pub(super) fn meter(&mut self, lease: LeaseId) {
        let Some(attempt) = self.running.get_mut(&lease).filter(|a| a.burnt_ms.is_none()) else { return };
        if let Some(cgroup) = attempt.cgroup.as_ref().filter(|cgroup| !cgroup.counts_cpu()) {
            attempt.burnt_ms = Some(cgroup.cpu_ms_of_processes());
        }
    }

    pub(super) fn kill(&mut self, lease: LeaseId) {
        let Some(attempt) = self.running.get_mut(&lease) else { return };
        if let Some(monitor) = &mut attempt.monitor {
            return monitor.kill(&attempt.child, self.spawner.slot(attempt.slot));
        }
        if attempt.gone.is_none() {
            sys::pidfd_signal(&attempt.child.pidfd, libc::SIGKILL);
            if !attempt.contained {
                sys::kill_group(attempt.child.pid, libc::SIGKILL);
            }
        }
        // A pid namespace goes with its init. Only without one can a process leave the group and outlive the first.
        if let Some(cgroup) = attempt.cgroup.as_ref().filter(|_| !attempt.contained) {
            cgroup.kill();
        }
    }

    /// Reaps every child that has exited, then ends the attempts of which nothing is left.
    pub fn reap(&mut self) {
        while let Some(pid) = sys::peek_exited() {
            let lease = self.by_pid.get(&pid).copied();
            if let Some(attempt) = lease.and_then(|l| self.running.get(&l))
                && !attempt.contained
            {
                // While its leader is not reaped the group's number cannot come to mean another group.
                sys::kill_group(pid, libc::SIGKILL);
            }
            let Some(reaped) = sys::reap(pid) else { break };
            match lease {
                Some(lease) => self.on_leader_gone(lease, pid, reaped),
                None => {
                    self.helpers.remove(&pid);
                    self.journal.on_reaped(pid);
                }
            }
        }
        self.settle();
    }

    fn on_leader_gone(&mut self, lease: LeaseId, pid: i32, reaped: Reaped) {
        self.by_pid.remove(&pid);
        // Its notice may still lie in the pipe: the node would hear of the end before the start.
        self.announce(lease);
        // Asked now: its lease may run out while the rest is cleared away, and would pass for the reason of its end.
        let why = self.watchdog.stopped_by(lease);
        if self.was_left_by_its_monitor(lease) {
            return self.clear_up(lease);
        }
        if let Some(attempt) = self.running.get_mut(&lease) {
            attempt.gone = Some(LeaderExit { reaped: Some(reaped), why, at: sys::boot_now() });
            if attempt.contained {
                // The init of a pid namespace is reaped only after the kernel has emptied the namespace.
                self.finish(lease);
            }
        }
    }

    /// Whether a monitor is gone that has not said how its attempt ended: it was killed.
    fn was_left_by_its_monitor(&self, lease: LeaseId) -> bool {
        let Some(attempt) = self.running.get(&lease) else { return false };
        attempt.monitor.as_ref().is_some_and(|monitor| !monitor.is_over(self.spawner.slot(attempt.slot)))
    }

    /// Puts another monitor in the place of one that was killed; it only clears up.
    fn clear_up(&mut self, lease: LeaseId) {
        let Some(attempt) = self.running.get_mut(&lease) else { return };
        let Some(monitor) = &mut attempt.monitor else { return };
        let slot = self.spawner.slot(attempt.slot);
        monitor.kill(&attempt.child, slot);
        match monitor.clear_away(&self.spawner, Some(slot)) {
            Ok(child) => {
                self.by_pid.insert(child.pid, lease);
                attempt.child = child;
            }
            Err(e) => {
                log!(Watchdog, lease, "clearing up its container: {e}");
                attempt.gone.get_or_insert(LeaderExit { reaped: None, why: None, at: sys::boot_now() });
            }
        }
    }

    /// Ends attempts whose program is gone and of which no other process is left; kills what is left.
    pub fn settle(&mut self) {
        let unsettled = |a: &Attempt| a.gone.is_some() && !matches!(a.output, AttemptOutput::Draining(..));
        let gone: Vec<LeaseId> =
            self.running.iter().filter(|(_, a)| unsettled(a)).map(|(lease, _)| *lease).collect();
        if gone.is_empty() {
            return;
        }
        let (labelled, unknown) = self.kill_orphans();
        for lease in gone {
            if self.was_left_by_its_monitor(lease) {
                self.clear_up(lease);
                continue;
            }
            let cgroup = self.running.get(&lease).and_then(|a| a.cgroup.as_ref());
            let empty = cgroup.is_none_or(Cgroup::is_empty);
            if !empty {
                self.kill(lease);
            } else if !unknown && !labelled.contains(&lease) {
                self.finish(lease);
            }
        }
    }

    /// Looks again at what could not be finished at once.
    pub fn sweep(&mut self) {
        let over = self.cgroup_pool.over(sys::boot_now());
        self.pending_removal.extend(over);
        self.pending_removal.retain(|cgroup| {
            let gone = cgroup.remove();
            if !gone {
                cgroup.kill();
            }
            !gone
        });
        self.sweep_leftovers();
        self.settle();
        self.finish_drained();
    }

    pub(super) fn sweep_leftovers(&mut self) {
        if self.leftovers.is_empty() {
            return;
        }
        for (lease, sandbox_dir) in self.leftovers.sweep(&self.layout, &self.spawner, &mut self.helpers) {
            for (_, runtime) in runtimes::watchdog_sides() {
                runtime.clean(&self.layout, lease);
            }
            if let Some(sandbox_dir) = sandbox_dir {
                self.sandbox_dirs.leave(&self.layout, lease, sandbox_dir);
            }
            if !self.ended.contains_key(&lease) {
                let message = "its watchdog was killed; everything of the attempt was seen gone".to_owned();
                self.record(AttemptEnd::new(lease, EndKind::Lost, message, 0));
            }
        }
    }

    /// Kills adopted children of attempts whose program is gone, and those that nobody can name. Says whose were there.
    fn kill_orphans(&self) -> (Vec<LeaseId>, bool) {
        let (mut labelled, mut unknown) = (Vec::new(), false);
        for pid in self.adopted_children() {
            let lease = label_of(pid, &self.layout.attempts());
            let running = lease.and_then(|l| self.running.get(&l)).is_some_and(|a| a.gone.is_none());
            if running {
                continue;
            }
            sys::kill_child(pid, libc::SIGKILL);
            match lease {
                Some(lease) => labelled.push(lease),
                // It may belong to any of them: while it is there, no attempt is reported as ended.
                None => unknown = true,
            }
        }
        (labelled, unknown)
    }

    fn adopted_children(&self) -> Vec<i32> {
        let Some(file) = &self.children else { return Vec::new() };
        let mut text = Vec::new();
        let mut part = [0u8; 4096];
        while let Ok(read @ 1..) = file.read_at(&mut part, text.len() as u64) {
            text.extend_from_slice(&part[..read]);
        }
        let text = String::from_utf8_lossy(&text);
        let pids = text.split_whitespace().filter_map(|p| p.parse().ok());
        let own = |pid: &i32| {
            self.by_pid.contains_key(pid) || self.helpers.contains(pid) || self.journal.is_syncing(*pid)
        };
        pids.filter(|pid| !own(pid)).collect()
    }

    /// More of the output of attempts that have ended is in their files.
    pub fn on_moved(&mut self) {
        self.outputs.on_moved();
        self.finish_drained();
    }

    fn finish_drained(&mut self) {
        let draining = |attempt: &Attempt| matches!(attempt.output, AttemptOutput::Draining(..));
        let leases: Vec<LeaseId> =
            self.running.iter().filter(|(_, a)| draining(a)).map(|(lease, _)| *lease).collect();
        leases.into_iter().for_each(|lease| self.finish(lease));
    }

    /// Nothing of it runs: whether all of its output is in its files, or as much as there will be.
    fn drained(&mut self, lease: LeaseId) -> Option<Lost> {
        let attempt = self.running.get_mut(&lease)?;
        let now = sys::boot_now();
        let (number, since) = match attempt.output {
            AttemptOutput::Over(lost) => return Some(lost),
            AttemptOutput::Kept(number) => (number, now),
            AttemptOutput::Draining(number, since) => (number, since),
        };
        let lost = match self.outputs.finish(number) {
            None if now.since(since) >= limits::OUTPUT_DRAIN_MS => Some(self.outputs.give_up(number)),
            other => other,
        };
        attempt.output = lost.map_or(AttemptOutput::Draining(number, since), AttemptOutput::Over);
        lost
    }

    /// Ends an attempt of which nothing runs, now or when its output is in its files.
    fn finish(&mut self, lease: LeaseId) {
        let Some(lost) = self.drained(lease) else { return };
        let Some(attempt) = self.running.remove(&lease) else { return };
        self.watchdog.exited(lease);
        let Some(gone) = attempt.gone else { return };
        let slot = self.spawner.slot(attempt.slot);
        let oom_kills = attempt.cgroup.as_ref().map_or(0, Cgroup::oom_kills);
        let kept_end = attempt.monitor.as_ref().and_then(|monitor| monitor.end(slot));
        let usage = match &kept_end {
            Some(end) => end.usage.clone(),
            // Before its cgroup goes.
            None => used(&attempt, gone).filter(|_| slot.started.load(SeqCst) > 0).map(Box::new),
        };
        let (kind, message) = judge(&Evidence {
            layout: &self.layout,
            request: &attempt.request,
            runtime: attempt.runtime,
            slot,
            child_status: gone.reaped.map_or(0, |reaped| reaped.status),
            contained: attempt.contained,
            why: gone.why,
            oom_kills,
            kept_end,
        });
        let message = match lost.message() {
            Some(lost) => and_lost(lease, &kind, message, &lost),
            None => message,
        };
        let (started, ended) = (slot.started.load(SeqCst), slot.ended.load(SeqCst));
        let run_ms = match started {
            0 => 0,
            _ if ended > 0 => ended.saturating_sub(started),
            _ => gone.at.0.saturating_sub(started),
        };
        attempt.runtime.clean(&self.layout, lease);
        match attempt.sandbox_dir {
            None => {}
            Some(number) if lost.is_late => self.sandbox_dirs.move_to_own(&self.layout, lease, number),
            Some(number) => self.sandbox_dirs.leave(&self.layout, lease, number),
        }
        self.by_slot[attempt.slot as usize] = None;
        self.free_slots.push(attempt.slot);
        if let Some(cgroup) = attempt.cgroup {
            // Only who is shut in cannot have made cgroups in it.
            let other = match attempt.sandbox_dir.filter(|_| attempt.contained && self.ability.jail) {
                Some(sandbox_dir) => self.cgroup_pool.keep(sandbox_dir, cgroup, sys::boot_now()),
                None => Some(cgroup),
            };
            self.remove_later(other);
        }
        self.record(AttemptEnd { usage, ..AttemptEnd::new(lease, kind, message, run_ms) });
    }
}

/// The message of an end, with what became of the output.
fn and_lost(lease: LeaseId, kind: &EndKind, message: String, lost: &str) -> String {
    log!(Watchdog, lease, "{lost}");
    let own = if message.is_empty() { kind.default_message() } else { message };
    clip(if own.is_empty() { lost.to_owned() } else { format!("{own}; {lost}") })
}

/// What an attempt used: as its cgroup says, else as the kernel told with its end. That knows of no process that was
/// killed together with its namespace, as nobody waited for it.
fn used(attempt: &Attempt, gone: LeaderExit) -> Option<Usage> {
    let reaped = gone.reaped?;
    let whole = !(attempt.contained && libc::WIFSIGNALED(reaped.status));
    let cpu_ms = if whole { Some(reaped.cpu_ms) } else { attempt.burnt_ms.map(|ms| ms.max(reaped.cpu_ms)) };
    let reported = Usage {
        cpu_ms,
        peak_memory_bytes: None,
        read_bytes: whole.then_some(reaped.read_bytes),
        written_bytes: whole.then_some(reaped.written_bytes),
    };
    let measured = attempt.cgroup.as_ref().map(Cgroup::usage).unwrap_or_default();
    Some(usage::or(measured, reported)).filter(|usage| *usage != Usage::default())
}
