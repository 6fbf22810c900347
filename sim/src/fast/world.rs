//! One seed's world: everything in it, and its life from event to event.

use stint_node::applied_state::LogEntry;
use stint_node::wire::{Report, ReportAnswer};
use stint_protocol::{NodeId, TimeMs, Version, version};
use stint_scheduler::{Admit, Command};

use super::clients::Clients;
use super::clock::Clocks;
use super::crowd::{Crowd, has_crowd};
use super::event::{Call, Event};
use super::faults::FaultSchedule;
use super::host::Host;
use super::image_clients::ImageClients;
use super::log::Log;
use super::machine::Machine;
use super::network::Network;
use super::oracle::Oracle;
use super::plant::FastPlant;
use super::process::Process;
use super::queue::Queue;
use super::settings::Operator;
use super::shape::Shape;
use super::workflows::{FlowEvent, Workflows};
use crate::oracle::Severity;
use crate::rng::SeededRng;

/// Commands and faults of a seed at least, before everything is healed.
pub const COMMANDS: u64 = 200;
pub const FAULTS: u64 = 20;
/// Trouble is over by then in any case, in milliseconds: a cluster that does nothing shows when it is healed.
const TROUBLE_MS: u64 = 3_000_000;
/// Attempts that run, fail and are repeated, a few times over, beyond the longest lease, in milliseconds.
const SETTLE_MS: u64 = 240_000;
/// How often it is looked whether everything is finished, in milliseconds.
const LOOK_MS: u64 = 200;

/// The simulation is over: the oracle knows why.
pub struct Ended;

pub struct World {
    pub now: u64,
    pub plant: Option<FastPlant>,
    pub shape: Shape,
    pub queue: Queue,
    pub rng: SeededRng,
    pub oracle: Oracle,
    pub network: Network,
    pub log: Log,
    pub machines: Vec<Machine>,
    pub peers: Vec<Process>,
    pub hosts: Vec<Host>,
    pub clients: Clients,
    pub crowd: Crowd,
    /// Tasks that waited at once, at most.
    pub most_waiting: usize,
    pub trouble: FaultSchedule,
    pub image_clients: ImageClients,
    pub operator: Operator,
    pub workflows: Workflows,
    /// When everything was healed.
    healed_at: Option<u64>,
}

impl World {
    pub fn new(seed: u64, plant: Option<FastPlant>, keep_text: bool) -> Self {
        let mut shape = Shape::drawn(seed, plant.and_then(FastPlant::pace));
        if has_crowd(seed) {
            shape.settings.max_live_tasks = 20_000;
        }
        if plant.is_some_and(FastPlant::is_of_sweeps) {
            (shape.images, shape.files_stay_ms) = (true, (900, 1_800));
        }
        let mut operator = Operator::new(seed, &shape);
        // It shows when leases were longer than they are.
        if plant == Some(FastPlant::RenewUnseen) {
            (shape.images, operator.works, operator.only_leases) = (true, true, true);
        }
        if plant.is_some_and(FastPlant::is_of_dedication) {
            (shape.images, operator.works, operator.dedicates) = (true, true, true);
        }
        let of_flows = plant.is_some_and(FastPlant::is_of_workflows);
        shape.images |= of_flows;
        // Seeds with other plants stay as they were.
        let in_seed = plant.map_or_else(|| Workflows::are_in(seed), |_| of_flows);
        let workflows = Workflows::new(seed, shape.images && in_seed);
        let clocks = shape.clocks.clone();
        let log = Log::new(founding(&shape, &clocks[0]));
        let host = |peer| {
            let rng = SeededRng::new(seed, 0x5100 + peer as u64);
            let mut host = Host::new(shape.settings.kill_margin_ms, shape.pace, rng);
            host.host_model.forgets_ends = plant == Some(FastPlant::LateKill);
            host
        };
        let hosts = (0..shape.peers()).map(host).collect();
        let machines = clocks.into_iter().map(Machine::new).collect();
        let peers = (0..shape.peers()).map(|_| Process::default()).collect();
        let mut world = Self {
            now: 0,
            plant,
            queue: Queue::default(),
            rng: SeededRng::new(seed, 0x5002),
            oracle: Oracle::new(&shape, keep_text),
            network: Network::new(shape.peers()),
            log,
            machines,
            peers,
            hosts,
            clients: Clients::new(seed, &shape),
            crowd: Crowd::new(seed),
            most_waiting: 0,
            trouble: FaultSchedule::new(seed),
            image_clients: ImageClients::new(seed, &shape),
            operator,
            workflows,
            healed_at: None,
            shape,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for peer in 0..self.peers.len() {
            self.start_process(peer);
        }
        self.elect(0);
        self.queue.at(300, Event::Ask);
        let first = self.rng.between(1_000, 3_000);
        self.queue.at(first, Event::Fault);
        self.queue.at(LOOK_MS, Event::Look);
        if self.image_clients.opened {
            self.queue.at(400, Event::Library);
        }
        if self.workflows.works {
            self.queue.at(450, Event::Flow(FlowEvent::Ask));
        }
        if self.operator.works {
            self.queue.at(500, Event::Settings);
        }
    }

    /// Lives until everything is finished, or a rule is broken.
    pub fn live(&mut self) {
        while self.oracle.violation.is_none() {
            let Some((at, event)) = self.queue.next() else { return };
            self.now = at;
            self.oracle.now = at;
            if self.on_event(event).is_err() {
                return;
            }
        }
    }

    fn on_event(&mut self, event: Event) -> Result<(), Ended> {
        match event {
            Event::Commit { number } => self.on_commit(number),
            Event::Written { peer, life, number } => {
                self.if_alive(peer, life, |w| w.on_written(peer, number))
            }
            Event::Applied { peer, life, index } => self.if_alive(peer, life, |w| w.on_applied(peer, index)),
            Event::Election { epoch } => self.on_election(epoch),
            Event::Hear { peer, life, term } => self.if_alive(peer, life, |w| w.on_hear(peer, term)),
            Event::QuorumAsked { peer, life, question } => {
                self.if_alive(peer, life, |w| w.on_quorum_asked(peer, question))
            }
            Event::QuorumConfirms { peer, life, question } => {
                self.if_alive(peer, life, |w| w.on_quorum_confirms(peer, question))
            }
            Event::Tick { peer, life, term } => self.if_alive(peer, life, |w| w.on_tick(peer, term)),
            Event::HoldOver { peer, life, session } => {
                self.if_alive(peer, life, |w| w.on_hold_over(peer, session))
            }
            Event::ReportArrives { peer, call, report } => self.on_report_arrives(peer, call, *report),
            Event::AnswerArrives { call, answer } => self.on_answer_arrives(call, *answer),
            Event::CallDeadline { call } => self.on_call_deadline(call),
            Event::Resume { node, life } => self.if_alive(node, life, |w| w.report(node)),
            Event::Host { node } => self.on_host(node),
            Event::Ask => self.on_ask(),
            Event::RequestArrives { peer, request, attempt } => {
                self.on_request_arrives(peer, request, attempt)
            }
            Event::ReplyArrives { request, attempt, reply } => {
                self.on_reply_arrives(request, attempt, *reply)
            }
            Event::ClientWake { request, attempt } => self.on_client_wake(request, attempt),
            Event::Fault => self.on_fault(),
            Event::StartProcess { peer } => self.start_process(peer),
            Event::PowerOn { machine } => self.power_on(machine),
            Event::Silence { node, length } if !self.is_healed() => self.silence(node, length),
            Event::Silence { .. } => {}
            Event::Mend { from, to } => self.mend(from, to),
            Event::CalmLinks { epoch } => self.calm_links(epoch),
            Event::FastDisks { epoch } => self.fast_disks(epoch),
            Event::QuickWatchdog { node } => self.quicken(node),
            Event::RightClock { machine } => self.machines[machine].clocks.wall_offset_ms = 0,
            Event::Library => self.on_library(),
            Event::Settings => self.on_settings(),
            Event::LibraryCommand { peer, command } => self.on_library_command(peer, *command),
            Event::Upkeep { peer, life } => self.if_alive(peer, life, |w| w.on_upkeep(peer)),
            Event::SweepAsked { leader, peer, life } => self.on_sweep_asked(leader, peer, life),
            Event::Swept { peer, life, index } => self.if_alive(peer, life, |w| w.on_swept(peer, index)),
            Event::Copied { peer, life, target, digest } => {
                self.if_alive(peer, life, |w| w.on_copied(peer, target, digest))
            }
            Event::Flow(event) => self.on_flow(event),
            Event::Look => return self.look(),
        }
        Ok(())
    }

    /// Only for the process that it was arranged for.
    fn if_alive(&mut self, peer: usize, life: u64, act: impl FnOnce(&mut Self)) {
        if self.peers[peer].lives(life) {
            act(self);
        }
    }

    fn on_report_arrives(&mut self, peer: usize, call: Call, report: Report) {
        let reaches = call.node == peer || self.network.open(call.node, peer);
        if self.peers[peer].up && reaches {
            self.on_report(peer, call, report);
        }
    }

    fn on_answer_arrives(&mut self, call: Call, answer: ReportAnswer) {
        if self.peers[call.node].up {
            self.on_answer(call, answer);
        }
    }

    /// Heals everything once there was trouble enough; then everything must finish.
    fn look(&mut self) -> Result<(), Ended> {
        self.oracle.bounded(self.queue.len(), &self.peers);
        self.most_waiting = self.most_waiting.max(self.log.state().waiting());
        self.queue.at(self.now + LOOK_MS, Event::Look);
        match self.healed_at {
            None => {
                let enough = self.log.commands >= COMMANDS
                    && self.trouble.faults >= FAULTS
                    && self.crowd.is_complete();
                if enough || self.now >= TROUBLE_MS {
                    self.healed_at = Some(self.now);
                    self.heal();
                }
                Ok(())
            }
            Some(healed) => {
                self.ready_all();
                self.cancel_crowd();
                self.resume_flows();
                let Err(why) = self.settled() else { return Err(Ended) };
                let bound = SETTLE_MS * self.shape.pace.stretch() + 3 * self.shape.longest_wait_ms();
                if self.now > healed + bound {
                    let what = format!("not within {bound} ms after healing: {why}");
                    self.oracle.violate(Severity::Liveness, "everything finishes after healing", what);
                }
                Ok(())
            }
        }
    }

    pub fn is_healed(&self) -> bool {
        self.healed_at.is_some()
    }

    /// Every request is answered, every task finished, and nothing runs.
    fn settled(&self) -> Result<(), String> {
        let (open, state) = (self.clients.open(), self.log.state());
        if open > 0 {
            return Err(format!("{open} requests without an answer"));
        }
        if let Some(task) = self.oracle.unfinished() {
            return Err(format!("task {task} is not finished"));
        }
        if state.waiting() + state.running() > 0 {
            return Err(format!("{} tasks wait, {} are leased", state.waiting(), state.running()));
        }
        self.flows_settled()?;
        match self.hosts.iter().position(|host| !host.is_idle()) {
            Some(node) => Err(format!("node {} still runs or spools something", node + 1)),
            None => Ok(()),
        }
    }

    /// Notes something in the trace.
    pub fn say(&mut self, kind: &'static str, a: u64, b: u64, detail: impl FnOnce() -> String) {
        self.oracle.trace.note(self.now, kind, a, b, detail);
    }

    pub fn clocks(&self, peer: usize) -> &Clocks {
        &self.machines[self.shape.machine_of[peer]].clocks
    }
}

/// The cluster's settings and members.
fn founding(shape: &Shape, clocks: &Clocks) -> LogEntry {
    let hash = [7; 32];
    let mut commands = vec![
        Command::Configure(shape.settings.clone()),
        Command::AddJoinToken { hash, valid_ms: u64::from(u32::MAX), uses: None },
    ];
    for peer in 0..shape.peers() {
        let token = Some(hash);
        let (name, address) = (format!("n{}", peer + 1), format!("10.0.0.{}:1", peer + 1));
        commands.push(Command::Admit(Admit {
            disk: [peer as u8; 16],
            name,
            address,
            token,
            speaks: if shape.images { version::CURRENT } else { Version::default() },
        }));
    }
    LogEntry { now: TimeMs(clocks.wall(0).0 - 1_000), commands }
}

/// The node that a peer executes as.
pub fn node_id(peer: usize) -> NodeId {
    NodeId(peer as u64 + 1)
}
