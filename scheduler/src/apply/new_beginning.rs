//! A cluster that begins anew from the state of another one (docs/using/recovery.md). No command does this: it is done to
//! the copy of a stopped peer, or to a file, before a new cluster has it.
//!
//! What the other cluster decided after this state is not known here. So no attempt of it is in force any more, and
//! numbers that it may have given away since are never given again.

use stint_protocol::{LeaseId, NodeId, TaskId, TimeMs};

use super::{StampedCommand, apply, lease, node};
use crate::command::Command;
use crate::state::State;
use crate::task::Task;

/// Attempts that a task may have had after this state was left: a hundred by its retry policy, and some for nodes that
/// were lost, drained, or failed to start it.
const ATTEMPTS_UNKNOWN: u32 = 10_000;
/// Nodes that may have joined after it.
const NODES_UNKNOWN: u64 = 10_000;
/// Tenants that may have been given a user number after it: some of them own files on the nodes.
const TENANTS_UNKNOWN: u32 = 1_000;

/// Makes this state the first one of a new cluster, at this time, with the node that it keeps as its one member (none: the
/// first one that is admitted). Every attempt is lost, as nobody can say what became of it; its task is tried again unless
/// it says otherwise.
///
/// Whoever starts from it first waits until the last lease of the other cluster is over (docs/internals/leases.md#new-beginning).
pub fn begin_anew(state: &mut State, keeps: Option<NodeId>, now: TimeMs) {
    // Time passes: what is due is done.
    let _ = apply(state, StampedCommand { now, command: Command::Tick });
    let mut changes = Vec::new();
    let leases: Vec<(NodeId, LeaseId)> = state.leases().collect();
    for (node, lease) in leases {
        lease::abandon(state, node, lease, &mut changes);
    }
    let others: Vec<NodeId> = state.nodes.keys().copied().filter(|id| Some(*id) != keeps).collect();
    for id in others {
        let removed = node::remove(state, id, &mut changes);
        assert!(removed.is_ok(), "node {id} holds nothing any more: {removed:?}");
    }
    let tasks: Vec<TaskId> = state.tasks.keys().copied().collect();
    for id in tasks {
        if let Some(task) = state.tasks.get_mut(&id) {
            let task: &mut Task = std::sync::Arc::make_mut(task);
            task.fields.attempts = task.fields.attempts.saturating_add(ATTEMPTS_UNKNOWN);
        }
    }
    state.next_node += NODES_UNKNOWN;
    state.uids.pass_over(TENANTS_UNKNOWN, state.settings.rules.tenant_uids);
    state.join_tokens.clear();
    state.access_tokens.clear();
    // It has an authority of its own, or that of the survivor alone.
    state.authorities = Default::default();
}

impl State {
    /// The id of the next node that is admitted.
    pub fn next_node(&self) -> NodeId {
        NodeId(self.next_node + 1)
    }
}
