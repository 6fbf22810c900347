//! The machines, their processes and the network between them: what faults act on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stint_protocol::version;
use stint_raft::Role;
use turmoil::Sim;

use crate::event::Event;
use crate::network::SharedLinkFaults;
use crate::operator::Operator;
use crate::oracle::{Oracle, Severity};
use crate::peer::{Failed, Peer};
use crate::process::Process;
use crate::rng::SeededRng;
use crate::slurm::SlurmWorld;

/// Longest time a datagram takes without a fault, in milliseconds.
pub const CALM_LATENCY_MS: u64 = 5;
/// A process that ended by itself is started again after this, in milliseconds, as a service manager does.
const SUPERVISOR_MS: u64 = 1_000;

/// The simulated cluster.
pub struct Cluster<'a> {
    pub sim: Sim<'a>,
    pub peers: Vec<Peer>,
    pub link_faults: SharedLinkFaults,
    pub oracle: Oracle,
    pub rng: SeededRng,
    pub operator: Operator,
    pub slurm: SlurmWorld,
    processes: BTreeMap<u64, Process>,
    /// Directed links that are cut, and how many faults cut each.
    cuts: BTreeMap<(u64, u64), u32>,
    down: BTreeSet<u64>,
    /// Processes that ended by themselves, and when they are started again.
    ended: BTreeMap<u64, u64>,
    suspended: BTreeSet<u64>,
}

impl<'a> Cluster<'a> {
    /// Machines that are switched on in `sim`.
    pub fn new(
        sim: Sim<'a>,
        peers: Vec<Peer>,
        link_faults: SharedLinkFaults,
        oracle: Oracle,
        operator: Operator,
        slurm: SlurmWorld,
    ) -> Self {
        let processes = peers.iter().map(|peer| (peer.id(), Process::start(peer.clone().run()))).collect();
        Self {
            sim,
            peers,
            link_faults,
            oracle,
            rng: SeededRng::new(0, 0),
            operator,
            slurm,
            processes,
            cuts: BTreeMap::new(),
            down: BTreeSet::new(),
            ended: BTreeMap::new(),
            suspended: BTreeSet::new(),
        }
    }

    /// The world's time in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.sim.elapsed().as_millis() as u64
    }

    /// The network, then every process, then every machine act for one step.
    pub fn step(&mut self, step: Duration, set_time: impl FnOnce(u64)) {
        if let Err(error) = self.sim.step() {
            self.oracle.violate(Severity::Crash, "the network works", error.to_string());
        }
        let now_ms = self.now_ms();
        set_time(now_ms);
        let over: Vec<_> =
            self.processes.iter_mut().filter_map(|(id, process)| Some((*id, process.step(step)?))).collect();
        for (id, how) in over {
            self.on_ended(id, how, now_ms);
        }
        self.supervise(now_ms);
        for peer in &self.peers {
            peer.machine().advance();
        }
        self.slurm.advance();
    }

    /// A process ends by itself when its storage fails, and only then. Not even then for its version.
    fn on_ended(&mut self, id: u64, how: Result<(), Failed>, now_ms: u64) {
        let peer = self.peer(id);
        if let Some(outgrown) = peer.outgrown(&how) {
            self.oracle.violate(
                Severity::Safety,
                "no peer meets what it may not speak",
                format!("peer {id}: {outgrown}"),
            );
        }
        let why = how.map_or_else(|error| error.to_string(), |()| "for no reason".into());
        if !peer.disk().faults(|trouble| trouble.take_failed()) {
            self.oracle.violate(Severity::Crash, "no peer gives up", format!("peer {id}: {why}"));
        }
        self.oracle.tell(Event::PeerEnded { peer: id, why });
        peer.process_dies();
        self.processes.remove(&id);
        self.ended.insert(id, now_ms + SUPERVISOR_MS);
    }

    fn supervise(&mut self, now_ms: u64) {
        let due: Vec<u64> = self.ended.iter().filter(|(_, at)| **at <= now_ms).map(|(id, _)| *id).collect();
        for id in due {
            self.ended.remove(&id);
            self.start(id);
        }
    }

    fn start(&mut self, id: u64) {
        self.oracle.tell(Event::PeerUp { peer: id });
        let peer = self.peer(id);
        peer.disk().faults(|trouble| trouble.take_failed());
        self.processes.insert(id, Process::start(peer.run()));
    }

    /// The ids of all peers.
    pub fn ids(&self) -> Vec<u64> {
        self.peers.iter().map(Peer::id).collect()
    }

    /// Any peer.
    pub fn any(&mut self) -> u64 {
        let ids = self.ids();
        *self.rng.pick(&ids)
    }

    /// Any other peer, if there is one.
    pub fn any_but(&mut self, one: u64) -> Option<u64> {
        let others: Vec<u64> = self.ids().into_iter().filter(|id| *id != one).collect();
        (!others.is_empty()).then(|| *self.rng.pick(&others))
    }

    /// A peer that believes it leads, or any.
    pub fn leader_or_any(&mut self) -> u64 {
        let leads = |peer: &&Peer| peer.node().is_some_and(|node| node.raft.status().role == Role::Leader);
        let leader = self.peers.iter().find(leads).map(Peer::id);
        leader.unwrap_or_else(|| self.any())
    }

    /// One peer.
    pub fn peer(&self, id: u64) -> Peer {
        self.peers[id as usize - 1].clone()
    }

    /// Kills a peer's process, or its whole machine. Answers whether there was something to kill.
    pub fn crash(&mut self, id: u64, power: bool, garbage: bool) -> bool {
        if self.down.contains(&id) || (!power && self.suspended.contains(&id)) {
            return false;
        }
        self.down.insert(id);
        self.ended.remove(&id);
        self.suspended.remove(&id);
        self.oracle.tell(Event::PeerDown { peer: id, power });
        let peer = self.peer(id);
        // The process first: what it still does while it is torn down is lost with it.
        if power {
            peer.power_goes(&mut self.rng, garbage);
        } else {
            peer.process_dies();
        }
        self.processes.remove(&id);
        true
    }

    /// Starts a crashed peer anew.
    pub fn restart(&mut self, id: u64) {
        if self.down.remove(&id) {
            self.start(id);
        }
    }

    /// The old peer with the lowest id.
    pub fn next_old(&self) -> Option<u64> {
        self.peers.iter().find(|peer| peer.speaks() < version::CURRENT).map(Peer::id)
    }

    /// Whether the peer's whole machine is suspended: its process can be neither killed nor started.
    pub fn is_suspended(&self, id: u64) -> bool {
        self.suspended.contains(&id)
    }

    /// Every old peer is stopped, and started again with the new program.
    pub fn upgrade_the_rest(&mut self) {
        while let Some(id) = self.next_old() {
            self.crash(id, false, false);
            self.peer(id).upgrade();
            self.restart(id);
        }
    }

    /// Stops a process as SIGSTOP does. Answers whether there was one that ran.
    pub fn stop(&mut self, id: u64) -> bool {
        let now_ms = self.now_ms();
        match self.processes.get_mut(&id).filter(|process| !process.is_stopped()) {
            Some(process) => {
                process.stop(now_ms);
                true
            }
            None => false,
        }
    }

    /// Continues it, as SIGCONT does.
    pub fn go_on(&mut self, id: u64) {
        let now_ms = self.now_ms();
        if let Some(process) = self.processes.get_mut(&id).filter(|_| !self.suspended.contains(&id)) {
            process.go_on(now_ms, true);
        }
    }

    /// Suspends a whole machine. Answers whether it ran.
    pub fn suspend(&mut self, id: u64) -> bool {
        if !self.stop(id) {
            return false;
        }
        self.suspended.insert(id);
        self.peer(id).machine().suspend();
        true
    }

    /// Wakes it: its boot clock has gone on, the clock of its timers has not.
    pub fn wake(&mut self, id: u64) {
        if !self.suspended.remove(&id) {
            return;
        }
        let now_ms = self.now_ms();
        let peer = self.peer(id);
        peer.machine().wake();
        if let Some(process) = self.processes.get_mut(&id) {
            process.go_on(now_ms, false);
        }
    }

    /// Cuts a link in one direction.
    pub fn cut(&mut self, from: u64, to: u64) {
        let count = self.cuts.entry((from, to)).or_default();
        *count += 1;
        if *count == 1 {
            self.sim.partition_oneway(self.peer(from).host_name(), self.peer(to).host_name());
        }
    }

    /// Takes one cut back.
    pub fn mend(&mut self, from: u64, to: u64) {
        let Some(count) = self.cuts.get_mut(&(from, to)).filter(|count| **count > 0) else { return };
        *count -= 1;
        if *count == 0 {
            self.sim.repair_oneway(self.peer(from).host_name(), self.peer(to).host_name());
        }
    }

    /// Sets the longest latency of all links between peers.
    pub fn latency(&mut self, most_ms: u64) {
        let names: Vec<String> = self.peers.iter().map(Peer::host_name).collect();
        for (at, one) in names.iter().enumerate() {
            for other in &names[at + 1..] {
                let most = Duration::from_millis(most_ms);
                self.sim.set_link_max_message_latency(one.as_str(), other.as_str(), most);
            }
        }
    }
}
