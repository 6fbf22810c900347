//! Instances that are stopped, resumed, or given up because nothing is heard of them.

use super::end::{End, end, lingers_no_more};
use super::signal::drop_signal;
use super::{Asked, find, tables};
use crate::apply::{cancel, suspend};
use crate::command::{Change, InstanceRejection, Rejection};
use crate::instance::{InstanceNo, InstanceState};
use crate::mutations::{Mutation, planted};
use crate::state::State;
use crate::task::{StopReason, TaskState};

use stint_protocol::{LeaseId, SignalKind, TaskId};

/// Cancels an instance now, and stops its program.
pub(super) fn stop(
    state: &mut State,
    asked: Asked,
    grace_ms: Option<u32>,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let (no, mut instance) = find(state, &asked.id)?;
    if instance.has_seen(asked.request) {
        return Ok(());
    }
    let status = instance.state.status();
    let Some(task) = instance.task.filter(|_| !status.is_ended()) else {
        return Err(InstanceRejection::NoProcess { id: asked.id, status }.into());
    };
    instance.remember(asked.request);
    instance.stop_grace_ms = grace_ms;
    tables(state).put(no, instance);
    cancel::cancel(state, task, changes)
}

/// A user cancels the task of an instance, or stops the instance: that is its end.
pub(in crate::apply) fn cancel_with_task(state: &mut State, task: TaskId, changes: &mut Vec<Change>) {
    let Some(no) = state.instance_of_task(task) else { return };
    let Some(mut instance) = state.instance(no).map(std::sync::Arc::unwrap_or_clone) else { return };
    let cancelled = End { how: InstanceState::Cancelled, output: None, error: None, by: None };
    end(state, no, &mut instance, cancelled, changes);
    // It is told to stop now.
    lingers_no_more(state, no, &instance);
    tables(state).put(no, instance);
}

/// Lets a suspended instance go on. One whose program has not ended yet goes on after that.
pub(super) fn resume(state: &mut State, asked: Asked, changes: &mut Vec<Change>) -> Result<(), Rejection> {
    let (no, mut instance) = find(state, &asked.id)?;
    if instance.has_seen(asked.request) {
        return Ok(());
    }
    let status = instance.state.status();
    if !matches!(instance.state, InstanceState::Suspended { .. }) {
        return Err(InstanceRejection::NotSuspended { id: asked.id, status }.into());
    }
    if instance.task.is_none() {
        return Err(InstanceRejection::NoImage(asked.id).into());
    }
    instance.remember(asked.request);
    // Whoever paused it wants it to go on now.
    let paused = instance.signal.as_ref().is_some_and(|signal| signal.kind == SignalKind::Pause);
    if paused && !planted(Mutation::PauseSurvivesResume) {
        drop_signal(state, &mut instance);
    }
    tables(state).put(no, instance);
    go_on(state, no, changes)
}

/// Wakes the task of an instance, now or when the attempt has ended in which it was suspended.
pub(super) fn go_on(state: &mut State, no: InstanceNo, changes: &mut Vec<Change>) -> Result<(), Rejection> {
    let Some(mut instance) = state.instance(no).map(std::sync::Arc::unwrap_or_clone) else { return Ok(()) };
    let Some(task) = instance.task else { return Ok(()) };
    let InstanceState::Suspended { by, .. } = instance.state else { return Ok(()) };
    let leased = state.task(task).filter(|task| matches!(task.fields.state, TaskState::Leased(_)));
    if leased.is_some_and(|task| task.fields.attempts == by) {
        instance.resume_wanted = true;
        tables(state).put(no, instance);
        return Ok(());
    }
    suspend::wake(state, task, changes)
}

/// Gives up an instance outside the cluster of which nothing was heard for long, unless it has written since.
pub(super) fn fail_silent(
    state: &mut State,
    asked: Asked,
    calls: u32,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let (no, mut instance) = find(state, &asked.id)?;
    if instance.task.is_some() || instance.calls != calls || instance.state != InstanceState::Running {
        return Ok(());
    }
    let error = Some("nothing was heard of its program for too long".to_owned());
    end(state, no, &mut instance, End { how: InstanceState::Failed, output: None, error, by: None }, changes);
    tables(state).put(no, instance);
    Ok(())
}

/// Stops programs that go on although their instances ended a while ago.
pub(in crate::apply) fn stop_lingering(state: &mut State, changes: &mut Vec<Change>) {
    while let Some((at, no)) = state.instances.lingering.get_min().copied() {
        if at > state.time {
            return;
        }
        tables(state).lingering.remove(&(at, no));
        let task = state.instance(no).and_then(|instance| instance.task);
        if let Some((task, attempt)) = task.and_then(|id| Some((id, state.task(id)?.fields.attempts))) {
            super::sleep::stop_program(state, LeaseId { task, attempt }, StopReason::Finished, changes);
        }
    }
}
