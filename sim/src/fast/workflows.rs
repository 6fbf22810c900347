//! Durable workflow instances: operators start, stop, pause, resume and cancel them and send to their steps; each request is
//! repeated through other peers until it is answered. What their programs do is in `workflows/program.rs`.

mod program;

use std::collections::BTreeMap;

use stint_node::leader::core::{ProposalError, ProposalResult};
use stint_protocol::{
    CheckpointId, Class, IdempotencyKey, InstanceId, LeaseId, Payload, Runtime, SharedSpec, SignalKind,
    TaskId, TaskSpec, Tenant, Writer,
};
use stint_scheduler::{
    Change, Command, InstanceAct, InstanceChange, InstanceCommand, InstanceRejection, InstanceState,
    Rejection, StartInstance, Submit, TaskState,
};

use super::event::Event;
use super::leader::Waiter;
use super::plant::FastPlant;
use super::world::World;
use crate::rng::SeededRng;
use program::{Launch, Script};

/// Instances that are started in a seed at most.
const STARTED: u64 = 14;
/// How long a peer waits for an answer before it asks again, in milliseconds.
const PATIENCE_MS: u64 = 700;
/// The name of what they run.
pub const PROGRAM: &str = "workflow";

/// What can happen to them.
#[derive(Debug)]
pub enum FlowEvent {
    /// An operator has something new to ask.
    Ask,
    /// A request reaches a peer that may lead.
    Arrives {
        peer: usize,
        request: u64,
        command: Box<InstanceCommand>,
    },
    /// A program asks for a step that may be done.
    ReadArrives {
        peer: usize,
        request: u64,
    },
    Answered {
        request: u64,
        reply: Box<FlowReply>,
    },
    /// Nobody answered for a while.
    AskAgain {
        request: u64,
        attempt: u32,
    },
    /// A program has done what takes time.
    Goes {
        lease: LeaseId,
        turn: u64,
    },
    /// Its branch beside it writes something.
    Branch {
        lease: LeaseId,
    },
    /// The node of a program looks whether it does nothing but sleep.
    LooksIdle {
        lease: LeaseId,
        turn: u64,
    },
}

/// What comes back.
#[derive(Clone, Debug)]
pub enum FlowReply {
    Done(Vec<InstanceChange>, u64),
    Refused(Rejection),
    /// The state of a step, if it is done.
    Step(Option<Payload>),
}

/// A request without an answer.
struct Call {
    /// None: a step is read.
    command: Option<InstanceCommand>,
    /// The launch that asks, and the process that asks for it. None: an operator.
    launch: Option<(LeaseId, usize, u64)>,
    attempt: u32,
}

/// All of them.
pub struct Workflows {
    rng: SeededRng,
    /// Whether this seed has any.
    pub works: bool,
    started: u64,
    requests: u64,
    scripts: BTreeMap<InstanceId, Script>,
    of_task: BTreeMap<TaskId, InstanceId>,
    launches: BTreeMap<LeaseId, Launch>,
    calls: BTreeMap<u64, Call>,
}

impl Workflows {
    pub fn new(seed: u64, works: bool) -> Self {
        Self {
            rng: SeededRng::new(seed, 0x5021),
            works,
            started: 0,
            requests: 0,
            scripts: BTreeMap::new(),
            of_task: BTreeMap::new(),
            launches: BTreeMap::new(),
            calls: BTreeMap::new(),
        }
    }

    /// Whether a seed has workflows, when its cluster knows of them.
    pub fn are_in(seed: u64) -> bool {
        SeededRng::new(seed, 0x5022).one_in(2)
    }

    fn next_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }
}

impl World {
    pub fn on_flow(&mut self, event: FlowEvent) {
        match event {
            FlowEvent::Ask => self.on_operator(),
            FlowEvent::Arrives { peer, request, command } => self.on_flow_arrives(peer, request, *command),
            FlowEvent::ReadArrives { peer, request } => self.on_flow_read(peer, request),
            FlowEvent::Answered { request, reply } => self.on_flow_answered(request, *reply),
            FlowEvent::AskAgain { request, attempt } => {
                if self.workflows.calls.get(&request).is_some_and(|call| call.attempt == attempt) {
                    self.send_call(request);
                }
            }
            FlowEvent::Goes { lease, turn } => self.on_program_goes(lease, turn),
            FlowEvent::Branch { lease } => self.on_branch(lease),
            FlowEvent::LooksIdle { lease, turn } => self.on_looks_idle(lease, turn),
        }
    }

    fn on_operator(&mut self) {
        if self.is_healed() {
            return;
        }
        let pause = self.workflows.rng.between(150, 1_500) * self.shape.pace.stretch().min(2);
        self.queue.at(self.now + pause, Event::Flow(FlowEvent::Ask));
        let open = self.workflows.calls.values().filter(|call| call.launch.is_none()).count();
        if open > 6 {
            return;
        }
        let known: Vec<InstanceId> = self.workflows.scripts.keys().cloned().collect();
        let draw = self.workflows.rng.below(10);
        if known.is_empty() || (draw < 4 && self.workflows.started < STARTED) {
            return self.start_instance();
        }
        let id = self.workflows.rng.pick(&known).clone();
        let payload = Payload::inline(&self.workflows.requests.to_be_bytes()).unwrap_or_else(Payload::empty);
        let act = match draw {
            0..=3 => InstanceAct::Signal { kind: SignalKind::Pause, payload },
            4 | 5 => InstanceAct::Resume,
            6 if self.workflows.rng.one_in(2) => InstanceAct::Signal { kind: SignalKind::Cancel, payload },
            7 if self.workflows.rng.one_in(3) => InstanceAct::Stop { grace_ms: Some(500) },
            _ => InstanceAct::SendCustom { checkpoint: waited_for(), payload },
        };
        self.ask(id, Writer::Outside, act, None);
    }

    fn start_instance(&mut self) {
        self.workflows.started += 1;
        let number = self.workflows.started;
        let rng = &mut self.workflows.rng;
        let id = InstanceId::new(&format!("flow-{number}")).unwrap_or_else(|e| panic!("a fixed name: {e}"));
        let mut spec = TaskSpec::new(Class::CpuLong, vec![PROGRAM.into()]);
        spec.runtime = Some(Runtime::Mock);
        spec.cpu_milli = 250 * rng.between(1, 4);
        spec.memory_bytes = 256 << 20;
        spec.timeout_ms = 110_000;
        // No operator sets the highest priority of a tenant lower.
        spec.priority = rng.below(31) as u8;
        spec.stop_grace_ms = rng.between(0, 600);
        let spec = spec.resolve(self.shape.settings.class(Class::CpuLong));
        let tenant = ["default", "blue", "green"][rng.below(3) as usize];
        let submit = Submit {
            tenant: Tenant::new(tenant).unwrap_or_else(|e| panic!("a fixed name: {e}")),
            first: TaskId((1 << 100) + (u128::from(number) << 40)),
            count: 1,
            name: None,
            spec: SharedSpec::new(spec.unwrap_or_else(|e| panic!("a spec that nobody may submit: {e}"))),
            key: IdempotencyKey::new(&format!("flow-{number}")).ok(),
            digest: number,
            key_made_ms: None,
        };
        self.workflows.of_task.insert(submit.first, id.clone());
        let script = Script::drawn(rng);
        self.workflows.scripts.insert(id.clone(), script);
        let start = StartInstance { submit, input: None, env: BTreeMap::new() };
        self.ask(id, Writer::Outside, InstanceAct::Start(Box::new(start)), None);
    }

    /// Asks for something, until it is answered. Answers the number of the request.
    fn ask(
        &mut self,
        id: InstanceId,
        by: Writer,
        act: InstanceAct,
        launch: Option<(LeaseId, usize, u64)>,
    ) -> u64 {
        let request = self.workflows.next_request();
        let command = Some(InstanceCommand { id, request, by, holders: Vec::new(), act });
        self.workflows.calls.insert(request, Call { command, launch, attempt: 0 });
        self.send_call(request);
        request
    }

    /// Sends a request to the leader that its peer knows of.
    fn send_call(&mut self, request: u64) {
        let Some(call) = self.workflows.calls.get_mut(&request) else { return };
        call.attempt += 1;
        let attempt = call.attempt;
        let (command, launch) = (call.command.clone(), call.launch);
        self.queue.at(self.now + PATIENCE_MS, Event::Flow(FlowEvent::AskAgain { request, attempt }));
        let via = match launch {
            Some((_, node, life)) if self.peers[node].lives(life) => node,
            Some(_) => return,
            None => self.workflows.rng.below(self.peers.len() as u64) as usize,
        };
        let is_save = command.as_ref().is_some_and(|c| matches!(c.act, InstanceAct::Save { .. }));
        if self.plant == Some(FastPlant::AnswerBeforeCommit) && is_save && attempt == 1 {
            let reply =
                FlowReply::Done(vec![InstanceChange::Saved(Box::default())], self.log.state().time().0);
            let reply = Box::new(reply);
            self.queue.at(self.now + 1, Event::Flow(FlowEvent::Answered { request, reply }));
        }
        let Some((_, leader)) = self.peers[via].belief.filter(|_| self.peers[via].up) else { return };
        if via != leader && !self.network.open(via, leader) {
            return;
        }
        for delay in self.network.delays(&mut self.workflows.rng).into_iter().flatten() {
            let peer = leader;
            let event = match &command {
                Some(command) => FlowEvent::Arrives { peer, request, command: Box::new(command.clone()) },
                None => FlowEvent::ReadArrives { peer, request },
            };
            self.queue.at(self.now + delay, Event::Flow(event));
        }
    }

    fn on_flow_arrives(&mut self, peer: usize, request: u64, command: InstanceCommand) {
        if !self.peers[peer].up || !self.leads_for_certain(peer) {
            return;
        }
        if let (Some(FastPlant::TakeBeforeCommit), InstanceAct::TakeCustom(id)) = (self.plant, &command.act) {
            let state = self.log.state();
            let no = state.instance_named(&command.id);
            let sent = no.and_then(|no| Some((no, state.custom_signal(no, id)?.payload.clone())));
            if let Some((no, payload)) = sent {
                let taken = InstanceChange::Custom { no, payload: Some(payload) };
                return self.reply_to_call(request, FlowReply::Done(vec![taken], state.time().0));
            }
        }
        self.propose(peer, vec![Command::Instance(Box::new(command))], Waiter::Flow(request));
    }

    /// A leader that a quorum confirms says what is in the log.
    fn on_flow_read(&mut self, peer: usize, request: u64) {
        if !self.really_leads(peer) || !self.has_quorum(peer) {
            return;
        }
        let Some((lease, ..)) = self.workflows.calls.get(&request).and_then(|call| call.launch) else {
            return;
        };
        let Some((id, step)) = self.read_of(lease) else { return };
        let state = self.log.state();
        let known = state.instance_named(&id).and_then(|no| state.checkpoint(no, &step));
        let known = known.map(|known| known.state.clone());
        self.reply_to_call(request, FlowReply::Step(known));
    }

    /// What became of a request at the leader.
    pub fn flow_proposed(&mut self, request: u64, result: ProposalResult) {
        let reply = match result.map(|results| results.into_iter().next()) {
            Err(ProposalError::Refused(rejection)) | Ok(Some(Err(rejection))) => {
                FlowReply::Refused(rejection)
            }
            Err(_) | Ok(None) => return,
            Ok(Some(Ok(changes))) => {
                let of_it = |change| match change {
                    Change::Instance(change) => Some(change),
                    _ => None,
                };
                FlowReply::Done(changes.into_iter().filter_map(of_it).collect(), self.log.state().time().0)
            }
        };
        self.reply_to_call(request, reply);
    }

    fn reply_to_call(&mut self, request: u64, reply: FlowReply) {
        let [delay, _] = self.network.delays(&mut self.workflows.rng);
        // Some answers are lost after the entry is there.
        if let Some(delay) = delay.filter(|_| !self.workflows.rng.one_in(12)) {
            let reply = Box::new(reply);
            self.queue.at(self.now + delay, Event::Flow(FlowEvent::Answered { request, reply }));
        }
    }

    fn on_flow_answered(&mut self, request: u64, reply: FlowReply) {
        let passing = matches!(&reply, FlowReply::Refused(Rejection::TooManyTasks { .. }));
        if passing {
            return;
        }
        let launch = self.workflows.calls.get(&request).and_then(|call| call.launch);
        if launch.is_some_and(|(_, node, life)| !self.peers[node].lives(life)) {
            return;
        }
        let Some(call) = self.workflows.calls.remove(&request) else { return };
        match call.launch {
            Some((lease, ..)) => self.on_program_hears(lease, request, reply),
            None => self.on_operator_hears(call.command, reply),
        }
    }

    fn on_operator_hears(&mut self, command: Option<InstanceCommand>, reply: FlowReply) {
        let FlowReply::Refused(rejection) = reply else { return };
        let understood = matches!(
            &rejection,
            Rejection::Instance(
                InstanceRejection::Unknown(_)
                    | InstanceRejection::Ended { .. }
                    | InstanceRejection::NotSuspended { .. }
                    | InstanceRejection::NoProcess { .. }
            )
        );
        let full = matches!(&rejection, Rejection::KeysFull(_));
        if !understood && !full {
            self.oracle.broken("a right request is not refused", format!("{command:?}: {rejection}"));
        }
    }

    /// Everything was healed: whoever paused an instance wants it to go on.
    pub fn resume_flows(&mut self) {
        if !self.workflows.works {
            return;
        }
        let state = self.log.state();
        let waits = |task: TaskId| {
            let task = state.task(task);
            task.is_some_and(|t| matches!(t.fields.state, TaskState::Suspended { wake_at: None, .. }))
        };
        let paused: Vec<InstanceId> = state
            .instances()
            .filter(|(_, it)| {
                matches!(it.state, InstanceState::Suspended { .. }) && it.task.is_some_and(waits)
            })
            .map(|(_, it)| it.id.clone())
            .collect();
        for id in paused {
            let asked =
                |call: &Call| call.launch.is_none() && call.command.as_ref().is_some_and(|c| c.id == id);
            if !self.workflows.calls.values().any(asked) {
                self.ask(id, Writer::Outside, InstanceAct::Resume, None);
            }
        }
    }

    /// Why the workflows are not at their end.
    pub fn flows_settled(&self) -> Result<(), String> {
        if let Some(call) = self.workflows.calls.values().find(|call| call.launch.is_none()) {
            return Err(format!("a request about a workflow has no answer: {:?}", call.command));
        }
        match self.log.state().instances().find(|(_, it)| !it.state.is_ended()) {
            Some((_, it)) => Err(format!("instance {} is {:?}", it.id, it.state)),
            None => Ok(()),
        }
    }
}

/// The step for which operators send something.
fn waited_for() -> CheckpointId {
    CheckpointId::given("approve").unwrap_or_else(|e| panic!("a fixed name: {e}"))
}
