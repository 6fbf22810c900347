//! What is free while a plan is made: the state's amounts less what the plan has given away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stint_protocol::{Class, GpuId, NodeId, Resources, Runtime, TaskId, TaskSpec};

use super::Assignment;
use super::filter::{choose_runtime, missing_but_gpus};
use super::score::{better, score};
use crate::node::{Node, NodeMode};
use crate::state::State;
use crate::task::Task;

/// Added to the score of a node that has not just failed to start the task: above every difference of scores.
const UNTRIED: u64 = 10_000;

struct NodeCapacity {
    node: Arc<Node>,
    free: Resources,
    slots: u32,
    gpus: Vec<GpuId>,
}

/// The nodes that may get work, with what is left of each.
pub(crate) struct FreeCapacity {
    rows: BTreeMap<NodeId, NodeCapacity>,
}

impl FreeCapacity {
    pub(crate) fn open(state: &State, reachable: &BTreeSet<NodeId>) -> Self {
        let usable = |node: &&Arc<Node>| {
            let ready = node.mode == NodeMode::Ready && node.backing_off(state.time()).is_none();
            ready && node.free_slots() > 0 && reachable.contains(&node.id)
        };
        let rows =
            state.nodes().filter(usable).map(|node| (node.id, NodeCapacity::open(state, node))).collect();
        Self { rows }
    }

    pub(crate) fn serves(&self, class: Class) -> bool {
        self.rows.values().any(|row| row.node.offer.classes.contains(&class))
    }

    pub(crate) fn has_room(&self) -> bool {
        self.rows.values().any(|row| row.slots > 0)
    }

    /// Gives the best node's resources to the task, if any node fits.
    pub(crate) fn place(&mut self, state: &State, id: TaskId, task: &Task) -> Option<Assignment> {
        let (node, runtime, gpus) = self.best(state, task)?;
        let row = self.rows.get_mut(&node)?;
        row.take(&task.spec, &gpus);
        Some(Assignment { task: id, node, incarnation: row.node.incarnation, runtime, gpus })
    }

    fn best(&self, state: &State, task: &Task) -> Option<(NodeId, Runtime, Vec<GpuId>)> {
        let placement = state.settings().placement;
        let mut best: Option<(u64, NodeId, Runtime, Vec<GpuId>)> = None;
        for (id, row) in &self.rows {
            let Some((runtime, gpus)) = row.fit(state, &task.spec) else { continue };
            let mut points = score(placement, &row.node.offer, &row.free, row.slots);
            if !task.fields.failed_to_start_on(*id) {
                points += UNTRIED;
            }
            if best.as_ref().is_none_or(|b| better((points, *id), (b.0, b.1))) {
                best = Some((points, *id, runtime, gpus));
            }
        }
        best.map(|(_, node, runtime, gpus)| (node, runtime, gpus))
    }
}

impl NodeCapacity {
    fn open(state: &State, node: &Arc<Node>) -> Self {
        let free = |id: &GpuId| state.gpu(id).is_some_and(|r| r.free_on(node.id).is_some());
        let gpus = node.offer.gpus.iter().map(|g| g.id.clone()).filter(|id| free(id)).collect();
        Self { node: node.clone(), free: node.free(), slots: node.free_slots(), gpus }
    }

    /// The runtime and the GPUs the task would get here.
    fn fit(&self, state: &State, spec: &TaskSpec) -> Option<(Runtime, Vec<GpuId>)> {
        // Asked again below, with words: most nodes of a full cluster fail here, where it costs nothing, and a plan
        // asks for every task.
        if self.slots == 0 || !self.free.holds(&spec.resources()) {
            return None;
        }
        if !missing_but_gpus(&self.node, spec, &self.free, self.slots).is_empty() {
            return None;
        }
        let runtime = choose_runtime(state, &self.node, spec).ok()?;
        let Some(request) = spec.leases() else {
            return Some((runtime, Vec::new()));
        };
        let fitting = |id: &&GpuId| self.node.offer.gpus.iter().any(|g| g.id == **id && request.accepts(g));
        let gpus: Vec<GpuId> =
            self.gpus.iter().filter(fitting).take(request.count as usize).cloned().collect();
        (gpus.len() == request.count as usize).then_some((runtime, gpus))
    }

    fn take(&mut self, spec: &TaskSpec, gpus: &[GpuId]) {
        self.free = self.free.minus(&spec.resources());
        self.slots = self.slots.saturating_sub(1);
        self.gpus.retain(|id| !gpus.contains(id));
    }
}
