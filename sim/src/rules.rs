//! Settings of the simulated cluster that a real one replicates or reads from its node's file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stint_protocol::{Class, ClassRules, Runtime};
use stint_raft::Profile;
use stint_scheduler::{Placement, Settings};

/// What is not given is the simulator's own: short leases and run times, so that much happens in little time. The
/// margin is no less than the real one: 225 ms of election, drift of a hundredth of the lease, the kill margin, and some.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterRules {
    /// By class, in milliseconds; a class that is not named has 4,000.
    pub lease_ttl_ms: BTreeMap<String, u64>,
    /// Longest run of every class, in milliseconds.
    pub timeout_ms: u64,
    /// What the leader waits beyond a lease's length, in milliseconds.
    pub lease_margin_ms: u64,
    /// Kept at the end of a lease for the kill itself, in milliseconds. Simulated kills take up to 300.
    pub kill_margin_ms: u64,
    pub placement: Place,
    pub raft_profile: Pace,
}

/// `stint_scheduler::Placement` as scenarios write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    Spread,
    BinPack,
}

/// `stint_raft::Profile` as scenarios write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    Fast,
    Lan,
    Tight,
    Wan,
}

const LEASE_TTL_MS: u64 = 4_000;

impl Default for ClusterRules {
    fn default() -> Self {
        Self {
            lease_ttl_ms: BTreeMap::from([("gpu".to_owned(), 5_000), ("gpu_slurm".to_owned(), 9_000)]),
            timeout_ms: 10_000,
            lease_margin_ms: 1_000,
            kill_margin_ms: crate::machine::KILL_MARGIN_MS,
            placement: Place::Spread,
            raft_profile: Pace::Fast,
        }
    }
}

impl ClusterRules {
    /// What the founding peer replicates.
    pub fn settings(&self) -> Settings {
        let rules = |class: Class| ClassRules {
            runtimes: vec![if class == Class::GpuSlurm { Runtime::Slurm } else { Runtime::Mock }],
            default_timeout_ms: self.timeout_ms,
            max_timeout_ms: self.timeout_ms,
            lease_ttl_ms: self.lease_ttl_ms.get(class.as_str()).copied().unwrap_or(LEASE_TTL_MS),
            ..ClassRules::default_for(class)
        };
        Settings {
            cluster: "sim".into(),
            classes: Class::ALL.into_iter().map(rules).collect(),
            placement: match self.placement {
                Place::Spread => Placement::Spread,
                Place::BinPack => Placement::BinPack,
            },
            lease_margin_ms: self.lease_margin_ms,
            kill_margin_ms: self.kill_margin_ms,
            ..Settings::default()
        }
    }

    /// Heartbeats and elections of every peer.
    pub fn profile(&self) -> Profile {
        match self.raft_profile {
            Pace::Fast => Profile::Fast,
            Pace::Lan => Profile::Lan,
            Pace::Tight => Profile::Tight,
            Pace::Wan => Profile::Wan,
        }
    }
}
