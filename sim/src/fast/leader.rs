//! The leading side of a peer: drives the product's own `LeaderCore`, and the abstract log keeps what it writes or not.

use std::collections::BTreeMap;

use stint_node::applied_state::{Effect, LogEntry};
use stint_node::leader::core::{Answers, LeaderCore, Proposal, ProposalError, ProposalResult, Turn};
use stint_node::leader::quorum::Ticket;
use stint_node::leadership::{Leadership, PeerView, RaftRole};
use stint_node::limits;
use stint_scheduler::{Command, State, same};

use super::event::Event;
use super::image_clients::LeaderBlobGc;
use super::log::Flight;
use super::sessions::Session;
use super::shape::Pace;
use super::world::World;

/// Who waits for what becomes of commands.
#[derive(Clone, Copy, Debug)]
pub enum Waiter {
    Client {
        request: u64,
        attempt: u32,
    },
    Session(u64),
    /// A peer that sweeps its files.
    Sweep {
        peer: usize,
        life: u64,
    },
    /// A request about a workflow instance.
    Flow(u64),
    /// Whoever asked does not wait.
    Nobody,
}

/// What a peer keeps for leading.
#[derive(Default)]
pub struct SimulatedLeader {
    pub core: LeaderCore<Waiter>,
    /// The number of the entry that is being written.
    writing: Option<u64>,
    /// The clock ticked meanwhile.
    ticked: bool,
    pub question: Option<Question>,
    pub sessions: BTreeMap<u64, Session>,
    pub next_session: u64,
    pub image_clients: LeaderBlobGc,
}

/// A question to the quorum that is under way.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub asked: Ticket,
    pub term: u64,
    pub until: u64,
}

impl World {
    fn standing(&self, peer: usize) -> RaftRole {
        let process = &self.peers[peer];
        let (term, leader) = process.belief.unwrap_or((0, usize::MAX));
        RaftRole { leads: leader == peer, term, applied_term: self.log.term_at(process.applied) }
    }

    /// Runs `act` on what the peer keeps for leading, with what it knows of itself now.
    pub fn lead<R>(&mut self, peer: usize, act: impl FnOnce(&mut SimulatedLeader, &PeerView<'_>) -> R) -> R {
        let (standing, now) = (self.standing(peer), self.clocks(peer).boot(self.now));
        let process = &mut self.peers[peer];
        let (state, index) = (self.log.state_at(process.applied), process.applied);
        act(&mut process.leader, &PeerView { role: standing, state, index, now })
    }

    /// The peer's leadership, if it leads, with the state it has applied.
    pub fn while_leading<R>(
        &mut self,
        peer: usize,
        act: impl FnOnce(&mut Leadership, &State) -> R,
    ) -> Option<R> {
        self.lead(peer, |leader, view| {
            leader.core.leadership(view).map(|leadership| act(leadership, view.state))
        })
    }

    pub fn leads_for_certain(&mut self, peer: usize) -> bool {
        self.while_leading(peer, |_, _| ()).is_some()
    }

    /// Takes commands into the queue.
    pub fn propose(&mut self, peer: usize, commands: Vec<Command>, waiter: Waiter) {
        match self.peers[peer].leader.core.propose(Proposal::new(commands, waiter)) {
            Ok(()) => self.turn(peer, false),
            Err(waiter) => self.tell_waiters(peer, vec![(waiter, Err(ProposalError::Full))]),
        }
    }

    pub fn on_tick(&mut self, peer: usize, term: u64) {
        if self.peers[peer].belief == Some((term, peer)) {
            let life = self.peers[peer].life;
            let every = limits::EXPIRY_TICK.as_millis() as u64;
            self.queue.at(self.now + every, Event::Tick { peer, life, term });
            self.turn(peer, true);
        }
    }

    /// The leader looks at what there is to do, unless an entry is being written.
    pub fn turn(&mut self, peer: usize, tick: bool) {
        let leader = &mut self.peers[peer].leader;
        if leader.writing.is_some() {
            leader.ticked |= tick;
            return;
        }
        let wall = self.clocks(peer).wall(self.now);
        let (answers, entry) = self.lead(peer, |leader, view| {
            let Turn { answers, drafting } = leader.core.turn(view, tick);
            let drafted = drafting.map(|drafting| drafting.draft(view.state, view.index, wall));
            let built = drafted.and_then(|drafted| leader.core.built(drafted));
            (answers, built.map(|(entry, effect)| (is_found_out(view.state, &entry, effect), entry)))
        });
        self.tell_waiters(peer, answers);
        match entry {
            Some((found_out, entry)) => {
                self.oracle.found_out(found_out, &entry);
                self.write(peer, entry);
            }
            None => self.check_planned(peer),
        }
    }

    /// A leader that has nothing to write has placed whatever fits.
    fn check_planned(&mut self, peer: usize) {
        let overlooked = self.lead(peer, |leader, view| leader.core.overlooked(view));
        if let Some((task, node)) = overlooked {
            self.oracle.waits_for_no_plan(task, node);
        }
    }

    fn write(&mut self, peer: usize, entry: LogEntry) {
        self.oracle.written(&entry);
        let number = self.log.next_number;
        self.log.next_number += 1;
        let process = &mut self.peers[peer];
        process.leader.writing = Some(number);
        let (term, life) = (process.belief.map_or(0, |(term, _)| term), process.life);
        // Who was deposed writes into a log that nobody will read.
        if term == self.log.term && self.log.leader == Some((peer, life)) {
            let proposed_at = self.now;
            self.log.flights.push(Flight { number, peer, life, term, proposed_at, entry, blank: false });
            let at = self.now + self.commit_takes();
            self.queue.at(at, Event::Commit { number });
        }
    }

    /// An entry reaches the disks of a majority, or tries again while there is none.
    pub fn on_commit(&mut self, number: u64) {
        let Some(flight) = self.log.land(number) else { return };
        let really = self.log.leader == Some((flight.peer, flight.life)) && flight.term == self.log.term;
        if !really {
            return;
        }
        if !self.has_quorum(flight.peer) || self.log.flights.iter().any(|other| other.number < number) {
            self.log.flights.push(flight);
            return self.queue.at(self.now + 90, Event::Commit { number });
        }
        self.commit(flight);
    }

    /// From here on the entry stays. Its proposer hears of it later, or never.
    pub fn commit(&mut self, flight: Flight) {
        let Flight { number, peer, life, term, proposed_at, entry, blank } = flight;
        let results = self.log.append(self.now, term, entry);
        self.log.forget(self.now, self.peers.iter().map(|peer| peer.applied));
        let index = self.log.index();
        self.oracle.committed(index, proposed_at, &self.log, &results);
        self.check_library();
        if blank {
            let lag = if self.rng.one_in(5) { self.rng.between(1, 900) } else { self.rng.between(1, 8) };
            self.queue.at(self.now + lag, Event::Applied { peer, life, index });
        } else {
            self.log.results.push((number, index, results));
            let lag = if self.rng.one_in(40) { self.rng.between(0, 600) } else { self.rng.between(0, 2) };
            self.queue.at(self.now + lag, Event::Written { peer, life, number });
        }
    }

    pub fn on_applied(&mut self, peer: usize, index: u64) {
        let from = self.peers[peer].applied;
        self.peers[peer].applied = from.max(index);
        self.wake_sessions(peer, from.min(index), index);
        self.turn(peer, false);
    }

    /// The proposer hears that its entry is committed, and applies it.
    pub fn on_written(&mut self, peer: usize, number: u64) {
        let Some(place) = self.log.results.iter().position(|(known, _, _)| *known == number) else { return };
        let (_, index, results) = self.log.results.swap_remove(place);
        let process = &mut self.peers[peer];
        if process.leader.writing.take_if(|writing| *writing == number).is_none() {
            return;
        }
        let ticked = std::mem::take(&mut process.leader.ticked);
        let from = process.applied;
        process.applied = from.max(index);
        self.written(peer, Ok(results));
        self.wake_sessions(peer, from.min(index), index);
        self.turn(peer, ticked);
    }

    fn written(&mut self, peer: usize, result: ProposalResult) {
        let answers = self.lead(peer, |leader, view| leader.core.written(result, view));
        self.tell_waiters(peer, answers);
    }

    fn tell_waiters(&mut self, peer: usize, answers: Answers<Waiter>) {
        for (waiter, result) in answers {
            match waiter {
                Waiter::Client { request, attempt } => self.client_answered(request, attempt, result),
                Waiter::Flow(request) => self.flow_proposed(request, result),
                Waiter::Session(session) => self.session_proposed(peer, session, result),
                Waiter::Sweep { peer: sweeper, life } if result.is_ok() => {
                    self.sweep_may_go_on(peer, sweeper, life, self.peers[peer].applied);
                }
                Waiter::Sweep { .. } | Waiter::Nobody => {}
            }
        }
    }

    /// The peer hears that it does not lead any more, or leads another term: what it wrote may be there or not.
    pub fn step_down(&mut self, peer: usize) {
        let leader = &mut self.peers[peer].leader;
        leader.image_clients = LeaderBlobGc::default();
        if leader.writing.take().is_some() {
            self.written(peer, Err(ProposalError::Unknown("another term began".into())));
        }
        self.turn(peer, false);
        self.quorum_denies(peer);
    }

    /// How long an entry takes to a majority of the disks, in milliseconds.
    pub fn commit_takes(&mut self) -> u64 {
        match self.trouble.slow_disks_ms {
            0 if self.shape.pace == Pace::SlowDisks && !self.is_healed() => self.rng.between(100, 1_800),
            0 => self.rng.between(1, 6),
            most => self.rng.between(most / 4, most),
        }
    }
}

/// Whether an entry does what its leader found out while drafting it. One entry in eight is looked at.
fn is_found_out(state: &State, entry: &LogEntry, effect: Option<Effect>) -> bool {
    let Some(effect) = effect.filter(|_| entry.now.0.is_multiple_of(8)) else { return true };
    let mut state = state.clone();
    entry.clone().carry_out(&mut state) == effect.results && same(&state, &effect.state)
}
