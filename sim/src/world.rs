//! One simulation: a cluster comes up, lives through faults under load, is healed, and must finish everything.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use stint_protocol::version;
use stint_raft::Role;
use stint_scheduler::digest;
use turmoil::Builder;

use crate::clock::{MachineClock, WorldTime};
use crate::cluster::{CALM_LATENCY_MS, Cluster};
use crate::event::{Event, FaultId};
use crate::faults::Faults;
use crate::guard;
use crate::membership::Members;
use crate::network::SharedLinkFaults;
use crate::operator::Operator;
use crate::oracle::{Oracle, Severity, Violation};
use crate::panics;
use crate::peer::{Peer, Surroundings};
use crate::plant::Plant;
use crate::rng::SeededRng;
use crate::scenario::{Scenario, Topology};
use crate::slurm::SlurmWorld;
use crate::trace::Trace;
use crate::workload::{Requests, Workload};

/// What is run: which seed of which scenario, and how.
#[derive(Clone, Debug, Default)]
pub struct Run {
    pub seed: u64,
    pub scenario: Scenario,
    pub plant: Option<Plant>,
    /// When given: all other faults of the seed are left out.
    pub only: Option<BTreeSet<FaultId>>,
}

/// What came of a seed.
pub struct Report {
    pub violation: Option<Violation>,
    pub simulated_ms: u64,
    pub summary: String,
    pub trace: Trace,
}

/// Runs one seed to its end. Once a process: ids of tokio's tasks are counted by process.
pub fn run(run: &Run) -> Report {
    if let Some(plant) = run.plant {
        plant.plant();
    }
    let time = WorldTime::default();
    let oracle = Oracle::new(time.clone(), run.scenario.cluster.lease_margin_ms);
    panics::watch(oracle.clone());
    let mut world = World::new(run, time.clone(), oracle.clone());
    if let Err(Ended) = world.live() {
        oracle.say("ended early");
    }
    let summary = oracle.summary();
    Report { violation: oracle.violation(), simulated_ms: time.ms(), summary, trace: oracle.trace() }
}

/// How often the size of the disks is looked at, in milliseconds.
const DISK_LOOK_MS: u64 = 500;
/// How often the world looks whether what it waits for has come, in milliseconds.
const LOOK_MS: u64 = 20;
/// How often the guard is told that virtual time goes on, in milliseconds.
const GUARD_MS: u64 = 1_000;
/// After healing everything finishes within so many times the bound, as long as there is progress.
const LONGEST_QUEUE: u64 = 4;

/// The simulation is over: the oracle knows why.
struct Ended;

struct World<'a> {
    time: WorldTime,
    oracle: Oracle,
    cluster: Cluster<'a>,
    workload: Workload,
    members: Members,
    /// The cluster was complete.
    up: bool,
    run: Run,
}

impl<'a> World<'a> {
    fn new(run: &Run, time: WorldTime, oracle: Oracle) -> Self {
        let Run { seed, scenario, plant, .. } = run.clone();
        let mut sim = Builder::new()
            .epoch(SystemTime::UNIX_EPOCH)
            .rng_seed(seed)
            .tick_duration(Duration::from_millis(scenario.time.step_ms))
            .simulation_duration(Duration::from_secs(3_600))
            .min_message_latency(Duration::from_micros(200))
            .max_message_latency(Duration::from_millis(CALM_LATENCY_MS))
            .udp_capacity(4_096)
            .build();
        let members = Members {
            voters: SeededRng::new(seed, 0x4003).within(scenario.topology.voters),
            executors: SeededRng::new(seed, 0x4004).within(scenario.topology.executors),
            old: SeededRng::new(seed, 0x4005).within(scenario.topology.old_peers),
        };
        let (link_faults, requests) = (SharedLinkFaults::default(), Requests::new(oracle.clone()));
        let slurm = SlurmWorld::new(
            time.clone(),
            oracle.clone(),
            SeededRng::new(seed, 0x6000),
            scenario.workload.clone(),
            plant,
            scenario.topology.slurm_jobs,
        );
        let around = Surroundings {
            seed,
            scenario: Arc::new(scenario.clone()),
            members,
            plant,
            link_faults: link_faults.clone(),
            oracle: oracle.clone(),
            requests: requests.clone(),
            slurm: slurm.clone(),
        };
        let mut rng = SeededRng::new(seed, 0x4000);
        let peers: Vec<Peer> = (1..=members.all())
            .map(|id| Peer::new(id, clock(id, run, &time, &mut rng).into(), &around))
            .collect();
        for peer in &peers {
            let card = peer.card().clone();
            sim.host(peer.host_name(), move || card.clone().run());
        }
        let workload =
            Workload::new(scenario.workload, requests, oracle.clone(), SeededRng::new(seed, 0x4001));
        let operator = Operator::new((1..=members.voters).collect());
        let cluster = Cluster::new(sim, peers, link_faults, oracle.clone(), operator, slurm);
        Self { time, oracle, cluster, workload, members, up: false, run: run.clone() }
    }

    fn live(&mut self) -> Result<(), Ended> {
        self.until(self.run.scenario.time.ready_ms, "the cluster comes up", Self::complete)?;
        self.up = true;
        let Members { voters, executors, .. } = self.members;
        self.oracle.say(&format!("the cluster of {voters} voters and {executors} executors is complete"));
        self.trouble()?;
        let healed = self.time.ms();
        self.settle()?;
        self.oracle.say(&format!("settled {} ms after healing", self.time.ms() - healed));
        Ok(())
    }

    fn trouble(&mut self) -> Result<(), Ended> {
        let from = self.time.ms();
        let mut faults = Faults::new(&self.run.scenario.lanes, self.run.seed, from, self.run.only.clone());
        while self.time.ms() < from + self.run.scenario.time.trouble_ms {
            let now = self.time.ms();
            faults.step(now, &mut self.cluster);
            self.workload.begin_some(now, &self.cluster.peers);
            self.operate(now);
            self.step()?;
        }
        faults.heal(&mut self.cluster);
        self.cluster.upgrade_the_rest();
        self.oracle.tell(Event::Healed);
        Ok(())
    }

    /// Everything finishes: in `settle_ms`, or more where long queues are worked off without a stop.
    fn settle(&mut self) -> Result<(), Ended> {
        let (bound_ms, healed) = (self.run.scenario.time.settle_ms, self.time.ms());
        let mut last = (self.oracle.progress(), healed);
        loop {
            self.step()?;
            let now = self.time.ms();
            self.operate(now);
            if self.oracle.progress() != last.0 {
                last = (self.oracle.progress(), now);
            }
            if !now.is_multiple_of(LOOK_MS) {
                continue;
            }
            let Err(why) = self.settled() else { return Ok(()) };
            let moves = now < last.1 + bound_ms / 3 && now < healed + bound_ms * LONGEST_QUEUE;
            if now >= healed + bound_ms && !moves {
                let took = now - healed;
                let rule = "everything finishes after healing";
                self.oracle.violate(Severity::Liveness, rule, format!("not within {took} ms: {why}"));
                return Err(Ended);
            }
        }
    }

    /// Steps until `done` holds; it must within `bound_ms`.
    fn until(
        &mut self,
        bound_ms: u64,
        rule: &'static str,
        done: fn(&Self) -> Result<(), String>,
    ) -> Result<(), Ended> {
        let until = self.time.ms() + bound_ms;
        loop {
            self.step()?;
            self.operate(self.time.ms());
            if !self.time.ms().is_multiple_of(LOOK_MS) {
                continue;
            }
            match done(self) {
                Ok(()) => return Ok(()),
                Err(why) if self.time.ms() >= until => {
                    self.oracle.violate(Severity::Liveness, rule, format!("not within {bound_ms} ms: {why}"));
                    return Err(Ended);
                }
                Err(_) => {}
            }
        }
    }

    /// Lets the operator ask for the next change, once the cluster is there.
    fn operate(&mut self, now: u64) {
        if self.up
            && let Some(operation) = self.cluster.operator.step(now, &self.cluster.peers)
        {
            let leader = self.cluster.leader_or_any();
            self.workload.operate(operation, leader, now, &self.cluster.peers);
        }
    }

    fn step(&mut self) -> Result<(), Ended> {
        let (step, time) = (Duration::from_millis(self.run.scenario.time.step_ms), self.time.clone());
        if self.time.ms().is_multiple_of(GUARD_MS) {
            guard::allow();
        }
        self.cluster.step(step, |now_ms| time.set_ms(now_ms));
        if self.time.ms().is_multiple_of(DISK_LOOK_MS) {
            self.cluster.peers.iter().for_each(|peer| self.oracle.on_disk(peer.id(), peer.disk().bytes()));
        }
        if self.time.ms().is_multiple_of(LOOK_MS) {
            self.look_at_leaders();
        }
        self.workload.follow_up(self.time.ms(), &self.cluster.peers);
        if self.oracle.is_over() { Err(Ended) } else { Ok(()) }
    }

    fn look_at_leaders(&self) {
        for peer in &self.cluster.peers {
            let Some(node) = peer.node() else { continue };
            let status = node.raft.status();
            if status.role == Role::Leader && node.leader.leads() {
                self.oracle.on_leadership(peer.id(), status.term, node.applied.view().at.term);
            }
        }
    }

    fn complete(&self) -> Result<(), String> {
        let Members { voters, .. } = self.members;
        for peer in &self.cluster.peers {
            let node = peer.node().ok_or_else(|| format!("peer {} is not up", peer.id()))?;
            let known = node.raft.status().voters.len() as u64;
            let state = node.applied.view().state;
            let registered = state.nodes().filter(|n| n.incarnation.0 > 0).count() as u64;
            if known < voters || registered < self.members.all() {
                return Err(format!("peer {} knows {known} voters, {registered} nodes", peer.id()));
            }
        }
        Ok(())
    }

    /// Every request is answered, every task finished, nothing runs, and the replicas are equal.
    fn settled(&self) -> Result<(), String> {
        if let Some((open, one)) = self.workload.open() {
            return Err(format!("{open} requests without an answer: {one}"));
        }
        let unfinished = self.oracle.unfinished();
        if !unfinished.is_empty() {
            let some = &unfinished[..unfinished.len().min(4)];
            return Err(format!("{} tasks unfinished: {some:?}", unfinished.len()));
        }
        if self.oracle.running() > 0 {
            return Err(format!("{} attempts still run", self.oracle.running()));
        }
        self.cluster.operator.content(&self.cluster.peers)?;
        let mut places = Vec::new();
        for peer in &self.cluster.peers {
            let node = peer.node().ok_or_else(|| format!("peer {} is not up", peer.id()))?;
            let view = node.applied.view();
            if view.state.version() != version::CURRENT {
                return Err(format!("peer {} speaks {} only", peer.id(), view.state.version()));
            }
            if view.state.waiting() + view.state.running() > 0 {
                return Err(format!("peer {} knows of unfinished tasks", peer.id()));
            }
            places.push((view.at.index, digest(&view.state)));
        }
        if places.windows(2).all(|two| two[0] == two[1]) { Ok(()) } else { Err(format!("{places:?}")) }
    }
}

fn clock(id: u64, run: &Run, time: &WorldTime, rng: &mut SeededRng) -> MachineClock {
    let Topology { drift_ppm, wall_offset_ms, .. } = run.scenario.topology;
    let mut around_zero = |most: u64| rng.between(0, 2 * most) as i64 - most as i64;
    let (usual, wall_offset_ms) = (around_zero(drift_ppm), around_zero(wall_offset_ms));
    let drift = if run.plant == Some(Plant::SlowClock) && id == 2 { -500_000 } else { usual };
    MachineClock::new(time.clone(), drift, wall_offset_ms, rng.between(1_000, 100_000))
}
