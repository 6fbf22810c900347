//! What may be asked of the state machine, and what comes of it.

mod instances;
mod needs;

use std::sync::Arc;

use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};
use stint_protocol::image::SCHEME;
use stint_protocol::{
    AttemptEnd, Blob, Class, Digest, Ending, IdempotencyKey, ImageId, ImageKind, ImageName, ImageSource,
    Incarnation, LeaseId, NodeId, NodeOffer, Nonce, Outcome, Role, SharedSpec, TaskId, TaskName, Tenant,
    TimeMs, Version,
};

use crate::authority::{NewAuthority, RotateAuthority};
use crate::node::NodeMode;
use crate::plan::Plan;
use crate::settings::{ChangedBy, ImageNotAllowed, InvalidSettings, Setting, Settings, UidRange};
use crate::task::SuspendReason;

pub use instances::{InstanceAct, InstanceChange, InstanceCommand, InstanceRejection, Saved, StartInstance};

/// Accept `count` tasks of one spec, named `first`, `first + 1`, …
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Submit {
    #[n(0)]
    pub tenant: Tenant,
    /// Low 16 bits are zero: the tasks' ids count from here.
    #[n(1)]
    pub first: TaskId,
    #[n(2)]
    pub count: u32,
    #[n(3)]
    pub name: Option<TaskName>,
    /// Resolved against the class's rules by the peer that took the submit.
    #[n(4)]
    pub spec: SharedSpec,
    #[n(5)]
    pub key: Option<IdempotencyKey>,
    /// Digest of the request as sent, to tell a repetition from another request under the same key.
    #[n(6)]
    pub digest: u64,
    /// When the key was made, for keys that say so (milliseconds since 1970): too old ones are refused.
    #[n(7)]
    pub key_made_ms: Option<u64>,
}

/// A process says who it is and what it offers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RegisterNode {
    #[n(0)]
    pub node: NodeId,
    #[n(1)]
    pub incarnation: Incarnation,
    #[n(2)]
    pub nonce: Nonce,
    #[n(3)]
    pub offer: NodeOffer,
    /// What does not work on it, in words.
    #[n(4)]
    pub problems: Vec<String>,
}

/// Let a data folder join as a node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Admit {
    /// Random identity of the data folder.
    #[n(0)]
    pub disk: [u8; 16],
    #[n(1)]
    pub name: String,
    #[n(2)]
    pub address: String,
    /// SHA-256 of the join token; none only for the peer that bootstraps.
    #[n(3)]
    pub token: Option<[u8; 32]>,
    /// The highest version that the peer may speak; the one that bootstraps makes it the cluster's.
    #[n(4)]
    #[cbor(default)]
    pub speaks: Version,
}

/// List an image under its tenant and name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RegisterImage {
    #[n(0)]
    pub id: ImageId,
    #[n(1)]
    pub tenant: Tenant,
    #[n(2)]
    pub name: ImageName,
    #[n(3)]
    pub source: ImageSource,
    #[n(4)]
    pub description: String,
    /// Nodes that have its bytes, durably; none for a Docker reference.
    #[n(5)]
    pub holders: Vec<NodeId>,
}

/// Keep bytes for a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KeepBlob {
    #[n(0)]
    pub tenant: Tenant,
    #[n(1)]
    pub blob: Blob,
    /// From the time of the entry, in milliseconds.
    #[n(2)]
    pub keep_ms: u64,
    /// Nodes that have the bytes, durably.
    #[n(3)]
    pub holders: Vec<NodeId>,
}

/// Give settings other values.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UpdateSettings {
    #[n(0)]
    pub to: Vec<Setting>,
    /// Only if the settings still have this revision.
    #[n(1)]
    pub if_revision: Option<u64>,
    #[n(2)]
    pub by: ChangedBy,
}

/// Make an access token valid for a while.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AddAccessToken {
    #[n(0)]
    pub hash: ByteArray<32>,
    /// What it acts for; none: for all tenants, as far as its role goes.
    #[n(1)]
    pub tenant: Option<Tenant>,
    #[n(2)]
    pub role: Role,
    /// From the time of the entry, in milliseconds.
    #[n(3)]
    pub valid_ms: u64,
    #[n(4)]
    pub by: ChangedBy,
    #[n(5)]
    pub comment: String,
}

/// Commands. Numbers are never reused.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Command {
    #[n(0)]
    Configure(#[n(0)] Settings),
    #[n(1)]
    Submit(#[n(0)] Submit),
    #[n(2)]
    Cancel(#[n(0)] TaskId),
    #[n(3)]
    RegisterNode(#[n(0)] RegisterNode),
    /// Attempts that have provably stopped, as their node reports.
    #[n(4)]
    RecordEnds {
        #[n(0)]
        node: NodeId,
        #[n(1)]
        ends: Vec<AttemptEnd>,
    },
    #[n(5)]
    CommitPlan(#[n(0)] Plan),
    /// Leases that ran out by the leader's waiting (docs/internals/leases.md#leader-waits-longer).
    #[n(6)]
    ExpireLeases(#[n(0)] Vec<LeaseId>),
    #[n(7)]
    SetNodeMode {
        #[n(0)]
        node: NodeId,
        #[n(1)]
        mode: NodeMode,
        /// For a drain: how long what runs there may go on, in milliseconds from the entry's time; none: to its end.
        #[n(2)]
        #[cbor(default)]
        within_ms: Option<u64>,
    },
    #[n(8)]
    RemoveNode(#[n(0)] NodeId),
    #[n(9)]
    Admit(#[n(0)] Admit),
    #[n(10)]
    AddJoinToken {
        #[n(0)]
        hash: [u8; 32],
        /// From the time of the entry, in milliseconds.
        #[n(1)]
        valid_ms: u64,
        /// How many nodes may join with it; none: any number.
        #[n(2)]
        #[cbor(default)]
        uses: Option<u32>,
    },
    /// Nothing but the passing of time: due retries and retention.
    #[n(11)]
    Tick,
    /// A member is reached elsewhere from now on.
    #[n(12)]
    SetNodeAddress {
        #[n(0)]
        node: NodeId,
        #[n(1)]
        address: String,
    },
    /// The highest version that a member may speak from now on.
    #[n(13)]
    SetNodeVersion {
        #[n(0)]
        node: NodeId,
        #[n(1)]
        speaks: Version,
    },
    /// The cluster speaks this from now on. Only with every member, and never less than before.
    #[n(14)]
    RaiseVersion {
        #[n(0)]
        to: Version,
    },
    #[n(15)]
    RegisterImage(#[n(0)] RegisterImage),
    /// New tasks find it no more; those that use it keep it.
    #[n(16)]
    DeleteImage {
        #[n(0)]
        tenant: Tenant,
        #[n(1)]
        image: ImageId,
    },
    #[n(17)]
    KeepBlob(#[n(0)] KeepBlob),
    /// A tenant needs a blob no more.
    #[n(18)]
    ForgetBlob {
        #[n(0)]
        tenant: Tenant,
        #[n(1)]
        blob: Digest,
    },
    /// A node has fetched these bytes.
    #[n(19)]
    HoldBlobs {
        #[n(0)]
        node: NodeId,
        #[n(1)]
        blobs: Vec<Digest>,
    },
    /// A node has lost these bytes.
    #[n(20)]
    LoseBlobs {
        #[n(0)]
        node: NodeId,
        #[n(1)]
        blobs: Vec<Digest>,
    },
    /// Nothing refers to these bytes for long enough: nodes may delete them.
    #[n(21)]
    DropBlobs {
        #[n(0)]
        blobs: Vec<Digest>,
    },
    /// A waiting task holds its place no more until it is woken: at this time, if there is one, or by `Wake`.
    #[n(22)]
    Suspend {
        #[n(0)]
        task: TaskId,
        #[n(1)]
        reason: SuspendReason,
        #[n(2)]
        wake_at: Option<TimeMs>,
    },
    /// A suspended task takes its place in the queue again.
    #[n(23)]
    Wake(#[n(0)] TaskId),
    #[n(24)]
    UpdateSettings(#[n(0)] UpdateSettings),
    /// Nobody joins with this token any more. Who did stays.
    #[n(25)]
    RemoveJoinToken {
        #[n(0)]
        hash: [u8; 32],
    },
    #[n(26)]
    AddAccessToken(#[n(0)] AddAccessToken),
    /// Nobody calls with this token any more.
    #[n(27)]
    RemoveAccessToken {
        #[n(0)]
        hash: ByteArray<32>,
    },
    /// The leader is to make another certificate authority.
    #[n(28)]
    RotateAuthority(#[n(0)] RotateAuthority),
    /// There is another one: it issues certificates from now on, and the old one is trusted, too.
    #[n(29)]
    TrustAuthority(#[n(0)] NewAuthority),
    /// A member shows a certificate of this authority (SHA-256 of its root).
    #[n(30)]
    CertifyNode {
        #[n(0)]
        node: NodeId,
        #[n(1)]
        fingerprint: ByteArray<32>,
    },
    /// The old authority is trusted no more; `force`: also where members have no other certificate.
    #[n(31)]
    DropOldAuthority {
        #[n(0)]
        force: bool,
    },
    /// About a durable workflow instance.
    #[n(32)]
    Instance(#[n(0)] Box<InstanceCommand>),
}

/// What a command changed; the node turns these into wake-ups and answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Submitted {
        first: TaskId,
        count: u32,
        repeated: bool,
    },
    Leased {
        lease: LeaseId,
        node: NodeId,
    },
    /// A node must stop an attempt.
    StopAsked {
        lease: LeaseId,
        node: NodeId,
    },
    /// An attempt's lease is over; its resources are free.
    Released {
        lease: LeaseId,
        node: NodeId,
    },
    /// What an attempt wrote last is to be kept beside the state, under a number that no other has.
    EndingKept {
        lease: LeaseId,
        number: u64,
        ending: Arc<Ending>,
    },
    Queued {
        task: TaskId,
    },
    Suspended {
        task: TaskId,
    },
    Finished {
        task: TaskId,
        class: Class,
        outcome: Outcome,
    },
    NodeChanged {
        node: NodeId,
    },
    Admitted {
        node: NodeId,
        known: bool,
    },
    JoinTokenAdded {
        expires_ms: u64,
    },
    JoinTokenRemoved,
    AccessTokenAdded {
        expires_ms: u64,
    },
    AccessTokenRemoved,
    /// Which authority is wanted or trusted, or which members have a certificate of it.
    AuthorityChanged,
    VersionRaised {
        to: Version,
    },
    ImageRegistered {
        image: ImageId,
        /// The same one was listed under this name already: it is `image`.
        repeated: bool,
    },
    ImageDeleted {
        image: ImageId,
        /// Tasks that still use it.
        uses: u32,
    },
    /// Which bytes are kept, or where.
    BlobsChanged,
    Configured,
    SettingsChanged {
        /// The settings' since then.
        revision: u64,
    },
    Instance(InstanceChange),
}

/// Why a command was refused: data, the same on every replica.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("task {0} is not known: it may be finished and past its retention, or was never submitted")]
    UnknownTask(TaskId),
    #[error("task {0} runs: cancel it, or wait until it has ended")]
    TaskRuns(TaskId),
    #[error(
        "the name {name} is taken by task {holder}: choose another, or wait until that task has finished"
    )]
    NameTaken { name: TaskName, holder: TaskId },
    #[error("idempotency key {key} was used for another request (its first task is {first}): use a new key")]
    KeyReused { key: IdempotencyKey, first: TaskId },
    #[error(
        "idempotency key {0} is too old to be known: whether its request was accepted cannot be said; look before you submit again"
    )]
    KeyTooOld(IdempotencyKey),
    #[error("the table of idempotency keys is full ({0}): submit without a key, or retry later")]
    KeysFull(usize),
    #[error(
        "{live} tasks wait or run, {asked} more would pass the bound of {most}: retry when some have finished"
    )]
    TooManyTasks { live: u64, asked: u32, most: u64 },
    #[error(
        "the specs of waiting and running tasks take {bytes} bytes, over the bound of {most}: retry when some have finished"
    )]
    SpecsTooLarge { bytes: u64, most: u64 },
    #[error("a submit takes 1 to {most} tasks, not {asked}")]
    BadCount { asked: u32, most: u32 },
    #[error(
        "priority {asked} is over {most}, the highest for tenant {tenant}: ask for less, or have an administrator raise it \
         (`stint tenant set {tenant} --max-priority {asked}`)"
    )]
    PriorityTooHigh { tenant: Tenant, asked: u8, most: u8 },
    #[error(
        "{0}: name one of these, or have an administrator allow it (`stint tenant set {tenant} --images …`)", tenant = .0.tenant
    )]
    ImageNotAllowed(#[from] ImageNotAllowed),
    #[error(
        "no user number is left for a new tenant: all of {0} are given; have an administrator name more (`stint cluster set \
         tenant_uids=FIRST-LAST`)"
    )]
    NoUidLeft(UidRange),
    #[error("task id {0} is in use already")]
    IdTaken(TaskId),
    #[error("node {0} is not a member of this cluster")]
    UnknownNode(NodeId),
    #[error("node {node} is a newer process already; this one is out of date and must stop")]
    StaleNode { node: NodeId },
    #[error("node {node} still holds {leases} lease(s): drain it and wait, or wait until they run out")]
    NodeHoldsLeases { node: NodeId, leases: usize },
    #[error(
        "no image {image} is registered in tenant {tenant}: `stint image ls` lists those that are, `stint image register` adds one"
    )]
    UnknownImage { image: String, tenant: Tenant },
    #[error("{0}: a task names a registered image as {SCHEME}NAME or {SCHEME}NAME@sha256:…")]
    BadImageName(String),
    #[error("image {name} is of kind {kind}, which runs with {runtimes}: {asked}")]
    ImageUnsuited { name: ImageName, kind: ImageKind, runtimes: String, asked: String },
    #[error("the registry is full ({0} images): delete some with `stint image rm`")]
    ImagesFull(usize),
    #[error("image id {0} is in use already: register again")]
    ImageIdTaken(ImageId),
    #[error("{0} blobs are kept for tenants, which is the most: wait until some have expired")]
    KeptBlobsFull(usize),
    #[error("{digest} has {known} bytes, not {size}")]
    BlobDiffers { digest: Digest, size: u64, known: u64 },
    #[error("no member of the cluster has the bytes of {0}: send them again")]
    NoHolder(Digest),
    #[error("the join token is not valid or has expired: make a new one with `stint cluster join-token`")]
    BadJoinToken,
    #[error(
        "the join token has let in {0} node(s) already, as many as it was made for: make a new one with `stint cluster join-token`"
    )]
    JoinTokenUsed(u32),
    #[error("there is no such join token: `stint cluster join-token ls` lists them")]
    UnknownJoinToken,
    #[error("there is no such token: `stint token ls` lists them")]
    UnknownAccessToken,
    #[error("{0} tokens are valid, which is the most: revoke some with `stint token rm`")]
    AccessTokensFull(usize),
    #[error("the authority is being changed already: see `stint cluster ca status`")]
    AuthorityChanges,
    #[error("nobody has asked for this certificate authority: see `stint cluster ca status`")]
    NoAuthorityAsked,
    #[error("no change of the authority is going on that could be finished: see `stint cluster ca status`")]
    NoAuthorityChange,
    #[error(
        "these have no certificate of the new authority yet: {0}. Start them and wait (`stint cluster ca status`), or add \
         --force: then they get theirs when they come back"
    )]
    NotAllCertified(String),
    #[error("this cluster is configured already")]
    AlreadyConfigured,
    #[error(
        "the settings have revision {found} by now, not {expected}: look at what changed (`stint cluster show --history`) \
         and try again"
    )]
    SettingsMoved { expected: u64, found: u64 },
    #[error(transparent)]
    InvalidSettings(#[from] InvalidSettings),
    #[error(transparent)]
    Instance(#[from] InstanceRejection),
    #[error("{0} is the name of another node: set another with [node] name")]
    NodeNameTaken(String),
    /// What was asked for, or a higher version, has to wait for this member.
    #[error("the cluster speaks {version} until every peer is upgraded: {node} speaks {}", speaks.0)]
    VersionTooLow { version: Version, node: String, speaks: Version },
    #[error(
        "the cluster speaks {version} and this peer at most {}: install the stint that the other peers run, and remove [cluster] max_version where it is set", speaks.0
    )]
    SpeaksTooLittle { version: Version, speaks: Version },
}
