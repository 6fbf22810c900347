//! The node's eye on its Docker daemon: whether it is there, and containers of ours that nobody accounts for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::models::ContainerSummary;
use bollard::query_parameters::ListContainersOptions;
use stint_protocol::{Class, Runtime};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::engine::{self, Fault};
use super::{LABEL_CLASS, LABEL_EXECUTOR, LABEL_LEASE, LABEL_TENANT};
use crate::client::state::Shared;
use crate::host::HostEvent;
use crate::shim_api::layout::parse_folder_name;
use crate::limits;

/// Looks once, before anything is offered.
pub async fn look(shared: &Shared) {
    let found = ask(shared).await;
    let state = found.as_ref().map(|_| ()).map_err(Clone::clone);
    shared.lock().docker = Some(state);
    if let Ok(docker) = found {
        sweep(shared, &docker).await;
    }
}

/// Goes on looking; tells the node when the daemon comes or goes. Runs until the client goes.
pub async fn run(shared: Arc<Shared>) {
    if !shared.settings.runtimes.contains(&Runtime::Docker) {
        return;
    }
    let mut ticks = interval(Duration::from_millis(limits::DOCKER_PING_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut swept = Instant::now();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.look_at_docker.notified() => {}
        }
        let found = ask(&shared).await;
        let was_there = matches!(shared.lock().docker, Some(Ok(())));
        shared.lock().docker = Some(found.as_ref().map(|_| ()).map_err(Clone::clone));
        match &found {
            Err(why) if was_there => {
                tracing::warn!(%why, "the Docker daemon is gone: its runtime is not offered")
            }
            Ok(_) if !was_there => tracing::info!("the Docker daemon is there: its runtime is offered"),
            _ => {}
        }
        if found.is_ok() != was_there {
            shared.publish(vec![HostEvent::RuntimesChanged]).await;
        }
        let due = !was_there || swept.elapsed() > Duration::from_millis(limits::DOCKER_SWEEP_MS);
        if let Ok(docker) = found
            && due
        {
            swept = Instant::now();
            sweep(&shared, &docker).await;
        }
    }
}

/// A connection, or why there is no daemon and what to do.
async fn ask(shared: &Shared) -> Result<Docker, String> {
    let socket = shared.settings.docker.socket.display().to_string();
    let patience = Duration::from_millis(limits::DOCKER_PING_MS);
    let answer = match timeout(patience, engine::connect(&socket)).await {
        Ok(answer) => answer,
        Err(_) => Err(Fault::Unreachable(format!("it did not answer within {} ms", patience.as_millis()))),
    };
    answer.map_err(|fault| {
        format!(
            "no Docker daemon answers at {socket} ({}): start it, or set executor.docker.socket",
            fault.words()
        )
    })
}

/// How many containers of this executor the daemon has, by class; none: it does not say.
pub async fn containers(shared: &Shared) -> Option<BTreeMap<Class, u64>> {
    if !shared.settings.runtimes.contains(&Runtime::Docker) {
        return None;
    }
    let docker = ask(shared).await.ok()?;
    let patience = Duration::from_millis(limits::DOCKER_PING_MS);
    let found = timeout(patience, own_containers(shared, &docker)).await.ok()??;
    let mut counts: BTreeMap<Class, u64> = Class::ALL.into_iter().map(|class| (class, 0)).collect();
    for container in found {
        let class = container.labels.and_then(|labels| labels.get(LABEL_CLASS)?.parse::<Class>().ok());
        if let Some(count) = class.and_then(|class| counts.get_mut(&class)) {
            *count += 1;
        }
    }
    Some(counts)
}

/// Every container of this executor, in whatever state.
async fn own_containers(shared: &Shared, docker: &Docker) -> Option<Vec<ContainerSummary>> {
    let label = format!("{LABEL_EXECUTOR}={}", shared.layout.root().display());
    let options = ListContainersOptions {
        all: true,
        filters: Some(HashMap::from([("label".to_owned(), vec![label])])),
        ..ListContainersOptions::default()
    };
    docker.list_containers(Some(options)).await.ok()
}

/// Removes containers of this executor whose attempts it does not hold.
async fn sweep(shared: &Shared, docker: &Docker) {
    let Some(containers) = own_containers(shared, docker).await else { return };
    for container in containers {
        let label = |name: &str| container.labels.as_ref()?.get(name).map(String::as_str);
        let lease = label(LABEL_LEASE).and_then(parse_folder_name);
        let held = |lease| shared.lock().running.contains_key(&lease);
        let (Some(id), false) = (container.id.as_deref(), lease.is_some_and(held)) else { continue };
        let (task, attempt) = lease.map(|lease| (lease.task.to_string(), lease.attempt)).unzip();
        let (tenant, class) = (label(LABEL_TENANT), label(LABEL_CLASS));
        match engine::remove(docker, id).await {
            Ok(()) => {
                tracing::warn!(
                    task,
                    attempt,
                    tenant,
                    class,
                    container = id,
                    "a container that nobody accounts for was removed"
                )
            }
            Err(fault) if fault.status() == 409 => {}
            Err(fault) => {
                let why = fault.words();
                tracing::warn!(
                    task,
                    attempt,
                    tenant,
                    class,
                    container = id,
                    why,
                    "a container that nobody accounts for cannot be removed"
                )
            }
        }
    }
}
