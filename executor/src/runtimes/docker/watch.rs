//! The node's eye on its Docker daemon: whether it is there, and containers of ours that nobody accounts for.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::models::ContainerSummary;
use bollard::query_parameters::ListContainersOptions;
use stint_protocol::{Class, LeaseId};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::engine::{self, EngineError};
use super::{LABEL_CLASS, LABEL_EXECUTOR, LABEL_LEASE, LABEL_TENANT};
use crate::host::{HostEvent, Publisher};
use crate::limits;
use crate::runtimes::HasAttempt;
use crate::settings::DockerOptions;
use crate::shim_api::layout::{Layout, parse_folder_name};

/// What a node knows of its daemon.
#[derive(Debug)]
pub struct DaemonWatch {
    socket: String,
    /// The daemon's runtime that containers are to have.
    runtime: Option<String>,
    /// The executor's folder, by which its containers are known.
    root: PathBuf,
    /// Whether it answers, and what to do when not; none = not asked.
    answers: Mutex<Option<Result<(), String>>>,
    look_soon: Notify,
}

impl DaemonWatch {
    pub fn new(settings: &DockerOptions, layout: &Layout) -> Self {
        Self {
            socket: settings.socket.display().to_string(),
            runtime: settings.runtime.clone(),
            root: layout.root().to_owned(),
            answers: Mutex::default(),
            look_soon: Notify::new(),
        }
    }

    /// Why there is no daemon, and what to do.
    pub fn problem(&self) -> Option<String> {
        match &*self.answers.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(answer) => answer.as_ref().err().cloned(),
            None => Some("the Docker daemon was not asked yet".into()),
        }
    }

    /// Something could not be started: whether the daemon is there is to be asked at once.
    pub fn look_soon(&self) {
        self.look_soon.notify_one();
    }

    /// Whether it answered before.
    fn note(&self, found: &Result<Docker, String>) -> bool {
        let answer = found.as_ref().map(|_| ()).map_err(Clone::clone);
        let before = self.answers.lock().unwrap_or_else(PoisonError::into_inner).replace(answer);
        matches!(before, Some(Ok(())))
    }

    /// Looks once, before anything is offered. `holds`: whether the attempt of a container has not ended.
    pub async fn look(&self, holds: &(dyn Fn(LeaseId) -> bool + Sync)) {
        let found = self.ask().await;
        self.note(&found);
        if let Ok(docker) = found {
            self.sweep(&docker, holds).await;
        }
    }

    /// Goes on looking; tells the node when the daemon comes or goes. Runs until the client goes.
    pub async fn run(self: Arc<Self>, publish: Publisher, holds: HasAttempt) {
        let mut ticks = interval(Duration::from_millis(limits::DOCKER_PING_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut swept = Instant::now();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.look_soon.notified() => {}
            }
            let found = self.ask().await;
            let was_there = self.note(&found);
            match &found {
                Err(why) if was_there => {
                    tracing::warn!(%why, "the Docker daemon is gone: its runtime is not offered")
                }
                Ok(_) if !was_there => tracing::info!("the Docker daemon is there: its runtime is offered"),
                _ => {}
            }
            if found.is_ok() != was_there {
                publish(vec![HostEvent::RuntimesChanged]).await;
            }
            let due = !was_there || swept.elapsed() > Duration::from_millis(limits::DOCKER_SWEEP_MS);
            if let Ok(docker) = found
                && due
            {
                swept = Instant::now();
                self.sweep(&docker, &*holds).await;
            }
        }
    }

    /// A connection, or why there is no daemon and what to do.
    async fn ask(&self) -> Result<Docker, String> {
        let patience = Duration::from_millis(limits::DOCKER_PING_MS);
        let answer = match timeout(patience, engine::connect(&self.socket)).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(EngineError::Unreachable(format!("it did not answer within {} ms", patience.as_millis())))
            }
        };
        let socket = &self.socket;
        let docker = answer.map_err(|fault| {
            let why = fault.message();
            format!("no Docker daemon answers at {socket} ({why}): start it, or set executor.docker.socket")
        })?;
        if !engine::is_in_reach(socket).await {
            return Err(format!(
                "the processes of the Docker daemon at {socket} cannot be seen from this node, so its containers could not be \
                 killed in time: run both in one pid namespace"
            ));
        }
        self.check_runtime(&docker).await?;
        Ok(docker)
    }

    /// Whether the daemon has the runtime that the operator chose. Asked until it has, and again when the daemon was away: it
    /// reads its list when it starts.
    async fn check_runtime(&self, docker: &Docker) -> Result<(), String> {
        let Some(wanted) = self.runtime.as_deref().filter(|_| self.problem().is_some()) else {
            return Ok(());
        };
        let patience = Duration::from_millis(limits::DOCKER_PING_MS);
        let info = match timeout(patience, docker.info()).await {
            Ok(info) => info.map_err(|e| EngineError::from(e).message().to_owned()),
            Err(_) => Err(format!("it did not answer within {} ms", patience.as_millis())),
        };
        let socket = &self.socket;
        let known = info
            .map_err(|why| {
                format!("the Docker daemon at {socket} does not say which runtimes it has ({why})")
            })?
            .runtimes
            .unwrap_or_default();
        match known.contains_key(wanted) || wanted.starts_with(CONTAINERD) {
            true => Ok(()),
            false => Err(no_runtime(socket, wanted, known.into_keys().collect())),
        }
    }

    /// How many containers of this executor the daemon has, by class; none: it does not say.
    pub async fn containers(&self) -> Option<BTreeMap<Class, u64>> {
        let docker = self.ask().await.ok()?;
        let patience = Duration::from_millis(limits::DOCKER_PING_MS);
        let found = timeout(patience, self.own_containers(&docker)).await.ok()??;
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
    async fn own_containers(&self, docker: &Docker) -> Option<Vec<ContainerSummary>> {
        let label = format!("{LABEL_EXECUTOR}={}", self.root.display());
        let options = ListContainersOptions {
            all: true,
            filters: Some(HashMap::from([("label".to_owned(), vec![label])])),
            ..ListContainersOptions::default()
        };
        docker.list_containers(Some(options)).await.ok()
    }

    /// Removes containers of this executor whose attempts it does not hold.
    async fn sweep(&self, docker: &Docker, holds: &(dyn Fn(LeaseId) -> bool + Sync)) {
        for container in self.own_containers(docker).await.into_iter().flatten() {
            let lease = label(&container, LABEL_LEASE).and_then(parse_folder_name);
            if !lease.is_some_and(holds) {
                remove(docker, &container, lease).await;
            }
        }
    }
}

/// Runtimes that are named so the daemon finds by itself, and lists none of them.
const CONTAINERD: &str = "io.containerd.";

fn no_runtime(socket: &str, wanted: &str, mut known: Vec<String>) -> String {
    known.sort_unstable();
    format!(
        "the Docker daemon at {socket} has no runtime {wanted:?} (executor.docker.runtime), but {}: add it to \"runtimes\" of the \
         daemon's daemon.json and restart the daemon, or name one that it has",
        known.join(", ")
    )
}

fn label<'a>(container: &'a ContainerSummary, name: &str) -> Option<&'a str> {
    container.labels.as_ref()?.get(name).map(String::as_str)
}

/// Removes a container that nobody accounts for, and says so.
async fn remove(docker: &Docker, found: &ContainerSummary, lease: Option<LeaseId>) {
    let Some(container) = found.id.as_deref() else { return };
    let (task, attempt) = lease.map(|lease| (lease.task.to_string(), lease.attempt)).unzip();
    let (tenant, class) = (label(found, LABEL_TENANT), label(found, LABEL_CLASS));
    match engine::remove(docker, container).await {
        Ok(()) => {
            let done = "a container that nobody accounts for was removed";
            tracing::warn!(task, attempt, tenant, class, container, "{done}");
        }
        // Somebody removes it already.
        Err(fault) if fault.status() == 409 => {}
        Err(fault) => {
            let (why, left) = (fault.message(), "a container that nobody accounts for cannot be removed");
            tracing::warn!(task, attempt, tenant, class, container, why, "{left}");
        }
    }
}
