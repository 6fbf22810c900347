//! Nodes: listed, taken out of work and back, removed.

use stint_protocol::{NodeId, api};
use stint_scheduler::{NodeMode, State};

use super::access::Operation;
use super::freshness::ClusterView;
use super::{Principal, Service, ServiceError, documents};
use crate::wire::Request;

impl Service {
    /// Every node of the cluster.
    pub async fn list_nodes(&self, caller: &Principal) -> Result<Vec<api::Node>, ServiceError> {
        self.allow(caller, Operation::ListNodes)?;
        let view = self.cluster_view().await?;
        let raft = self.node.raft.status();
        Ok(view.state.nodes().map(|node| documents::node(node, &raft, &view, caller)).collect())
    }

    /// Sets the mode of a node, found by id or name. What still runs `within_ms` after a drain is stopped, to go on
    /// elsewhere; without it, it may run to its end.
    pub async fn set_node_mode(
        &self,
        caller: &Principal,
        node: &str,
        mode: NodeMode,
        within_ms: Option<u64>,
    ) -> Result<api::Node, ServiceError> {
        self.allow(caller, Operation::SetNodeMode)?;
        let node = find_node(&self.read().await?, node)?;
        if within_ms.is_some() && mode != NodeMode::Draining {
            return Err(ServiceError::DeadlineWithoutDrain);
        }
        self.ask(Request::SetNodeMode { node, mode, within_ms }).await?;
        let view = self.cluster_view().await?;
        let found = view.state.node(node).ok_or(ServiceError::NodeGone(node))?;
        Ok(documents::node(found, &self.node.raft.status(), &view, caller))
    }

    /// Takes a node out of the cluster for good. Refused, unless `force`, where no majority would be left, or bytes that
    /// are nowhere else would be lost. A node that holds leases is never removed.
    pub async fn remove_node(&self, caller: &Principal, node: &str, force: bool) -> Result<(), ServiceError> {
        self.allow(caller, Operation::RemoveNode)?;
        let view = self.cluster_view().await?;
        let node = find_node(&view.state, node)?;
        let costs = self.costs_of_removal(&view, node);
        if !force && !costs.is_empty() {
            return Err(ServiceError::RemovalCosts { costs: costs.join("; ") });
        }
        self.ask(Request::RemoveNode(node)).await?;
        Ok(())
    }
}

impl Service {
    /// What the removal of a node would cost, and what to do instead.
    fn costs_of_removal(&self, view: &ClusterView, node: NodeId) -> Vec<String> {
        let voters: Vec<NodeId> = self.node.raft.status().voters.keys().map(|id| NodeId(*id)).collect();
        let left: Vec<NodeId> = voters.iter().copied().filter(|voter| *voter != node).collect();
        let there = left.iter().filter(|voter| view.is_there(**voter)).count();
        let mut costs = Vec::new();
        if left.len() < voters.len() && there < left.len() / 2 + 1 {
            let silent = left.iter().filter(|voter| !view.is_there(**voter));
            let names: Vec<String> =
                silent.filter_map(|voter| view.state.node(*voter)).map(|node| node.name.clone()).collect();
            let (left, names) = (left.len(), names.join(", "));
            costs.push(format!(
                "{there} of the {left} voters that are left would be there, which is no majority, and the cluster would \
                 stop: start {names} first, or remove it"
            ));
        }
        let only_there = view.state.blobs().filter(|(_, record)| record.holders.iter().eq([&node])).count();
        if only_there > 0 {
            costs.push(format!(
                "{only_there} images or kept files are on this node alone: wait until another one has a copy \
                 (stint image show)"
            ));
        }
        costs
    }
}

/// Finds a node by id or name.
pub(super) fn find_node(state: &State, text: &str) -> Result<NodeId, ServiceError> {
    let by_name = state.nodes().find(|node| node.name == text).map(|node| node.id);
    let by_id = || text.parse().ok().map(NodeId).filter(|id| state.node(*id).is_some());
    by_name.or_else(by_id).ok_or_else(|| ServiceError::NodeNotFound(text.into()))
}
