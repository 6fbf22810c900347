//! Copies of bytes on other peers, and their way back to this one.

use std::path::PathBuf;
use std::time::Duration;

use stint_protocol::{Blob, Digest, NodeId};
use stint_scheduler::State;

use super::Blobs;
use super::gc::candidates;
use super::message::{BlobChunk, OfferAnswer, OfferBlob, ReadBlob};
use crate::limits;
use crate::peers::PeerAddress;
use crate::pki::node_name;
use crate::wire::{CallKind, Refusal, RefusalCode, decode, encode};

impl Blobs {
    /// Sees to it that as many peers as the rules say have bytes that this one has. Answers who has them.
    pub async fn replicate(&self, blob: Blob) -> Result<Vec<NodeId>, Refusal> {
        let state = self.cluster.shared.view().state;
        let wanted = self.copies_wanted();
        let mut holders = vec![self.cluster.id];
        let mut last = String::from("there are no other members");
        for candidate in candidates(&state, &blob.digest, &self.voters(), &[self.cluster.id]) {
            if holders.len() >= wanted {
                break;
            }
            match self.offer(&state, candidate, blob, &holders).await {
                Ok(()) => holders.push(candidate),
                Err(error) => last = error,
            }
        }
        if holders.len() >= wanted {
            // Copying may have taken longer than a file stays to which nothing refers.
            let gone = || {
                Refusal::new(RefusalCode::Unavailable, "the bytes were deleted meanwhile: send them again")
            };
            return self.disk.keep_a_while(blob).then_some(holders).ok_or_else(gone);
        }
        let got = holders.len();
        let message = format!(
            "{got} of {wanted} copies could be made ({last}): retry when more peers are up, or lower blobs.copies"
        );
        Err(Refusal::new(RefusalCode::Unavailable, message))
    }

    /// Copies of each blob: as many as the settings say, and no more than there are voters.
    pub(super) fn copies_wanted(&self) -> usize {
        self.settings.copies.min(self.voters().len()).max(1)
    }

    pub(super) fn voters(&self) -> Vec<NodeId> {
        self.cluster.raft.status().voters.keys().map(|id| NodeId(*id)).collect()
    }

    /// Has a peer fetch bytes from those that have them; done once it has them durably.
    pub(super) async fn offer(
        &self,
        state: &State,
        to: NodeId,
        blob: Blob,
        holders: &[NodeId],
    ) -> Result<(), String> {
        let known = holders.iter().filter_map(|holder| state.node(*holder));
        let offer = OfferBlob { blob, holders: known.map(|node| (node.id, node.address.clone())).collect() };
        let answer = if to == self.cluster.id {
            self.take_offer(offer).await
        } else {
            let node = state.node(to).ok_or_else(|| format!("node {to} is no member any more"))?;
            let address = PeerAddress::node(to, &node.address);
            let body =
                self.cluster.peers.call(&address, CallKind::OfferBlob, encode(&offer), patience(blob)).await;
            decode(&body.map_err(|e| e.to_string())?)?
        };
        match answer {
            OfferAnswer::Held => Ok(()),
            OfferAnswer::Failed(why) => Err(format!("node {to}: {why}")),
        }
    }

    /// Fetches what another peer offers.
    pub(crate) async fn take_offer(&self, offer: OfferBlob) -> OfferAnswer {
        let OfferBlob { blob, holders } = offer;
        let others = holders.iter().filter(|(id, _)| *id != self.cluster.id);
        let from: Vec<PeerAddress> = others.map(|(id, address)| PeerAddress::node(*id, address)).collect();
        let pulled = self.pull(blob, &from).await;
        pulled.map_or_else(|error| OfferAnswer::Failed(error.to_string()), |()| OfferAnswer::Held)
    }

    /// Reads bytes for another peer.
    pub(crate) async fn read_for_peer(&self, read: ReadBlob) -> BlobChunk {
        let (disk, length) = (self.disk.clone(), (read.length as usize).min(limits::BLOB_CHUNK_BYTES));
        let reading = tokio::task::spawn_blocking(move || disk.read(&read.digest, read.offset, length));
        match reading.await {
            Ok(Ok(bytes)) => BlobChunk::Bytes(bytes.into()),
            Ok(Err(error)) => BlobChunk::Missing(format!("it has not: {error}")),
            Err(_) => BlobChunk::Missing("it is stopping".into()),
        }
    }

    /// The file of bytes that the cluster keeps, fetched if this peer does not have it.
    pub async fn fetch(&self, blob: Blob) -> Result<PathBuf, Refusal> {
        self.fetch_past(blob, None).await
    }

    /// The same, but a node that does not answer is asked last.
    pub async fn fetch_past(&self, blob: Blob, away: Option<NodeId>) -> Result<PathBuf, Refusal> {
        if !self.disk.keep_a_while(blob) {
            let state = self.cluster.shared.view().state;
            let mut from = self.others_with(&state, &blob.digest);
            let away = away.map(node_name);
            from.sort_by_key(|peer| away.as_ref() == Some(&peer.name));
            let pulled = self.pull(blob, &from).await;
            pulled.map_err(|error| Refusal::new(RefusalCode::Unavailable, error.to_string()))?;
        }
        Ok(self.disk.path(&blob.digest))
    }

    /// Where bytes can be fetched from.
    pub(super) fn others_with(&self, state: &State, digest: &Digest) -> Vec<PeerAddress> {
        let holders = state.blob(digest).map(|record| record.holders.clone()).unwrap_or_default();
        let others = holders.into_iter().filter(|holder| *holder != self.cluster.id);
        let nodes = others.filter_map(|holder| state.node(holder));
        nodes.map(|node| PeerAddress::node(node.id, &node.address)).collect()
    }
}

/// How long a peer may take to fetch: a slow network and a slow disk.
fn patience(blob: Blob) -> Duration {
    limits::OFFER_DEADLINE + Duration::from_secs(blob.size / limits::SLOWEST_COPY_BYTES_PER_S)
}
