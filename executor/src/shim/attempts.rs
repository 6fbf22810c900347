//! The attempts a watchdog holds: started, stopped, remembered until their end is acknowledged.

mod ending;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::sync::atomic::Ordering::SeqCst;

use stint_protocol::limits::clip;
use stint_protocol::{AttemptEnd, BootMs, EndKind, LeaseId};

use crate::limits;
use crate::runtimes;
use crate::runtimes::watchdog_side::{Kept, Start, StartError, Started, WatchdogSide};
use crate::shim::cgroup::{Amounts, Cgroup};
use crate::shim::homes::Homes;
use crate::shim::journal::{Journal, Open, Trace};
use crate::shim::probe::{Ability, children_file};
use crate::shim::recover::Leftovers;
use crate::shim::spare::Spare;
use crate::shim_api::layout::Layout;
use crate::shim_api::request::Order;
use crate::shim_api::wire::{FromShim, Held, HeldAttempt};
use crate::sys;
use crate::sys::Reaped;
use crate::sys::spawn::{Child, Phase, Spawner};
use crate::watchdog::{Action, Limits, Watchdog, Why};

#[derive(Debug)]
struct Attempt {
    order: Order,
    runtime: &'static dyn WatchdogSide,
    /// None: in its own folder from the beginning.
    home: Option<u32>,
    slot: u32,
    child: Child,
    trace: Trace,
    contained: bool,
    cgroup: Option<Cgroup>,
    announced: bool,
    /// What runs elsewhere, where its child only keeps it.
    kept: Option<Box<dyn Kept>>,
    /// CPU time of its processes when it was first killed, which nobody can tell afterwards.
    burnt_ms: Option<u64>,
    /// Set when the watchdog's child was reaped; others of the attempt may still be there.
    gone: Option<Gone>,
}

/// The program has ended: what was known then.
#[derive(Clone, Copy, Debug)]
struct Gone {
    /// None: it was never waited for.
    reaped: Option<Reaped>,
    why: Option<Why>,
    at: BootMs,
}

/// All attempts of one watchdog.
pub struct Attempts {
    layout: Layout,
    spawner: Spawner,
    pub ability: Ability,
    pub watchdog: Watchdog,
    pub journal: Journal,
    running: BTreeMap<LeaseId, Attempt>,
    by_pid: HashMap<i32, LeaseId>,
    by_slot: Vec<Option<LeaseId>>,
    free_slots: Vec<u32>,
    leftovers: Leftovers,
    homes: Homes,
    spare: Spare,
    ended: BTreeMap<LeaseId, AttemptEnd>,
    /// Cgroups that could not be removed yet: the kernel still takes their last process apart.
    doomed: Vec<Cgroup>,
    children: Option<File>,
    /// Children that clear up after an earlier watchdog.
    helpers: BTreeSet<i32>,
    /// News for the node.
    pub news: Vec<FromShim>,
    pub accounted: bool,
}

impl Attempts {
    /// Takes over what the journal tells.
    pub fn open(layout: &Layout, mut spawner: Spawner) -> io::Result<Self> {
        let ability = Ability::probe(layout, &mut spawner);
        let (journal, past) = Journal::open(&layout.journal())?;
        let taken: BTreeSet<u32> = past.open.values().filter_map(|open| open.home).collect();
        let doomed = ability.cgroups.remove_spare(&taken);
        let mut this = Self {
            homes: Homes::find(layout, &taken),
            spare: Spare::default(),
            layout: layout.clone(),
            spawner,
            watchdog: Watchdog::default(),
            journal,
            running: BTreeMap::new(),
            by_pid: HashMap::new(),
            by_slot: Vec::new(),
            free_slots: Vec::new(),
            leftovers: Leftovers::find(layout, &past.open, &ability.cgroups),
            ability,
            ended: past.ended,
            doomed,
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
    pub fn held(&self) -> Vec<HeldAttempt> {
        let running = self.running.iter().map(|(lease, attempt)| {
            let held = Held {
                lease: *lease,
                started: attempt.announced,
                stopping: attempt.gone.is_some() || self.watchdog.stopping(*lease).is_some(),
                deadline: self.watchdog.deadline(*lease).unwrap_or(attempt.order.deadline),
            };
            HeldAttempt { held, home: attempt.home, labels: Some(attempt.order.labels.clone()) }
        });
        let left = self.leftovers.leases().map(|(lease, home)| {
            let held = Held { lease, started: true, stopping: true, deadline: BootMs::default() };
            HeldAttempt { held, home, labels: None }
        });
        running.chain(left).collect()
    }

    pub fn ended(&self) -> Vec<AttemptEnd> {
        self.ended.values().cloned().collect()
    }

    /// Starts a batch: one journal write before, one after.
    pub fn start(&mut self, orders: Vec<Order>) {
        let mut fresh = Vec::with_capacity(orders.len());
        for order in orders {
            let known = self.running.contains_key(&order.lease)
                || self.ended.contains_key(&order.lease)
                || self.leftovers.holds(order.lease);
            if known {
                continue;
            }
            let Some(runtime) = runtimes::in_mode(order.mode) else {
                self.refuse(order.lease, EndKind::StartFailed, "its watchdog has no such runtime".into());
                continue;
            };
            let own_folder = order.own_folder || runtime.keeps_folder();
            let home = (!own_folder).then(|| self.homes.take());
            self.journal.begun(order.lease, home);
            fresh.push((order, runtime, home));
        }
        let written = self.journal.flush(sys::boot_now());
        for (index, (order, runtime, home)) in fresh.into_iter().enumerate() {
            match &written {
                Ok(()) => self.start_one(order, runtime, home),
                Err(e) => {
                    self.give_back(order.lease, home);
                    let message = format!("writing the watchdog's journal: {e}");
                    self.refuse(order.lease, EndKind::StartFailed, message);
                }
            }
            if index % 32 == 31 {
                self.tick();
            }
        }
    }

    fn start_one(&mut self, order: Order, runtime: &'static dyn WatchdogSide, home: Option<u32>) {
        let lease = order.lease;
        let before = sys::boot_now();
        let mut limits = Limits {
            deadline: order.deadline,
            grace_ms: order.grace_ms,
            kill_margin_ms: order.kill_margin_ms,
            // Guarded from the launch on, also where the program's own run time begins later.
            run_timeout_ms: order.run_timeout_ms.saturating_add(runtime.start_ms().unwrap_or(0)),
            started_at: before,
        };
        if !Watchdog::may_start(&limits, before) {
            self.give_back(lease, home);
            return self.refuse(lease, EndKind::Lost, "its lease was over before it could be started".into());
        }
        let started = self.cgroup_for(&order, runtime, home).and_then(|cgroup| {
            match self.spawn(&order, runtime, home, cgroup.as_ref()) {
                Ok((slot, started)) => Ok((slot, started, cgroup)),
                Err(e) => {
                    self.doomed.extend(cgroup);
                    Err(e)
                }
            }
        });
        let (slot, Started { child, contained, kept }, cgroup) = match started {
            Ok(started) => started,
            Err(e) => {
                self.give_back(lease, home);
                return self.refuse(lease, EndKind::StartFailed, e.to_string());
            }
        };
        let trace = Trace { pid: child.pid, before, after: sys::boot_now() };
        self.journal.running(lease, trace);
        limits.started_at = trace.after;
        self.watchdog.start(lease, limits);
        self.by_pid.insert(child.pid, lease);
        self.by_slot[slot as usize] = Some(lease);
        let announced = !contained && Phase::of(self.spawner.slot(slot)) == Phase::Running;
        if announced {
            self.news.push(FromShim::Started(lease, trace.after, home));
        }
        let attempt = Attempt {
            order,
            runtime,
            home,
            slot,
            child,
            trace,
            contained,
            cgroup,
            announced,
            kept,
            burnt_ms: None,
            gone: None,
        };
        self.running.insert(lease, attempt);
    }

    /// Nothing ran in the home of this attempt.
    fn give_back(&mut self, lease: LeaseId, home: Option<u32>) {
        if let Some(home) = home {
            self.homes.leave(&self.layout, lease, home);
        }
    }

    fn cgroup_for(
        &mut self,
        order: &Order,
        runtime: &dyn WatchdogSide,
        home: Option<u32>,
    ) -> Result<Option<Cgroup>, StartError> {
        if !runtime.has_cgroup() || !self.ability.cgroups.can_kill() {
            return Ok(None);
        }
        let pids = order.confinement.as_ref().map_or(limits::PIDS, |c| c.pids);
        // One more for the init that the program does not see.
        let amounts = Amounts {
            memory_bytes: order.memory_bytes,
            swap_bytes: order.swap_bytes,
            cpu_milli: order.cpu_milli,
            pids: pids.saturating_add(1),
        };
        let cgroup = match home.map(|home| self.spare.take(home, amounts)) {
            Some(Ok(spare)) => Ok(spare),
            other => {
                self.doom(other.and_then(Result::err).flatten());
                self.ability.cgroups.create(order.lease, home, amounts)
            }
        };
        cgroup.map(Some).map_err(StartError::while_doing("making its cgroup"))
    }

    /// Removes a cgroup, now or when the kernel has taken its last process apart.
    fn doom(&mut self, cgroup: impl IntoIterator<Item = Cgroup>) {
        self.doomed.extend(cgroup.into_iter().filter(|cgroup| !cgroup.remove()));
    }

    fn spawn(
        &mut self,
        order: &Order,
        runtime: &dyn WatchdogSide,
        home: Option<u32>,
        cgroup: Option<&Cgroup>,
    ) -> Result<(u32, Started), StartError> {
        let full = StartError::Impossible("the watchdog holds as many attempts as it can");
        let slot = self.take_slot().ok_or(full)?;
        let layout = &self.layout;
        let started = runtime.start(Start {
            layout,
            order,
            folder: home.map_or_else(|| layout.attempt(order.lease), |number| layout.home(number)),
            cgroups: cgroup.map(Cgroup::doors).unwrap_or_default(),
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
            self.homes.hand_on(lease);
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
            self.news.push(FromShim::Started(lease, at, attempt.home));
            if let Some(kept) = &mut attempt.kept {
                kept.hold(self.spawner.slot(attempt.slot));
            }
            if attempt.runtime.start_ms().is_some() {
                self.watchdog.began(lease, at, attempt.order.run_timeout_ms);
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
                    if why != Why::LeaseOver {
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
            || !self.doomed.is_empty()
            || self.running.values().any(|a| a.gone.is_some())
    }

    /// When to look whether a cgroup has waited long enough for another attempt.
    pub fn spare_over_at(&self) -> Option<BootMs> {
        self.spare.look_at()
    }

    /// Removes every cgroup that can be removed, before the watchdog leaves.
    pub fn leave(&mut self) {
        let spare = self.spare.clear();
        self.doom(spare);
        self.doomed.retain(|cgroup| !cgroup.remove());
        self.ability.cgroups.remove();
    }

    /// Stops everything, for a node that goes for good.
    pub fn stop_all(&mut self) {
        for lease in self.running.keys() {
            self.watchdog.stop(*lease, Why::Drained);
        }
    }

    /// Writes the journal; shortens it when most of it is history.
    pub fn write_journal(&mut self) -> io::Result<()> {
        let now = sys::boot_now();
        let again = self.journal.again_at().is_some_and(|at| at <= now);
        if again || self.journal.is_long(self.ended.len() + self.running.len()) {
            let running = |a: &Attempt| Open { home: a.home, trace: Some(a.trace) };
            let open = self.running.iter().map(|(lease, a)| (*lease, running(a)));
            let left = self.leftovers.leases().map(|(lease, home)| (lease, Open { home, trace: None }));
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
