//! The words of this crate, and the one place that fixes openraft's types.

use std::any::Any;
use std::fmt;
use std::sync::Mutex;

use bytes::Bytes;
use openraft::impls::TokioRuntime;
use openraft::rt::deterministic_rng::DeterministicRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A peer's number, unique in the cluster and never given to another machine.
pub type PeerId = u64;

/// What the membership remembers of a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Where its transport listens.
    pub addr: String,
    /// The random id of its data folder: 32 hex digits. A peer that comes back with another one lost its data.
    pub disk_id: String,
}

impl fmt::Display for PeerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (disk {})", self.addr, self.disk_id)
    }
}

/// A place in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Entry number, without gaps. Raft's first entry (the first membership) is 0.
    pub index: u64,
    /// The term of the leader that proposed it.
    pub term: u64,
}

/// An entry's content: bytes this crate never looks into.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

// openraft asks for serde; nothing of ours is stored or sent through it (see `codec`).
impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(|bytes| Self(bytes.into()))
    }
}

/// A machine's reply on its way through openraft, which needs one type that knows no machine.
pub(crate) struct BoxedReply(Mutex<Option<Box<dyn Any + Send>>>);

impl BoxedReply {
    pub(crate) fn none() -> Self {
        Self(Mutex::new(None))
    }

    pub(crate) fn boxed<R: Send + 'static>(reply: R) -> Self {
        Self(Mutex::new(Some(Box::new(reply))))
    }

    /// The reply, when there is one and it is an `R`.
    pub(crate) fn take<R: 'static>(self) -> Option<R> {
        let inner = self.0.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        inner.and_then(|reply| reply.downcast().ok()).map(|reply| *reply)
    }
}

impl fmt::Debug for BoxedReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outcome")
    }
}

impl Serialize for BoxedReply {
    fn serialize<S: Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("a reply is never stored"))
    }
}

impl<'de> Deserialize<'de> for BoxedReply {
    fn deserialize<D: Deserializer<'de>>(_deserializer: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("a reply is never stored"))
    }
}

/// At most one leader a term, as Raft has it; openraft's default lets a term have several, one after another.
#[cfg(not(feature = "mutations"))]
type OneLeaderATerm = openraft::impls::leader_id_std::LeaderId<u64, PeerId>;
#[cfg(feature = "mutations")]
type OneLeaderATerm = crate::mutations::leader_id::LeaderId;

openraft::declare_raft_types!(
    pub(crate) Types:
        D = Payload,
        R = BoxedReply,
        NodeId = PeerId,
        Node = PeerInfo,
        LeaderId = OneLeaderATerm,
        AsyncRuntime = DeterministicRng<TokioRuntime>,
);

pub(crate) type LeaderId = openraft::alias::LeaderIdOf<Types>;
pub(crate) type CommittedLeaderId = openraft::alias::CommittedLeaderIdOf<Types>;
pub(crate) type LogId = openraft::alias::LogIdOf<Types>;
pub(crate) type Vote = openraft::alias::VoteOf<Types>;
pub(crate) type Entry = openraft::alias::EntryOf<Types>;
pub(crate) type EntryPayload = openraft::EntryPayload<Payload, PeerId, PeerInfo>;
pub(crate) type Membership = openraft::Membership<PeerId, PeerInfo>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<Types, crate::snapshot::Body>;
pub(crate) type Core<M> = openraft::Raft<Types, crate::machine::Applier<M>>;
pub(crate) type Scope<F> = openraft::rt::task_local::TaskLocalFuture<std::cell::Cell<u64>, F>;

/// Runs a future with a seed for openraft's random choices. Every call into openraft goes through here.
pub(crate) fn seeded<F: Future>(seed: u64, future: F) -> Scope<F> {
    DeterministicRng::<TokioRuntime>::scope(seed, future)
}

pub(crate) fn position(id: &LogId) -> Position {
    Position { index: id.index, term: id.leader_id.term }
}
