//! One document that says how a task stands or ended (docs/using/results.md). Times are in milliseconds since 1970.

#[cfg(test)]
mod pins;

use serde_json::{Value, json};
use stint_protocol::{EndKind, LeaseId, NodeId, Outcome, TaskId};
use stint_scheduler::{AttemptRecord, FinishedTask, State, Task, TaskState};

use super::convert::{message, node_name};
use super::limits::metrics;
use crate::node::{Node, log_keeper};
use crate::wire::{LogAnswer, ReadLog};

/// Bytes of the end of each output stream: enough for the last words of a program, small enough for a list of results.
const TAIL_BYTES: u32 = 4 * 1024;

/// The document of a task that is known.
pub async fn document(node: &Node, state: &State, id: TaskId) -> Option<Value> {
    let keeper = log_keeper(state, id, 0);
    let tails = tails(node, keeper).await;
    let progress = progress(node, keeper).await;
    whole(state, id, tails, progress)
}

/// With the ends of its output, and with what it said about how far it is.
fn whole(state: &State, id: TaskId, (stdout, stderr): (Tail, Tail), progress: Value) -> Option<Value> {
    let mut document = match (state.finished(id), state.task(id)) {
        (Some(task), _) => finished(state, id, &task),
        (None, Some(task)) => live(state, id, task),
        (None, None) => return None,
    };
    document["progress"] = progress;
    if document["error"].is_object() {
        // What the last attempt wrote is not why a task ended that waited for the next one.
        let waited = state.finished(id).is_some_and(|task| task.fields.outcome.attempt == 0);
        document["error"]["stderr_excerpt"] = json!(stderr.text.as_ref().filter(|_| !waited));
    }
    document["logs"] = json!({
        "stdout_tail": stdout.text,
        "stderr_tail": stderr.text,
        "truncated": stdout.truncated || stderr.truncated,
        "problem": stdout.problem.or(stderr.problem),
    });
    Some(document)
}

fn live(state: &State, id: TaskId, task: &Task) -> Value {
    let fields = &task.fields;
    let (status, phase) = match &fields.state {
        TaskState::Leased(_) => ("running", "running"),
        TaskState::Queued { not_before, .. } if *not_before > state.time() => ("running", "retrying"),
        TaskState::Queued { .. } => ("pending", "queued"),
    };
    let leased = task.leased();
    json!({
        "schema_version": 1,
        "id": id.to_string(),
        "name": fields.name.as_ref().map(|name| name.to_string()),
        "tenant": fields.tenant.to_string(),
        "class": task.spec.class.as_str(),
        "status": status,
        "phase": phase,
        "attempts": fields.attempts,
        "exit_code": null,
        "queued_at": fields.submitted_at.0,
        "started_at": leased.map(|leased| leased.since.0),
        "runtime": leased.map(|leased| leased.runtime.as_str()),
        "node": leased.map(|leased| node_name(state, leased.node)),
        "gpu_devices": leased.map(|leased| leased.gpus.iter().map(|gpu| gpu.to_string()).collect::<Vec<_>>()),
        "image": task.spec.image,
        "error": null,
    })
}

fn finished(state: &State, id: TaskId, task: &FinishedTask) -> Value {
    let (fields, outcome) = (&task.fields, &task.fields.outcome);
    // The last one, also when the task ended after it, as `stint status` has it.
    let last = fields.records.last();
    let outputs: Vec<Value> = outcome.outputs.iter().flatten().map(output).collect();
    let bytes: u64 = outcome.outputs.iter().flatten().map(|kept| kept.blob.size).sum();
    json!({
        "schema_version": 1,
        "id": id.to_string(),
        "name": fields.name.as_ref().map(|name| name.to_string()),
        "tenant": fields.tenant.to_string(),
        "class": task.spec.class.as_str(),
        "status": if outcome.succeeded() { "completed" } else { "failed" },
        "phase": phase(outcome),
        "attempts": fields.attempts,
        "exit_code": exit_code(&outcome.kind),
        "signal": signal(&outcome.kind),
        "queued_at": fields.submitted_at.0,
        "started_at": last.map(|record| record.leased_at.0),
        "finished_at": outcome.finished_at.0,
        "latency_ms": outcome.finished_at.since(fields.submitted_at),
        "runtime": last.and_then(|record| record.runtime).map(|runtime| runtime.as_str()),
        "node": last.map(|record| node_name(state, record.node)),
        "gpu_devices": last.map(|record| record.gpus.iter().map(|gpu| gpu.to_string()).collect::<Vec<_>>()),
        "image": task.spec.image,
        "result": {
            "latency_ms": outcome.run_ms,
            "metrics": metrics(outcome.usage.as_deref()),
            "outputs": outputs,
            "outputs_summary": { "files": outcome.outputs.iter().flatten().count(), "bytes": bytes },
        },
        "error": if outcome.succeeded() { Value::Null } else { error(outcome) },
        "attempt_records": fields.records.iter().map(|record| attempt(state, record)).collect::<Vec<_>>(),
    })
}

fn output(kept: &stint_protocol::KeptFile) -> Value {
    json!({
        "path": kept.path,
        "digest": kept.blob.digest.to_string(),
        "size_bytes": kept.blob.size,
        "kept": if kept.stored { "cluster" } else { "node" },
    })
}

fn attempt(state: &State, record: &AttemptRecord) -> Value {
    json!({
        "number": record.number,
        "node": node_name(state, record.node),
        "started_at": record.leased_at.0,
        "finished_at": record.ended_at.0,
        "latency_ms": record.run_ms,
        "kind": error_kind(&record.end),
        "message": message(&record.end, &record.message),
    })
}

/// The `phase` of a finished task, as docs/using/results.md lists them.
fn phase(outcome: &Outcome) -> &'static str {
    match outcome.kind {
        EndKind::Exited(0) => "succeeded",
        EndKind::TimedOut => "timed_out",
        EndKind::Cancelled => "cancelled",
        EndKind::Lost => "lost",
        _ => "failed",
    }
}

fn error(outcome: &Outcome) -> Value {
    json!({
        "kind": if outcome.crash_loop { "crash_loop" } else { error_kind(&outcome.kind) },
        "message": message(&outcome.kind, &outcome.message),
        "retryable": is_retryable(&outcome.kind),
        "exit_code": exit_code(&outcome.kind),
    })
}

/// The `error.kind` of an end, as docs/using/results.md lists them.
fn error_kind(kind: &EndKind) -> &'static str {
    match kind {
        EndKind::Exited(0) => "none",
        EndKind::Exited(_) => "nonzero_exit",
        EndKind::Denied => "policy_denied",
        EndKind::NotRunnable => "validation",
        EndKind::Lost => "runner_lost",
        EndKind::OutputLost => "artifact_store",
        EndKind::FilesMissing => "artifact_fetch",
        EndKind::TimedOut => "timeout",
        EndKind::Signalled(_)
        | EndKind::OutOfMemory
        | EndKind::Cancelled
        | EndKind::StartFailed
        | EndKind::Drained
        | EndKind::OutputMissing => kind.as_str(),
    }
}

/// Whether Stint itself tries again after such an end, unless the task asks for more.
fn is_retryable(kind: &EndKind) -> bool {
    use EndKind::{Drained, FilesMissing, Lost, OutputLost, StartFailed};
    matches!(kind, Lost | StartFailed | Drained | OutputLost | FilesMissing)
}

/// The program's own; a program that was ended has none.
fn exit_code(kind: &EndKind) -> Option<i32> {
    match kind {
        EndKind::Exited(code) => Some(*code),
        EndKind::OutputMissing => Some(0),
        _ => None,
    }
}

fn signal(kind: &EndKind) -> Option<i32> {
    if let EndKind::Signalled(signal) = kind { Some(*signal) } else { None }
}

/// The end of one output stream.
#[derive(Default)]
struct Tail {
    text: Option<String>,
    truncated: bool,
    problem: Option<String>,
}

async fn tails(node: &Node, keeper: Option<(NodeId, LeaseId)>) -> (Tail, Tail) {
    let Some((keeper, lease)) = keeper else { return Default::default() };
    tokio::join!(tail(node, keeper, lease, false), tail(node, keeper, lease, true))
}

async fn tail(node: &Node, keeper: NodeId, lease: LeaseId, stderr: bool) -> Tail {
    let read =
        ReadLog { lease, stderr, offset: 0, wait_ms: 0, file: None, tail: Some(TAIL_BYTES), progress: None };
    match node.read_log(keeper, read).await {
        Ok(LogAnswer::Chunk { bytes, next_offset, .. }) => Tail {
            text: Some(String::from_utf8_lossy(&bytes).into_owned()),
            truncated: next_offset > bytes.len() as u64,
            problem: None,
        },
        Ok(LogAnswer::Failed(why)) => Tail { problem: Some(why), ..Tail::default() },
        Err(refusal) => Tail { problem: Some(refusal.message), ..Tail::default() },
    }
}

/// What the last attempt said about how far it is; null when it said nothing or its node is away.
pub async fn progress(node: &Node, keeper: Option<(NodeId, LeaseId)>) -> Value {
    let Some((keeper, lease)) = keeper else { return Value::Null };
    let (file, tail, progress) = (None, None, Some(true));
    let read = ReadLog { lease, stderr: false, offset: 0, wait_ms: 0, file, tail, progress };
    match node.read_log(keeper, read).await {
        Ok(LogAnswer::Chunk { bytes, .. }) => serde_json::from_slice(&bytes).unwrap_or_default(),
        Ok(LogAnswer::Failed(_)) | Err(_) => Value::Null,
    }
}
