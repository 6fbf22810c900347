//! Limits of tasks and what attempts used, between the words of `stint.v1` and ours.

use serde_json::{Value, json};
use stint_protocol::{HostMount, TaskLimits, TaskSpec, Usage, v1};
use tonic::Status;

use super::convert::invalid;

/// What a request says; empty texts are unset.
pub fn task_limits(limits: v1::TaskLimits) -> Result<TaskLimits, Status> {
    let v1::TaskLimits { pids, swap_bytes, tmp_bytes, shm_bytes, network, working_dir, mounts } = limits;
    let mounts: Vec<HostMount> = mounts.into_iter().map(mount).collect();
    let network = Some(network).filter(|word| !word.is_empty());
    Ok(TaskLimits {
        pids,
        swap_bytes,
        tmp_bytes,
        shm_bytes,
        network: network.map(|word| word.parse()).transpose().map_err(invalid)?,
        working_dir: Some(working_dir).filter(|path| !path.is_empty()),
        mounts: Some(mounts).filter(|mounts| !mounts.is_empty()),
    })
}

fn mount(asked: v1::HostMount) -> HostMount {
    let v1::HostMount { source, target, writable } = asked;
    HostMount { source, target: Some(target).filter(|path| !path.is_empty()), writable }
}

fn shown_mount(mount: HostMount) -> v1::HostMount {
    let HostMount { source, target, writable } = mount;
    v1::HostMount { source, target: target.unwrap_or_default(), writable }
}

/// As a task was submitted with them.
pub fn shown(spec: &TaskSpec) -> Option<v1::TaskLimits> {
    let limits = spec.limits.as_deref()?.clone();
    let TaskLimits { pids, swap_bytes, tmp_bytes, shm_bytes, network, working_dir, mounts } = limits;
    Some(v1::TaskLimits {
        pids,
        swap_bytes,
        tmp_bytes,
        shm_bytes,
        network: network.map(|network| network.to_string()).unwrap_or_default(),
        working_dir: working_dir.unwrap_or_default(),
        mounts: mounts.unwrap_or_default().into_iter().map(shown_mount).collect(),
    })
}

/// What an attempt used.
pub fn used(usage: &Usage) -> v1::Usage {
    let Usage { cpu_ms, peak_memory_bytes, read_bytes, written_bytes } = *usage;
    v1::Usage { cpu_ms, peak_memory_bytes, read_bytes, written_bytes }
}

/// The `metrics` of a result; null when nobody knows.
pub fn metrics(usage: Option<&Usage>) -> Value {
    let Some(Usage { cpu_ms, peak_memory_bytes, read_bytes, written_bytes }) = usage else {
        return Value::Null;
    };
    json!({
        "cpu_ms": cpu_ms,
        "peak_memory_bytes": peak_memory_bytes,
        "read_bytes": read_bytes,
        "written_bytes": written_bytes,
    })
}
