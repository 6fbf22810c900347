//! Devices before their next use: an attempt waits until nobody uses what it was given; a device that stays in use is
//! quarantined, said to the cluster, and looked at again until it is free.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stint_protocol::{GpuId, GpuInfo, QuarantinedGpu};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::state::ClientState;
use crate::host::{HostEvent, Launch};
use crate::limits;
use crate::refusal::Refusal;

/// Devices that stayed in use, and by whom.
pub type Quarantine = BTreeMap<GpuId, QuarantinedGpu>;

/// Whether an attempt must wait for its devices to be looked at.
pub fn must_look(shared: &ClientState, launch: &Launch) -> bool {
    launch.gpus.iter().any(|gpu| shared.gpu_users.can_tell(&gpu.id))
}

/// Waits until nobody uses the attempt's devices. Refuses it when somebody still does after `GPU_FREE_MS`.
pub async fn wait_until_free(shared: &Arc<ClientState>, launch: &Launch) -> Result<(), Refusal> {
    if !must_look(shared, launch) {
        return Ok(());
    }
    let until = Instant::now() + Duration::from_millis(limits::GPU_FREE_MS);
    loop {
        let used = used_of(shared, launch.gpus.clone()).await;
        if used.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            let message = describe(&used);
            shared.quarantine(used).await;
            return Err(Refusal::start_failed(message));
        }
        sleep(Duration::from_millis(limits::GPU_LOOK_MS)).await;
    }
}

fn describe(used: &[QuarantinedGpu]) -> String {
    let one = |gpu: &QuarantinedGpu| format!("GPU {} is still used by {}", gpu.info.id, gpu.used_by);
    used.iter().map(one).collect::<Vec<_>>().join("; ")
}

async fn used_of(shared: &Arc<ClientState>, gpus: Vec<GpuInfo>) -> Vec<QuarantinedGpu> {
    let shared = shared.clone();
    let look = move || {
        let used = |info: GpuInfo| {
            let used_by = shared.gpu_users.user_of(&info.id)?;
            Some(QuarantinedGpu { info, used_by: used_by.trim().to_owned() })
        };
        gpus.into_iter().filter_map(used).collect()
    };
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

/// Takes devices out of quarantine once nobody uses them. Runs until the client goes.
pub async fn watch(shared: Arc<ClientState>) {
    let mut ticks = interval(Duration::from_millis(limits::GPU_FREE_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let known: Vec<GpuInfo> = shared.lock().quarantine.values().map(|gpu| gpu.info.clone()).collect();
        if known.is_empty() {
            continue;
        }
        let used: Vec<GpuId> =
            used_of(&shared, known.clone()).await.into_iter().map(|gpu| gpu.info.id).collect();
        let free: Vec<GpuId> =
            known.into_iter().map(|info| info.id).filter(|id| !used.contains(id)).collect();
        if free.is_empty() {
            continue;
        }
        for id in free {
            tracing::info!(gpu = %id, "nobody uses the GPU any more: it is offered again");
            shared.lock().quarantine.remove(&id);
        }
        shared.publish(vec![HostEvent::DevicesChanged]).await;
    }
}
