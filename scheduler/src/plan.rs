//! Placement: which waiting task starts where. Only reads; `CommitPlan` is checked again when applied.

mod capacity;
mod filter;
mod score;

use std::collections::BTreeSet;

use minicbor::{Decode, Encode};
use stint_protocol::{Class, GpuId, Incarnation, NodeId, Runtime, SharedSpec, TaskId};

use crate::state::State;
use crate::task::TaskState;

use capacity::FreeCapacity;
pub(crate) use filter::{UnfitReason, choose_runtime, missing, names_of};

/// Waiting tasks of one class that a plan looks at without placing one: bounds the cost of a plan when the
/// queue is long and nothing in it fits. Tasks of a shape that was tried already are not counted twice.
const BACKFILL_WINDOW: usize = 512;
/// Places in the queue that a plan walks over at most, for each class.
const SCAN_LIMIT: usize = 16_384;
/// Assignments of one plan: keeps its entry well under a megabyte.
const PLAN_LIMIT: usize = 4_096;

/// One task onto one node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Assignment {
    #[n(0)]
    pub task: TaskId,
    #[n(1)]
    pub node: NodeId,
    #[n(2)]
    pub incarnation: Incarnation,
    #[n(3)]
    pub runtime: Runtime,
    #[n(4)]
    pub gpus: Vec<GpuId>,
}

/// Assignments, each independent of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Plan {
    #[n(0)]
    pub assignments: Vec<Assignment>,
}

/// What the leader knows beyond the replicated state.
#[derive(Clone, Debug, Default)]
pub struct PlanInput {
    /// Nodes that reported lately and may get work.
    pub reachable: BTreeSet<NodeId>,
}

/// Chooses what starts now: by class, then priority, then age.
pub fn plan(state: &State, input: &PlanInput) -> Plan {
    if state.queue.is_empty() {
        return Plan::default();
    }
    let mut capacity = FreeCapacity::open(state, &input.reachable);
    let mut plan = Plan::default();
    for class in Class::ALL {
        plan_class(state, class, &mut capacity, &mut plan);
    }
    plan
}

fn plan_class(state: &State, class: Class, capacity: &mut FreeCapacity, plan: &mut Plan) {
    if state.queued_keys(class).next().is_none() || !capacity.serves(class) {
        return;
    }
    // Shapes that fit nowhere now: a task of the same shape cannot fit either.
    let mut blocked: Vec<SharedSpec> = Vec::new();
    for key in state.queued_keys(class).take(SCAN_LIMIT) {
        if plan.assignments.len() >= PLAN_LIMIT || blocked.len() >= BACKFILL_WINDOW || !capacity.has_room() {
            return;
        }
        let Some(task) = state.task(key.task) else { continue };
        if blocked.iter().rev().any(|spec| spec.ptr_eq(&task.spec)) {
            continue;
        }
        match capacity.place(state, key.task, task) {
            Some(assignment) => plan.assignments.push(assignment),
            None => blocked.push(task.spec.clone()),
        }
    }
}

/// Whether an assignment is still right, against the state as it is when the plan is applied.
pub(crate) fn assignment_holds(state: &State, assignment: &Assignment) -> bool {
    let Some(task) = state.task(assignment.task) else { return false };
    let Some(node) = state.node(assignment.node) else { return false };
    let waits =
        matches!(task.fields.state, TaskState::Queued { not_before, .. } if not_before <= state.time());
    let same_life = node.incarnation == assignment.incarnation && node.backing_off(state.time()).is_none();
    let gpus_free =
        assignment.gpus.iter().all(|g| state.gpu(g).is_some_and(|r| r.free_on(node.id).is_some()));
    let distinct: BTreeSet<&GpuId> = assignment.gpus.iter().collect();
    let count_right =
        distinct.len() == assignment.gpus.len() && assignment.gpus.len() == task.spec.leased_gpus() as usize;
    let lacks = filter::missing_but_gpus(node, &task.spec, &node.free(), node.free_slots());
    let allowed = filter::not_allowed(node, assignment.runtime, &task.spec);
    let allowed = allowed.is_ok_and(|refused| refused.is_empty());
    waits && same_life && gpus_free && count_right && allowed && lacks.is_empty()
}
