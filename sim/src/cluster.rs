//! The machines and the network between them: what faults act on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stint_raft::Role;
use turmoil::Sim;

use crate::dice::Dice;
use crate::event::Event;
use crate::network::Sky;
use crate::oracle::Oracle;
use crate::peer::Peer;

/// Longest time a datagram takes without a fault, in milliseconds.
pub const CALM_LATENCY_MS: u64 = 5;

/// The simulated cluster.
pub struct Cluster<'a> {
    pub sim: Sim<'a>,
    pub peers: Vec<Peer>,
    pub sky: Sky,
    pub oracle: Oracle,
    pub dice: Dice,
    /// Directed links that are cut, and how many faults cut each.
    cuts: BTreeMap<(u64, u64), u32>,
    down: BTreeSet<u64>,
}

impl<'a> Cluster<'a> {
    /// Peers that run already in `sim`.
    pub fn new(sim: Sim<'a>, peers: Vec<Peer>, sky: Sky, oracle: Oracle, dice: Dice) -> Self {
        Self { sim, peers, sky, oracle, dice, cuts: BTreeMap::new(), down: BTreeSet::new() }
    }

    /// The ids of all peers.
    pub fn ids(&self) -> Vec<u64> {
        self.peers.iter().map(Peer::id).collect()
    }

    /// Any peer.
    pub fn any(&mut self) -> u64 {
        let ids = self.ids();
        *self.dice.pick(&ids)
    }

    /// A peer that believes it leads, or any.
    pub fn leader_or_any(&mut self) -> u64 {
        let leads = |peer: &&Peer| peer.node().is_some_and(|node| node.raft.status().role == Role::Leader);
        let leader = self.peers.iter().find(leads).map(Peer::id);
        leader.unwrap_or_else(|| self.any())
    }

    fn peer(&self, id: u64) -> Peer {
        self.peers[id as usize - 1].clone()
    }

    /// Kills a peer's process, or its whole machine. Answers whether it ran.
    pub fn crash(&mut self, id: u64, power: bool) -> bool {
        if !self.down.insert(id) {
            return false;
        }
        self.oracle.tell(Event::PeerDown { peer: id, power });
        let peer = self.peer(id);
        if power {
            peer.power_goes(&mut self.dice);
        } else {
            peer.process_dies();
        }
        self.sim.crash(peer.host_name());
        true
    }

    /// Starts a crashed peer anew.
    pub fn restart(&mut self, id: u64) {
        if self.down.remove(&id) {
            self.oracle.tell(Event::PeerUp { peer: id });
            self.sim.bounce(self.peer(id).host_name());
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
