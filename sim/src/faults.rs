//! What goes wrong, one kind a file, and when: lanes of faults one after another, as the scenario says.

mod clock;
mod crash;
mod disk;
mod flap;
mod hold;
mod latency;
mod loss;
mod one_way;
mod operator;
mod pair_cut;
mod partition;
mod pause;
mod power;
mod restart_next;
mod slurm;
mod upgrade;
mod watchdog;

use std::collections::BTreeSet;

use crate::cluster::Cluster;
use crate::event::{Event, FaultId};
use crate::rng::SeededRng;
use crate::scenario;

/// One kind of fault.
pub trait Fault {
    /// Begins; answers what was done, in words for the trace.
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String;
    /// Goes on; called once a step.
    fn step(&mut self, _now_ms: u64, _cluster: &mut Cluster<'_>) {}
    /// Takes back what was done.
    fn end(&mut self, cluster: &mut Cluster<'_>);
}

type Draw = fn(&mut SeededRng) -> Box<dyn Fault>;

/// Every kind, by the name that scenarios use.
const KINDS: &[(&str, Draw)] = &[
    ("crash", crash::one),
    ("crash-leader", crash::leader),
    ("crash-all", crash::all),
    ("isolate", partition::isolate),
    ("isolate-leader", partition::isolate_leader),
    ("cut-pair", partition::pair),
    ("one-way", one_way::any),
    ("one-way-from-leader", one_way::from_leader),
    ("one-way-to-leader", one_way::to_leader),
    ("partition-halves", partition::halves),
    ("flap", flap::links),
    ("hold", hold::pair),
    ("loss", loss::some),
    ("latency", latency::spike),
    ("pause", pause::any),
    ("pause-leader", pause::leader),
    ("machine-pause", pause::machine),
    ("host-stopped", pause::host),
    ("clock-jump", clock::jump),
    ("disk-slow", disk::slow),
    ("disk-slow-all", disk::all_slow),
    ("disk-full", disk::full),
    ("disk-error", disk::failing),
    ("disk-corrupt-tail", crash::with_garbage),
    ("watchdog-dead", watchdog::dead),
    ("watchdog-slow", watchdog::slow),
    ("drain", operator::drain),
    ("membership", operator::membership),
    ("transfer", operator::transfer),
    ("isolate-leader-and-one", pair_cut::leader_and_one),
    ("restart-next", restart_next::restart_next),
    ("power-all", power::all),
    ("upgrade-next", upgrade::next),
    ("slurm-down", slurm::down),
    ("slurm-slow", slurm::slow),
    ("slurm-purge", slurm::purge),
    ("slurm-forgets", slurm::forgets),
    ("slurm-node-fails", slurm::node_fails),
    ("slurm-preempts", slurm::preempts),
    ("folder-away", slurm::folder_away),
    ("folder-stale", slurm::folder_stale),
];

/// The names that scenarios may use.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(name, _)| *name)
}

/// Faults of one lane, one after another. Each has chance of its own, so that one left out changes no other.
struct Lane {
    rules: scenario::Lane,
    seed: u64,
    label: u64,
    rng: SeededRng,
    number: u32,
    next_at_ms: u64,
    now: Option<Begun>,
}

struct Begun {
    id: FaultId,
    until_ms: u64,
    /// None: left out.
    fault: Option<Box<dyn Fault>>,
}

impl Lane {
    fn new(rules: scenario::Lane, seed: u64, label: u64, from_ms: u64) -> Self {
        let mut rng = SeededRng::new(seed, label);
        let next_at_ms = from_ms + rng.within(rules.pause_ms);
        Self { rules, seed, label, rng, number: 0, next_at_ms, now: None }
    }

    fn step(&mut self, now_ms: u64, cluster: &mut Cluster<'_>, only: Option<&BTreeSet<FaultId>>) {
        if self.now.as_ref().is_some_and(|begun| begun.until_ms <= now_ms) {
            self.heal(cluster);
            self.next_at_ms = now_ms + self.rng.within(self.rules.pause_ms);
        }
        if self.now.is_none() && self.next_at_ms <= now_ms {
            self.begin(now_ms, cluster, only);
        }
        if let Some(Begun { fault: Some(fault), .. }) = &mut self.now {
            fault.step(now_ms, cluster);
        }
    }

    fn begin(&mut self, now_ms: u64, cluster: &mut Cluster<'_>, only: Option<&BTreeSet<FaultId>>) {
        self.number += 1;
        let id = FaultId { lane: self.rules.name.clone(), number: self.number };
        let kind = self.rng.weighted(&self.rules.faults).map(String::as_str);
        let draw = KINDS.iter().find(|(name, _)| Some(*name) == kind).map(|(_, draw)| draw);
        let length_ms = self.rng.within(self.rules.length_ms);
        let mut fault = None;
        if let Some(draw) = draw.filter(|_| only.is_none_or(|only| only.contains(&id))) {
            let mut rng = SeededRng::new(self.seed, self.label * 0x1_0000 + u64::from(self.number));
            let mut drawn = draw(&mut rng);
            cluster.rng = rng;
            let what = drawn.begin(cluster);
            cluster.oracle.tell(Event::Fault { id: id.clone(), what, length_ms });
            fault = Some(drawn);
        }
        self.now = Some(Begun { id, until_ms: now_ms + length_ms, fault });
    }

    fn heal(&mut self, cluster: &mut Cluster<'_>) {
        if let Some(Begun { id, fault: Some(mut fault), .. }) = self.now.take() {
            fault.end(cluster);
            cluster.oracle.tell(Event::FaultEnds { id });
        }
    }
}

/// The whole schedule of a seed.
pub struct Faults {
    lanes: Vec<Lane>,
    /// When given: all others are left out.
    only: Option<BTreeSet<FaultId>>,
}

impl Faults {
    /// Drawn as time goes on; the first ones come soon after `from_ms`.
    pub fn new(lanes: &[scenario::Lane], seed: u64, from_ms: u64, only: Option<BTreeSet<FaultId>>) -> Self {
        let lane =
            |(n, rules): (usize, &scenario::Lane)| Lane::new(rules.clone(), seed, 0x3001 + n as u64, from_ms);
        Self { lanes: lanes.iter().enumerate().map(lane).collect(), only }
    }

    /// Begins and ends what is due.
    pub fn step(&mut self, now_ms: u64, cluster: &mut Cluster<'_>) {
        self.lanes.iter_mut().for_each(|lane| lane.step(now_ms, cluster, self.only.as_ref()));
    }

    /// Ends everything.
    pub fn heal(&mut self, cluster: &mut Cluster<'_>) {
        self.lanes.iter_mut().for_each(|lane| lane.heal(cluster));
    }
}
