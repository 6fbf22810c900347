//! One peer of the cluster: open, propose, read, watch, stop.

use std::collections::BTreeMap;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::LinearizerOption;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{
    ClientWriteError, Fatal, ForwardToLeader, InitializeError, LinearizableReadError, RaftError,
};
use openraft::raft::AppendEntriesRequest;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::contradiction::LeaderSays;
use crate::error::{BarrierError, HandleError, MembershipError, OpenError, ProposeError, StorageFailure};
use crate::log::Log;
use crate::log::driver::Queue;
use crate::log::segment::segment_number;
use crate::machine::{Applier, SnapshotTrigger, StateMachine};
use crate::options::{PROPOSALS_IN_FLIGHT_BYTES, PROPOSE_DEADLINE, RaftOptions};
use crate::reachability::PeerReachability;
use crate::snapshot::Snapshots;
use crate::status::{Known, LastMembers, Status, StatusWatch};
use crate::store::Store;
use crate::transfer::Receiver;
use crate::transport::{CallClass, Network, NetworkContext, Transport};
use crate::types::{Core, Payload, PeerId, PeerInfo, Scope, Types, seeded};
use crate::wire::{self, Answer, Envelope, Request};

/// Proposals in flight are counted in these.
const PERMIT_BYTES: usize = 1024;
/// The longest deadline that means anything; a longer one would overflow the clock.
const LONGEST_DEADLINE: Duration = Duration::from_secs(3600);

/// A handle on one peer; cheap to copy. The peer runs until `stop`.
pub struct Raft<M: StateMachine>(pub(crate) Arc<Inner<M>>);

impl<M: StateMachine> Clone for Raft<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

pub(crate) struct Inner<M: StateMachine> {
    pub(crate) id: PeerId,
    pub(crate) core: Core<M>,
    options: RaftOptions,
    log: Arc<Log>,
    queue: Arc<Queue>,
    failures: watch::Receiver<Option<StorageFailure>>,
    snapshots_in: Receiver,
    in_flight: Semaphore,
    seed: AtomicU64,
    stopped: AtomicBool,
    members: Arc<LastMembers>,
    reachability: Arc<PeerReachability>,
    growth_task: AbortHandle,
}

impl<M: StateMachine> Drop for Inner<M> {
    fn drop(&mut self) {
        self.growth_task.abort();
    }
}

impl<M: StateMachine> Inner<M> {
    /// What statuses are made of beside openraft's metrics.
    fn known(&self) -> Known {
        Known {
            members: self.members.clone(),
            reachability: self.reachability.clone(),
            lease: self.options.profile.timing().election_max,
        }
    }
}

impl<M: StateMachine> Raft<M> {
    /// Opens the data folder `dir` (made when missing), brings the machine up to what is known to be committed, and
    /// takes part in the cluster. A new folder waits for `bootstrap` or for a leader that adds it.
    ///
    /// Must be called inside a tokio runtime. In simulation set `inline_io`, `rng_seed` and `disk`.
    pub async fn open(
        id: PeerId,
        dir: PathBuf,
        options: RaftOptions,
        machine: M,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, OpenError> {
        options.check().map_err(OpenError::Options)?;
        let config = options.openraft().map_err(OpenError::Options)?;
        let (log_dir, snapshot_dir) = (dir.join("log"), dir.join("snapshots"));
        refuse_missing_log(&options, &log_dir, &snapshot_dir)?;
        let log = Arc::new(Log::open(&log_dir, &options)?);
        let queue = log.queue();
        let failures = log.failures();
        let snapshots =
            Snapshots::open(options.disk.clone(), snapshot_dir, options.inline_io, queue.clone())?;
        let growth = SnapshotTrigger::new(options.snapshot_every_bytes);
        let snapshots = Arc::new(snapshots);
        let applier = Applier::new(machine, snapshots.clone(), growth.clone());
        let wiring = NetworkContext::new(id, &options, transport, log.clone());
        let seed = AtomicU64::new(options.rng_seed.unwrap_or_else(system_seed));

        let reachability = wiring.reachability.clone();
        let network = Network(wiring.clone());
        let built = Core::build(id, Arc::new(config), network, Store(log.clone()), applier);
        let built = seeded(next_seed(&seed), built).await;
        let core: Core<M> = built.map_err(|error| OpenError::Start(error.to_string()))?;
        wiring.follow(core.metrics());
        seeded(next_seed(&seed), async { core.run() }).await;
        let growth_task = watch_growth(core.clone(), growth, next_seed(&seed));
        Ok(Self(Arc::new(Inner {
            id,
            core,
            options,
            log,
            queue,
            failures,
            snapshots_in: Receiver::new(snapshots),
            in_flight: Semaphore::new(PROPOSALS_IN_FLIGHT_BYTES / PERMIT_BYTES),
            seed,
            stopped: AtomicBool::new(false),
            members: Arc::default(),
            reachability,
            growth_task,
        })))
    }

    /// Makes a cluster of this peer alone, which then leads it. Refused when the log is not empty.
    pub async fn bootstrap(&self, info: PeerInfo) -> Result<(), MembershipError> {
        let members = BTreeMap::from([(self.0.id, info)]);
        match self.seeded(self.0.core.initialize(members)).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                Err(MembershipError::AlreadyInitialized)
            }
            Err(RaftError::APIError(error)) => Err(MembershipError::Refused(error.to_string())),
            Err(RaftError::Fatal(_)) => Err(MembershipError::Stopped),
        }
    }

    /// Serves a request of another peer, and returns the answer for it. Requests of one class may be served at the
    /// same time.
    pub async fn handle(
        &self,
        from: Option<PeerId>,
        _class: CallClass,
        request: Bytes,
    ) -> Result<Bytes, HandleError> {
        if let Some(failure) = self.failure() {
            return Err(HandleError::Stopped(failure));
        }
        let envelope: Envelope = wire::decode(&request)?;
        drop(request);
        self.check(from, &envelope)?;
        self.0.reachability.heard(envelope.from);
        let answer = self.seeded(self.serve(envelope.request)).await?;
        if answer.follows() {
            self.0.reachability.led(Duration::ZERO);
        }
        Ok(wire::encode(&answer))
    }

    fn check(&self, from: Option<PeerId>, envelope: &Envelope) -> Result<(), HandleError> {
        let options = &self.0.options;
        if envelope.cluster != options.cluster_name {
            let (theirs, ours) = (envelope.cluster.clone(), options.cluster_name.clone());
            return Err(HandleError::OtherCluster { theirs, ours });
        }
        if envelope.to != self.0.id {
            return Err(HandleError::OtherPeer { meant: envelope.to, ours: self.0.id });
        }
        if let Some(is) = from.filter(|is| *is != envelope.from) {
            return Err(HandleError::OtherCaller { said: envelope.from, is });
        }
        match &options.disk_id {
            Some(ours) if *ours != envelope.to_disk => {
                Err(HandleError::OtherDisk { meant: envelope.to_disk.clone(), ours: ours.clone() })
            }
            _ => Ok(()),
        }
    }

    async fn serve(&self, request: Request) -> Result<Answer, HandleError> {
        let core = &self.0.core;
        let stopped = |error: &dyn std::fmt::Display| HandleError::Stopped(error.to_string());
        Ok(match request {
            Request::Append(rpc) => {
                let content = rpc.previous_content;
                let rpc: AppendEntriesRequest<Types> = rpc.into();
                let previous = rpc.prev_log_id;
                let says = LeaderSays {
                    vote: rpc.vote,
                    names: [previous, rpc.leader_commit],
                    content: previous.zip(content),
                    entries: &rpc.entries,
                };
                self.0.log.check(says).await.map_err(|e| stopped(&e))?;
                Answer::Append(core.append_entries(rpc).await.map_err(|e| stopped(&e))?.into())
            }
            Request::Vote(rpc) => Answer::Vote(core.vote(rpc.into()).await.map_err(|e| stopped(&e))?.into()),
            Request::PreVote(rpc) => {
                Answer::Vote(core.pre_vote(rpc.into()).await.map_err(|e| stopped(&e))?.into())
            }
            Request::Transfer(rpc) => {
                let response = core.handle_transfer_leader(rpc.into()).await.map_err(|e| stopped(&e))?;
                Answer::Transfer(response.into())
            }
            Request::Chunk(chunk) => {
                let names = [chunk.meta().last_log_id, None];
                let says = LeaderSays { vote: chunk.vote.into(), names, content: None, entries: &[] };
                self.0.log.check(says).await.map_err(|e| stopped(&e))?;
                Answer::Chunk(self.0.snapshots_in.receive(core, chunk).await?)
            }
        })
    }

    /// Proposes an entry and waits until this peer's machine applied it. Only a leader can.
    ///
    /// Waits at most 10 s for room and 10 s for the reply. When the future is dropped the outcome is unknown.
    pub async fn propose(&self, data: Bytes) -> Result<M::Reply, ProposeError> {
        let limit = self.0.options.max_entry_bytes;
        if data.len() > limit {
            return Err(ProposeError::TooLarge { bytes: data.len(), limit });
        }
        if self.is_stopped() {
            return Err(ProposeError::Stopped);
        }
        let _room = self.room(data.len()).await?;
        let write = self.seeded(self.0.core.client_write(Payload(data)));
        let Ok(written) = timeout(PROPOSE_DEADLINE, write).await else {
            return Err(ProposeError::Unknown(format!("no reply within {PROPOSE_DEADLINE:?}")));
        };
        let reply = written.map_err(propose_error)?.data.take();
        reply.ok_or_else(|| ProposeError::Unknown("it was applied, but the reply is lost".into()))
    }

    async fn room(&self, bytes: usize) -> Result<SemaphorePermit<'_>, ProposeError> {
        let permits = (bytes / PERMIT_BYTES + 1).min(PROPOSALS_IN_FLIGHT_BYTES / PERMIT_BYTES);
        let acquired = timeout(PROPOSE_DEADLINE, self.0.in_flight.acquire_many(permits as u32)).await;
        acquired.map_err(|_| ProposeError::Busy)?.map_err(|_| ProposeError::Stopped)
    }

    /// Makes a linearizable read possible: a quorum confirmed the lead after this call began, and the machine has
    /// applied everything up to the returned index, which covers all that was acknowledged before.
    pub async fn barrier(&self, deadline: Duration) -> Result<u64, BarrierError> {
        if self.is_stopped() {
            return Err(BarrierError::Stopped);
        }
        let deadline = deadline.min(LONGEST_DEADLINE);
        let until = Instant::now() + deadline;
        // Zero age: a quorum that answered before this call may follow another leader by now, and what is read would be
        // older than what that one acknowledged.
        let option = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(deadline);
        let confirmed = timeout_at(until, self.seeded(self.0.core.get_read_linearizer(option))).await;
        let linearizer = confirmed.map_err(|_| BarrierError::NoQuorum)?.map_err(barrier_error)?;
        let index = linearizer.read_log_id().index();
        let rest = until.saturating_duration_since(Instant::now());
        match self.seeded(linearizer.try_await_ready(&self.0.core, Some(rest))).await {
            Ok(Ok(_)) => Ok(index),
            Ok(Err(_)) => Err(BarrierError::NotApplied { index }),
            Err(_) => Err(BarrierError::Stopped),
        }
    }

    /// Where this peer stands now. Cheap: the membership is shared, not copied.
    pub fn status(&self) -> Status {
        // First: it borrows the metrics too, and a second borrow under the first would wait for a writer that waits
        // for the first.
        let stopped = self.is_stopped();
        Status::read(&self.0.core.metrics().borrow_watched(), &self.0.known(), stopped)
    }

    /// Tells of changes of role, term, leader and membership from now on.
    pub fn watch(&self) -> StatusWatch {
        StatusWatch::new(self.0.core.metrics(), self.0.known())
    }

    /// Stops taking part, and returns once everything queued is on stable storage and the data folder is free.
    pub async fn stop(&self) {
        self.0.stopped.store(true, Ordering::Relaxed);
        self.0.growth_task.abort();
        let _ = self.seeded(self.0.core.shutdown()).await;
        self.0.queue.close();
        self.0.queue.ended().await;
    }

    /// Resolves when this peer can no longer take part, because its storage or its core failed, with what to tell the
    /// operator. The process should end: nothing is tried again. Never resolves otherwise, also not at `stop`.
    pub async fn fatal(&self) -> String {
        let mut failures = self.0.failures.clone();
        let mut metrics = self.0.core.metrics();
        loop {
            if let Some(failure) = self.failure() {
                return failure;
            }
            // Once one side has ended without a failure, only the other can still tell of one.
            tokio::select! {
                biased;
                Ok(()) = failures.changed() => {}
                Ok(()) = metrics.changed() => {}
                else => std::future::pending::<()>().await,
            }
        }
    }

    /// Why this peer stopped, when that is because a leader told it to unlearn what is decided.
    pub fn contradiction(&self) -> Option<String> {
        self.0.log.mark.written().map(str::to_owned)
    }

    fn failure(&self) -> Option<String> {
        if let Some(failure) = &*self.0.failures.borrow() {
            return Some(failure.to_string());
        }
        match &self.0.core.metrics().borrow_watched().running_state {
            Err(Fatal::Stopped) | Ok(()) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Relaxed) || self.failure().is_some()
    }

    pub(crate) fn heartbeat(&self) -> Duration {
        self.0.options.profile.timing().heartbeat
    }

    /// Every call into openraft: it draws its random numbers from this peer's own sequence.
    pub(crate) fn seeded<F: Future>(&self, future: F) -> Scope<F> {
        seeded(next_seed(&self.0.seed), future)
    }
}

/// A number from the system's source of chance (the standard library draws its hash keys from it).
fn system_seed() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// SplitMix64, one step.
fn next_seed(state: &AtomicU64) -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let z = state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A folder with snapshots and no log has lost its votes: it could vote twice in a term.
fn refuse_missing_log(
    options: &RaftOptions,
    log: &std::path::Path,
    snapshots: &std::path::Path,
) -> Result<(), OpenError> {
    let disk = options.disk.as_ref();
    disk.create_dir_all(log).map_err(|e| OpenError::io("make the folder", log, e))?;
    let names = disk.list(log).map_err(|e| OpenError::io("list", log, e))?;
    let empty = !names.iter().any(|name| segment_number(name).is_some());
    if Snapshots::any(disk, snapshots)? && empty {
        return Err(OpenError::LogMissing { path: log.to_path_buf() });
    }
    Ok(())
}

fn watch_growth<M: StateMachine>(core: Core<M>, growth: Arc<SnapshotTrigger>, seed: u64) -> AbortHandle {
    let watch = async move {
        loop {
            growth.reached().await;
            if core.trigger().snapshot().await.is_err() {
                return;
            }
        }
    };
    tokio::spawn(seeded(seed, watch)).abort_handle()
}

pub(crate) fn leader_of(forward: &ForwardToLeader<Types>) -> Option<(PeerId, PeerInfo)> {
    forward.leader_id.zip(forward.leader_node.clone())
}

fn propose_error(error: RaftError<Types, ClientWriteError<Types>>) -> ProposeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            ProposeError::NotLeader { leader: leader_of(&forward) }
        }
        // The entry may be in another peer's log, and be committed by a later leader.
        RaftError::APIError(error) => ProposeError::Unknown(error.to_string()),
        RaftError::Fatal(error) => ProposeError::Unknown(error.to_string()),
    }
}

fn barrier_error(error: RaftError<Types, LinearizableReadError<Types>>) -> BarrierError {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
            BarrierError::NotLeader { leader: leader_of(&forward) }
        }
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => BarrierError::NoQuorum,
        RaftError::Fatal(_) => BarrierError::Stopped,
    }
}
