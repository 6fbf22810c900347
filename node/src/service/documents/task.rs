//! Tasks, their attempts and their outcomes.

use stint_protocol::{EndKind, KeptFile, NodeId, NotKept, Outcome, TaskId, TaskStatus, Usage, api};
use stint_scheduler::{AttemptRecord, FinishedTask, State, Task, TaskState};

use super::node_name;

/// A task as the state knows it.
pub fn task(state: &State, id: TaskId) -> Option<api::Task> {
    let live = state.task(id).map(|task| live_task(state, id, task));
    live.or_else(|| state.finished(id).map(|task| finished_task(state, id, &task)))
}

/// Those of these tasks that are still known, without what their earlier attempts left.
pub fn tasks(state: &State, ids: &[TaskId]) -> Vec<api::Task> {
    let mut finished = state.finished_tasks();
    let mut one = |id: TaskId| {
        let live = state.task(id).map(|task| live_task(state, id, task));
        live.or_else(|| finished.get(id).map(|task| finished_task(state, id, &task)))
    };
    ids.iter().filter_map(|id| one(*id)).map(without_earlier_outputs).collect()
}

/// As one of many: what attempts left may be more than all else of them together.
pub fn without_earlier_outputs(mut task: api::Task) -> api::Task {
    task.attempt_records.iter_mut().for_each(|record| record.outputs.clear());
    task
}

/// Where a live task stands.
pub fn listed_state(task: &Task) -> TaskStatus {
    match &task.fields.state {
        TaskState::Queued { .. } => TaskStatus::Queued,
        TaskState::Leased(leased) if leased.is_cancelled() => TaskStatus::Stopping,
        TaskState::Leased(_) => TaskStatus::Running,
        TaskState::Suspended { .. } => TaskStatus::Suspended,
    }
}

/// A task that waits or runs.
pub fn live_task(state: &State, id: TaskId, task: &Task) -> api::Task {
    let fields = &task.fields;
    let mut document = api::Task {
        id: id.to_string(),
        name: fields.name.as_ref().map(|name| name.to_string()),
        tenant: fields.tenant.to_string(),
        state: listed_state(task).as_str().into(),
        submitted_at_ms: fields.submitted_at.0,
        attempts: fields.attempts,
        attempt_records: fields.records.iter().map(|record| attempt(state, record)).collect(),
        ..api::Task::of_spec(&task.spec)
    };
    match &fields.state {
        TaskState::Queued { not_before, .. } => {
            document.not_before_ms = (*not_before > state.time()).then_some(not_before.0);
        }
        TaskState::Suspended { wake_at, .. } => document.not_before_ms = wake_at.map(|at| at.0),
        TaskState::Leased(leased) => {
            let node = node_name(state, leased.node);
            document.node_id = Some(leased.node.0);
            document.node = Some(node.clone());
            document.attempt_records.push(api::Attempt {
                number: fields.attempts,
                node_id: leased.node.0,
                node,
                started_at_ms: Some(leased.since.0),
                gpus: leased.gpus.iter().map(|gpu| gpu.to_string()).collect(),
                ..api::Attempt::default()
            });
        }
    }
    document
}

/// A task that ended.
pub fn finished_task(state: &State, id: TaskId, task: &FinishedTask) -> api::Task {
    let fields = &task.fields;
    let last = fields.records.last();
    api::Task {
        id: id.to_string(),
        name: fields.name.as_ref().map(|name| name.to_string()),
        tenant: fields.tenant.to_string(),
        state: TaskStatus::Finished.as_str().into(),
        submitted_at_ms: fields.submitted_at.0,
        attempts: fields.attempts,
        node_id: last.map(|record| record.node.0),
        node: last.map(|record| node_name(state, record.node)),
        outcome: Some(outcome(state, &fields.outcome, &fields.records)),
        attempt_records: fields.records.iter().map(|record| attempt(state, record)).collect(),
        ..api::Task::of_spec(&task.spec)
    }
}

fn outcome(state: &State, outcome: &Outcome, records: &[AttemptRecord]) -> api::Outcome {
    let decided = records.iter().find(|record| record.number == outcome.attempt);
    let kept = |file| kept(state, decided.map(|record| record.node), file);
    let kind = if outcome.crash_loop { "crash_loop" } else { outcome.kind.as_str() };
    api::Outcome {
        status: outcome.as_str().into(),
        kind: kind.into(),
        exit_code: outcome.kind.program_exit_code(),
        run_exit_code: outcome.exit_code(),
        message: end_message(&outcome.kind, &outcome.message),
        finished_at_ms: outcome.finished_at.0,
        run_ms: outcome.run_ms,
        attempt: outcome.attempt,
        outputs: outcome.outputs.iter().flatten().map(kept).collect(),
        not_kept: outcome.not_kept.iter().flatten().map(not_kept).collect(),
        usage: outcome.usage.as_deref().map(usage),
    }
}

fn kept(state: &State, node: Option<NodeId>, kept: &KeptFile) -> api::Kept {
    api::Kept {
        path: kept.path.clone(),
        digest: kept.blob.digest.to_string(),
        size_bytes: kept.blob.size,
        stored: kept.stored,
        executable: kept.executable.unwrap_or_default(),
        gone: is_gone(state, node, kept),
    }
}

/// Whether nobody has the bytes of a file that an attempt on this node left.
pub fn is_gone(state: &State, node: Option<NodeId>, kept: &KeptFile) -> bool {
    match kept.stored {
        true => state.blob(&kept.blob.digest).is_none_or(|record| record.holders.is_empty()),
        false => node.is_none_or(|node| state.node(node).is_none()),
    }
}

/// A file that was not kept.
pub fn not_kept(file: &NotKept) -> api::NotKept {
    api::NotKept { path: file.path.clone(), reason: file.reason.clone() }
}

/// What an attempt used.
pub fn usage(usage: &Usage) -> api::Usage {
    let Usage { cpu_ms, peak_memory_bytes, read_bytes, written_bytes } = *usage;
    api::Usage { cpu_ms, peak_memory_bytes, read_bytes, written_bytes }
}

fn attempt(state: &State, record: &AttemptRecord) -> api::Attempt {
    api::Attempt {
        number: record.number,
        node_id: record.node.0,
        node: node_name(state, record.node),
        started_at_ms: Some(record.leased_at.0),
        ended_at_ms: Some(record.ended_at.0),
        end: Some(record.end.as_str().into()),
        message: end_message(&record.end, &record.message),
        gpus: record.gpus.iter().map(|gpu| gpu.to_string()).collect(),
        outputs: record.outputs().iter().map(|file| kept(state, Some(record.node), file)).collect(),
        outputs_forgotten: record.outputs_forgotten,
    }
}

/// What is said of an end that brought no message of its own.
pub fn end_message(kind: &EndKind, own: &str) -> String {
    if own.is_empty() { kind.default_message() } else { own.into() }
}
