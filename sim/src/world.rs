//! One simulation: a cluster comes up, lives through faults under load, is healed, and must finish everything.

use std::time::{Duration, SystemTime};

use stint_scheduler::digest;
use turmoil::Builder;

use crate::clock::{MachineClock, WorldTime};
use crate::cluster::{CALM_LATENCY_MS, Cluster};
use crate::dice::Dice;
use crate::faults::Faults;
use crate::membership::PEERS;
use crate::network::Sky;
use crate::oracle::{Oracle, Severity, Violation};
use crate::panics;
use crate::peer::{Peer, Surroundings};
use crate::plant::Plant;
use crate::workload::{Desk, Workload};

/// One step of virtual time, in milliseconds.
const STEP_MS: u64 = 2;
/// A new cluster must be complete by then, in milliseconds.
const READY_MS: u64 = 20_000;
/// How long faults and new work come, in milliseconds.
const TROUBLE_MS: u64 = 30_000;
/// After healing everything must be finished within this, in milliseconds: a lease that must run out (5 s and its
/// margin), then attempts of up to 10 s each, a few times over.
const SETTLE_MS: u64 = 90_000;
/// Clocks of two machines drift apart by less than the hundredth that leases allow for.
const DRIFT_PPM: u64 = 4_000;

/// What came of a seed.
pub struct Report {
    pub violation: Option<Violation>,
    pub simulated_ms: u64,
    pub summary: String,
    pub trace: String,
    pub hash: String,
}

/// Runs one seed to its end.
pub fn run(seed: u64, plant: Option<Plant>) -> Report {
    let time = WorldTime::default();
    let oracle = Oracle::new(time.clone());
    panics::watch(oracle.clone());
    let mut world = World::new(seed, plant, time.clone(), oracle.clone());
    if let Err(Ended) = world.live() {
        oracle.say("ended early");
    }
    let summary = oracle.summary();
    let (trace, hash) = oracle.trace();
    Report { violation: oracle.violation(), simulated_ms: time.ms(), summary, trace, hash }
}

/// The simulation is over: the oracle knows why.
struct Ended;

struct World<'a> {
    time: WorldTime,
    oracle: Oracle,
    cluster: Cluster<'a>,
    workload: Workload,
    seed: u64,
}

impl<'a> World<'a> {
    fn new(seed: u64, plant: Option<Plant>, time: WorldTime, oracle: Oracle) -> Self {
        let mut sim = Builder::new()
            .epoch(SystemTime::UNIX_EPOCH)
            .rng_seed(seed)
            .tick_duration(Duration::from_millis(STEP_MS))
            .simulation_duration(Duration::from_secs(3_600))
            .min_message_latency(Duration::from_micros(200))
            .max_message_latency(Duration::from_millis(CALM_LATENCY_MS))
            .udp_capacity(4_096)
            .build();
        let (sky, desk) = (Sky::default(), Desk::new(oracle.clone()));
        let around =
            Surroundings { seed, plant, sky: sky.clone(), oracle: oracle.clone(), desk: desk.clone() };
        let mut dice = Dice::new(seed, 0x4000);
        let peers: Vec<Peer> =
            (1..=PEERS).map(|id| Peer::new(id, clock(id, plant, &time, &mut dice).into(), &around)).collect();
        for peer in &peers {
            let software = peer.clone();
            sim.host(peer.host_name(), move || software.clone().run());
        }
        let workload = Workload::new(desk, oracle.clone(), Dice::new(seed, 0x4001));
        let cluster = Cluster::new(sim, peers, sky, oracle.clone(), Dice::new(seed, 0x4002));
        Self { time, oracle, cluster, workload, seed }
    }

    fn live(&mut self) -> Result<(), Ended> {
        self.until(READY_MS, "the cluster comes up", Self::complete)?;
        self.oracle.say("the cluster is complete");
        self.trouble()?;
        let healed = self.time.ms();
        self.until(SETTLE_MS, "everything finishes after healing", Self::settled)?;
        self.oracle.say(&format!("settled {} ms after healing", self.time.ms() - healed));
        Ok(())
    }

    fn trouble(&mut self) -> Result<(), Ended> {
        let from = self.time.ms();
        let mut faults = Faults::new(self.seed, from);
        while self.time.ms() < from + TROUBLE_MS {
            let now = self.time.ms();
            faults.step(now, &mut self.cluster);
            self.workload.begin_some(now, &self.cluster.peers);
            self.step()?;
        }
        faults.heal(&mut self.cluster);
        self.oracle.say("HEALED");
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

fn clock(id: u64, plant: Option<Plant>, time: &WorldTime, dice: &mut Dice) -> MachineClock {
    let usual = dice.between(0, 2 * DRIFT_PPM) as i64 - DRIFT_PPM as i64;
    let drift = if plant == Some(Plant::SlowClock) && id == 2 { -500_000 } else { usual };
    let wall_offset_ms = dice.between(0, 600) as i64 - 300;
    MachineClock::new(time.clone(), drift, wall_offset_ms, dice.between(1_000, 100_000))
}
