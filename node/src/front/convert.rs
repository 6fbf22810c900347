//! What clients send through `stint.v1`, read into ours.

use std::time::Duration;

use stint_protocol::{
    Class, GpuRequest, IdempotencyKey, OnLost, RetryPolicy, TaskName, TaskSpec, Tenant, v1,
};
use tonic::Status;

use super::errors::invalid;
use crate::config::replicated::Scope;
use crate::service::{NewTasks, NewToken, Principal, SettingsUpdate};

/// A tenant; empty is the caller's own.
pub fn tenant(caller: &Principal, text: &str) -> Result<Tenant, Status> {
    if text.is_empty() { Ok(caller.tenant.clone()) } else { Tenant::new(text).map_err(invalid) }
}

/// A submit as it came in.
pub fn new_tasks(caller: &Principal, request: v1::SubmitRequest) -> Result<NewTasks, Status> {
    let mut spec = request.spec.ok_or_else(|| Status::invalid_argument("spec: is missing"))?;
    let name = Some(request.name).filter(|n| !n.is_empty());
    let key = Some(request.idempotency_key).filter(|k| !k.is_empty());
    Ok(NewTasks {
        tenant: tenant(caller, &request.tenant)?,
        name: name.map(|n| TaskName::new(&n)).transpose().map_err(invalid)?,
        runtime: std::mem::take(&mut spec.runtime),
        own_grace: spec.stop_grace_ms.is_some(),
        spec: task_spec(spec)?,
        count: request.count.max(1),
        key: key.map(|k| IdempotencyKey::new(&k)).transpose().map_err(invalid)?,
        must_fit: request.must_fit,
    })
}

/// A token as it is asked for.
pub fn new_token(request: v1::CreateTokenRequest) -> Result<NewToken, Status> {
    let v1::CreateTokenRequest { tenant, role, valid_ms, comment } = request;
    let tenant = Some(tenant).filter(|tenant| !tenant.is_empty());
    let valid = Some(valid_ms).filter(|ms| *ms != 0).map(Duration::from_millis);
    Ok(NewToken {
        tenant: tenant.map(|tenant| Tenant::new(&tenant)).transpose().map_err(invalid)?,
        role: role.parse().map_err(invalid)?,
        valid,
        comment,
    })
}

/// A change of settings as it came in.
pub fn settings_update(request: v1::UpdateSettingsRequest) -> Result<SettingsUpdate, Status> {
    let v1::UpdateSettingsRequest { class, values, if_revision, tenant } = request;
    let of = match (class.as_str(), tenant.as_str()) {
        ("", "") => Scope::Cluster,
        (class, "") => Scope::Class(class.parse().map_err(invalid)?),
        ("", tenant) => Scope::Tenant(Tenant::new(tenant).map_err(invalid)?),
        _ => return Err(invalid("class, tenant: name one of them")),
    };
    Ok(SettingsUpdate { of, values: values.into_iter().collect(), if_revision })
}

/// All but the runtime, which the service chooses.
fn task_spec(spec: v1::TaskSpec) -> Result<TaskSpec, Status> {
    let class: Class = spec.class.parse().map_err(invalid)?;
    let mut own = TaskSpec::new(class, spec.command);
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
    own.files = super::files::task_files(
        spec.inputs,
        spec.outputs,
        spec.secrets,
        &spec.keep,
        (&spec.logs_keep, spec.record),
    )?;
    own.limits = spec.limits.map(super::limits::task_limits).transpose()?.map(Box::new);
    own.comment = Some(spec.comment).filter(|text| !text.is_empty());
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
