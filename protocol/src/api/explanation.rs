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

/// As `stint.v1` carries them, both ways.
#[cfg(feature = "grpc")]
mod grpc {
    use super::{Explanation, NodeReason};
    use crate::api::grpc::all;
    use crate::v1;

    impl From<v1::ExplainReply> for Explanation {
        fn from(reply: v1::ExplainReply) -> Self {
            let v1::ExplainReply { summary, nodes, advice, ahead_in_queue } = reply;
            Self { summary, ahead_in_queue, nodes: all(nodes), advice }
        }
    }

    impl From<Explanation> for v1::ExplainReply {
        fn from(explanation: Explanation) -> Self {
            let Explanation { summary, ahead_in_queue, nodes, advice } = explanation;
            Self { summary, nodes: all(nodes), advice, ahead_in_queue }
        }
    }

    impl From<v1::NodeReason> for NodeReason {
        fn from(reason: v1::NodeReason) -> Self {
            let v1::NodeReason { node_id, node_name, missing } = reason;
            Self { node_id, node: node_name, missing }
        }
    }

    impl From<NodeReason> for v1::NodeReason {
        fn from(reason: NodeReason) -> Self {
            let NodeReason { node_id, node, missing } = reason;
            Self { node_id, node_name: node, missing }
        }
    }
}
