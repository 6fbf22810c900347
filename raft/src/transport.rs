//! The door to other peers, and openraft's network on top of it. Every request has a deadline.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use openraft::RaftNetworkFactory;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::error::TransportError;
use crate::log::Log;
use crate::options::{
    RaftOptions, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_CHUNK_DEADLINE, SNAPSHOT_INSTALL_DEADLINE, SNAPSHOT_RETRIES,
};
use crate::reachability::PeerReachability;
use crate::snapshot::Body;
use crate::types::{Payload, PeerId, PeerInfo, Snapshot, Types, Vote};
use crate::wire::{self, Answer, ChunkAnswer, EncodedAppend, EncodedChunk, Envelope, Request};

/// Which stream a request belongs on, so that a snapshot never delays a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallClass {
    /// Votes, heartbeats, transfers of the lead: small and urgent.
    Control,
    /// Entries.
    Append,
    /// Pieces of a snapshot.
    Snapshot,
}

/// What a transport's call resolves to.
pub type CallFuture = Pin<Box<dyn Future<Output = Result<Bytes, TransportError>> + Send>>;

/// One request to a peer and its one answer, which that peer's `Raft::handle` made.
pub trait Transport: Send + Sync + 'static {
    /// Gives up after `deadline`. A request whose answer is lost may have been served.
    fn call(
        &self,
        peer: PeerId,
        info: &PeerInfo,
        class: CallClass,
        request: Bytes,
        deadline: Duration,
    ) -> CallFuture;
}

/// What is shared by all connections of this peer.
pub(crate) struct NetworkContext {
    id: PeerId,
    cluster: String,
    transport: Arc<dyn Transport>,
    log: Arc<Log>,
    append_deadline: Duration,
    pub(crate) reachability: Arc<PeerReachability>,
    /// Openraft's own view of the membership, for addresses that change while a connection lives.
    members: OnceLock<openraft::alias::WatchReceiverOf<Types, openraft::RaftMetrics<Types>>>,
}

impl NetworkContext {
    pub(crate) fn new(
        id: PeerId,
        options: &RaftOptions,
        transport: Arc<dyn Transport>,
        log: Arc<Log>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            log,
            cluster: options.cluster_name.clone(),
            transport,
            append_deadline: options.append_deadline(),
            reachability: Arc::default(),
            members: OnceLock::new(),
        })
    }

    /// Where changed addresses are looked up from now on.
    pub(crate) fn follow(
        &self,
        metrics: openraft::alias::WatchReceiverOf<Types, openraft::RaftMetrics<Types>>,
    ) {
        let _ = self.members.set(metrics);
    }

    fn info(&self, peer: PeerId) -> Option<PeerInfo> {
        let metrics = self.members.get()?.borrow_watched();
        metrics.membership_config.membership().get_node(&peer).cloned()
    }
}

/// Makes connections for openraft.
pub(crate) struct Network(pub(crate) Arc<NetworkContext>);

/// One peer as openraft reaches it, for one class of requests.
pub(crate) struct Connection {
    wiring: Arc<NetworkContext>,
    peer: PeerId,
    info: PeerInfo,
    append_class: CallClass,
}

impl Network {
    fn connection(&self, peer: PeerId, info: &PeerInfo, append_class: CallClass) -> Connection {
        Connection { wiring: self.0.clone(), peer, info: info.clone(), append_class }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: PeerId, info: &PeerInfo) -> Connection {
        self.connection(target, info, CallClass::Append)
    }

    async fn new_heartbeat_client(&mut self, target: PeerId, info: &PeerInfo) -> Connection {
        self.connection(target, info, CallClass::Control)
    }
}

/// Why a call has no usable answer.
enum Failure {
    Transport(TransportError),
    Answer(String),
}

impl Connection {
    async fn ask(&self, class: CallClass, request: Request, deadline: Duration) -> Result<Answer, Failure> {
        let info = self.wiring.info(self.peer).unwrap_or_else(|| self.info.clone());
        let envelope = Envelope {
            cluster: self.wiring.cluster.clone(),
            from: self.wiring.id,
            to: self.peer,
            to_disk: info.disk_id.clone(),
            request,
        };
        let call = self.wiring.transport.call(self.peer, &info, class, wire::encode(&envelope), deadline);
        // The transport keeps the deadline itself; this one holds also when it does not.
        let answer = tokio::time::timeout(deadline, call).await.unwrap_or(Err(TransportError::TimedOut));
        match &answer {
            Ok(_) => self.wiring.reachability.answered(self.peer, &info),
            Err(error) => self.wiring.reachability.failed(self.peer, &info, error),
        }
        let answer = answer.map_err(Failure::Transport)?;
        wire::decode(&answer).map_err(|error| Failure::Answer(error.to_string()))
    }

    fn rpc_error(&self, action: RPCTypes, failure: Failure, timeout: Duration) -> RPCError<Types> {
        match failure {
            Failure::Transport(TransportError::TimedOut) => {
                RPCError::Timeout(Timeout { action, id: self.wiring.id, target: self.peer, timeout })
            }
            Failure::Transport(TransportError::Unreachable(what)) => {
                RPCError::Unreachable(Unreachable::from_string(what))
            }
            Failure::Answer(what) => RPCError::Unreachable(Unreachable::from_string(what)),
        }
    }

    async fn vote_call(
        &self,
        request: Request,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let deadline = option.hard_ttl();
        match self.ask(CallClass::Control, request, deadline).await {
            Ok(Answer::Vote(answer)) => Ok(answer.into()),
            Ok(_) => Err(unexpected()),
            Err(failure) => Err(self.rpc_error(RPCTypes::Vote, failure, deadline)),
        }
    }
}

fn unexpected() -> RPCError<Types> {
    RPCError::Network(NetworkError::from_string("the answer is to another question"))
}

impl RaftNetworkV2<Types> for Connection {
    type SnapshotData = Body;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let deadline = match self.append_class {
            CallClass::Control => option.hard_ttl(),
            // openraft's own figure is the heartbeat interval: too short for a slow sync.
            _ => option.hard_ttl().max(self.wiring.append_deadline),
        };
        let previous = rpc.prev_log_id;
        let mut append = EncodedAppend::from(rpc);
        if let Some(id) = previous {
            // A log that cannot be read is openraft's to find, when it reads the entries to send.
            append.previous_content = self.wiring.log.content_of(id).await.unwrap_or_default();
        }
        match self.ask(self.append_class, Request::Append(append), deadline).await {
            Ok(Answer::Append(answer)) => Ok(answer.into()),
            Ok(_) => Err(unexpected()),
            Err(failure) => Err(self.rpc_error(RPCTypes::AppendEntries, failure, deadline)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.vote_call(Request::Vote(rpc.into()), option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.vote_call(Request::PreVote(rpc.into()), option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + openraft::OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let sending = pin!(self.send_snapshot(vote, snapshot));
        match select(pin!(cancel), sending).await {
            Either::Left((closed, _)) => Err(StreamingError::Closed(closed)),
            Either::Right((sent, _)) => sent.map(SnapshotResponse::new).map_err(Into::into),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let deadline = option.hard_ttl();
        match self.ask(CallClass::Control, Request::Transfer(rpc.into()), deadline).await {
            Ok(Answer::Transfer(answer)) => Ok(answer.into()),
            Ok(_) => Err(unexpected()),
            Err(failure) => Err(self.rpc_error(RPCTypes::TransferLeader, failure, deadline)),
        }
    }
}

impl Connection {
    /// Sends piece by piece, from where the receiver says; a piece that fails is sent again a few times.
    async fn send_snapshot(&self, vote: Vote, snapshot: Snapshot) -> Result<Vote, RPCError<Types>> {
        let body = &snapshot.snapshot;
        let (mut offset, mut failures) = (0, 0);
        loop {
            let bytes = body.piece(offset, SNAPSHOT_CHUNK_BYTES).await;
            // openraft tries again: it asks for the newest snapshot, and a peer that cannot read all of that one stops.
            let bytes = bytes.map_err(|e| RPCError::Unreachable(Unreachable::from_string(e)))?;
            let end = offset + bytes.len() as u64;
            let chunk = EncodedChunk {
                vote: vote.into(),
                last: snapshot.meta.last_log_id.map(Into::into),
                membership: (&snapshot.meta.last_membership).into(),
                total: body.len,
                total_crc: body.crc,
                offset,
                crc: crc32c::crc32c(&bytes),
                bytes: Payload(bytes),
            };
            let deadline = if end == body.len { SNAPSHOT_INSTALL_DEADLINE } else { SNAPSHOT_CHUNK_DEADLINE };
            match self.ask(CallClass::Snapshot, Request::Chunk(chunk), deadline).await {
                Ok(Answer::Chunk(ChunkAnswer::Done(vote))) => return Ok(vote.into()),
                Ok(Answer::Chunk(ChunkAnswer::Next(next))) if next > offset && next <= body.len => {
                    offset = next;
                    failures = 0;
                }
                Ok(Answer::Chunk(ChunkAnswer::Next(next))) => {
                    offset = next.min(body.len);
                    failures += 1;
                }
                Ok(Answer::Chunk(ChunkAnswer::Damaged)) => {
                    offset = 0;
                    failures += 1;
                }
                Ok(_) => return Err(unexpected()),
                Err(failure) if failures >= SNAPSHOT_RETRIES => {
                    return Err(self.rpc_error(RPCTypes::InstallSnapshot, failure, deadline));
                }
                Err(_) => failures += 1,
            }
            if failures > SNAPSHOT_RETRIES {
                let what = "the receiver keeps asking for the snapshot anew";
                return Err(RPCError::Unreachable(Unreachable::from_string(what)));
            }
        }
    }
}
