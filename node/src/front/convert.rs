//! Between the words of `stint.v1` and ours.

use stint_protocol::{
    Class, EndKind, GpuRequest, IdempotencyKey, NodeId, OnLost, RetryPolicy, TaskId, TaskName, TaskSpec,
    Tenant, v1,
};
use stint_scheduler::{AttemptRecord, FinishedTask, State, Task, TaskState};
use tonic::Status;

use super::runtimes;
use crate::node::NewTasks;
use crate::wire::{Refusal, RefusalCode};

/// One code for each kind of refusal.
pub fn status(refusal: Refusal) -> Status {
    let Refusal { code, message } = refusal;
    match code {
        RefusalCode::Invalid => Status::invalid_argument(message),
        RefusalCode::NotFound => Status::not_found(message),
        RefusalCode::Conflict => Status::failed_precondition(message),
        RefusalCode::Full => Status::resource_exhausted(message),
        RefusalCode::Unavailable => Status::unavailable(message),
        RefusalCode::Unknown => Status::deadline_exceeded(message),
        RefusalCode::Denied => Status::permission_denied(message),
    }
}

pub fn invalid(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

/// A tenant; empty is the default one.
pub fn tenant(text: &str) -> Result<Tenant, Status> {
    if text.is_empty() { Ok(Tenant::default_tenant()) } else { Tenant::new(text).map_err(invalid) }
}

/// A submit as it came in. The state tells what runtimes there are, and what a registered image is.
pub fn new_tasks(state: &State, request: v1::SubmitRequest) -> Result<NewTasks, Status> {
    let spec = request.spec.ok_or_else(|| Status::invalid_argument("spec: is missing"))?;
    let tenant = tenant(&request.tenant)?;
    let name = Some(request.name).filter(|n| !n.is_empty());
    let key = Some(request.idempotency_key).filter(|k| !k.is_empty());
    Ok(NewTasks {
        name: name.map(|n| TaskName::new(&n)).transpose().map_err(invalid)?,
        spec: task_spec(state, &tenant, spec)?,
        tenant,
        count: request.count.max(1),
        key: key.map(|k| IdempotencyKey::new(&k)).transpose().map_err(invalid)?,
    })
}

fn task_spec(state: &State, tenant: &Tenant, mut spec: v1::TaskSpec) -> Result<TaskSpec, Status> {
    let class: Class = spec.class.parse().map_err(invalid)?;
    let (runtime, command) = runtimes::choose(state, tenant, class, &mut spec)?;
    let mut own = TaskSpec::new(class, command);
    own.runtime = runtime;
    own.image = Some(spec.image).filter(|i| !i.is_empty());
    own.env = spec.env.into_iter().collect();
    own.constraints = spec.constraints.into_iter().collect();
    own.cpu_milli = spec.cpu_milli;
    own.memory_bytes = spec.memory_bytes;
    own.timeout_ms = spec.timeout_ms;
    own.gpus = spec.gpus.map(|g| GpuRequest {
        count: g.count,
        model: Some(g.model).filter(|m| !m.is_empty()),
        min_memory_bytes: g.min_memory_bytes,
    });
    if let Some(priority) = spec.priority {
        own.priority = u8::try_from(priority)
            .map_err(|_| invalid(format!("priority: {priority} is outside 0 to 100")))?;
    }
    if let Some(grace) = spec.stop_grace_ms {
        own.stop_grace_ms = grace;
    }
    if let Some(retry) = spec.retry {
        own.retry = retry_policy(retry);
    }
    own.files = super::files::task_files(spec.inputs, spec.outputs, spec.secrets)?;
    own.limits = spec.limits.map(super::limits::task_limits).transpose()?.map(Box::new);
    own.on_lost = match spec.on_lost.as_str() {
        "" | "retry" => OnLost::Retry,
        "fail" => OnLost::Fail,
        other => return Err(invalid(format!("on_lost: {other:?} is unknown: use \"retry\" or \"fail\""))),
    };
    Ok(own)
}

/// 0 means: the default.
fn retry_policy(retry: v1::RetryPolicy) -> RetryPolicy {
    let default = RetryPolicy::default();
    let or = |value: u64, default: u64| if value == 0 { default } else { value };
    RetryPolicy {
        max_attempts: or(retry.max_attempts.into(), default.max_attempts.into()) as u32,
        backoff_ms: or(retry.backoff_ms, default.backoff_ms),
        max_backoff_ms: or(retry.max_backoff_ms, default.max_backoff_ms),
        retry_failures: retry.retry_failures,
    }
}

/// Finds a task of the tenant by id or name; another tenant's is not found.
pub fn find_task(state: &State, tenant: &Tenant, text: &str) -> Result<TaskId, Status> {
    let by_id = text.parse().ok().filter(|id| state.tenant_of(*id).as_ref() == Some(tenant));
    let by_name = || TaskName::new(text).ok().and_then(|name| state.named(tenant, &name));
    by_id.or_else(by_name).ok_or_else(|| {
        Status::not_found(format!(
            "no task {text:?} in tenant {tenant}: give the id that submit printed, or the task's name"
        ))
    })
}

/// Finds a node by id or name.
pub fn find_node(state: &State, text: &str) -> Result<NodeId, Status> {
    let by_name = state.nodes().find(|n| n.name == text).map(|n| n.id);
    let by_id = || text.parse().ok().map(NodeId).filter(|id| state.node(*id).is_some());
    by_name.or_else(by_id).ok_or_else(|| Status::not_found(format!("no node {text:?}: see `stint nodes`")))
}

/// The name of a node, or its number when it is gone.
pub fn node_name(state: &State, node: NodeId) -> String {
    state.node(node).map_or_else(|| node.to_string(), |n| n.name.clone())
}

/// A task as the state knows it.
pub fn task(state: &State, id: TaskId) -> Option<v1::Task> {
    let live = state.task(id).map(|t| live_task(state, id, t));
    live.or_else(|| state.finished(id).map(|t| finished_task(state, id, &t)))
}

pub fn live_task(state: &State, id: TaskId, task: &Task) -> v1::Task {
    let fields = &task.fields;
    let mut out = v1::Task {
        id: id.to_string(),
        name: fields.name.as_ref().map(|n| n.to_string()).unwrap_or_default(),
        tenant: fields.tenant.to_string(),
        class: task.spec.class.to_string(),
        submitted_at_ms: fields.submitted_at.0,
        attempts: fields.attempts,
        attempt_records: fields.records.iter().map(|r| attempt(state, r)).collect(),
        command: task.spec.command.clone(),
        priority: task.spec.priority.into(),
        cpu_milli: task.spec.cpu_milli,
        memory_bytes: task.spec.memory_bytes,
        limits: super::limits::shown(&task.spec),
        ..v1::Task::default()
    };
    match &fields.state {
        TaskState::Queued { not_before, .. } => {
            out.state = "queued".into();
            out.not_before_ms = if *not_before > state.time() { not_before.0 } else { 0 };
        }
        TaskState::Leased(leased) => {
            out.state = if leased.cancelled { "stopping" } else { "running" }.into();
            out.node_id = leased.node.0;
            out.node_name = node_name(state, leased.node);
            out.attempt_records.push(v1::Attempt {
                number: fields.attempts,
                node_id: leased.node.0,
                node_name: out.node_name.clone(),
                started_at_ms: leased.since.0,
                gpus: leased.gpus.iter().map(|g| g.to_string()).collect(),
                ..v1::Attempt::default()
            });
        }
    }
    out
}

pub fn finished_task(state: &State, id: TaskId, task: &FinishedTask) -> v1::Task {
    let fields = &task.fields;
    let outcome = &fields.outcome;
    let last = fields.records.last();
    let kind = if outcome.crash_loop { "crash_loop" } else { outcome.kind.as_str() };
    v1::Task {
        id: id.to_string(),
        name: fields.name.as_ref().map(|n| n.to_string()).unwrap_or_default(),
        tenant: fields.tenant.to_string(),
        class: task.spec.class.to_string(),
        state: "finished".into(),
        submitted_at_ms: fields.submitted_at.0,
        attempts: fields.attempts,
        node_id: last.map_or(0, |r| r.node.0),
        node_name: last.map(|r| node_name(state, r.node)).unwrap_or_default(),
        outcome: Some(v1::Outcome {
            status: outcome.as_str().into(),
            kind: kind.into(),
            exit_code: outcome.exit_code(),
            message: message(&outcome.kind, &outcome.message),
            finished_at_ms: outcome.finished_at.0,
            run_ms: outcome.run_ms,
            attempt: outcome.attempt,
            outputs: outcome.outputs.iter().flatten().map(super::files::kept).collect(),
            usage: outcome.usage.as_deref().map(super::limits::used),
        }),
        attempt_records: fields.records.iter().map(|r| attempt(state, r)).collect(),
        command: task.spec.command.clone(),
        priority: task.spec.priority.into(),
        not_before_ms: 0,
        cpu_milli: task.spec.cpu_milli,
        memory_bytes: task.spec.memory_bytes,
        limits: super::limits::shown(&task.spec),
    }
}

fn attempt(state: &State, record: &AttemptRecord) -> v1::Attempt {
    v1::Attempt {
        number: record.number,
        node_id: record.node.0,
        node_name: node_name(state, record.node),
        started_at_ms: record.leased_at.0,
        ended_at_ms: record.ended_at.0,
        end: record.end.as_str().into(),
        message: message(&record.end, &record.message),
        gpus: record.gpus.iter().map(|g| g.to_string()).collect(),
    }
}

/// Words for an end that brought none of its own.
pub fn message(kind: &EndKind, own: &str) -> String {
    match kind {
        _ if !own.is_empty() => own.into(),
        EndKind::Exited(code) if *code != 0 => format!("exit code {code}"),
        EndKind::Signalled(signal) => format!("ended by signal {signal}"),
        EndKind::TimedOut => "its run time was over".into(),
        EndKind::OutOfMemory => "the kernel killed it: out of memory".into(),
        _ => String::new(),
    }
}
