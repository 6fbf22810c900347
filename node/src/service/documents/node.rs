//! Nodes and peers.

use std::collections::{BTreeMap, BTreeSet};

use stint_protocol::{GpuInfo, LeaseId, NodeId, QuarantinedGpu, api};
use stint_raft::Status as RaftStatus;
use stint_scheduler::{Node, NodeMode, StartBackoff, State};

use crate::service::Principal;
use crate::wire::LeaderView;

/// A node with its use and its state. Which attempt has a GPU is told to those alone who may act for its tenant.
pub fn node(
    state: &State,
    node: &Node,
    raft: &RaftStatus,
    view: &LeaderView,
    caller: &Principal,
) -> api::Node {
    let reachable: BTreeSet<NodeId> = view.reachable.iter().copied().collect();
    api::Node {
        id: node.id.0,
        name: node.name.clone(),
        address: node.address.clone(),
        state: node_state(state, node, reachable.contains(&node.id)).into(),
        role: role(node.id, raft, view.leader).into(),
        cpu_milli: node.offer.resources.cpu_milli,
        cpu_used_milli: node.used.cpu_milli,
        memory_bytes: node.offer.resources.memory_bytes,
        memory_used_bytes: node.used.memory_bytes,
        running: node.running,
        slots: node.offer.slots,
        gpus: gpus(state, node, caller),
        runtimes: node.offer.runtimes.iter().map(|runtime| runtime.to_string()).collect(),
        classes: node.offer.classes.iter().map(|class| class.to_string()).collect(),
        labels: node.offer.labels.clone(),
        problems: node
            .problems
            .iter()
            .cloned()
            .chain(backing_off(state, node))
            .chain(quarantined(node))
            .collect(),
    }
}

/// Members that speak less than another one does.
pub fn holding_back(state: &State) -> Vec<api::HeldBack> {
    state
        .nodes_below_next_version()
        .map(|node| api::HeldBack { name: node.name.clone(), speaks: node.speaks.0 })
        .collect()
}

fn backing_off(state: &State, node: &Node) -> Vec<String> {
    let now = state.time();
    let line = |backoff: &StartBackoff, of: &str| {
        let (seconds, tasks) = (backoff.until.since(now).div_ceil(1000), backoff.tasks);
        format!("failed to start the last {tasks} tasks{of}, tried again in {seconds} s: {}", backoff.message)
    };
    let whole = node.backing_off(now).map(|backoff| line(backoff, ""));
    let holds = node
        .holds_in_force(now)
        .map(|hold| line(&hold.backoff, &format!(" of tenant {} with {}", hold.tenant, hold.runtime)));
    whole.into_iter().chain(holds).collect()
}

fn quarantined(node: &Node) -> impl Iterator<Item = String> + '_ {
    let problem = |other: &QuarantinedGpu| {
        format!("GPU {} is quarantined until it is free: {} still uses it", other.info.id, other.used_by)
    };
    node.offer.quarantined.iter().map(problem)
}

fn node_state(state: &State, node: &Node, reachable: bool) -> &'static str {
    match node.mode {
        _ if node.incarnation.0 == 0 => "joining",
        _ if !reachable => "lost",
        NodeMode::Ready if node.backing_off(state.time()).is_some() => "held",
        NodeMode::Ready if node.holds_in_force(state.time()).next().is_some() => "held",
        NodeMode::Ready => "ready",
        NodeMode::Cordoned => "cordoned",
        NodeMode::Draining if node.running == 0 => "drained",
        NodeMode::Draining => "draining",
    }
}

fn role(node: NodeId, raft: &RaftStatus, leader: NodeId) -> &'static str {
    match () {
        () if node == leader => "leader",
        () if raft.voters.contains_key(&node.0) => "voter",
        () if raft.learners.contains_key(&node.0) => "learner",
        () => "worker",
    }
}

fn gpus(state: &State, node: &Node, caller: &Principal) -> Vec<api::Gpu> {
    let may_know =
        |lease: &LeaseId| state.tenant_of(lease.task).is_none_or(|tenant| caller.acts_for(&tenant));
    let one = |gpu: &GpuInfo| {
        let record = state.gpu(&gpu.id);
        let holder = record.and_then(|r| r.holder);
        let shared = record.is_some_and(|r| r.offered_by.len() > 1);
        let gpu_state = match (holder, shared) {
            (_, true) => "conflict",
            (Some(_), _) => "leased",
            (None, _) => "free",
        };
        api::Gpu {
            id: gpu.id.to_string(),
            model: gpu.model.clone(),
            memory_bytes: gpu.memory_bytes,
            state: gpu_state.into(),
            holder: holder.filter(may_know).map(|lease| lease.to_string()),
        }
    };
    let quarantined = node.offer.quarantined.iter().map(|other| api::Gpu {
        id: other.info.id.to_string(),
        model: other.info.model.clone(),
        memory_bytes: other.info.memory_bytes,
        state: "quarantined".into(),
        holder: Some(other.used_by.clone()).filter(|used_by| !used_by.is_empty()),
    });
    node.offer.gpus.iter().map(one).chain(quarantined).collect()
}

/// The members of the log's replication.
pub fn cluster_peers(state: &State, raft: &RaftStatus, view: &LeaderView) -> Vec<api::Peer> {
    let lag: BTreeMap<NodeId, u64> = view.lag.iter().copied().collect();
    let one = |(id, info): (&u64, &stint_raft::PeerInfo)| {
        let node = NodeId(*id);
        api::Peer {
            id: *id,
            name: state.node(node).map(|n| n.name.clone()).unwrap_or_default(),
            address: info.addr.clone(),
            role: role(node, raft, view.leader).into(),
            lag: lag.get(&node).copied(),
        }
    };
    raft.voters.iter().chain(raft.learners.iter()).map(one).collect()
}
