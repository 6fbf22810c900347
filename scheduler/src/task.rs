//! The record of a task, while it lives and after its end.

mod stop;

pub use stop::StopReason;

use crate::demand::Demand;
use minicbor::{Decode, Encode};
use stint_protocol::{
    EndKind, GpuId, IdempotencyKey, Incarnation, KeptFile, NodeId, Outcome, Runtime, SharedSpec, TaskName,
    Tenant, TimeMs, weight_of, weight_of_not_kept,
};

/// What only a leased task has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leased {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub since: TimeMs,
    pub runtime: Runtime,
    pub gpus: Vec<GpuId>,
    /// Why it is to be stopped; its node has been or will be told.
    pub stop: Option<StopReason>,
}

/// Where a live task stands. A finished one is a `FinishedTask` in the history.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum TaskState {
    /// `not_before` is in the future while a retry waits.
    #[n(0)]
    Queued {
        #[n(0)]
        since: TimeMs,
        #[n(1)]
        not_before: TimeMs,
    },
    #[n(1)]
    Leased(#[n(0)] Leased),
    /// Holds nothing; takes its place in the queue again when it is woken.
    #[n(2)]
    Suspended {
        #[n(0)]
        reason: SuspendReason,
        #[n(1)]
        since: TimeMs,
        /// None: only a command wakes it.
        #[n(2)]
        wake_at: Option<TimeMs>,
    },
}

/// Why a task is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum SuspendReason {
    /// It wants to go on later.
    #[n(0)]
    Sleep,
    /// A user does not want it to go on for now.
    #[n(1)]
    Paused,
}

/// One attempt that ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AttemptRecord {
    #[n(0)]
    pub number: u32,
    #[n(1)]
    pub node: NodeId,
    #[n(2)]
    pub leased_at: TimeMs,
    #[n(3)]
    pub ended_at: TimeMs,
    #[n(4)]
    pub end: EndKind,
    #[n(5)]
    pub message: String,
    #[n(6)]
    pub gpus: Vec<GpuId>,
    #[n(7)]
    pub run_ms: u64,
    /// Unknown of attempts that ended before version 3.
    #[n(8)]
    #[cbor(default)]
    pub runtime: Option<Runtime>,
    /// Under which number each peer keeps what it wrote last (`Change::EndingKept`). None: it wrote nothing, or that is not kept.
    #[n(9)]
    #[cbor(default)]
    pub ending: Option<u64>,
    /// What was kept of its outputs, when the task did not end with it: those of the attempt that decided it stand in the outcome.
    #[n(10)]
    #[cbor(default)]
    pub outputs: Option<Box<[KeptFile]>>,
    /// So many files were kept and are not remembered, as the cluster remembers too many.
    #[n(11)]
    #[cbor(default)]
    pub outputs_forgotten: Option<u32>,
}

impl AttemptRecord {
    /// Files that are remembered of it.
    pub fn outputs(&self) -> &[KeptFile] {
        self.outputs.as_deref().unwrap_or_default()
    }
}

/// A task that waits or runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub spec: SharedSpec,
    /// Where it may run and what it takes there, by its spec.
    pub(crate) demand: Demand,
    pub fields: TaskFields,
}

/// A live task but for its spec, which snapshots store once for all tasks that share it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TaskFields {
    #[n(0)]
    pub tenant: Tenant,
    #[n(1)]
    pub name: Option<TaskName>,
    /// Its place in its submit, from 0.
    #[n(2)]
    pub index: u32,
    /// Order of submits in the cluster: age.
    #[n(3)]
    pub sequence: u64,
    #[n(4)]
    pub submitted_at: TimeMs,
    #[n(5)]
    pub state: TaskState,
    /// Attempts begun; the current one's number.
    #[n(6)]
    pub attempts: u32,
    /// Attempts that count against the retry policy.
    #[n(7)]
    pub failures: u32,
    /// Attempts lost with their node.
    #[n(8)]
    pub losses: u32,
    #[n(9)]
    pub records: Vec<AttemptRecord>,
    #[n(10)]
    pub key: Option<IdempotencyKey>,
    /// Starts that nodes failed; no attempts by the retry policy.
    #[n(11)]
    #[cbor(default)]
    pub failed_starts: u32,
}

impl TaskFields {
    /// Whether this node failed to start it, or would not, since it last ran anywhere: another one is tried first.
    pub(crate) fn failed_to_start_on(&self, node: NodeId) -> bool {
        let not_started =
            [EndKind::StartFailed, EndKind::StartRefused, EndKind::FilesMissing, EndKind::Denied];
        let lately = self.records.iter().rev().take_while(|record| not_started.contains(&record.end));
        lately.into_iter().any(|record| record.node == node)
    }
}

/// A task whose outcome is recorded; never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedTask {
    pub spec: SharedSpec,
    pub fields: FinishedFields,
}

/// A finished task but for its spec.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FinishedFields {
    #[n(0)]
    pub tenant: Tenant,
    #[n(1)]
    pub name: Option<TaskName>,
    #[n(2)]
    pub index: u32,
    #[n(3)]
    pub submitted_at: TimeMs,
    #[n(4)]
    pub attempts: u32,
    #[n(5)]
    pub records: Box<[AttemptRecord]>,
    #[n(6)]
    pub outcome: Outcome,
}

impl FinishedFields {
    /// All files that are remembered of its attempts.
    pub fn outputs(&self) -> impl Iterator<Item = &KeptFile> {
        let of_outcome = self.outcome.outputs.iter().flatten();
        self.records.iter().flat_map(|record| record.outputs()).chain(of_outcome)
    }
}

impl FinishedTask {
    /// Bytes it takes in memory, about; the first of a submit accounts for the spec that all share.
    pub fn weight(&self) -> u64 {
        let spec = if self.fields.index == 0 { self.spec.weight() } else { 64 };
        let of_record =
            |record: &AttemptRecord| record.message.len() + 128 + weight_of(record.outputs.as_deref());
        let message_bytes: usize = self.fields.records.iter().map(of_record).sum();
        let outcome = &self.fields.outcome;
        let usage = outcome.usage.as_ref().map_or(0, |_| 64);
        let files = weight_of(outcome.outputs.as_deref()) + weight_of_not_kept(outcome.not_kept.as_deref());
        spec + (message_bytes + outcome.message.len() + files + usage) as u64
    }
}

impl Task {
    /// The lease's facts, when leased.
    pub fn leased(&self) -> Option<&Leased> {
        match &self.fields.state {
            TaskState::Leased(leased) => Some(leased),
            TaskState::Queued { .. } | TaskState::Suspended { .. } => None,
        }
    }
}
