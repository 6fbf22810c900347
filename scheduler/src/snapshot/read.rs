//! Reads a snapshot item by item and re-derives every index. Of what is read it holds one item at a time, and where each
//! spec is.

use std::io::Read;
use std::sync::Arc;

use stint_protocol::{
    Digest, IdempotencyKey, KeptFile, LeaseId, NodeId, Resources, SharedSpec, TaskId, TaskName, Tenant,
    TimeMs,
};

use super::items::Items;
use super::{FORMAT, SnapshotError};
use crate::access_token::StoredAccessToken;
use crate::demand::Demand;
use crate::history::EncodedTask;
use crate::image::{BlobRecord, Image, Keep};
use crate::join_token::{JoinToken, StoredToken};
use crate::node::{GpuRecord, Node};
use crate::settings::Settings;
use crate::state::{KeyRecord, State};
use crate::task::{FinishedFields, FinishedTask, Leased, Task, TaskFields, TaskState};

/// Fields of the oldest layout that is read.
const FIELDS_AT_FIRST: u64 = 13;

/// Reads a snapshot. What contradicts itself is refused where it is met; that every index agrees with the tasks is
/// `check`'s to say, and follows from how they are made here.
pub fn read_snapshot(from: impl Read) -> Result<State, SnapshotError> {
    let mut items = Items::new(from);
    let fields = items.array()?;
    match items.next()? {
        FORMAT => {}
        found => return Err(SnapshotError::Newer { found }),
    }
    once(fields >= FIELDS_AT_FIRST, || {
        format!("it has {fields} parts, and every one had {FIELDS_AT_FIRST}")
    })?;
    let mut state = State {
        configured: items.next()?,
        settings: Arc::new(items.next::<Settings>()?),
        time: items.next()?,
        next_sequence: items.next()?,
        next_node: items.next()?,
        finished_total: items.next()?,
        ..State::default()
    };
    read_tasks(&mut items, &mut state)?;
    items.each(|node: Node| add_node(&mut state, node))?;
    read_keys(&mut items, &mut state)?;
    items.each(|StoredToken { hash, expires, limit }| {
        state.join_tokens.insert(*hash, JoinToken { expires, limit });
        Ok(())
    })?;
    // Versions came after the first snapshots were stored, images later still. What comes behind them is of a version that
    // this one need not understand.
    if fields > 13 {
        state.version = items.next()?;
    }
    if fields > 14 {
        items.each(|image| add_image(&mut state, image))?;
    }
    if fields > 15 {
        items.each(|(digest, record)| add_blob(&mut state, digest, record))?;
    }
    if fields > 16 {
        items.each(|(tenant, digest, keep)| add_keep(&mut state, tenant, digest, keep))?;
    }
    if fields > 17 {
        state.audit = Arc::new(items.next()?);
    }
    if fields > 18 {
        items.each(|StoredAccessToken { hash, token }| {
            let known = state.access_tokens.insert(*hash, token);
            once(known.is_none(), || "an access token is there twice".into())
        })?;
    }
    if fields > 20 {
        (state.uids.latest, state.uids.first) = items.next()?;
        items.each(|(tenant, uid): (Tenant, u32)| {
            let what = || format!("tenant {tenant} or its user number {uid} is there twice");
            once(state.uids.insert(tenant.clone(), uid), what)
        })?;
    }
    if fields > 21 {
        state.authorities = Arc::new(items.next()?);
    }
    if fields > 22 {
        super::instances::read(&mut items, &mut state)?;
    }
    sum_up_leases(&mut state)?;
    Ok(state)
}

fn read_tasks<R: Read>(items: &mut Items<R>, state: &mut State) -> Result<(), SnapshotError> {
    let mut specs: Vec<(SharedSpec, Demand)> = Vec::new();
    items.each(|spec: SharedSpec| {
        let demand = Demand::from_spec(&spec);
        specs.push((spec, demand));
        Ok(())
    })?;
    items.each(|(id, place, fields): (TaskId, u32, TaskFields)| {
        let (spec, demand) = spec_at(&specs, place)?;
        add_task(state, id, Task { spec, demand, fields })
    })?;
    items.each(|(id, place, fields): (TaskId, u32, FinishedFields)| {
        let (spec, _) = spec_at(&specs, place)?;
        add_finished(state, id, FinishedTask { spec, fields })
    })?;
    state.history.pack_all();
    Ok(())
}

fn read_keys<R: Read>(items: &mut Items<R>, state: &mut State) -> Result<(), SnapshotError> {
    items.each(|(at, tenant, key, record): (TimeMs, Tenant, IdempotencyKey, KeyRecord)| {
        state.key_order.insert((at, tenant.clone(), key.clone()));
        let known = state.keys.insert((tenant, key), record);
        once(known.is_none(), || "an idempotency key is there twice".into())
    })
}

fn spec_at(specs: &[(SharedSpec, Demand)], place: u32) -> Result<(SharedSpec, Demand), SnapshotError> {
    let missing = || SnapshotError::Broken(format!("spec {place} is not in the table of {}", specs.len()));
    specs.get(place as usize).cloned().ok_or_else(missing)
}

/// What is met must not contradict what was met before.
pub(super) fn once(holds: bool, what: impl FnOnce() -> String) -> Result<(), SnapshotError> {
    if holds { Ok(()) } else { Err(SnapshotError::Broken(what())) }
}

fn add_blob(state: &mut State, digest: Digest, record: BlobRecord) -> Result<(), SnapshotError> {
    record.unused_since.map(|since| state.unused_blobs.insert((since, digest)));
    let known = state.blobs.insert(digest, Arc::new(record));
    once(known.is_none(), || format!("blob {digest} is there twice"))
}

fn add_keep(state: &mut State, tenant: Tenant, digest: Digest, keep: Keep) -> Result<(), SnapshotError> {
    *state.blob_references.entry(digest).or_default() += 1;
    state.keep_order.insert((keep.until, tenant.clone(), digest));
    let known = state.keeps.insert((tenant, digest), keep);
    once(known.is_none(), || format!("blob {digest} is kept twice for one tenant"))
}

fn add_output(state: &mut State, file: &KeptFile) {
    if file.is_pinned() {
        *state.blob_references.entry(file.blob.digest).or_default() += 1;
    }
}

fn add_image(state: &mut State, image: Image) -> Result<(), SnapshotError> {
    if image.listed {
        state.image_names.insert((image.tenant.clone(), image.name.clone()), image.id);
    }
    if let Some(blob) = image.source.blob() {
        *state.blob_references.entry(blob.digest).or_default() += 1;
    }
    let id = image.id;
    let known = state.images.insert(id, Arc::new(image));
    once(known.is_none(), || format!("image {id} is there twice"))
}

/// What it uses is summed up when all leases are known.
fn add_node(state: &mut State, mut node: Node) -> Result<(), SnapshotError> {
    node.used = Resources::default();
    node.running = 0;
    for gpu in &node.offer.gpus {
        let mut record = state.gpus.get(&gpu.id).cloned().unwrap_or_default();
        record.offered_by.push((node.id, gpu.clone()));
        state.gpus.insert(gpu.id.clone(), record);
    }
    let id: NodeId = node.id;
    node.drain_by.map(|at| state.drains.insert((at, id)));
    let known = state.nodes.insert(id, Arc::new(node));
    once(known.is_none(), || format!("node {id} is there twice"))
}

fn add_name(
    state: &mut State,
    id: TaskId,
    tenant: &Tenant,
    name: &Option<TaskName>,
) -> Result<(), SnapshotError> {
    let Some(name) = name else { return Ok(()) };
    let known = state.names.insert((tenant.clone(), name.clone()), id);
    once(known.is_none(), || format!("two tasks of {tenant} are named {name}"))
}

/// Among finished tasks of one name the latest has it, unless one that lives does.
fn add_finished_name(state: &mut State, id: TaskId, task: &FinishedFields) {
    let Some(name) = &task.name else { return };
    let name = (task.tenant.clone(), name.clone());
    let holder = state.names.get(&name).copied();
    let later = |holder: TaskId| match state.finished(holder) {
        Some(other) => (other.fields.submitted_at, holder) > (task.submitted_at, id),
        None => true,
    };
    if !holder.is_some_and(later) {
        state.names.insert(name, id);
    }
}

fn add_task(state: &mut State, id: TaskId, task: Task) -> Result<(), SnapshotError> {
    add_name(state, id, &task.fields.tenant, &task.fields.name)?;
    state.spec_bytes += crate::apply::share_of_spec(&task);
    state.earlier_outputs += crate::apply::count_of(&task);
    task.fields.records.iter().flat_map(|record| record.outputs()).for_each(|file| add_output(state, file));
    if let Some(pinned) = &task.spec.pinned {
        *state.image_uses.entry(pinned.id).or_default() += 1;
    }
    match &task.fields.state {
        TaskState::Queued { not_before, .. } if *not_before > state.time => {
            state.delayed.insert((*not_before, id));
        }
        TaskState::Queued { .. } => {
            state.queue.insert(id, &task);
        }
        TaskState::Leased(leased) => add_lease(state, id, &task, leased)?,
        TaskState::Suspended { wake_at, .. } => {
            state.suspended.insert((crate::apply::wake_place(*wake_at), id));
        }
    }
    state.tenant_accepted(&task.fields.tenant, id);
    let known = state.tasks.insert(id, Arc::new(task));
    once(known.is_none(), || format!("task {id} is there twice"))
}

fn add_lease(state: &mut State, id: TaskId, task: &Task, leased: &Leased) -> Result<(), SnapshotError> {
    let lease = LeaseId { task: id, attempt: task.fields.attempts };
    state.leases.insert((leased.node, lease));
    for gpu in &leased.gpus {
        let mut record: GpuRecord = state.gpus.get(gpu).cloned().unwrap_or_default();
        let other = record.holder.replace(lease);
        once(other.is_none(), || format!("GPU {gpu} has two holders: {other:?} and {lease}"))?;
        state.gpus.insert(gpu.clone(), record);
    }
    Ok(())
}

/// What the leases of each node use.
fn sum_up_leases(state: &mut State) -> Result<(), SnapshotError> {
    for (id, lease) in &state.leases {
        let Some(node) = state.nodes.get_mut(id).map(Arc::make_mut) else {
            let what = format!("{lease} is leased to node {id}, which is no member");
            return Err(SnapshotError::Broken(what));
        };
        let need = state.tasks.get(&lease.task).map(|task| task.spec.resources()).unwrap_or_default();
        node.used = node.used.plus(&need);
        node.running += 1;
    }
    Ok(())
}

fn add_finished(state: &mut State, id: TaskId, task: FinishedTask) -> Result<(), SnapshotError> {
    add_finished_name(state, id, &task.fields);
    state.tenant_finished(&task.fields.tenant, id);
    state.history_bytes += task.weight();
    task.fields.outputs().for_each(|file| add_output(state, file));
    let (at, tenant) = ((task.fields.outcome.finished_at, id), task.fields.tenant.clone());
    let is_new = state.history.insert_unpacked(at, tenant, EncodedTask::new(&task));
    once(is_new && !state.tasks.contains_key(&id), || format!("task {id} is there twice"))
}
