//! The cluster as a whole.

use serde::{Deserialize, Serialize};

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
}
