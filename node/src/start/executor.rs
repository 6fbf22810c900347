//! The executing side of a peer: its host, what it offers, and the agent.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use stint_executor::{GpuLocks, Host, Store};
use stint_executor::{GpuSource, HostClient, HostHealth, HostOptions, Sandbox, detect_gpus, lock_gpus};
use stint_protocol::{Class, GpuInfo, Incarnation, NodeOffer, Nonce, Resources, Runtime};
use stint_scheduler::RegisterNode;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{NodeError, slurm};
use crate::agent::Agent;
use crate::agent::core::usable_runtimes;
use crate::config::{Config, Gpus};
use crate::executor_metrics::MetricsObserver;
use crate::identity::DataDir;
use crate::node::{Link, Node};

/// Host events on their way to the agent: it only counts them as news.
const EVENTS_AHEAD: usize = 4_096;

/// The executing side, once started.
pub struct Executing {
    pub node: Arc<Node>,
    pub host: Option<HostClient>,
    pub closing: Arc<AtomicBool>,
    /// Keeps the devices this node offers from other nodes of the machine.
    _gpu_locks: Option<GpuLocks>,
}

/// Opens the host and starts the agent, unless the configuration says that this peer executes nothing.
pub async fn start(
    node: &Arc<Node>,
    dir: &mut DataDir,
    config: &Config,
    store: Arc<dyn Store>,
    tasks: &mut JoinSet<()>,
) -> Result<Executing, NodeError> {
    let closing = Arc::new(AtomicBool::new(false));
    if !config.executor.enabled {
        return Ok(Executing { node: node.clone(), host: None, closing, _gpu_locks: None });
    }
    let failed = |e: &dyn std::fmt::Display| NodeError::Executor(e.to_string());
    let (sender, events) = mpsc::channel(EVENTS_AHEAD);
    let source = match &config.executor.gpus {
        Gpus::Auto => GpuSource::Nvml,
        Gpus::None => GpuSource::None,
        Gpus::Listed(gpus) => GpuSource::Fixed(gpus.clone()),
    };
    let mut settings = host_settings(config, source.clone())?;
    settings.store = Some(store);
    settings.observer = Some(Arc::new(MetricsObserver(node.applied.clone())));
    let to_bridge = sender.clone();
    let host = HostClient::open(settings, sender).await.map_err(|e| failed(&e))?;
    let local: Arc<dyn Host> = Arc::new(host.clone());
    let door = match config.executor.runtimes.contains(&Runtime::Slurm) {
        true => slurm::open(local, dir, config, to_bridge, tasks).map_err(NodeError::Executor)?,
        false => {
            slurm::close(dir).map_err(NodeError::Executor)?;
            local
        }
    };
    let health = door.health();
    let mut problems = health.problems.clone();
    let (gpus, locks) = gpus(&source, &mut problems).map_err(|e| failed(&e))?;
    for problem in &problems {
        tracing::warn!(%problem, "this node is limited");
    }
    let incarnation = dir.incarnation(health.accounted)?;
    let nonce = Nonce(node.rng.random_bits() as u64);
    let offer = offer(config, &health, gpus, &mut problems);
    let register = RegisterNode { node: node.id, incarnation, nonce, offer, problems };
    // Nobody reads it before the fronts start.
    let _ = node.output.host.set(door.clone());
    tasks.spawn(agent(node, door, register, incarnation, closing.clone()).run(events));
    Ok(Executing { node: node.clone(), host: Some(host), closing, _gpu_locks: Some(locks) })
}

fn agent(
    node: &Arc<Node>,
    host: Arc<dyn Host>,
    offer: RegisterNode,
    incarnation: Incarnation,
    closing: Arc<AtomicBool>,
) -> Agent {
    let nonce = offer.nonce;
    Agent {
        node: node.id,
        incarnation,
        nonce,
        host,
        clock: node.clock.clone(),
        link: Arc::new(Link(node.clone())),
        offer,
        closing,
    }
}

fn host_settings(config: &Config, gpus: GpuSource) -> Result<HostOptions, NodeError> {
    let own =
        std::env::current_exe().map_err(|e| NodeError::Executor(format!("finding this program: {e}")))?;
    let mut settings = HostOptions::new(config.node.data_dir.clone(), vec![own.into(), "shim".into()]);
    settings.sandbox = config.executor.sandbox;
    // Slurm is not of this machine.
    let here = config.executor.runtimes.iter().copied().filter(|runtime| *runtime != Runtime::Slurm);
    settings.runtimes = here.collect();
    settings.tenants = config.executor.tenants.clone();
    settings.run_as = config.executor.runs_as_users();
    settings.crun_path = config.executor.crun_path.clone();
    settings.kill_margin_ms = config.executor.kill_margin_ms;
    settings.max_log_bytes = config.executor.max_log_bytes;
    settings.outputs = config.executor.outputs;
    settings.disk_timeout_ms = config.executor.disk_timeout_ms;
    settings.disk = config.executor.disk;
    settings.gpus = gpus;
    settings.docker = config.executor.docker.clone();
    settings.artifact_roots = config.artifacts.roots.clone();
    settings.secrets_dir = config.secrets.dir.clone();
    settings.crun = config.executor.crun.clone();
    settings.process = config.executor.process.clone();
    settings.mounts = config.executor.mounts.clone();
    Ok(settings)
}

/// The devices this node offers: those of the machine that no other node of it offers already.
fn gpus(
    source: &GpuSource,
    problems: &mut Vec<String>,
) -> Result<(Vec<GpuInfo>, GpuLocks), stint_executor::GpuError> {
    let (offered, taken, locks) = lock_gpus(&lock_folder(), detect_gpus(source)?);
    problems.extend(taken);
    Ok((offered, locks))
}

/// The same for every node of the machine that one user runs.
fn lock_folder() -> PathBuf {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("stint"));
    let machine = PathBuf::from("/run/stint");
    if machine.is_dir() || std::fs::create_dir(&machine).is_ok() { machine } else { own.unwrap_or(machine) }
}

/// What the host can keep of what the configuration promises.
fn offer(config: &Config, health: &HostHealth, gpus: Vec<GpuInfo>, problems: &mut Vec<String>) -> NodeOffer {
    let (runtimes, unusable) = usable_runtimes(&health.runtimes);
    for problem in &unusable {
        tracing::warn!(%problem, "this node is limited");
    }
    problems.extend(unusable);
    let mut classes = config.executor.classes.clone();
    if health.sandbox == Sandbox::None && classes.contains(&Class::Gpu) && !mock_only(&runtimes) {
        classes.retain(|c| *c != Class::Gpu);
        problems.push(
            "class gpu is not offered: neither pid namespaces nor cgroups can end an attempt as a whole"
                .into(),
        );
    }
    NodeOffer {
        resources: Resources {
            cpu_milli: config.executor.cpu_milli,
            memory_bytes: config.executor.memory_bytes,
        },
        gpus,
        runtimes,
        classes,
        labels: config.executor.labels.clone(),
        slots: config.executor.slots,
        quarantined: Vec::new(),
        allows: Some(health.allows.clone()),
        rules: Some(Box::new(health.rules.clone().offered())),
    }
}

fn mock_only(runtimes: &[Runtime]) -> bool {
    runtimes == [Runtime::Mock]
}
