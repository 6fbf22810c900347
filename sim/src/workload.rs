//! Clients: submit, repeat, cancel and read through any peer, and go to another when one does not answer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use stint_node::attempt_output::output_source;
use stint_node::node::Node;
use stint_node::service::{AcceptedTasks, NewTasks, Principal, Proof, Service, ServiceError};
use stint_node::wire::{LogAnswer, ReadLog, Refusal, RefusalCode, Request};
use stint_protocol::{Class, IdempotencyKey, RetryPolicy, Runtime, TaskId, TaskSpec, Tenant, v1};
use tokio::time::sleep;

use crate::front::Front;
use crate::host::output;
use crate::operator::Operation;
use crate::oracle::{Oracle, Severity};
use crate::peer::Peer;
use crate::recorded::RecordedTask;
use crate::rng::SeededRng;
use crate::scenario::Workload as Rules;

/// How long a client waits for an answer before it asks another peer, in milliseconds: beyond a peer's own deadline.
const PATIENCE_MS: u64 = 12_000;
/// How often a peer looks for requests.
const LOOK: Duration = Duration::from_millis(5);

/// What a client asks for. The same request can be made again.
#[derive(Clone, Debug)]
pub enum Ask {
    Submit(Submit),
    Cancel(TaskId),
    /// A linearizable read of everything.
    Read,
    /// Output of the last attempt.
    Log(TaskId),
    /// The operator's.
    Operate(Operation),
}

/// The kinds that scenarios may use.
pub const REQUESTS: [&str; 4] = ["submit", "read", "cancel", "log"];

/// One submit.
#[derive(Clone, Debug)]
pub struct Submit {
    key: String,
    class: Class,
    count: u32,
    priority: u8,
    retry_failures: bool,
    grace_ms: u64,
    recorded: Option<RecordedTask>,
}

/// What came of it.
enum Answer {
    Submitted { first: TaskId, count: u32, repeated: bool },
    Done,
    Refused(Refusal),
}

/// Requests and answers on their way between clients and peers.
#[derive(Clone)]
pub struct Requests {
    trays: Arc<Mutex<RequestQueues>>,
    oracle: Oracle,
}

#[derive(Default)]
struct RequestQueues {
    asked: BTreeMap<u64, VecDeque<(u64, Ask)>>,
    answered: Vec<(u64, Answer)>,
}

impl Requests {
    /// Nothing asked yet.
    pub fn new(oracle: Oracle) -> Self {
        Self { trays: Arc::default(), oracle }
    }

    fn trays(&self) -> MutexGuard<'_, RequestQueues> {
        self.trays.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn ask(&self, peer: u64, number: u64, ask: Ask) {
        self.trays().asked.entry(peer).or_default().push_back((number, ask));
    }

    fn answers(&self) -> Vec<(u64, Answer)> {
        std::mem::take(&mut self.trays().answered)
    }

    /// The front of one peer: takes requests until its process dies. What waits here when it comes up is from clients
    /// that gave up on the process before.
    pub async fn serve(self, peer: u64, node: Arc<Node>) {
        self.trays().asked.remove(&peer);
        loop {
            let asked = self.trays().asked.remove(&peer).unwrap_or_default();
            for (number, ask) in asked {
                let (requests, node) = (self.clone(), node.clone());
                tokio::spawn(async move {
                    let answer = if number % 2 == 0 {
                        requests.carry_out(&node, ask).await
                    } else {
                        requests.through_front(&node, ask).await
                    };
                    let answer = answer.unwrap_or_else(Answer::Refused);
                    requests.trays().answered.push((number, answer));
                });
            }
            sleep(LOOK).await;
        }
    }

    /// As a program does that knows the API alone; what that does not offer is done as ever.
    async fn through_front(&self, node: &Arc<Node>, ask: Ask) -> Result<Answer, Refusal> {
        let front = Front::for_node(node);
        match ask {
            Ask::Submit(submit) => {
                let (first, count, repeated) = front.submit(submit.request()).await?;
                Ok(Answer::Submitted { first, count, repeated })
            }
            Ask::Cancel(task) => front.cancel(task).await.map(|()| Answer::Done),
            Ask::Read => {
                let floor = self.oracle.on_read_begins();
                let known = self.oracle.acknowledged();
                for task in known.first().into_iter().chain(known.last()) {
                    let is_finished = front.is_finished(*task).await?;
                    self.oracle.on_look(floor, *task, is_finished);
                }
                Ok(Answer::Done)
            }
            other => self.carry_out(node, other).await,
        }
    }

    async fn carry_out(&self, node: &Arc<Node>, ask: Ask) -> Result<Answer, Refusal> {
        match ask {
            Ask::Submit(submit) => {
                let caller = Principal::administrator(Proof::LocalSocket);
                let accepted = Service::new(node.clone()).submit(&caller, submit.tasks()).await;
                let AcceptedTasks { first, count, repeated, .. } = accepted.map_err(refusal)?;
                Ok(Answer::Submitted { first, count, repeated })
            }
            Ask::Cancel(task) => {
                node.leader_client.ask(Request::Cancel(vec![task])).await.map(|_| Answer::Done)
            }
            Ask::Read => {
                let floor = self.oracle.on_read_begins();
                let state = node.leader_client.read().await?;
                self.oracle.on_read(floor, &state);
                Ok(Answer::Done)
            }
            Ask::Log(task) => self.read_log(node, task).await,
            Ask::Operate(operation) => operate(node, operation).await,
        }
    }

    /// What is read is what the attempt wrote, or a reason why not.
    async fn read_log(&self, node: &Node, task: TaskId) -> Result<Answer, Refusal> {
        let state = node.leader_client.read().await?;
        let Some(source) = output_source(&state, task, 0) else { return Ok(Answer::Done) };
        let lease = source.lease;
        let read = ReadLog {
            lease,
            stderr: false,
            offset: 0,
            wait_ms: 0,
            file: None,
            tail: None,
            progress: None,
            stage: None,
        };
        // What waits in Slurm's queue has written nothing yet.
        if let LogAnswer::Chunk { bytes, complete, .. } = node.output.read(source.node, read).await?
            && (complete || !bytes.is_empty())
            && **bytes != output(lease)
        {
            let what = format!("attempt {lease} wrote {:?}", String::from_utf8_lossy(&bytes));
            self.oracle.violate(Severity::Safety, "output is that of its attempt", what);
        }
        Ok(Answer::Done)
    }
}

/// What the leader said; a peer that refuses a right request itself is wrong.
fn refusal(error: ServiceError) -> Refusal {
    match error {
        ServiceError::Refused(refusal) => refusal,
        ServiceError::NoLeader { tried, .. } => {
            let code = if tried { RefusalCode::Unknown } else { RefusalCode::Unavailable };
            Refusal::new(code, error.to_string())
        }
        other => Refusal::new(RefusalCode::Invalid, other.to_string()),
    }
}

async fn operate(node: &Node, operation: Operation) -> Result<Answer, Refusal> {
    if let Some(request) = operation.request() {
        return node.leader_client.ask(request).await.map(|_| Answer::Done);
    }
    let done = match operation {
        Operation::Demote(id) => node.raft.demote(id).await,
        Operation::Evict(id) => node.raft.remove(id).await,
        _ => Ok(()),
    };
    done.map(|()| Answer::Done).map_err(|e| Refusal::new(RefusalCode::Conflict, e.to_string()))
}

impl Submit {
    fn drawn(number: u64, rules: &Rules, rng: &mut SeededRng) -> Self {
        let class = rng.weighted(&rules.classes).and_then(|name| name.parse().ok());
        Self {
            key: format!("client-{number}"),
            class: class.unwrap_or(Class::CpuShort),
            count: if rng.one_in(4) { rng.within(rules.count) as u32 } else { 1 },
            priority: rng.below(101) as u8,
            retry_failures: rng.one_in(2),
            grace_ms: rng.between(0, 1_500),
            recorded: None,
        }
    }

    /// As it was recorded; what no recording holds is drawn.
    fn played(task: &RecordedTask, number: u64, rules: &Rules, rng: &mut SeededRng) -> Self {
        let drawn = Self::drawn(number, rules, rng);
        let class = task.class.parse().unwrap_or(drawn.class);
        let recorded = Some(task.clone());
        Self { class, count: task.count, priority: task.priority, recorded, ..drawn }
    }

    fn tasks(&self) -> NewTasks {
        let mut spec = TaskSpec::new(self.class, vec!["simulated".into()]);
        let in_slurm = self.class == Class::GpuSlurm;
        spec.runtime = Some(if in_slurm { Runtime::Slurm } else { Runtime::Mock });
        spec.cpu_milli = 1_000;
        spec.memory_bytes = 1 << 30;
        spec.priority = self.priority;
        spec.stop_grace_ms = self.grace_ms;
        spec.retry =
            RetryPolicy { backoff_ms: 200, retry_failures: self.retry_failures, ..RetryPolicy::default() };
        if let Some(task) = &self.recorded {
            spec.command = task.command();
            spec.cpu_milli = task.cpu_milli;
            spec.memory_bytes = task.memory_bytes;
        }
        let key = IdempotencyKey::new(&self.key).ok();
        NewTasks {
            tenant: Tenant::default_tenant(),
            name: None,
            spec,
            own_grace: true,
            runtime: String::new(),
            count: self.count,
            key,
            must_fit: false,
        }
    }

    /// The same in the words of the API.
    fn request(&self) -> v1::SubmitRequest {
        let NewTasks { spec, count, .. } = self.tasks();
        let retry = v1::RetryPolicy {
            max_attempts: spec.retry.max_attempts,
            backoff_ms: spec.retry.backoff_ms,
            max_backoff_ms: spec.retry.max_backoff_ms,
            retry_failures: spec.retry.retry_failures,
        };
        let spec = v1::TaskSpec {
            class: spec.class.to_string(),
            command: spec.command,
            runtime: spec.runtime.map(|runtime| runtime.to_string()).unwrap_or_default(),
            cpu_milli: spec.cpu_milli,
            memory_bytes: spec.memory_bytes,
            priority: Some(spec.priority.into()),
            retry: Some(retry),
            stop_grace_ms: Some(spec.stop_grace_ms),
            ..v1::TaskSpec::default()
        };
        let idempotency_key = self.key.clone();
        v1::SubmitRequest { spec: Some(spec), count, idempotency_key, ..v1::SubmitRequest::default() }
    }
}

/// A request that has no answer yet.
struct Open {
    ask: Ask,
    peer: u64,
    life: u64,
    asked_ms: u64,
    /// It was acknowledged before: the answer must be the same one.
    again: bool,
    /// What it was answered last.
    refused: Option<Refusal>,
}

/// All clients.
pub struct Workload {
    rules: Rules,
    requests: Requests,
    oracle: Oracle,
    rng: SeededRng,
    open: BTreeMap<u64, Open>,
    /// What the request that is sent next was answered before.
    refused: Option<Refusal>,
    next: u64,
    next_at_ms: u64,
    /// When the first request came: recorded times count from here.
    began_ms: Option<u64>,
    /// Recorded tasks asked for so far.
    played: usize,
}

impl Workload {
    /// Clients that begin when they are asked to.
    pub fn new(rules: Rules, requests: Requests, oracle: Oracle, rng: SeededRng) -> Self {
        Self {
            rules,
            requests,
            oracle,
            rng,
            open: BTreeMap::new(),
            refused: None,
            next: 0,
            next_at_ms: 0,
            began_ms: None,
            played: 0,
        }
    }

    /// Requests of clients without an answer: how many, and one of them with what was last said to it.
    pub fn open(&self) -> Option<(usize, String)> {
        let clients = || self.open.values().filter(|open| !matches!(open.ask, Ask::Operate(_)));
        let first = clients().next()?;
        let said = first.refused.as_ref().map_or("nothing".into(), |refusal| refusal.to_string());
        Some((clients().count(), format!("{:?} was answered {said}", first.ask)))
    }

    /// Something new now and then.
    pub fn begin_some(&mut self, now_ms: u64, peers: &[Peer]) {
        self.play(now_ms, peers);
        if now_ms < self.next_at_ms {
            return;
        }
        self.next_at_ms = now_ms + self.rng.within(self.rules.every_ms);
        let known = self.oracle.acknowledged();
        let ask = match self.rng.weighted(&self.rules.requests).map(String::as_str) {
            Some("cancel") if !known.is_empty() => Ask::Cancel(*self.rng.pick(&known)),
            Some("read") => Ask::Read,
            Some("log") if !known.is_empty() => Ask::Log(*self.rng.pick(&known)),
            _ => Ask::Submit(Submit::drawn(self.next, &self.rules, &mut self.rng)),
        };
        self.begin(ask, false, now_ms, peers);
    }

    /// Recorded tasks whose time has come.
    fn play(&mut self, now_ms: u64, peers: &[Peer]) {
        let began_ms = *self.began_ms.get_or_insert(now_ms);
        while let Some(task) =
            self.rules.recorded.get(self.played).filter(|task| began_ms + task.at_ms <= now_ms)
        {
            let submit = Submit::played(task, self.next, &self.rules, &mut self.rng);
            self.played += 1;
            self.begin(Ask::Submit(submit), false, now_ms, peers);
        }
    }

    fn begin(&mut self, ask: Ask, again: bool, now_ms: u64, peers: &[Peer]) {
        let number = self.next;
        self.next += 1;
        self.send(number, ask, again, now_ms, peers);
    }

    fn send(&mut self, number: u64, ask: Ask, again: bool, now_ms: u64, peers: &[Peer]) {
        let to = self.rng.pick(peers);
        self.ask(number, ask, (to.id(), to.life()), again, now_ms);
    }

    fn ask(&mut self, number: u64, ask: Ask, (peer, life): (u64, u64), again: bool, now_ms: u64) {
        self.requests.ask(peer, number, ask.clone());
        let refused = self.refused.take();
        self.open.insert(number, Open { ask, peer, life, asked_ms: now_ms, again, refused });
    }

    /// The operator asks: once, of any peer, or of this one.
    pub fn operate(&mut self, operation: Operation, leader: u64, now_ms: u64, peers: &[Peer]) {
        let number = self.next;
        self.next += 1;
        if operation.request().is_some() {
            return self.send(number, Ask::Operate(operation), false, now_ms, peers);
        }
        let life = peers.iter().find(|peer| peer.id() == leader).map_or(0, Peer::life);
        self.ask(number, Ask::Operate(operation), (leader, life), false, now_ms);
    }

    /// Takes answers, and asks again where none will come.
    pub fn follow_up(&mut self, now_ms: u64, peers: &[Peer]) {
        for (number, answer) in self.requests.answers() {
            if let Some(open) = self.open.remove(&number) {
                self.on_answer(number, open, answer, now_ms, peers);
            }
        }
        let life_of = |id: u64| peers.iter().find(|peer| peer.id() == id).map_or(0, Peer::life);
        let gone = |open: &Open| open.life != life_of(open.peer) || open.asked_ms + PATIENCE_MS < now_ms;
        let again: Vec<u64> = self.open.iter().filter(|(_, open)| gone(open)).map(|(n, _)| *n).collect();
        for number in again {
            match self.open.remove(&number) {
                // The operator looks again, and asks for what is still to be done.
                Some(Open { ask: Ask::Operate(_), .. }) | None => {}
                Some(open) => self.send(number, open.ask, open.again, now_ms, peers),
            }
        }
    }

    fn on_answer(&mut self, number: u64, open: Open, answer: Answer, now_ms: u64, peers: &[Peer]) {
        match (&open.ask, answer) {
            (Ask::Submit(submit), Answer::Submitted { first, count, repeated }) => {
                self.oracle.on_acknowledged(&submit.key, first, count);
                if open.again && !repeated {
                    let what = format!("{} was acknowledged twice as new", submit.key);
                    self.oracle.violate(Severity::Safety, "one answer a request", what);
                }
                if !open.again && self.rng.one_in(6) {
                    self.begin(open.ask, true, now_ms, peers);
                }
            }
            (Ask::Operate(operation), Answer::Refused(refusal)) => {
                self.oracle.say(&format!("the operator's {operation:?} was refused: {refusal}"));
            }
            (Ask::Operate(_), _) => {}
            (Ask::Cancel(task), Answer::Done) => self.oracle.on_cancelled(*task),
            // The node that has it is away, or has lost it with its power.
            (Ask::Log(_), Answer::Refused(_)) => {}
            (_, Answer::Refused(refusal)) if is_passing(refusal.code) => {
                self.refused = Some(refusal);
                self.send(number, open.ask, open.again, now_ms, peers);
            }
            (ask, Answer::Refused(refusal)) => {
                let what = format!("{ask:?} was refused: {refusal}");
                self.oracle.violate(Severity::Safety, "a right request is not refused", what);
            }
            _ => {}
        }
    }
}

/// Whether the same request may do better later.
fn is_passing(code: RefusalCode) -> bool {
    matches!(code, RefusalCode::Unavailable | RefusalCode::Unknown | RefusalCode::Full)
}
