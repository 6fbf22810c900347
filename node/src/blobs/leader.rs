//! What the leader does for stored bytes: more copies where there are too few, and an end for what nothing refers to.

use stint_protocol::{NodeId, version};
use stint_scheduler::{Command, State};

use super::Blobs;
use super::gc::{BlobGc, candidates, too_few};
use crate::limits;

/// One round, if this peer leads.
pub(super) async fn gc_round(blobs: &Blobs, gc: &mut BlobGc) {
    let cluster = &blobs.cluster;
    let state = cluster.shared.view().state;
    if state.version() < version::IMAGES || !cluster.leader.leads() {
        *gc = BlobGc::default();
        return;
    }
    let boot = cluster.clock.boot();
    let Some((_, reachable)) = cluster.leader.while_leading(|lease_clock| lease_clock.reachable(boot)) else {
        return;
    };
    let live = gc.live(&state, &reachable, boot, blobs.settings.heal_after.as_millis() as u64);
    replicate_missing(blobs, &state, &live).await;
    let patience_ms = blobs.settings.sweep_after.as_millis() as u64;
    let unused = gc.unused_for_long(&state, cluster.clock.boot(), patience_ms);
    if !unused.is_empty() {
        propose(blobs, Command::DropBlobs { blobs: unused }).await;
    }
}

/// Has bytes with too few copies fetched by more nodes, a few a round.
async fn replicate_missing(blobs: &Blobs, state: &State, live: &[NodeId]) {
    let wanted = blobs.copies_wanted();
    for (blob, holders) in too_few(state, live, wanted).take(limits::HEALED_A_ROUND) {
        let possible = candidates(state, &blob.digest, &blobs.voters(), &holders);
        for target in possible.into_iter().filter(|id| live.contains(id)).take(1) {
            match blobs.offer(state, target, blob, &holders).await {
                Ok(()) => {
                    tracing::info!(digest = %blob.digest, node = target.0, "bytes with too few copies are copied");
                    let copies = Command::HoldBlobs { node: target, blobs: vec![blob.digest] };
                    propose(blobs, copies).await;
                }
                Err(error) => tracing::warn!(%blob, %error, "bytes with too few copies are not copied yet"),
            }
        }
    }
}

/// What is not done now is seen again in the next round.
async fn propose(blobs: &Blobs, command: Command) {
    if let Err(error) = blobs.cluster.leader.propose(vec![command]).await {
        tracing::debug!(%error, "stored bytes are looked after in the next round");
    }
}
