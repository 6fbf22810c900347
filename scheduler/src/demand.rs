//! What decides where a task may run and what it takes there. All tasks with an equal demand fit the same nodes, so
//! placement asks once for each demand, however many tasks have it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stint_protocol::{
    Class, GpuRequest, ImageKind, Resources, Runtime, TaskLimits, TaskSpec, folders_of_inputs,
};

/// A demand; equal ones compare equal, whichever submit they came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Demand(Arc<DemandFields>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct DemandFields {
    class: Class,
    cpu_milli: u64,
    memory_bytes: u64,
    /// What it leases, which nothing in Slurm does.
    gpus: Option<GpuRequest>,
    longest_ms: u64,
    runtime: Option<Runtime>,
    image: ImageNeed,
    constraints: BTreeMap<String, String>,
    limits: Option<Box<TaskLimits>>,
    named: Option<Box<Named>>,
}

/// What it names of the node that runs it: nodes have rules for that, and tenants for images. Not each input by itself, as tasks that differ in no more
/// than the file are to stand in one line.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    image: Option<String>,
    folders: BTreeSet<String>,
    secrets: bool,
    /// The user that it runs as, when that is who submitted it.
    run_as: Option<u32>,
}

impl Named {
    fn from_spec(spec: &TaskSpec) -> Option<Box<Self>> {
        let files = spec.files.as_deref();
        let folders = files.into_iter().flat_map(folders_of_inputs).map(String::from).collect();
        let secrets = files.is_some_and(|files| !files.secrets.is_empty());
        let named = Self { image: spec.image.clone(), folders, secrets, run_as: spec.run_as };
        (named != Self::default()).then(|| Box::new(named))
    }
}

/// What of its image decides which runtimes can run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ImageNeed {
    None,
    Reference,
    Registered(ImageKind),
}

impl Demand {
    /// The demand of every task with this spec.
    pub(crate) fn from_spec(spec: &TaskSpec) -> Self {
        let Resources { cpu_milli, memory_bytes } = spec.resources();
        let image = match (&spec.pinned, &spec.image) {
            (Some(pinned), _) => ImageNeed::Registered(pinned.source.kind()),
            (None, Some(_)) => ImageNeed::Reference,
            (None, None) => ImageNeed::None,
        };
        Self(Arc::new(DemandFields {
            class: spec.class,
            cpu_milli,
            memory_bytes,
            gpus: spec.leases().cloned(),
            longest_ms: spec.timeout_ms.saturating_add(spec.stop_grace_ms),
            runtime: spec.runtime,
            image,
            constraints: spec.constraints.clone(),
            limits: spec.limits.clone(),
            named: Named::from_spec(spec),
        }))
    }

    pub(crate) fn class(&self) -> Class {
        self.0.class
    }

    pub(crate) fn resources(&self) -> Resources {
        Resources { cpu_milli: self.0.cpu_milli, memory_bytes: self.0.memory_bytes }
    }

    /// Whole GPUs of one attempt, leased from its node.
    pub(crate) fn gpus(&self) -> Option<&GpuRequest> {
        self.0.gpus.as_ref()
    }

    /// An attempt's lease is over after so long at the latest, in milliseconds: its run time and its time to stop.
    pub(crate) fn longest_ms(&self) -> u64 {
        self.0.longest_ms
    }

    /// Labels that its node must have.
    pub(crate) fn constraints(&self) -> &BTreeMap<String, String> {
        &self.0.constraints
    }
}

impl PartialOrd for Demand {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Demand {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
    }
}
