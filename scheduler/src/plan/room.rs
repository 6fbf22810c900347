//! What a task needs and what is free for it, as numbers that can be compared at once.

use stint_protocol::{Class, Resources};

use super::chunks::Summary;
use crate::demand::Demand;
use crate::node::Node;
use crate::settings::Settings;

/// What one attempt takes from its node. As a summary: the least of each among several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    pub resources: Resources,
    /// Whole GPUs that it leases.
    pub gpus: u32,
}

impl Need {
    pub(super) fn from_demand(demand: &Demand) -> Self {
        Self { resources: demand.resources(), gpus: demand.gpus().map_or(0, |gpus| gpus.count) }
    }
}

impl Summary<Need> for Need {
    fn from_value(value: &Need) -> Self {
        *value
    }

    fn widen(&mut self, value: &Need) {
        let (own, other) = (&mut self.resources, &value.resources);
        own.cpu_milli = own.cpu_milli.min(other.cpu_milli);
        own.memory_bytes = own.memory_bytes.min(other.memory_bytes);
        self.gpus = self.gpus.min(value.gpus);
    }

    fn join(&mut self, other: &Self) {
        self.widen(other);
    }
}

/// What is free on a node. As a summary: the most of each among several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    /// For tasks that lease GPUs.
    pub free: Resources,
    /// For tasks that lease none: less what is kept for free GPUs.
    pub open: Resources,
    /// What no GPU ever has kept for it: a task that needs more could never start if it had to leave the rest alone. As a
    /// summary: the least of each.
    pub unkept: Resources,
    pub slots: u32,
    pub gpus: u32,
}

impl Room {
    /// Of a node with so much free.
    pub(super) fn on_node(settings: &Settings, node: &Node, free: Resources, slots: u32, gpus: u32) -> Self {
        let open = free.minus(&kept_for_gpus(settings, node, gpus));
        Self { free, open, unkept: unkept(settings, node), slots, gpus }
    }

    /// Whether the amounts suffice.
    pub(super) fn holds(&self, need: &Need) -> bool {
        let all = need.gpus > 0 || !self.unkept.holds(&need.resources);
        let amounts = if all { &self.free } else { &self.open };
        self.slots > 0 && self.gpus >= need.gpus && amounts.holds(&need.resources)
    }

    /// Whether anything that needs as much as this or more of each may fit: some of it may lease GPUs, some not.
    pub(super) fn may_hold(&self, least: &Need) -> bool {
        self.slots > 0 && self.gpus >= least.gpus && self.free.holds(&least.resources)
    }

    /// Whether any amount is more than it was.
    pub(super) fn grew_from(&self, before: &Room) -> bool {
        let more = |now: &Resources, then: &Resources| {
            now.cpu_milli > then.cpu_milli || now.memory_bytes > then.memory_bytes
        };
        self.slots > before.slots
            || self.gpus > before.gpus
            || more(&self.free, &before.free)
            || more(&self.open, &before.open)
    }
}

impl Summary<Room> for Room {
    fn from_value(value: &Room) -> Self {
        *value
    }

    fn widen(&mut self, value: &Room) {
        let most = |own: &mut Resources, other: &Resources| {
            own.cpu_milli = own.cpu_milli.max(other.cpu_milli);
            own.memory_bytes = own.memory_bytes.max(other.memory_bytes);
        };
        most(&mut self.free, &value.free);
        most(&mut self.open, &value.open);
        self.unkept.cpu_milli = self.unkept.cpu_milli.min(value.unkept.cpu_milli);
        self.unkept.memory_bytes = self.unkept.memory_bytes.min(value.unkept.memory_bytes);
        self.slots = self.slots.max(value.slots);
        self.gpus = self.gpus.max(value.gpus);
    }

    fn join(&mut self, other: &Self) {
        self.widen(other);
    }
}

fn unkept(settings: &Settings, node: &Node) -> Resources {
    node.offer.resources.minus(&kept_for_gpus(settings, node, node.offer.gpus.len() as u32))
}

/// What of a node is free for a task that leases no GPU and needs so much.
pub(crate) fn free_without_gpus(
    settings: &Settings,
    node: &Node,
    free_gpus: u32,
    need: &Resources,
) -> Resources {
    if unkept(settings, node).holds(need) {
        node.free().minus(&kept_for_gpus(settings, node, free_gpus))
    } else {
        node.free()
    }
}

/// What a node keeps for its free GPUs: for each as much as a task of class gpu gets by default, but no more than half
/// of the node (docs/internals/placement.md#kept-for-gpus).
fn kept_for_gpus(settings: &Settings, node: &Node, free_gpus: u32) -> Resources {
    let keeps = settings.rules.keep_for_gpus && node.offer.classes.contains(&Class::Gpu);
    if free_gpus == 0 || !keeps {
        return Resources::default();
    }
    let (rules, total) = (settings.class(Class::Gpu), &node.offer.resources);
    let kept = |each: u64, total: u64| each.saturating_mul(u64::from(free_gpus)).min(total / 2);
    Resources {
        cpu_milli: kept(u64::from(rules.default_cpu_milli), total.cpu_milli),
        memory_bytes: kept(rules.default_memory_bytes, total.memory_bytes),
    }
}
