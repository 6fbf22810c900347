//! Why a task waits, and what would let it start.

use serde::{Deserialize, Serialize};

/// The explanation of one task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub summary: String,
    pub ahead_in_queue: u64,
    pub nodes: Vec<NodeReason>,
    pub advice: Vec<String>,
}

/// What one node lacks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeReason {
    pub node_id: u64,
    pub node: String,
    pub missing: Vec<String>,
}
