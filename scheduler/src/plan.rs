//! Placement: which waiting task starts where. Only reads; `CommitPlan` is checked again when applied.

mod chunks;
mod filter;
mod lines;
mod nodes;
mod overlooked;
mod planner;
mod reservation;
mod room;
mod score;
mod tenants;

use std::collections::BTreeSet;

use minicbor::{Decode, Encode};
use stint_protocol::{GpuId, Incarnation, NodeId, Runtime, TaskId, TaskSpec, Tenant};

use crate::node::Node;
use crate::state::State;
use crate::task::TaskState;

pub(crate) use filter::{Rules, UnfitReason, choose_runtime, fits_labels, lacks_of_empty, missing, names_of};
pub use overlooked::overlooked;
pub use planner::Planner;

/// Bytes of one plan, about. With the commands and the ends of leases that an entry holds beside it, the entry stays below a
/// megabyte, which is what the log takes.
const PLAN_BYTES: usize = 192 * 1024;

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

impl Plan {
    /// Whether what still waits comes with the next plan.
    pub(crate) fn is_full(&self) -> bool {
        self.assignments.iter().map(Assignment::bytes).sum::<usize>() >= PLAN_BYTES
    }
}

impl Assignment {
    /// Bytes that it takes in an entry, about.
    fn bytes(&self) -> usize {
        64 + 48 * self.gpus.len()
    }
}

/// What the leader knows beyond the replicated state.
#[derive(Clone, Debug, Default)]
pub struct PlanInput {
    /// Nodes that reported lately and may get work.
    pub reachable: BTreeSet<NodeId>,
}

/// What a planner that knows nothing yet would start now.
pub fn plan(state: &State, input: &PlanInput) -> Plan {
    Planner::default().plan(state, input)
}

/// Whether a node could run a task now if nothing else ran there.
pub(crate) fn could_run(state: &State, node: &Node, tenant: &Tenant, spec: &TaskSpec) -> bool {
    let whole = &node.offer.resources;
    filter::missing_but_gpus(node, spec, whole, node.offer.slots).is_empty()
        && choose_runtime(state, node, (tenant, spec), Rules::Heeded).is_ok()
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
    let alone = filter::strangers(state, node.id, &task.fields.tenant).next().is_none();
    let backs_off = node.hold(state.time(), assignment.runtime, &task.fields.tenant).is_some();
    // Whether rules count is for who plans to know; a node asks its own again.
    let allowed = filter::not_allowed(node, assignment.runtime, &task.spec, Rules::Ignored);
    let takes = filter::takes_with(state, node, assignment.runtime, &task.fields.tenant);
    let allowed = takes && allowed.is_ok_and(|refused| refused.is_empty());
    let barred = state.settings().tenants.check_image(&task.fields.tenant, &task.spec).is_err();
    waits
        && !barred
        && alone
        && same_life
        && !backs_off
        && gpus_free
        && count_right
        && allowed
        && lacks.is_empty()
}
