//! Why a task waits, on which node, and what would let it start. Only reads.

mod never;

use std::collections::BTreeSet;

use stint_protocol::{NodeId, Runtime, TaskId};

use crate::node::Node;
use crate::plan::{PlanInput, Planner, Rules, UnfitReason, choose_runtime, missing, names_of as words_of};
use crate::state::State;
use crate::task::{StopReason, SuspendReason, Task, TaskState};

pub use never::never_fits;

/// What one node lacks for the task; empty = it fits there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReason {
    pub node: NodeId,
    pub name: String,
    pub missing: Vec<String>,
}

/// The answer of `stint explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub summary: String,
    pub nodes: Vec<NodeReason>,
    /// What would unblock it.
    pub advice: Vec<String>,
    /// Waiting tasks that come first, of any class.
    pub ahead: u64,
}

/// Explains a known task; none when it is not known.
pub fn explain(state: &State, id: TaskId, reachable: &BTreeSet<NodeId>) -> Option<Explanation> {
    if let Some(done) = state.finished(id) {
        let outcome = &done.fields.outcome;
        return Some(only_summary(format!("finished: {} ({})", outcome.as_str(), outcome.kind.as_str())));
    }
    let task = state.task(id)?;
    match &task.fields.state {
        TaskState::Leased(leased) => {
            let node = state.node(leased.node).map_or("?", |n| n.name.as_str());
            let what = match leased.stop {
                Some(StopReason::Cancelled) => "is being stopped",
                Some(StopReason::Drained) => "is being stopped, to go on elsewhere,",
                Some(StopReason::Asleep) => "is being stopped while its instance sleeps,",
                Some(StopReason::Finished) => "is being stopped, as its instance has ended,",
                None => "holds its lease",
            };
            Some(only_summary(format!("attempt {} {what} on node {node}", task.fields.attempts)))
        }
        TaskState::Queued { not_before, .. } if *not_before > state.time() => {
            let wait = not_before.since(state.time());
            Some(only_summary(format!("waits {wait} ms more before its next attempt ({})", last_end(task))))
        }
        TaskState::Queued { .. } => Some(explain_waiting(state, id, task, reachable)),
        TaskState::Suspended { reason, wake_at, .. } => {
            Some(only_summary(suspended(*reason, wake_at.map(|at| at.since(state.time())))))
        }
    }
}

/// `left_ms`: until it is woken, when a time wakes it.
fn suspended(reason: SuspendReason, left_ms: Option<u64>) -> String {
    let what = match reason {
        SuspendReason::Sleep => "sleeps",
        SuspendReason::Paused => "is paused",
    };
    match left_ms {
        Some(left) => format!("{what} for {left} ms more, then it waits for a node again"),
        None => format!("{what} until it is woken"),
    }
}

fn only_summary(summary: String) -> Explanation {
    Explanation { summary, nodes: Vec::new(), advice: Vec::new(), ahead: 0 }
}

fn last_end(task: &Task) -> String {
    let last = task.fields.records.last();
    last.map_or_else(String::new, |r| format!("attempt {} ended as {}", r.number, r.end.as_str()))
}

/// Asks the planner what it would do now, so that it says nothing else than what happens.
fn explain_waiting(state: &State, id: TaskId, task: &Task, reachable: &BTreeSet<NodeId>) -> Explanation {
    // No node could do anything about that.
    if let Err(barred) = state.settings().tenants.check_image(&task.fields.tenant, &task.spec) {
        let advice = vec![
            format!(
                "it goes on once an administrator allows that: `stint tenant set {} --images …`",
                barred.tenant
            ),
            "cancel it to have it no more".into(),
        ];
        return Explanation { advice, ..only_summary(barred.to_string()) };
    }
    let mut planner = Planner::default();
    let ahead = planner.ahead(state, reachable, id, task);
    let input = PlanInput { reachable: reachable.clone() };
    let plan = planner.plan(state, &input);
    let starts = plan.assignments.iter().any(|assignment| assignment.task == id);
    let views: Vec<(&Node, Vec<NodeUnfitReason>)> = state
        .nodes()
        .map(|node| {
            let mut lacks = lacks(state, node, task, reachable);
            if lacks.is_empty() && !starts {
                lacks.extend(planner.taken(state, task, node.id).map(NodeUnfitReason::Of));
            }
            (&**node, lacks)
        })
        .collect();
    let expected =
        planner.expected(state, task).map(|(node, at)| expected(state, node, at.since(state.time())));
    let nodes = views.iter().map(|(node, lacks)| NodeReason {
        node: node.id,
        name: node.name.clone(),
        missing: lacks.iter().map(NodeUnfitReason::message).collect(),
    });
    Explanation {
        summary: summary(&views, starts, ahead, expected.as_deref()),
        nodes: nodes.collect(),
        advice: advice(task, &views),
        ahead,
    }
}

enum NodeUnfitReason {
    Unreachable,
    Of(UnfitReason),
    /// No runtime fits; with what the node says of those it cannot use.
    Runtime(UnfitReason, Vec<String>),
}

impl NodeUnfitReason {
    fn message(&self) -> String {
        match self {
            NodeUnfitReason::Unreachable => "does not report to the leader".into(),
            NodeUnfitReason::Of(missing) => missing.to_string(),
            NodeUnfitReason::Runtime(missing, why) if why.is_empty() => missing.to_string(),
            NodeUnfitReason::Runtime(missing, why) => format!("{missing} ({})", why.join("; ")),
        }
    }

    fn is_busy(&self) -> bool {
        matches!(self, NodeUnfitReason::Of(missing) if missing.is_busy())
    }
}

fn lacks(state: &State, node: &Node, task: &Task, reachable: &BTreeSet<NodeId>) -> Vec<NodeUnfitReason> {
    let mut lacks: Vec<NodeUnfitReason> = Vec::new();
    if !reachable.contains(&node.id) {
        lacks.push(NodeUnfitReason::Unreachable);
    }
    let of = (&task.fields.tenant, &*task.spec);
    lacks.extend(missing(state, node, of).into_iter().map(NodeUnfitReason::Of));
    match choose_runtime(state, node, of, Rules::Heeded) {
        Ok(runtime) => lacks.extend(backing_off(state, node, runtime, task).map(NodeUnfitReason::Of)),
        Err(runtime) => {
            let why = unusable(node, &runtime);
            lacks.push(NodeUnfitReason::Runtime(runtime, why));
        }
    }
    lacks
}

/// Whether the node failed to start tasks of this kind and gets none for a while.
fn backing_off(state: &State, node: &Node, runtime: Runtime, task: &Task) -> Option<UnfitReason> {
    let backoff = node.hold(state.time(), runtime, &task.fields.tenant)?;
    let (left_ms, tasks) = (backoff.until.since(state.time()), backoff.tasks);
    Some(UnfitReason::Held { left_ms, tasks, message: backoff.message.clone() })
}

/// What a node says of the runtimes that it lacks.
fn unusable(node: &Node, missing: &UnfitReason) -> Vec<String> {
    let UnfitReason::Runtime(wanted) = missing else { return Vec::new() };
    let of = |problem: &&String| wanted.iter().any(|r| problem.starts_with(&format!("runtime {r}: ")));
    node.problems.iter().filter(of).cloned().collect()
}

/// Where and when a task that is next of its class starts at the latest.
fn expected(state: &State, node: NodeId, left_ms: u64) -> String {
    let node = state.node(node).map_or("?", |node| node.name.as_str());
    format!("node {node} is kept for it, in {} s at the latest", left_ms.div_ceil(1000))
}

fn summary(
    views: &[(&Node, Vec<NodeUnfitReason>)],
    starts: bool,
    ahead: u64,
    expected: Option<&str>,
) -> String {
    if views.is_empty() {
        return "no node is a member of this cluster".into();
    }
    let first = match ahead {
        1 => "1 waiting task comes first".to_owned(),
        ahead => format!("{ahead} waiting tasks come first"),
    };
    if starts && views.iter().all(|(_, lacks)| !lacks.is_empty()) {
        return "no node allows it: it ends as denied, on the node that the next plan gives it to".into();
    }
    if starts {
        return format!("a node fits; it starts with the next plan ({first})");
    }
    let only_busy = |(_, lacks): &&(&Node, Vec<NodeUnfitReason>)| lacks.iter().all(NodeUnfitReason::is_busy);
    let is_held = |lacks: &[NodeUnfitReason]| {
        lacks.iter().any(|lack| matches!(lack, NodeUnfitReason::Of(UnfitReason::Held { .. })))
    };
    let able: Vec<&(&Node, Vec<NodeUnfitReason>)> = views.iter().filter(only_busy).collect();
    let backing_off = able.iter().filter(|(_, lacks)| is_held(lacks)).count();
    let why = match backing_off {
        0 => "all busy now".to_owned(),
        backing_off if backing_off == able.len() => "all held after failed starts".to_owned(),
        backing_off => format!("all busy now or held after failed starts ({backing_off})"),
    };
    match able.len() {
        0 => format!("no node of {} can ever take it as things are", views.len()),
        able => {
            let when = expected.map_or_else(String::new, |expected| format!("; {expected}"));
            format!("{able} of {} nodes can take it, {why}; {first}{when}", views.len())
        }
    }
}

fn advice(task: &Task, views: &[(&Node, Vec<NodeUnfitReason>)]) -> Vec<String> {
    if views.iter().any(|(_, lacks)| lacks.is_empty()) {
        return Vec::new();
    }
    let single = views.iter().filter(|(_, lacks)| lacks.len() == 1);
    let mut lines: Vec<String> = single.map(|(node, lacks)| unblock(node, &lacks[0])).collect();
    if lines.is_empty() {
        lines.push(format!(
            "add a node that offers class {} with what it asks for, or ask for less",
            task.spec.class
        ));
    }
    lines
}

fn unblock(node: &Node, lack: &NodeUnfitReason) -> String {
    let name = &node.name;
    match lack {
        NodeUnfitReason::Unreachable => format!("would start if node {name} were back"),
        NodeUnfitReason::Of(UnfitReason::Cordoned | UnfitReason::Draining) => {
            format!("would start on {name} after `stint node resume {name}`")
        }
        NodeUnfitReason::Of(UnfitReason::Held { .. }) => {
            format!(
                "would start on {name} once it can start tasks again: `stint node resume {name}` when that is mended"
            )
        }
        NodeUnfitReason::Of(UnfitReason::Label { key, wanted, .. }) => {
            format!("would start on {name} if it had label {key}={wanted}")
        }
        NodeUnfitReason::Of(UnfitReason::Class(class)) => {
            format!("would start on {name} if its config offered class {class}")
        }
        NodeUnfitReason::Runtime(UnfitReason::Runtime(runtimes), _) => {
            format!("would start on {name} if it offered one of: {}", words_of(runtimes))
        }
        NodeUnfitReason::Of(missing @ UnfitReason::Gpus { need, free, .. }) if missing.is_busy() => {
            format!("would start on {name} if {} GPU(s) were freed", need - free)
        }
        NodeUnfitReason::Of(UnfitReason::Reserved { .. } | UnfitReason::Given) => {
            format!("would start on {name} after the tasks that come first")
        }
        NodeUnfitReason::Of(missing) if missing.is_busy() => {
            format!("would start on {name} when a task there ends")
        }
        NodeUnfitReason::Of(missing) | NodeUnfitReason::Runtime(missing, _) => format!("{name}: {missing}"),
    }
}
