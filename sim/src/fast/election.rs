//! Who leads: elections when the leader is missed and when the seed wants one, and how peers come to hear of them.

use stint_node::applied_state::LogEntry;

use super::event::Event;
use super::log::{BEHIND, Flight};
use super::world::World;

/// How long peers miss their leader before one stands for election, in milliseconds.
const ELECTION_MS: (u64, u64) = (300, 1_200);
/// How often a leader says that it leads, to those who do not hear it, in milliseconds.
const HEARTBEAT_MS: u64 = 250;

impl World {
    /// Whether a majority of the processes runs and exchanges messages with `peer`.
    pub fn has_quorum(&self, peer: usize) -> bool {
        let counts = |other: usize| self.peers[other].up && (other == peer || self.network.both(peer, other));
        self.peers[peer].up && 2 * (0..self.peers.len()).filter(|p| counts(*p)).count() > self.peers.len()
    }

    /// Whether `peer` leads by the authority of the log.
    pub fn really_leads(&self, peer: usize) -> bool {
        let process = &self.peers[peer];
        let term = process.belief.map(|(term, _)| term);
        process.up && self.log.leader == Some((peer, process.life)) && term == Some(self.log.term)
    }

    fn leader_is_missed(&self) -> bool {
        let Some((peer, life)) = self.log.leader else { return true };
        !self.peers[peer].lives(life) || !self.has_quorum(peer)
    }

    /// Arranges an election when the leader is gone or cut off.
    pub fn watch_leader(&mut self) {
        if !self.log.election_arranged && self.leader_is_missed() {
            self.log.election_arranged = true;
            let at = self.now + self.rng.between(ELECTION_MS.0, ELECTION_MS.1);
            self.queue.at(at, Event::Election { epoch: self.log.epoch });
        }
    }

    pub fn on_election(&mut self, epoch: u64) {
        if epoch != self.log.epoch {
            return;
        }
        self.log.election_arranged = false;
        if !self.leader_is_missed() {
            return;
        }
        let able: Vec<usize> = (0..self.peers.len()).filter(|peer| self.has_quorum(*peer)).collect();
        if able.is_empty() {
            return self.watch_leader();
        }
        let peer = *self.rng.pick(&able);
        self.elect(peer);
    }

    /// `peer` wins an election. What is on its way is kept or lost; what is committed it has.
    pub fn elect(&mut self, peer: usize) {
        self.keep_or_lose();
        self.log.term += 1;
        self.log.epoch += 1;
        self.log.election_arranged = false;
        let (term, life) = (self.log.term, self.peers[peer].life);
        self.say("elect", peer as u64, term, || format!("peer {} leads term {term}", peer + 1));
        self.log.leader = Some((peer, life));
        let behind = match self.rng.below(4) {
            0 => self.rng.between(0, BEHIND),
            1 => self.rng.between(0, 4),
            _ => 0,
        };
        let index = self.log.index().saturating_sub(behind);
        self.peers[peer].applied = self.peers[peer].applied.max(index);
        self.believe(peer, term, peer);
        self.propose_blank(peer, life, term);
        let tick = self.rng.between(1, 200);
        self.queue.at(self.now + tick, Event::Tick { peer, life, term });
        for other in (0..self.peers.len()).filter(|other| *other != peer) {
            self.hear_later(other);
        }
    }

    /// An entry that was proposed in the last term may be in the new leader's log.
    fn keep_or_lose(&mut self) {
        // One of them holds commands at most, as a leader writes one entry at a time: of several, none could be kept
        // without those before it.
        for flight in std::mem::take(&mut self.log.flights) {
            let kept = flight.term == self.log.term && !flight.blank && self.rng.one_in(2);
            if kept {
                self.commit(flight);
            }
        }
    }

    fn propose_blank(&mut self, peer: usize, life: u64, term: u64) {
        let number = self.log.next_number;
        self.log.next_number += 1;
        let entry = LogEntry { now: Default::default(), commands: Vec::new() };
        let proposed_at = self.now;
        self.log.flights.push(Flight { number, peer, life, term, proposed_at, entry, blank: true });
        let at = self.now + self.commit_takes();
        self.queue.at(at, Event::Commit { number });
    }

    /// Arranges that a peer hears who leads.
    pub fn hear_later(&mut self, peer: usize) {
        let delay = if self.rng.one_in(4) { self.rng.between(100, 2_500) } else { self.rng.between(2, 120) };
        let (life, term) = (self.peers[peer].life, self.log.term);
        self.queue.at(self.now + delay, Event::Hear { peer, life, term });
    }

    pub fn on_hear(&mut self, peer: usize, term: u64) {
        if term != self.log.term || self.peers[peer].belief.is_some_and(|(known, _)| known >= term) {
            return;
        }
        let Some((leader, life)) = self.log.leader else { return };
        if self.peers[leader].lives(life) && self.network.open(leader, peer) {
            self.believe(peer, term, leader);
        } else {
            let life = self.peers[peer].life;
            self.queue.at(self.now + HEARTBEAT_MS, Event::Hear { peer, life, term });
        }
    }

    fn believe(&mut self, peer: usize, term: u64, leader: usize) {
        let before = self.peers[peer].belief.replace((term, leader));
        self.say("believe", peer as u64, term, || {
            format!("peer {}: term {term} is led by {}", peer + 1, leader + 1)
        });
        if before.is_some_and(|(_, known)| known == peer) {
            self.step_down(peer);
        }
        if before.is_some_and(|(_, known)| known != leader) {
            self.leader_replaced(peer);
        }
    }
}
