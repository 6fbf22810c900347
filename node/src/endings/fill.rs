//! Endings that a peer lacks as it got the state from another one, and those that nobody asks for any more.

use std::sync::Arc;

use stint_protocol::{LeaseId, NodeId};
use tokio::time::sleep;

use super::Endings;
use crate::limits;
use crate::node::Node;
use crate::peers::PeerAddress;
use crate::wire::{CallKind, EndingsAnswer, ReadEndings, decode, encode};

/// Fetches what is lacking, and sweeps now and then, until the peer ends.
pub async fn run(node: Arc<Node>, endings: Arc<Endings>) {
    loop {
        while endings.disk.lacks().is_some() && !fetch_all(&node, &endings).await {
            sleep(limits::ENDINGS_RETRY).await;
        }
        tokio::select! {
            () = endings.lacking.notified() => {}
            () = sleep(limits::ENDINGS_SWEEP) => sweep(&node, &endings).await,
        }
    }
}

/// Whether nothing is lacking any more.
async fn fetch_all(node: &Node, endings: &Arc<Endings>) -> bool {
    let Some(up_to) = endings.disk.lacks() else { return true };
    for (peer, address) in others(node) {
        if fetch_from(node, endings, peer, &address, up_to).await {
            // Another state may have come meanwhile.
            if endings.disk.lacks() == Some(up_to) {
                let done = endings.disk.sync().and_then(|()| endings.disk.set_lacks(None));
                endings.note(done, "which endings are lacking could not be noted");
            }
            return true;
        }
    }
    false
}

fn others(node: &Node) -> Vec<(NodeId, PeerAddress)> {
    let state = node.applied.view().state;
    let others = state.nodes().filter(|other| other.id != node.id);
    others.map(|other| (other.id, PeerAddress::node(other.id, &other.address))).collect()
}

/// Whether that peer was there and lacks none itself.
async fn fetch_from(
    node: &Node,
    endings: &Arc<Endings>,
    peer: NodeId,
    address: &PeerAddress,
    up_to: u64,
) -> bool {
    let (mut from, mut is_whole) = (Some(0), true);
    while let Some(number) = from.filter(|number| *number < up_to) {
        let read = encode(&ReadEndings { from: number, lease: None });
        let body = node.peers.call(address, CallKind::ReadEndings, read, limits::FORWARD_DEADLINE).await;
        let answer = body.map_err(|e| e.to_string()).and_then(|body| decode::<EndingsAnswer>(&body));
        let EndingsAnswer { endings: found, next, whole } = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%peer, error, "endings cannot be fetched now");
                return false;
            }
        };
        let kept = endings.clone();
        let keep = move || {
            let found = found.into_iter().map(|one| (one.number, one.lease, Arc::new(one.ending)));
            kept.keep(&found.collect::<Vec<_>>());
        };
        if tokio::task::spawn_blocking(keep).await.is_err() {
            return false;
        }
        is_whole &= whole;
        from = next.filter(|next| *next > number);
    }
    is_whole
}

/// Removes those of tasks that are forgotten.
async fn sweep(node: &Node, endings: &Arc<Endings>) {
    let (state, endings) = (node.applied.view().state, endings.clone());
    let work = move || {
        let swept = endings.disk.sweep(|lease: LeaseId| state.knows(lease.task));
        endings.note(swept.map(drop), "old endings could not be removed");
    };
    let _ = tokio::task::spawn_blocking(work).await;
}
