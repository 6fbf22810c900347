//! Says what a plan should have placed, by looking at every waiting task and every node: what the planner knows by heart is
//! derived anew here.

use stint_protocol::{NodeId, TaskId};

use super::filter::{Rules, choose_runtime, lets_have, missing};
use super::nodes::Fit;
use super::planner::Planner;
use super::room::free_without_gpus;
use super::{Plan, PlanInput};
use crate::node::Node;
use crate::state::State;
use crate::task::Task;

/// A task that waits although it fits on a node, when `plan`, the planner's last one, was carried out and nothing else
/// happened. None: there is no such task, or the plan was full.
pub fn overlooked(
    planner: &mut Planner,
    state: &State,
    input: &PlanInput,
    plan: &Plan,
) -> Option<(TaskId, NodeId)> {
    if plan.is_full() {
        return None;
    }
    let nodes: Vec<&Node> =
        state.nodes().map(|node| &**node).filter(|node| input.reachable.contains(&node.id)).collect();
    for (key, line) in &state.queue.lines {
        let Some(id) = line.0.get_min().map(|place| place.task) else { continue };
        let Some(task) = state.task(id) else { continue };
        for node in &nodes {
            let Some(fit) = fit(state, node, task) else { continue };
            let kept =
                planner.lines.id_of(key).is_some_and(|line| planner.kept_from(state, line, &fit).is_some());
            if !kept {
                return Some((id, node.id));
            }
        }
    }
    None
}

fn fit(state: &State, node: &Node, task: &Task) -> Option<Fit> {
    state.settings().tenants.check_image(&task.fields.tenant, &task.spec).ok()?;
    let (now, tenant) = (state.time(), &task.fields.tenant);
    let of = (tenant, &*task.spec);
    if !missing(state, node, of).is_empty() {
        return None;
    }
    let allowed = state.nodes().any(|node| node.incarnation.0 != 0 && lets_have(state, &node.offer, of));
    let runtime = choose_runtime(state, node, of, Rules::for_task(allowed)).ok()?;
    if node.hold(now, runtime, tenant).is_some() {
        return None;
    }
    if let Some(backoff) = node.on_trial(now, runtime, tenant) {
        let since = |lease: stint_protocol::LeaseId| {
            let tried = state.task(lease.task).filter(|tried| tried.fields.tenant == *tenant)?;
            tried.leased().filter(|leased| leased.runtime == runtime).map(|leased| leased.since)
        };
        if state.leases_of(node.id).filter_map(since).any(|since| since > backoff.at) {
            return None;
        }
    }
    let free = |id| state.gpu(id).is_some_and(|record| record.free_on(node.id).is_some());
    let free_gpus: Vec<_> = node.offer.gpus.iter().filter(|gpu| free(&gpu.id)).collect();
    let need = task.spec.resources();
    let gpus = match task.spec.leases() {
        Some(request) => {
            let accepted = free_gpus.iter().filter(|gpu| request.accepts(gpu)).map(|gpu| gpu.id.clone());
            accepted.take(request.count as usize).collect()
        }
        None if free_without_gpus(state.settings(), node, free_gpus.len() as u32, &need).holds(&need) => {
            Vec::new()
        }
        None => return None,
    };
    Some(Fit { node: node.id, runtime, gpus })
}
