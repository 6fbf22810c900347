//! What operators want of instances, and what anybody sends to one of their steps.

use stint_protocol::{CheckpointId, Payload, SignalKind, limits};

use super::end::{End, end};
use super::{Asked, add_payload, check_room, count_write, drop_payload, find, resume, tables, writer};
use crate::apply::{cancel, suspend};
use crate::command::{Change, InstanceChange, InstanceRejection, Rejection};
use crate::instance::{CustomSignal, Instance, InstanceNo, InstanceState, Signal, Why};
use crate::state::State;
use crate::task::{SuspendReason, TaskState};

/// Keeps a signal until its program has seen it. One that nobody would see is carried out at once.
pub(super) fn send(
    state: &mut State,
    asked: Asked,
    kind: SignalKind,
    payload: Payload,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let (no, mut instance) = find(state, &asked.id)?;
    if instance.has_seen(asked.request) {
        return Ok(());
    }
    if instance.state.is_ended() {
        let status = instance.state.status();
        return Err(InstanceRejection::Ended { id: asked.id, status }.into());
    }
    check_room(state, payload.inline_len())?;
    instance.remember(asked.request);
    let alone = is_alone(state, &instance);
    drop_signal(state, &mut instance);
    // What resumes one that runs takes back that it was to pause.
    if !alone && kind != SignalKind::Resume {
        add_payload(state, &mut instance, &payload, &asked.holders);
        let at = state.time;
        instance.signal = Some(Box::new(Signal { kind, payload, at, acknowledged: false }));
    }
    tables(state).put(no, instance);
    changes.push(Change::Instance(InstanceChange::Changed { no }));
    if alone { act_alone(state, no, kind, changes) } else { Ok(()) }
}

/// Whether no program of the instance is there, or is about to be.
fn is_alone(state: &State, instance: &Instance) -> bool {
    let InstanceState::Suspended { by, .. } = instance.state else { return false };
    let Some(task) = instance.task.and_then(|task| state.task(task)) else { return true };
    match task.fields.state {
        TaskState::Suspended { .. } => true,
        TaskState::Leased(_) => task.fields.attempts == by,
        TaskState::Queued { .. } => false,
    }
}

/// Carries out a signal for an instance whose program is not there to see it.
pub(super) fn act_alone(
    state: &mut State,
    no: InstanceNo,
    kind: SignalKind,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let Some(mut instance) = state.instance(no).map(std::sync::Arc::unwrap_or_clone) else { return Ok(()) };
    let task = instance.task;
    drop_signal(state, &mut instance);
    match kind {
        SignalKind::Cancel => {
            let cancelled = End { how: InstanceState::Cancelled, output: None, error: None, by: None };
            end(state, no, &mut instance, cancelled, changes);
        }
        SignalKind::Pause => {
            if let InstanceState::Suspended { by, .. } = instance.state {
                instance.state = InstanceState::Suspended { why: Why::Paused, by };
            }
        }
        SignalKind::Resume => {}
    }
    tables(state).put(no, instance);
    let Some(task) = task else { return Ok(()) };
    let waits = state.task(task).is_some_and(|task| task.leased().is_none());
    match kind {
        SignalKind::Cancel => cancel::cancel(state, task, changes),
        // Its time wakes it no more; what is left of its sleep it sleeps when it is resumed.
        SignalKind::Pause if waits => suspend::suspend(state, task, SuspendReason::Paused, None, changes),
        SignalKind::Pause => Ok(()),
        SignalKind::Resume => resume::go_on(state, no, changes),
    }
}

pub(super) fn drop_signal(state: &mut State, instance: &mut Instance) {
    if let Some(signal) = instance.signal.take() {
        drop_payload(state, instance, &signal.payload);
    }
}

/// Its program has seen a signal. One that was replaced meanwhile stays.
pub(super) fn acknowledge(
    state: &mut State,
    asked: Asked,
    kind: SignalKind,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let (no, mut instance) = find(state, &asked.id)?;
    let attempt = writer(state, &instance, asked.by)?;
    count_write(state, &mut instance, attempt);
    let pending = instance.pending_signal().map(|signal| signal.kind);
    if pending == Some(kind) {
        match kind {
            SignalKind::Cancel => {
                let by = Some(attempt).filter(|attempt| *attempt > 0);
                let cancelled = End { how: InstanceState::Cancelled, output: None, error: None, by };
                end(state, no, &mut instance, cancelled, changes);
            }
            // It says next that it is suspended.
            SignalKind::Pause => {
                instance.signal.iter_mut().for_each(|signal| signal.acknowledged = true);
            }
            SignalKind::Resume => drop_signal(state, &mut instance),
        }
        changes.push(Change::Instance(InstanceChange::Changed { no }));
    }
    tables(state).put(no, instance);
    Ok(())
}

/// Keeps a signal for one step; a newer one replaces it. Nobody asks for one of an instance that has ended.
pub(super) fn send_custom(
    state: &mut State,
    asked: Asked,
    id: CheckpointId,
    payload: Payload,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let (no, mut instance) = find(state, &asked.id)?;
    if instance.state.is_ended() || instance.has_seen(asked.request) {
        return Ok(());
    }
    let known = state.custom_signal(no, &id).cloned();
    if known.is_none() && instance.counts.custom_signals >= limits::CUSTOM_SIGNALS {
        return Err(InstanceRejection::TooManySignals(asked.id).into());
    }
    check_room(state, payload.inline_len())?;
    instance.remember(asked.request);
    match known {
        Some(known) => drop_payload(state, &mut instance, &known.payload),
        None => instance.counts.custom_signals += 1,
    }
    add_payload(state, &mut instance, &payload, &asked.holders);
    let at = state.time;
    let tables = tables(state);
    tables.custom_signals.insert((no, id), CustomSignal { payload, at, taken_by: None });
    tables.put(no, instance);
    changes.push(Change::Instance(InstanceChange::Changed { no }));
    Ok(())
}

/// A program asks for the signal for one of its steps.
pub(super) fn take_custom(
    state: &mut State,
    asked: Asked,
    id: &CheckpointId,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let (no, mut instance) = find(state, &asked.id)?;
    let attempt = writer(state, &instance, asked.by)?;
    count_write(state, &mut instance, attempt);
    let payload = take(state, no, id, (attempt, asked.request));
    tables(state).put(no, instance);
    changes.push(Change::Instance(InstanceChange::Custom { no, payload }));
    Ok(())
}

/// The signal for a step, once for each launch: a later one does again what the launch did that got it.
pub(super) fn take(state: &mut State, no: InstanceNo, id: &CheckpointId, by: (u32, u64)) -> Option<Payload> {
    let known = state.custom_signal(no, id)?;
    let is_new = known.taken_by.is_none_or(|taken| taken.0 < by.0 || taken == by);
    let payload = is_new.then(|| known.payload.clone())?;
    if let Some(signal) = tables(state).custom_signals.get_mut(&(no, id.clone())) {
        signal.taken_by = Some(by);
    }
    Some(payload)
}
