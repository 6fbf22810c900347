//! Classes of tasks, the runtimes that execute them, and the rules of each class.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Decides runtimes, limits, deadline and queue of a task.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
)]
#[cbor(index_only)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    #[n(0)]
    CpuShort,
    #[n(1)]
    CpuLong,
    #[n(2)]
    Gpu,
    #[n(3)]
    GpuSlurm,
}

impl Class {
    /// Every class, in queue order.
    pub const ALL: [Class; 4] = [Class::CpuShort, Class::CpuLong, Class::Gpu, Class::GpuSlurm];

    /// The word users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::CpuShort => "cpu_short",
            Class::CpuLong => "cpu_long",
            Class::Gpu => "gpu",
            Class::GpuSlurm => "gpu_slurm",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no class or no runtime; says which words do that people use: mock is for tests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {word:?}: use one of {known}")]
pub struct UnknownWord {
    what: &'static str,
    word: String,
    known: &'static str,
}

impl UnknownWord {
    pub(crate) fn new(what: &'static str, word: &str, known: &'static str) -> Self {
        Self { what, word: word.into(), known }
    }
}

impl FromStr for Class {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let unknown =
            || UnknownWord { what: "class", word: word.into(), known: "cpu_short, cpu_long, gpu, gpu_slurm" };
        Class::ALL.into_iter().find(|c| c.as_str() == word).ok_or_else(unknown)
    }
}

/// What executes an attempt.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
)]
#[cbor(index_only)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    #[n(0)]
    Process,
    #[n(1)]
    Crun,
    #[n(2)]
    Docker,
    #[n(3)]
    Slurm,
    #[n(4)]
    Mock,
}

impl Runtime {
    /// Every runtime, in the order in which a node prefers them when a task names none.
    pub const ALL: [Runtime; 5] =
        [Runtime::Process, Runtime::Crun, Runtime::Docker, Runtime::Slurm, Runtime::Mock];

    /// The word users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Runtime::Process => "process",
            Runtime::Crun => "crun",
            Runtime::Docker => "docker",
            Runtime::Slurm => "slurm",
            Runtime::Mock => "mock",
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Runtime {
    type Err = UnknownWord;

    /// Also takes the aliases of the published payloads: `native` (process) and `oci` (crun).
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "native" => return Ok(Runtime::Process),
            "oci" => return Ok(Runtime::Crun),
            _ => {}
        }
        let unknown =
            || UnknownWord { what: "runtime", word: word.into(), known: "process, crun, docker, slurm" };
        Runtime::ALL.into_iter().find(|r| r.as_str() == word).ok_or_else(unknown)
    }
}

/// The replicated rules of one class. A task that breaks a cap is refused, never clamped.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassRules {
    /// Runtimes that may execute the class, in order of preference.
    #[n(0)]
    pub runtimes: Vec<Runtime>,
    /// Run time of an attempt when the task names none, in milliseconds.
    #[n(1)]
    pub default_timeout_ms: u64,
    /// Longest run time a task may ask for, in milliseconds.
    #[n(2)]
    pub max_timeout_ms: u64,
    /// CPU when the task names none, in thousandths of a core.
    #[n(3)]
    pub default_cpu_milli: u32,
    /// Memory when the task names none, in bytes.
    #[n(4)]
    pub default_memory_bytes: u64,
    /// Whole GPUs a task gets when it names no number.
    #[n(5)]
    pub default_gpus: u32,
    /// Most whole GPUs a task may ask for.
    #[n(6)]
    pub max_gpus: u32,
    /// Length of a lease, in milliseconds (docs/internals/leases.md#length-and-margin).
    #[n(7)]
    pub lease_ttl_ms: u64,
}

impl ClassRules {
    /// The longest time between TERM and KILL that a task of the class may have, in milliseconds: stopping takes half of a
    /// lease at most.
    pub fn most_grace_ms(&self) -> u64 {
        self.lease_ttl_ms / 2
    }

    /// The rules a new cluster starts with, where its founder's file does not say otherwise (`[classes.*]`). What Slurm
    /// runs may take as long and use as many devices as its partitions give: 30 days and 64 devices are beyond what
    /// sites allow.
    pub fn default_for(class: Class) -> Self {
        use Runtime::{Crun, Docker, Mock, Process, Slurm};
        let (runtimes, timeout_s, cpu, mib, gpus, lease_ttl_ms) = match class {
            Class::CpuShort => (vec![Process, Crun, Docker, Mock], 60, 1000, 512, 0, 10_000),
            Class::CpuLong => (vec![Crun, Docker, Mock], 900, 2000, 2048, 0, 15_000),
            Class::Gpu => (vec![Crun, Docker, Mock], 600, 2000, 4096, 1, 15_000),
            Class::GpuSlurm => (vec![Slurm], 86_400, 0, 0, 1, 600_000),
        };
        Self {
            runtimes,
            default_timeout_ms: timeout_s * 1000,
            max_timeout_ms: if class == Class::GpuSlurm { 30 * 86_400_000 } else { timeout_s * 1000 },
            default_cpu_milli: cpu,
            default_memory_bytes: mib * 1024 * 1024,
            default_gpus: gpus,
            max_gpus: if class == Class::GpuSlurm { 64 } else { gpus },
            lease_ttl_ms,
        }
    }
}
