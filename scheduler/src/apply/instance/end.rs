//! The one end of an instance: whoever says it first decides it, and nothing changes it afterwards.

use stint_protocol::{Payload, limits};

use super::{add_bytes, drop_payload, tables};
use crate::apply::blob;
use crate::command::{Change, InstanceChange};
use crate::instance::{Instance, InstanceNo, InstanceState};
use crate::mutations::{Mutation, planted};
use crate::state::{Instances, State};

/// How an instance ends.
pub(super) struct End {
    pub how: InstanceState,
    pub output: Option<Payload>,
    pub error: Option<String>,
    /// The attempt that says so.
    pub by: Option<u32>,
}

/// Ends an instance that has not ended. The caller puts it back.
pub(super) fn end(
    state: &mut State,
    no: InstanceNo,
    instance: &mut Instance,
    end: End,
    changes: &mut Vec<Change>,
) {
    if instance.state.is_ended() {
        if planted(Mutation::EndOverwritten) {
            instance.state = end.how;
            changes.push(Change::Instance(InstanceChange::Ended { no, status: end.how.status() }));
        }
        return;
    }
    drop_waiting(state, no, instance);
    if let Some(output) = &end.output {
        add_bytes(state, instance, output.inline_len());
        // Its event refers to the same bytes, so nodes have them.
        blob::add_reference(state, output.blob());
    }
    let now = state.time;
    instance.state = end.how;
    instance.finished = Some(now);
    instance.output = end.output;
    instance.error = end.error;
    instance.ended_by = end.by;
    instance.resume_wanted = false;
    instance.forget_requests();
    let runs = instance.task.and_then(|task| state.task(task)).is_some_and(|task| task.leased().is_some());
    let tables = tables(state);
    tables.live -= 1;
    tables.ended_bytes += instance.counts.bytes;
    if runs {
        tables.lingering.insert((now.plus(limits::LINGER_MS), no));
    }
    if instance.task.is_none() {
        tables.ended_outside.insert((now, no));
    }
    let hour = (now.0 / 3_600_000, instance.tenant.clone());
    tables.hours.entry(hour).or_default().count(instance);
    changes.push(Change::Instance(InstanceChange::Ended { no, status: instance.state.status() }));
}

/// What only an instance needs that goes on: its sleeps, and signals that nobody will ask for.
fn drop_waiting(state: &mut State, no: InstanceNo, instance: &mut Instance) {
    let keys = |keys: &mut dyn Iterator<Item = &(InstanceNo, stint_protocol::CheckpointId)>| {
        keys.cloned().collect::<Vec<_>>()
    };
    let sleeps = keys(&mut state.instances.sleeps.range(Instances::all_of(no)).map(|(key, _)| key));
    for key in &sleeps {
        tables(state).sleeps.remove(key);
    }
    let signals = keys(&mut state.instances.custom_signals.range(Instances::all_of(no)).map(|(key, _)| key));
    for key in signals {
        if let Some(signal) = tables(state).custom_signals.remove(&key) {
            drop_payload(state, instance, &signal.payload);
            instance.counts.custom_signals -= 1;
        }
    }
    if let Some(signal) = instance.signal.take() {
        drop_payload(state, instance, &signal.payload);
    }
}

/// Its program goes on no more, or is being stopped already.
pub(super) fn lingers_no_more(state: &mut State, no: InstanceNo, instance: &Instance) {
    let at = instance.finished.map(|at| at.plus(limits::LINGER_MS));
    if let Some(at) = at.filter(|at| state.instances.lingering.contains(&(*at, no))) {
        tables(state).lingering.remove(&(at, no));
    }
}
