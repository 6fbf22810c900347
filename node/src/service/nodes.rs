//! Nodes: listed, taken out of work and back, removed.

use stint_protocol::{NodeId, api};
use stint_scheduler::{NodeMode, State};

use super::access::{Operation, allow};
use super::{Principal, Service, ServiceError, documents};
use crate::wire::Request;

impl Service {
    /// Every node of the cluster.
    pub async fn list_nodes(&self, caller: &Principal) -> Result<Vec<api::Node>, ServiceError> {
        allow(caller, Operation::ListNodes)?;
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
        allow(caller, Operation::SetNodeMode)?;
        let node = find_node(&self.read().await?, node)?;
        if within_ms.is_some() && mode != NodeMode::Draining {
            return Err(ServiceError::DeadlineWithoutDrain);
        }
        self.ask(Request::SetNodeMode { node, mode, within_ms }).await?;
        let view = self.cluster_view().await?;
        let found = view.state.node(node).ok_or(ServiceError::NodeGone(node))?;
        Ok(documents::node(found, &self.node.raft.status(), &view, caller))
    }

    /// Takes a node out of the cluster for good.
    pub async fn remove_node(&self, caller: &Principal, node: &str) -> Result<(), ServiceError> {
        allow(caller, Operation::RemoveNode)?;
        let node = find_node(&self.read().await?, node)?;
        self.ask(Request::RemoveNode(node)).await?;
        Ok(())
    }
}

/// Finds a node by id or name.
pub(super) fn find_node(state: &State, text: &str) -> Result<NodeId, ServiceError> {
    let by_name = state.nodes().find(|node| node.name == text).map(|node| node.id);
    let by_id = || text.parse().ok().map(NodeId).filter(|id| state.node(*id).is_some());
    by_name.or_else(by_id).ok_or_else(|| ServiceError::NodeNotFound(text.into()))
}
