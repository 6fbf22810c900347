//! How this peer is, for probes and scrapers. Open to all: it says nothing of any task.

use super::{NotReady, Service, ServiceError};
use crate::agent::core::runtime_problems;
use crate::metrics;

/// Entries this peer may be behind its own log and still be ready.
const READY_LAG: u64 = 1_000;

impl Service {
    /// What this peer's node cannot use now. That is no reason to stop a peer.
    pub fn problems(&self) -> Vec<String> {
        self.node.output.host.get().map(|host| runtime_problems(&host.health())).unwrap_or_default()
    }

    /// Whether it knows a leader (leads with a quorum itself), and has applied close to what it stored.
    pub fn check_ready(&self) -> Result<(), ServiceError> {
        let status = self.node.raft.status();
        let applied = self.node.applied.view().at.index;
        let lag = status.last_log.unwrap_or(0).saturating_sub(applied);
        let why = match status.leader {
            None => NotReady::NoLeader,
            Some(leader) if leader == self.node.id.0 && !status.is_leader_with_quorum() => NotReady::NoQuorum,
            _ if lag > READY_LAG => NotReady::Behind(lag),
            Some(_) => return Ok(()),
        };
        Err(ServiceError::NotReady(why))
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
