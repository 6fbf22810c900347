//! The replicated state: metadata only, in copy-on-write maps, so that a capture costs nothing.

mod images;
mod instances;
mod queue;
mod tenants;
mod uids;

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use minicbor::{Decode, Encode};
use stint_protocol::{
    Class, Digest, GpuId, IdempotencyKey, ImageId, ImageName, LeaseId, NodeId, SharedSpec, TaskId, TaskName,
    Tenant, TimeMs, Version,
};

use crate::access_token::AccessToken;
use crate::authority::Authorities;
use crate::command::Rejection;
use crate::history::{History, Reader};
use crate::image::{BlobRecord, Image, Keep};
use crate::join_token::JoinToken;
use crate::node::{GpuRecord, Node};
use crate::settings::{Settings, SettingsAudit, drift_ms};
use crate::task::{FinishedTask, Task};

pub(crate) use instances::Instances;
pub(crate) use queue::{Line, LineKey, Place, Queue};
pub use tenants::TenantHoldings;
pub(crate) use tenants::TenantTasks;
pub(crate) use uids::TenantUids;

/// What is remembered of a submit under an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct KeyRecord {
    #[n(0)]
    pub first: TaskId,
    #[n(1)]
    pub count: u32,
    #[n(2)]
    pub digest: u64,
    #[n(3)]
    pub at: TimeMs,
    /// Its tasks that are not finished.
    #[n(4)]
    pub live: u32,
}

/// Everything the cluster agrees on. Cloning is cheap (shared structure).
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(crate) configured: bool,
    pub(crate) settings: Arc<Settings>,
    pub(crate) audit: Arc<SettingsAudit>,
    /// What the cluster speaks: never lowered.
    pub(crate) version: Version,
    pub(crate) time: TimeMs,
    pub(crate) next_sequence: u64,
    pub(crate) next_node: u64,
    /// Tasks that ever finished.
    pub(crate) finished_total: u64,
    pub(crate) spec_bytes: u64,
    pub(crate) tasks: OrdMap<TaskId, Arc<Task>>,
    pub(crate) history: History,
    pub(crate) nodes: OrdMap<NodeId, Arc<Node>>,
    pub(crate) keys: OrdMap<(Tenant, IdempotencyKey), KeyRecord>,
    pub(crate) join_tokens: OrdMap<[u8; 32], JoinToken>,
    pub(crate) uids: TenantUids,
    /// By the hashes of their secrets.
    pub(crate) access_tokens: OrdMap<[u8; 32], AccessToken>,
    pub(crate) authorities: Arc<Authorities>,
    pub(crate) images: OrdMap<ImageId, Arc<Image>>,
    pub(crate) blobs: OrdMap<Digest, Arc<BlobRecord>>,
    /// What tenants want kept for a time.
    pub(crate) keeps: OrdMap<(Tenant, Digest), Keep>,
    pub(crate) instances: Arc<Instances>,
    // Indexes: all of them re-derived by `check`.
    pub(crate) queue: Queue,
    pub(crate) delayed: OrdSet<(TimeMs, TaskId)>,
    /// Suspended tasks by when they are woken; those that no time wakes come last.
    pub(crate) suspended: OrdSet<(TimeMs, TaskId)>,
    /// Tenants that have a task.
    pub(crate) tenants: OrdMap<Tenant, TenantTasks>,
    /// Nodes that must be empty by a time.
    pub(crate) drains: OrdSet<(TimeMs, NodeId)>,
    pub(crate) leases: OrdSet<(NodeId, LeaseId)>,
    pub(crate) gpus: OrdMap<GpuId, GpuRecord>,
    pub(crate) names: OrdMap<(Tenant, TaskName), TaskId>,
    /// What the history weighs.
    pub(crate) history_bytes: u64,
    pub(crate) key_order: OrdSet<(TimeMs, Tenant, IdempotencyKey)>,
    /// Files that tasks which are not finished remember of their attempts.
    pub(crate) earlier_outputs: u64,
    /// Listed images.
    pub(crate) image_names: OrdMap<(Tenant, ImageName), ImageId>,
    /// Live tasks by image; none with 0.
    pub(crate) image_uses: OrdMap<ImageId, u32>,
    /// Images, keeps and files that tasks left, by blob; none with 0.
    pub(crate) blob_references: OrdMap<Digest, u32>,
    pub(crate) unused_blobs: OrdSet<(TimeMs, Digest)>,
    pub(crate) keep_order: OrdSet<(TimeMs, Tenant, Digest)>,
}

/// The finished tasks of a state.
pub struct FinishedTasks<'a>(Reader<'a>);

impl FinishedTasks<'_> {
    /// A task that finished and is still kept.
    pub fn get(&mut self, id: TaskId) -> Option<FinishedTask> {
        self.0.get(&id).map(|task| task.unpack())
    }
}

impl State {
    /// Whether the cluster has its settings.
    pub fn configured(&self) -> bool {
        self.configured
    }

    /// The replicated settings.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Who changed the settings since the cluster was founded.
    pub fn audit(&self) -> &SettingsAudit {
        &self.audit
    }

    /// The longest lease that an attempt of this class may still have, whatever the settings say now
    /// (docs/internals/leases.md#changed-length).
    pub fn longest_lease_ms(&self, class: Class) -> u64 {
        self.audit.longest_lease_ms(&self.settings, class)
    }

    /// What a leader waits beyond a lease and the drift of two clocks over that lease, in milliseconds: election timeout
    /// and kill margin. The margin of the settings has the drift over the longest lease of any class in it, which is no
    /// matter of the others (docs/internals/leases.md#length-and-margin).
    pub fn margin_beside_drift_ms(&self) -> u64 {
        let longest = Class::ALL.into_iter().map(|class| self.longest_lease_ms(class)).max().unwrap_or(0);
        let settings = &self.settings;
        settings.lease_margin_ms.saturating_sub(drift_ms(longest)).max(settings.kill_margin_ms)
    }

    /// The certificate authority, and how far its change is.
    pub fn authorities(&self) -> &Authorities {
        &self.authorities
    }

    /// Members without a certificate of the new authority, while the authority changes.
    pub fn nodes_to_certify(&self) -> impl Iterator<Item = &Arc<Node>> {
        let changing = self.authorities.changing();
        let without = move |id| changing.is_some_and(|change| change.certified.binary_search(id).is_err());
        self.nodes.iter().filter(move |(id, _)| without(id)).map(|(_, node)| node)
    }

    /// The version that the cluster speaks: nothing that it lacks stands in the log.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The version to which the cluster can be raised now: every member speaks it.
    pub fn upgradable_to(&self) -> Option<Version> {
        let all_speak = self.nodes.values().map(|node| node.speaks).min()?;
        (all_speak > self.version).then_some(all_speak)
    }

    /// Members that speak less than another one does.
    pub fn nodes_below_next_version(&self) -> impl Iterator<Item = &Arc<Node>> {
        let most = self.nodes.values().map(|node| node.speaks).max().unwrap_or_default();
        self.nodes.values().filter(move |node| node.speaks < most)
    }

    /// Why what a higher version has cannot be done now: it names the first of those that speak least.
    pub fn version_too_low(&self) -> Rejection {
        let least = self.nodes.values().min_by_key(|node| (node.speaks, node.id));
        let (node, speaks) = least.map_or_else(Default::default, |node| (node.name.clone(), node.speaks));
        Rejection::VersionTooLow { version: self.version, node, speaks }
    }

    /// The time of the last applied entry.
    pub fn time(&self) -> TimeMs {
        self.time
    }

    /// A task that waits or runs.
    pub fn task(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.tasks.get(&id)
    }

    /// A task that finished and is still kept.
    pub fn finished(&self, id: TaskId) -> Option<FinishedTask> {
        self.history.get(&id).map(|task| task.unpack())
    }

    /// For looking at many finished tasks: those that are kept together are unpacked together.
    pub fn finished_tasks(&self) -> FinishedTasks<'_> {
        FinishedTasks(Reader::of_named(&self.history))
    }

    /// Of tasks and endings: none has this number or a higher one.
    pub fn next_number(&self) -> u64 {
        self.next_sequence
    }

    /// Whether a task lives, or finished and is still kept.
    pub fn knows(&self, id: TaskId) -> bool {
        self.tasks.contains_key(&id) || self.history.contains(&id)
    }

    /// What a known task was asked to do.
    pub fn spec(&self, id: TaskId) -> Option<SharedSpec> {
        let live = self.tasks.get(&id).map(|task| task.spec.clone());
        live.or_else(|| self.history.get(&id).map(|task| task.spec))
    }

    /// The tenant of a known task.
    pub fn tenant_of(&self, id: TaskId) -> Option<Tenant> {
        let live = self.tasks.get(&id).map(|t| t.fields.tenant.clone());
        live.or_else(|| self.history.tenant_of(&id).cloned())
    }

    /// Whether a submit of this tenant under this key was accepted, and is remembered.
    pub fn key_known(&self, tenant: &Tenant, key: &IdempotencyKey) -> bool {
        self.keys.contains_key(&(tenant.clone(), key.clone()))
    }

    /// The task of this name.
    pub fn named(&self, tenant: &Tenant, name: &TaskName) -> Option<TaskId> {
        self.names.get(&(tenant.clone(), name.clone())).copied()
    }

    /// Live tasks older than `before`, newest first.
    pub fn tasks_before(&self, before: TaskId) -> impl Iterator<Item = (TaskId, &Arc<Task>)> {
        self.tasks.range(..before).rev().map(|(id, task)| (*id, task))
    }

    /// Finished tasks older than `before`, newest first.
    pub fn finished_before(&self, before: TaskId) -> impl Iterator<Item = (TaskId, FinishedTask)> + use<'_> {
        self.history.before(before, None).map(|(id, task)| (id, task.unpack()))
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&id)
    }

    /// Whether this node was a member and is none any more: ids only grow, and none is given twice.
    pub fn was_removed(&self, id: NodeId) -> bool {
        id.0 <= self.next_node && !self.nodes.contains_key(&id)
    }

    /// Every node, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// The leases of one node.
    pub fn leases_of(&self, node: NodeId) -> impl Iterator<Item = LeaseId> + '_ {
        let first = LeaseId { task: TaskId(0), attempt: 0 };
        let last = LeaseId { task: TaskId(u128::MAX), attempt: u32::MAX };
        self.leases.range((node, first)..=(node, last)).map(|(_, lease)| *lease)
    }

    /// Every lease with its node.
    pub fn leases(&self) -> impl Iterator<Item = (NodeId, LeaseId)> + '_ {
        self.leases.iter().copied()
    }

    /// Whether the lease is in force.
    pub fn holds(&self, lease: LeaseId) -> bool {
        let task = self.tasks.get(&lease.task).filter(|task| task.fields.attempts == lease.attempt);
        task.is_some_and(|task| task.leased().is_some())
    }

    /// Whether the lease is in force on this node.
    pub fn holds_on(&self, node: NodeId, lease: LeaseId) -> bool {
        self.leases.contains(&(node, lease))
    }

    /// One GPU.
    pub fn gpu(&self, id: &GpuId) -> Option<&GpuRecord> {
        self.gpus.get(id)
    }

    /// Tasks that wait for a node now, of one class.
    pub fn queued(&self, class: Class) -> usize {
        self.queue.len_of(class)
    }

    /// Tasks that wait: for a node, or for the time of their retry.
    pub fn waiting(&self) -> usize {
        self.queue.len() + self.delayed.len()
    }

    /// Tasks that wait to be woken.
    pub fn suspended(&self) -> usize {
        self.suspended.len()
    }

    /// Whether no task waits: for a node, for the time of its retry, or to be woken.
    pub fn nothing_waits(&self) -> bool {
        self.waiting() + self.suspended() == 0
    }

    /// Attempts under a lease.
    pub fn running(&self) -> usize {
        self.leases.len()
    }

    /// Tasks that ever finished, forgotten ones included.
    pub fn finished_total(&self) -> u64 {
        self.finished_total
    }

    /// Finished tasks that are still kept.
    pub fn remembered(&self) -> usize {
        self.history.len()
    }

    /// Images that are listed.
    pub fn listed_images(&self) -> usize {
        self.image_names.len()
    }

    /// When the next waiting retry, the next suspended task, or the next held node, is due.
    pub fn next_due(&self) -> Option<TimeMs> {
        let retry = self.delayed.get_min().map(|(at, _)| *at);
        let retry_at = self.nodes.values().flat_map(|node| {
            let holds = node.holds_in_force(self.time).map(|hold| &hold.backoff);
            node.backing_off(self.time).into_iter().chain(holds).map(|backoff| backoff.until)
        });
        let wakes = self.suspended.get_min().map(|(at, _)| *at);
        retry.into_iter().chain(wakes).chain(retry_at).min()
    }

    /// Whether attempts must be stopped by then: because their node's time to drain is over, or because they go on although
    /// their instances have ended.
    pub fn stop_due(&self, now: TimeMs) -> bool {
        self.drains.get_min().is_some_and(|(at, _)| *at <= now) || self.lingers(now)
    }

    /// Whether a join token's hash is valid now.
    pub fn join_token_valid(&self, hash: &[u8; 32]) -> bool {
        self.join_tokens.get(hash).is_some_and(|token| token.expires > self.time)
    }

    /// Access tokens that are valid now, by the hashes of their secrets.
    pub fn access_tokens(&self) -> impl Iterator<Item = (&[u8; 32], &AccessToken)> {
        self.access_tokens.iter().filter(|(_, token)| token.expires > self.time)
    }

    /// The access token of this hash, if it is valid now.
    pub fn access_token(&self, hash: &[u8; 32]) -> Option<&AccessToken> {
        self.access_tokens.get(hash).filter(|token| token.expires > self.time)
    }

    /// Join tokens that are valid now, by the hashes of their secrets.
    pub fn join_tokens(&self) -> impl Iterator<Item = (&[u8; 32], &JoinToken)> {
        self.join_tokens.iter().filter(|(_, token)| token.expires > self.time)
    }
}
