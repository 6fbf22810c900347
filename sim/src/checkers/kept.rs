//! What was acknowledged is kept: every acknowledged task gets one outcome that never changes.

use std::collections::BTreeMap;

use stint_protocol::{Outcome, TaskId};
use stint_scheduler::State;

/// The promises given to clients, and the outcomes seen.
#[derive(Default)]
pub struct Kept {
    /// First task and count, by idempotency key.
    submits: BTreeMap<String, (TaskId, u32)>,
    outcomes: BTreeMap<TaskId, Outcome>,
}

impl Kept {
    /// A submit was acknowledged.
    pub fn acknowledged(&mut self, key: &str, first: TaskId, count: u32) -> Result<(), String> {
        match self.submits.insert(key.to_owned(), (first, count)) {
            Some(known) if known != (first, count) => Err(format!(
                "the submit with key {key} was acknowledged as {} x {} and as {first} x {count}",
                known.0, known.1
            )),
            _ => Ok(()),
        }
    }

    /// Every acknowledged task.
    pub fn tasks(&self) -> impl Iterator<Item = TaskId> + '_ {
        let each = |(first, count): &(TaskId, u32)| {
            let first = first.0;
            (0..u128::from(*count)).map(move |n| TaskId(first + n))
        };
        self.submits.values().flat_map(each)
    }

    /// A replica's state: outcomes only come, and stay as they are. Answers the new ones.
    pub fn seen(&mut self, state: &State) -> Result<Vec<(TaskId, Outcome)>, String> {
        let mut new = Vec::new();
        for (id, task) in state.finished_before(TaskId(u128::MAX)) {
            let outcome = &task.fields.outcome;
            match self.outcomes.get(&id) {
                None => {
                    self.outcomes.insert(id, outcome.clone());
                    new.push((id, outcome.clone()));
                }
                Some(known) if known == outcome => {}
                Some(known) => return Err(format!("task {id} ended as {known:?} and as {outcome:?}")),
            }
        }
        Ok(new)
    }

    /// Whether an outcome is recorded.
    pub fn is_over(&self, task: TaskId) -> bool {
        self.outcomes.contains_key(&task)
    }

    /// How many outcomes there are.
    pub fn outcomes(&self) -> usize {
        self.outcomes.len()
    }

    /// Acknowledged tasks without an outcome.
    pub fn unfinished(&self) -> Vec<TaskId> {
        self.tasks().filter(|id| !self.outcomes.contains_key(id)).collect()
    }

    /// How many ended, by the word users see.
    pub fn ended(&self) -> BTreeMap<&'static str, usize> {
        let mut detail = BTreeMap::new();
        for outcome in self.outcomes.values() {
            *detail.entry(outcome.as_str()).or_default() += 1;
        }
        detail
    }
}
