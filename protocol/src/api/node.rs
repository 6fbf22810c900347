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

/// A node is no member any more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeRemoved {
    /// Its name or id, as it was asked for.
    pub removed: String,
}

/// As `stint.v1` carries them, both ways.
#[cfg(feature = "grpc")]
mod grpc {
    use super::{Gpu, Node};
    use crate::api::grpc::{all, given};
    use crate::v1;

    impl From<v1::Node> for Node {
        fn from(node: v1::Node) -> Self {
            Self {
                id: node.id,
                name: node.name,
                address: node.address,
                state: node.state,
                role: node.role,
                cpu_milli: node.cpu_milli,
                cpu_used_milli: node.cpu_used_milli,
                memory_bytes: node.memory_bytes,
                memory_used_bytes: node.memory_used_bytes,
                running: node.running,
                slots: node.slots,
                gpus: all(node.gpus),
                runtimes: node.runtimes,
                classes: node.classes,
                labels: node.labels.into_iter().collect(),
                problems: node.problems,
            }
        }
    }

    impl From<Node> for v1::Node {
        fn from(node: Node) -> Self {
            Self {
                id: node.id,
                name: node.name,
                address: node.address,
                state: node.state,
                role: node.role,
                cpu_milli: node.cpu_milli,
                cpu_used_milli: node.cpu_used_milli,
                memory_bytes: node.memory_bytes,
                memory_used_bytes: node.memory_used_bytes,
                running: node.running,
                slots: node.slots,
                gpus: all(node.gpus),
                runtimes: node.runtimes,
                classes: node.classes,
                labels: node.labels.into_iter().collect(),
                problems: node.problems,
            }
        }
    }

    impl From<v1::Gpu> for Gpu {
        fn from(gpu: v1::Gpu) -> Self {
            let v1::Gpu { id, model, memory_bytes, state, holder } = gpu;
            Self { id, model, memory_bytes, state, holder: given(holder) }
        }
    }

    impl From<Gpu> for v1::Gpu {
        fn from(gpu: Gpu) -> Self {
            let Gpu { id, model, memory_bytes, state, holder } = gpu;
            Self { id, model, memory_bytes, state, holder: holder.unwrap_or_default() }
        }
    }
}
