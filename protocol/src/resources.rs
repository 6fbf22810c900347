//! What a task asks for and what a node offers.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::class::{Class, Runtime};
use crate::ids::GpuId;
use crate::node_rules::NodeRules;
use crate::task_limits::Allowance;

/// An amount of CPU (thousandths of a core) and memory (bytes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Resources {
    #[n(0)]
    pub cpu_milli: u64,
    #[n(1)]
    pub memory_bytes: u64,
}

impl Resources {
    /// Whether `need` fits into this amount.
    pub fn holds(&self, need: &Resources) -> bool {
        self.cpu_milli >= need.cpu_milli && self.memory_bytes >= need.memory_bytes
    }

    /// This amount and `other` together.
    pub fn plus(&self, other: &Resources) -> Resources {
        Resources {
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }

    /// What is left of this amount after `other` is taken; never below zero.
    pub fn minus(&self, other: &Resources) -> Resources {
        Resources {
            cpu_milli: self.cpu_milli.saturating_sub(other.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
        }
    }
}

/// Whole GPUs a task asks for; model and memory narrow which.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct GpuRequest {
    #[n(0)]
    pub count: u32,
    /// Part of the model's name, compared without case; none = any.
    #[n(1)]
    pub model: Option<String>,
    /// Least memory of each device, in bytes.
    #[n(2)]
    pub min_memory_bytes: u64,
}

impl GpuRequest {
    /// Whether one device is of the kind asked for.
    pub fn accepts(&self, gpu: &GpuInfo) -> bool {
        let model_fits = |model: &String| gpu.model.to_lowercase().contains(&model.to_lowercase());
        gpu.memory_bytes >= self.min_memory_bytes && self.model.as_ref().is_none_or(model_fits)
    }
}

/// One GPU of a node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GpuInfo {
    #[n(0)]
    pub id: GpuId,
    #[n(1)]
    pub model: String,
    #[n(2)]
    pub memory_bytes: u64,
    /// Index on its host, for device requests.
    #[n(3)]
    pub index: u32,
}

/// A GPU of a node that somebody outside Stint uses: not offered until it is free.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct QuarantinedGpu {
    #[n(0)]
    pub info: GpuInfo,
    /// Who uses it, in words.
    #[n(1)]
    pub used_by: String,
}

/// What a node offers as an executor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct NodeOffer {
    #[n(0)]
    pub resources: Resources,
    #[n(1)]
    pub gpus: Vec<GpuInfo>,
    #[n(2)]
    pub runtimes: Vec<Runtime>,
    #[n(3)]
    pub classes: Vec<Class>,
    #[n(4)]
    pub labels: BTreeMap<String, String>,
    /// Attempts it runs at once at most.
    #[n(5)]
    pub slots: u32,
    /// Not among `gpus`.
    #[n(6)]
    #[cbor(default)]
    pub quarantined: Vec<QuarantinedGpu>,
    /// What its tasks may ask for with `TaskSpec::limits`, by runtime. None: it knows no such limits.
    #[n(7)]
    #[cbor(default)]
    pub allows: Option<Vec<Allowance>>,
    /// What of the images, inputs and secrets that tasks name it lets them have. None: only the node itself knows.
    #[n(8)]
    #[cbor(default)]
    pub rules: Option<Box<NodeRules>>,
}
