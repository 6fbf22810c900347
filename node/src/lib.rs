//! One peer of a Stint cluster: fronts, leader loop, agent loop, doors and configuration. The only place where
//! scheduler, raft and executor meet. Only `front` knows outward protocols.

mod access_token;
pub mod agent;
pub mod announce;
pub mod applied_state;
pub mod attempt_output;
mod audit;
pub mod blobs;
mod blocking;
pub mod build;
mod callers;
pub mod certificates;
pub mod clock;
pub mod config;
mod connection_limit;
#[cfg(any(test, feature = "fuzzing"))]
pub mod decoders;
pub mod endings;
pub mod executor_metrics;
mod former_member;
mod front;
mod identity;
pub mod images;
mod join;
pub mod leader;
pub mod leader_client;
pub mod leadership;
pub mod lease_clock;
pub mod limits;
mod local_users;
mod metrics;
pub mod mutations;
pub mod node;
pub mod orders;
pub mod outage;
pub mod peers;
pub mod pki;
pub mod recovery;
pub mod removed;
pub mod reports;
pub mod requests;
pub mod service;
pub mod snapshot_file;
mod start;
mod task_log;
pub mod task_metrics;
mod transport;
pub mod waiters;
pub mod wire;

pub use front::native::NativeApi;
pub use front::with as with_caller;
pub use identity::IdentityError;
pub use join::JoinError;
pub use start::{NodeError, Ready, StartMode, serve};
