//! The instances of a state, and reads of them. A state without any holds a pointer to empty tables.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use stint_protocol::{CheckpointId, ImageId, InstanceEvent, InstanceId, SharedSpec, TaskId, Tenant, TimeMs};

use super::State;
use crate::instance::{Checkpoint, CustomSignal, HourCounts, Instance, InstanceNo, Sleep, decode_event};

/// A record: one that lives, or the encoding of one that ended, which takes less room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Live(Arc<Instance>),
    Ended(Arc<[u8]>),
}

impl Kept {
    fn new(instance: Instance) -> Self {
        if !instance.state.is_ended() {
            return Self::Live(Arc::new(instance));
        }
        let bytes = minicbor::to_vec(&instance).unwrap_or_else(|never| panic!("encoding to memory: {never}"));
        Self::Ended(bytes.into())
    }

    pub fn get(&self) -> Arc<Instance> {
        match self {
            Self::Live(instance) => instance.clone(),
            Self::Ended(bytes) => {
                let read = minicbor::decode(bytes);
                Arc::new(read.unwrap_or_else(|error| panic!("what was packed is read: {error}")))
            }
        }
    }
}

/// All that the cluster knows of instances. One map of each kind for all of them: small maps of their own would take more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Instances {
    pub records: OrdMap<InstanceNo, Kept>,
    pub checkpoints: OrdMap<(InstanceNo, CheckpointId), Checkpoint>,
    pub sleeps: OrdMap<(InstanceNo, CheckpointId), Sleep>,
    pub custom_signals: OrdMap<(InstanceNo, CheckpointId), CustomSignal>,
    /// Encoded.
    pub events: OrdMap<(InstanceNo, u64), Arc<[u8]>>,
    /// By the number of the hour since 1970.
    pub hours: OrdMap<(u64, Tenant), HourCounts>,
    // Indexes: all of them re-derived by `check`.
    pub ids: OrdMap<InstanceId, InstanceNo>,
    pub of_task: OrdMap<TaskId, InstanceNo>,
    pub of_tenant: OrdSet<(Tenant, InstanceNo)>,
    /// Checkpoints of an instance in the order in which they were saved.
    pub checkpoint_order: OrdMap<(InstanceNo, u64), CheckpointId>,
    /// Instances outside the cluster that have ended.
    pub ended_outside: OrdSet<(TimeMs, InstanceNo)>,
    /// When programs are stopped that go on although their instances have ended.
    pub lingering: OrdSet<(TimeMs, InstanceNo)>,
    /// Instances that have not ended.
    pub live: u64,
    /// What all of them hold themselves.
    pub bytes: u64,
    /// What those hold that have ended.
    pub ended_bytes: u64,
    /// A spec of each image that new instances may share: which one is nobody's concern.
    pub specs: OrdMap<ImageId, SharedSpec>,
}

impl Instances {
    /// Whether nothing was ever known of any, or all is forgotten.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.hours.is_empty()
    }

    pub fn put(&mut self, no: InstanceNo, instance: Instance) {
        self.records.insert(no, Kept::new(instance));
    }

    /// Keys of this instance in a map by instance and checkpoint.
    pub fn all_of(no: InstanceNo) -> std::ops::Range<(InstanceNo, CheckpointId)> {
        (no, CheckpointId::first())..(InstanceNo(no.0 + 1), CheckpointId::first())
    }

    /// Whether two are the same: the indexes follow from the rest.
    pub fn same(&self, other: &Self) -> bool {
        self.records == other.records
            && self.checkpoints == other.checkpoints
            && self.sleeps == other.sleeps
            && self.custom_signals == other.custom_signals
            && self.events == other.events
            && self.hours == other.hours
            && self.lingering == other.lingering
            && (self.live, self.bytes, self.ended_bytes) == (other.live, other.bytes, other.ended_bytes)
    }
}

impl State {
    /// Whether any program must be stopped by then that goes on although its instance has ended.
    pub(super) fn lingers(&self, now: TimeMs) -> bool {
        self.instances.lingering.get_min().is_some_and(|(at, _)| *at <= now)
    }

    /// One instance.
    pub fn instance(&self, no: InstanceNo) -> Option<Arc<Instance>> {
        self.instances.records.get(&no).map(Kept::get)
    }

    /// The instance of this id.
    pub fn instance_named(&self, id: &InstanceId) -> Option<InstanceNo> {
        self.instances.ids.get(id).copied()
    }

    /// The instance whose launches are attempts of this task.
    pub fn instance_of_task(&self, task: TaskId) -> Option<InstanceNo> {
        if self.instances.of_task.is_empty() {
            return None;
        }
        self.instances.of_task.get(&task).copied()
    }

    /// Every instance that is known, the newest first.
    pub fn instances(&self) -> impl Iterator<Item = (InstanceNo, Arc<Instance>)> + '_ {
        self.instances.records.iter().rev().map(|(no, kept)| (*no, kept.get()))
    }

    /// The instances of a tenant, the newest first.
    pub fn instances_of<'a>(
        &'a self,
        tenant: &Tenant,
    ) -> impl Iterator<Item = (InstanceNo, Arc<Instance>)> + use<'a> {
        let ends = (tenant.clone(), InstanceNo(0))..=(tenant.clone(), InstanceNo(u64::MAX));
        let own = self.instances.of_tenant.range(ends).rev();
        own.filter_map(|(_, no)| Some((*no, self.instance(*no)?)))
    }

    /// A checkpoint of an instance, or a failed try of one.
    pub fn checkpoint(&self, no: InstanceNo, id: &CheckpointId) -> Option<&Checkpoint> {
        self.instances.checkpoints.get(&(no, id.clone()))
    }

    /// The checkpoints of an instance, the one saved last first.
    pub fn checkpoints_of(&self, no: InstanceNo) -> impl Iterator<Item = (&CheckpointId, &Checkpoint)> {
        let order = self.instances.checkpoint_order.range((no, 0)..=(no, u64::MAX)).rev();
        order.filter_map(move |(_, id)| Some((id, self.checkpoint(no, id)?)))
    }

    /// The sleeps of an instance on a checkpoint.
    pub fn sleep(&self, no: InstanceNo, id: &CheckpointId) -> Option<&Sleep> {
        self.instances.sleeps.get(&(no, id.clone()))
    }

    /// When the nearest of the sleeps is over that a launch has asked for and that are not over.
    pub fn nearest_wake(&self, no: InstanceNo, launch: u32) -> Option<TimeMs> {
        let all = self.instances.sleeps.range(Instances::all_of(no)).map(|(_, sleep)| sleep);
        all.filter(|sleep| sleep.asked.0 == launch)
            .filter_map(|sleep| sleep.until)
            .filter(|until| *until > self.time)
            .min()
    }

    /// The custom signal for a checkpoint of an instance, whoever has got it.
    pub fn custom_signal(&self, no: InstanceNo, id: &CheckpointId) -> Option<&CustomSignal> {
        self.instances.custom_signals.get(&(no, id.clone()))
    }

    /// The events of an instance with their numbers, the newest first.
    pub fn events_of(&self, no: InstanceNo) -> impl Iterator<Item = (u64, InstanceEvent)> + '_ {
        let own = self.instances.events.range((no, 0)..=(no, u64::MAX)).rev();
        own.map(|((_, number), bytes)| (*number, decode_event(bytes)))
    }

    /// How the instances of a tenant ended, by the hour since 1970.
    pub fn instance_hours<'a>(
        &'a self,
        tenant: &'a Tenant,
    ) -> impl Iterator<Item = (u64, HourCounts)> + use<'a> {
        let own = self.instances.hours.iter().filter(move |((_, of), _)| of == tenant);
        own.map(|((hour, _), counts)| (*hour, *counts))
    }

    /// Bytes of payloads that the state itself holds for instances.
    pub fn durable_bytes(&self) -> u64 {
        self.instances.bytes
    }
}
