//! A node with its use, its GPUs and its problems.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A node as its cluster sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub id: u64,
    pub name: String,
    pub address: String,
    /// joining, ready, held, cordoned, draining, drained, lost
    pub state: String,
    /// leader, voter, learner, worker
    pub role: String,
    pub cpu_milli: u64,
    pub cpu_used_milli: u64,
    pub memory_bytes: u64,
    pub memory_used_bytes: u64,
    pub running: u32,
    pub slots: u32,
    pub gpus: Vec<Gpu>,
    pub runtimes: Vec<String>,
    pub classes: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub problems: Vec<String>,
}

/// One GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    pub id: String,
    pub model: String,
    pub memory_bytes: u64,
    /// free, leased, quarantined, conflict
    pub state: String,
    /// The attempt that has it, or who else uses it.
    pub holder: Option<String>,
}
