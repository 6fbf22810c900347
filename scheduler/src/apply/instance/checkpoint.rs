//! Steps that are done, and tries of steps that failed.

use std::sync::Arc;

use stint_protocol::limits::clip;
use stint_protocol::{CheckpointId, Payload, limits};

use super::{
    Asked, add_bytes, add_payload, check_room, check_running, count_write, drop_bytes, drop_payload, find,
    signal, tables, writer,
};
use crate::command::{Change, InstanceChange, InstanceRejection, Rejection, Saved};
use crate::instance::{Checkpoint, FailedTry, Instance, InstanceNo};
use crate::mutations::{Mutation, planted};
use crate::state::State;

/// Keeps the state of a step, unless it is kept already: the first one that saves it wins. Who saves it by the request that
/// won is not told that it was there: it was its own.
pub(super) fn save(
    state: &mut State,
    asked: Asked,
    id: CheckpointId,
    saved: Payload,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let (no, mut instance) = find(state, &asked.id)?;
    let attempt = writer(state, &instance, asked.by)?;
    count_write(state, &mut instance, attempt);
    check_running(&instance)?;
    let by = (attempt, asked.request);
    let again = planted(Mutation::RetryAnswersFound);
    let found = done(state, no, &id).filter(|known| known.by != by || again).map(|known| known.state.clone());
    save_new(state, no, &mut instance, (id.clone(), saved), attempt, &asked)?;
    let signal = instance.pending_signal().cloned();
    let custom = signal::take(state, no, &id, by);
    tables(state).put(no, instance);
    changes.push(Change::Instance(InstanceChange::Saved(Box::new(Saved { found, signal, custom }))));
    Ok(())
}

/// Keeps the state of a step that is not done.
pub(super) fn save_new(
    state: &mut State,
    no: InstanceNo,
    instance: &mut Instance,
    (id, saved): (CheckpointId, Payload),
    attempt: u32,
    asked: &Asked,
) -> Result<(), InstanceRejection> {
    if done(state, no, &id).is_some() {
        return Ok(());
    }
    check_new(state, instance, no, &id)?;
    check_room(state, saved.inline_len())?;
    add_done(state, no, instance, (id, saved), (attempt, asked.request), asked);
    Ok(())
}

/// The step of this id, if it is done: a failed try is none.
fn done<'a>(state: &'a State, no: InstanceNo, id: &CheckpointId) -> Option<&'a Checkpoint> {
    state.checkpoint(no, id).filter(|known| known.failed_try.is_none())
}

/// Whether there is room for this id.
fn check_new(
    state: &State,
    instance: &Instance,
    no: InstanceNo,
    id: &CheckpointId,
) -> Result<(), InstanceRejection> {
    let is_new = state.checkpoint(no, id).is_none();
    if is_new && instance.counts.checkpoints >= limits::CHECKPOINTS {
        return Err(InstanceRejection::TooManyCheckpoints(instance.id.clone()));
    }
    Ok(())
}

/// A step is done that was not: whatever took nodes from the instance before is behind it.
fn add_done(
    state: &mut State,
    no: InstanceNo,
    instance: &mut Instance,
    (id, saved): (CheckpointId, Payload),
    by: (u32, u64),
    asked: &Asked,
) {
    add_payload(state, instance, &saved, &asked.holders);
    let (at, sequence) = (state.time, state.next_sequence);
    put(state, no, instance, id.clone(), Checkpoint { state: saved, at, by, sequence, failed_try: None });
    instance.checkpoint = Some(id);
    let task = instance.task.and_then(|task| state.tasks.get_mut(&task));
    if let Some(task) = task.filter(|task| task.fields.losses > 0) {
        Arc::make_mut(task).fields.losses = 0;
    }
}

/// Puts a checkpoint in the place of the one of this id, if there is one. Its own bytes are accounted for.
fn put(state: &mut State, no: InstanceNo, instance: &mut Instance, id: CheckpointId, new: Checkpoint) {
    state.next_sequence += 1;
    let known = state.checkpoint(no, &id).cloned();
    match known {
        Some(known) => {
            drop_bytes(state, instance, weight_of_try(&known));
            drop_payload(state, instance, &known.state);
            tables(state).checkpoint_order.remove(&(no, known.sequence));
        }
        None => instance.counts.checkpoints += 1,
    }
    let tables = tables(state);
    tables.checkpoint_order.insert((no, new.sequence), id.clone());
    tables.checkpoints.insert((no, id), new);
}

/// Bytes of what is said of a failed try.
pub(crate) fn weight_of_try(checkpoint: &Checkpoint) -> u64 {
    let error = checkpoint.failed_try.as_ref().and_then(|failed| failed.error.as_ref());
    error.map_or(0, |error| error.len() as u64)
}

/// Keeps what is said of a try; the last word on it counts. A step of the program that has this id by chance stays.
pub(super) fn report_try(
    state: &mut State,
    asked: Asked,
    of: &CheckpointId,
    failed: FailedTry,
) -> Result<(), Rejection> {
    let (no, mut instance) = find(state, &asked.id)?;
    let attempt = writer(state, &instance, asked.by)?;
    count_write(state, &mut instance, attempt);
    check_running(&instance)?;
    let Ok(id) = of.of_try(failed.number) else { return Ok(()) };
    check_new(state, &instance, no, &id)?;
    let failed = FailedTry { error: failed.error.map(clip), ..failed };
    check_room(state, failed.error.as_ref().map_or(0, |error| error.len() as u64))?;
    if done(state, no, &id).is_none() {
        let (at, by, sequence) = (state.time, (attempt, asked.request), state.next_sequence);
        let failed_try = Some(Box::new(failed));
        let new = Checkpoint { state: Payload::empty(), at, by, sequence, failed_try };
        add_bytes(state, &mut instance, weight_of_try(&new));
        put(state, no, &mut instance, id, new);
    }
    tables(state).put(no, instance);
    Ok(())
}
