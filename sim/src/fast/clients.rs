//! Clients: they submit with idempotency keys, cancel, and set nodes' modes, and repeat what was not answered.

use std::collections::BTreeMap;

use stint_node::leader::core::{ProposalError, ProposalResult};
use stint_protocol::{
    Class, GpuRequest, IdempotencyKey, OnLost, RetryPolicy, Runtime, SharedSpec, TaskId, TaskName, TaskSpec,
    Tenant,
};
use stint_scheduler::{Change, Command, NodeMode, Rejection, Settings, Submit};

use super::crowd::Crowd;
use super::event::Event;
use super::image_clients::ImageClients;
use super::leader::Waiter;
use super::shape::{Pace, Shape};
use super::world::{World, node_id};
use crate::rng::SeededRng;

/// How long a client waits for one try, in milliseconds.
const PATIENCE_MS: u64 = 3_000;
/// Requests without an answer at most: clients that get none do not pile up.
const OPEN: usize = 12;

/// Whose tasks they are.
pub const TENANTS: [&str; 3] = ["default", "blue", "green"];
/// Tasks that wait at most before clients wait too: what is left at the end must finish soon.
const WAITING: usize = 12;

/// What a client hears.
#[derive(Clone, Debug)]
pub enum Reply {
    Submitted {
        first: TaskId,
        count: u32,
        repeated: bool,
    },
    Done,
    /// Nothing was done, or nobody knows: try again.
    Again,
    Refused(Box<Rejection>),
}

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Asked {
    Submit(Box<Submit>),
    /// With a key that stands for another one.
    UsedKey(Box<Submit>),
    Cancel(TaskId),
    CancelMany(Vec<TaskId>),
    Mode {
        node: usize,
        mode: NodeMode,
        within_ms: Option<u64>,
    },
}

/// A request without an answer.
struct Request {
    asked: Asked,
    attempt: u32,
    /// It was acknowledged before.
    again: bool,
}

impl Request {
    fn readies(&self, node: usize) -> bool {
        matches!(&self.asked, Asked::Mode { node: known, mode: NodeMode::Ready, .. } if *known == node)
    }
}

/// All clients.
pub struct Clients {
    rng: SeededRng,
    requests: BTreeMap<u64, Request>,
    next: u64,
    /// Ids of tasks that were acknowledged lately, to cancel one.
    known: Vec<TaskId>,
    most_gpus: u32,
    settings: Settings,
    pace: Pace,
}

impl Clients {
    pub fn new(seed: u64, shape: &Shape) -> Self {
        Self {
            rng: SeededRng::new(seed, 0x5003),
            requests: BTreeMap::new(),
            next: 0,
            known: Vec::new(),
            most_gpus: shape.most_gpus,
            settings: shape.settings.clone(),
            pace: shape.pace,
        }
    }

    pub fn open(&self) -> usize {
        self.requests.len()
    }

    /// Whether a request that cancels many is open.
    pub fn cancels_many(&self) -> bool {
        self.requests.values().any(|open| matches!(open.asked, Asked::CancelMany(_)))
    }

    pub fn add(&mut self, asked: Asked, again: bool) -> u64 {
        self.next += 1;
        self.requests.insert(self.next, Request { asked, attempt: 0, again });
        self.next
    }

    fn drawn(&mut self, peers: usize, image_clients: &mut ImageClients, crowd: &mut Crowd) -> Asked {
        match self.rng.below(12) {
            0 if !self.known.is_empty() => Asked::Cancel(*self.rng.pick(&self.known)),
            1 => {
                let modes = [NodeMode::Ready, NodeMode::Ready, NodeMode::Cordoned, NodeMode::Draining];
                let node = self.rng.below(peers as u64) as usize;
                let mode = *self.rng.pick(&modes);
                Asked::Mode { node, mode, within_ms: crowd.drain_deadline(mode) }
            }
            _ => Asked::Submit(Box::new(self.submit(image_clients))),
        }
    }

    fn submit(&mut self, image_clients: &mut ImageClients) -> Submit {
        let mut spec = self.spec();
        spec.image = image_clients.named_by_task();
        let number = self.next + 1;
        let count = if self.rng.one_in(4) { self.rng.between(2, 4) as u32 } else { 1 };
        let tenant = TENANTS[self.rng.below(3) as usize];
        // A quarter of what others ask for may be too high for them.
        if tenant != TENANTS[0] && !spec.priority.is_multiple_of(4) {
            spec.priority /= 2;
        }
        let named = self.rng.one_in(4);
        Submit {
            tenant: Tenant::new(tenant).unwrap_or_else(|e| panic!("a fixed name: {e}")),
            first: TaskId(u128::from(number) << 40),
            count,
            name: named.then(|| TaskName::new(&format!("task-{number}"))).and_then(Result::ok),
            spec: SharedSpec::new(spec),
            key: IdempotencyKey::new(&format!("key-{number}")).ok(),
            digest: number,
            key_made_ms: None,
        }
    }

    fn spec(&mut self) -> TaskSpec {
        let rng = &mut self.rng;
        let classes = [Class::CpuShort, Class::CpuShort, Class::CpuLong, Class::CpuLong, Class::Gpu];
        let class = *rng.pick(&classes);
        let mut spec = TaskSpec::new(class, vec!["simulated".into()]);
        spec.runtime = Some(Runtime::Mock);
        spec.cpu_milli = 250 * rng.between(1, 8);
        spec.memory_bytes = rng.between(256, 2_048) << 20;
        spec.priority = rng.below(101) as u8;
        spec.timeout_ms = match self.pace {
            Pace::Long => rng.between(36_000, 80_000),
            _ => rng.between(2_000, 20_000),
        };
        spec.stop_grace_ms = rng.between(0, 1_200);
        spec.on_lost = if rng.one_in(5) { OnLost::Fail } else { OnLost::Retry };
        let (backoff_ms, retry_failures) = (rng.between(50, 800), rng.one_in(2));
        spec.retry = RetryPolicy { backoff_ms, retry_failures, ..RetryPolicy::default() };
        if class == Class::Gpu {
            let count = if rng.one_in(5) { self.most_gpus } else { 1 };
            spec.gpus = Some(GpuRequest { count, ..GpuRequest::default() });
        } else if rng.one_in(6) {
            let zone = ["a", "b"][rng.below(2) as usize];
            spec.constraints.insert("zone".into(), zone.into());
        }
        let rules = self.settings.class(class);
        spec.resolve(rules).unwrap_or_else(|e| panic!("a spec that nobody may submit: {e}"))
    }
}

impl World {
    pub fn on_ask(&mut self) {
        if self.is_healed() {
            return;
        }
        let pause = self.clients.rng.between(30, 450);
        self.queue.at(self.now + pause * self.shape.pace.stretch().min(2), Event::Ask);
        while self.clients.open() < OPEN / 2
            && let Some(submit) = self.crowd.submit(self.clients.next + 1, &self.shape.settings)
        {
            let request = self.clients.add(Asked::Submit(Box::new(submit)), false);
            self.send_request(request);
        }
        if self.clients.open() < OPEN && self.log.state().waiting() < WAITING + self.crowd.tasks {
            let asked = self.clients.drawn(self.peers.len(), &mut self.image_clients, &mut self.crowd);
            let request = self.clients.add(asked, false);
            self.send_request(request);
        }
    }

    /// The operator wants every node to work again. A request of before may come late and undo it: asked again then.
    pub fn ready_all(&mut self) {
        for node in 0..self.peers.len() {
            let ready = self.log.state().node(node_id(node)).is_some_and(|n| n.mode == NodeMode::Ready);
            if ready || self.clients.requests.values().any(|open| open.readies(node)) {
                continue;
            }
            let request =
                self.clients.add(Asked::Mode { node, mode: NodeMode::Ready, within_ms: None }, false);
            self.send_request(request);
        }
    }

    /// Sends a try to the leader that some peer knows of.
    pub fn send_request(&mut self, request: u64) {
        let Some(open) = self.clients.requests.get_mut(&request) else { return };
        open.attempt += 1;
        let attempt = open.attempt;
        if let Asked::Submit(submit) = &mut open.asked
            && attempt > 1
            && self.clients.rng.one_in(2)
        {
            // Another peer makes another id for the same request.
            submit.first = TaskId(submit.first.0 + (1 << 16));
        }
        self.queue.at(self.now + PATIENCE_MS, Event::ClientWake { request, attempt });
        let via = self.clients.rng.below(self.peers.len() as u64) as usize;
        let Some((_, leader)) = self.peers[via].belief.filter(|_| self.peers[via].up) else { return };
        if via != leader && !self.network.open(via, leader) {
            return;
        }
        let [first, second] = self.network.delays(&mut self.clients.rng);
        for delay in [first, second].into_iter().flatten() {
            self.queue.at(self.now + delay, Event::RequestArrives { peer: leader, request, attempt });
        }
    }

    pub fn on_request_arrives(&mut self, peer: usize, request: u64, attempt: u32) {
        if !self.peers[peer].up {
            return;
        }
        let Some(open) = self.clients.requests.get(&request) else { return };
        let commands = match &open.asked {
            Asked::Submit(submit) | Asked::UsedKey(submit) => vec![Command::Submit((**submit).clone())],
            Asked::Cancel(task) => vec![Command::Cancel(*task)],
            Asked::CancelMany(tasks) => tasks.iter().map(|task| Command::Cancel(*task)).collect(),
            Asked::Mode { node, mode, within_ms } => {
                vec![Command::SetNodeMode { node: node_id(*node), mode: *mode, within_ms: *within_ms }]
            }
        };
        if self.leads_for_certain(peer) {
            self.propose(peer, commands, Waiter::Client { request, attempt });
        } else {
            self.client_answered(request, attempt, Err(ProposalError::NotLeader));
        }
    }

    /// What became of a request at the leader.
    pub fn client_answered(&mut self, request: u64, attempt: u32, result: ProposalResult) {
        let reply = match result.map(|results| results.into_iter().next()) {
            Err(ProposalError::Refused(rejection)) => Reply::Refused(Box::new(rejection)),
            Err(_) | Ok(None) => Reply::Again,
            Ok(Some(Err(rejection))) => Reply::Refused(Box::new(rejection)),
            Ok(Some(Ok(changes))) => changes.into_iter().find_map(submitted).unwrap_or(Reply::Done),
        };
        self.reply_to_client(request, attempt, reply);
    }

    fn reply_to_client(&mut self, request: u64, attempt: u32, reply: Reply) {
        let [delay, _] = self.network.delays(&mut self.clients.rng);
        if let Some(delay) = delay {
            let reply = Box::new(reply);
            self.queue.at(self.now + delay, Event::ReplyArrives { request, attempt, reply });
        }
    }

    pub fn on_reply_arrives(&mut self, request: u64, attempt: u32, reply: Reply) {
        let Some(open) = self.clients.requests.get(&request) else { return };
        let passing = match &reply {
            Reply::Again => true,
            Reply::Refused(rejection) => matches!(**rejection, Rejection::TooManyTasks { .. }),
            _ => false,
        };
        if passing {
            if open.attempt == attempt {
                let full = matches!(reply, Reply::Refused(_));
                self.pause_client(request, if full { 4_000 } else { 400 });
            }
            return;
        }
        let Some(Request { asked, again, .. }) = self.clients.requests.remove(&request) else { return };
        match (asked, reply) {
            (Asked::Submit(submit), Reply::Submitted { first, count, repeated }) => {
                self.acknowledged(*submit, first, count, repeated, again);
            }
            (Asked::Cancel(_) | Asked::CancelMany(_), Reply::Refused(rejection))
                if matches!(*rejection, Rejection::UnknownTask(_)) => {}
            // An older peer is a member, and knows no deadlines.
            (Asked::Mode { within_ms: Some(_), .. }, Reply::Refused(rejection))
                if matches!(*rejection, Rejection::VersionTooLow { .. }) => {}
            (Asked::UsedKey(_), Reply::Refused(rejection))
                if matches!(*rejection, Rejection::KeyReused { .. }) => {}
            (Asked::UsedKey(submit), reply) => {
                let what = format!("{:?} with another body: {reply:?}", submit.key);
                self.oracle.broken("a key stands for one body", what);
            }
            // It was deleted, or never there; a request that was accepted once stays so.
            (Asked::Submit(_), Reply::Refused(rejection))
                if matches!(*rejection, Rejection::UnknownImage { .. }) && !again => {}
            (Asked::Submit(submit), Reply::Refused(rejection))
                if matches!(*rejection, Rejection::PriorityTooHigh { asked, most, .. }
                    if asked == submit.spec.priority && asked > most && !again) => {}
            (asked, Reply::Refused(rejection)) => {
                self.oracle.broken("a right request is not refused", format!("{asked:?}: {rejection}"));
            }
            _ => {}
        }
    }

    fn acknowledged(&mut self, submit: Submit, first: TaskId, count: u32, repeated: bool, again: bool) {
        let Some(key) = submit.key.clone() else { return };
        self.oracle.acknowledged(&key, first, count, again && !repeated, self.log.state());
        if self.clients.known.len() >= 8 {
            self.clients.known.remove(0);
        }
        self.clients.known.push(first);
        if !again && self.crowd.uses_key_again() {
            let mut other = submit.clone();
            other.digest += 1 << 32;
            other.first = TaskId(submit.first.0 + (1 << 32));
            let request = self.clients.add(Asked::UsedKey(Box::new(other)), true);
            self.send_request(request);
        }
        if !again && self.clients.rng.one_in(6) {
            let request = self.clients.add(Asked::Submit(Box::new(submit)), true);
            self.send_request(request);
        }
    }

    fn pause_client(&mut self, request: u64, most_ms: u64) {
        let Some(open) = self.clients.requests.get_mut(&request) else { return };
        open.attempt += 1;
        let attempt = open.attempt;
        let pause = self.clients.rng.between(25, most_ms);
        self.queue.at(self.now + pause, Event::ClientWake { request, attempt });
    }

    pub fn on_client_wake(&mut self, request: u64, attempt: u32) {
        if self.clients.requests.get(&request).is_some_and(|open| open.attempt == attempt) {
            self.send_request(request);
        }
    }
}

fn submitted(change: Change) -> Option<Reply> {
    match change {
        Change::Submitted { first, count, repeated } => Some(Reply::Submitted { first, count, repeated }),
        _ => None,
    }
}
