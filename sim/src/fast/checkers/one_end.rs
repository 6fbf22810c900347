//! An instance ends once, and nothing changes that; it is given up for its losses only when it did no step between them.

use std::collections::BTreeMap;

use stint_protocol::{EndKind, InstanceStatus, TaskId, Writer};
use stint_scheduler::{Change, InstanceAct, InstanceChange, InstanceNo, State};

use super::Committed;

#[derive(Default)]
pub struct OneEnd {
    ends: BTreeMap<InstanceNo, InstanceStatus>,
    /// The attempt of each task that did a new step last.
    advanced: BTreeMap<TaskId, u32>,
}

impl OneEnd {
    pub fn committed(&mut self, it: &Committed<'_>) {
        let is_new =
            |change: &InstanceChange| matches!(change, InstanceChange::Saved(s) if s.found.is_none());
        if let (InstanceAct::Save { .. }, Writer::Launch(lease)) = (&it.command.act, it.command.by)
            && it.changes.is_some_and(|changes| changes.iter().any(is_new))
        {
            self.advanced.insert(lease.task, lease.attempt);
        }
    }

    /// What one command changed.
    pub fn changed(&mut self, changes: &[Change], state: &State) -> Result<(), String> {
        for change in changes {
            match change {
                Change::Instance(InstanceChange::Ended { no, status }) => {
                    if let Some(before) = self.ends.insert(*no, *status) {
                        return Err(format!("{no:?} ended as {before} and as {status}"));
                    }
                }
                Change::Finished { task, outcome, .. } if outcome.crash_loop => {
                    let Some(since) = self.advanced.get(task).copied() else { continue };
                    let Some(done) = state.finished(*task) else { continue };
                    let losses = done.fields.records.iter().filter(|r| r.end == EndKind::Lost);
                    let losses = losses.filter(|record| record.number >= since).count() as u32;
                    if losses < state.settings().rules.crash_loop_losses {
                        return Err(format!(
                            "task {task} was given up after {losses} losses since attempt {since} did a step"
                        ));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
