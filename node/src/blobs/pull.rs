//! Fetches bytes from other peers: several chunks on their way at a time, in order to the disk, checked as a whole.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::sync::atomic::{AtomicUsize, Ordering};
use stint_protocol::Blob;

use super::message::{BlobChunk, ReadBlob};
use super::{BlobError, Blobs, Incoming};
use crate::limits;
use crate::peers::{PeerAddress, Peers};
use crate::wire::{CallKind, decode, encode};

/// Why bytes could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("no peer that has {0} gave it: {1}")]
    NoHolder(Blob, String),
    #[error("storing {0}: {1}")]
    Store(Blob, BlobError),
}

impl Blobs {
    /// Sees to it that this peer has the bytes, fetched from one of these peers.
    pub async fn pull(&self, blob: Blob, holders: &[PeerAddress]) -> Result<(), PullError> {
        let lock = self.lock_of(&blob.digest);
        let _one_at_a_time = lock.lock().await;
        if self.disk.keep_a_while(blob) {
            return Ok(());
        }
        let Ok(_permit) = self.pulling.acquire().await else {
            return Err(PullError::Store(blob, BlobError::Interrupted));
        };
        let mut result = self.pull_from(blob, holders).await;
        if matches!(result, Err(PullError::Store(_, BlobError::WrongDigest { .. }))) && holders.len() > 1 {
            // One of them has other bytes: each one alone shows which.
            for holder in holders {
                tracing::warn!(%blob, peer = %holder.address, "fetched bytes were wrong; trying one peer alone");
                result = self.pull_from(blob, std::slice::from_ref(holder)).await;
                if result.is_ok() {
                    break;
                }
            }
        }
        if result.is_ok() {
            self.pulls.inc();
            self.pulled_bytes.inc_by(blob.size);
        }
        result
    }

    async fn pull_from(&self, blob: Blob, holders: &[PeerAddress]) -> Result<(), PullError> {
        let peers = &self.cluster.peers;
        let source = Source { peers, blob, holders, current: AtomicUsize::new(0) };
        let incoming = Incoming::begin(self.disk.clone());
        let offsets = (0..blob.size).step_by(limits::BLOB_CHUNK_BYTES);
        let mut chunks =
            stream::iter(offsets).map(|offset| source.read(offset)).buffered(limits::CHUNKS_IN_FLIGHT);
        while let Some(chunk) = chunks.next().await {
            if !incoming.write(chunk?).await {
                break;
            }
        }
        let stored = incoming.finish(blob.into()).await;
        stored.map(drop).map_err(|error| PullError::Store(blob, error))
    }
}

/// Where chunks come from: one peer, and when it fails the next.
struct Source<'a> {
    peers: &'a Peers,
    blob: Blob,
    holders: &'a [PeerAddress],
    /// Counts up; the peer asked is this modulo their number.
    current: AtomicUsize,
}

impl Source<'_> {
    async fn read(&self, offset: u64) -> Result<Bytes, PullError> {
        let mut last = String::from("none is a member that can be asked");
        for _ in 0..self.holders.len() {
            let turn = self.current.load(Ordering::Relaxed);
            match self.read_from(&self.holders[turn % self.holders.len()], offset).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => last = error,
            }
            // Only the first of those that failed together moves on.
            let _ = self.current.compare_exchange(turn, turn + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
        Err(PullError::NoHolder(self.blob, last))
    }

    async fn read_from(&self, holder: &PeerAddress, offset: u64) -> Result<Bytes, String> {
        let length = (self.blob.size - offset).min(limits::BLOB_CHUNK_BYTES as u64) as u32;
        let request = encode(&ReadBlob { digest: self.blob.digest, offset, length });
        let answer = self.peers.call(holder, CallKind::ReadBlob, request, limits::CHUNK_DEADLINE).await;
        match decode(&answer.map_err(|e| e.to_string())?)? {
            BlobChunk::Bytes(bytes) if bytes.len() == length as usize => Ok(Vec::from(bytes).into()),
            BlobChunk::Bytes(bytes) => {
                Err(format!("{} gave {} bytes instead of {length}", holder.address, bytes.len()))
            }
            BlobChunk::Missing(why) => Err(format!("{}: {why}", holder.address)),
        }
    }
}
