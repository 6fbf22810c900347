//! What peers say to each other beyond Raft: reports and orders, forwarded requests, log reads, joining.
//! Fields are numbered and only added.

mod certificates;
mod endings;
mod grant;

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use stint_protocol::{
    AttemptEnd, BootMs, GpuInfo, ImageId, Incarnation, LeaseId, NodeId, Nonce, Runtime, SharedSpec, TaskId,
    TaskName, Tenant, TimeMs, Version,
};
use stint_scheduler::{AddAccessToken, NodeMode, RegisterNode, RotateAuthority, Submit, UpdateSettings};

pub use certificates::{JoinRequests, KeyAnswer, KeyQuestion, Renew, RenewAnswer};
pub use endings::{EndingsAnswer, KeptEnding, ReadEndings};
pub use grant::Grant;

use crate::blobs::message::RegistryRequest;
use crate::pki::Authority;

/// The subject of a call; numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CallKind {
    RaftControl = 1,
    RaftAppend = 2,
    RaftSnapshot = 3,
    Report = 4,
    Forward = 5,
    ReadLog = 6,
    Join = 7,
    OfferBlob = 8,
    ReadBlob = 9,
    Renew = 10,
    AuthorityKey = 11,
    ReadEndings = 12,
    RenewAdmin = 13,
    KeepNextKey = 14,
    Authorities = 15,
}

impl CallKind {
    /// The kind of a number.
    pub fn from_number(number: u8) -> Option<Self> {
        use CallKind::*;
        let of_raft = [RaftControl, RaftAppend, RaftSnapshot];
        let others = [Report, Forward, ReadLog, Join, OfferBlob, ReadBlob, Renew, AuthorityKey, ReadEndings];
        let of_authority = [RenewAdmin, KeepNextKey, Authorities];
        of_raft.into_iter().chain(others).chain(of_authority).find(|k| *k as u8 == number)
    }
}

impl CallKind {
    /// Whether Raft's own rules go for it.
    pub fn is_of_raft(self) -> bool {
        matches!(self, CallKind::RaftControl | CallKind::RaftAppend | CallKind::RaftSnapshot)
    }

    /// Whether who has no certificate of a peer may ask it: it wants one, and what it shows is in the question; or it asks for
    /// what is no secret.
    pub fn is_for_strangers(self) -> bool {
        matches!(self, CallKind::Join | CallKind::Renew | CallKind::Authorities)
    }

    /// Many bytes that must not hold up votes and heartbeats: they go over a connection of their own.
    pub fn is_bulk(self) -> bool {
        matches!(self, CallKind::OfferBlob | CallKind::ReadBlob)
    }
}

/// A node's account of itself: heartbeat, request for orders, and news.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Report {
    #[n(0)]
    pub node: NodeId,
    #[n(1)]
    pub incarnation: Incarnation,
    #[n(2)]
    pub nonce: Nonce,
    /// Grows with each report of a process; orders that answer an older one are dropped.
    #[n(3)]
    pub sequence: u64,
    /// The node's clock when this was sent: leases are counted from here.
    #[n(4)]
    pub sent: BootMs,
    /// Given when the leader has not seen this process yet, or the offer changed.
    #[n(5)]
    pub register: Option<RegisterNode>,
    /// Every attempt it has not reported as ended, and whether it is being stopped.
    #[n(6)]
    pub running: Vec<(LeaseId, bool)>,
    /// Attempts that have provably stopped and are not acknowledged.
    #[n(7)]
    pub ends: Vec<AttemptEnd>,
    /// The leader may hold its answer for this long while there is no news, in milliseconds.
    #[n(8)]
    pub hold_ms: u64,
    /// Those of `running` that this node has had for a while and whose programs have not begun. None: there are none, or
    /// an earlier program reports.
    #[n(9)]
    #[cbor(default)]
    pub not_begun: Option<Vec<LeaseId>>,
}

/// What an attempt needs to start.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Launching {
    #[n(0)]
    pub tenant: Tenant,
    #[n(1)]
    pub spec: SharedSpec,
    #[n(2)]
    pub runtime: Runtime,
    #[n(3)]
    pub gpus: Vec<GpuInfo>,
    #[n(4)]
    pub index: u32,
    #[n(5)]
    pub name: Option<TaskName>,
    /// The user that programs of the tenant run as. None: it was given none.
    #[n(6)]
    #[cbor(default)]
    pub tenant_uid: Option<u32>,
}

/// What the node should hold: everything else that it holds must stop.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Orders {
    #[n(0)]
    pub term: u64,
    #[n(1)]
    pub incarnation: Incarnation,
    #[n(2)]
    pub nonce: Nonce,
    #[n(3)]
    pub answers: u64,
    #[n(4)]
    pub grants: Vec<Grant>,
    /// Ends that are recorded: the node may forget them.
    #[n(5)]
    pub recorded: Vec<LeaseId>,
    /// More launches are waiting: report again at once.
    #[n(6)]
    pub more: bool,
}

/// The answer to a report.
#[derive(Clone, Debug, Encode, Decode)]
pub enum ReportAnswer {
    #[n(0)]
    Orders(#[n(0)] Orders),
    /// Another peer leads, if known.
    #[n(1)]
    NotLeader(#[n(0)] Option<NodeId>),
    /// Say who you are first.
    #[n(2)]
    Register,
    /// A newer process of this node exists, or the node was removed: stop everything.
    #[n(3)]
    Stale(#[n(0)] String),
}

/// A client's request as forwarded to the leader.
#[derive(Clone, Debug, Encode, Decode)]
pub enum Request {
    /// Checked and resolved by the peer that took it.
    #[n(0)]
    Submit(#[n(0)] Submit),
    #[n(1)]
    Cancel(#[n(0)] Vec<TaskId>),
    #[n(2)]
    SetNodeMode {
        #[n(0)]
        node: NodeId,
        #[n(1)]
        mode: NodeMode,
        #[n(2)]
        #[cbor(default)]
        within_ms: Option<u64>,
    },
    #[n(3)]
    RemoveNode(#[n(0)] NodeId),
    #[n(4)]
    CreateJoinToken {
        #[n(0)]
        hash: minicbor::bytes::ByteArray<32>,
        #[n(1)]
        valid_ms: u64,
        /// How many nodes may join with it; none: any number.
        #[n(2)]
        #[cbor(default)]
        uses: Option<u32>,
    },
    /// The index that a linearizable read must have applied.
    #[n(5)]
    ReadIndex,
    /// What only the leader knows: who reports, who lags.
    #[n(6)]
    LeaderView,
    #[n(7)]
    Admit {
        #[n(0)]
        token: minicbor::bytes::ByteArray<32>,
        #[n(1)]
        disk: minicbor::bytes::ByteArray<16>,
        #[n(2)]
        name: String,
        #[n(3)]
        address: String,
        /// The highest version that it may speak.
        #[n(4)]
        #[cbor(default)]
        speaks: Version,
    },
    /// Make an admitted peer, which runs by now, a learner and then a voter.
    #[n(8)]
    Enlist(#[n(0)] NodeId),
    #[n(9)]
    TransferLeader(#[n(0)] Option<NodeId>),
    /// Where a member is reached from now on, and the highest version that it may speak.
    #[n(10)]
    SetNodeAddress {
        #[n(0)]
        node: NodeId,
        #[n(1)]
        address: String,
        #[n(2)]
        #[cbor(default)]
        speaks: Version,
    },
    /// Images and stored bytes.
    #[n(11)]
    Registry(#[n(0)] RegistryRequest),
    #[n(12)]
    UpdateSettings(#[n(0)] UpdateSettings),
    #[n(13)]
    RevokeJoinToken {
        #[n(0)]
        hash: minicbor::bytes::ByteArray<32>,
    },
    #[n(14)]
    CreateAccessToken(#[n(0)] AddAccessToken),
    #[n(15)]
    RevokeAccessToken {
        #[n(0)]
        hash: minicbor::bytes::ByteArray<32>,
    },
    /// The leases whose programs have not begun, as their nodes told the leader last.
    #[n(16)]
    NotBegun,
    #[n(17)]
    RotateAuthority(#[n(0)] RotateAuthority),
    #[n(18)]
    DropOldAuthority {
        #[n(0)]
        force: bool,
    },
    /// This member has a certificate of this authority (SHA-256 of its root).
    #[n(19)]
    CertifyNode {
        #[n(0)]
        node: NodeId,
        #[n(1)]
        fingerprint: minicbor::bytes::ByteArray<32>,
    },
}

/// Answers to requests.
#[derive(Clone, Debug, Encode, Decode)]
pub enum Reply {
    #[n(0)]
    Submitted {
        #[n(0)]
        first: TaskId,
        #[n(1)]
        count: u32,
        #[n(2)]
        repeated: bool,
    },
    /// Done; visible to a peer that has applied this index.
    #[n(1)]
    Done {
        #[n(0)]
        index: u64,
    },
    /// Of a join token or an access token.
    #[n(2)]
    JoinToken {
        #[n(0)]
        expires: TimeMs,
    },
    #[n(3)]
    Index(#[n(0)] u64),
    #[n(4)]
    LeaderView(#[n(0)] LeaderView),
    #[n(5)]
    Admitted(#[n(0)] NodeId),
    #[n(6)]
    Leader(#[n(0)] NodeId),
    /// The image that was registered, or was already; visible to a peer that has applied this index.
    #[n(7)]
    Image {
        #[n(0)]
        image: ImageId,
        #[n(1)]
        index: u64,
    },
    #[n(8)]
    NotBegun(#[n(0)] Vec<LeaseId>),
}

/// What the leader alone knows.
#[derive(Clone, Debug, Encode, Decode)]
pub struct LeaderView {
    #[n(0)]
    pub leader: NodeId,
    #[n(1)]
    pub index: u64,
    #[n(2)]
    pub reachable: Vec<NodeId>,
    #[n(3)]
    pub lag: Vec<(NodeId, u64)>,
    #[n(4)]
    pub alarms: Vec<String>,
    /// How long ago each other peer gave the leader a sign of life, in milliseconds. None: the leader runs an earlier
    /// program.
    #[n(5)]
    #[cbor(default)]
    pub contacts: Option<Vec<(NodeId, u64)>>,
}

/// What kind of refusal: each front has one code for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum RefusalCode {
    #[n(0)]
    Invalid,
    #[n(1)]
    NotFound,
    #[n(2)]
    Conflict,
    #[n(3)]
    Full,
    /// Nothing was done; try again or another peer.
    #[n(4)]
    Unavailable,
    /// It may or may not have been done.
    #[n(5)]
    Unknown,
    #[n(6)]
    Denied,
}

/// Why a request was not served, in words for the user.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    #[n(0)]
    pub code: RefusalCode,
    #[n(1)]
    pub message: String,
}

impl Refusal {
    /// A refusal with its code and words.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// The answer to a forwarded request.
#[derive(Clone, Debug, Encode, Decode)]
pub enum ForwardAnswer {
    #[n(0)]
    Reply(#[n(0)] Reply),
    #[n(1)]
    Refused(#[n(0)] Refusal),
    /// Nothing was done: another peer leads, if known, at this address.
    #[n(2)]
    NotLeader(#[n(0)] Option<(NodeId, String)>),
}

/// Reads output that this node keeps.
#[derive(Clone, Debug, Encode, Decode)]
pub struct ReadLog {
    #[n(0)]
    pub lease: LeaseId,
    #[n(1)]
    pub stderr: bool,
    #[n(2)]
    pub offset: u64,
    /// Wait for new bytes up to this long, in milliseconds.
    #[n(3)]
    pub wait_ms: u64,
    /// Not a stream but this file of the work folder, which the attempt left as an output.
    #[n(4)]
    #[cbor(default)]
    pub file: Option<String>,
    /// Not from the offset on but what was written last, of this many bytes at most.
    #[n(5)]
    #[cbor(default)]
    pub tail: Option<u32>,
    /// Not output but how far the attempt says it is.
    #[n(6)]
    #[cbor(default)]
    pub progress: Option<bool>,
    /// Not output but where the attempt is on this node. Together with `progress`, with which a peer that does not know
    /// this answers.
    #[n(7)]
    #[cbor(default)]
    pub stage: Option<bool>,
}

/// Output that was read.
#[derive(Clone, Debug, Encode, Decode)]
pub enum LogAnswer {
    #[n(0)]
    Chunk {
        #[n(0)]
        bytes: ByteVec,
        #[n(1)]
        next_offset: u64,
        #[n(2)]
        complete: bool,
    },
    #[n(1)]
    Failed(#[n(0)] String),
}

/// A data folder asks to become a node.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Join {
    #[n(0)]
    pub secret: ByteVec,
    #[n(1)]
    pub disk: minicbor::bytes::ByteArray<16>,
    #[n(2)]
    pub name: String,
    #[n(3)]
    pub address: String,
    /// The highest version that it may speak.
    #[n(4)]
    #[cbor(default)]
    pub speaks: Version,
    /// None: the joiner runs an earlier program, and needs the authority's key.
    #[n(5)]
    #[cbor(default)]
    pub requests: Option<JoinRequests>,
}

/// What an admitted node gets.
#[derive(Clone, Encode, Decode)]
pub enum JoinAnswer {
    #[n(0)]
    Admitted {
        #[n(0)]
        node: NodeId,
        #[n(1)]
        authority: Authority,
        #[n(2)]
        cluster: String,
        /// The id of the cluster, where it was recovered.
        #[n(3)]
        #[cbor(default)]
        recovered: Option<String>,
    },
    #[n(1)]
    Refused(#[n(0)] Refusal),
    /// What it asked for; PEM texts.
    #[n(2)]
    Enrolled {
        #[n(0)]
        node: NodeId,
        /// The authority's certificate.
        #[n(1)]
        root: String,
        #[n(2)]
        certificate: String,
        #[n(3)]
        admin: String,
        #[n(4)]
        cluster: String,
        #[n(5)]
        #[cbor(default)]
        recovered: Option<String>,
        /// The clock of who issued it.
        #[n(6)]
        now: TimeMs,
    },
}

/// Encodes a message; writing to memory cannot fail.
pub fn encode<T: Encode<()>>(message: &T) -> bytes::Bytes {
    let bytes = minicbor::to_vec(message);
    bytes.unwrap_or_else(|never: minicbor::encode::Error<_>| panic!("encoding to memory: {never}")).into()
}

/// Decodes a message of a peer.
pub fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, String> {
    minicbor::decode(bytes).map_err(|e| format!("a peer's message cannot be read: {e}"))
}
