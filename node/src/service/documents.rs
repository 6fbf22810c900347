//! Documents of the applied state (`stint_protocol::api`).

mod image;
mod node;
mod settings;
mod task;

pub use image::image;
pub use node::{cluster_peers, holding_back, node};
pub use settings::settings;
pub use task::{
    end_message, finished_task, is_gone, listed_state, live_task, not_kept, task, tasks, usage,
    without_earlier_outputs,
};

use stint_protocol::NodeId;
use stint_scheduler::State;

/// The name of a node, or its number when it is gone.
pub fn node_name(state: &State, node: NodeId) -> String {
    state.node(node).map_or_else(|| node.to_string(), |n| n.name.clone())
}
