//! Cancelling: a waiting task ends at once, a running one when its attempt has stopped.

use std::sync::Arc;

use stint_protocol::{EndKind, LeaseId, Outcome, TaskId};

use crate::apply::{instance, lease};
use crate::command::{Change, Rejection};
use crate::state::State;
use crate::task::{StopReason, TaskState};

pub(super) fn cancel(state: &mut State, id: TaskId, changes: &mut Vec<Change>) -> Result<(), Rejection> {
    if state.history.contains(&id) {
        return Ok(());
    }
    instance::cancel_with_task(state, id, changes);
    let Some(task) = state.tasks.get_mut(&id) else {
        return Err(Rejection::UnknownTask(id));
    };
    let attempt = task.fields.attempts;
    let message = match &mut Arc::make_mut(task).fields.state {
        TaskState::Leased(leased) => {
            leased.ask_to_stop(StopReason::Cancelled);
            changes.push(Change::StopAsked { lease: LeaseId { task: id, attempt }, node: leased.node });
            return Ok(());
        }
        TaskState::Queued { .. } => "cancelled while it waited",
        TaskState::Suspended { .. } => "cancelled while it was suspended",
    };
    let outcome = Outcome {
        kind: EndKind::Cancelled,
        message: message.into(),
        finished_at: state.time,
        attempt: 0,
        run_ms: 0,
        crash_loop: false,
        outputs: None,
        not_kept: None,
        usage: None,
    };
    lease::finish(state, id, outcome, changes);
    Ok(())
}
