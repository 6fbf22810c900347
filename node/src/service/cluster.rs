//! The cluster as a whole: its status, its lead, and tokens that let nodes join.

use std::time::Duration;

use sha2::{Digest, Sha256};
use stint_protocol::{NodeId, TimeMs, api};

use super::access::{Operation, allow};
use super::nodes::find_node;
use super::{Principal, Service, ServiceError, documents};
use crate::join::JoinToken;
use crate::leader_client::unexpected;
use crate::wire::{Reply, Request};

/// Validity of a join token when none is given: one hour; and at most: one week.
const JOIN_TOKEN_VALID: Duration = Duration::from_secs(3_600);
const JOIN_TOKEN_VALID_MOST: Duration = Duration::from_secs(7 * 24 * 3_600);

/// A token with which a node may join.
pub struct MadeJoinToken {
    pub token: JoinToken,
    pub expires: TimeMs,
}

impl Service {
    /// The cluster as this peer sees it, with what only the leader knows.
    pub async fn cluster_status(&self, caller: &Principal) -> Result<api::Cluster, ServiceError> {
        allow(caller, Operation::GetClusterStatus)?;
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

    /// Makes a join token, valid for this long.
    pub async fn create_join_token(
        &self,
        caller: &Principal,
        valid: Option<Duration>,
    ) -> Result<MadeJoinToken, ServiceError> {
        allow(caller, Operation::CreateJoinToken)?;
        let valid = valid.unwrap_or(JOIN_TOKEN_VALID);
        if valid > JOIN_TOKEN_VALID_MOST {
            return Err(ServiceError::TokenValidTooLong);
        }
        let secret = self.node.rng.random_bits().to_be_bytes();
        let hash: [u8; 32] = Sha256::digest(secret).into();
        let request = Request::CreateJoinToken { hash: hash.into(), valid_ms: valid.as_millis() as u64 };
        let expires = match self.ask(request).await? {
            Reply::JoinToken { expires } => expires,
            other => return Err(unexpected(&other).into()),
        };
        let token = JoinToken { fingerprint: self.node.authority.fingerprint()?, secret };
        Ok(MadeJoinToken { token, expires })
    }

    /// Hands the lead to a node, found by id or name, or to any other voter; the new leader.
    pub async fn transfer_leader(
        &self,
        caller: &Principal,
        to: Option<&str>,
    ) -> Result<NodeId, ServiceError> {
        allow(caller, Operation::TransferLeader)?;
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
