//! Tells the cluster what only a peer itself knows: where it is reached, and the highest version that it may speak.

use std::collections::BTreeMap;
use std::sync::Arc;

use stint_protocol::{NodeId, version};
use stint_raft::PeerInfo;
use tokio::time::sleep;

use crate::limits;
use crate::node::Node;
use crate::peers::PeerAddress;
use crate::wire::Request;

/// Sees to it, as long as the peer runs, that the membership and the state say what is so. Who moved cannot be called by
/// the others, so it calls them.
pub async fn announce(node: Arc<Node>, address: String) {
    let mut applied = node.applied.applied();
    loop {
        applied.mark_unchanged();
        if must_tell(&node, &address) {
            tell(&node, &address).await;
        } else if applied.changed().await.is_err() {
            return;
        }
        sleep(limits::ANNOUNCE_PAUSE).await;
    }
}

fn members(node: &Node) -> BTreeMap<u64, PeerInfo> {
    let status = node.raft.status();
    let all = status.voters.iter().chain(status.learners.iter());
    all.map(|(id, info)| (*id, info.clone())).collect()
}

/// Whether something is not known that could be. A new address waits, in the state, for the cluster's version.
fn must_tell(node: &Node, address: &str) -> bool {
    let state = node.applied.view().state;
    let moved = members(node).get(&node.id.0).is_some_and(|known| known.addr != address);
    let wrong = state.node(node.id).is_some_and(|record| {
        let movable = state.version() >= version::NODE_ADDRESS;
        record.speaks != node.applied.speaks || (movable && record.address != address)
    });
    moved || wrong
}

/// A majority may be gone for long: this peer is of no use to the others before they know where it is.
async fn tell(node: &Node, address: &str) {
    let speaks = node.applied.speaks;
    tracing::info!(%address, speaks = speaks.0, "telling the cluster this peer's address and version");
    let request = Request::SetNodeAddress { node: node.id, address: address.to_owned(), speaks };
    let members = members(node);
    let moved = members.get(&node.id.0).is_some_and(|known| known.addr != address);
    let others = members.into_iter().filter(|(id, _)| *id != node.id.0);
    let targets: Vec<PeerAddress> =
        others.map(|(id, info)| PeerAddress::node(NodeId(id), &info.addr)).collect();
    let announced = match targets.is_empty() || !moved {
        true => node.leader_client.ask(request).await.map(|_| node.applied.view().at.index),
        false => node.leader_client.ask_at(&targets, request).await,
    };
    let seen = match announced {
        Ok(index) => node.leader_client.read_at(index).await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = seen {
        tracing::warn!(%error, "the cluster does not know this peer's address and version yet");
    }
}
