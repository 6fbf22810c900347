//! The records of registered images, of the bytes that the cluster keeps, and of who wants them kept.

use minicbor::{Decode, Encode};
use stint_protocol::{ImageId, ImageName, ImageSource, NodeId, PinnedImage, Tenant, TimeMs};

/// A registered image. It never changes but for `listed`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Image {
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
    #[n(5)]
    pub created_at: TimeMs,
    /// New tasks may name it. One that was replaced or deleted is not listed, and stays for the tasks that use it.
    #[n(6)]
    pub listed: bool,
}

impl Image {
    /// What a task that names it now keeps of it.
    pub fn pinned(&self) -> PinnedImage {
        PinnedImage { id: self.id, name: self.name.clone(), source: self.source.clone() }
    }
}

/// Stored bytes: how many, and which nodes have them durably.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BlobRecord {
    #[n(0)]
    pub size: u64,
    /// In order, each once.
    #[n(1)]
    pub holders: Vec<NodeId>,
    /// Nothing refers to it since then.
    #[n(2)]
    pub unused_since: Option<TimeMs>,
}

/// A tenant wants a blob kept for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Keep {
    #[n(0)]
    pub until: TimeMs,
}
