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
        let mut pause = limits::ENDINGS_RETRY;
        while endings.disk.lacks().is_some() && !fetch_all(&node, &endings).await {
            sleep(pause).await;
            pause = (pause * 2).min(limits::ENDINGS_LONGEST_RETRY);
        }
        tokio::select! {
            () = endings.lacking.notified() => {}
            () = sleep(limits::ENDINGS_SWEEP) => sweep(&node, &endings).await,
        }
    }
}

/// Whether nothing is lacking any more that another peer has: one lacks none itself, or all were asked.
async fn fetch_all(node: &Node, endings: &Arc<Endings>) -> bool {
    let Some(up_to) = endings.disk.lacks() else { return true };
    let mut is_done = true;
    for (peer, address) in others(node) {
        let fetched = fetch_from(node, endings, peer, &address, up_to).await;
        is_done &= fetched.is_some();
        if fetched == Some(true) {
            is_done = true;
            break;
        }
    }
    // Another state may have come meanwhile.
    if is_done && endings.disk.lacks() == Some(up_to) {
        let done = endings.disk.sync().and_then(|()| endings.disk.set_lacks(None));
        endings.note(done, "which endings are lacking could not be noted");
    }
    is_done
}

fn others(node: &Node) -> Vec<(NodeId, PeerAddress)> {
    let state = node.applied.view().state;
    let others = state.nodes().filter(|other| other.id != node.id);
    others.map(|other| (other.id, PeerAddress::node(other.id, &other.address))).collect()
}

/// Whether that peer lacks none itself; none: it does not answer.
async fn fetch_from(
    node: &Node,
    endings: &Arc<Endings>,
    peer: NodeId,
    address: &PeerAddress,
    up_to: u64,
) -> Option<bool> {
    let (mut from, mut is_whole) = (Some(0), true);
    while let Some(number) = from.filter(|number| *number < up_to) {
        let read = encode(&ReadEndings { from: number, lease: None });
        let body = node.peers.call(address, CallKind::ReadEndings, read, limits::FORWARD_DEADLINE).await;
        let answer = body.map_err(|e| e.to_string()).and_then(|body| decode::<EndingsAnswer>(&body));
        let EndingsAnswer { endings: found, next, whole } = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%peer, error, "endings cannot be fetched now");
                return None;
            }
        };
        let kept = endings.clone();
        let keep = move || {
            let found = found.into_iter().map(|one| (one.number, one.lease, Arc::new(one.ending)));
            kept.keep(&found.collect::<Vec<_>>());
        };
        tokio::task::spawn_blocking(keep).await.ok()?;
        is_whole &= whole;
        from = next.filter(|next| *next > number);
    }
    Some(is_whole)
}

/// Removes those of tasks that are forgotten.
async fn sweep(node: &Node, endings: &Arc<Endings>) {
    let (state, endings) = (node.applied.view().state, endings.clone());
    let work = move || {
        let swept = endings.disk.sweep(state.next_number(), |lease: LeaseId| state.knows(lease.task));
        endings.note(swept.map(drop), "old endings could not be removed");
    };
    let _ = tokio::task::spawn_blocking(work).await;
}
