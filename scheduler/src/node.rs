//! The record of a node as a member and an executor, and of the GPUs it offers.

use minicbor::{Decode, Encode};
use stint_protocol::{
    AttemptEnd, EndKind, GpuId, GpuInfo, Incarnation, LeaseId, NodeId, NodeOffer, Nonce, Resources, Runtime,
    TaskId, Tenant, TimeMs, Version, limits,
};

use crate::task::Leased;

/// What the operator wants of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum NodeMode {
    #[n(0)]
    #[default]
    Ready,
    /// Gets nothing new.
    #[n(1)]
    Cordoned,
    /// Gets nothing new, and is meant to be empty soon: what runs may finish.
    #[n(2)]
    Draining,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Node {
    #[n(0)]
    pub id: NodeId,
    #[n(1)]
    pub disk: [u8; 16],
    #[n(2)]
    pub name: String,
    #[n(3)]
    pub address: String,
    #[n(4)]
    pub mode: NodeMode,
    /// 0 until it registered as an executor.
    #[n(5)]
    pub incarnation: Incarnation,
    #[n(6)]
    pub nonce: Nonce,
    #[n(7)]
    pub offer: NodeOffer,
    #[n(8)]
    pub problems: Vec<String>,
    /// Held by leases; re-derived when a snapshot is read.
    #[n(9)]
    pub used: Resources,
    #[n(10)]
    pub running: u32,
    /// None while what it is given starts.
    #[n(11)]
    #[cbor(default)]
    pub start_backoff: Option<StartBackoff>,
    /// While it drains: what runs there is stopped then. None: it may run to its end.
    #[n(12)]
    #[cbor(default)]
    pub drain_by: Option<TimeMs>,
    /// The highest version that its peer may speak.
    #[n(13)]
    #[cbor(default)]
    pub speaks: Version,
    /// What it fails to start. None while there is nothing.
    #[n(14)]
    #[cbor(default)]
    pub start_holds: Option<Box<Vec<StartHold>>>,
}

/// Failed starts of the tasks of one tenant with one runtime, which keep others of the same kind away for a while: a task that
/// cannot start anywhere hurts nobody else's.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StartHold {
    #[n(0)]
    pub runtime: Runtime,
    #[n(1)]
    pub tenant: Tenant,
    #[n(2)]
    pub backoff: StartBackoff,
}

/// A node that fails to start what it is given: after some tasks in a row it is held, so that it does not draw and
/// fail the whole queue; then tried with one task at a time.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StartBackoff {
    /// Tasks in a row that it failed to start, each counted once.
    #[n(0)]
    pub tasks: u32,
    #[n(1)]
    pub last: TaskId,
    /// Why the last one did not start.
    #[n(2)]
    pub message: String,
    /// It gets nothing before this.
    #[n(3)]
    pub until: TimeMs,
    /// Times it was held in a row.
    #[n(4)]
    pub holds: u32,
    /// When the last start failed.
    #[n(5)]
    pub at: TimeMs,
}

impl StartBackoff {
    /// One more failed start, of this task.
    fn record_failure(known: Option<Self>, task: TaskId, message: String, now: TimeMs) -> Self {
        let mut backoff = match known {
            Some(known) if known.last == task => Self { message, at: now, ..known },
            Some(known) => Self { tasks: known.tasks + 1, last: task, message, at: now, ..known },
            None => Self { tasks: 1, last: task, message, until: TimeMs(0), holds: 0, at: now },
        };
        let tried = backoff.holds > 0 && backoff.until <= now;
        if tried || (backoff.holds == 0 && backoff.tasks >= limits::FAILED_STARTS_OF_A_NODE) {
            let (first_ms, most_ms) = limits::NODE_HOLD_MS;
            let doubled = first_ms.saturating_mul(1 << backoff.holds.min(32));
            backoff.until = now.plus(doubled.min(most_ms));
            backoff.holds += 1;
        }
        backoff
    }
}

impl Node {
    /// What no lease holds.
    pub fn free(&self) -> Resources {
        self.offer.resources.minus(&self.used)
    }

    /// Attempts it can take beyond those it has. One that was held is tried with one.
    pub fn free_slots(&self) -> u32 {
        let slots = if self.on_probation() { self.offer.slots.min(1) } else { self.offer.slots };
        slots.saturating_sub(self.running)
    }

    /// Whether it was held, and has not shown since that it can start a task.
    pub fn on_probation(&self) -> bool {
        self.start_backoff.as_ref().is_some_and(|backoff| backoff.holds > 0)
    }

    /// What it failed to start, by runtime and tenant.
    pub fn start_holds(&self) -> &[StartHold] {
        self.start_holds.as_deref().map_or(&[], Vec::as_slice)
    }

    /// Holds that are in force.
    pub fn holds_in_force(&self, now: TimeMs) -> impl Iterator<Item = &StartHold> {
        self.start_holds().iter().filter(move |hold| hold.backoff.until > now)
    }

    /// Why it gets no task of this tenant with this runtime now: it failed to start its tasks, or those of several others.
    pub fn hold(&self, now: TimeMs, runtime: Runtime, tenant: &Tenant) -> Option<&StartBackoff> {
        let of_runtime = || self.holds_in_force(now).filter(|hold| hold.runtime == runtime);
        let own = of_runtime().find(|hold| hold.tenant == *tenant).or_else(|| {
            let several = of_runtime().count() >= limits::HELD_TENANTS;
            several.then(|| of_runtime().min_by_key(|hold| hold.backoff.until)).flatten()
        });
        own.map(|hold| &hold.backoff)
    }

    /// The failed starts after which it is tried again with one task of this tenant and runtime at a time.
    pub fn on_trial(&self, now: TimeMs, runtime: Runtime, tenant: &Tenant) -> Option<&StartBackoff> {
        let own = self.start_holds().iter().find(|hold| hold.runtime == runtime && hold.tenant == *tenant);
        own.map(|hold| &hold.backoff).filter(|backoff| backoff.holds > 0 && backoff.until <= now)
    }

    /// Why it gets nothing now, when that is for failed starts of an earlier version of the cluster.
    pub fn backing_off(&self, now: TimeMs) -> Option<&StartBackoff> {
        self.start_backoff.as_ref().filter(|backoff| backoff.until > now)
    }

    /// Whatever kept it from starting tasks is mended, or somebody says so.
    pub(crate) fn forget_failed_starts(&mut self) {
        self.start_backoff = None;
        self.start_holds = None;
    }

    /// An attempt of this tenant ended here.
    pub(crate) fn note_end(&mut self, end: &AttemptEnd, leased: &Leased, tenant: &Tenant, now: TimeMs) {
        let (runtime, since) = (leased.runtime, leased.since);
        match end.kind {
            EndKind::StartFailed | EndKind::StartRefused => {
                let mut holds = self.start_holds.take().map_or_else(Vec::new, |holds| *holds);
                let known = holds.iter().position(|hold| hold.runtime == runtime && hold.tenant == *tenant);
                let known = known.map(|place| holds.remove(place).backoff);
                let (task, message) = (end.lease.task, end.message.clone());
                let backoff = StartBackoff::record_failure(known, task, message, now);
                if holds.len() >= limits::HOLDS_OF_A_NODE {
                    // The one whose last failure is longest ago stands first.
                    holds.remove(0);
                }
                holds.push(StartHold { runtime, tenant: tenant.clone(), backoff });
                self.start_holds = Some(Box::new(holds));
            }
            // It says nothing about starting.
            EndKind::Lost
            | EndKind::Denied
            | EndKind::Cancelled
            | EndKind::Drained
            | EndKind::Cut
            | EndKind::FilesMissing => {}
            // What was started before the trouble says nothing either. What was started since, by whomever, shows that the
            // node can start tasks with this runtime.
            _ => {
                self.start_backoff.take_if(|backoff| since > backoff.at);
                if let Some(holds) = &mut self.start_holds {
                    holds.retain(|hold| hold.runtime != runtime || since <= hold.backoff.at);
                }
                self.start_holds.take_if(|holds| holds.is_empty());
            }
        }
    }

    /// Another node refused the same task in the same way: what this one failed to start for that tenant with that runtime says
    /// nothing about the node.
    pub(crate) fn forget_refusals(&mut self, runtime: Runtime, tenant: &Tenant) {
        if let Some(holds) = &mut self.start_holds {
            holds.retain(|hold| hold.runtime != runtime || hold.tenant != *tenant);
        }
        self.start_holds.take_if(|holds| holds.is_empty());
    }

    /// The same before version 5: failed starts count for the node as a whole. `since`: when the attempt was leased.
    pub(crate) fn note_end_for_all(&mut self, end: &AttemptEnd, since: TimeMs, now: TimeMs) {
        match end.kind {
            EndKind::StartFailed | EndKind::StartRefused => {
                let known = self.start_backoff.take();
                self.start_backoff =
                    Some(StartBackoff::record_failure(known, end.lease.task, end.message.clone(), now));
            }
            // It says nothing about starting.
            EndKind::Lost
            | EndKind::Denied
            | EndKind::Cancelled
            | EndKind::Drained
            | EndKind::Cut
            | EndKind::FilesMissing => {}
            // What was started before the trouble says nothing either.
            _ if self.start_backoff.as_ref().is_some_and(|backoff| since > backoff.at) => {
                self.start_backoff = None
            }
            _ => {}
        }
    }
}

/// A GPU, by its UUID across the cluster (docs/internals/leases.md#one-holder).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuRecord {
    /// Nodes that offer it; schedulable only while exactly one does.
    pub offered_by: Vec<(NodeId, GpuInfo)>,
    pub holder: Option<LeaseId>,
}

impl GpuRecord {
    /// The device as `node` offers it, when nobody else offers it and nobody holds it.
    pub fn free_on(&self, node: NodeId) -> Option<&GpuInfo> {
        match &self.offered_by[..] {
            [(by, info)] if *by == node && self.holder.is_none() => Some(info),
            _ => None,
        }
    }

    /// Whether it can be forgotten.
    pub(crate) fn unused(&self) -> bool {
        self.offered_by.is_empty() && self.holder.is_none()
    }
}

/// Whether an offer has this GPU.
pub(crate) fn offers(offer: &NodeOffer, id: &GpuId) -> bool {
    offer.gpus.iter().any(|g| g.id == *id)
}
