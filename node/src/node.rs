//! One peer: what its fronts call, and what other peers call. Any peer answers any client.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use stint_executor::{Host, LogChunk, LogStream};
use stint_protocol::image::SCHEME;
use stint_protocol::{
    IdempotencyKey, LeaseId, NodeId, SharedSpec, TaskId, TaskName, TaskSpec, Tenant, Version, version,
};
use stint_raft::{CallClass, Raft};
use stint_scheduler::State;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::agent::LeaderLink;
use crate::blobs::Blobs;
use crate::clock::{Chance, Clock};
use crate::leader::Leader;
use crate::limits;
use crate::mutations::{Mutation, planted};
use crate::peers::{Caller, Handler, Later, PeerAddress, Peers};
use crate::pki::Authority;
use crate::reports::Reports;
use crate::requests::Requests;
use crate::shared::{NodeMachine, Shared};
use crate::wire::{
    ForwardAnswer, Join, JoinAnswer, Kind, LeaderView, LogAnswer, ReadLog, Refusal, RefusalCode, Reply,
    Report, ReportAnswer, Request, SubmitRequest, decode, encode,
};

/// One peer of a cluster.
pub struct Node {
    pub id: NodeId,
    pub cluster: String,
    pub raft: Raft<NodeMachine>,
    pub shared: Arc<Shared>,
    pub leader: Arc<Leader>,
    pub peers: Arc<Peers>,
    pub clock: Arc<dyn Clock>,
    pub chance: Arc<Chance>,
    /// Empty on a peer that executes nothing.
    pub host: std::sync::OnceLock<Arc<dyn Host>>,
    /// Empty on a peer that keeps no bytes.
    pub blobs: std::sync::OnceLock<Arc<Blobs>>,
    pub authority: Authority,
    pub reports: Reports,
    pub requests: Requests,
}

/// What a user submits, before it is checked.
pub struct NewTasks {
    pub tenant: Tenant,
    pub name: Option<TaskName>,
    pub spec: TaskSpec,
    pub count: u32,
    pub key: Option<IdempotencyKey>,
}

impl Node {
    /// Accepts tasks. Answers when they are on a majority of disks: the first id, how many, and whether the
    /// idempotency key was known.
    pub async fn submit(&self, new: NewTasks) -> Result<(TaskId, u32, bool), Refusal> {
        let invalid = |message: String| Refusal::new(RefusalCode::Invalid, message);
        let settings = self.shared.view().state.settings().clone();
        let digest = digest_of(&new);
        let key_made_ms = new.key.as_ref().and_then(made_at);
        if new.spec.image.as_deref().is_some_and(|image| image.starts_with(SCHEME)) {
            self.check_images()?;
        }
        if new.spec.limits.is_some() {
            self.check_speaks(version::TASK_LIMITS)?;
        }
        let rules = settings.class(new.spec.class);
        let spec = new.spec.resolve(rules).map_err(|e| invalid(e.to_string()))?;
        if let Some(name) = new.name.as_ref().filter(|_| new.count > 1) {
            let last = format!("{name}-{}", new.count - 1);
            TaskName::new(&last).map_err(|e| invalid(e.to_string()))?;
        }
        let first = TaskId(TaskId::from_parts(self.clock.wall().0, self.chance.bits()).0 & !0xffff);
        let request = Request::Submit(SubmitRequest {
            tenant: new.tenant,
            first,
            count: new.count,
            name: new.name,
            spec: SharedSpec::new(spec),
            // Without one a try whose answer was lost could not be repeated safely.
            key: new.key.or_else(|| IdempotencyKey::new(&format!("peer-{:032x}", self.chance.bits())).ok()),
            digest,
            key_made_ms,
        });
        match self.ask(request).await? {
            Reply::Submitted { first, count, repeated } => Ok((first, count, repeated)),
            other => Err(unexpected(&other)),
        }
    }

    /// Refuses what the cluster does not speak yet: a leader that runs an earlier program would not see it.
    pub fn check_speaks(&self, needed: Version) -> Result<(), Refusal> {
        let state = self.shared.view().state;
        if state.version() >= needed {
            return Ok(());
        }
        Err(Refusal::new(RefusalCode::Conflict, state.held_back().to_string()))
    }

    /// Carries out a request wherever the leader is. Tries again while nothing was done or a repetition is
    /// harmless, which it is for every request here (submits carry a key).
    pub async fn ask(&self, request: Request) -> Result<Reply, Refusal> {
        let until = Instant::now() + limits::REQUEST_DEADLINE;
        let mut last = Refusal::new(RefusalCode::Unavailable, "no leader is known");
        loop {
            match self.try_leader(&request).await {
                Ok(ForwardAnswer::Reply(reply)) => return Ok(reply),
                Ok(ForwardAnswer::Refused(refusal)) if refusal.code != RefusalCode::Unknown => {
                    return Err(refusal);
                }
                Ok(ForwardAnswer::Refused(refusal)) => last = refusal,
                Ok(ForwardAnswer::NotLeader(_)) => {}
                // Once a try may have been carried out, that is what the client must know.
                Err(error) if last.code != RefusalCode::Unknown || error.code == last.code => last = error,
                Err(_) => {}
            }
            if Instant::now() + limits::RETRY_PAUSE >= until {
                let waited = limits::REQUEST_DEADLINE.as_secs();
                let message =
                    format!("no leader answered within {waited} s ({last}): is a majority of the peers up?");
                return Err(Refusal::new(last.code, message));
            }
            sleep(limits::RETRY_PAUSE).await;
        }
    }

    async fn try_leader(&self, request: &Request) -> Result<ForwardAnswer, Refusal> {
        if self.leader.leads() {
            return Ok(self.requests.answer(request.clone()).await);
        }
        let body = self.call_leader(Kind::Forward, encode(request), limits::FORWARD_DEADLINE).await?;
        decode(&body).map_err(|e| Refusal::new(RefusalCode::Unknown, e))
    }

    /// Calls the leader; gives up at once when another peer leads, or none is known any more. `Unavailable`: the
    /// call was never sent.
    async fn call_leader(&self, kind: Kind, body: Bytes, deadline: Duration) -> Result<Bytes, Refusal> {
        let mut watch = self.raft.watch();
        let Some((leader, address)) = self.leader_address() else {
            return Err(Refusal::new(RefusalCode::Unavailable, "no leader is known"));
        };
        let unknown = |why: String| Refusal::new(RefusalCode::Unknown, why);
        let replaced = async { while watch.changed().await.leader == Some(leader.0) {} };
        tokio::select! {
            answer = self.peers.call(&address, kind, body, deadline) => answer.map_err(|e| unknown(e.to_string())),
            () = replaced => Err(unknown(format!("node {leader} does not lead any more"))),
        }
    }

    fn leader_address(&self) -> Option<(NodeId, PeerAddress)> {
        let (leader, info) = self.raft.status().leader_info().filter(|(id, _)| *id != self.id.0)?;
        Some((NodeId(leader), PeerAddress::node(NodeId(leader), &info.addr)))
    }

    /// The state, no older than this call: every peer gives the same answers.
    pub async fn read(&self) -> Result<State, Refusal> {
        if planted(Mutation::StaleRead) {
            return Ok(self.shared.view().state);
        }
        match self.ask(Request::ReadIndex).await? {
            Reply::Index(index) => self.read_at(index).await,
            other => Err(unexpected(&other)),
        }
    }

    /// The state once this peer has applied `index`.
    pub async fn read_at(&self, index: u64) -> Result<State, Refusal> {
        let mut applied = self.shared.applied();
        let caught_up = applied.wait_for(|at| *at >= index);
        match timeout(limits::REQUEST_DEADLINE, caught_up).await {
            Ok(Ok(_)) => Ok(self.shared.view().state),
            _ => Err(Refusal::new(
                RefusalCode::Unavailable,
                "this peer lags behind the leader: ask another one",
            )),
        }
    }

    /// What only the leader knows, with the state it belongs to.
    pub async fn leader_view(&self) -> Result<(LeaderView, State), Refusal> {
        match self.ask(Request::LeaderView).await? {
            Reply::LeaderView(view) => {
                let state = self.read_at(view.index).await?;
                Ok((view, state))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Waits until `done` holds for the state, or the time is over; answers whether it held.
    pub async fn wait_until(&self, wait: Duration, mut done: impl FnMut(&State) -> bool) -> bool {
        let until = Instant::now() + wait.min(limits::WAIT_MOST);
        let mut applied = self.shared.applied();
        loop {
            applied.mark_unchanged();
            if done(&self.shared.view().state) {
                return true;
            }
            if !matches!(timeout_at(until, applied.changed()).await, Ok(Ok(()))) {
                return done(&self.shared.view().state);
            }
        }
    }

    /// Output of an attempt, from the node that keeps it.
    pub async fn read_log(&self, keeper: NodeId, read: ReadLog) -> Result<LogAnswer, Refusal> {
        if keeper == self.id {
            return Ok(self.read_own_log(read).await);
        }
        let view = self.shared.view();
        let Some(node) = view.state.node(keeper) else {
            let message = format!("node {keeper}, which kept this output, is no member any more");
            return Err(Refusal::new(RefusalCode::NotFound, message));
        };
        let deadline = Duration::from_millis(read.wait_ms) + limits::FORWARD_DEADLINE;
        let address = PeerAddress::node(keeper, &node.address);
        let body = self.peers.call(&address, Kind::ReadLog, encode(&read), deadline).await;
        let away = |e: String| {
            let message = format!(
                "node {} keeps this output and cannot be asked now ({e}): retry when it is back",
                node.name
            );
            Refusal::new(RefusalCode::Unavailable, message)
        };
        decode(&body.map_err(|e| away(e.to_string()))?).map_err(away)
    }

    async fn read_own_log(&self, read: ReadLog) -> LogAnswer {
        let Some(host) = self.host.get() else {
            return LogAnswer::Failed("this node executes nothing and keeps no output".into());
        };
        let stream = if read.stderr { LogStream::Stderr } else { LogStream::Stdout };
        let at_once = match (read.file, read.tail) {
            _ if read.progress == Some(true) => Some(host.progress(read.lease)),
            (Some(file), _) => {
                Some(host.read_output(read.lease, &file, read.offset, limits::LOG_CHUNK_BYTES))
            }
            (None, Some(most)) => Some(host.log_tail(read.lease, stream, most as usize)),
            (None, None) => None,
        };
        if let Some(reading) = at_once {
            return reading.await.map_or_else(|error| LogAnswer::Failed(error.to_string()), log_answer);
        }
        let until = Instant::now() + Duration::from_millis(read.wait_ms).min(limits::LOG_WAIT);
        loop {
            match host.read_log(read.lease, stream, read.offset, limits::LOG_CHUNK_BYTES).await {
                Err(error) => return LogAnswer::Failed(error.to_string()),
                Ok(chunk) if !chunk.bytes.is_empty() || chunk.complete || Instant::now() >= until => {
                    return log_answer(chunk);
                }
                Ok(_) => sleep(limits::LOG_POLL).await,
            }
        }
    }

    /// Admits a data folder that shows a valid join token.
    async fn admit(&self, join: Join) -> JoinAnswer {
        let token: [u8; 32] = Sha256::digest(&*join.secret).into();
        let Join { disk, name, address, speaks, .. } = join;
        match self.ask(Request::Admit { token: token.into(), disk, name, address, speaks }).await {
            Ok(Reply::Admitted(node)) => {
                let (authority, cluster) = (self.authority.clone(), self.cluster.clone());
                JoinAnswer::Admitted { node, authority, cluster }
            }
            Ok(other) => JoinAnswer::Refused(unexpected(&other)),
            Err(refusal) => JoinAnswer::Refused(refusal),
        }
    }
}

pub(crate) fn unexpected(reply: &Reply) -> Refusal {
    Refusal::new(RefusalCode::Unknown, format!("the leader gave an answer of another kind: {reply:?}"))
}

/// What tells one request from another under the same idempotency key.
fn digest_of(new: &NewTasks) -> u64 {
    let mut hash = Sha256::new();
    hash.update(encode(&SharedSpec::new(new.spec.clone())));
    hash.update(new.count.to_be_bytes());
    hash.update(new.name.as_ref().map_or("", |n| n.as_str()));
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

/// When a key was made, for those that end in a version 7 UUID (as the SDK's do), in milliseconds since 1970.
fn made_at(key: &IdempotencyKey) -> Option<u64> {
    let text = key.as_str();
    let tail = text.get(text.len().checked_sub(36)?..)?;
    let id: TaskId = tail.parse().ok()?;
    let version = (id.0 >> 76) & 0xf;
    (version == 7).then_some((id.0 >> 80) as u64)
}

impl Handler for Node {
    fn handle(self: Arc<Self>, caller: Caller, kind: Kind, body: Bytes) -> Later<Result<Bytes, String>> {
        Box::pin(async move {
            match kind {
                Kind::RaftControl => {
                    self.raft.handle(CallClass::Control, body).await.map_err(|e| e.to_string())
                }
                Kind::RaftAppend => {
                    self.raft.handle(CallClass::Append, body).await.map_err(|e| e.to_string())
                }
                Kind::RaftSnapshot => {
                    self.raft.handle(CallClass::Snapshot, body).await.map_err(|e| e.to_string())
                }
                Kind::Report => {
                    let report: Report = decode(&body)?;
                    if !caller.is_node(report.node) {
                        return Err(format!("the caller is not node {}", report.node));
                    }
                    Ok(encode(&self.reports.on_report(report).await))
                }
                Kind::Forward => Ok(encode(&self.requests.answer(decode(&body)?).await)),
                Kind::ReadLog => Ok(encode(&self.read_own_log(decode(&body)?).await)),
                Kind::OfferBlob => Ok(encode(&self.take_offer(decode(&body)?).await)),
                Kind::ReadBlob => Ok(encode(&self.read_blob(decode(&body)?).await)),
                Kind::Join => Ok(encode(&self.admit(decode(&body)?).await)),
            }
        })
    }
}

fn log_answer(chunk: LogChunk) -> LogAnswer {
    let LogChunk { bytes, next_offset, complete } = chunk;
    LogAnswer::Chunk { bytes: bytes.into(), next_offset, complete }
}

/// The agent's way to the leader.
pub struct Link(pub Arc<Node>);

impl LeaderLink for Link {
    fn report(&self, report: Report) -> Later<Result<ReportAnswer, String>> {
        let node = self.0.clone();
        Box::pin(async move {
            if node.leader.leads() {
                return Ok(node.reports.on_report(report).await);
            }
            let body = node.call_leader(Kind::Report, encode(&report), limits::REPORT_DEADLINE).await;
            decode(&body.map_err(|e| e.to_string())?)
        })
    }
}

/// The node that keeps the output of an attempt, and its lease. Attempt 0 is the newest one; none when the task or the
/// attempt is not known.
pub fn log_keeper(state: &State, task: TaskId, attempt: u32) -> Option<(NodeId, LeaseId)> {
    if let Some(live) = state.task(task) {
        let current = live.leased().map(|l| (live.fields.attempts, l.node));
        let earlier = live.fields.records.iter().map(|r| (r.number, r.node));
        return pick_attempt(task, attempt, earlier.chain(current));
    }
    let done = state.finished(task)?;
    pick_attempt(task, attempt, done.fields.records.iter().map(|r| (r.number, r.node)))
}

fn pick_attempt(
    task: TaskId,
    wanted: u32,
    attempts: impl Iterator<Item = (u32, NodeId)>,
) -> Option<(NodeId, LeaseId)> {
    let found = attempts.filter(|(number, _)| wanted == 0 || *number == wanted).last()?;
    Some((found.1, LeaseId { task, attempt: found.0 }))
}

/// Runs a future until the flag is raised; whether it ended by itself.
pub async fn unless_stopped<F: Future>(
    stop: &mut tokio::sync::watch::Receiver<bool>,
    future: F,
) -> Option<F::Output> {
    tokio::select! {
        output = future => Some(output),
        _ = stop.wait_for(|stopped| *stopped) => None,
    }
}
