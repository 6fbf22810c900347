//! One document that says how a task stands or ended (docs/using/results.md). Times are in milliseconds since 1970.

mod last_words;
#[cfg(test)]
mod pins;

use std::collections::BTreeMap;

use serde_json::Value;
use stint_protocol::api::{
    AttemptSummary, OutputFile, OutputsSummary, ResultEnd, ResultError, ResultLogs, ResultOutputs,
    ResultSpec, TaskResult,
};
use stint_protocol::{EndKind, KeptFile, NodeId, Outcome, TaskId, Tenant};
use stint_scheduler::{AttemptRecord, FinishedTask, State, Task, TaskState};

use super::access::Operation;
use super::documents::{end_message, is_gone, node_name, not_kept, usage};
use super::{Principal, Service, ServiceError};
use crate::attempt_output::output_source;
use last_words::LastWords;

const SCHEMA_VERSION: u32 = 1;

impl Service {
    /// The result of a task, by id or name, with the end of its last attempt's output.
    pub async fn result(
        &self,
        caller: &Principal,
        tenant: &Tenant,
        task: &str,
    ) -> Result<TaskResult, ServiceError> {
        let scope = self.allow_in(caller, Operation::GetResult, tenant)?;
        let state = self.read().await?;
        let id = scope.find_task(&state, task)?;
        let last_words = self.last_words(output_source(&state, id, 0)).await;
        document(&state, id, last_words).ok_or(ServiceError::TaskGone)
    }
}

/// With the ends of its output, and with what it said about how far it is.
fn document(state: &State, id: TaskId, last_words: LastWords) -> Option<TaskResult> {
    let LastWords { stdout, stderr, progress, said, files } = last_words;
    let finished_task = state.finished(id);
    let mut document = match (&finished_task, state.task(id)) {
        (Some(task), _) => finished(state, id, task),
        (None, Some(task)) => live(state, id, task),
        (None, None) => return None,
    };
    // What the last attempt wrote is not why a task ended that waited for the next one, nor is what it left the task's.
    let waited = finished_task.is_some_and(|task| task.fields.outcome.attempt == 0);
    if let Some(end) = document.end.as_mut().filter(|_| !waited) {
        (end.result.runner_output, end.result.json) = (said, files);
    }
    if let Some(error) = &mut document.error {
        error.stderr_excerpt = stderr.text.clone().filter(|_| !waited);
    }
    document.progress = progress;
    document.logs = ResultLogs {
        stdout_tail: stdout.text,
        stderr_tail: stderr.text,
        truncated: stdout.truncated || stderr.truncated,
        problem: stdout.problem.or(stderr.problem),
    };
    Some(document)
}

fn live(state: &State, id: TaskId, task: &Task) -> TaskResult {
    let fields = &task.fields;
    let (status, phase) = match &fields.state {
        TaskState::Leased(_) => ("running", "running"),
        TaskState::Queued { not_before, .. } if *not_before > state.time() => ("running", "retrying"),
        TaskState::Queued { .. } => ("pending", "queued"),
        TaskState::Suspended { .. } => ("pending", "suspended"),
    };
    let leased = task.leased();
    TaskResult {
        schema_version: SCHEMA_VERSION,
        id: id.to_string(),
        name: fields.name.as_ref().map(|name| name.to_string()),
        tenant: fields.tenant.to_string(),
        spec: ResultSpec::from(&*task.spec),
        status: status.into(),
        phase: phase.into(),
        attempts: fields.attempts,
        exit_code: None,
        queued_at: fields.submitted_at.0,
        started_at: leased.map(|leased| leased.since.0),
        runtime: leased.map(|leased| leased.runtime.to_string()),
        node: leased.map(|leased| node_name(state, leased.node)),
        gpu_devices: leased.map(|leased| leased.gpus.iter().map(|gpu| gpu.to_string()).collect()),
        error: None,
        logs: ResultLogs::default(),
        progress: Value::Null,
        end: None,
    }
}

fn finished(state: &State, id: TaskId, task: &FinishedTask) -> TaskResult {
    let (fields, outcome) = (&task.fields, &task.fields.outcome);
    // The last one, also when the task ended after it, as `stint status` has it.
    let last = fields.records.last();
    TaskResult {
        schema_version: SCHEMA_VERSION,
        id: id.to_string(),
        name: fields.name.as_ref().map(|name| name.to_string()),
        tenant: fields.tenant.to_string(),
        spec: ResultSpec::from(&*task.spec),
        status: if outcome.succeeded() { "completed" } else { "failed" }.into(),
        phase: phase(outcome).into(),
        attempts: fields.attempts,
        exit_code: outcome.kind.program_exit_code(),
        queued_at: fields.submitted_at.0,
        started_at: last.map(|record| record.leased_at.0),
        runtime: last.and_then(|record| record.runtime).map(|runtime| runtime.to_string()),
        node: last.map(|record| node_name(state, record.node)),
        gpu_devices: last.map(|record| record.gpus.iter().map(|gpu| gpu.to_string()).collect()),
        error: (!outcome.succeeded()).then(|| error(outcome)),
        logs: ResultLogs::default(),
        progress: Value::Null,
        end: Some(ResultEnd {
            signal: signal(&outcome.kind),
            finished_at: outcome.finished_at.0,
            latency_ms: outcome.finished_at.since(fields.submitted_at),
            result: outputs(state, outcome, &fields.records),
            attempt_records: fields.records.iter().map(|record| attempt(state, record)).collect(),
        }),
    }
}

fn outputs(state: &State, outcome: &Outcome, records: &[AttemptRecord]) -> ResultOutputs {
    let decided = records.iter().find(|record| record.number == outcome.attempt);
    let node = decided.map(|record| record.node);
    let kept = || outcome.outputs.iter().flatten();
    let bytes = kept().map(|kept| kept.blob.size).sum();
    ResultOutputs {
        latency_ms: outcome.run_ms,
        metrics: outcome.usage.as_deref().map(usage),
        outputs: kept().map(|file| output(state, node, file)).collect(),
        not_kept: outcome.not_kept.iter().flatten().map(not_kept).collect(),
        outputs_summary: OutputsSummary { files: kept().count() as u64, bytes },
        runner_output: Value::Null,
        json: BTreeMap::new(),
    }
}

fn output(state: &State, node: Option<NodeId>, kept: &KeptFile) -> OutputFile {
    let place = if kept.stored { "cluster" } else { "node" };
    OutputFile {
        path: kept.path.clone(),
        digest: kept.blob.digest.to_string(),
        size_bytes: kept.blob.size,
        kept: if is_gone(state, node, kept) { "gone" } else { place }.into(),
        executable: kept.executable.unwrap_or_default(),
    }
}

fn attempt(state: &State, record: &AttemptRecord) -> AttemptSummary {
    AttemptSummary {
        number: record.number,
        node: node_name(state, record.node),
        started_at: record.leased_at.0,
        finished_at: record.ended_at.0,
        latency_ms: record.run_ms,
        kind: error_kind(&record.end).into(),
        message: end_message(&record.end, &record.message),
        outputs: record.outputs().iter().map(|file| output(state, Some(record.node), file)).collect(),
        outputs_forgotten: record.outputs_forgotten,
    }
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

fn error(outcome: &Outcome) -> ResultError {
    ResultError {
        kind: if outcome.crash_loop { "crash_loop" } else { error_kind(&outcome.kind) }.into(),
        message: end_message(&outcome.kind, &outcome.message),
        retryable: is_retryable(&outcome.kind),
        exit_code: outcome.kind.program_exit_code(),
        stderr_excerpt: None,
    }
}

/// The `error.kind` of an end, as docs/using/results.md lists them.
fn error_kind(kind: &EndKind) -> &'static str {
    match kind {
        EndKind::Exited(0) => "none",
        EndKind::Exited(_) => "nonzero_exit",
        EndKind::Denied => "policy_denied",
        EndKind::NotRunnable => "validation",
        EndKind::Lost | EndKind::Cut => "runner_lost",
        EndKind::OutputLost => "artifact_store",
        EndKind::FilesMissing => "artifact_fetch",
        EndKind::StartRefused => "start_failed",
        EndKind::TimedOut => "timeout",
        EndKind::Signalled(_)
        | EndKind::OutOfMemory
        | EndKind::DiskExceeded
        | EndKind::Cancelled
        | EndKind::StartFailed
        | EndKind::Drained
        | EndKind::OutputMissing => kind.as_str(),
    }
}

/// Whether Stint itself tries again after such an end, unless the task asks for more.
fn is_retryable(kind: &EndKind) -> bool {
    use EndKind::{Cut, Drained, FilesMissing, Lost, OutputLost, StartFailed, StartRefused};
    matches!(kind, Lost | Cut | StartFailed | StartRefused | Drained | OutputLost | FilesMissing)
}

fn signal(kind: &EndKind) -> Option<i32> {
    if let EndKind::Signalled(signal) = kind { Some(*signal) } else { None }
}
