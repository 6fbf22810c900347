//! The instances of a snapshot, written only where there are any.

use std::io::Read;
use std::sync::Arc;

use minicbor::Encoder;
use minicbor::bytes::ByteVec;
use minicbor::encode::{Error, Write};
use stint_protocol::{CheckpointId, InstanceEvent, Tenant, limits};

use super::SnapshotError;
use super::items::Items;
use super::read::once;
use crate::instance::{Checkpoint, CustomSignal, HourCounts, Instance, InstanceNo, Sleep};
use crate::state::{Instances, State};
use crate::task::StopReason;

/// Fields that are written when there are any instances, in their order.
pub(super) const FIELDS: u64 = 6;

pub(super) fn write<W: Write>(tables: &Instances, e: &mut Encoder<W>) -> Result<(), Error<W::Error>> {
    e.array(tables.records.len() as u64)?;
    for (no, kept) in &tables.records {
        e.encode((no, &*kept.get()))?;
    }
    e.array(tables.checkpoints.len() as u64)?;
    for ((no, id), checkpoint) in &tables.checkpoints {
        e.encode((no, id, checkpoint))?;
    }
    e.array(tables.sleeps.len() as u64)?;
    for ((no, id), sleep) in &tables.sleeps {
        e.encode((no, id, sleep))?;
    }
    e.array(tables.custom_signals.len() as u64)?;
    for ((no, id), signal) in &tables.custom_signals {
        e.encode((no, id, signal))?;
    }
    e.array(tables.events.len() as u64)?;
    for ((no, number), event) in &tables.events {
        e.array(3)?.encode(no)?.u64(*number)?.bytes(event)?;
    }
    e.array(tables.hours.len() as u64)?;
    for ((hour, tenant), counts) in &tables.hours {
        e.encode((hour, tenant, counts))?;
    }
    e.ok()
}

/// Reads what `write` wrote, behind the tasks, and re-derives every index.
pub(super) fn read<R: Read>(items: &mut Items<R>, state: &mut State) -> Result<(), SnapshotError> {
    let mut tables = Instances::default();
    let mut blobs = Vec::new();
    items.each(|(no, instance): (InstanceNo, Instance)| {
        blobs.extend(instance.blobs());
        add_instance(state, &mut tables, no, instance)
    })?;
    items.each(|(no, id, checkpoint): (InstanceNo, CheckpointId, Checkpoint)| {
        blobs.extend(checkpoint.state.blob());
        tables.checkpoint_order.insert((no, checkpoint.sequence), id.clone());
        let known = tables.checkpoints.insert((no, id), checkpoint);
        once(known.is_none(), || "a checkpoint is there twice".into())
    })?;
    items.each(|(no, id, sleep): (InstanceNo, CheckpointId, Sleep)| {
        let known = tables.sleeps.insert((no, id), sleep);
        once(known.is_none(), || "the sleeps of a checkpoint are there twice".into())
    })?;
    items.each(|(no, id, signal): (InstanceNo, CheckpointId, CustomSignal)| {
        blobs.extend(signal.payload.blob());
        let known = tables.custom_signals.insert((no, id), signal);
        once(known.is_none(), || "a custom signal is there twice".into())
    })?;
    items.each(|(no, number, event): (InstanceNo, u64, ByteVec)| {
        let read: InstanceEvent = minicbor::decode(&event)?;
        blobs.extend(read.payload.blob());
        let known = tables.events.insert((no, number), Vec::from(event).into());
        once(known.is_none(), || "an event is there twice".into())
    })?;
    items.each(|(hour, tenant, counts): (u64, Tenant, HourCounts)| {
        let known = tables.hours.insert((hour, tenant), counts);
        once(known.is_none(), || "an hour of a tenant is there twice".into())
    })?;
    for blob in blobs {
        *state.blob_references.entry(blob.digest).or_default() += 1;
    }
    state.instances = Arc::new(tables);
    Ok(())
}

fn add_instance(
    state: &State,
    tables: &mut Instances,
    no: InstanceNo,
    instance: Instance,
) -> Result<(), SnapshotError> {
    let known = tables.ids.insert(instance.id.clone(), no);
    once(known.is_none(), || format!("instance {} is there twice", instance.id))?;
    tables.of_tenant.insert((instance.tenant.clone(), no));
    tables.bytes += instance.counts.bytes;
    let task = instance.task.and_then(|id| state.tasks.get(&id));
    if let Some(id) = instance.task {
        tables.of_task.insert(id, no);
    }
    if let Some((image, spec)) = task.and_then(|task| Some((task.spec.pinned.as_ref()?.id, &task.spec))) {
        tables.specs.insert(image, spec.clone());
    }
    match instance.finished {
        None => tables.live += 1,
        Some(at) => {
            tables.ended_bytes += instance.counts.bytes;
            let runs = task.and_then(|task| task.leased());
            if runs.is_some_and(|leased| leased.stop < Some(StopReason::Finished)) {
                tables.lingering.insert((at.plus(limits::LINGER_MS), no));
            }
            if instance.task.is_none() {
                tables.ended_outside.insert((at, no));
            }
        }
    }
    tables.put(no, instance);
    Ok(())
}
