//! What an earlier watchdog left behind: found by journal, process, cgroup and label; killed, and reported as lost only
//! after nothing of it was seen any more.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use stint_protocol::LeaseId;

use crate::labels::kill_labelled;
use crate::log::log;
use crate::runtimes;
use crate::runtimes::watchdog_side::AttemptMonitor;
use crate::shim::cgroup::{Cgroup, Cgroups};
use crate::shim::journal::{OpenAttempt, ProcessIdentity};
use crate::shim_api::layout::Layout;
use crate::sys;
use crate::sys::spawn::Spawner;

/// One attempt of an earlier watchdog.
#[derive(Debug)]
struct Leftover {
    process: Option<OwnedFd>,
    cgroup: Option<Cgroup>,
    sandbox_dir: Option<u32>,
    /// What it left elsewhere, and who clears that away.
    elsewhere: Option<(Box<dyn AttemptMonitor>, Option<OwnedFd>)>,
}

/// All attempts of earlier watchdogs that may still run.
#[derive(Debug, Default)]
pub struct Leftovers {
    attempts: BTreeMap<LeaseId, Leftover>,
}

impl Leftovers {
    /// Opens a handle on whatever is left of `open` and of our cgroups.
    pub fn find(layout: &Layout, open: &BTreeMap<LeaseId, OpenAttempt>, cgroups: &Cgroups) -> Self {
        let mut leases: BTreeSet<LeaseId> = open.keys().copied().collect();
        leases.extend(cgroups.leases());
        let leftover = |lease: LeaseId| {
            let process = open.get(&lease).and_then(|open| open.trace).and_then(|trace| find_process(&trace));
            let sandbox_dir = open.get(&lease).and_then(|open| open.sandbox_dir);
            let monitor = runtimes::watchdog_sides().find_map(|(_, runtime)| runtime.left_by(layout, lease));
            let elsewhere = monitor.map(|monitor| (monitor, None));
            (
                lease,
                Leftover { process, cgroup: cgroups.existing(lease, sandbox_dir), sandbox_dir, elsewhere },
            )
        };
        Self { attempts: leases.into_iter().map(leftover).collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    /// The attempts and the sandbox folders they ran in.
    pub fn leases(&self) -> impl Iterator<Item = (LeaseId, Option<u32>)> + '_ {
        self.attempts.iter().map(|(lease, leftover)| (*lease, leftover.sandbox_dir))
    }

    pub fn holds(&self, lease: LeaseId) -> bool {
        self.attempts.contains_key(&lease)
    }

    /// Kills what is left; gives the attempts of which nothing is.
    /// Children that it starts to clear up are noted in `helpers`.
    pub fn sweep(
        &mut self,
        layout: &Layout,
        spawner: &Spawner,
        helpers: &mut BTreeSet<i32>,
    ) -> Vec<(LeaseId, Option<u32>)> {
        let labelled = kill_labelled(&layout.attempts(), |_| true);
        let mut gone = Vec::new();
        for (lease, leftover) in &mut self.attempts {
            let gone_here = leftover.is_gone();
            let gone_there = gone_here && leftover.is_cleared(*lease, spawner, helpers);
            if gone_there && !labelled.contains(lease) {
                gone.push((*lease, leftover.sandbox_dir));
            }
        }
        for (lease, _) in &gone {
            self.attempts.remove(lease);
        }
        gone
    }
}

impl Leftover {
    /// Kills it and says whether nothing is left.
    fn is_gone(&self) -> bool {
        if let Some(process) = &self.process
            && !sys::pidfd_exited(process)
        {
            sys::pidfd_signal(process, libc::SIGKILL);
            return false;
        }
        let Some(cgroup) = &self.cgroup else { return true };
        if !cgroup.is_empty() {
            cgroup.kill();
            return false;
        }
        cgroup.remove()
    }
}

impl Leftover {
    /// Whether there is nothing of it elsewhere any more; a child asks and clears up. Only once its monitor is gone, which
    /// could have started it after that.
    fn is_cleared(&mut self, lease: LeaseId, spawner: &Spawner, helpers: &mut BTreeSet<i32>) -> bool {
        let Some((monitor, helper)) = &mut self.elsewhere else { return true };
        if let Some(helper) = helper {
            return sys::pidfd_exited(helper);
        }
        match monitor.clear_away(spawner, None) {
            Ok(child) => {
                helpers.insert(child.pid);
                *helper = Some(child.pidfd);
            }
            Err(e) => log!(Watchdog, lease, "clearing up its container: {e}"),
        }
        false
    }
}

/// A handle on the process of a trace, when it still is the same process: the start times agree.
fn find_process(trace: &ProcessIdentity) -> Option<OwnedFd> {
    // Start times are told in hundredths of a second on x86-64 and arm64, whatever the kernel counts in.
    const TICKS_TO_MS: u64 = 10;
    const SLACK_MS: u64 = 2 * TICKS_TO_MS;
    // Before the start time is read: a number that is given away in between then shows by its time, and no stranger
    // is killed.
    let handle = sys::pidfd_open(trace.pid).ok()?;
    let started_ms = sys::start_ticks(trace.pid)? * TICKS_TO_MS;
    let same = started_ms + SLACK_MS >= trace.before.0 && started_ms <= trace.after.0 + SLACK_MS;
    same.then_some(handle)
}
