//! How this peer is, for probes and scrapers. Open to all: it says nothing of any task.

use stint_raft::Role;

use super::{NotReady, Service, ServiceError};
use crate::agent::core::runtime_problems;
use crate::metrics;
use crate::outage::Outage;

/// Entries this peer may be behind its own log and still be ready.
const READY_LAG: u64 = 1_000;

impl Service {
    /// What this peer's node cannot use now. That is no reason to stop a peer.
    pub fn problems(&self) -> Vec<String> {
        self.node.output.host.get().map(|host| runtime_problems(&host.health())).unwrap_or_default()
    }

    /// Whether a leader counts (it was heard within the election timeout, or is this peer and has a quorum), and this peer
    /// has applied close to what it stored.
    pub fn check_ready(&self) -> Result<(), ServiceError> {
        let (status, view) = (self.node.raft.status(), self.node.applied.view());
        if let Some(outage) = Outage::seen(&status) {
            let (silence, missing) = (outage.leaderless, outage.who_is_missing(&view.state));
            return Err(ServiceError::NotReady(match status.role {
                Role::Leader => NotReady::NoQuorum { missing },
                _ => NotReady::NoLeader { silence, missing },
            }));
        }
        match status.last_log.unwrap_or(0).saturating_sub(view.at.index) {
            lag if lag > READY_LAG => Err(ServiceError::NotReady(NotReady::Behind(lag))),
            _ => Ok(()),
        }
    }

    /// Metrics in Prometheus text.
    pub async fn metrics(&self) -> Result<String, ServiceError> {
        let containers = match self.node.output.host.get() {
            Some(host) => host.containers().await,
            None => None,
        };
        Ok(metrics::render(&self.node, containers)?)
    }
}
