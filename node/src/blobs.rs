//! Bytes that the cluster keeps, by their SHA-256: on this peer's disk, copied to enough other peers before anything
//! names them, fetched from any peer that has them. Which peers have what is in the replicated state; bytes never are.

mod copies;
mod disk;
pub mod gc;
mod keep;
mod leader;
pub mod maintenance;
pub mod message;
mod pull;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use prometheus::IntCounter;
use stint_protocol::{Digest, NodeId};
use stint_raft::Raft;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use disk::{BlobDisk, BlobError, DiskBounds};
pub use writer::{Expected, Incoming};

use crate::applied_state::{AppliedState, NodeStateMachine};
use crate::clock::Clock;
use crate::leader::Leader;
use crate::leader_client::LeaderClient;
use crate::limits;
use crate::node::Node;
use crate::peers::Peers;

/// How a peer keeps bytes; every peer of a cluster should have the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobSettings {
    /// Peers that have each blob, as far as there are as many voters.
    pub copies: usize,
    pub disk: DiskBounds,
    /// How long bytes stay to which nothing refers.
    pub sweep_after: Duration,
    /// How long a peer is silent before what it has is copied elsewhere.
    pub heal_after: Duration,
    /// How long a file that an attempt left with the cluster is kept.
    pub keep_files: Duration,
    /// Bytes of one unpacked image.
    pub max_unpacked: u64,
    /// How long an unpacked image stays on a node that does not use it.
    pub keep_unpacked: Duration,
}

/// What the bytes of a peer need of its cluster: who is a member, what refers to them, and the ways to other peers.
pub struct BlobContext {
    pub id: NodeId,
    pub raft: Raft<NodeStateMachine>,
    pub shared: Arc<AppliedState>,
    pub leader: Arc<Leader>,
    pub leader_client: Arc<LeaderClient>,
    pub peers: Arc<Peers>,
    pub clock: Arc<dyn Clock>,
}

impl BlobContext {
    /// The cluster as this node reaches it.
    pub fn reached_by(node: &Node) -> Self {
        Self {
            id: node.id,
            raft: node.raft.clone(),
            shared: node.applied.clone(),
            leader: node.leader.clone(),
            leader_client: node.leader_client.clone(),
            peers: node.peers.clone(),
            clock: node.clock.clone(),
        }
    }
}

/// The bytes of one peer.
pub struct Blobs {
    pub settings: BlobSettings,
    pub disk: Arc<BlobDisk>,
    cluster: BlobContext,
    /// Blobs that were fetched from other peers, and their bytes.
    pub pulls: IntCounter,
    pub pulled_bytes: IntCounter,
    uploads: Arc<Semaphore>,
    pulling: Arc<Semaphore>,
    /// Who fetches one waits for the other who does.
    locks: Mutex<BTreeMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

/// Why the bytes of a peer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Disk(#[from] BlobError),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl Blobs {
    /// Opens the folder, and removes what a crash left half-written.
    pub fn open(folder: &Path, settings: BlobSettings, cluster: BlobContext) -> Result<Self, OpenError> {
        let disk = Arc::new(BlobDisk::open(folder, settings.disk)?);
        Ok(Self {
            disk,
            cluster,
            settings,
            pulls: IntCounter::new("stint_blob_pulls_total", "Blobs fetched from other peers")?,
            pulled_bytes: IntCounter::new("stint_blob_pulled_bytes_total", "Bytes fetched from other peers")?,
            uploads: Arc::new(Semaphore::new(limits::UPLOADS)),
            pulling: Arc::new(Semaphore::new(limits::PULLS)),
            locks: Mutex::new(BTreeMap::new()),
        })
    }

    /// Begins to take bytes in; none while too many others do.
    pub fn upload(&self) -> Option<(Incoming, OwnedSemaphorePermit)> {
        let permit = self.uploads.clone().try_acquire_owned().ok()?;
        Some((Incoming::begin(self.disk.clone()), permit))
    }

    fn lock_of(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(|e| e.into_inner());
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(digest).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(*digest, Arc::downgrade(&lock));
        lock
    }
}
