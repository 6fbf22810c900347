//! How attempts start: what is theirs is taken (a home, a slot, a cgroup), the journal knows before and after, and their
//! runtime starts them.

use stint_protocol::{EndKind, LeaseId};

use super::{Attempt, Attempts};
use crate::limits;
use crate::runtimes;
use crate::runtimes::watchdog_side::{Start, StartError, Started, WatchdogSide};
use crate::shim::cgroup::{Amounts, Cgroup};
use crate::shim::journal::Trace;
use crate::shim_api::request::Order;
use crate::shim_api::wire::FromShim;
use crate::sys;
use crate::sys::spawn::Phase;
use crate::watchdog::{Limits, Watchdog};

impl Attempts {
    /// Starts a batch: one journal write before, one after.
    pub fn start(&mut self, orders: Vec<Order>) {
        let mut fresh = Vec::with_capacity(orders.len());
        for order in orders {
            // Also one that has ended: an order that is repeated after the end must not start it a second time under its
            // number.
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
                // What the journal does not name counts as never having run, for the node and for a later watchdog: so it
                // must not run.
                Err(e) => {
                    self.give_back(order.lease, home);
                    let message = format!("writing the watchdog's journal: {e}");
                    self.refuse(order.lease, EndKind::StartFailed, message);
                }
            }
            // A long batch may take longer than the margin of a kill, and leases of other attempts end meanwhile.
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
        // Processes of a container belong to its daemon and never enter a cgroup of ours; an attempt without a sandbox is
        // promised none.
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
}
