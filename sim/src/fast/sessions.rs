//! Reports at the leader: checked, registered, held while there is no news, confirmed by a quorum, and answered with
//! the product's own orders.

use stint_node::limits;
use stint_node::orders::{self, Reporter};
use stint_node::shared::Results;
use stint_node::wire::{Report, ReportAnswer};
use stint_protocol::LeaseId;
use stint_scheduler::Command;

use super::event::{Call, Event};
use super::leading::{Barrier, NotDone, Waiter};
use super::plant::FastPlant;
use super::world::{World, node_id};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Registering,
    Ending,
    Holding,
    Confirming,
}

/// One report that is being answered.
pub struct Session {
    report: Report,
    call: Call,
    ticket: u64,
    until: u64,
    stage: Stage,
    recorded: Vec<LeaseId>,
}

impl World {
    pub fn on_report(&mut self, peer: usize, call: Call, report: Report) {
        let hold = report.hold_ms.min(limits::REPORT_HOLD.as_millis() as u64);
        if !self.holds_office(peer) {
            return self.not_leader(peer, call);
        }
        let state = self.log.state_at(self.peers[peer].applied);
        let command = match orders::reporter(state, &report) {
            Reporter::Turned(answer) => return self.reply(peer, call, answer),
            Reporter::Known => None,
            Reporter::Registers(command) => Some(command),
        };
        let leading = &mut self.peers[peer].leading;
        let (ticket, number) = (leading.ticket(), leading.next_session);
        leading.next_session += 1;
        let (until, recorded) = (self.now + hold, Vec::new());
        let session = Session { report, call, ticket, until, stage: Stage::Registering, recorded };
        leading.sessions.insert(number, session);
        match command {
            Some(command) => self.propose(peer, vec![command], Waiter::Session(number)),
            None => self.session_heard(peer, number),
        }
    }

    /// The reporter is known and counts as heard of.
    fn session_heard(&mut self, peer: usize, number: u64) {
        let boot = self.clocks(peer).boot(self.now);
        let Some(session) = self.peers[peer].leading.sessions.get(&number) else { return };
        let (node, nonce) = (session.report.node, session.report.nonce);
        let heard = self.in_office(peer, |office, _| {
            let new = !office.contacts.reaches(node, boot);
            office.contacts.heard(node, nonce, boot);
            new
        });
        match heard {
            None => return self.session_fails(peer, number),
            Some(true) => self.turn(peer, false),
            Some(false) => {}
        }
        let state = self.log.state_at(self.peers[peer].applied);
        let Some(session) = self.peers[peer].leading.sessions.get_mut(&number) else { return };
        if session.report.ends.is_empty() {
            session.stage = Stage::Holding;
            let (until, life) = (session.until, self.peers[peer].life);
            self.queue.at(until, Event::HoldOver { peer, life, session: number });
            return self.look_for_news(peer, number);
        }
        session.stage = Stage::Ending;
        session.recorded = session.report.ends.iter().map(|end| end.lease).collect();
        let (node, ends) = (session.report.node, orders::ends(state, &session.report));
        self.propose(peer, vec![Command::RecordEnds { node, ends }], Waiter::Session(number));
    }

    /// What a session put into the log is there, or its fate is not known.
    pub fn session_proposed(&mut self, peer: usize, number: u64, results: Result<Results, NotDone>) {
        let Some(session) = self.peers[peer].leading.sessions.get(&number) else { return };
        match (session.stage, results.map(|results| results.into_iter().next())) {
            (_, Err(_)) => self.session_fails(peer, number),
            (Stage::Registering, Ok(Some(Err(rejection)))) => {
                let answer = ReportAnswer::Stale(rejection.to_string());
                self.session_ends(peer, number, answer);
            }
            (Stage::Registering, _) => self.session_heard(peer, number),
            _ => self.confirm(peer, number),
        }
    }

    /// The entries from one index to another were applied: held reports of the nodes they touch may have news.
    pub fn wake_sessions(&mut self, peer: usize, from: u64, to: u64) {
        let touches = |session: &Session| {
            let entries = &self.log.entries[from as usize..to as usize];
            entries.iter().any(|logged| logged.touched.contains(&session.report.node))
        };
        let held: Vec<u64> = self.peers[peer]
            .leading
            .sessions
            .iter()
            .filter(|(_, session)| session.stage == Stage::Holding && touches(session))
            .map(|(number, _)| *number)
            .collect();
        held.into_iter().for_each(|number| self.look_for_news(peer, number));
    }

    fn look_for_news(&mut self, peer: usize, number: u64) {
        let now = self.clocks(peer).boot(self.now);
        let Some(session) = self.peers[peer].leading.sessions.get(&number) else { return };
        let report = session.report.clone();
        let news =
            self.in_office(peer, |office, state| orders::has_news(state, &office.contacts, now, &report));
        if news.unwrap_or(true) {
            self.confirm(peer, number);
        }
    }

    pub fn on_hold_over(&mut self, peer: usize, number: u64) {
        if self.peers[peer].leading.sessions.get(&number).is_some_and(|s| s.stage == Stage::Holding) {
            self.confirm(peer, number);
        }
    }

    /// A quorum must have confirmed this leader after the report arrived.
    fn confirm(&mut self, peer: usize, number: u64) {
        let leading = &mut self.peers[peer].leading;
        let Some(session) = leading.sessions.get_mut(&number) else { return };
        session.stage = Stage::Confirming;
        let confirmed = leading.confirmed > session.ticket;
        if confirmed || self.plant == Some(FastPlant::RenewWithoutQuorum) {
            self.give_orders(peer, number);
        } else if leading.barrier.is_none() {
            self.ask_quorum(peer);
        }
    }

    fn ask_quorum(&mut self, peer: usize) {
        let until = self.now + limits::BARRIER_DEADLINE.as_millis() as u64;
        let process = &mut self.peers[peer];
        let leading = &mut process.leading;
        let (begun, barrier) = (leading.ticket(), leading.barriers);
        leading.barriers += 1;
        let term = process.belief.map_or(0, |(term, _)| term);
        leading.barrier = Some(Barrier { number: barrier, begun, term, until });
        let (life, takes) = (process.life, self.dice.between(1, 3));
        self.queue.at(self.now + takes, Event::BarrierAsked { peer, life, barrier });
    }

    /// A quorum says whether the peer leads; while none answers, it is asked again.
    pub fn on_barrier_asked(&mut self, peer: usize, number: u64) {
        let process = &self.peers[peer];
        let (life, leads) = (process.life, self.really_leads(peer) && self.has_quorum(peer));
        let Some(barrier) = process.leading.barrier.filter(|barrier| barrier.number == number) else {
            return;
        };
        if leads && barrier.term == self.log.term {
            // The answer may be long on its way: it says what was true when it was given.
            let back = if self.dice.one_in(30) { self.dice.between(1, 800) } else { self.dice.between(1, 3) };
            self.queue.at(self.now + back, Event::BarrierDone { peer, life, barrier: number });
        } else if self.now < barrier.until {
            self.queue.at(self.now + 150, Event::BarrierAsked { peer, life, barrier: number });
        } else {
            self.barrier_failed(peer);
        }
    }

    pub fn on_barrier_done(&mut self, peer: usize, number: u64) {
        let leading = &mut self.peers[peer].leading;
        let Some(barrier) = leading.barrier.take_if(|barrier| barrier.number == number) else { return };
        leading.confirmed = leading.confirmed.max(barrier.begun);
        for number in self.confirming(peer) {
            self.confirm(peer, number);
        }
    }

    /// No quorum answered: nobody who waits gets orders.
    pub fn barrier_failed(&mut self, peer: usize) {
        if self.peers[peer].leading.barrier.take().is_some() {
            for number in self.confirming(peer) {
                self.session_fails(peer, number);
            }
        }
    }

    fn confirming(&self, peer: usize) -> Vec<u64> {
        let sessions = &self.peers[peer].leading.sessions;
        sessions.iter().filter(|(_, s)| s.stage == Stage::Confirming).map(|(number, _)| *number).collect()
    }

    fn give_orders(&mut self, peer: usize, number: u64) {
        let boot = self.clocks(peer).boot(self.now);
        let Some(session) = self.peers[peer].leading.sessions.remove(&number) else { return };
        let Session { report, call, recorded, .. } = session;
        let made = self.in_office(peer, |office, state| orders::make(state, office, boot, &report, recorded));
        match made {
            None => self.not_leader(peer, call),
            Some(orders) => {
                self.referee.ordered(&report, &orders);
                if call.node != peer {
                    self.spring(peer, call, &report, &orders);
                }
                self.reply(peer, call, ReportAnswer::Orders(orders));
            }
        }
    }

    fn session_fails(&mut self, peer: usize, number: u64) {
        let leader = self.peers[peer].belief.map(|(_, leader)| node_id(leader));
        self.session_ends(peer, number, ReportAnswer::NotLeader(leader));
    }

    fn session_ends(&mut self, peer: usize, number: u64, answer: ReportAnswer) {
        if let Some(session) = self.peers[peer].leading.sessions.remove(&number) {
            self.reply(peer, session.call, answer);
        }
    }

    fn not_leader(&mut self, peer: usize, call: Call) {
        let leader = self.peers[peer].belief.map(|(_, leader)| node_id(leader));
        self.reply(peer, call, ReportAnswer::NotLeader(leader));
    }

    /// Sends an answer back. What the link or the weather takes is lost.
    fn reply(&mut self, peer: usize, call: Call, answer: ReportAnswer) {
        if call.node == peer {
            let answer = Box::new(answer);
            return self.queue.at(self.now + 1, Event::AnswerArrives { call, answer });
        }
        if !self.network.open(peer, call.node) {
            return;
        }
        let [first, second] = self.network.delays(&mut self.dice);
        if let Some(delay) = second {
            let answer = Box::new(answer.clone());
            self.queue.at(self.now + delay, Event::AnswerArrives { call, answer });
        }
        if let Some(delay) = first {
            self.queue.at(self.now + delay, Event::AnswerArrives { call, answer: Box::new(answer) });
        }
    }
}
