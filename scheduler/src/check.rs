//! The invariants of the state. Tests and the simulator call this after every apply; a broken one is a bug.

mod images;
mod instances;
mod settings;

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};

use stint_protocol::{
    Class, GpuId, IdempotencyKey, LeaseId, NodeId, Resources, TaskId, TaskName, Tenant, TimeMs, limits,
};

use crate::apply::wake_place;
use crate::demand::Demand;
use crate::state::{LineKey, Place, State, TenantTasks};
use crate::task::TaskState;

/// Re-derives every index and says what does not agree.
pub fn check(state: &State) -> Result<(), String> {
    check_version(state)?;
    settings::check(state)?;
    check_places(state)?;
    check_leases(state)?;
    check_gpus(state)?;
    let drains = state.nodes.values().filter_map(|n| Some((n.drain_by?, n.id))).collect();
    agree_all("drains", state.drains.iter().copied(), drains)?;
    check_names(state)?;
    check_history(state)?;
    check_keys(state)?;
    check_tenants(state)?;
    check_uids(state)?;
    images::check(state)?;
    instances::check(state)
}

fn agree<T: PartialEq + Debug>(what: impl Display, kept: &T, derived: &T) -> Result<(), String> {
    if kept == derived { Ok(()) } else { Err(format!("{what}: kept {kept:?}, derived {derived:?}")) }
}

/// `kept` comes in order, `derived` in any.
fn agree_all<T: Ord + Debug>(
    what: &str,
    kept: impl Iterator<Item = T>,
    mut derived: Vec<T>,
) -> Result<(), String> {
    derived.sort_unstable();
    agree(what, &kept.collect(), &derived)
}

/// Every member speaks what the cluster does.
fn check_version(state: &State) -> Result<(), String> {
    match state.nodes.values().find(|node| node.speaks < state.version) {
        Some(node) => {
            Err(format!("the cluster speaks {}, node {} only {}", state.version, node.id, node.speaks))
        }
        None => Ok(()),
    }
}

/// A waiting task stands in exactly one of queue and delayed, a suspended one among those, a leased one in none.
fn check_places(state: &State) -> Result<(), String> {
    let (mut queue, mut delayed): (Vec<(LineKey, Place)>, Vec<_>) = (Vec::new(), Vec::new());
    let mut suspended: Vec<(TimeMs, TaskId)> = Vec::new();
    for (id, task) in &state.tasks {
        agree(format_args!("demand of task {id}"), &task.demand, &Demand::from_spec(&task.spec))?;
        match task.fields.state {
            // Promotion happens at the start of the next command: at the border both places are right.
            TaskState::Queued { not_before, .. } if state.delayed.contains(&(not_before, *id)) => {
                delayed.push((not_before, *id));
            }
            TaskState::Queued { not_before, .. } if not_before > state.time => {
                return Err(format!("task {id} waits for a later time but stands in the queue"));
            }
            TaskState::Queued { .. } => queue.push((LineKey::from_task(task), Place::from_task(*id, task))),
            TaskState::Suspended { wake_at, .. } => suspended.push((wake_place(wake_at), *id)),
            TaskState::Leased(_) => {}
        }
    }
    check_counts(state)?;
    agree_all("queue", state.queue.places().map(|(key, place)| (key.clone(), *place)), queue)?;
    agree_all("delayed", state.delayed.iter().copied(), delayed)?;
    agree_all("suspended", state.suspended.iter().copied(), suspended)
}

/// No line without a task, and as many tasks of each class as are counted.
fn check_counts(state: &State) -> Result<(), String> {
    if let Some((key, _)) = state.queue.lines.iter().find(|(_, line)| line.0.is_empty()) {
        return Err(format!("a line of {} is kept for nothing", key.tenant));
    }
    for class in Class::ALL {
        let of_class = state.queue.places().filter(|(key, _)| key.demand.class() == class).count();
        agree(format_args!("waiting tasks of class {class}"), &state.queue.len_of(class), &of_class)?;
    }
    Ok(())
}

/// The tasks of each tenant, and no tenant without one.
fn check_tenants(state: &State) -> Result<(), String> {
    let mut tenants: BTreeMap<&Tenant, TenantTasks> = BTreeMap::new();
    for (id, task) in &state.tasks {
        tenants.entry(&task.fields.tenant).or_default().live.insert(*id);
    }
    let finished: Vec<(TaskId, Tenant)> =
        state.finished_before(TaskId(u128::MAX)).map(|(id, task)| (id, task.fields.tenant)).collect();
    for (_, tenant) in &finished {
        tenants.entry(tenant).or_default().finished += 1;
    }
    let kept: Vec<_> = state.tenants.iter().collect();
    let derived: Vec<_> = tenants.iter().map(|(tenant, tasks)| (*tenant, tasks)).collect();
    agree("tasks of tenants", &kept, &derived)
}

/// No two tenants have one user number, and none is that of the system or of nobody.
fn check_uids(state: &State) -> Result<(), String> {
    let uids: Vec<u32> = state.tenant_uids().map(|(_, uid)| uid).collect();
    let system = limits::TENANT_UID_BOUNDS.0;
    if let Some(uid) = uids.iter().find(|uid| **uid < system || **uid == limits::NOBODY) {
        return Err(format!("a tenant has user number {uid}"));
    }
    agree_all("user numbers of tenants", state.uids.given(), uids)
}

/// One lease a leased task, with its current attempt; a node's amounts are the sum of its leases.
fn check_leases(state: &State) -> Result<(), String> {
    let mut leases: Vec<(NodeId, LeaseId)> = Vec::new();
    let mut used: BTreeMap<NodeId, (Resources, u32)> = BTreeMap::new();
    for (id, task) in &state.tasks {
        let Some(leased) = task.leased() else { continue };
        leases.push((leased.node, LeaseId { task: *id, attempt: task.fields.attempts }));
        let sum = used.entry(leased.node).or_default();
        *sum = (sum.0.plus(&task.spec.resources()), sum.1 + 1);
        if !state.nodes.contains_key(&leased.node) {
            return Err(format!("task {id} is leased to {:?}, which is no member", leased.node));
        }
    }
    agree_all("leases", state.leases.iter().copied(), leases)?;
    for node in state.nodes.values() {
        let sum = used.get(&node.id).copied().unwrap_or_default();
        agree(format_args!("use of node {}", node.id), &(node.used, node.running), &sum)?;
    }
    Ok(())
}

/// A GPU's holder is the one lease that lists it; a lease holds as many as its task asked for.
fn check_gpus(state: &State) -> Result<(), String> {
    let mut holders: BTreeMap<&GpuId, LeaseId> = BTreeMap::new();
    for (id, task) in &state.tasks {
        let Some(leased) = task.leased() else { continue };
        let lease = LeaseId { task: *id, attempt: task.fields.attempts };
        agree("GPUs of a lease", &leased.gpus.len(), &(task.spec.leased_gpus() as usize))?;
        for gpu in &leased.gpus {
            if let Some(other) = holders.insert(gpu, lease) {
                return Err(format!("GPU {gpu} has two holders: {other} and {lease}"));
            }
        }
    }
    for (id, record) in &state.gpus {
        agree(format_args!("holder of GPU {id}"), &record.holder, &holders.remove(id))?;
        if record.unused() {
            return Err(format!("GPU {id} is kept for nothing"));
        }
    }
    let offered: usize = state.gpus.values().map(|r| r.offered_by.len()).sum();
    let offers: usize = state.nodes.values().map(|n| n.offer.gpus.len()).sum();
    agree("GPU offers", &offered, &offers)?;
    agree("holders of unknown GPUs", &holders.len(), &0)
}

/// A name is one live task's at most, and means the latest of those that finished otherwise.
fn check_names(state: &State) -> Result<(), String> {
    let mut names: BTreeMap<(Tenant, TaskName), TaskId> = BTreeMap::new();
    let mut done: Vec<_> = state
        .finished_before(TaskId(u128::MAX))
        .filter_map(|(id, t)| Some((t.fields.submitted_at, id, (t.fields.tenant, t.fields.name?))))
        .collect();
    done.sort_unstable();
    names.extend(done.into_iter().map(|(_, id, name)| (name, id)));
    for (id, task) in &state.tasks {
        let Some(name) = &task.fields.name else { continue };
        let name = (task.fields.tenant.clone(), name.clone());
        let other = names.insert(name.clone(), *id);
        if other.is_some_and(|other| state.tasks.contains_key(&other)) {
            return Err(format!("two live tasks of {} are named {}", name.0, name.1));
        }
    }
    let derived = names.into_iter().collect();
    agree_all("names", state.names.iter().map(|(name, id)| (name.clone(), *id)), derived)
}

fn check_history(state: &State) -> Result<(), String> {
    if let Some((id, _)) = state.history.iter().find(|(id, _)| state.tasks.contains_key(id)) {
        return Err(format!("task {id} is finished and alive"));
    }
    let finished = state.finished_before(TaskId(u128::MAX));
    let facts = finished.map(|(id, task)| ((task.fields.outcome.finished_at, id), task.weight()));
    let (order, weights): (Vec<_>, Vec<u64>) = facts.unzip();
    agree("weight of the history", &state.history_bytes, &weights.iter().sum())?;
    agree_all("order of finished tasks", state.history.order(), order)
}

fn check_keys(state: &State) -> Result<(), String> {
    let ordered = state.key_order.iter().map(|(_, tenant, key)| (tenant, key)).collect();
    agree_all("order of idempotency keys", state.keys.keys().map(|(tenant, key)| (tenant, key)), ordered)?;
    let mut live: BTreeMap<(&Tenant, &IdempotencyKey), u32> = BTreeMap::new();
    let mut bytes = 0;
    for task in state.tasks.values() {
        bytes += crate::apply::share_of_spec(task);
        if let Some(key) = &task.fields.key {
            *live.entry((&task.fields.tenant, key)).or_default() += 1;
        }
    }
    for ((tenant, key), record) in &state.keys {
        let derived = live.get(&(tenant, key)).copied().unwrap_or(0);
        agree(format_args!("live tasks of key {key}"), &record.live, &derived)?;
    }
    agree("bytes of live specs", &state.spec_bytes, &bytes)?;
    let earlier = state.tasks.values().map(|task| crate::apply::count_of(task)).sum();
    agree("outputs of earlier attempts", &state.earlier_outputs, &earlier)
}
