//! What is simulated: topology, workload, faults and their rates. Written as TOML, or made by a seed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::recorded::RecordedTask;
use crate::rules::ClusterRules;

/// A low and a high bound, both included; one number in TOML means both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OneOrTwo")]
pub struct Range(pub u64, pub u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrTwo {
    One(u64),
    Two([u64; 2]),
}

impl From<OneOrTwo> for Range {
    fn from(bounds: OneOrTwo) -> Self {
        match bounds {
            OneOrTwo::One(both) => Range(both, both),
            OneOrTwo::Two([low, high]) => Range(low, high),
        }
    }
}

/// A named world.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    /// What it is for, in a sentence or two.
    pub about: String,
    #[serde(default)]
    pub topology: Topology,
    pub cluster: ClusterRules,
    pub time: Times,
    pub workload: Workload,
    /// Each lane has one fault at a time; lanes are independent of each other.
    pub lanes: Vec<Lane>,
}

/// Machines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Topology {
    /// Peers that vote; the seed draws one number of this range, 1 to 7.
    pub voters: Range,
    /// Nodes that only execute (learners).
    pub executors: Range,
    /// GPUs of each node, over and over.
    pub gpus: Vec<u32>,
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    pub slots: u32,
    /// GPUs that every node offers besides: on one machine with several nodes, a fault of the installation.
    pub shared_gpus: u32,
    /// Each clock runs wrong by up to this many millionths. Leases allow for 5,000 in each direction.
    pub drift_ppm: u64,
    /// Each wall clock is set wrong by up to this, in milliseconds.
    pub wall_offset_ms: u64,
    /// Jobs that Slurm runs at a time; every node hands tasks of class gpu_slurm on to it. 0: there is no Slurm.
    pub slurm_jobs: u32,
    /// Peers that begin with the oldest version, the founder first; `upgrade-next` upgrades them, and so does healing.
    pub old_peers: Range,
}

/// How long everything takes, in milliseconds of virtual time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Times {
    /// One step of the simulation.
    pub step_ms: u64,
    /// A new cluster must be complete within this.
    pub ready_ms: u64,
    /// Faults and new work come for this long.
    pub trouble_ms: u64,
    /// After healing everything must be finished within this.
    pub settle_ms: u64,
}

/// What clients ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Workload {
    /// Time between two requests, in milliseconds.
    pub every_ms: Range,
    /// How often each kind of request comes, by weight.
    pub requests: BTreeMap<String, u64>,
    /// How often each class comes, by weight.
    pub classes: BTreeMap<String, u64>,
    /// Tasks of one submit.
    pub count: Range,
    /// Of a hundred programs, how many end with an error, how many hang until they are stopped.
    pub failing_percent: u64,
    pub hanging_percent: u64,
    /// How long programs run, in milliseconds: each task draws one of these ranges.
    pub run_ms: Vec<Range>,
    /// Played at their times, beside what the weights ask for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recorded: Vec<RecordedTask>,
}

/// One sequence of faults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lane {
    pub name: String,
    /// Time between two faults of this lane, in milliseconds.
    pub pause_ms: Range,
    /// How long one lasts, in milliseconds.
    pub length_ms: Range,
    /// Kinds of faults and how often each comes, by weight.
    pub faults: BTreeMap<String, u64>,
}

fn weights(of: &[(&str, u64)]) -> BTreeMap<String, u64> {
    of.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect()
}

impl Default for Scenario {
    /// Everything at once.
    fn default() -> Self {
        let lane = |name: &str, length_ms, pause_ms, faults: &[(&str, u64)]| Lane {
            name: name.to_owned(),
            pause_ms: Range(100, pause_ms),
            length_ms: Range(50, length_ms),
            faults: weights(faults),
        };
        Self {
            name: "mixed-chaos".into(),
            about: "Everything at once: crashes, pauses, cuts, loss, delay, bad disks, wrong clocks, dying watchdogs \
                    and a busy operator under a mixed load."
                .into(),
            topology: Topology { old_peers: Range(0, 1), ..Topology::default() },
            cluster: ClusterRules::default(),
            time: Times::default(),
            workload: Workload::default(),
            lanes: vec![
                lane("machines", 9_000, 5_000, MACHINES),
                lane("links", 12_000, 4_000, LINKS),
                lane("weather", 5_000, 6_000, &[("loss", 1), ("latency", 1)]),
                lane("hardware", 6_000, 5_000, HARDWARE),
                lane("operator", 8_000, 9_000, &[("drain", 1), ("membership", 2), ("transfer", 2)]),
                lane("upgrades", 4_000, 30_000, &[("upgrade-next", 1)]),
            ],
        }
    }
}

const MACHINES: &[(&str, u64)] = &[
    ("crash", 4),
    ("crash-leader", 4),
    ("crash-all", 2),
    ("pause", 2),
    ("pause-leader", 3),
    ("machine-pause", 2),
    ("disk-corrupt-tail", 1),
];

const LINKS: &[(&str, u64)] = &[
    ("isolate", 2),
    ("cut-pair", 1),
    ("isolate-leader", 2),
    ("partition-halves", 2),
    ("one-way", 1),
    ("one-way-from-leader", 1),
    ("one-way-to-leader", 1),
    ("flap", 2),
    ("hold", 1),
];

const HARDWARE: &[(&str, u64)] = &[
    ("clock-jump", 3),
    ("disk-slow", 2),
    ("disk-full", 1),
    ("disk-error", 1),
    ("watchdog-dead", 1),
    ("watchdog-slow", 1),
];

impl Default for Topology {
    fn default() -> Self {
        Self {
            voters: Range(3, 5),
            executors: Range(0, 2),
            gpus: vec![1, 2, 0],
            cpu_milli: 4_000,
            memory_bytes: 16 << 30,
            slots: 8,
            shared_gpus: 0,
            drift_ppm: 4_000,
            wall_offset_ms: 300,
            slurm_jobs: 0,
            old_peers: Range(0, 0),
        }
    }
}

impl Default for Times {
    /// After healing: a lease that must run out (5 s and its margin), then attempts of up to 10 s each, a few times over.
    fn default() -> Self {
        Self { step_ms: 1, ready_ms: 20_000, trouble_ms: 30_000, settle_ms: 90_000 }
    }
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            every_ms: Range(50, 900),
            requests: weights(&[("submit", 14), ("read", 5), ("cancel", 2), ("log", 1)]),
            classes: weights(&[("cpu_short", 2), ("cpu_long", 1), ("gpu", 2)]),
            count: Range(1, 4),
            failing_percent: 20,
            hanging_percent: 5,
            run_ms: vec![Range(1, 800), Range(800, 4_000), Range(4_000, 12_000)],
            recorded: Vec::new(),
        }
    }
}
