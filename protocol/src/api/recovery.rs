//! Files of a cluster's state, and clusters that were made from one or from a survivor's folder.

use serde::{Deserialize, Serialize};

/// A file of the state of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterSnapshot {
    /// Of the file.
    pub format: u32,
    pub size_bytes: u64,
    /// Of all of it but the last 32 bytes, which are this sum.
    pub sha256: String,
    /// Its name.
    pub cluster: String,
    /// Tells it from others of the same name.
    pub cluster_id: String,
    /// What the whole cluster spoke.
    pub cluster_version: u32,
    /// The last entry of the log that is in it, and its term.
    pub index: u64,
    pub term: u64,
    /// The time of that entry.
    pub as_of_ms: u64,
    /// By the clock of the peer that wrote it.
    pub saved_at_ms: u64,
    /// That peer, and its program.
    pub saved_by: u64,
    pub version: String,
    pub nodes: u64,
    pub queued: u64,
    pub running: u64,
    pub suspended: u64,
    /// Finished tasks that are still remembered.
    pub finished: u64,
    pub images: u64,
    /// What it takes to come back and is not in the file.
    pub not_in_file: Vec<String>,
}

/// A data folder that was made from a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterRestored {
    pub data_dir: String,
    pub cluster: String,
    pub cluster_id: String,
    /// The number of its one peer.
    pub node_id: u64,
    pub index: u64,
    pub term: u64,
    /// How long its first start waits.
    pub waits_ms: u64,
    pub from: ClusterSnapshot,
}

/// A survivor's folder that was made a cluster of its own, or would be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterRecovered {
    pub data_dir: String,
    pub cluster: String,
    /// Of the new cluster; none while nothing was done.
    pub cluster_id: Option<String>,
    pub node_id: u64,
    /// Up to here the survivor knows that entries were committed.
    pub committed_index: u64,
    /// The last entry that is adopted.
    pub last_index: u64,
    /// Adopted entries of which nobody can say whether they were committed.
    pub uncertain: u64,
    /// Members that are no part of it any more, by name.
    pub left_out: Vec<String>,
    pub queued: u64,
    pub running: u64,
    pub suspended: u64,
    pub finished: u64,
    /// How long its first start waits.
    pub waits_ms: u64,
    /// Where the log of before is kept.
    pub old_log: String,
    /// The key of the authority is not in this folder, as its node did not vote: the new cluster has another authority, and
    /// all certificates of before are good for nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new_authority: bool,
}
