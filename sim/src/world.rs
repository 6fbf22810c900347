//! One simulation: a cluster comes up, lives through faults under load, is healed, and must finish everything.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use stint_scheduler::digest;
use turmoil::Builder;

use crate::clock::{MachineClock, WorldTime};
use crate::cluster::{CALM_LATENCY_MS, Cluster};
use crate::dice::Dice;
use crate::event::{Event, FaultId};
use crate::faults::Faults;
use crate::membership::PEERS;
use crate::network::Sky;
use crate::oracle::{Oracle, Severity, Violation};
use crate::panics;
use crate::peer::{Peer, Surroundings};
use crate::plant::Plant;
use crate::scenario::{Scenario, Topology};
use crate::trace::Trace;
use crate::workload::{Desk, Workload};

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
    let time = WorldTime::default();
    let oracle = Oracle::new(time.clone());
    panics::watch(oracle.clone());
    let mut world = World::new(run, time.clone(), oracle.clone());
    if let Err(Ended) = world.live() {
        oracle.say("ended early");
    }
    let summary = oracle.summary();
    Report { violation: oracle.violation(), simulated_ms: time.ms(), summary, trace: oracle.trace() }
}

/// The simulation is over: the oracle knows why.
struct Ended;

struct World<'a> {
    time: WorldTime,
    oracle: Oracle,
    cluster: Cluster<'a>,
    workload: Workload,
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
        let (sky, desk) = (Sky::default(), Desk::new(oracle.clone()));
        let around = Surroundings {
            seed,
            plant,
            sky: sky.clone(),
            oracle: oracle.clone(),
            desk: desk.clone(),
            rules: scenario.cluster.into(),
        };
        let mut dice = Dice::new(seed, 0x4000);
        let peers: Vec<Peer> =
            (1..=PEERS).map(|id| Peer::new(id, clock(id, run, &time, &mut dice).into(), &around)).collect();
        for peer in &peers {
            let software = peer.clone();
            sim.host(peer.host_name(), move || software.clone().run());
        }
        let workload = Workload::new(scenario.workload, desk, oracle.clone(), Dice::new(seed, 0x4001));
        let cluster = Cluster::new(sim, peers, sky, oracle.clone(), Dice::new(seed, 0x4002));
        Self { time, oracle, cluster, workload, run: run.clone() }
    }

    fn live(&mut self) -> Result<(), Ended> {
        self.until(self.run.scenario.time.ready_ms, "the cluster comes up", Self::complete)?;
        self.oracle.say("the cluster is complete");
        self.trouble()?;
        let healed = self.time.ms();
        self.until(self.run.scenario.time.settle_ms, "everything finishes after healing", Self::settled)?;
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
            self.step()?;
        }
        faults.heal(&mut self.cluster);
        self.oracle.tell(Event::Healed);
        Ok(())
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
            if !self.time.ms().is_multiple_of(20) {
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

    fn step(&mut self) -> Result<(), Ended> {
        if let Err(error) = self.cluster.sim.step() {
            self.oracle.violate(Severity::Crash, "no peer gives up", error.to_string());
        }
        self.time.set_ms(self.cluster.sim.elapsed().as_millis() as u64);
        for peer in &self.cluster.peers {
            peer.machine().advance();
        }
        self.workload.follow_up(self.time.ms(), &self.cluster.peers);
        if self.oracle.violation().is_some() { Err(Ended) } else { Ok(()) }
    }

    fn complete(&self) -> Result<(), String> {
        for peer in &self.cluster.peers {
            let node = peer.node().ok_or_else(|| format!("peer {} is not up", peer.id()))?;
            let voters = node.raft.status().voters.len();
            let state = node.shared.view().state;
            let registered = state.nodes().filter(|n| n.incarnation.0 > 0).count();
            if voters < PEERS as usize || registered < PEERS as usize {
                return Err(format!("peer {} knows {voters} voters, {registered} nodes", peer.id()));
            }
        }
        Ok(())
    }

    /// Every request is answered, every task finished, nothing runs, and the replicas are equal.
    fn settled(&self) -> Result<(), String> {
        let (open, unfinished) = (self.workload.open(), self.oracle.unfinished());
        if open > 0 || !unfinished.is_empty() {
            let some = &unfinished[..unfinished.len().min(4)];
            let many = unfinished.len();
            return Err(format!("{open} requests without an answer, {many} tasks unfinished: {some:?}"));
        }
        if self.oracle.running() > 0 {
            return Err(format!("{} attempts still run", self.oracle.running()));
        }
        let mut places = Vec::new();
        for peer in &self.cluster.peers {
            let node = peer.node().ok_or_else(|| format!("peer {} is not up", peer.id()))?;
            let view = node.shared.view();
            if view.state.waiting() + view.state.running() > 0 {
                return Err(format!("peer {} knows of unfinished tasks", peer.id()));
            }
            places.push((view.at.index, digest(&view.state)));
        }
        if places.windows(2).all(|two| two[0] == two[1]) { Ok(()) } else { Err(format!("{places:?}")) }
    }
}

fn clock(id: u64, run: &Run, time: &WorldTime, dice: &mut Dice) -> MachineClock {
    let Topology { drift_ppm, wall_offset_ms, .. } = run.scenario.topology;
    let mut around_zero = |most: u64| dice.between(0, 2 * most) as i64 - most as i64;
    let (usual, wall_offset_ms) = (around_zero(drift_ppm), around_zero(wall_offset_ms));
    let drift = if run.plant == Some(Plant::SlowClock) && id == 2 { -500_000 } else { usual };
    MachineClock::new(time.clone(), drift, wall_offset_ms, dice.between(1_000, 100_000))
}
