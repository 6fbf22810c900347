//! The state as bytes: our own versioned encoding. A spec shared by many tasks is stored once.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use minicbor::encode::Write;
use minicbor::{Decode, Encoder};
use stint_protocol::{
    Digest, IdempotencyKey, NodeId, Resources, SharedSpec, TaskId, Tenant, TimeMs, Version,
};

use crate::check;
use crate::history::Packed;
use crate::image::{BlobRecord, Image, Keep};
use crate::node::{GpuRecord, Node};
use crate::settings::Settings;
use crate::state::{KeyRecord, State};
use crate::task::{FinishedFields, FinishedTask, Task, TaskFields, TaskState};

/// The format this version writes. Older ones stay readable; a newer one is refused.
const FORMAT: u32 = 1;

/// Bytes that are no snapshot this version can read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("the snapshot has format {found}; this version reads up to {FORMAT}: upgrade stint")]
    Newer { found: u32 },
    #[error("the snapshot cannot be read: {0}")]
    Malformed(#[from] minicbor::decode::Error),
    #[error("the snapshot contradicts itself: {0}")]
    Broken(String),
}

/// The parts of a snapshot in their order; `write` writes the same without a copy of the state.
#[derive(Decode)]
struct Stored {
    #[n(0)]
    _format: u32,
    #[n(1)]
    configured: bool,
    #[n(2)]
    settings: Settings,
    #[n(3)]
    time: TimeMs,
    #[n(4)]
    next_sequence: u64,
    #[n(5)]
    next_node: u64,
    #[n(6)]
    finished_total: u64,
    #[n(7)]
    specs: Vec<SharedSpec>,
    #[n(8)]
    tasks: Vec<(TaskId, u32, TaskFields)>,
    #[n(9)]
    history: Vec<(TaskId, u32, FinishedFields)>,
    #[n(10)]
    nodes: Vec<Node>,
    #[n(11)]
    keys: Vec<(TimeMs, Tenant, IdempotencyKey, KeyRecord)>,
    #[n(12)]
    join_tokens: Vec<(minicbor::bytes::ByteArray<32>, TimeMs)>,
    #[n(13)]
    #[cbor(default)]
    version: Version,
    #[n(14)]
    #[cbor(default)]
    images: Vec<Image>,
    #[n(15)]
    #[cbor(default)]
    blobs: Vec<(Digest, BlobRecord)>,
    #[n(16)]
    #[cbor(default)]
    keeps: Vec<(Tenant, Digest, Keep)>,
}

/// Fields of `Stored`.
const FIELDS: u64 = 17;

/// The specs of a snapshot, each stored once.
struct SpecTable<'a> {
    specs: Vec<&'a SharedSpec>,
    places: BTreeMap<usize, u32>,
    /// Which tasks share an allocation may differ between a replica that applied and one that was restored from a
    /// snapshot; for comparing, no two tasks share one.
    sharing: bool,
}

impl<'a> SpecTable<'a> {
    fn new(sharing: bool) -> Self {
        Self { specs: Vec::new(), places: BTreeMap::new(), sharing }
    }

    /// Specs by allocation: the first task that has one stores it.
    fn place(&mut self, spec: &'a SharedSpec) -> u32 {
        if !self.sharing {
            return self.add(spec);
        }
        let address = std::ptr::from_ref(&**spec) as usize;
        if let Some(place) = self.places.get(&address) {
            return *place;
        }
        let place = self.add(spec);
        self.places.insert(address, place);
        place
    }

    fn add(&mut self, spec: &'a SharedSpec) -> u32 {
        self.specs.push(spec);
        (self.specs.len() - 1) as u32
    }
}

/// Encodes the whole state.
pub fn encode_snapshot(state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(state, SpecTable::new(true), &mut bytes)
        .unwrap_or_else(|never: minicbor::encode::Error<_>| panic!("encoding to memory: {never}"));
    bytes
}

/// A number that is equal for equal states and, but for chance, only for them: FNV-1a over the encoding.
pub fn digest(state: &State) -> u64 {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    write(state, SpecTable::new(false), &mut hash)
        .unwrap_or_else(|never: minicbor::encode::Error<_>| panic!("hashing: {never}"));
    hash.0
}

/// FNV-1a of what is written to it.
struct Fnv(u64);

impl Write for Fnv {
    type Error = Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        self.0 = bytes.iter().fold(self.0, step);
        Ok(())
    }
}

/// Whether two states are the same: all that a snapshot keeps, and the indexes that follow from it. Which tasks share
/// a spec does not count, nor whether a retry that is due stands in the queue already.
pub fn same(one: &State, other: &State) -> bool {
    let numbers = |s: &State| {
        (s.configured, s.version, s.time, s.next_sequence, s.next_node, s.finished_total, s.spec_bytes)
    };
    numbers(one) == numbers(other)
        && one.settings == other.settings
        && one.tasks.iter().eq(other.tasks.iter())
        && one.history.iter().eq(other.history.iter())
        && one.nodes.iter().eq(other.nodes.iter())
        && one.keys.iter().eq(other.keys.iter())
        && one.key_order.iter().eq(other.key_order.iter())
        && one.join_tokens.iter().eq(other.join_tokens.iter())
        && one.waiting() == other.waiting()
        && one.suspended.iter().eq(other.suspended.iter())
        && one.tenants.iter().eq(other.tenants.iter())
        && one.drains.iter().eq(other.drains.iter())
        && one.leases.iter().eq(other.leases.iter())
        && one.gpus.iter().eq(other.gpus.iter())
        && one.names.iter().eq(other.names.iter())
        && one.images.iter().eq(other.images.iter())
        && one.blobs.iter().eq(other.blobs.iter())
        && one.keeps.iter().eq(other.keeps.iter())
        && one.finished_order.iter().eq(other.finished_order.iter())
}

fn write<'a, W: Write>(
    state: &'a State,
    mut table: SpecTable<'a>,
    to: W,
) -> Result<(), minicbor::encode::Error<W::Error>> {
    let live: Vec<u32> = state.tasks.values().map(|task| table.place(&task.spec)).collect();
    let finished: Vec<u32> = state.history.values().map(|task| table.place(&task.spec)).collect();
    let mut e = Encoder::new(to);
    e.array(FIELDS)?.u32(FORMAT)?.bool(state.configured)?.encode(&*state.settings)?.encode(state.time)?;
    e.u64(state.next_sequence)?.u64(state.next_node)?.u64(state.finished_total)?;
    e.encode(&table.specs)?;
    e.array(live.len() as u64)?;
    for ((id, task), place) in state.tasks.iter().zip(live) {
        e.encode((id, place, &task.fields))?;
    }
    e.array(finished.len() as u64)?;
    for ((id, task), place) in state.history.iter().zip(finished) {
        e.array(3)?.encode(id)?.u32(place)?;
        task.write(&mut e)?;
    }
    e.array(state.nodes.len() as u64)?;
    for node in state.nodes.values() {
        e.encode(&**node)?;
    }
    write_keys(state, &mut e)?;
    e.array(state.join_tokens.len() as u64)?;
    for (hash, expires) in &state.join_tokens {
        e.array(2)?.bytes(hash)?.encode(expires)?;
    }
    e.encode(state.version)?;
    write_images(state, &mut e)
}

fn write_images<W: Write>(
    state: &State,
    e: &mut Encoder<W>,
) -> Result<(), minicbor::encode::Error<W::Error>> {
    e.array(state.images.len() as u64)?;
    for image in state.images.values() {
        e.encode(&**image)?;
    }
    e.array(state.blobs.len() as u64)?;
    for (digest, record) in &state.blobs {
        e.encode((digest, &**record))?;
    }
    e.array(state.keeps.len() as u64)?;
    for ((tenant, digest), keep) in &state.keeps {
        e.encode((tenant, digest, keep))?;
    }
    e.ok()
}

fn write_keys<W: Write>(state: &State, e: &mut Encoder<W>) -> Result<(), minicbor::encode::Error<W::Error>> {
    let record = |(at, tenant, key): &'_ (TimeMs, Tenant, IdempotencyKey)| {
        let record = state.keys.get(&(tenant.clone(), key.clone()))?;
        Some((*at, tenant.clone(), key.clone(), record))
    };
    let keys: Vec<_> = state.key_order.iter().filter_map(record).collect();
    e.encode(keys)?.ok()
}

/// Decodes a snapshot and re-derives every index.
pub fn decode_snapshot(bytes: &[u8]) -> Result<State, SnapshotError> {
    let stored: Stored = match format_of(bytes)? {
        FORMAT => minicbor::decode(bytes)?,
        found => return Err(SnapshotError::Newer { found }),
    };
    let mut state = State {
        configured: stored.configured,
        settings: Arc::new(stored.settings),
        time: stored.time,
        next_sequence: stored.next_sequence,
        next_node: stored.next_node,
        finished_total: stored.finished_total,
        version: stored.version,
        ..State::default()
    };
    for node in stored.nodes {
        add_node(&mut state, node);
    }
    for (id, spec, fields) in stored.tasks {
        let spec = spec_at(&stored.specs, spec)?;
        add_task(&mut state, id, Task { spec, fields });
    }
    for (id, spec, fields) in stored.history {
        let spec = spec_at(&stored.specs, spec)?;
        add_finished(&mut state, id, FinishedTask { spec, fields });
    }
    for (at, tenant, key, record) in stored.keys {
        state.key_order.insert((at, tenant.clone(), key.clone()));
        state.keys.insert((tenant, key), record);
    }
    state.join_tokens = stored.join_tokens.into_iter().map(|(hash, at)| (*hash, at)).collect();
    for (digest, record) in stored.blobs {
        record.unused_since.map(|since| state.unused_blobs.insert((since, digest)));
        state.blobs.insert(digest, Arc::new(record));
    }
    stored.images.into_iter().for_each(|image| add_image(&mut state, image));
    for (tenant, digest, keep) in stored.keeps {
        *state.blob_references.entry(digest).or_default() += 1;
        state.keep_order.insert((keep.until, tenant.clone(), digest));
        state.keeps.insert((tenant, digest), keep);
    }
    check::check(&state).map_err(SnapshotError::Broken)?;
    Ok(state)
}

fn format_of(bytes: &[u8]) -> Result<u32, SnapshotError> {
    let mut decoder = minicbor::Decoder::new(bytes);
    decoder.array()?;
    Ok(decoder.u32()?)
}

fn spec_at(specs: &[SharedSpec], place: u32) -> Result<SharedSpec, SnapshotError> {
    let missing = || SnapshotError::Broken(format!("spec {place} is not in the table of {}", specs.len()));
    specs.get(place as usize).cloned().ok_or_else(missing)
}

fn add_image(state: &mut State, image: Image) {
    if image.listed {
        state.image_names.insert((image.tenant.clone(), image.name.clone()), image.id);
    }
    if let Some(blob) = image.source.blob() {
        *state.blob_references.entry(blob.digest).or_default() += 1;
    }
    state.images.insert(image.id, Arc::new(image));
}

fn add_node(state: &mut State, mut node: Node) {
    node.used = Resources::default();
    node.running = 0;
    for gpu in &node.offer.gpus {
        let mut record = state.gpus.get(&gpu.id).cloned().unwrap_or_default();
        record.offered_by.push((node.id, gpu.clone()));
        state.gpus.insert(gpu.id.clone(), record);
    }
    let id: NodeId = node.id;
    node.drain_by.map(|at| state.drains.insert((at, id)));
    state.nodes.insert(id, Arc::new(node));
}

fn add_task(state: &mut State, id: TaskId, task: Task) {
    if let Some(name) = &task.fields.name {
        state.names.insert((task.fields.tenant.clone(), name.clone()), id);
    }
    state.spec_bytes += crate::apply::share_of_spec(&task);
    if let Some(pinned) = &task.spec.pinned {
        *state.image_uses.entry(pinned.id).or_default() += 1;
    }
    match &task.fields.state {
        TaskState::Queued { not_before, .. } if *not_before > state.time => {
            state.delayed.insert((*not_before, id));
        }
        TaskState::Queued { .. } => {
            let key = state.queue_key(id, &task);
            state.queue.insert(key);
        }
        TaskState::Leased(leased) => add_lease(state, id, &task, leased.clone()),
        TaskState::Suspended { wake_at, .. } => {
            state.suspended.insert((crate::apply::wake_place(*wake_at), id));
        }
    }
    state.tenant_accepted(&task.fields.tenant, id);
    state.tasks.insert(id, Arc::new(task));
}

fn add_lease(state: &mut State, id: TaskId, task: &Task, leased: crate::task::Leased) {
    let lease = stint_protocol::LeaseId { task: id, attempt: task.fields.attempts };
    state.leases.insert((leased.node, lease));
    for gpu in &leased.gpus {
        let mut record: GpuRecord = state.gpus.get(gpu).cloned().unwrap_or_default();
        record.holder = Some(lease);
        state.gpus.insert(gpu.clone(), record);
    }
    if let Some(node) = state.nodes.get_mut(&leased.node).map(Arc::make_mut) {
        node.used = node.used.plus(&task.spec.resources());
        node.running += 1;
    }
}

fn add_finished(state: &mut State, id: TaskId, task: FinishedTask) {
    if let Some(name) = &task.fields.name {
        state.names.insert((task.fields.tenant.clone(), name.clone()), id);
    }
    state.tenant_finished(&task.fields.tenant, id);
    state.finished_order.insert((task.fields.outcome.finished_at, id));
    state.history_bytes += task.weight();
    state.history.insert(id, Packed::new(&task));
}
