//! A peer's process: it comes and goes, and its agent reports and obeys with the product's own decisions.

use stint_node::agent::core::{AgentCore, Moment, Next};
use stint_node::limits;
use stint_node::wire::{Report, ReportAnswer};
use stint_protocol::{BootMs, Incarnation, NodeOffer, Nonce};
use stint_scheduler::RegisterNode;

use super::event::{Call, Event};
use super::host_model::AttemptEvent;
use super::leader::SimulatedLeader;
use super::plant::FastPlant;
use super::world::{World, node_id};

/// What the agent is doing.
#[derive(Clone, Copy, Debug, Default)]
enum AgentPhase {
    #[default]
    Pausing,
    Calling {
        sequence: u64,
        sent: BootMs,
        holds: bool,
        local: bool,
    },
    /// It was told that it may not execute.
    Left,
}

/// One peer: its raft side, its leading side and its agent.
#[derive(Default)]
pub struct Process {
    pub up: bool,
    /// Which process of the peer this is.
    pub life: u64,
    /// Who leads as far as it knows, and in which term.
    pub belief: Option<(u64, usize)>,
    /// The index up to which it has applied the log.
    pub applied: u64,
    pub leader: SimulatedLeader,
    agent: Option<AgentCore>,
    agent_phase: AgentPhase,
    /// When the last report was sent.
    sent: BootMs,
    /// Something ended while no held report could be cut short.
    news: bool,
}

impl Process {
    pub fn lives(&self, life: u64) -> bool {
        self.up && self.life == life
    }
}

impl World {
    /// Starts a peer's process, if its machine is on and it does not run.
    pub fn start_process(&mut self, peer: usize) {
        let machine = self.shape.machine_of[peer];
        if self.peers[peer].up || !self.machines[machine].powered {
            return;
        }
        let incarnation = Incarnation(self.hosts[peer].open());
        let life = self.peers[peer].life + 1;
        // What it had applied is on its disk; how far it lags when it leads is drawn by `elect`.
        let applied = self.peers[peer].applied;
        let (mut offer, healed) = (self.shape.offers[peer].clone(), self.is_healed());
        if let Some(rules) = offer.rules.as_mut().filter(|_| !healed) {
            rules.tenants = self.operator.tenants_of_a_node();
        }
        let gpus = self.machines[machine].lock(peer, &offer.gpus);
        self.say("start", peer as u64, incarnation.0, || {
            format!("peer {} life {life} {incarnation:?} with {} GPUs", peer + 1, gpus.len())
        });
        let nonce = Nonce(self.rng.next());
        let register = RegisterNode {
            node: node_id(peer),
            incarnation,
            nonce,
            offer: NodeOffer { gpus, ..offer },
            problems: Vec::new(),
        };
        let agent = Some(AgentCore::new(register));
        self.peers[peer] = Process { up: true, life, applied, agent, ..Process::default() };
        let wakes = self.now + self.rng.between(1, 60);
        self.queue.at(wakes, Event::Resume { node: peer, life });
        if self.image_clients.opened {
            self.queue.at(wakes, Event::Upkeep { peer, life });
        }
        self.hear_later(peer);
        self.cut_flows(peer);
        self.arrange_host(peer);
    }

    /// The process is gone at once; its host goes on.
    pub fn stop_process(&mut self, peer: usize) {
        if !self.peers[peer].up {
            return;
        }
        self.say("stop", peer as u64, 0, || format!("peer {}", peer + 1));
        self.peers[peer].up = false;
        self.peers[peer].agent = None;
        self.peers[peer].leader = SimulatedLeader::default();
        self.machines[self.shape.machine_of[peer]].unlock(peer);
        self.watch_leader();
    }

    /// Sends the next report; what ended meanwhile cuts it short.
    pub fn report(&mut self, node: usize) {
        if matches!(self.peers[node].agent_phase, AgentPhase::Left | AgentPhase::Calling { .. }) {
            return;
        }
        let sent = self.clocks(node).boot(self.now);
        let Some((_, leader)) = self.peers[node].belief else {
            return self.answer(node, Err(String::new()), sent);
        };
        let (ends, running) = (self.hosts[node].unacknowledged(), self.hosts[node].running());
        let Some(core) = &mut self.peers[node].agent else { return };
        let report = core.report(sent, ends, &running);
        let holds = report.hold_ms > 0;
        self.peers[node].sent = sent;
        let local = leader == node;
        self.peers[node].agent_phase = AgentPhase::Calling { sequence: report.sequence, sent, holds, local };
        let call = Call { node, life: self.peers[node].life, sequence: report.sequence };
        self.queue.at(self.now + limits::REPORT_DEADLINE.as_millis() as u64, Event::CallDeadline { call });
        self.send_report(leader, call, report);
        if holds && std::mem::take(&mut self.peers[node].news) {
            self.on_news(node);
        }
    }

    fn send_report(&mut self, to: usize, call: Call, report: Report) {
        if to == call.node {
            let report = Box::new(report);
            return self.queue.at(self.now, Event::ReportArrives { peer: to, call, report });
        }
        let [first, second] = self.network.delays(&mut self.rng);
        if let Some(delay) = second {
            let report = Box::new(report.clone());
            self.queue.at(self.now + delay, Event::ReportArrives { peer: to, call, report });
        }
        if let Some(delay) = first {
            let report = Box::new(report);
            self.queue.at(self.now + delay, Event::ReportArrives { peer: to, call, report });
        }
    }

    /// Something on the host ended: a held report is cut short, any other is followed by one at once.
    fn on_news(&mut self, node: usize) {
        let process = &mut self.peers[node];
        let Some(core) = process.agent.as_mut() else { return };
        match process.agent_phase {
            AgentPhase::Calling { holds: true, .. } => {
                core.on_news();
                process.agent_phase = AgentPhase::Pausing;
                self.report(node);
            }
            AgentPhase::Left => {}
            _ => process.news = true,
        }
    }

    pub fn on_answer(&mut self, call: Call, answer: ReportAnswer) {
        let node = call.node;
        match self.peers[node].agent_phase {
            AgentPhase::Calling { sequence, sent, .. }
                if self.peers[node].lives(call.life) && sequence == call.sequence =>
            {
                self.peers[node].agent_phase = AgentPhase::Pausing;
                self.answer(node, Ok(answer), sent);
            }
            AgentPhase::Left => {}
            _ => self.on_late_answer(node, answer),
        }
    }

    /// Nobody waits for it any more; should it reach the agent all the same, it must change nothing.
    fn on_late_answer(&mut self, node: usize, answer: ReportAnswer) {
        let ReportAnswer::Orders(orders) = answer else { return };
        let now = self.clocks(node).boot(self.now);
        let sent = self.peers[node].sent;
        let running = self.hosts[node].running();
        let Some(core) = &mut self.peers[node].agent else { return };
        let acts = core.obey(orders, Moment { sent, now, closing: false }, &running);
        acts.into_iter().for_each(|act| self.hosts[node].carry_out(act, now));
        self.arrange_host(node);
    }

    /// The agent gets an answer, or none, to the report sent at `sent`.
    fn answer(&mut self, node: usize, answer: Result<ReportAnswer, String>, sent: BootMs) {
        let now = self.clocks(node).boot(self.now);
        let from = if self.plant == Some(FastPlant::LeaseFromReceipt) { now } else { sent };
        let running = self.hosts[node].running();
        let Some(core) = &mut self.peers[node].agent else { return };
        let (acts, next) = core.on_answer(answer, Moment { sent: from, now, closing: false }, &running);
        acts.into_iter().for_each(|act| self.hosts[node].carry_out(act, now));
        self.arrange_host(node);
        let life = self.peers[node].life;
        match next {
            Next::Report => self.queue.at(self.now, Event::Resume { node, life }),
            Next::Pause => {
                // Often longer than the product's: a node without a leader would fill the seed with its tries.
                let pause = limits::RETRY_PAUSE.as_millis() as u64 * self.rng.between(1, 9);
                self.queue.at(self.now + pause, Event::Resume { node, life });
            }
            Next::Leave => self.peers[node].agent_phase = AgentPhase::Left,
        }
    }

    pub fn on_call_deadline(&mut self, call: Call) {
        self.give_up(call.node, |process, sequence, _| process.lives(call.life) && sequence == call.sequence);
    }

    /// Another peer leads: nobody waits for the one before.
    pub fn leader_replaced(&mut self, node: usize) {
        self.give_up(node, |_, _, local| !local);
    }

    fn give_up(&mut self, node: usize, which: impl FnOnce(&Process, u64, bool) -> bool) {
        let AgentPhase::Calling { sequence, sent, local, .. } = self.peers[node].agent_phase else { return };
        if which(&self.peers[node], sequence, local) {
            self.peers[node].agent_phase = AgentPhase::Pausing;
            self.answer(node, Err(String::new()), sent);
        }
    }

    /// Arranges the next event of a host.
    pub fn arrange_host(&mut self, node: usize) {
        if !self.machines[self.shape.machine_of[node]].powered {
            return;
        }
        let Some(wake) = self.hosts[node].next_wake() else { return };
        let at = self.clocks(node).world_at(wake, self.now);
        if self.hosts[node].wake.is_none_or(|known| at < known) {
            self.hosts[node].wake = Some(at);
            self.queue.at(at, Event::Host { node });
        }
    }

    pub fn on_host(&mut self, node: usize) {
        // Another one came earlier and arranged what follows.
        if self.hosts[node].wake != Some(self.now) {
            return;
        }
        self.hosts[node].wake = None;
        if self.machines[self.shape.machine_of[node]].powered {
            let now = self.clocks(node).boot(self.now);
            let happened = self.hosts[node].advance(now);
            self.happened(node, happened);
            self.arrange_host(node);
        }
    }

    /// Tells the oracle and the agent what happened on a host.
    pub fn happened(&mut self, node: usize, happened: Vec<AttemptEvent>) {
        let boot = self.clocks(node).boot(self.now);
        let mut news = false;
        for event in happened {
            match event {
                AttemptEvent::Began { lease, gpus, spec } => {
                    self.oracle.began(node, lease, &gpus, &spec, self.log.state());
                    self.flow_began(node, lease);
                }
                AttemptEvent::Ended { lease, kind, since } => {
                    news = true;
                    self.flow_ended(lease);
                    if since.is_some() {
                        self.oracle.ended(node, lease, &kind, boot);
                    }
                }
            }
        }
        if news && self.peers[node].up {
            self.on_news(node);
        }
    }
}
