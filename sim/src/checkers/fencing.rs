//! Fencing tokens only grow: what is launched later has a higher number, wherever; and what is launched was never
//! launched on another machine.

use std::collections::BTreeMap;

use stint_protocol::{LeaseId, TaskId};

/// The highest number of each task that reached a machine, and which.
#[derive(Default)]
pub struct Fencing(BTreeMap<TaskId, (u32, u64)>);

impl Fencing {
    /// An attempt begins to run.
    pub fn started(&mut self, lease: LeaseId, machine: u64) -> Result<(), String> {
        let LeaseId { task, attempt } = lease;
        match self.0.insert(task, (attempt, machine)) {
            Some((highest, on)) if attempt <= highest => Err(format!(
                "attempt {lease} starts on machine {machine} after attempt {highest} did on machine {on}"
            )),
            _ => Ok(()),
        }
    }
}
