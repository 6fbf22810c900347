//! Orders out of the applied state: who reports, whether there is news for it, and what it is told. Pure: the
//! leader's side of reports and the fast simulation run the same code.

use std::collections::{BTreeMap, BTreeSet};

use stint_protocol::{BootMs, GpuId, GpuInfo, LeaseId};
use stint_scheduler::{Command, Leased, State, Task};

use crate::contacts::Contacts;
use crate::limits;
use crate::office::Office;
use crate::wire::{Grant, Launching, Orders, Report, ReportAnswer};

/// What has to be done before a report counts as contact.
#[derive(Debug)]
pub enum Reporter {
    /// The process that is registered.
    Known,
    /// It says who it is: put this into the log first.
    Registers(Command),
    /// It is told this, and nothing else happens.
    Turned(ReportAnswer),
}

/// Checks who reports.
pub fn reporter(state: &State, report: &Report) -> Reporter {
    let stale = |why: &str| Reporter::Turned(ReportAnswer::Stale(why.into()));
    let Some(node) = state.node(report.node) else {
        return stale("this node is not a member of the cluster any more");
    };
    if report.incarnation < node.incarnation {
        return stale("a newer incarnation of this node is registered");
    }
    match &report.register {
        Some(register) => Reporter::Registers(Command::RegisterNode(register.clone())),
        None if node.nonce != report.nonce || node.incarnation != report.incarnation => {
            Reporter::Turned(ReportAnswer::Register)
        }
        None => Reporter::Known,
    }
}

/// Orders from the applied state, which answer this report at `now` by the leader's clock. They renew leases: the
/// caller saw to it that a quorum confirmed the leader after the report arrived (DESIGN §5, rule 1).
pub fn make(
    state: &State,
    office: &mut Office,
    now: BootMs,
    report: &Report,
    recorded: Vec<LeaseId>,
) -> Orders {
    let held: BTreeMap<LeaseId, bool> = report.held.iter().copied().collect();
    let ended: BTreeSet<LeaseId> = report.ends.iter().map(|e| e.lease).collect();
    let contacts: &mut Contacts = &mut office.contacts;
    let (mut grants, mut launches, mut more) = (Vec::new(), 0, false);
    for lease in state.leases_of(report.node) {
        let Some(task) = state.task(lease.task) else { continue };
        let Some(leased) = task.leased().filter(|l| l.incarnation == report.incarnation) else {
            continue;
        };
        let new = !held.contains_key(&lease);
        if ended.contains(&lease) || (new && !has_devices(state, leased)) {
            continue;
        }
        if new && launches >= limits::LAUNCHES_PER_ORDERS {
            more = true;
            continue;
        }
        let ttl_ms = state.settings().class(task.spec.class).lease_ttl_ms;
        if contacts.renew(state.settings(), lease, ttl_ms, now) {
            launches += usize::from(new);
            grants.push(grant(state, lease, task, leased, ttl_ms, new));
        }
    }
    let (incarnation, nonce, answers) = (report.incarnation, report.nonce, report.sequence);
    Orders { term: office.term, incarnation, nonce, answers, grants, recorded, more }
}

/// Whether the node still offers every device of the lease: a process that restarted may have lost a device's lock to
/// another node of its machine. Then the attempt is not launched without it; its lease runs out and the task is
/// placed anew.
fn has_devices(state: &State, leased: &Leased) -> bool {
    leased.gpus.iter().all(|gpu| device(state, leased, gpu).is_some())
}

/// A device of the lease as its node offers it.
fn device(state: &State, leased: &Leased, id: &GpuId) -> Option<GpuInfo> {
    let record = state.gpu(id)?;
    record.offered_by.iter().find(|(by, _)| *by == leased.node).map(|(_, info)| info.clone())
}

fn grant(state: &State, lease: LeaseId, task: &Task, leased: &Leased, ttl_ms: u64, new: bool) -> Grant {
    let launch = || Launching {
        tenant: task.fields.tenant.clone(),
        spec: task.spec.clone(),
        runtime: leased.runtime,
        gpus: leased.gpus.iter().filter_map(|gpu| device(state, leased, gpu)).collect(),
        index: task.fields.index,
        name: task.fields.name.clone(),
    };
    Grant {
        lease,
        ttl_ms,
        kill_margin_ms: state.settings().kill_margin_ms,
        cancelled: leased.cancelled,
        drained: leased.drained,
        launch: new.then(launch),
    }
}

/// Whether the node should hear from the leader at once. A lease that is over and not yet taken back is no news: nothing
/// may be said about it until it is.
pub fn has_news(state: &State, contacts: &Contacts, now: BootMs, report: &Report) -> bool {
    let held: BTreeMap<LeaseId, bool> = report.held.iter().copied().collect();
    let leases: BTreeSet<LeaseId> = state.leases_of(report.node).collect();
    let must_stop = held.iter().any(|(lease, stopping)| !leases.contains(lease) && !stopping);
    let changed = leases.iter().any(|lease| {
        let leased = state.task(lease.task).and_then(|t| t.leased());
        let current = leased.filter(|l| l.incarnation == report.incarnation);
        current.is_some_and(|l| match held.get(lease) {
            None => has_devices(state, l) && contacts.may_renew(*lease, now),
            Some(stopping) => (l.cancelled || l.drained) && !stopping,
        })
    });
    must_stop || changed
}

#[cfg(test)]
mod tests {
    use stint_protocol::{Incarnation, NodeId, Nonce, TimeMs};

    use super::*;
    use crate::contacts::tests::{LEASE, placed};

    fn report(held: Vec<(LeaseId, bool)>) -> Report {
        Report {
            node: NodeId(1),
            incarnation: Incarnation(1),
            nonce: Nonce(1),
            sequence: 1,
            sent: BootMs(0),
            register: None,
            held,
            ends: Vec::new(),
            hold_ms: 1_000,
        }
    }

    #[test]
    fn a_lease_is_news_until_it_runs() {
        let (state, contacts) = (placed(), Contacts::new(BootMs(0), TimeMs(1)));
        assert!(has_news(&state, &contacts, BootMs(0), &report(vec![])));
        assert!(!has_news(&state, &contacts, BootMs(0), &report(vec![(LEASE, false)])));
    }

    /// A leader that cannot commit the expiry would else answer the node's reports at once, over and over.
    #[test]
    fn a_lease_that_is_over_is_no_news() {
        let (state, mut contacts) = (placed(), Contacts::new(BootMs(0), TimeMs(1)));
        contacts.expire(&state, BootMs(0));
        let far = BootMs(10_000_000);
        assert!(!has_news(&state, &contacts, far, &report(vec![])), "it ran out");
        contacts.expire(&state, far);
        assert!(!has_news(&state, &contacts, BootMs(1), &report(vec![])), "it is being taken back");
    }
}
