//! The invariants of the state. Tests and the simulator call this after every apply; a broken one is a bug.

use std::collections::{BTreeMap, BTreeSet};

use stint_protocol::{GpuId, LeaseId, NodeId, Resources};

use crate::state::{QueueKey, State};
use crate::task::TaskState;

/// Re-derives every index and says what does not agree.
pub fn check(state: &State) -> Result<(), String> {
    check_version(state)?;
    check_places(state)?;
    check_leases(state)?;
    check_gpus(state)?;
    let drains: BTreeSet<_> = state.nodes.values().filter_map(|n| Some((n.drain_by?, n.id))).collect();
    agree("drains", &state.drains.iter().copied().collect(), &drains)?;
    check_names(state)?;
    check_history(state)?;
    check_keys(state)
}

fn agree<T: PartialEq + std::fmt::Debug>(what: &str, kept: &T, derived: &T) -> Result<(), String> {
    if kept == derived { Ok(()) } else { Err(format!("{what}: kept {kept:?}, derived {derived:?}")) }
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

/// A waiting task stands in exactly one of queue and delayed, a leased one in neither.
fn check_places(state: &State) -> Result<(), String> {
    let mut queue: BTreeSet<QueueKey> = BTreeSet::new();
    let mut delayed = BTreeSet::new();
    for (id, task) in &state.tasks {
        if let TaskState::Queued { not_before, .. } = task.fields.state {
            // Promotion happens at the start of the next command: at the border both places are right.
            if state.delayed.contains(&(not_before, *id)) {
                delayed.insert((not_before, *id));
            } else {
                queue.insert(state.queue_key(*id, task));
            }
            if not_before > state.time && !state.delayed.contains(&(not_before, *id)) {
                return Err(format!("task {id} waits for a later time but stands in the queue"));
            }
        }
    }
    agree("queue", &state.queue.iter().copied().collect(), &queue)?;
    agree("delayed", &state.delayed.iter().copied().collect(), &delayed)
}

/// One lease a leased task, with its current attempt; a node's amounts are the sum of its leases.
fn check_leases(state: &State) -> Result<(), String> {
    let mut leases: BTreeSet<(NodeId, LeaseId)> = BTreeSet::new();
    let mut used: BTreeMap<NodeId, (Resources, u32)> = BTreeMap::new();
    for (id, task) in &state.tasks {
        let Some(leased) = task.leased() else { continue };
        leases.insert((leased.node, LeaseId { task: *id, attempt: task.fields.attempts }));
        let sum = used.entry(leased.node).or_default();
        *sum = (sum.0.plus(&task.spec.resources()), sum.1 + 1);
        if !state.nodes.contains_key(&leased.node) {
            return Err(format!("task {id} is leased to {:?}, which is no member", leased.node));
        }
    }
    agree("leases", &state.leases.iter().copied().collect(), &leases)?;
    for node in state.nodes.values() {
        let sum = used.get(&node.id).copied().unwrap_or_default();
        agree(&format!("use of node {}", node.id), &(node.used, node.running), &sum)?;
    }
    Ok(())
}

/// A GPU's holder is the one lease that lists it; a lease holds as many as its task asked for.
fn check_gpus(state: &State) -> Result<(), String> {
    let mut holders: BTreeMap<&GpuId, LeaseId> = BTreeMap::new();
    for (id, task) in &state.tasks {
        let Some(leased) = task.leased() else { continue };
        let lease = LeaseId { task: *id, attempt: task.fields.attempts };
        agree("GPUs of a lease", &leased.gpus.len(), &(task.spec.gpu_count() as usize))?;
        for gpu in &leased.gpus {
            if let Some(other) = holders.insert(gpu, lease) {
                return Err(format!("GPU {gpu} has two holders: {other} and {lease}"));
            }
        }
    }
    for (id, record) in &state.gpus {
        agree(&format!("holder of GPU {id}"), &record.holder, &holders.remove(id))?;
        if record.unused() {
            return Err(format!("GPU {id} is kept for nothing"));
        }
    }
    let offered: usize = state.gpus.values().map(|r| r.offered_by.len()).sum();
    let offers: usize = state.nodes.values().map(|n| n.offer.gpus.len()).sum();
    agree("GPU offers", &offered, &offers)?;
    agree("holders of unknown GPUs", &holders.len(), &0)
}

fn check_names(state: &State) -> Result<(), String> {
    let live = state.tasks.iter().map(|(id, t)| (id, &t.fields.tenant, &t.fields.name));
    let done = state.history.iter().map(|(id, t)| (id, &t.fields.tenant, &t.fields.name));
    let mut names = BTreeMap::new();
    for (id, tenant, name) in live.chain(done) {
        let Some(name) = name else { continue };
        if names.insert((tenant.clone(), name.clone()), *id).is_some() {
            return Err(format!("two tasks of {tenant} are named {name}"));
        }
    }
    let kept: BTreeMap<_, _> = state.names.iter().map(|(k, v)| (k.clone(), *v)).collect();
    agree("names", &kept, &names)
}

fn check_history(state: &State) -> Result<(), String> {
    if let Some((id, _)) = state.history.iter().find(|(id, _)| state.tasks.contains_key(*id)) {
        return Err(format!("task {id} is finished and alive"));
    }
    let order: BTreeSet<_> =
        state.history.iter().map(|(id, t)| (t.fields.outcome.finished_at, *id)).collect();
    agree("order of finished tasks", &state.finished_order.iter().copied().collect(), &order)
}

fn check_keys(state: &State) -> Result<(), String> {
    let ordered: BTreeSet<_> = state.key_order.iter().map(|(_, t, k)| (t.clone(), k.clone())).collect();
    let keys: BTreeSet<_> = state.keys.keys().cloned().collect();
    agree("order of idempotency keys", &ordered, &keys)?;
    agree("entries of that order", &state.key_order.len(), &keys.len())?;
    let mut live: BTreeMap<_, u32> = BTreeMap::new();
    let mut bytes = 0;
    for task in state.tasks.values() {
        bytes += crate::apply::share_of_spec(task);
        if let Some(key) = &task.fields.key {
            *live.entry((task.fields.tenant.clone(), key.clone())).or_default() += 1;
        }
    }
    for (owner, record) in &state.keys {
        agree(
            &format!("live tasks of key {}", owner.1),
            &record.live,
            &live.get(owner).copied().unwrap_or(0),
        )?;
    }
    agree("bytes of live specs", &state.spec_bytes, &bytes)
}
