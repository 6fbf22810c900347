//! Limits of tasks, read from `stint.v1`.

use stint_protocol::{HostMount, TaskLimits, v1};
use tonic::Status;

use super::errors::invalid;

/// What a request says; empty texts are unset.
pub fn task_limits(limits: v1::TaskLimits) -> Result<TaskLimits, Status> {
    let v1::TaskLimits { pids, swap_bytes, tmp_bytes, shm_bytes, network, working_dir, mounts } = limits;
    let mounts: Vec<HostMount> = mounts.into_iter().map(HostMount::from).collect();
    let network = Some(network).filter(|name| !name.is_empty());
    Ok(TaskLimits {
        pids,
        swap_bytes,
        tmp_bytes,
        shm_bytes,
        network: network.map(|name| name.parse()).transpose().map_err(invalid)?,
        working_dir: Some(working_dir).filter(|path| !path.is_empty()),
        mounts: Some(mounts).filter(|mounts| !mounts.is_empty()),
    })
}
