//! Nothing is taken of a launch whose lease is over.

use std::collections::BTreeSet;

use stint_protocol::{LeaseId, Writer};
use stint_scheduler::Change;

use super::Committed;

/// Leases in force, by what the log changed.
#[derive(Default)]
pub struct InstanceFencing(BTreeSet<LeaseId>);

impl InstanceFencing {
    pub fn committed(&self, it: &Committed<'_>) -> Result<(), String> {
        match (it.command.by, it.changes) {
            (Writer::Launch(lease), Some(_)) if !self.0.contains(&lease) => Err(format!(
                "attempt {lease} is over, and writes for {}: {:?}",
                it.command.id, it.command.act
            )),
            _ => Ok(()),
        }
    }

    /// What one command changed.
    pub fn changed(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Leased { lease, .. } => {
                    self.0.insert(*lease);
                }
                Change::Released { lease, .. } => {
                    self.0.remove(lease);
                }
                _ => {}
            }
        }
    }
}
