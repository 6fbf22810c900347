//! The stored and sent forms of Raft's own values: CBOR with numbered fields, ours to keep compatible.
//!
//! A number is never used again for another meaning; new fields are optional and come last.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use minicbor::{Decode, Decoder, Encode, Encoder};

use crate::types::{
    CommittedLeaderId, Entry, EntryPayload, LeaderId, LogId, Membership, Payload, PeerId, PeerInfo,
    StoredMembership, Vote,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct EncodedLogId {
    #[n(0)]
    term: u64,
    #[n(1)]
    index: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct EncodedVote {
    #[n(0)]
    term: u64,
    #[n(1)]
    node: PeerId,
    #[n(2)]
    committed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct EncodedPeerInfo {
    #[n(0)]
    addr: String,
    #[n(1)]
    disk_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct EncodedMembership {
    /// One set of voters, or two while the membership changes.
    #[n(0)]
    voters: Vec<BTreeSet<PeerId>>,
    #[n(1)]
    peers: BTreeMap<PeerId, EncodedPeerInfo>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct EncodedStoredMembership {
    #[n(0)]
    at: Option<EncodedLogId>,
    #[n(1)]
    membership: EncodedMembership,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct EncodedEntry {
    #[n(0)]
    id: EncodedLogId,
    #[n(1)]
    payload: EncodedPayload,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum EncodedPayload {
    #[n(0)]
    Blank,
    #[n(1)]
    Normal(#[n(0)] Payload),
    #[n(2)]
    Membership(#[n(0)] EncodedMembership),
}

impl<C> Encode<C> for Payload {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Payload {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        d.bytes().map(|bytes| Self(Bytes::copy_from_slice(bytes)))
    }
}

impl From<LogId> for EncodedLogId {
    fn from(id: LogId) -> Self {
        Self { term: id.leader_id.term, index: id.index }
    }
}

impl From<EncodedLogId> for LogId {
    fn from(code: EncodedLogId) -> Self {
        LogId { leader_id: CommittedLeaderId::new(code.term), index: code.index }
    }
}

impl From<Vote> for EncodedVote {
    fn from(vote: Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
    }
}

impl From<EncodedVote> for Vote {
    fn from(code: EncodedVote) -> Self {
        Vote { leader_id: LeaderId { term: code.term, voted_for: code.node }, committed: code.committed }
    }
}

impl From<&Membership> for EncodedMembership {
    fn from(membership: &Membership) -> Self {
        let peers = membership.nodes().map(|(id, info)| {
            (*id, EncodedPeerInfo { addr: info.addr.clone(), disk_id: info.disk_id.clone() })
        });
        Self { voters: membership.get_joint_config().clone(), peers: peers.collect() }
    }
}

impl From<EncodedMembership> for Membership {
    fn from(code: EncodedMembership) -> Self {
        let peers = code.peers.into_iter();
        let peers = peers.map(|(id, info)| (id, PeerInfo { addr: info.addr, disk_id: info.disk_id }));
        let peers: BTreeMap<_, _> = peers.collect();
        // A voter without an address cannot come from this crate; it must not stop a peer from reading its log.
        Membership::new(code.voters.clone(), peers)
            .unwrap_or_else(|_| Membership::new_with_defaults(code.voters, BTreeSet::new()))
    }
}

impl From<&StoredMembership> for EncodedStoredMembership {
    fn from(stored: &StoredMembership) -> Self {
        Self { at: stored.log_id().map(Into::into), membership: stored.membership().into() }
    }
}

impl From<EncodedStoredMembership> for StoredMembership {
    fn from(code: EncodedStoredMembership) -> Self {
        StoredMembership::new(code.at.map(Into::into), code.membership.into())
    }
}

impl From<&Entry> for EncodedEntry {
    fn from(entry: &Entry) -> Self {
        let payload = match &entry.payload {
            EntryPayload::Blank => EncodedPayload::Blank,
            EntryPayload::Normal(payload) => EncodedPayload::Normal(payload.clone()),
            EntryPayload::Membership(membership) => EncodedPayload::Membership(membership.into()),
        };
        Self { id: entry.log_id.into(), payload }
    }
}

impl From<EncodedEntry> for Entry {
    fn from(code: EncodedEntry) -> Self {
        let payload = match code.payload {
            EncodedPayload::Blank => EntryPayload::Blank,
            EncodedPayload::Normal(payload) => EntryPayload::Normal(payload),
            EncodedPayload::Membership(membership) => EntryPayload::Membership(membership.into()),
        };
        Entry { log_id: code.id.into(), payload }
    }
}

/// Encodes to a new buffer. Writing to memory cannot fail.
pub(crate) fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_into(value, &mut bytes);
    bytes
}

/// Appends the encoding of a value.
pub(crate) fn encode_into<T: Encode<()>>(value: &T, bytes: &mut Vec<u8>) {
    let written: Result<(), minicbor::encode::Error<std::convert::Infallible>> =
        minicbor::encode(value, bytes);
    assert!(written.is_ok(), "encoding to memory cannot fail");
}
