//! Peers that the cluster took out. Such a peer is of no use any more: it would only ask for votes that nobody gives.

use std::sync::Arc;

use stint_protocol::NodeId;
use stint_raft::MembershipError;
use tokio::time::sleep;

use crate::callers::{LEFT_BEHIND, RECOVERED};
use crate::limits;
use crate::node::Node;
use crate::outage::Outage;
use crate::peers::{CallError, PeerAddress};
use crate::wire::{CallKind, ForwardAnswer, RefusalCode, Request, decode, encode};

/// Why a peer is no member any more.
pub enum Gone {
    /// The cluster removed it.
    Removed,
    /// The cluster was recovered without it, in the words of a peer of the new one.
    LeftOut(String),
}

/// Returns when this peer, which is reached at `address`, is no member any more: its own state says so, or the leader does
/// after it was away, or a peer that has begun anew without it.
pub async fn removed(node: Arc<Node>, address: String) -> Gone {
    let mut was_member = false;
    loop {
        let is_member = node.applied.view().state.node(node.id).is_some();
        if was_member && !is_member {
            return Gone::Removed;
        }
        was_member |= is_member;
        // Where its certificate has expired nobody talks to it but for another one.
        if let Some(why) = node.certificates.gone() {
            let is_left_out = [RECOVERED, LEFT_BEHIND].iter().any(|start| why.starts_with(start));
            return if is_left_out { Gone::LeftOut(why.into()) } else { Gone::Removed };
        }
        let outage = Outage::seen(&node.raft.status());
        let lonely = outage.is_some_and(|outage| outage.leaderless >= limits::LONELY);
        if lonely && let Some(gone) = is_unknown(&node, &address).await {
            return gone;
        }
        sleep(limits::REMOVED_LOOK).await;
    }
}

/// Whether one of those that were members says that it does not know this peer: a leader, or one that was recovered.
async fn is_unknown(node: &Node, address: &str) -> Option<Gone> {
    let status = node.raft.status();
    let members = status.voters.iter().chain(status.learners.iter()).filter(|(id, _)| **id != node.id.0);
    let mut targets: Vec<PeerAddress> =
        members.map(|(id, info)| PeerAddress::node(NodeId(*id), &info.addr)).collect();
    // A peer that does not lead names the one that does; so far one look goes.
    let most = targets.len() * 2;
    let mut asked = 0;
    while let Some(target) = targets.pop().filter(|_| asked < most) {
        asked += 1;
        // Changes nothing for a member.
        let speaks = node.applied.speaks;
        let request = Request::SetNodeAddress { node: node.id, address: address.to_owned(), speaks };
        let answer =
            node.peers.call(&target, CallKind::Forward, encode(&request), limits::FORWARD_DEADLINE).await;
        if let Err(CallError::Refused(_, why)) = &answer
            && why.starts_with(RECOVERED)
        {
            return Some(Gone::LeftOut(why.clone()));
        }
        let answer = answer.ok().and_then(|body| decode::<ForwardAnswer>(&body).ok());
        match answer {
            Some(ForwardAnswer::Refused(refusal)) => {
                return (refusal.code == RefusalCode::NotFound).then_some(Gone::Removed);
            }
            Some(ForwardAnswer::NotLeader(Some((id, address)))) if id != node.id => {
                targets.push(PeerAddress::node(id, &address));
            }
            Some(ForwardAnswer::Reply(_)) => return None,
            _ => {}
        }
    }
    None
}

/// Takes peers out of the membership that the state names no more, while this peer leads. A removal has two steps, and the
/// leader that began one may have ended in between: then a peer that is gone for good would count for every majority.
pub async fn finish_removals(node: Arc<Node>) {
    loop {
        sleep(limits::REMOVED_LOOK).await;
        if !node.leader.leads() {
            continue;
        }
        let status = node.raft.status();
        let members = status.voters.keys().chain(status.learners.keys()).copied();
        // A leader cannot take itself out: it ends, and the next one does it.
        let removed = |id: &u64| *id != node.id.0 && node.applied.was_removed(NodeId(*id));
        for id in members.filter(removed) {
            match node.raft.remove(id).await {
                Ok(()) => tracing::info!(node = id, "a node that was removed is out of the membership now"),
                Err(MembershipError::UnknownPeer(_) | MembershipError::NotLeader { .. }) => {}
                Err(error) => {
                    tracing::warn!(node = id, %error, "a removed node is still a member; trying again");
                }
            }
        }
    }
}
