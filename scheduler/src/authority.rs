//! The cluster's certificate authority as all peers agree on it, and how far its change is.

use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};
use stint_protocol::{NodeId, TimeMs};

use crate::settings::ChangedBy;

/// An administrator wants another authority.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RotateAuthority {
    /// How long what the old one issued stays valid after the change begins, in milliseconds.
    #[n(0)]
    pub overlap_ms: u64,
    #[n(1)]
    pub by: ChangedBy,
}

/// Another authority, whose key most voters have on their disks by now. Certificates are PEM.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NewAuthority {
    #[n(0)]
    pub root: String,
    /// SHA-256 of it.
    #[n(1)]
    pub fingerprint: ByteArray<32>,
    /// Its key, certified by the old authority: who trusts that one alone takes certificates of the new one.
    #[n(2)]
    pub endorsement: String,
    #[n(3)]
    pub old_root: String,
    /// The id of the cluster, which it keeps.
    #[n(4)]
    pub cluster_id: String,
}

/// A change that was asked for, until there is a new authority.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AskedRotation {
    #[n(0)]
    pub rotate: RotateAuthority,
    #[n(1)]
    pub at: TimeMs,
}

/// An authority that the cluster changed to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Authority {
    #[n(0)]
    pub new: NewAuthority,
    #[n(1)]
    pub since: TimeMs,
    #[n(2)]
    pub by: ChangedBy,
    /// While the old one is trusted, too: until when at least. None: it is no more.
    #[n(3)]
    pub old_until: Option<TimeMs>,
    /// Nodes that proved to have a certificate of it since the change began, in order.
    #[n(4)]
    pub certified: Vec<NodeId>,
}

/// What all peers know of the authority. Empty in a cluster that has the one it was founded with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Authorities {
    #[n(0)]
    pub asked: Option<AskedRotation>,
    #[n(1)]
    pub current: Option<Authority>,
}

impl Authorities {
    /// Whether the cluster has the authority that it was founded with, and no other one was asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.asked.is_none() && self.current.is_none()
    }

    /// The new authority, while the old one is trusted, too.
    pub fn changing(&self) -> Option<&Authority> {
        self.current.as_ref().filter(|current| current.old_until.is_some())
    }
}
