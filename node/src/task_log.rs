//! What a leader tells about tasks: a line for each of their changes that an entry of its own made, with the fields of
//! the lines of the executors (`stint_executor::TASK_LINES`).

use stint_executor::TASK_LINES;
use stint_protocol::{LeaseId, NodeId, Outcome, TaskId};
use stint_scheduler::{Change, State, TaskState};
use tracing::Level;

use crate::applied_state::Results;

/// Whether anybody wants them: there may be thousands a second.
pub fn is_on() -> bool {
    tracing::enabled!(target: TASK_LINES, Level::DEBUG)
}

/// Tells what an entry changed; `state` is what it made, or a later one.
pub fn log_changes(state: &State, results: &Results) {
    for change in results.iter().flatten().flatten() {
        match change {
            Change::Submitted { first, count, repeated: false } => submitted(state, *first, *count),
            Change::Leased { lease, node } => placed(state, *lease, *node),
            Change::Queued { task } => queued_again(state, *task),
            Change::Finished { task, outcome, .. } => finished(state, *task, outcome),
            _ => {}
        }
    }
}

/// A line about a task that has not finished.
macro_rules! live {
    ($state:expr, $id:expr, $attempt:expr, $($rest:tt)+) => {{
        if let Some(task) = $state.task($id) {
            let (tenant, class) = (task.fields.tenant.as_str(), task.spec.class.as_str());
            tracing::debug!(target: TASK_LINES, task = %$id, attempt = $attempt, tenant, class, $($rest)+)
        }
    }};
}

fn submitted(state: &State, first: TaskId, count: u32) {
    live!(state, first, 0, count, "submitted");
}

fn placed(state: &State, lease: LeaseId, node: NodeId) {
    live!(state, lease.task, lease.attempt, node = node.0, "placed");
}

fn queued_again(state: &State, id: TaskId) {
    let Some(last) = state.task(id).and_then(|task| task.fields.records.last()) else { return };
    let wait_ms = state.task(id).map(|task| match task.fields.state {
        TaskState::Queued { since, not_before } => not_before.since(since),
        TaskState::Leased(_) | TaskState::Suspended { .. } => 0,
    });
    let (kind, reason) = (last.end.as_str(), last.message.as_str());
    live!(state, id, last.number, kind, wait_ms, reason, "queued again");
}

fn finished(state: &State, id: TaskId, outcome: &Outcome) {
    let Some(task) = state.finished(id) else { return };
    let (tenant, class) = (task.fields.tenant.as_str(), task.spec.class.as_str());
    let (status, kind, reason) = (outcome.as_str(), outcome.kind.as_str(), outcome.message.as_str());
    tracing::debug!(
        target: TASK_LINES,
        task = %id,
        attempt = outcome.attempt,
        tenant,
        class,
        status,
        kind,
        run_ms = outcome.run_ms,
        reason,
        "finished"
    );
}
