//! The attempts a watchdog holds: started, stopped, remembered until their end is acknowledged.

mod ending;
mod starting;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::sync::atomic::Ordering::SeqCst;

use stint_protocol::limits::clip;
use stint_protocol::{AttemptEnd, BootMs, EndKind, LeaseId};

use crate::runtimes::watchdog_side::{AttemptMonitor, WatchdogRuntime};
use crate::shim::cgroup::Cgroup;
use crate::shim::cgroup_pool::CgroupPool;
use crate::shim::journal::{Journal, OpenAttempt, ProcessIdentity};
use crate::shim::outputs::{Lost, Outputs};
use crate::shim::probe::{ProbedHost, children_file};
use crate::shim::recover::Leftovers;
use crate::shim::sandbox_dirs::SandboxDirs;
use crate::shim_api::layout::Layout;
use crate::shim_api::request::StartRequest;
use crate::shim_api::wire::{FromShim, RunningAttempt, WatchedAttempt};
use crate::sys;
use crate::sys::Reaped;
use crate::sys::spawn::{Child, Spawner};
use crate::watchdog::{Action, StopCause, Watchdog};

#[derive(Debug)]
struct Attempt {
    request: StartRequest,
    runtime: &'static dyn WatchdogRuntime,
    /// None: in its own folder from the beginning.
    sandbox_dir: Option<u32>,
    slot: u32,
    child: Child,
    trace: ProcessIdentity,
    contained: bool,
    cgroup: Option<Cgroup>,
    announced: bool,
    /// What runs elsewhere, where its child only keeps it.
    monitor: Option<Box<dyn AttemptMonitor>>,
    /// CPU time of its processes when it was first killed, which nobody can tell afterwards.
    burnt_ms: Option<u64>,
    /// Set when the watchdog's child was reaped; others of the attempt may still be there.
    gone: Option<LeaderExit>,
    output: AttemptOutput,
}

/// The program has ended: what was known then.
#[derive(Clone, Copy, Debug)]
struct LeaderExit {
    /// None: it was never waited for.
    reaped: Option<Reaped>,
    why: Option<StopCause>,
    at: BootMs,
}

/// Where the output of an attempt is.
#[derive(Clone, Copy, Debug)]
enum AttemptOutput {
    /// Comes through pipes, which are kept by this number.
    Kept(u32),
    /// Nothing of it runs; since then the rest is awaited.
    Draining(u32, BootMs),
    /// All that there will be is in its files.
    Over(Lost),
}

/// All attempts of one watchdog.
pub struct Attempts {
    layout: Layout,
    spawner: Spawner,
    pub ability: ProbedHost,
    pub watchdog: Watchdog,
    pub outputs: Outputs,
    pub journal: Journal,
    running: BTreeMap<LeaseId, Attempt>,
    by_pid: HashMap<i32, LeaseId>,
    by_slot: Vec<Option<LeaseId>>,
    free_slots: Vec<u32>,
    leftovers: Leftovers,
    sandbox_dirs: SandboxDirs,
    cgroup_pool: CgroupPool,
    ended: BTreeMap<LeaseId, AttemptEnd>,
    /// Cgroups that could not be removed yet: the kernel still takes their last process apart.
    pending_removal: Vec<Cgroup>,
    children: Option<File>,
    /// Children that clear up after an earlier watchdog.
    helpers: BTreeSet<i32>,
    /// News for the node.
    pub news: Vec<FromShim>,
    pub accounted: bool,
}

/// When an attempt ends itself: after the watchdog had half of its margin to do that, and early enough that nothing of it is
/// there when the lease ends.
fn last_stop(deadline: BootMs, kill_margin_ms: u64) -> BootMs {
    deadline.minus(kill_margin_ms / 2)
}

impl Attempts {
    /// Takes over what the journal tells.
    pub fn open(layout: &Layout, mut spawner: Spawner) -> io::Result<Self> {
        let outputs = Outputs::open()?;
        let ability = ProbedHost::probe(layout, &mut spawner);
        let (journal, past) = Journal::open(&layout.journal())?;
        let taken: BTreeSet<u32> = past.open.values().filter_map(|open| open.sandbox_dir).collect();
        let pending_removal = ability.cgroups.remove_spare(&taken);
        let mut this = Self {
            sandbox_dirs: SandboxDirs::find(layout, &taken),
            cgroup_pool: CgroupPool::default(),
            layout: layout.clone(),
            spawner,
            watchdog: Watchdog::default(),
            outputs,
            journal,
            running: BTreeMap::new(),
            by_pid: HashMap::new(),
            by_slot: Vec::new(),
            free_slots: Vec::new(),
            leftovers: Leftovers::find(layout, &past.open, &ability.cgroups),
            ability,
            ended: past.ended,
            pending_removal,
            children: File::open(children_file()).ok(),
            helpers: BTreeSet::new(),
            news: Vec::new(),
            accounted: !(past.other_boot || past.torn),
        };
        this.sweep_leftovers();
        Ok(this)
    }

    /// Whether there is something to stay for.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty() && self.leftovers.is_empty()
    }

    /// What has not ended.
    pub fn running(&self) -> Vec<WatchedAttempt> {
        let running = self.running.iter().map(|(lease, attempt)| {
            let running = RunningAttempt {
                lease: *lease,
                started: attempt.announced,
                stopping: attempt.gone.is_some() || self.watchdog.stopping(*lease).is_some(),
                deadline: self.watchdog.deadline(*lease).unwrap_or(attempt.request.deadline),
            };
            WatchedAttempt {
                running,
                sandbox_dir: attempt.sandbox_dir,
                labels: Some(attempt.request.labels.clone()),
            }
        });
        let left = self.leftovers.leases().map(|(lease, sandbox_dir)| {
            let running =
                RunningAttempt { lease, started: true, stopping: true, deadline: BootMs::default() };
            WatchedAttempt { running, sandbox_dir, labels: None }
        });
        running.chain(left).collect()
    }

    pub fn ended(&self) -> Vec<AttemptEnd> {
        self.ended.values().cloned().collect()
    }

    /// Removes a cgroup, now or when the kernel has taken its last process apart.
    fn remove_later(&mut self, cgroup: impl IntoIterator<Item = Cgroup>) {
        self.pending_removal.extend(cgroup.into_iter().filter(|cgroup| !cgroup.remove()));
    }

    fn refuse(&mut self, lease: LeaseId, kind: EndKind, message: String) {
        self.record(AttemptEnd::new(lease, kind, clip(message), 0));
    }

    fn record(&mut self, end: AttemptEnd) {
        self.journal.ended(&end, sys::boot_now());
        self.news.push(FromShim::Ended(end.clone()));
        self.ended.insert(end.lease, end);
    }

    /// The cluster has recorded the end.
    pub fn acknowledge(&mut self, lease: LeaseId) {
        if self.ended.remove(&lease).is_some() {
            self.journal.acknowledged(lease);
            self.sandbox_dirs.hand_on(lease);
        }
    }

    /// A lease runs longer, also for the attempt's own last stop.
    pub fn renew(&mut self, lease: LeaseId, deadline: BootMs) {
        self.watchdog.renew(lease, deadline);
        if let (Some(attempt), Some(deadline)) = (self.running.get(&lease), self.watchdog.deadline(lease)) {
            let dead_by = last_stop(deadline, attempt.request.kill_margin_ms);
            self.spawner.slot(attempt.slot).dead_by.store(dead_by.0, SeqCst);
        }
    }

    /// Inits tell by their slot's number that their program runs.
    pub fn on_notices(&mut self, bytes: &[u8]) {
        for notice in bytes.chunks_exact(4) {
            let Ok(notice) = notice.try_into() else { continue };
            let slot = u32::from_ne_bytes(notice);
            if let Some(lease) = self.by_slot.get(slot as usize).copied().flatten() {
                self.announce(lease);
            }
        }
    }

    fn announce(&mut self, lease: LeaseId) {
        let Some(attempt) = self.running.get_mut(&lease) else { return };
        let at = BootMs(self.spawner.slot(attempt.slot).started.load(SeqCst));
        if !attempt.announced && at.0 > 0 {
            attempt.announced = true;
            self.news.push(FromShim::Started(lease, at, attempt.sandbox_dir));
            if let Some(monitor) = &mut attempt.monitor {
                monitor.hold(self.spawner.slot(attempt.slot));
            }
            if attempt.runtime.start_ms().is_some() {
                self.watchdog.began(lease, at, attempt.request.run_timeout_ms);
            }
        }
    }

    /// Does what is due by the clock.
    pub fn tick(&mut self) {
        let (over, rest): (Vec<Action>, Vec<Action>) =
            self.watchdog.tick(sys::boot_now()).into_iter().partition(Action::is_of_a_lease);
        // The end of a lease waits for nothing.
        for action in over.into_iter().chain(rest) {
            match action {
                Action::Term(lease, _) => self.term(lease),
                Action::Kill(lease, why) => {
                    if why != StopCause::LeaseOver {
                        self.meter(lease);
                    }
                    self.kill(lease);
                }
            }
        }
    }

    /// Whether something must be looked at again soon although no signal will tell.
    pub fn is_unsettled(&self) -> bool {
        !self.leftovers.is_empty()
            || !self.pending_removal.is_empty()
            || self.running.values().any(|a| a.gone.is_some())
    }

    /// When to look whether a cgroup has waited long enough for another attempt.
    pub fn spare_over_at(&self) -> Option<BootMs> {
        self.cgroup_pool.look_at()
    }

    /// Removes every cgroup that can be removed, before the watchdog leaves.
    pub fn leave(&mut self) {
        let cgroup_pool = self.cgroup_pool.clear();
        self.remove_later(cgroup_pool);
        self.pending_removal.retain(|cgroup| !cgroup.remove());
        self.ability.cgroups.remove();
    }

    /// Stops everything, for a node that goes for good.
    pub fn stop_all(&mut self) {
        for lease in self.running.keys() {
            self.watchdog.stop(*lease, StopCause::Drained);
        }
    }

    /// Writes the journal; shortens it when most of it is history.
    pub fn write_journal(&mut self) -> io::Result<()> {
        let now = sys::boot_now();
        let again = self.journal.again_at().is_some_and(|at| at <= now);
        if again || self.journal.is_long(self.ended.len() + self.running.len()) {
            let running = |a: &Attempt| OpenAttempt { sandbox_dir: a.sandbox_dir, trace: Some(a.trace) };
            let open = self.running.iter().map(|(lease, a)| (*lease, running(a)));
            let left = self
                .leftovers
                .leases()
                .map(|(lease, sandbox_dir)| (lease, OpenAttempt { sandbox_dir, trace: None }));
            let open = open.chain(left).collect();
            let rewritten = self.journal.rewrite(&open, self.ended.values());
            if rewritten.is_err() {
                self.journal.put_off(now);
            }
            return rewritten;
        }
        self.journal.flush(now)
    }
}
