//! The cluster as a whole.

use serde::{Deserialize, Serialize};

use super::Outdated;

/// The cluster as the peer that answers sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    pub cluster: String,
    /// Of the program that answered.
    pub version: String,
    /// The peer that answered.
    pub node_id: u64,
    pub leader_id: Option<u64>,
    pub term: u64,
    pub applied_index: u64,
    pub queued: u64,
    pub running: u64,
    pub finished: u64,
    pub peers: Vec<Peer>,
    pub alarms: Vec<String>,
    /// What the whole cluster speaks.
    pub cluster_version: u32,
    /// Members that speak less than another one does.
    pub held_back_by: Vec<HeldBack>,
    /// Voters that may be lost before no majority is left; none when there is none now.
    pub can_lose: Option<u32>,
    /// Set when there is no leader: this is what the peer that answers knows.
    pub outdated: Option<Outdated>,
}

/// A member that keeps the cluster from a higher version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeldBack {
    pub name: String,
    pub speaks: u32,
}

/// A member of the log's replication.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    pub id: u64,
    pub name: String,
    pub address: String,
    /// leader, voter, learner
    pub role: String,
    /// Entries it lags behind the leader.
    pub lag: Option<u64>,
    /// leader, follower, learner, unreachable
    pub state: String,
    /// How long ago it gave the leader (without one, the peer that answers) a sign of life; none: never.
    pub contact_ms: Option<u64>,
    /// The highest version that it may speak.
    pub speaks: u32,
}

/// A token with which a machine joins the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JoinToken {
    /// In milliseconds since 1970.
    pub expires_at_ms: u64,
    /// By which it is listed and revoked.
    #[serde(default)]
    pub id: String,
    pub token: String,
    /// How many machines may join with it; none: any number.
    #[serde(default)]
    pub uses: Option<u32>,
}

/// A join token as it is listed: without its secret, which the cluster does not know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ListedJoinToken {
    /// In milliseconds since 1970.
    pub expires_at_ms: u64,
    pub id: String,
    /// Members that joined with it, by name.
    pub used_by: Vec<String>,
    /// How many machines may join with it; none: any number.
    pub uses: Option<u32>,
    pub uses_left: Option<u32>,
}

/// A join token lets nobody in any more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JoinTokenRevoked {
    pub revoked: String,
}

/// The cluster has another leader, as was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeaderTransferred {
    pub leader_id: u64,
}

/// As `stint.v1` carries them, both ways.
#[cfg(feature = "grpc")]
mod grpc {
    use super::{Cluster, HeldBack, JoinToken, LeaderTransferred, ListedJoinToken, Peer};
    use crate::api::grpc::{all, counted};
    use crate::v1;

    impl From<v1::ClusterStatusReply> for Cluster {
        fn from(reply: v1::ClusterStatusReply) -> Self {
            Self {
                cluster: reply.cluster,
                version: reply.version,
                node_id: reply.node_id,
                leader_id: counted(reply.leader_id),
                term: reply.term,
                applied_index: reply.applied_index,
                queued: reply.queued,
                running: reply.running,
                finished: reply.finished,
                peers: all(reply.peers),
                alarms: reply.alarms,
                cluster_version: reply.cluster_version,
                held_back_by: all(reply.held_back_by),
                can_lose: reply.can_lose,
                outdated: reply.outdated.map(Into::into),
            }
        }
    }

    impl From<Cluster> for v1::ClusterStatusReply {
        fn from(cluster: Cluster) -> Self {
            Self {
                cluster: cluster.cluster,
                node_id: cluster.node_id,
                leader_id: cluster.leader_id.unwrap_or_default(),
                term: cluster.term,
                applied_index: cluster.applied_index,
                peers: all(cluster.peers),
                queued: cluster.queued,
                running: cluster.running,
                finished: cluster.finished,
                version: cluster.version,
                alarms: cluster.alarms,
                cluster_version: cluster.cluster_version,
                held_back_by: all(cluster.held_back_by),
                can_lose: cluster.can_lose,
                outdated: cluster.outdated.map(Into::into),
            }
        }
    }

    impl From<v1::Peer> for Peer {
        fn from(peer: v1::Peer) -> Self {
            let v1::Peer { id, name, address, role, lag, state, contact_ms, speaks } = peer;
            Self { id, name, address, role, lag, state, contact_ms, speaks }
        }
    }

    impl From<Peer> for v1::Peer {
        fn from(peer: Peer) -> Self {
            let Peer { id, name, address, role, lag, state, contact_ms, speaks } = peer;
            Self { id, name, address, role, lag, state, contact_ms, speaks }
        }
    }

    impl From<v1::HeldBack> for HeldBack {
        fn from(by: v1::HeldBack) -> Self {
            let v1::HeldBack { name, speaks } = by;
            Self { name, speaks }
        }
    }

    impl From<HeldBack> for v1::HeldBack {
        fn from(by: HeldBack) -> Self {
            let HeldBack { name, speaks } = by;
            Self { name, speaks }
        }
    }

    impl From<v1::CreateJoinTokenReply> for JoinToken {
        fn from(reply: v1::CreateJoinTokenReply) -> Self {
            let v1::CreateJoinTokenReply { token, expires_at_ms, id, uses } = reply;
            Self { expires_at_ms, id, token, uses }
        }
    }

    impl From<JoinToken> for v1::CreateJoinTokenReply {
        fn from(made: JoinToken) -> Self {
            let JoinToken { expires_at_ms, id, token, uses } = made;
            Self { token, expires_at_ms, id, uses }
        }
    }

    impl From<v1::JoinToken> for ListedJoinToken {
        fn from(token: v1::JoinToken) -> Self {
            let v1::JoinToken { id, expires_at_ms, uses, uses_left, used_by } = token;
            Self { expires_at_ms, id, used_by, uses, uses_left }
        }
    }

    impl From<ListedJoinToken> for v1::JoinToken {
        fn from(token: ListedJoinToken) -> Self {
            let ListedJoinToken { expires_at_ms, id, used_by, uses, uses_left } = token;
            Self { id, expires_at_ms, uses, uses_left, used_by }
        }
    }

    impl From<v1::TransferLeaderReply> for LeaderTransferred {
        fn from(reply: v1::TransferLeaderReply) -> Self {
            Self { leader_id: reply.leader_id }
        }
    }

    impl From<LeaderTransferred> for v1::TransferLeaderReply {
        fn from(transferred: LeaderTransferred) -> Self {
            Self { leader_id: transferred.leader_id }
        }
    }
}
