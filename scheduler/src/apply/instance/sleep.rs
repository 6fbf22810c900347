//! Sleeps, and instances that hold nothing while they sleep.

use std::sync::Arc;

use stint_protocol::{CheckpointId, LeaseId, Payload, Writer};

use super::checkpoint::save_new;
use super::{Asked, check_running, count_write, find, signal, tables, writer};
use crate::command::{Change, InstanceChange, InstanceRejection, Rejection};
use crate::instance::{InstanceState, Why};
use crate::mutations::{Mutation, planted};
use crate::state::State;
use crate::task::StopReason;

/// Keeps the step and says until when its program sleeps, by the time of the log: a later launch waits only for the rest.
pub(super) fn sleep(
    state: &mut State,
    asked: Asked,
    id: CheckpointId,
    saved: Payload,
    duration_ms: u64,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let (no, mut instance) = find(state, &asked.id)?;
    let attempt = writer(state, &instance, asked.by)?;
    let mut sleep = state.sleep(no, &id).copied().unwrap_or_default();
    if instance.has_seen(asked.request) {
        let until = sleep.until.unwrap_or(state.time);
        changes.push(Change::Instance(InstanceChange::Slept { no, until }));
        return Ok(());
    }
    count_write(state, &mut instance, attempt);
    check_running(&instance)?;
    save_new(state, no, &mut instance, (id.clone(), saved), attempt, &asked)?;
    instance.remember(asked.request);
    let until = sleep.ask(attempt, state.time, duration_ms);
    let tables = tables(state);
    tables.sleeps.insert((no, id), sleep);
    tables.put(no, instance);
    changes.push(Change::Instance(InstanceChange::Slept { no, until }));
    Ok(())
}

/// The node of an instance found its program idle while it sleeps: it is stopped, and started again when the sleep is over.
/// Dropped when the program has written anything since its node looked, or does not sleep.
pub(super) fn hibernate(
    state: &mut State,
    asked: Asked,
    calls: u32,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let (no, mut instance) = find(state, &asked.id)?;
    let Writer::Launch(lease) = asked.by else {
        return Err(InstanceRejection::LaunchedHere(asked.id).into());
    };
    let attempt = writer(state, &instance, asked.by)?;
    let is_idle =
        instance.launch == attempt && (instance.calls == calls || planted(Mutation::HibernateWhileBusy));
    let wake_at = state.nearest_wake(no, attempt);
    let Some(wake_at) = wake_at.filter(|_| is_idle && instance.state == InstanceState::Running) else {
        return Ok(());
    };
    instance.state = InstanceState::Suspended { why: Why::Asleep(wake_at), by: attempt };
    instance.resume_wanted = false;
    instance.forget_requests();
    stop_program(state, lease, StopReason::Asleep, changes);
    changes.push(Change::Instance(InstanceChange::Changed { no }));
    // Nobody is there any more to see what its operator wants.
    let pending = instance.pending_signal().map(|signal| signal.kind);
    tables(state).put(no, instance);
    match pending {
        Some(kind) => signal::act_alone(state, no, kind, changes),
        None => Ok(()),
    }
}

/// The node of an attempt is to stop it.
pub(super) fn stop_program(state: &mut State, lease: LeaseId, why: StopReason, changes: &mut Vec<Change>) {
    let Some(task) = state.tasks.get_mut(&lease.task).map(Arc::make_mut) else { return };
    if let crate::task::TaskState::Leased(leased) = &mut task.fields.state {
        leased.ask_to_stop(why);
        changes.push(Change::StopAsked { lease, node: leased.node });
    }
}
