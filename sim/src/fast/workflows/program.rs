//! The programs of workflows: what one does is drawn once for its instance, and each launch does it from the beginning, as
//! published workflows do; steps that are recorded answer for themselves.

use std::collections::BTreeSet;

use stint_executor::watchdog::StopCause;
use stint_protocol::{
    CheckpointId, EndKind, EventKind, InstanceEvent, InstanceId, LeaseId, LeftResult, Payload, SignalKind,
    TimeMs, Writer,
};
use stint_scheduler::{InstanceAct, InstanceChange, InstanceRejection, Rejection};

use super::{FlowEvent, FlowReply, waited_for};
use crate::fast::event::Event;
use crate::fast::world::World;
use crate::rng::SeededRng;

/// A sleep that is long enough to hold nothing meanwhile, in milliseconds.
const HIBERNATES_MS: u64 = 1_500;
/// How long a program must have done nothing, in milliseconds.
const IDLE_MS: u64 = 600;
/// How often a program asks for what operators send before it goes on without, and once everything is healed.
const ASKS: u32 = 5;

/// What the program of an instance does.
#[derive(Clone, Debug)]
pub struct Script {
    steps: Vec<Step>,
    end: Ending,
    /// Something of it goes on while it sleeps.
    branches: bool,
}

#[derive(Clone, Debug)]
enum Step {
    /// `records_first`: it records the step and does it then.
    Do {
        id: CheckpointId,
        records_first: bool,
    },
    Sleep {
        id: CheckpointId,
        ms: u64,
    },
    Event,
    Wait,
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    Completed,
    /// It says that it failed, after it said that it completed.
    Both,
    Failed,
    Crash,
    Silent,
    File,
}

impl Script {
    pub fn drawn(rng: &mut SeededRng) -> Self {
        let count = rng.between(2, 6);
        let steps = (0..count).map(|number| Step::drawn(number, rng)).collect();
        let ends = [Ending::Completed, Ending::Completed, Ending::Both, Ending::Failed, Ending::Crash];
        let end = match rng.below(8) {
            5 => Ending::Silent,
            6 => Ending::File,
            7 => Ending::Both,
            other => ends[other as usize],
        };
        Self { steps, end, branches: rng.one_in(2) }
    }
}

impl Step {
    fn drawn(number: u64, rng: &mut SeededRng) -> Self {
        let id =
            CheckpointId::given(&format!("step-{number}")).unwrap_or_else(|e| panic!("a fixed name: {e}"));
        let tick = || CheckpointId::given("tick").unwrap_or_else(|e| panic!("a fixed name: {e}"));
        match rng.below(10) {
            0..=2 => Step::Do { id, records_first: false },
            3 | 4 => Step::Do { id, records_first: true },
            // The same id again and again is legal.
            5..=7 => Step::Sleep { id: tick(), ms: rng.between(200, 9_000) },
            8 => Step::Event,
            _ => Step::Wait,
        }
    }
}

/// One launch.
pub struct Launch {
    id: InstanceId,
    node: usize,
    /// The process of its node that serves it: another one does not.
    life: u64,
    at: usize,
    stage: Stage,
    /// Counts what it waits for, so that what comes late is told from what is awaited.
    turn: u64,
    asks: u32,
    /// Answers to what its branch wrote are not awaited.
    beside: BTreeSet<u64>,
    given: Vec<Payload>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Registering,
    Reading,
    Doing,
    Saving,
    AskingSleep,
    Sleeping,
    Recording,
    Waiting,
    /// It says how it ends, or that it is suspended, and is gone then with this code.
    Leaving(i32),
    /// It hears nothing any more.
    Hanging,
}

impl World {
    /// A host runs an attempt: perhaps it is one of ours.
    pub fn flow_began(&mut self, node: usize, lease: LeaseId) {
        let Some(id) = self.workflows.of_task.get(&lease.task).cloned() else { return };
        let life = self.peers[node].life;
        let launch = Launch {
            id,
            node,
            life,
            at: 0,
            stage: Stage::Registering,
            turn: 0,
            asks: 0,
            beside: BTreeSet::new(),
            given: Vec::new(),
        };
        self.workflows.launches.insert(lease, launch);
        let tenant = self.log.state().tenant_of(lease.task);
        let Some(tenant) = tenant.filter(|_| self.peers[node].up) else {
            return self.hangs(lease);
        };
        self.call(lease, InstanceAct::Register { tenant, checkpoint: None });
    }

    pub fn flow_ended(&mut self, lease: LeaseId) {
        self.workflows.launches.remove(&lease);
        self.workflows.calls.retain(|_, call| call.launch.is_none_or(|(of, ..)| of != lease));
    }

    /// The process of a node starts anew: it serves no launch of before, and stops them.
    pub fn cut_flows(&mut self, node: usize) {
        let served = self.workflows.launches.iter().filter(|(_, launch)| launch.node == node);
        let leases: Vec<LeaseId> = served.map(|(lease, _)| *lease).collect();
        for lease in leases {
            self.hangs(lease);
            self.hosts[node].host_model.stop(lease, StopCause::Drained);
        }
    }

    fn hangs(&mut self, lease: LeaseId) {
        if let Some(launch) = self.workflows.launches.get_mut(&lease) {
            launch.stage = Stage::Hanging;
        }
        self.workflows.calls.retain(|_, call| call.launch.is_none_or(|(of, ..)| of != lease));
    }

    fn call(&mut self, lease: LeaseId, act: InstanceAct) -> u64 {
        let Some(launch) = self.workflows.launches.get(&lease) else { return 0 };
        let (id, origin) = (launch.id.clone(), (lease, launch.node, launch.life));
        self.ask(id, Writer::Launch(lease), act, Some(origin))
    }

    /// The step that a launch reads.
    pub(super) fn read_of(&self, lease: LeaseId) -> Option<(InstanceId, CheckpointId)> {
        let launch = self.workflows.launches.get(&lease)?;
        match self.step_of(lease)? {
            Step::Do { id, .. } => Some((launch.id.clone(), id)),
            _ => None,
        }
    }

    fn step_of(&self, lease: LeaseId) -> Option<Step> {
        let launch = self.workflows.launches.get(&lease)?;
        self.workflows.scripts.get(&launch.id)?.steps.get(launch.at).cloned()
    }

    /// A launch waits for something else from now on.
    fn turn_to(&mut self, lease: LeaseId, stage: Stage) -> u64 {
        let Some(launch) = self.workflows.launches.get_mut(&lease) else { return 0 };
        launch.stage = stage;
        launch.turn += 1;
        launch.turn
    }

    fn later(&mut self, lease: LeaseId, stage: Stage, ms: u64) -> u64 {
        let turn = self.turn_to(lease, stage);
        self.queue.at(self.now + ms, Event::Flow(FlowEvent::Goes { lease, turn }));
        turn
    }

    /// The launch begins the step that it stands at.
    fn begin_step(&mut self, lease: LeaseId) {
        let Some(step) = self.step_of(lease) else { return self.finish_program(lease) };
        match step {
            Step::Do { records_first: false, .. } => {
                self.turn_to(lease, Stage::Reading);
                let Some(launch) = self.workflows.launches.get(&lease) else { return };
                let origin = Some((lease, launch.node, launch.life));
                let request = self.workflows.next_request();
                let call = super::Call { command: None, launch: origin, attempt: 0 };
                self.workflows.calls.insert(request, call);
                self.send_call(request);
            }
            Step::Do { id, records_first: true } => self.save(lease, id),
            Step::Sleep { id, ms } => {
                self.turn_to(lease, Stage::AskingSleep);
                let state = Payload::empty();
                self.call(lease, InstanceAct::Sleep { checkpoint: id, state, duration_ms: ms });
            }
            Step::Event => {
                self.turn_to(lease, Stage::Recording);
                self.record(lease, EventKind::Custom);
            }
            Step::Wait => {
                self.turn_to(lease, Stage::Waiting);
                self.call(lease, InstanceAct::TakeCustom(waited_for()));
            }
        }
    }

    fn save(&mut self, lease: LeaseId, checkpoint: CheckpointId) {
        self.turn_to(lease, Stage::Saving);
        // Each launch comes to another result: which one counts can be told.
        let result = format!("{checkpoint} by {}", lease.attempt);
        let state = Payload::inline(result.as_bytes()).unwrap_or_else(Payload::empty);
        self.call(lease, InstanceAct::Save { checkpoint, state });
    }

    fn record(&mut self, lease: LeaseId, kind: EventKind) -> u64 {
        let payload = Payload::inline(kind.as_str().as_bytes()).unwrap_or_else(Payload::empty);
        let event = InstanceEvent { kind, subtype: None, checkpoint: None, payload, at: TimeMs(self.now) };
        self.call(lease, InstanceAct::Record { events: vec![event] })
    }

    fn next_step(&mut self, lease: LeaseId) {
        if let Some(launch) = self.workflows.launches.get_mut(&lease) {
            launch.at += 1;
            launch.asks = 0;
            self.begin_step(lease);
        }
    }

    fn finish_program(&mut self, lease: LeaseId) {
        let Some(launch) = self.workflows.launches.get(&lease) else { return };
        let Some(script) = self.workflows.scripts.get(&launch.id) else { return };
        match script.end {
            Ending::Completed | Ending::Both => {
                self.turn_to(lease, Stage::Leaving(0));
                self.record(lease, EventKind::Completed);
            }
            Ending::Failed => {
                self.turn_to(lease, Stage::Leaving(1));
                self.record(lease, EventKind::Failed);
            }
            Ending::Crash => self.exits(lease, 3),
            Ending::Silent => self.exits(lease, 0),
            Ending::File => {
                let left = LeftResult::Completed(Payload::inline(b"{}"));
                self.hosts[launch.node].leaves(lease, left);
                self.exits(lease, 0);
            }
        }
    }

    fn exits(&mut self, lease: LeaseId, code: i32) {
        let Some(launch) = self.workflows.launches.get(&lease) else { return };
        let node = launch.node;
        self.hangs(lease);
        let now = self.clocks(node).boot(self.now);
        self.hosts[node].host_model.exits(lease, now, EndKind::Exited(code));
        self.arrange_host(node);
    }

    pub(super) fn on_program_goes(&mut self, lease: LeaseId, turn: u64) {
        let Some(launch) = self.workflows.launches.get(&lease).filter(|launch| launch.turn == turn) else {
            return;
        };
        match (launch.stage.clone(), self.step_of(lease)) {
            (Stage::Doing, Some(Step::Do { id, records_first })) => {
                let instance = launch.id.clone();
                self.oracle.flow_did(&instance, &id, lease.attempt, records_first);
                if records_first { self.next_step(lease) } else { self.save(lease, id) }
            }
            (Stage::Sleeping, _) => self.next_step(lease),
            (Stage::Waiting, Some(_)) => {
                self.call(lease, InstanceAct::TakeCustom(waited_for()));
            }
            _ => {}
        }
    }

    pub(super) fn on_program_hears(&mut self, lease: LeaseId, request: u64, reply: FlowReply) {
        let Some(launch) = self.workflows.launches.get_mut(&lease) else { return };
        if launch.beside.remove(&request) {
            return;
        }
        match reply {
            // It is over, or is being stopped: nobody answers it.
            FlowReply::Refused(Rejection::Instance(InstanceRejection::StaleLaunch(_))) => self.hangs(lease),
            // As published programs do when a call fails.
            FlowReply::Refused(_) => self.exits(lease, 1),
            FlowReply::Step(known) => self.on_read(lease, known.is_some()),
            FlowReply::Done(changes, now) => self.on_done(lease, &changes, now),
        }
    }

    fn on_read(&mut self, lease: LeaseId, known: bool) {
        let Some(Step::Do { id, .. }) = self.step_of(lease) else { return };
        if known {
            self.skip(lease, &id, false);
        } else {
            self.do_step(lease);
        }
    }

    fn skip(&mut self, lease: LeaseId, id: &CheckpointId, records_first: bool) {
        if let Some(launch) = self.workflows.launches.get(&lease) {
            self.oracle.flow_skipped(&launch.id.clone(), id, lease.attempt, records_first);
        }
        self.next_step(lease);
    }

    fn do_step(&mut self, lease: LeaseId) {
        let takes = self.workflows.rng.between(5, 900);
        self.later(lease, Stage::Doing, takes);
    }

    fn on_done(&mut self, lease: LeaseId, changes: &[InstanceChange], now: u64) {
        let Some(stage) = self.workflows.launches.get(&lease).map(|launch| launch.stage.clone()) else {
            return;
        };
        match stage {
            Stage::Registering => self.begin_step(lease),
            Stage::Recording => self.next_step(lease),
            Stage::Saving => self.on_saved(lease, changes),
            Stage::AskingSleep => {
                let until = changes.iter().find_map(|change| match change {
                    InstanceChange::Slept { until, .. } => Some(until.0),
                    _ => None,
                });
                self.sleeps(lease, until.unwrap_or(now).saturating_sub(now));
            }
            Stage::Waiting => self.on_asked(lease, changes),
            Stage::Leaving(code) => self.on_left(lease, code),
            Stage::Reading | Stage::Doing | Stage::Sleeping | Stage::Hanging => {}
        }
    }

    fn on_saved(&mut self, lease: LeaseId, changes: &[InstanceChange]) {
        let Some(Step::Do { id, records_first }) = self.step_of(lease) else { return };
        let Some(launch) = self.workflows.launches.get(&lease) else { return };
        let instance = launch.id.clone();
        self.oracle.flow_acknowledged(&instance, &id, self.log.state());
        let saved = changes.iter().find_map(|change| match change {
            InstanceChange::Saved(saved) => Some((**saved).clone()),
            _ => None,
        });
        let Some(saved) = saved else { return };
        match saved.signal.map(|signal| signal.kind) {
            Some(kind @ (SignalKind::Cancel | SignalKind::Pause)) => self.obey(lease, kind),
            _ if !records_first => self.next_step(lease),
            _ if saved.found.is_some() => self.skip(lease, &id, true),
            _ => self.do_step(lease),
        }
    }

    /// It does what its operator wants; some say first that they have seen it.
    fn obey(&mut self, lease: LeaseId, kind: SignalKind) {
        self.turn_to(lease, Stage::Leaving(0));
        let acknowledges = kind == SignalKind::Cancel || self.workflows.rng.one_in(2);
        if acknowledges {
            let request = self.call(lease, InstanceAct::Acknowledge(kind));
            if kind == SignalKind::Pause
                && let Some(launch) = self.workflows.launches.get_mut(&lease)
            {
                launch.beside.insert(request);
            }
        }
        if kind == SignalKind::Pause {
            self.record(lease, EventKind::Suspended);
        }
    }

    fn on_left(&mut self, lease: LeaseId, code: i32) {
        let both = self.workflows.launches.get(&lease).is_some_and(|launch| {
            let script = self.workflows.scripts.get(&launch.id);
            launch.at > 0
                && script.is_some_and(|script| matches!(script.end, Ending::Both))
                && launch.at >= script.map_or(0, |script| script.steps.len())
        });
        if both && code == 0 {
            self.turn_to(lease, Stage::Leaving(1));
            self.record(lease, EventKind::Failed);
        } else {
            self.exits(lease, code);
        }
    }

    fn sleeps(&mut self, lease: LeaseId, ms: u64) {
        let turn = self.later(lease, Stage::Sleeping, ms);
        if ms < HIBERNATES_MS {
            return;
        }
        self.queue.at(self.now + IDLE_MS, Event::Flow(FlowEvent::LooksIdle { lease, turn }));
        let Some(launch) = self.workflows.launches.get(&lease) else { return };
        if self.workflows.scripts.get(&launch.id).is_some_and(|script| script.branches) {
            let at = self.now + self.workflows.rng.between(1, 2 * IDLE_MS);
            self.queue.at(at, Event::Flow(FlowEvent::Branch { lease }));
        }
    }

    pub(super) fn on_branch(&mut self, lease: LeaseId) {
        if self.workflows.launches.get(&lease).is_none_or(|launch| launch.stage != Stage::Sleeping) {
            return;
        }
        let request = self.record(lease, EventKind::Custom);
        if let Some(launch) = self.workflows.launches.get_mut(&lease) {
            launch.beside.insert(request);
        }
    }

    /// The node of a launch finds nothing of it on its way but a sleep.
    pub(super) fn on_looks_idle(&mut self, lease: LeaseId, turn: u64) {
        let Some(launch) = self.workflows.launches.get(&lease) else { return };
        let sleeps = launch.turn == turn && launch.stage == Stage::Sleeping;
        let open = |call: &super::Call| call.launch.is_some_and(|(of, ..)| of == lease);
        if !sleeps || self.workflows.calls.values().any(open) || !self.peers[launch.node].lives(launch.life) {
            return;
        }
        // What the node itself has applied: it may lag behind.
        let state = self.log.state_at(self.peers[launch.node].applied);
        let seen = state.instance_named(&launch.id).and_then(|no| state.instance(no));
        let Some(calls) = seen.filter(|it| it.launch == lease.attempt).map(|it| it.calls) else { return };
        let request = self.call(lease, InstanceAct::Hibernate { calls });
        if let Some(launch) = self.workflows.launches.get_mut(&lease) {
            launch.beside.insert(request);
        }
    }

    /// What operators sent is there, or not. It asks once more: the same thing does not come again.
    fn on_asked(&mut self, lease: LeaseId, changes: &[InstanceChange]) {
        let payload = changes.iter().find_map(|change| match change {
            InstanceChange::Custom { payload, .. } => payload.clone(),
            _ => None,
        });
        let healed = self.is_healed();
        let Some(launch) = self.workflows.launches.get_mut(&lease) else { return };
        launch.asks += 1;
        if let Some(payload) = payload {
            let again = launch.given.contains(&payload);
            launch.given.push(payload);
            let id = launch.id.clone();
            self.oracle.flow_given(&id, lease.attempt, again);
            self.later(lease, Stage::Waiting, 50);
            return;
        }
        if launch.given.is_empty() && launch.asks < ASKS && !healed {
            self.later(lease, Stage::Waiting, 400);
            return;
        }
        self.next_step(lease);
    }
}
