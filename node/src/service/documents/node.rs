//! Nodes and peers.

use std::time::Duration;

use stint_protocol::{GpuInfo, LeaseId, NodeId, QuarantinedGpu, api};
use stint_raft::Status as RaftStatus;
use stint_scheduler::{Node, NodeMode, StartBackoff, State};

use crate::outage::is_silent;
use crate::service::Principal;
use crate::service::freshness::ClusterView;

/// A node with its use and its state. Which attempt has a GPU is told to those alone who may act for its tenant.
pub fn node(node: &Node, raft: &RaftStatus, view: &ClusterView, caller: &Principal) -> api::Node {
    let state = &view.state;
    api::Node {
        id: node.id.0,
        name: node.name.clone(),
        address: node.address.clone(),
        state: node_state(state, node, view.reachable.contains(&node.id)).into(),
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
            .chain(backing_off(state, node, caller))
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

/// What tasks of a tenant met when they started is told to those alone who may look at what it has.
fn backing_off(state: &State, node: &Node, caller: &Principal) -> Vec<String> {
    let now = state.time();
    let line = |backoff: &StartBackoff, of: &str| {
        let (seconds, tasks) = (backoff.until.since(now).div_ceil(1000), backoff.tasks);
        format!("failed to start the last {tasks} tasks{of}, tried again in {seconds} s: {}", backoff.message)
    };
    let whole = node.backing_off(now).map(|backoff| line(backoff, ""));
    let holds = node
        .holds_in_force(now)
        .filter(|hold| caller.sees(&hold.tenant))
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

fn role(node: NodeId, raft: &RaftStatus, leader: Option<NodeId>) -> &'static str {
    match () {
        () if Some(node) == leader => "leader",
        () if raft.voters.contains_key(&node.0) => "voter",
        () if raft.learners.contains_key(&node.0) => "learner",
        () => "worker",
    }
}

fn gpus(state: &State, node: &Node, caller: &Principal) -> Vec<api::Gpu> {
    let may_know = |lease: &LeaseId| state.tenant_of(lease.task).is_none_or(|tenant| caller.sees(&tenant));
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

/// The members of the log's replication, as their leader or this peer sees them.
pub fn cluster_peers(raft: &RaftStatus, view: &ClusterView, own: NodeId) -> Vec<api::Peer> {
    let one = |(id, info): (&u64, &stint_raft::PeerInfo)| {
        let node = NodeId(*id);
        let record = view.state.node(node);
        let role = role(node, raft, view.leader);
        // Whoever tells hears itself at once.
        let teller = view.leader.unwrap_or(own);
        let heard = || view.contacts.as_ref().and_then(|contacts| contacts.get(&node).copied());
        let contact = if node == teller { Some(Duration::ZERO) } else { heard() };
        api::Peer {
            id: *id,
            name: record.map(|node| node.name.clone()).unwrap_or_default(),
            address: info.addr.clone(),
            role: role.into(),
            lag: view.lag.get(&node).copied(),
            state: peer_state(role, contact, view).into(),
            contact_ms: contact.map(|age| age.as_millis() as u64),
            speaks: record.map(|node| node.speaks.0).unwrap_or_default(),
        }
    };
    raft.voters.iter().chain(raft.learners.iter()).map(one).collect()
}

/// What a peer is to the one that tells.
fn peer_state(role: &'static str, contact: Option<Duration>, view: &ClusterView) -> &'static str {
    match contact {
        // A leader of an earlier version does not tell.
        None if view.contacts.is_none() => "",
        None => "unreachable",
        Some(age) if is_silent(age) => "unreachable",
        Some(_) if role == "voter" => "follower",
        Some(_) => role,
    }
}
