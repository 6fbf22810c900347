//! Reports at the leader: drives the product's own `ReportSession` for each, asks the quorum, and sends what it answers.

use stint_node::leader::core::{LeaderCore, ProposalResult};
use stint_node::leader::quorum::Ticket;
use stint_node::leadership::PeerView;
use stint_node::limits;
use stint_node::reports::session::{ReportSession, Step};
use stint_node::wire::{Report, ReportAnswer};

use super::event::{Call, Event};
use super::leader::{Question, Waiter};
use super::world::{World, node_id};

/// One report that is being answered.
pub struct Session {
    report: ReportSession,
    call: Call,
    /// When it was held for long enough.
    until: u64,
}

impl World {
    pub fn on_report(&mut self, peer: usize, call: Call, report: Report) {
        let now = self.now;
        let (number, step) = self.lead(peer, |leader, view| {
            let (report, step) = ReportSession::begin(report, &mut leader.core, view);
            let (number, until) = (leader.next_session, now + report.hold_ms());
            leader.next_session += 1;
            leader.sessions.insert(number, Session { report, call, until });
            (number, step)
        });
        self.carry_out(peer, number, step);
    }

    /// Something happens to a session; what follows is carried out.
    fn session_hears<S: Into<Option<Step>>>(
        &mut self,
        peer: usize,
        number: u64,
        event: impl FnOnce(&mut ReportSession, &mut LeaderCore<Waiter>, &PeerView<'_>) -> S,
    ) {
        let step = self.lead(peer, |leader, view| {
            let session = leader.sessions.get_mut(&number)?;
            event(&mut session.report, &mut leader.core, view).into()
        });
        if let Some(step) = step {
            self.carry_out(peer, number, step);
        }
    }

    fn carry_out(&mut self, peer: usize, number: u64, step: Step) {
        match step {
            Step::Propose(commands) => self.propose(peer, commands, Waiter::Session(number)),
            Step::Plan => {
                self.turn(peer, false);
                self.session_hears(peer, number, |report, _, view| report.next_step(view));
            }
            Step::Hold => self.hold(peer, number),
            Step::AskQuorum(question) => self.ask_quorum(peer, question),
            Step::AwaitQuorum(_) => {}
            Step::Answer(answer) => self.session_ends(peer, number, answer),
            Step::NotLeader => {
                let leader = self.peers[peer].belief.map(|(_, leader)| node_id(leader));
                self.session_ends(peer, number, ReportAnswer::NotLeader(leader));
            }
        }
    }

    /// What a session put into the log is there, or it is not, or its fate is not known.
    pub fn session_proposed(&mut self, peer: usize, number: u64, result: ProposalResult) {
        self.session_hears(peer, number, |report, core, view| report.proposed(result, core, view));
    }

    fn hold(&mut self, peer: usize, number: u64) {
        let process = &self.peers[peer];
        let Some(session) = process.leader.sessions.get(&number) else { return };
        let event = Event::HoldOver { peer, life: process.life, session: number };
        self.queue.at(session.until, event);
        self.session_hears(peer, number, ReportSession::check_news);
    }

    pub fn on_hold_over(&mut self, peer: usize, number: u64) {
        if self.peers[peer].leader.sessions.get(&number).is_some_and(|session| session.report.is_parked()) {
            self.session_hears(peer, number, ReportSession::confirm);
        }
    }

    /// The entries from one index to another were applied: held reports of the nodes they touch may have news.
    pub fn wake_sessions(&mut self, peer: usize, from: u64, to: u64) {
        let entries = &self.log.entries[from as usize..to as usize];
        let touched = |report: &ReportSession| {
            let node = report.report().node;
            entries.iter().any(|logged| logged.touched.contains(&node))
        };
        for number in self.sessions_that(peer, |report| report.is_parked() && touched(report)) {
            self.session_hears(peer, number, ReportSession::check_news);
        }
    }

    fn sessions_that(&self, peer: usize, which: impl Fn(&ReportSession) -> bool) -> Vec<u64> {
        let sessions = self.peers[peer].leader.sessions.iter();
        sessions.filter(|(_, session)| which(&session.report)).map(|(number, _)| *number).collect()
    }

    fn ask_quorum(&mut self, peer: usize, question: Ticket) {
        let until = self.now + limits::BARRIER_DEADLINE.as_millis() as u64;
        let process = &mut self.peers[peer];
        let term = process.belief.map_or(0, |(term, _)| term);
        process.leader.question = Some(Question { asked: question, term, until });
        let (life, takes) = (process.life, self.rng.between(1, 3));
        self.queue.at(self.now + takes, Event::QuorumAsked { peer, life, question });
    }

    /// A quorum says whether the peer leads; while none answers, it is asked again.
    pub fn on_quorum_asked(&mut self, peer: usize, question: Ticket) {
        let process = &self.peers[peer];
        let (life, leads) = (process.life, self.really_leads(peer) && self.has_quorum(peer));
        let Some(asking) = process.leader.question.filter(|asking| asking.asked == question) else {
            return;
        };
        if leads && asking.term == self.log.term {
            // The answer may be long on its way: it says what was true when it was given.
            let back = if self.rng.one_in(30) { self.rng.between(1, 800) } else { self.rng.between(1, 3) };
            self.queue.at(self.now + back, Event::QuorumConfirms { peer, life, question });
        } else if self.now < asking.until {
            self.queue.at(self.now + 150, Event::QuorumAsked { peer, life, question });
        } else {
            self.quorum_denies(peer);
        }
    }

    pub fn on_quorum_confirms(&mut self, peer: usize, question: Ticket) {
        if self.peers[peer].leader.question.is_some_and(|asking| asking.asked == question) {
            self.quorum_answered(peer, true);
        }
    }

    /// No quorum answers what was asked, if anything was.
    pub fn quorum_denies(&mut self, peer: usize) {
        self.quorum_answered(peer, false);
    }

    fn quorum_answered(&mut self, peer: usize, follows: bool) {
        let leader = &mut self.peers[peer].leader;
        let Some(Question { asked, .. }) = leader.question.take() else { return };
        leader.core.quorum().answered(asked, follows);
        for number in self.sessions_that(peer, ReportSession::awaits_quorum) {
            self.session_hears(peer, number, ReportSession::confirm);
        }
    }

    fn session_ends(&mut self, peer: usize, number: u64, answer: ReportAnswer) {
        let Some(Session { report, call, .. }) = self.peers[peer].leader.sessions.remove(&number) else {
            return;
        };
        if let ReportAnswer::Orders(orders) = &answer {
            self.oracle.ordered(report.report(), orders);
            if call.node != peer {
                self.spring(peer, call, report.report(), orders);
            }
        }
        self.reply(peer, call, answer);
    }

    /// Sends an answer back. What a cut or a faulty link takes is lost.
    fn reply(&mut self, peer: usize, call: Call, answer: ReportAnswer) {
        if call.node == peer {
            let answer = Box::new(answer);
            return self.queue.at(self.now + 1, Event::AnswerArrives { call, answer });
        }
        if !self.network.open(peer, call.node) {
            return;
        }
        let [first, second] = self.network.delays(&mut self.rng);
        if let Some(delay) = second {
            let answer = Box::new(answer.clone());
            self.queue.at(self.now + delay, Event::AnswerArrives { call, answer });
        }
        if let Some(delay) = first {
            self.queue.at(self.now + delay, Event::AnswerArrives { call, answer: Box::new(answer) });
        }
    }
}
