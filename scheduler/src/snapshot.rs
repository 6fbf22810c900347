//! The state as bytes: our own versioned encoding. A spec shared by many tasks is stored once.

use std::collections::BTreeMap;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use stint_protocol::{IdempotencyKey, NodeId, Resources, SharedSpec, TaskId, Tenant, TimeMs, Version};

use crate::check;
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

#[derive(Encode, Decode)]
struct Stored {
    #[n(0)]
    format: u32,
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
}

/// Specs by allocation: the first task that has one stores it.
#[derive(Default)]
struct SpecTable {
    specs: Vec<SharedSpec>,
    places: BTreeMap<usize, u32>,
}

impl SpecTable {
    fn place(&mut self, spec: &SharedSpec) -> u32 {
        let address = std::ptr::from_ref(&**spec) as usize;
        *self.places.entry(address).or_insert_with(|| {
            self.specs.push(spec.clone());
            (self.specs.len() - 1) as u32
        })
    }
}

/// Encodes the whole state.
pub fn encode_snapshot(state: &State) -> Vec<u8> {
    let mut table = SpecTable::default();
    let tasks = state.tasks.iter().map(|(id, t)| (*id, table.place(&t.spec), t.fields.clone())).collect();
    let history = state.history.iter().map(|(id, t)| (*id, table.place(&t.spec), t.fields.clone())).collect();
    let key = |(at, tenant, key): &(TimeMs, Tenant, IdempotencyKey)| {
        let record = state.keys.get(&(tenant.clone(), key.clone()))?;
        Some((*at, tenant.clone(), key.clone(), record.clone()))
    };
    let stored = Stored {
        format: FORMAT,
        configured: state.configured,
        settings: (*state.settings).clone(),
        time: state.time,
        next_sequence: state.next_sequence,
        next_node: state.next_node,
        finished_total: state.finished_total,
        specs: table.specs,
        tasks,
        history,
        nodes: state.nodes.values().map(|n| (**n).clone()).collect(),
        keys: state.key_order.iter().filter_map(key).collect(),
        join_tokens: state.join_tokens.iter().map(|(hash, at)| ((*hash).into(), *at)).collect(),
        version: state.version,
    };
    minicbor::to_vec(&stored)
        .unwrap_or_else(|never: minicbor::encode::Error<_>| panic!("encoding to memory: {never}"))
}

/// A number that is equal for equal states and, but for chance, only for them: FNV-1a over the encoding.
pub fn digest(state: &State) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    encode_snapshot(&normal_form(state)).iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Which tasks share an allocation may differ between a replica that applied and one that was restored from a
/// snapshot; for comparing, no two tasks share one.
fn normal_form(state: &State) -> State {
    let mut normal = state.clone();
    normal.tasks = state
        .tasks
        .iter()
        .map(|(id, t)| {
            (*id, Arc::new(Task { spec: SharedSpec::new((*t.spec).clone()), fields: t.fields.clone() }))
        })
        .collect();
    let own = |t: &FinishedTask| FinishedTask {
        spec: SharedSpec::new((*t.spec).clone()),
        fields: t.fields.clone(),
    };
    normal.history = state.history.iter().map(|(id, t)| (*id, Arc::new(own(t)))).collect();
    normal
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
    match &task.fields.state {
        TaskState::Queued { not_before, .. } if *not_before > state.time => {
            state.delayed.insert((*not_before, id));
        }
        TaskState::Queued { .. } => {
            let key = state.queue_key(id, &task);
            state.queue.insert(key);
        }
        TaskState::Leased(leased) => add_lease(state, id, &task, leased.clone()),
    }
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
    state.finished_order.insert((task.fields.outcome.finished_at, id));
    state.history.insert(id, Arc::new(task));
}
