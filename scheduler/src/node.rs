//! The record of a node as a member and an executor, and of the GPUs it offers.

use minicbor::{Decode, Encode};
use stint_protocol::{GpuId, GpuInfo, Incarnation, LeaseId, NodeId, NodeOffer, Nonce, Resources};

/// What the operator wants of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum NodeMode {
    #[n(0)]
    #[default]
    Ready,
    /// Gets nothing new.
    #[n(1)]
    Cordoned,
    /// Gets nothing new, and is meant to be empty soon: what runs may finish.
    #[n(2)]
    Draining,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Node {
    #[n(0)]
    pub id: NodeId,
    #[n(1)]
    pub disk: [u8; 16],
    #[n(2)]
    pub name: String,
    #[n(3)]
    pub address: String,
    #[n(4)]
    pub mode: NodeMode,
    /// 0 until it registered as an executor.
    #[n(5)]
    pub incarnation: Incarnation,
    #[n(6)]
    pub nonce: Nonce,
    #[n(7)]
    pub offer: NodeOffer,
    #[n(8)]
    pub problems: Vec<String>,
    /// Held by leases; re-derived when a snapshot is read.
    #[n(9)]
    pub used: Resources,
    #[n(10)]
    pub running: u32,
}

impl Node {
    /// What no lease holds.
    pub fn free(&self) -> Resources {
        self.offer.resources.minus(&self.used)
    }

    /// Attempts it can take beyond those it has.
    pub fn free_slots(&self) -> u32 {
        self.offer.slots.saturating_sub(self.running)
    }
}

/// A GPU, by its UUID across the cluster (DESIGN §5, rule 9).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuRecord {
    /// Nodes that offer it; schedulable only while exactly one does.
    pub offered_by: Vec<(NodeId, GpuInfo)>,
    pub holder: Option<LeaseId>,
}

impl GpuRecord {
    /// The device as `node` offers it, when nobody else offers it and nobody holds it.
    pub fn free_on(&self, node: NodeId) -> Option<&GpuInfo> {
        match &self.offered_by[..] {
            [(by, info)] if *by == node && self.holder.is_none() => Some(info),
            _ => None,
        }
    }

    /// Whether it can be forgotten.
    pub(crate) fn unused(&self) -> bool {
        self.offered_by.is_empty() && self.holder.is_none()
    }
}

/// The GPUs of an offer by id.
pub(crate) fn offers(offer: &NodeOffer, id: &GpuId) -> bool {
    offer.gpus.iter().any(|g| g.id == *id)
}
