//! Metrics in Prometheus text: names and help in one place, units in the names, no ids in labels.

use std::collections::BTreeMap;

use prometheus::{Encoder, Gauge, GaugeVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use stint_protocol::Class;

use crate::node::Node;
use crate::outage::is_silent;

/// Containers of this node by class, as its daemon tells; none: no daemon does.
pub type Containers = Option<BTreeMap<Class, u64>>;

/// What `/metrics` answers: a look at this peer's applied state and its part in the log.
pub fn render(node: &Node, containers: Containers) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    tasks(&registry, node)?;
    raft(&registry, node)?;
    resources(&registry, node)?;
    active(&registry, node)?;
    host(&registry, node, containers)?;
    blobs(&registry, node)?;
    node.applied.counts.register(&registry)?;
    node.applied.work.register(&registry)?;
    let mut out = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn gauge(registry: &Registry, name: &str, help: &str, value: i64) -> Result<(), prometheus::Error> {
    let gauge = IntGauge::new(name, help)?;
    gauge.set(value);
    registry.register(Box::new(gauge))
}

fn tasks(registry: &Registry, node: &Node) -> Result<(), prometheus::Error> {
    let state = node.applied.view().state;
    let queued = IntGaugeVec::new(
        Opts::new("stint_tasks_queued", "Tasks that wait for a node, by class"),
        &["class"],
    )?;
    for class in Class::ALL {
        queued.with_label_values(&[class.as_str()]).set(state.queued(class) as i64);
    }
    registry.register(Box::new(queued))?;
    gauge(
        registry,
        "stint_tasks_waiting",
        "Tasks that wait for a node or for a retry",
        state.waiting() as i64,
    )?;
    gauge(
        registry,
        "stint_attempts_leased",
        "Attempts under a lease in the cluster",
        state.running() as i64,
    )?;
    gauge(registry, "stint_tasks_finished", "Tasks that ever finished", state.finished_total() as i64)
}

fn raft(registry: &Registry, node: &Node) -> Result<(), prometheus::Error> {
    let status = node.raft.status();
    gauge(registry, "stint_raft_term", "The Raft term", status.term as i64)?;
    gauge(
        registry,
        "stint_raft_applied_index",
        "Last log entry applied",
        node.applied.view().at.index as i64,
    )?;
    gauge(
        registry,
        "stint_raft_last_log_index",
        "Last log entry stored",
        status.last_log.unwrap_or(0) as i64,
    )?;
    gauge(registry, "stint_raft_is_leader", "1 while this peer leads", i64::from(node.leader.leads()))?;
    gauge(registry, "stint_raft_voters", "Voters of the cluster", status.voters.len() as i64)?;
    let (help, now) = ("Seconds until the certificate of this peer ends", node.clock.wall());
    if let Some(left) = node.certificates.left_s(now) {
        gauge(registry, "stint_certificate_expires_in_seconds", help, left)?;
    }
    let help = "Seconds since this peer heard a leader that it follows, or led with a quorum";
    let contact = Gauge::new("stint_raft_leader_last_contact_seconds", help)?;
    contact.set(status.leader_silence.as_secs_f64());
    registry.register(Box::new(contact))?;
    alarms(registry, node, &status)
}

/// What an operator should look at: each is 1 while it is so.
fn alarms(registry: &Registry, node: &Node, status: &stint_raft::Status) -> Result<(), prometheus::Error> {
    let help = "1 while an operator should look: no_leader (this peer knows none), peer_unreachable (as a leader \
                it does not hear a peer), clock (as a leader its wall clock does not go with its boot clock)";
    let alarms = IntGaugeVec::new(Opts::new("stint_alarm", help), &["alarm"])?;
    let leads = status.is_leader_with_quorum();
    let others = status.voters.keys().chain(status.learners.keys()).filter(|id| **id != status.id);
    let silent = |id: &u64| status.contacts.get(id).is_none_or(|age| is_silent(*age));
    for (alarm, on) in [
        ("no_leader", status.leader_in_contact().is_none()),
        ("peer_unreachable", leads && others.clone().any(silent)),
        ("clock", !node.leader.alarms().is_empty()),
    ] {
        alarms.with_label_values(&[alarm]).set(i64::from(on));
    }
    registry.register(Box::new(alarms))
}

/// What runs on this node.
fn active(registry: &Registry, node: &Node) -> Result<(), prometheus::Error> {
    let state = node.applied.view().state;
    let help = "Attempts under a lease on this node";
    let active = IntGaugeVec::new(Opts::new("stint_node_active_tasks", help), &["class", "runtime"])?;
    for lease in state.leases_of(node.id) {
        let Some(task) = state.task(lease.task) else { continue };
        let Some(leased) = task.leased() else { continue };
        active.with_label_values(&[task.spec.class.as_str(), leased.runtime.as_str()]).inc();
    }
    registry.register(Box::new(active))?;
    let info = IntGaugeVec::new(Opts::new("stint_build_info", "The program"), &["version"])?;
    info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    registry.register(Box::new(info))
}

/// What the execution host can use now, and has.
fn host(registry: &Registry, node: &Node, containers: Containers) -> Result<(), prometheus::Error> {
    let Some(host) = node.output.host.get() else { return Ok(()) };
    let help = "1 while this node can use a runtime that its configuration names";
    let available = IntGaugeVec::new(Opts::new("stint_runtime_available", help), &["runtime"])?;
    for (runtime, usable) in host.health().runtimes {
        available.with_label_values(&[runtime.as_str()]).set(i64::from(usable.is_ok()));
    }
    registry.register(Box::new(available))?;
    let Some(containers) = containers else { return Ok(()) };
    let help = "Docker containers of this node that are there, in whatever state";
    let active = IntGaugeVec::new(Opts::new("stint_node_active_containers", help), &["class"])?;
    for (class, count) in containers {
        active.with_label_values(&[class.as_str()]).set(count as i64);
    }
    registry.register(Box::new(active))
}

/// Bytes of the cluster that lie on this peer.
fn blobs(registry: &Registry, node: &Node) -> Result<(), prometheus::Error> {
    let Ok(blobs) = node.stored() else { return Ok(()) };
    let state = node.applied.view().state;
    let own = state.blobs().filter(|(_, record)| record.holders.contains(&node.id));
    let (count, bytes) = own.fold((0, 0), |(count, bytes), (_, record)| (count + 1, bytes + record.size));
    gauge(registry, "stint_blobs", "Blobs of which this peer has a copy that counts", count)?;
    gauge(registry, "stint_blob_bytes", "Bytes of those blobs", bytes as i64)?;
    registry.register(Box::new(blobs.pulls.clone()))?;
    registry.register(Box::new(blobs.pulled_bytes.clone()))
}

fn resources(registry: &Registry, node: &Node) -> Result<(), prometheus::Error> {
    let state = node.applied.view().state;
    let Some(own) = state.node(node.id) else { return Ok(()) };
    let cpu = GaugeVec::new(Opts::new("stint_node_cpu_cores", "Cores of this node"), &["kind"])?;
    cpu.with_label_values(&["offered"]).set(own.offer.resources.cpu_milli as f64 / 1000.0);
    cpu.with_label_values(&["leased"]).set(own.used.cpu_milli as f64 / 1000.0);
    registry.register(Box::new(cpu))?;
    let memory = IntGaugeVec::new(Opts::new("stint_node_memory_bytes", "Memory of this node"), &["kind"])?;
    memory.with_label_values(&["offered"]).set(own.offer.resources.memory_bytes as i64);
    memory.with_label_values(&["leased"]).set(own.used.memory_bytes as i64);
    registry.register(Box::new(memory))?;
    let leased =
        own.offer.gpus.iter().filter(|g| state.gpu(&g.id).is_some_and(|r| r.holder.is_some())).count();
    let gpus = IntGaugeVec::new(Opts::new("stint_node_gpus", "GPUs of this node"), &["kind"])?;
    gpus.with_label_values(&["offered"]).set(own.offer.gpus.len() as i64);
    gpus.with_label_values(&["leased"]).set(leased as i64);
    let quarantined = own.offer.quarantined.len();
    gpus.with_label_values(&["quarantined"]).set(quarantined as i64);
    gpus.with_label_values(&["total"]).set((own.offer.gpus.len() + quarantined) as i64);
    registry.register(Box::new(gpus))
}
