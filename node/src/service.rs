//! Every operation that a front may ask for, once: domain types in, documents and domain types out, its own errors. A
//! `Principal` says who asks; `access` decides whether it may. No outward protocol is known here.

pub mod access;
mod cluster;
mod documents;
mod error;
mod health;
mod images;
mod logs;
mod nodes;
mod outputs;
pub mod principal;
mod results;
mod settings;
mod tasks;

use std::sync::Arc;

use stint_scheduler::State;

pub use cluster::MadeJoinToken;
pub use error::{NotReady, ServiceError};
pub use images::{ImagePage, NewImage};
pub use logs::{LogPart, LogsAsked};
pub use outputs::{OutputAsked, OutputPart};
pub use principal::{Principal, Proof, Role, Tenants};
pub use settings::SettingsUpdate;
pub use tasks::{AcceptedTasks, ListedState, NewTasks, TaskFilter, TaskPage, Wait};

use crate::node::Node;

/// The operations of one peer. Any peer answers any client.
#[derive(Clone)]
pub struct Service {
    node: Arc<Node>,
}

impl Service {
    /// What this peer is asked for.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// The state, no older than this call.
    async fn read(&self) -> Result<State, ServiceError> {
        Ok(self.node.leader_client.read().await?)
    }
}
