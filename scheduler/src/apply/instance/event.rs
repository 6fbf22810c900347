//! Events of instances, and what of them says how one ended.

use stint_protocol::limits::clip;
use stint_protocol::{EventKind, InstanceEvent, NodeId, Payload, SignalKind, limits};

use super::end::{End, end};
use super::signal::drop_signal;
use super::{Asked, add_bytes, check_room, count_write, drop_bytes, find, tables, writer};
use crate::apply::blob;
use crate::command::{Change, InstanceChange, Rejection};
use crate::instance::{Instance, InstanceNo, InstanceState, Why, decode_event, encode_event};
use crate::mutations::{Mutation, planted};
use crate::state::State;

/// Keeps events in their order. The first that says how the instance ended decides it; what comes later is kept as an event.
pub(super) fn record(
    state: &mut State,
    asked: Asked,
    events: Vec<InstanceEvent>,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    let (no, mut instance) = find(state, &asked.id)?;
    let attempt = writer(state, &instance, asked.by)?;
    if instance.has_seen(asked.request) {
        return Ok(());
    }
    // An end is taken whatever there is room for.
    if !events.iter().any(|event| event.kind.ends()) {
        check_room(state, events.iter().map(|event| event.weight() as u64).sum())?;
    }
    instance.remember(asked.request);
    count_write(state, &mut instance, attempt);
    for event in &events {
        keep(state, no, &mut instance, event, &asked.holders);
        take_in(state, no, &mut instance, event, attempt, changes);
    }
    tables(state).put(no, instance);
    changes.push(Change::Instance(InstanceChange::Changed { no }));
    Ok(())
}

/// What an event means for its instance.
fn take_in(
    state: &mut State,
    no: InstanceNo,
    instance: &mut Instance,
    event: &InstanceEvent,
    attempt: u32,
    changes: &mut Vec<Change>,
) {
    let by = Some(attempt).filter(|attempt| *attempt > 0);
    match event.kind {
        EventKind::Completed => {
            let output = Some(event.payload.clone()).filter(|output| !output.is_empty());
            end(state, no, instance, End { how: InstanceState::Completed, output, error: None, by }, changes);
        }
        EventKind::Failed => {
            let error = Some(error_text(&event.payload));
            end(state, no, instance, End { how: InstanceState::Failed, output: None, error, by }, changes);
        }
        EventKind::Suspended => suspend(state, no, instance, attempt, changes),
        EventKind::Heartbeat => instance.heartbeat = Some(state.time),
        EventKind::Started | EventKind::Custom => {}
    }
}

/// A program says that it goes on no further for now, because it was asked to or of itself. One that was to be cancelled is.
pub(super) fn suspend(
    state: &mut State,
    no: InstanceNo,
    instance: &mut Instance,
    attempt: u32,
    changes: &mut Vec<Change>,
) {
    if instance.state.is_ended() {
        return;
    }
    let asked = instance.signal.as_ref().map(|signal| signal.kind);
    if !planted(Mutation::PauseSurvivesResume) {
        drop_signal(state, instance);
    }
    if asked == Some(SignalKind::Cancel) {
        let by = Some(attempt).filter(|attempt| *attempt > 0);
        let cancelled = End { how: InstanceState::Cancelled, output: None, error: None, by };
        return end(state, no, instance, cancelled, changes);
    }
    let why = if asked == Some(SignalKind::Pause) { Why::Paused } else { Why::Said };
    instance.state = InstanceState::Suspended { why, by: attempt };
    instance.resume_wanted = false;
}

/// What a program says of its failure.
fn error_text(payload: &Payload) -> String {
    match payload {
        Payload::Inline(bytes) => clip(String::from_utf8_lossy(bytes).into_owned()),
        Payload::Blob(blob) => format!("what the program says of it is long, and is kept as {blob}"),
    }
}

/// Keeps an event; the oldest one goes when there are too many.
pub(super) fn keep(
    state: &mut State,
    no: InstanceNo,
    instance: &mut Instance,
    event: &InstanceEvent,
    holders: &[NodeId],
) {
    let bytes = encode_event(event);
    add_bytes(state, instance, bytes.len() as u64);
    if let Some(stored) = event.payload.blob() {
        let known = blob::record_copies(state, stored, holders);
        assert!(known.is_ok(), "the copies of {stored} were looked at: {known:?}");
        blob::add_reference(state, Some(stored));
    }
    tables(state).events.insert((no, instance.counts.events), bytes);
    instance.counts.events += 1;
    instance.counts.events_kept += 1;
    if instance.counts.events_kept > limits::EVENTS_KEPT {
        drop_oldest(state, no, instance);
    }
}

/// Forgets the oldest event, if there is one.
pub(super) fn drop_oldest(state: &mut State, no: InstanceNo, instance: &mut Instance) -> bool {
    let oldest = state.instances.events.range((no, 0)..=(no, u64::MAX)).next().map(|(key, _)| *key);
    let Some(bytes) = oldest.and_then(|key| tables(state).events.remove(&key)) else { return false };
    drop_bytes(state, instance, bytes.len() as u64);
    blob::drop_reference(state, decode_event(&bytes).payload.blob());
    instance.counts.events_kept -= 1;
    true
}
