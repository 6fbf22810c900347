//! Answers are linearizable: a read shows everything that was acknowledged before it began, and all that any read
//! showed which ended before it began. A request without an answer is unknown, never absent.

use std::collections::BTreeSet;

use stint_protocol::{TaskId, TimeMs};
use stint_scheduler::State;

/// What was promised and shown so far, in order.
#[derive(Default)]
pub struct Answers {
    submitted: Vec<TaskId>,
    cancelled: Vec<TaskId>,
    finished: Vec<TaskId>,
    finished_set: BTreeSet<TaskId>,
    time: TimeMs,
}

/// What a read that begins now must show.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    submitted: usize,
    cancelled: usize,
    finished: usize,
    time: TimeMs,
}

impl Answers {
    /// A client was told that these tasks are accepted.
    pub fn submitted(&mut self, first: TaskId, count: u32) {
        self.submitted.extend((0..u128::from(count)).map(|n| TaskId(first.0 + n)));
    }

    /// A client was told that this task is cancelled.
    pub fn cancelled(&mut self, task: TaskId) {
        self.cancelled.push(task);
    }

    /// A read begins.
    pub fn floor(&self) -> Floor {
        let (submitted, cancelled, finished) =
            (self.submitted.len(), self.cancelled.len(), self.finished.len());
        Floor { submitted, cancelled, finished, time: self.time }
    }

    /// A read that began at this floor ends with this state.
    pub fn read(&mut self, floor: Floor, state: &State) -> Result<(), String> {
        self.shows(floor, state)?;
        for (id, _) in state.finished_before(TaskId(u128::MAX)) {
            if self.finished_set.insert(id) {
                self.finished.push(id);
            }
        }
        self.time = self.time.max(state.time());
        Ok(())
    }

    /// A read of one task that began at this floor: finished or not, or unknown.
    pub fn look(&mut self, floor: Floor, task: TaskId, is_finished: Option<bool>) -> Result<(), String> {
        let Some(is_finished) = is_finished else {
            let acknowledged = self.submitted[..floor.submitted].contains(&task);
            let what = format!("task {task} was acknowledged before a read began that does not know it");
            return if acknowledged { Err(what) } else { Ok(()) };
        };
        if is_finished && self.finished_set.insert(task) {
            self.finished.push(task);
        }
        if !is_finished && self.finished[..floor.finished].contains(&task) {
            return Err(format!("a read showed the end of task {task}, a later look at it does not"));
        }
        Ok(())
    }

    fn shows(&self, floor: Floor, state: &State) -> Result<(), String> {
        let unknown = |id: &&TaskId| state.task(**id).is_none() && state.finished(**id).is_none();
        if let Some(id) = self.submitted[..floor.submitted].iter().find(unknown) {
            return Err(format!("task {id} was acknowledged before a read began that does not show it"));
        }
        if let Some(id) = self.finished[..floor.finished].iter().find(|id| state.finished(**id).is_none()) {
            return Err(format!("a read showed the end of task {id}, a later one does not"));
        }
        let goes_on = |id: &&TaskId| {
            let leased = state.task(**id).map(|task| task.leased());
            leased.is_some_and(|leased| leased.is_none_or(|leased| !leased.is_cancelled()))
        };
        if let Some(id) = self.cancelled[..floor.cancelled].iter().find(goes_on) {
            return Err(format!("task {id} was cancelled before a read began that shows it going on"));
        }
        if state.time() < floor.time {
            return Err(format!(
                "a read showed the cluster at {:?}, a later one at {:?}",
                floor.time,
                state.time()
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_at_one_task_shows_what_was_promised_before_it_began() {
        let mut answers = Answers::default();
        let before = answers.floor();
        answers.submitted(TaskId(1), 2);
        assert_eq!(answers.look(before, TaskId(2), None), Ok(()), "it began before the promise");
        assert!(answers.look(answers.floor(), TaskId(2), None).is_err());
        let earlier = answers.floor();
        assert_eq!(answers.look(earlier, TaskId(2), Some(true)), Ok(()));
        assert_eq!(answers.look(earlier, TaskId(2), Some(false)), Ok(()), "both were under way");
        assert!(answers.look(answers.floor(), TaskId(2), Some(false)).is_err());
        assert_eq!(answers.look(answers.floor(), TaskId(1), Some(false)), Ok(()));
    }
}
