//! What was acknowledged is kept: a key stands for one set of tasks, which the log knows, and which get outcomes.

use std::collections::BTreeMap;

use stint_protocol::{IdempotencyKey, TaskId};
use stint_scheduler::State;

use super::Outcomes;

/// The promises given to clients.
#[derive(Default)]
pub struct Promises(BTreeMap<IdempotencyKey, (TaskId, u32)>);

impl Promises {
    /// A submit was acknowledged. `as_new`: it had been before, and was taken for a new one.
    pub fn acknowledged(
        &mut self,
        key: &IdempotencyKey,
        (first, count): (TaskId, u32),
        as_new: bool,
        state: &State,
        outcomes: &Outcomes,
    ) -> Result<(), String> {
        if as_new {
            return Err(format!("the submit with key {key} was acknowledged twice as new"));
        }
        if let Some(known) = self.0.insert(key.clone(), (first, count))
            && known != (first, count)
        {
            return Err(format!("key {key} stands for {} x {} and {first} x {count}", known.0, known.1));
        }
        match tasks(first, count).find(|id| state.task(*id).is_none() && !outcomes.holds(*id)) {
            Some(task) => Err(format!("task {task} of key {key} was acknowledged and is not known")),
            None => Ok(()),
        }
    }

    /// An acknowledged task without an outcome.
    pub fn unfinished(&self, outcomes: &Outcomes) -> Option<TaskId> {
        self.0.values().flat_map(|(first, count)| tasks(*first, *count)).find(|id| !outcomes.holds(*id))
    }
}

fn tasks(first: TaskId, count: u32) -> impl Iterator<Item = TaskId> {
    (0..u128::from(count)).map(move |index| TaskId(first.0 + index))
}
