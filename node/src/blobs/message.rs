//! What peers say to each other about stored bytes. Fields are numbered and only added.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use stint_protocol::{Blob, Digest, ImageId, NodeId, Tenant};
use stint_scheduler::{KeepBlob, RegisterImage};

/// Fetch these bytes from one of these peers, and say when they are durable.
#[derive(Clone, Debug, Encode, Decode)]
pub struct OfferBlob {
    #[n(0)]
    pub blob: Blob,
    /// Peers that have it, with their addresses.
    #[n(1)]
    pub holders: Vec<(NodeId, String)>,
}

/// The answer to an offer.
#[derive(Clone, Debug, Encode, Decode)]
pub enum OfferAnswer {
    #[n(0)]
    Held,
    #[n(1)]
    Failed(#[n(0)] String),
}

/// Reads bytes that this peer has.
#[derive(Clone, Debug, Encode, Decode)]
pub struct ReadBlob {
    #[n(0)]
    pub digest: Digest,
    #[n(1)]
    pub offset: u64,
    #[n(2)]
    pub length: u32,
}

/// Bytes that were read.
#[derive(Clone, Debug, Encode, Decode)]
pub enum BlobChunk {
    #[n(0)]
    Bytes(#[n(0)] ByteVec),
    /// This peer does not have them.
    #[n(1)]
    Missing(#[n(0)] String),
}

/// What the leader is asked to change about images and stored bytes.
#[derive(Clone, Debug, Encode, Decode)]
pub enum RegistryRequest {
    #[n(0)]
    Register(#[n(0)] RegisterImage),
    #[n(1)]
    Delete {
        #[n(0)]
        tenant: Tenant,
        #[n(1)]
        image: ImageId,
    },
    #[n(2)]
    Keep(#[n(0)] KeepBlob),
    #[n(3)]
    Lose {
        #[n(0)]
        node: NodeId,
        #[n(1)]
        blobs: Vec<Digest>,
    },
}
