//! Nodes as executors: registration, drain, removal.

use std::sync::Arc;

use stint_protocol::{GpuId, LeaseId, NodeId, version};

use super::blob;
use crate::command::{Change, RegisterNode, Rejection};
use crate::node::{Node, NodeMode, offers};
use crate::state::State;
use crate::task::{StopReason, TaskState};

/// Takes what a node's process offers. Leases of an earlier incarnation stay until they run out
/// (docs/internals/leases.md#incarnation).
pub(super) fn register(
    state: &mut State,
    register: RegisterNode,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let id = register.node;
    let Some(node) = state.nodes.get_mut(&id).map(Arc::make_mut) else {
        return Err(Rejection::UnknownNode(id));
    };
    if register.incarnation < node.incarnation {
        return Err(Rejection::StaleNode { node: id });
    }
    let before: Vec<GpuId> = node.offer.gpus.iter().map(|g| g.id.clone()).collect();
    if node.nonce != register.nonce {
        // Another process: what kept the last one from starting tasks may be mended.
        node.forget_failed_starts();
    }
    node.incarnation = register.incarnation;
    node.nonce = register.nonce;
    node.offer = register.offer;
    node.problems = register.problems;
    let node = node.clone();
    withdraw_gpus(state, id, before.into_iter().filter(|g| !offers(&node.offer, g)).collect());
    offer_gpus(state, &node);
    changes.push(Change::NodeChanged { node: id });
    Ok(())
}

fn offer_gpus(state: &mut State, node: &Node) {
    for gpu in &node.offer.gpus {
        let mut record = state.gpus.get(&gpu.id).cloned().unwrap_or_default();
        record.offered_by.retain(|(by, _)| *by != node.id);
        record.offered_by.push((node.id, gpu.clone()));
        record.offered_by.sort_by_key(|(by, _)| *by);
        state.gpus.insert(gpu.id.clone(), record);
    }
}

fn withdraw_gpus(state: &mut State, node: NodeId, gpus: Vec<GpuId>) {
    for gpu in gpus {
        let Some(record) = state.gpus.get_mut(&gpu) else { continue };
        record.offered_by.retain(|(by, _)| *by != node);
        if record.unused() {
            state.gpus.remove(&gpu);
        }
    }
}

pub(super) fn set_mode(
    state: &mut State,
    id: NodeId,
    mode: NodeMode,
    within_ms: Option<u64>,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let Some(node) = state.nodes.get_mut(&id).map(Arc::make_mut) else {
        return Err(Rejection::UnknownNode(id));
    };
    let drains = mode == NodeMode::Draining;
    let drain_by = within_ms.filter(|_| drains).map(|within| state.time.plus(within));
    let before = std::mem::replace(&mut node.drain_by, drain_by);
    node.mode = mode;
    // An operator who resumes a node has seen to what kept it from starting tasks. Earlier versions wait for a trial.
    if mode == NodeMode::Ready && state.version >= version::RESUME_FREES {
        node.forget_failed_starts();
    }
    before.map(|at| state.drains.remove(&(at, id)));
    drain_by.map(|at| state.drains.insert((at, id)));
    changes.push(Change::NodeChanged { node: id });
    stop_drained(state, changes);
    Ok(())
}

/// What still runs on a node whose time to drain is over is stopped, to go on elsewhere.
pub(super) fn stop_drained(state: &mut State, changes: &mut Vec<Change>) {
    while let Some((at, node)) = state.drains.get_min().copied().filter(|(at, _)| *at <= state.time) {
        state.drains.remove(&(at, node));
        if let Some(record) = state.nodes.get_mut(&node).map(Arc::make_mut) {
            record.drain_by = None;
        }
        let leases: Vec<LeaseId> = state.leases_of(node).collect();
        for lease in leases {
            let task = state.tasks.get_mut(&lease.task).map(Arc::make_mut);
            if let Some(TaskState::Leased(leased)) = task.map(|task| &mut task.fields.state) {
                leased.ask_to_stop(StopReason::Drained);
                changes.push(Change::StopAsked { lease, node });
            }
        }
    }
}

pub(super) fn set_address(
    state: &mut State,
    id: NodeId,
    address: String,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let Some(node) = state.nodes.get_mut(&id) else {
        return Err(Rejection::UnknownNode(id));
    };
    if node.address != address {
        Arc::make_mut(node).address = address;
        changes.push(Change::NodeChanged { node: id });
    }
    Ok(())
}

/// Forgets a node that holds nothing.
pub(super) fn remove(state: &mut State, id: NodeId, changes: &mut Vec<Change>) -> Result<(), Rejection> {
    let Some(node) = state.nodes.get(&id).cloned() else {
        return Err(Rejection::UnknownNode(id));
    };
    let leases = state.leases_of(id).count();
    if leases > 0 {
        return Err(Rejection::NodeHoldsLeases { node: id, leases });
    }
    withdraw_gpus(state, id, node.offer.gpus.iter().map(|g| g.id.clone()).collect());
    node.drain_by.map(|at| state.drains.remove(&(at, id)));
    state.nodes.remove(&id);
    blob::node_gone(state, id);
    changes.push(Change::NodeChanged { node: id });
    Ok(())
}
