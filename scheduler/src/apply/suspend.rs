//! Suspended tasks: taken out of the queue, and woken by their time or by a command.

use std::sync::Arc;

use stint_protocol::{TaskId, TimeMs, limits};

use crate::command::{Change, Rejection};
use crate::mutations::{Mutation, planted};
use crate::state::State;
use crate::task::{SuspendReason, Task, TaskState};

/// Takes a waiting task out of the queue; one that is suspended already gets the new reason and time.
pub(super) fn suspend(
    state: &mut State,
    id: TaskId,
    reason: SuspendReason,
    wake_at: Option<TimeMs>,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let Some(task) = state.tasks.get(&id) else { return Err(Rejection::UnknownTask(id)) };
    if task.leased().is_some() {
        return Err(Rejection::TaskRuns(id));
    }
    leave_place(state, id);
    let since = state.time;
    set(state, id, TaskState::Suspended { reason, since, wake_at });
    state.suspended.insert((wake_place(wake_at), id));
    changes.push(Change::Suspended { task: id });
    Ok(())
}

/// Wakes a task that is suspended; any other goes on as it does.
pub(super) fn wake(state: &mut State, id: TaskId, changes: &mut Vec<Change>) -> Result<(), Rejection> {
    let Some(task) = state.tasks.get(&id) else { return Err(Rejection::UnknownTask(id)) };
    if matches!(task.fields.state, TaskState::Suspended { .. }) {
        queue_again(state, id, changes);
    }
    Ok(())
}

/// Wakes those whose time has come; with the next command more of them, where there are many.
pub(super) fn wake_due(state: &mut State, changes: &mut Vec<Change>) {
    for _ in 0..limits::WAKES_PER_COMMAND {
        let Some((_, id)) = state.suspended.get_min().copied().filter(|(at, _)| *at <= state.time) else {
            return;
        };
        queue_again(state, id, changes);
    }
}

/// A task whose attempt has ended is suspended instead of being tried again.
pub(super) fn after_attempt(
    state: &mut State,
    (id, mut task): (TaskId, Task),
    reason: SuspendReason,
    wake_at: Option<TimeMs>,
    changes: &mut Vec<Change>,
) {
    task.fields.state = TaskState::Suspended { reason, since: state.time, wake_at };
    state.tasks.insert(id, Arc::new(task));
    state.suspended.insert((wake_place(wake_at), id));
    changes.push(Change::Suspended { task: id });
}

fn queue_again(state: &mut State, id: TaskId, changes: &mut Vec<Change>) {
    if !planted(Mutation::WakeStaysIndexed) {
        leave_place(state, id);
    }
    let now = state.time;
    set(state, id, TaskState::Queued { since: now, not_before: now });
    if let Some(task) = state.tasks.get(&id) {
        state.queue.insert(id, task);
        changes.push(Change::Queued { task: id });
    }
}

fn set(state: &mut State, id: TaskId, next: TaskState) {
    if let Some(task) = state.tasks.get_mut(&id) {
        Arc::make_mut(task).fields.state = next;
    }
}

/// Takes a task that holds no lease out of the index in which its state has it.
pub(super) fn leave_place(state: &mut State, id: TaskId) {
    let Some(task) = state.tasks.get(&id) else { return };
    match task.fields.state {
        TaskState::Queued { not_before, .. } => {
            state.queue.remove(id, task);
            state.delayed.remove(&(not_before, id));
        }
        TaskState::Suspended { wake_at, .. } => {
            state.suspended.remove(&(wake_place(wake_at), id));
        }
        TaskState::Leased(_) => {}
    }
}

/// Where a wake time stands in the order of wake times: what no time wakes comes last.
pub(crate) fn wake_place(wake_at: Option<TimeMs>) -> TimeMs {
    wake_at.unwrap_or(TimeMs(u64::MAX))
}
