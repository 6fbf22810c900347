//! Why a node cannot take a task. The same reasons serve placing and explaining.

use std::collections::BTreeMap;
use std::fmt;

use stint_protocol::{
    Class, GpuId, LeaseId, NodeId, NodeOffer, NodeRules, NotAllowed, QuarantinedGpu, Resources, Runtime,
    TaskFiles, TaskId, TaskSpec, Tenant, folders_of_inputs,
};

use crate::mutations::{Mutation, planted};
use crate::node::{Node, NodeMode};
use crate::state::State;

/// One thing a node lacks for a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UnfitReason {
    NotRegistered,
    Cordoned,
    Draining,
    Held {
        left_ms: u64,
        tasks: u32,
        message: String,
    },
    OnTrial,
    Class(Class),
    Runtime(Vec<Runtime>),
    /// It takes tasks of other tenants only.
    Tenant(Tenant),
    /// Its tenant shares its nodes with nobody, and it is not its alone.
    NotDedicated(Tenant),
    /// It runs tasks that a task of this tenant shares no node with; whether that is because of this tenant.
    Strangers {
        tenant: Tenant,
        dedicated: bool,
    },
    /// Programs of all tenants would have one user on it, and nobody named the tenants that may.
    OneUser,
    /// It offers a runtime, but not what the task asks for with it.
    Allowed(Vec<NotAllowed>),
    /// It knows no limits of tasks.
    Limits,
    Label {
        key: String,
        wanted: String,
        has: Option<String>,
    },
    Slots {
        most: u32,
    },
    Cpu {
        need: u64,
        free: u64,
        total: u64,
    },
    Memory {
        need: u64,
        free: u64,
        total: u64,
    },
    Gpus {
        need: u32,
        free: u32,
        fitting: u32,
        total: u32,
    },
    Quarantined {
        gpu: GpuId,
        used_by: String,
    },
    /// Enough is free, but kept for its free GPUs.
    KeptForGpus {
        gpus: u32,
    },
    /// It fits, but would delay a task that comes first and is to start here.
    Reserved {
        task: TaskId,
        left_ms: u64,
    },
    /// It fits, but tasks that come first are to start here now.
    Given,
}

impl UnfitReason {
    /// Whether it passes by itself when other tasks end.
    pub(crate) fn is_busy(&self) -> bool {
        match self {
            UnfitReason::Slots { most } => *most > 0,
            UnfitReason::Held { .. }
            | UnfitReason::OnTrial
            | UnfitReason::Strangers { .. }
            | UnfitReason::Quarantined { .. }
            | UnfitReason::KeptForGpus { .. }
            | UnfitReason::Reserved { .. }
            | UnfitReason::Given => true,
            UnfitReason::Cpu { need, total, .. } | UnfitReason::Memory { need, total, .. } => need <= total,
            UnfitReason::Gpus { need, fitting, .. } => need <= fitting,
            _ => false,
        }
    }
}

impl fmt::Display for UnfitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = |milli: &u64| *milli as f64 / 1000.0;
        let mib = |bytes: &u64| bytes / (1024 * 1024);
        match self {
            UnfitReason::NotRegistered => write!(f, "has not offered to run anything yet"),
            UnfitReason::Cordoned => write!(f, "is cordoned"),
            UnfitReason::Draining => write!(f, "is draining"),
            UnfitReason::Held { left_ms, tasks, message } => {
                let seconds = left_ms.div_ceil(1000);
                write!(f, "failed to start the last {tasks} tasks, tried again in {seconds} s: {message}")
            }
            UnfitReason::OnTrial => {
                write!(f, "is tried with one task at a time, as it failed to start several in a row")
            }
            UnfitReason::Class(class) => write!(f, "does not offer class {class}"),
            UnfitReason::Runtime(wanted) => {
                write!(f, "offers none of the runtimes {}", names_of(wanted))
            }
            UnfitReason::Tenant(_)
            | UnfitReason::NotDedicated(_)
            | UnfitReason::Strangers { .. }
            | UnfitReason::OneUser => self.fmt_of_tenant(f),
            UnfitReason::Allowed(refused) => {
                let refusals: Vec<String> = refused.iter().map(NotAllowed::to_string).collect();
                f.write_str(&refusals.join("; "))
            }
            UnfitReason::Limits => {
                write!(
                    f,
                    "knows no limits of single tasks: it runs an earlier stint than the others, or its watchdog does"
                )
            }
            UnfitReason::Label { key, wanted, has: Some(has) } => {
                write!(f, "label {key} is {has}, not {wanted}")
            }
            UnfitReason::Label { key, wanted, has: None } => write!(f, "has no label {key}={wanted}"),
            UnfitReason::Slots { most } => write!(f, "all {most} slots are taken"),
            UnfitReason::Cpu { need, free, total } => {
                write!(f, "{} of {} cores free, {} needed", cores(free), cores(total), cores(need))
            }
            UnfitReason::Memory { need, free, total } => {
                write!(f, "{} of {} MiB memory free, {} needed", mib(free), mib(total), mib(need))
            }
            UnfitReason::Quarantined { gpu, used_by } => {
                write!(f, "GPU {gpu} is quarantined: {used_by} still uses it")
            }
            UnfitReason::KeptForGpus { gpus } => {
                write!(f, "what is free is kept for its {gpus} free GPU(s)")
            }
            UnfitReason::Reserved { task, left_ms } => {
                let seconds = left_ms.div_ceil(1000);
                write!(
                    f,
                    "is kept for task {task}, which comes first and starts in {seconds} s at the latest"
                )
            }
            UnfitReason::Given => write!(f, "starts tasks that come first"),
            UnfitReason::Gpus { need, free, fitting, total } => {
                write!(f, "{free} of {total} GPUs free and fitting ({fitting} fit at all), {need} needed")
            }
        }
    }
}

impl UnfitReason {
    /// What lies in whose task it is.
    fn fmt_of_tenant(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnfitReason::Tenant(tenant) => {
                write!(f, "takes no tasks of tenant {tenant}: add it to executor.tenants there")
            }
            UnfitReason::NotDedicated(tenant) => {
                write!(f, "is not dedicated to tenant {tenant}: name it alone in executor.tenants there")
            }
            UnfitReason::Strangers { tenant, dedicated: true } => {
                write!(f, "still runs tasks of others, and tenant {tenant} is dedicated: it shares no node")
            }
            UnfitReason::Strangers { .. } => {
                write!(f, "still runs tasks of a dedicated tenant, which shares no node")
            }
            UnfitReason::OneUser => {
                write!(
                    f,
                    "would run processes of several tenants as one user: run its peer as root, with the sandbox and without \
                     executor.process.user, or name in executor.tenants whose tasks it takes"
                )
            }
            _ => Ok(()),
        }
    }
}

/// Runtimes as users are told of them: only who asks for mock knows of it.
pub(crate) fn names_of(runtimes: &[Runtime]) -> String {
    let names = runtimes.iter().filter(|runtime| **runtime != Runtime::Mock || runtimes.len() == 1);
    names.map(|runtime| runtime.as_str()).collect::<Vec<_>>().join(", ")
}

/// Everything `node` lacks for `spec`; empty = it fits now.
pub(crate) fn missing(state: &State, node: &Node, (tenant, spec): (&Tenant, &TaskSpec)) -> Vec<UnfitReason> {
    let mut lacks = missing_but_gpus(node, spec, &node.free(), node.free_slots());
    if strangers(state, node.id, tenant).next().is_some() {
        let dedicated = state.settings().tenants.is_dedicated(tenant);
        lacks.push(UnfitReason::Strangers { tenant: tenant.clone(), dedicated });
    }
    if let Some(backoff) = node.backing_off(state.time()) {
        let left_ms = backoff.until.since(state.time());
        lacks.push(UnfitReason::Held { left_ms, tasks: backoff.tasks, message: backoff.message.clone() });
    }
    lacks.extend(missing_gpus(state, node, spec));
    lacks
}

/// What `node` lacks when `free` and `slots` are what is left of it.
pub(crate) fn missing_but_gpus(
    node: &Node,
    spec: &TaskSpec,
    free: &Resources,
    slots: u32,
) -> Vec<UnfitReason> {
    let mut lacks = Vec::new();
    if node.incarnation.0 == 0 {
        lacks.push(UnfitReason::NotRegistered);
        return lacks;
    }
    match node.mode {
        NodeMode::Ready => {}
        NodeMode::Cordoned => lacks.push(UnfitReason::Cordoned),
        NodeMode::Draining => lacks.push(UnfitReason::Draining),
    }
    if !node.offer.classes.contains(&spec.class) {
        lacks.push(UnfitReason::Class(spec.class));
    }
    for (key, wanted) in &spec.constraints {
        let has = node.offer.labels.get(key);
        if has != Some(wanted) {
            lacks.push(UnfitReason::Label { key: key.clone(), wanted: wanted.clone(), has: has.cloned() });
        }
    }
    lacks.extend(missing_amounts(node, spec, free, slots));
    lacks
}

/// What `node` lacks even if nothing else ran there, whatever its mode; the runtime apart.
pub(crate) fn lacks_of_empty(node: &Node, spec: &TaskSpec) -> Vec<UnfitReason> {
    let mut lacks = missing_but_gpus(node, spec, &node.offer.resources, node.offer.slots);
    lacks.retain(|lack| !matches!(lack, UnfitReason::Cordoned | UnfitReason::Draining));
    if let Some(request) = spec.leases() {
        let quarantined = node.offer.quarantined.iter().map(|quarantined| &quarantined.info);
        let all = node.offer.gpus.iter().chain(quarantined);
        let fitting = all.clone().filter(|gpu| request.accepts(gpu)).count() as u32;
        if fitting < request.count {
            let (need, total) = (request.count, all.count() as u32);
            lacks.push(UnfitReason::Gpus { need, free: fitting, fitting, total });
        }
    }
    lacks
}

/// Whether a node has all these labels, with these values.
pub(crate) fn fits_labels(node: &Node, constraints: &BTreeMap<String, String>) -> bool {
    constraints.iter().all(|(key, wanted)| node.offer.labels.get(key) == Some(wanted))
}

fn missing_amounts(node: &Node, spec: &TaskSpec, free: &Resources, slots: u32) -> Vec<UnfitReason> {
    let mut lacks = Vec::new();
    let (need, total) = (spec.resources(), node.offer.resources);
    if slots == 0 && node.on_probation() {
        lacks.push(UnfitReason::OnTrial);
    } else if slots == 0 {
        lacks.push(UnfitReason::Slots { most: node.offer.slots });
    }
    if need.cpu_milli > free.cpu_milli {
        lacks.push(UnfitReason::Cpu { need: need.cpu_milli, free: free.cpu_milli, total: total.cpu_milli });
    }
    if need.memory_bytes > free.memory_bytes {
        lacks.push(UnfitReason::Memory {
            need: need.memory_bytes,
            free: free.memory_bytes,
            total: total.memory_bytes,
        });
    }
    lacks
}

fn missing_gpus(state: &State, node: &Node, spec: &TaskSpec) -> Vec<UnfitReason> {
    let Some(request) = spec.leases() else { return Vec::new() };
    let offered = node.offer.gpus.iter().filter(|g| request.accepts(g));
    let is_free = |id| state.gpu(id).is_some_and(|r| r.free_on(node.id).is_some());
    let free = offered.clone().filter(|g| is_free(&g.id)).count() as u32;
    if free >= request.count {
        return Vec::new();
    }
    let quarantined: Vec<_> = node.offer.quarantined.iter().filter(|q| request.accepts(&q.info)).collect();
    let fitting = (offered.count() + quarantined.len()) as u32;
    let total = (node.offer.gpus.len() + node.offer.quarantined.len()) as u32;
    let why =
        |q: &&QuarantinedGpu| UnfitReason::Quarantined { gpu: q.info.id.clone(), used_by: q.used_by.clone() };
    let lacks = [UnfitReason::Gpus { need: request.count, free, fitting, total }];
    lacks.into_iter().chain(quarantined.iter().map(why)).collect()
}

/// The runtimes that could run it, the preferred one first: the task's own choice, else those of its class.
pub(super) fn suited_runtimes<'a>(
    state: &'a State,
    spec: &'a TaskSpec,
) -> impl Iterator<Item = Runtime> + Clone + use<'a> {
    let of_class = state.settings().class(spec.class).runtimes.iter().copied();
    let of_class = of_class.filter(|runtime| spec.runtime.is_none() && suits(*runtime, spec));
    spec.runtime.into_iter().chain(of_class)
}

/// The runtime a node would use: the task's own choice, else the first of the class's that the node offers and that
/// gives what the task asks for.
pub(crate) fn choose_runtime(
    state: &State,
    node: &Node,
    (tenant, spec): (&Tenant, &TaskSpec),
    heeded: Rules,
) -> Result<Runtime, UnfitReason> {
    let rules = node.offer.rules.as_deref();
    if !names(rules, tenant) {
        return Err(UnfitReason::Tenant(tenant.clone()));
    }
    if !takes(state, rules, tenant) {
        return Err(UnfitReason::NotDedicated(tenant.clone()));
    }
    let suited = suited_runtimes(state, spec);
    let offered = suited.clone().filter(|runtime| node.offer.runtimes.contains(runtime));
    let (mut refused, mut one_user) = (Vec::new(), false);
    for runtime in offered {
        if would_share(state, node, runtime, tenant) {
            one_user = true;
            continue;
        }
        match not_allowed(node, runtime, spec, heeded)? {
            lacks if lacks.is_empty() => return Ok(runtime),
            // What several runtimes are denied alike is said once.
            lacks => lacks.into_iter().for_each(|lack| {
                if !refused.contains(&lack) {
                    refused.push(lack);
                }
            }),
        }
    }
    Err(match refused.is_empty() {
        false => UnfitReason::Allowed(refused),
        true if one_user => UnfitReason::OneUser,
        true => UnfitReason::Runtime(suited.collect()),
    })
}

/// Whether nodes with these rules take tasks of a tenant: they do not name others alone, and are its alone where it shares its nodes
/// with nobody. That none of them does is no reason to ask one.
pub(super) fn takes(state: &State, rules: Option<&NodeRules>, tenant: &Tenant) -> bool {
    let is_its = || rules.is_some_and(|rules| rules.is_dedicated_to(tenant));
    let alone = state.settings().tenants.is_dedicated(tenant) && !planted(Mutation::LeaveDedicated);
    names(rules, tenant) && (!alone || is_its())
}

fn names(rules: Option<&NodeRules>, tenant: &Tenant) -> bool {
    rules.is_none_or(|rules| rules.takes(tenant))
}

/// What runs on a node and shares it with no task of this tenant, as one of the two tenants shares its nodes with nobody. It began
/// before the settings or the node's rules were these: no plan gives one node to both.
pub(super) fn strangers<'a>(
    state: &'a State,
    node: NodeId,
    tenant: &'a Tenant,
) -> impl Iterator<Item = LeaseId> + use<'a> {
    let tenants = &state.settings().tenants;
    let leases = tenants.any_dedicated().then(|| state.leases_of(node));
    let strange = |lease: &LeaseId| {
        state.task(lease.task).is_some_and(|task| !tenants.may_share(&task.fields.tenant, tenant))
    };
    leases.into_iter().flatten().filter(move |lease| !planted(Mutation::ShareDedicated) && strange(lease))
}

/// Whether a tenant's programs would have the user of another tenant's there, which nobody wanted. The cluster's first tenant
/// keeps what it had before there was another one.
fn would_share(state: &State, node: &Node, runtime: Runtime, tenant: &Tenant) -> bool {
    let for_one = node.offer.rules.as_deref().is_some_and(|rules| rules.is_for_one_tenant(runtime));
    for_one && state.came_later(tenant)
}

/// Whether a node takes a tenant's tasks with this runtime, as its offer is now.
pub(super) fn takes_with(state: &State, node: &Node, runtime: Runtime, tenant: &Tenant) -> bool {
    takes(state, node.offer.rules.as_deref(), tenant) && !would_share(state, node, runtime, tenant)
}

/// Whether what nodes forbid of images, inputs and secrets counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    Heeded,
    /// No node of the cluster allows it: whichever is asked says so, and the task ends as `denied`.
    Ignored,
}

impl Rules {
    /// `allowed`: some node of the cluster lets the task have what it names, also one that is away or out of work now.
    pub(super) fn for_task(allowed: bool) -> Self {
        if allowed { Rules::Heeded } else { Rules::Ignored }
    }
}

/// What a task asks for and the node does not allow with this runtime.
pub(crate) fn not_allowed(
    node: &Node,
    runtime: Runtime,
    spec: &TaskSpec,
    rules: Rules,
) -> Result<Vec<NotAllowed>, UnfitReason> {
    let mut refused = match rules {
        Rules::Heeded => forbidden(node.offer.rules.as_deref(), runtime, spec),
        Rules::Ignored => Vec::new(),
    };
    let Some(limits) = &spec.limits else { return Ok(refused) };
    let allows = node.offer.allows.as_ref().ok_or(UnfitReason::Limits)?;
    let own = allows.iter().find(|allowance| allowance.runtime == runtime).ok_or(UnfitReason::Limits)?;
    refused.extend(own.refuses(limits));
    Ok(refused)
}

/// What a task names of images, inputs and secrets that nodes with these rules do not let it have. A node without any says what it
/// forbids when it is asked to start the task.
pub(super) fn forbidden(rules: Option<&NodeRules>, runtime: Runtime, spec: &TaskSpec) -> Vec<NotAllowed> {
    match (rules, spec.run_as) {
        (Some(rules), _) => rules.forbids(runtime, spec),
        // Of this it would say nothing, and run it as somebody else.
        (None, Some(_)) => NodeRules::open().forbids(runtime, spec),
        (None, None) => Vec::new(),
    }
}

/// Whether nodes with this offer let a task of their class have what it names, with a runtime that they have.
pub(super) fn lets_have(state: &State, offer: &NodeOffer, (tenant, spec): (&Tenant, &TaskSpec)) -> bool {
    let has = |runtime: &Runtime| offer.runtimes.contains(runtime);
    let mut suited = suited_runtimes(state, spec).filter(has);
    offer.classes.contains(&spec.class)
        && takes(state, offer.rules.as_deref(), tenant)
        && suited.any(|runtime| forbidden(offer.rules.as_deref(), runtime, spec).is_empty())
}

/// Whether there is anything of a task that the rules of nodes could forbid.
pub(super) fn names_anything(spec: &TaskSpec) -> bool {
    let of_files = |files: &TaskFiles| !files.secrets.is_empty() || folders_of_inputs(files).next().is_some();
    spec.image.is_some() || spec.run_as.is_some() || spec.files.as_deref().is_some_and(of_files)
}

/// Whether a runtime can run a spec which names none: Docker needs an image, a process has none, and only a task that
/// asks for it is mocked. A registered image says by its kind what runs it.
fn suits(runtime: Runtime, spec: &TaskSpec) -> bool {
    if let Some(pinned) = &spec.pinned {
        return pinned.source.kind().runtimes().contains(&runtime);
    }
    match runtime {
        Runtime::Docker => spec.image.is_some(),
        Runtime::Process => spec.image.is_none(),
        Runtime::Mock => false,
        Runtime::Crun | Runtime::Slurm => true,
    }
}
