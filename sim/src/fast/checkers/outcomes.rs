//! A task gets one outcome, which never changes.

use std::collections::BTreeMap;

use stint_protocol::{Outcome, TaskId};
use stint_scheduler::{Change, State};

/// The outcomes so far.
#[derive(Default)]
pub struct Outcomes(BTreeMap<TaskId, Outcome>);

impl Outcomes {
    /// An entry was applied.
    pub fn changed(&mut self, changes: &[Change]) -> Result<(), String> {
        for change in changes {
            match change {
                Change::Finished { task, outcome, .. } => {
                    if let Some(known) = self.0.insert(*task, outcome.clone()) {
                        return Err(format!("task {task} ended as {known:?} and as {outcome:?}"));
                    }
                }
                Change::Leased { lease, .. } if self.0.contains_key(&lease.task) => {
                    return Err(format!("attempt {lease} of a finished task gets a lease"));
                }
                Change::Queued { task } if self.0.contains_key(task) => {
                    return Err(format!("task {task} is finished and waits again"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The history that is kept agrees with what was seen.
    pub fn agree(&self, state: &State) -> Result<(), String> {
        for (id, task) in state.finished_before(TaskId(u128::MAX)) {
            let known = self.0.get(&id);
            if known != Some(&task.fields.outcome) {
                return Err(format!("task {id} ended as {known:?} and is kept as {:?}", task.fields.outcome));
            }
        }
        Ok(())
    }

    pub fn holds(&self, task: TaskId) -> bool {
        self.0.contains_key(&task)
    }

    /// How many tasks finished.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}
