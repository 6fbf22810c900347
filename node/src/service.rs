//! Every operation that a front may ask for, once: domain types in, documents and domain types out, its own errors. A
//! `Principal` says who asks; `access` decides whether it may. No outward protocol is known here.

pub mod access;
mod access_tokens;
mod authority;
mod cluster;
mod documents;
mod error;
mod freshness;
mod health;
mod images;
mod join_tokens;
mod logs;
mod nodes;
mod outputs;
pub mod principal;
mod results;
mod settings;
mod snapshots;
mod tasks;
mod tenants;
mod who;

use std::sync::{Arc, OnceLock};

use stint_protocol::api;

pub use access_tokens::NewToken;
pub use authority::AuthorityChange;
pub use error::{NotReady, ServiceError};
pub use images::{ImagePage, NewImage};
pub use join_tokens::MadeJoinToken;
pub use logs::{LogPart, LogsAsked};
pub use outputs::{OutputAsked, OutputPart};
pub use principal::{Principal, Proof, Tenants};
pub use settings::SettingsUpdate;
pub use stint_protocol::Role;
pub use tasks::{AcceptedTasks, NewTasks, TaskFilter, TaskPage, Wait};

use crate::node::Node;

/// The operations of one peer. Any peer answers any client.
#[derive(Clone)]
pub struct Service {
    node: Arc<Node>,
    /// Set when an answer was made without a leader.
    outdated: OnceLock<api::Outdated>,
}

impl Service {
    /// What this peer is asked for.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node, outdated: OnceLock::new() }
    }

    /// For one request: whether its answer is outdated is its own.
    pub fn for_request(&self) -> Self {
        Self::new(self.node.clone())
    }
}
