//! Invariants of instances: what each has is accounted for, every index is re-derived, and an instance that has ended has no
//! task that could start again.

use std::collections::BTreeMap;
use std::sync::Arc;

use stint_protocol::{Blob, TaskId, limits};

use super::{agree, agree_all};
use crate::instance::{Counts, Instance, InstanceNo, decode_event};
use crate::state::{Instances, State};
use crate::task::StopReason;

type Records = BTreeMap<InstanceNo, Arc<Instance>>;

pub(super) fn check(state: &State) -> Result<(), String> {
    let tables = &state.instances;
    let records: Records = tables.records.iter().map(|(no, kept)| (*no, kept.get())).collect();
    check_indexes(tables, &records)?;
    check_counts(tables, &records)?;
    for (no, instance) in &records {
        check_one(state, *no, instance)?;
    }
    check_lingering(state, &records)
}

fn check_indexes(tables: &Instances, records: &Records) -> Result<(), String> {
    let ids = records.iter().map(|(no, it)| (it.id.clone(), *no)).collect();
    agree_all("ids of instances", tables.ids.iter().map(|(id, no)| (id.clone(), *no)), ids)?;
    let tasks: Vec<(TaskId, InstanceNo)> =
        records.iter().filter_map(|(no, it)| Some((it.task?, *no))).collect();
    agree_all("instances of tasks", tables.of_task.iter().map(|(id, no)| (*id, *no)), tasks)?;
    let tenants = records.iter().map(|(no, it)| (it.tenant.clone(), *no)).collect();
    agree_all("instances of tenants", tables.of_tenant.iter().cloned(), tenants)?;
    let outside = records.iter().filter(|(_, it)| it.task.is_none());
    let ended = outside.filter_map(|(no, it)| Some((it.finished?, *no))).collect();
    agree_all("ended instances outside", tables.ended_outside.iter().copied(), ended)?;
    let order = tables.checkpoints.iter().map(|((no, id), it)| ((*no, it.sequence), id.clone())).collect();
    let kept = tables.checkpoint_order.iter().map(|(place, id)| (*place, id.clone()));
    agree_all("order of checkpoints", kept, order)
}

/// What each instance has, counted anew.
fn check_counts(tables: &Instances, records: &Records) -> Result<(), String> {
    let mut counts: BTreeMap<InstanceNo, Counts> = BTreeMap::new();
    for (no, it) in records {
        let of_env = it.given.env.iter().map(|(name, value)| (name.len() + value.len()) as u64);
        let payloads = it.given.input.iter().chain(&it.output).chain(it.signal.iter().map(|s| &s.payload));
        let own = payloads.map(|payload| payload.inline_len());
        let counted = counts.entry(*no).or_default();
        counted.bytes = of_env.chain(own).sum();
        counted.events = it.counts.events;
    }
    for ((no, _), checkpoint) in &tables.checkpoints {
        let counted = counts.entry(*no).or_default();
        counted.checkpoints += 1;
        counted.bytes += checkpoint.state.inline_len() + crate::apply::weight_of_try(checkpoint);
    }
    for ((no, _), signal) in &tables.custom_signals {
        let counted = counts.entry(*no).or_default();
        counted.custom_signals += 1;
        counted.bytes += signal.payload.inline_len();
    }
    for ((no, number), event) in &tables.events {
        let counted = counts.entry(*no).or_default();
        counted.events_kept += 1;
        counted.bytes += event.len() as u64;
        if *number >= counted.events {
            return Err(format!("event {number} of instance {no:?} is of a later time"));
        }
    }
    let kept: Vec<(InstanceNo, Counts)> = records.iter().map(|(no, it)| (*no, it.counts)).collect();
    agree_all("what instances have", kept.iter().map(|(no, c)| (*no, as_tuple(c))), {
        counts.iter().map(|(no, counted)| (*no, as_tuple(counted))).collect()
    })?;
    let ended = |it: &&Arc<Instance>| it.state.is_ended();
    let bytes: u64 = records.values().map(|it| it.counts.bytes).sum();
    let ended_bytes: u64 = records.values().filter(ended).map(|it| it.counts.bytes).sum();
    let live = records.values().filter(|it| !it.state.is_ended()).count() as u64;
    agree("instances in all", &(tables.live, tables.bytes, tables.ended_bytes), &(live, bytes, ended_bytes))
}

fn as_tuple(counts: &Counts) -> (u32, u32, u64, u32, u64) {
    let Counts { checkpoints, events_kept, events, custom_signals, bytes } = *counts;
    (checkpoints, events_kept, events, custom_signals, bytes)
}

fn check_one(state: &State, no: InstanceNo, it: &Instance) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("instance {} ({no:?}): {what}: {it:?}", it.id));
    if it.state.is_ended() != it.finished.is_some() {
        return wrong("an end has a time, and nothing else does");
    }
    if it.counts.checkpoints > limits::CHECKPOINTS || it.counts.events_kept > limits::EVENTS_KEPT {
        return wrong("it has more than it may");
    }
    if it.recent.len() > limits::INSTANCE_REQUESTS || it.counts.custom_signals > limits::CUSTOM_SIGNALS {
        return wrong("more is remembered of it than may be");
    }
    let waits = state.instances.sleeps.range(Instances::all_of(no)).next().is_some();
    if it.state.is_ended() && (waits || it.counts.custom_signals > 0 || it.signal.is_some()) {
        return wrong("it has ended, and something waits for it");
    }
    let Some(id) = it.task else { return Ok(()) };
    match state.task(id) {
        Some(task) if task.fields.tenant != it.tenant => wrong("its task is another tenant's"),
        // Only its last launch may still go on.
        Some(task) if it.state.is_ended() && task.leased().is_none() => wrong("it has ended, its task waits"),
        None if !it.state.is_ended() => wrong("its task has ended, it has not"),
        None if !state.knows(id) => wrong("its task is forgotten, it is not"),
        _ => Ok(()),
    }
}

/// Programs that go on after their instances have ended, and have not been told to stop.
fn check_lingering(state: &State, records: &Records) -> Result<(), String> {
    let lingers = |(no, it): (&InstanceNo, &Arc<Instance>)| {
        let stop = state.task(it.task?)?.leased()?.stop;
        let at = it.finished?.plus(limits::LINGER_MS);
        (stop < Some(StopReason::Finished)).then_some((at, *no))
    };
    let derived = records.iter().filter_map(lingers).collect();
    agree_all("programs that linger", state.instances.lingering.iter().copied(), derived)
}

/// Stored bytes that instances refer to, once for each time.
pub(super) fn blobs(state: &State) -> Vec<Blob> {
    let tables = &state.instances;
    let mut blobs: Vec<Blob> = tables.records.values().flat_map(|kept| kept.get().blobs()).collect();
    blobs.extend(tables.checkpoints.values().filter_map(|checkpoint| checkpoint.state.blob()));
    blobs.extend(tables.custom_signals.values().filter_map(|signal| signal.payload.blob()));
    blobs.extend(tables.events.values().filter_map(|event| decode_event(event).payload.blob()));
    blobs
}
