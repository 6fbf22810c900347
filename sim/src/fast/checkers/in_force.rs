//! An attempt runs only under a lease that is in force in the log: it begins under one, on the node that holds it and
//! with the devices of it, and the log ends the lease only when the attempt is gone.

use std::collections::BTreeMap;

use stint_protocol::{GpuId, LeaseId, NodeId};
use stint_scheduler::{Change, State};

/// What runs where.
#[derive(Default)]
pub struct InForce(BTreeMap<LeaseId, NodeId>);

impl InForce {
    pub fn began(
        &mut self,
        node: NodeId,
        lease: LeaseId,
        gpus: &[GpuId],
        state: &State,
    ) -> Result<(), String> {
        self.0.insert(lease, node);
        let task = state.task(lease.task);
        let leased = task.filter(|t| t.fields.attempts == lease.attempt).and_then(|t| t.leased());
        match leased {
            Some(leased) if leased.node != node => {
                Err(format!("attempt {lease} begins on {node}, its lease is on {}", leased.node))
            }
            Some(leased) if leased.gpus != gpus => {
                Err(format!("attempt {lease} begins with {gpus:?}, its lease is on {:?}", leased.gpus))
            }
            Some(_) => Ok(()),
            None => Err(format!("attempt {lease} begins on {node} and its lease is over")),
        }
    }

    pub fn ended(&mut self, lease: LeaseId) {
        self.0.remove(&lease);
    }

    /// The log ended leases.
    pub fn changed(&self, changes: &[Change]) -> Result<(), String> {
        for change in changes {
            if let Change::Released { lease, .. } = change
                && let Some(node) = self.0.get(lease)
            {
                return Err(format!("the lease of attempt {lease} is over while it runs on {node}"));
            }
        }
        Ok(())
    }
}
