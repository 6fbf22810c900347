//! What the end of an attempt means for the instance whose launch it was, and what the end of its task does.

use std::sync::Arc;

use stint_protocol::{AttemptEnd, EndKind, LeaseId, LeftResult, NodeId, Outcome, Payload, TaskId, TimeMs};

use super::end::{End, end, lingers_no_more};
use super::{event, tables};
use crate::apply::blob;
use crate::command::Change;
use crate::instance::{Instance, InstanceNo, InstanceState, Sleep, Why};
use crate::state::State;
use crate::task::SuspendReason;

/// What follows the end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::apply) enum Next {
    /// What follows for every task.
    AsTask,
    /// Its task ends: the instance has ended, so, and is not tried again.
    Finish(InstanceState),
    /// The instance is suspended, and wakes then.
    Suspend(SuspendReason, Option<TimeMs>),
    /// The instance is suspended no more.
    Queue,
}

/// What follows the end of this attempt. How an attempt ends in which its instance fell asleep, or was paused, says nothing: it
/// may have been stopped for that, or lost.
pub(in crate::apply) fn after_attempt(
    state: &mut State,
    node: NodeId,
    ended: &mut AttemptEnd,
    changes: &mut Vec<Change>,
) -> Next {
    let left = ended.left.take();
    let Some(no) = state.instance_of_task(ended.lease.task) else { return Next::AsTask };
    let Some(mut instance) = state.instance(no) else { return Next::AsTask };
    let attempt = ended.lease.attempt;
    if let Some(left) = left.filter(|_| !instance.state.is_ended()) {
        let changed = Arc::make_mut(&mut instance);
        take_left(state, no, changed, (node, attempt), *left, changes);
        tables(state).put(no, changed.clone());
    }
    match instance.state {
        how if how.is_ended() => Next::Finish(how),
        InstanceState::Suspended { by, .. } if by == attempt => match goes_on_suspended(state, ended.lease) {
            Some(Some(at)) => Next::Suspend(SuspendReason::Sleep, Some(at)),
            Some(None) => Next::Suspend(SuspendReason::Paused, None),
            None => Next::Queue,
        },
        _ => Next::AsTask,
    }
}

/// How the instance of a task has ended, if it has.
pub(in crate::apply) fn end_of_task(state: &State, task: TaskId) -> Option<InstanceState> {
    let instance = state.instance_of_task(task).and_then(|no| state.instance(no))?;
    instance.state.is_ended().then_some(instance.state)
}

/// Whether a launch whose fate nobody knows leaves its instance suspended, and until when.
pub(in crate::apply) fn goes_on_suspended(state: &State, lease: LeaseId) -> Option<Option<TimeMs>> {
    let instance = state.instance_of_task(lease.task).and_then(|no| state.instance(no))?;
    match instance.state {
        InstanceState::Suspended { by, .. } if by == lease.attempt && instance.resume_wanted => None,
        InstanceState::Suspended { why, by } if by == lease.attempt => match why {
            Why::Asleep(at) if at <= state.time => None,
            Why::Asleep(at) => Some(Some(at)),
            Why::Paused | Why::Said => Some(None),
        },
        _ => None,
    }
}

/// Takes what a program left in its file, where it has not said the same by events.
fn take_left(
    state: &mut State,
    no: InstanceNo,
    instance: &mut Instance,
    (node, attempt): (NodeId, u32),
    left: LeftResult,
    changes: &mut Vec<Change>,
) {
    if matches!(instance.state, InstanceState::Suspended { by, .. } if by == attempt) {
        return;
    }
    let by = Some(attempt);
    let failed = |error| End { how: InstanceState::Failed, output: None, error: Some(error), by };
    match left {
        LeftResult::Completed(output) => {
            let stored = output.as_ref().and_then(Payload::blob);
            let kept = stored.map_or(Ok(()), |stored| blob::record_copies(state, stored, &[node]));
            let said = match kept {
                Ok(()) => End { how: InstanceState::Completed, output, error: None, by },
                Err(refused) => failed(format!("its result could not be kept: {refused}")),
            };
            end(state, no, instance, said, changes);
        }
        LeftResult::Failed(error) => end(state, no, instance, failed(error), changes),
        LeftResult::Cancelled => {
            let said = End { how: InstanceState::Cancelled, output: None, error: None, by };
            end(state, no, instance, said, changes);
        }
        LeftResult::Suspended => event::suspend(state, no, instance, attempt, changes),
        LeftResult::Sleeping { checkpoint, wake_after_ms } => {
            let key = (no, checkpoint);
            let mut sleep: Sleep = state.instances.sleeps.get(&key).copied().unwrap_or_default();
            let until = sleep.ask(attempt, state.time, wake_after_ms);
            tables(state).sleeps.insert(key, sleep);
            instance.state = InstanceState::Suspended { why: Why::Asleep(until), by: attempt };
            instance.resume_wanted = false;
        }
    }
}

/// The outcome of a task whose instance has ended: that of its last attempt, unless the attempt was ended because of it.
pub(in crate::apply) fn settle_outcome(outcome: &mut Outcome, how: InstanceState) {
    let by_itself = !matches!(
        outcome.kind,
        EndKind::Drained | EndKind::Cancelled | EndKind::Lost | EndKind::Cut | EndKind::StartFailed
    );
    match how {
        InstanceState::Cancelled if outcome.kind != EndKind::Exited(0) => outcome.kind = EndKind::Cancelled,
        InstanceState::Completed if !by_itself => {
            outcome.kind = EndKind::Exited(0);
            outcome.message = "its instance had completed; its program was stopped afterwards".into();
        }
        _ => {}
    }
}

/// Its task has its outcome: an instance that nobody has ended ends with it.
pub(in crate::apply) fn task_finished(
    state: &mut State,
    task: TaskId,
    outcome: &Outcome,
    changes: &mut Vec<Change>,
) {
    let Some(no) = state.instance_of_task(task) else { return };
    let Some(instance) = state.instance(no) else { return };
    lingers_no_more(state, no, &instance);
    if instance.state.is_ended() {
        return;
    }
    let mut instance = Arc::unwrap_or_clone(instance);
    let (how, error) = match &outcome.kind {
        EndKind::Exited(0) if !instance.registered => (InstanceState::Completed, None),
        EndKind::Exited(0) => (InstanceState::Failed, Some(NEVER_SAID.to_owned())),
        EndKind::Cancelled => (InstanceState::Cancelled, None),
        _ => (InstanceState::Failed, Some(what_happened(outcome))),
    };
    let by = Some(outcome.attempt).filter(|attempt| *attempt > 0);
    end(state, no, &mut instance, End { how, output: None, error, by }, changes);
    lingers_no_more(state, no, &instance);
    tables(state).put(no, instance);
}

const NEVER_SAID: &str = "the program ended with code 0 and never said how (completed, failed or suspended)";

/// The end of an attempt in words: its message, or what is said of its kind.
fn what_happened(outcome: &Outcome) -> String {
    let said = [outcome.message.clone(), outcome.kind.default_message()];
    said.into_iter().find(|text| !text.is_empty()).unwrap_or_else(|| outcome.kind.as_str().to_owned())
}
