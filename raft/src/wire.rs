//! Requests and answers between peers: one version byte, then CBOR with numbered fields. A golden test guards the form.

use bytes::Bytes;
use minicbor::{Decode, Encode};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::codec::{self, EncodedEntry, EncodedLogId, EncodedStoredMembership, EncodedVote};
use crate::error::HandleError;
use crate::types::{LogId, Payload, PeerId, SnapshotMeta, Types};

/// The version written by this crate; others are refused.
pub(crate) const WIRE_VERSION: u8 = 1;

/// What every request says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Envelope {
    #[n(0)]
    pub cluster: String,
    #[n(1)]
    pub from: PeerId,
    #[n(2)]
    pub to: PeerId,
    /// The data folder that the membership knows the receiver by.
    #[n(3)]
    pub to_disk: String,
    #[n(4)]
    pub request: Request,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Request {
    #[n(0)]
    Append(#[n(0)] EncodedAppend),
    #[n(1)]
    Vote(#[n(0)] EncodedVoteRequest),
    #[n(2)]
    PreVote(#[n(0)] EncodedVoteRequest),
    #[n(3)]
    Transfer(#[n(0)] EncodedTransfer),
    #[n(4)]
    Chunk(#[n(0)] EncodedChunk),
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct EncodedAppend {
    #[n(0)]
    vote: EncodedVote,
    #[n(1)]
    previous: Option<EncodedLogId>,
    #[n(2)]
    entries: Vec<EncodedEntry>,
    #[n(3)]
    committed: Option<EncodedLogId>,
    /// What tells the content of the entry `previous` from that of another one of its number and term, where the leader says
    /// it.
    #[n(4)]
    #[cbor(default)]
    pub previous_content: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct EncodedVoteRequest {
    #[n(0)]
    vote: EncodedVote,
    #[n(1)]
    last: Option<EncodedLogId>,
    #[n(2)]
    transfer: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct EncodedTransfer {
    #[n(0)]
    from_leader: EncodedVote,
    #[n(1)]
    to: PeerId,
    #[n(2)]
    last: Option<EncodedLogId>,
}

/// A piece of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct EncodedChunk {
    #[n(0)]
    pub vote: EncodedVote,
    #[n(1)]
    pub last: Option<EncodedLogId>,
    #[n(2)]
    pub membership: EncodedStoredMembership,
    /// Length and CRC32C of the whole snapshot.
    #[n(3)]
    pub total: u64,
    #[n(4)]
    pub total_crc: u32,
    #[n(5)]
    pub offset: u64,
    #[n(6)]
    pub bytes: Payload,
    /// CRC32C of `bytes`.
    #[n(7)]
    pub crc: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Answer {
    #[n(0)]
    Append(#[n(0)] AppendAnswer),
    #[n(1)]
    Vote(#[n(0)] VoteAnswer),
    #[n(2)]
    Transfer(#[n(0)] TransferAnswer),
    #[n(3)]
    Chunk(#[n(0)] ChunkAnswer),
}

impl Answer {
    /// Whether this peer follows the leader that it answers: it took what the leader sent, or says what it lacks.
    pub(crate) fn follows(&self) -> bool {
        match self {
            Answer::Append(answer) => !matches!(answer, AppendAnswer::HigherVote(_)),
            Answer::Chunk(answer) => matches!(answer, ChunkAnswer::Next(_) | ChunkAnswer::Damaged),
            Answer::Vote(_) | Answer::Transfer(_) => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum AppendAnswer {
    #[n(0)]
    Success,
    #[n(1)]
    Partial(#[n(0)] Option<EncodedLogId>),
    #[n(2)]
    Conflict,
    #[n(3)]
    HigherVote(#[n(0)] EncodedVote),
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct VoteAnswer {
    #[n(0)]
    vote: EncodedVote,
    #[n(1)]
    granted: bool,
    #[n(2)]
    last: Option<EncodedLogId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum TransferAnswer {
    #[n(0)]
    Accepted,
    #[n(1)]
    VoteChanged {
        #[n(0)]
        expected: EncodedVote,
        #[n(1)]
        actual: EncodedVote,
    },
    #[n(2)]
    NotFlushed {
        #[n(0)]
        expected: Option<EncodedLogId>,
        #[n(1)]
        actual: Option<EncodedLogId>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum ChunkAnswer {
    /// Go on from this offset.
    #[n(0)]
    Next(#[n(0)] u64),
    /// The snapshot is installed (or refused for a higher vote, which this is).
    #[n(1)]
    Done(#[n(0)] EncodedVote),
    /// The bytes received do not add up to the snapshot: begin again.
    #[n(2)]
    Damaged,
}

fn id(code: Option<EncodedLogId>) -> Option<LogId> {
    code.map(Into::into)
}

fn code(id: Option<LogId>) -> Option<EncodedLogId> {
    id.map(Into::into)
}

impl From<AppendEntriesRequest<Types>> for EncodedAppend {
    fn from(rpc: AppendEntriesRequest<Types>) -> Self {
        Self {
            vote: rpc.vote.into(),
            previous: code(rpc.prev_log_id),
            entries: rpc.entries.iter().map(Into::into).collect(),
            committed: code(rpc.leader_commit),
            previous_content: None,
        }
    }
}

impl From<EncodedAppend> for AppendEntriesRequest<Types> {
    fn from(wire: EncodedAppend) -> Self {
        Self {
            vote: wire.vote.into(),
            prev_log_id: id(wire.previous),
            entries: wire.entries.into_iter().map(Into::into).collect(),
            leader_commit: id(wire.committed),
        }
    }
}

impl From<AppendEntriesResponse<Types>> for AppendAnswer {
    fn from(response: AppendEntriesResponse<Types>) -> Self {
        match response {
            AppendEntriesResponse::Success => Self::Success,
            AppendEntriesResponse::PartialSuccess(last) => Self::Partial(code(last)),
            AppendEntriesResponse::Conflict => Self::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<AppendAnswer> for AppendEntriesResponse<Types> {
    fn from(answer: AppendAnswer) -> Self {
        match answer {
            AppendAnswer::Success => Self::Success,
            AppendAnswer::Partial(last) => Self::PartialSuccess(id(last)),
            AppendAnswer::Conflict => Self::Conflict,
            AppendAnswer::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<VoteRequest<Types>> for EncodedVoteRequest {
    fn from(rpc: VoteRequest<Types>) -> Self {
        Self { vote: rpc.vote.into(), last: code(rpc.last_log_id), transfer: rpc.leadership_transfer }
    }
}

impl From<EncodedVoteRequest> for VoteRequest<Types> {
    fn from(wire: EncodedVoteRequest) -> Self {
        Self { vote: wire.vote.into(), last_log_id: id(wire.last), leadership_transfer: wire.transfer }
    }
}

impl From<VoteResponse<Types>> for VoteAnswer {
    fn from(response: VoteResponse<Types>) -> Self {
        Self { vote: response.vote.into(), granted: response.vote_granted, last: code(response.last_log_id) }
    }
}

impl From<VoteAnswer> for VoteResponse<Types> {
    fn from(answer: VoteAnswer) -> Self {
        Self { vote: answer.vote.into(), vote_granted: answer.granted, last_log_id: id(answer.last) }
    }
}

impl From<TransferLeaderRequest<Types>> for EncodedTransfer {
    fn from(rpc: TransferLeaderRequest<Types>) -> Self {
        Self {
            from_leader: (*rpc.from_leader()).into(),
            to: *rpc.to_node_id(),
            last: code(rpc.last_log_id().copied()),
        }
    }
}

impl From<EncodedTransfer> for TransferLeaderRequest<Types> {
    fn from(wire: EncodedTransfer) -> Self {
        Self::new(wire.from_leader.into(), wire.to, id(wire.last))
    }
}

impl From<TransferLeaderResponse<Types>> for TransferAnswer {
    fn from(response: TransferLeaderResponse<Types>) -> Self {
        match response {
            Ok(()) => Self::Accepted,
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                Self::VoteChanged { expected: expected.into(), actual: actual.into() }
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                Self::NotFlushed { expected: code(expected), actual: code(actual) }
            }
        }
    }
}

impl From<TransferAnswer> for TransferLeaderResponse<Types> {
    fn from(answer: TransferAnswer) -> Self {
        match answer {
            TransferAnswer::Accepted => Ok(()),
            TransferAnswer::VoteChanged { expected, actual } => {
                Err(TransferLeaderError::VoteChanged { expected: expected.into(), actual: actual.into() })
            }
            TransferAnswer::NotFlushed { expected, actual } => {
                Err(TransferLeaderError::LogNotFlushed { expected: id(expected), actual: id(actual) })
            }
        }
    }
}

impl EncodedChunk {
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: id(self.last), last_membership: self.membership.clone().into() }
    }
}

pub(crate) fn encode<T: Encode<()>>(message: &T) -> Bytes {
    let mut bytes = vec![WIRE_VERSION];
    codec::encode_into(message, &mut bytes);
    bytes.into()
}

pub(crate) fn decode<'a, T: Decode<'a, ()>>(bytes: &'a [u8]) -> Result<T, HandleError> {
    match bytes.split_first() {
        None => Err(HandleError::Malformed("it is empty".into())),
        Some((&WIRE_VERSION, body)) => {
            minicbor::decode(body).map_err(|e| HandleError::Malformed(e.to_string()))
        }
        Some((other, _)) => {
            let what = format!("it has version {other}, this peer speaks {WIRE_VERSION}");
            Err(HandleError::Malformed(what))
        }
    }
}
