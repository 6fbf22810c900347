//! The cluster as a whole: its status and its lead.

use stint_protocol::{NodeId, api};

use super::access::Operation;
use super::nodes::find_node;
use super::{Principal, Service, ServiceError, documents};
use crate::leader_client::unexpected;
use crate::wire::{Reply, Request};

impl Service {
    /// The cluster as this peer sees it, with what only the leader knows.
    pub async fn cluster_status(&self, caller: &Principal) -> Result<api::Cluster, ServiceError> {
        self.allow(caller, Operation::GetClusterStatus)?;
        let view = self.cluster_view().await?;
        let (state, raft) = (&view.state, self.node.raft.status());
        Ok(api::Cluster {
            cluster: self.node.cluster.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            node_id: self.node.id.0,
            leader_id: view.leader.map(|leader| leader.0),
            term: raft.term,
            applied_index: self.node.applied.view().at.index,
            queued: state.waiting() as u64,
            running: state.running() as u64,
            finished: state.finished_total(),
            peers: documents::cluster_peers(&raft, &view, self.node.id),
            alarms: view.alarms.clone(),
            cluster_version: state.version().0,
            held_back_by: documents::holding_back(state),
            can_lose: view.can_lose,
            outdated: self.outdated().cloned(),
        })
    }

    /// Hands the lead to a node, found by id or name, or to any other voter; the new leader.
    pub async fn transfer_leader(
        &self,
        caller: &Principal,
        to: Option<&str>,
    ) -> Result<NodeId, ServiceError> {
        self.allow(caller, Operation::TransferLeader)?;
        let to = match to {
            Some(text) => Some(find_node(&self.read().await?, text)?),
            None => None,
        };
        match self.ask(Request::TransferLeader(to)).await? {
            Reply::Leader(leader) => Ok(leader),
            other => Err(unexpected(&other).into()),
        }
    }
}
