//! The leading side of a peer: its loop makes one entry at a time with the product's own decisions, and the abstract
//! log keeps it or not.

use std::collections::{BTreeMap, VecDeque};

use stint_node::limits;
use stint_node::office::{Drafts, LeaderView, Office, Outlook, Standing};
use stint_node::shared::{Entry, Results};
use stint_scheduler::Command;

use super::event::Event;
use super::library::LibraryOffice;
use super::log::Flight;
use super::plant::FastPlant;
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
    /// Whoever asked does not wait.
    Nobody,
}

/// Why commands were not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotDone {
    NotLeader,
    Full,
    Unknown,
}

pub struct Proposal {
    pub commands: Vec<Command>,
    pub waiter: Waiter,
}

/// Who waits for so many commands of an entry.
struct Waits {
    commands: usize,
    waiter: Waiter,
}

/// The entry that is being written, and who waits for it.
struct Writing {
    number: u64,
    begun: u64,
    batch: Vec<Waits>,
}

/// What a peer keeps for leading.
#[derive(Default)]
pub struct Leading {
    pub office: Option<Office>,
    drafts: Drafts,
    queue: VecDeque<Proposal>,
    writing: Option<Writing>,
    /// Asked to look while an entry is being written.
    woken: bool,
    expiry: bool,
    pub tickets: u64,
    pub confirmed: u64,
    pub barrier: Option<Barrier>,
    pub barriers: u64,
    pub sessions: BTreeMap<u64, Session>,
    pub next_session: u64,
    pub library: LibraryOffice,
}

/// A question to the quorum.
#[derive(Clone, Copy, Debug)]
pub struct Barrier {
    pub number: u64,
    pub begun: u64,
    pub term: u64,
    pub until: u64,
}

impl Leading {
    pub fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    pub fn queued(&self) -> usize {
        self.queue.len()
    }
}

impl World {
    /// Where a peer stands, as the product's leader asks before everything it does.
    pub fn standing(&self, peer: usize) -> Standing {
        let process = &self.peers[peer];
        let (term, leader) = process.belief.unwrap_or((0, usize::MAX));
        let leads = leader == peer;
        let hasty = self.plant == Some(FastPlant::ActBeforeOwnTermEntry) && leads;
        let applied_term = if hasty { term } else { self.log.term_at(process.applied) };
        Standing { leads, term, applied_term }
    }

    /// The peer's office, if it holds one, with the state it has applied.
    pub fn in_office<R>(
        &mut self,
        peer: usize,
        act: impl FnOnce(&mut Office, &stint_scheduler::State) -> R,
    ) -> Option<R> {
        let (standing, now) = (self.standing(peer), self.clocks(peer).boot(self.now));
        let process = &mut self.peers[peer];
        let (state, index) = (self.log.state_at(process.applied), process.applied);
        let view = LeaderView { standing, state, index, now };
        let office = Office::hold(&mut process.leading.office, &view)?;
        Some(act(office, state))
    }

    pub fn holds_office(&mut self, peer: usize) -> bool {
        self.in_office(peer, |_, _| ()).is_some()
    }

    /// Takes commands into the queue.
    pub fn propose(&mut self, peer: usize, commands: Vec<Command>, waiter: Waiter) {
        if self.peers[peer].leading.queue.len() >= limits::PROPOSALS {
            return self.not_done(peer, waiter, NotDone::Full);
        }
        self.peers[peer].leading.queue.push_back(Proposal { commands, waiter });
        self.turn(peer, false);
    }

    pub fn on_tick(&mut self, peer: usize, term: u64) {
        if self.peers[peer].belief == Some((term, peer)) {
            let life = self.peers[peer].life;
            let every = limits::EXPIRY_TICK.as_millis() as u64;
            self.queue.at(self.now + every, Event::Tick { peer, life, term });
            self.turn(peer, true);
        }
    }

    /// One turn of the leader's loop, unless an entry is being written.
    pub fn turn(&mut self, peer: usize, expiry: bool) {
        let leading = &mut self.peers[peer].leading;
        if leading.writing.is_some() {
            leading.woken = true;
            leading.expiry |= expiry;
            return;
        }
        let (batch, commands) = gather(&mut leading.queue);
        let boot = self.clocks(peer).boot(self.now);
        let outlook =
            self.in_office(peer, |office, state| Outlook::of(&mut office.contacts, state, boot, expiry));
        let Some(outlook) = outlook else {
            return self.refuse(peer, batch.into_iter().map(|waits| waits.waiter), NotDone::NotLeader);
        };
        let wall = self.clocks(peer).wall(self.now);
        let process = &mut self.peers[peer];
        let state = self.log.state_at(process.applied);
        let draft = process.leading.drafts.draft(state, process.applied, outlook, wall, commands);
        if !draft.entry.commands.is_empty() {
            if let Some(office) = &mut process.leading.office {
                office.contacts.stamped(draft.entry.now, boot);
            }
            self.write(peer, batch, draft.entry);
        }
    }

    fn write(&mut self, peer: usize, batch: Vec<Waits>, entry: Entry) {
        let number = self.log.next_number;
        self.log.next_number += 1;
        let process = &mut self.peers[peer];
        let begun = process.leading.ticket();
        process.leading.writing = Some(Writing { number, begun, batch });
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
        self.referee.committed(index, proposed_at, &self.log, &results);
        self.check_library();
        if blank {
            let lag = if self.dice.one_in(5) { self.dice.between(1, 900) } else { self.dice.between(1, 8) };
            self.queue.at(self.now + lag, Event::Applied { peer, life, index });
        } else {
            self.log.results.push((number, index, results));
            let lag = if self.dice.one_in(40) { self.dice.between(0, 600) } else { self.dice.between(0, 2) };
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
        let leading = &mut self.peers[peer].leading;
        let Some(writing) = leading.writing.take_if(|writing| writing.number == number) else { return };
        leading.confirmed = leading.confirmed.max(writing.begun);
        leading.woken = false;
        let expiry = std::mem::take(&mut leading.expiry);
        let from = self.peers[peer].applied;
        self.peers[peer].applied = from.max(index);
        self.answer_batch(peer, writing.batch, results, index);
        self.wake_sessions(peer, from.min(index), index);
        self.turn(peer, expiry);
    }

    fn answer_batch(&mut self, peer: usize, batch: Vec<Waits>, results: Results, index: u64) {
        let mut results = results.into_iter();
        for waits in batch {
            let own: Results = results.by_ref().take(waits.commands).collect();
            match waits.waiter {
                Waiter::Client { request, attempt } => self.client_done(request, attempt, own),
                Waiter::Session(session) => self.session_proposed(peer, session, Ok(own)),
                Waiter::Sweep { peer: sweeper, life } => self.sweep_may_go_on(peer, sweeper, life, index),
                Waiter::Nobody => {}
            }
        }
    }

    fn refuse(&mut self, peer: usize, waiting: impl IntoIterator<Item = Waiter>, why: NotDone) {
        for waiter in waiting {
            self.not_done(peer, waiter, why);
        }
    }

    fn not_done(&mut self, peer: usize, waiter: Waiter, why: NotDone) {
        match waiter {
            Waiter::Client { request, attempt } => self.client_refused(request, attempt, why),
            Waiter::Session(session) => self.session_proposed(peer, session, Err(why)),
            Waiter::Sweep { .. } | Waiter::Nobody => {}
        }
    }

    /// The peer hears that it does not lead any more, or leads another term: what it wrote may be there or not.
    pub fn step_down(&mut self, peer: usize) {
        let leading = &mut self.peers[peer].leading;
        leading.library = LibraryOffice::default();
        let writing = leading.writing.take();
        let queue = std::mem::take(&mut leading.queue);
        if let Some(writing) = writing {
            leading.drafts.forget();
            self.refuse(peer, writing.batch.into_iter().map(|waits| waits.waiter), NotDone::Unknown);
        }
        self.refuse(peer, queue.into_iter().map(|proposal| proposal.waiter), NotDone::NotLeader);
        self.barrier_failed(peer);
    }

    /// How long an entry takes to a majority of the disks, in milliseconds.
    pub fn commit_takes(&mut self) -> u64 {
        match self.trouble.slow_disks_ms {
            0 if self.shape.pace == Pace::SlowDisks && !self.is_healed() => self.dice.between(100, 1_800),
            0 => self.dice.between(1, 6),
            most => self.dice.between(most / 4, most),
        }
    }
}

/// Takes what waits, up to the bounds of an entry.
fn gather(queue: &mut VecDeque<Proposal>) -> (Vec<Waits>, Vec<Command>) {
    let (mut batch, mut commands) = (Vec::new(), Vec::new());
    while let Some(next) = queue.front() {
        if !batch.is_empty() && commands.len() + next.commands.len() > limits::BATCH_COMMANDS {
            break;
        }
        let Some(next) = queue.pop_front() else { break };
        batch.push(Waits { commands: next.commands.len(), waiter: next.waiter });
        commands.extend(next.commands);
    }
    (batch, commands)
}
