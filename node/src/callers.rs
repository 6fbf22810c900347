//! Which node calls, whether it is still a member, and what it may ask for.
//!
//! A certificate is good for as long as its node is a member, and nothing takes it back from the disk of a node that was
//! removed. So each call asks this peer's own state, also on a connection that was made before.
//!
//! The state may be behind. It must not keep out a node that joined a moment ago: a peer that lags may be the one vote
//! that it needs. Node ids only grow and are given once, so the state tells the two apart: who has an id that was given
//! and is no member was removed, and who has an id above all that were given has joined since. The latter is let in, for its
//! certificate says that a leader admitted it. A peer that lags may so let in one that was removed since; it stops as soon as
//! it has caught up.
//!
//! What is Raft's is taken from members of the newest membership in the log, too. A removal is first applied and then
//! leaves the membership, and a leader may be lost in between: until then the votes of that node count, and may be needed.

use bytes::Bytes;
use stint_protocol::NodeId;

use crate::blobs::message::RegistryRequest;
use crate::node::Node;
use crate::peers::Caller;
use crate::pki::{recovered_name, utc};
use crate::wire::{CallKind, ForwardAnswer, Refusal, RefusalCode, ReportAnswer, Request, encode};

/// How a peer of before is refused by a cluster that was recovered: by these words it knows that it is left out.
pub const RECOVERED: &str = "this cluster was recovered as ";

/// How a peer that cannot come back after the authority was changed begins to be refused.
pub const LEFT_BEHIND: &str = "the authority of the cluster was changed";

/// What becomes of a call whose caller is known.
pub enum Verdict {
    /// It is carried out.
    Serve,
    /// It is not, and this is the answer.
    Answer(Result<Bytes, String>),
}

impl Node {
    /// Looks at who calls before anything of the call is read.
    pub fn judge_caller(&self, caller: &Caller, kind: CallKind) -> Verdict {
        // Who wants to join shows a token, and who wants another certificate the one that it has.
        if kind.is_for_strangers() {
            return Verdict::Serve;
        }
        if let Some(id) = self.recovered.as_ref().filter(|id| !caller.carries(&recovered_name(id))) {
            let why =
                format!("{RECOVERED}{id} without the peers of before: empty the data folder and join anew");
            return Verdict::Answer(Err(why));
        }
        let Some(node) = caller.node() else {
            return Verdict::Answer(Err("the caller's certificate names no node".into()));
        };
        if self.was_removed(node, kind) {
            caller.log_refusal(kind, "it was removed from this cluster");
            return Verdict::Answer(refuse_removed(node, kind));
        }
        if !caller.is_vouched_for(self.certificates.changes(), || self.certificates.root()) {
            caller.log_refusal(kind, "the authority that issued its certificate is trusted no more");
            return Verdict::Answer(Err(format!(
                "{LEFT_BEHIND}, and the caller has no certificate of the new one"
            )));
        }
        let now = self.clock.wall();
        match caller.expired(now) {
            Some(ended) => {
                caller.log_refusal(kind, "its certificate has expired");
                let (ended, here) = (utc(ended), utc(now.0 / 1_000));
                Verdict::Answer(Err(format!(
                    "the caller's certificate ended at {ended}, and it is {here} here"
                )))
            }
            None => Verdict::Serve,
        }
    }

    /// Whether a caller of this node is refused what is of this kind, as it is no member any more.
    fn was_removed(&self, node: NodeId, kind: CallKind) -> bool {
        if !self.applied.was_removed(node) {
            return false;
        }
        let counts = || {
            let status = self.raft.status();
            status.voters.contains_key(&node.0) || status.learners.contains_key(&node.0)
        };
        !(kind.is_of_raft() && counts())
    }
}

/// In words that each kind of caller understands: it stops what it does, and ends.
fn refuse_removed(node: NodeId, kind: CallKind) -> Result<Bytes, String> {
    let why = format!(
        "node {node} was removed from this cluster, and its certificate is good for nothing: empty its data folder and join anew"
    );
    match kind {
        CallKind::Forward => Ok(encode(&ForwardAnswer::Refused(Refusal::new(RefusalCode::NotFound, why)))),
        CallKind::Report => Ok(encode(&ReportAnswer::Stale(why))),
        _ => Err(why),
    }
}

/// Refuses what a node asks for in the name of another one. What a user asks for any member passes on: the peer that
/// the user talked to has decided whether that user may.
pub fn check_request(caller: &Caller, request: &Request) -> Result<(), String> {
    let about = match request {
        Request::SetNodeAddress { node, .. }
        | Request::CertifyNode { node, .. }
        | Request::Registry(RegistryRequest::Lose { node, .. }) => *node,
        Request::Submit(_)
        | Request::Cancel(_)
        | Request::SetNodeMode { .. }
        | Request::RemoveNode(_)
        | Request::CreateJoinToken { .. }
        | Request::RevokeJoinToken { .. }
        | Request::CreateAccessToken(_)
        | Request::RevokeAccessToken { .. }
        | Request::ReadIndex
        | Request::LeaderView
        | Request::NotBegun
        | Request::RotateAuthority(_)
        | Request::DropOldAuthority { .. }
        | Request::Admit { .. }
        | Request::Enlist(_)
        | Request::TransferLeader(_)
        | Request::Registry(_)
        | Request::UpdateSettings(_) => return Ok(()),
    };
    check_node(caller, about)
}

/// Refuses a caller that is not this node.
pub fn check_node(caller: &Caller, node: NodeId) -> Result<(), String> {
    match caller.node() == Some(node) {
        true => Ok(()),
        false => Err(format!("the caller is not node {node}")),
    }
}

#[cfg(test)]
mod tests {
    use stint_protocol::version;

    use super::*;
    use crate::pki::{Authority, der};

    #[test]
    fn a_node_speaks_for_itself_alone_and_passes_on_what_users_ask_for() {
        let own = Authority::make().unwrap().issue_peer(NodeId(2), None).unwrap();
        let caller = Caller::new(vec![der(&own.certificate)], ([127, 0, 0, 1], 9).into());
        let moved = |node| {
            let request = Request::SetNodeAddress {
                node: NodeId(node),
                address: "a:1".into(),
                speaks: version::OLDEST,
            };
            check_request(&caller, &request)
        };
        let lost = |node| {
            let lose = RegistryRequest::Lose { node: NodeId(node), blobs: Vec::new() };
            check_request(&caller, &Request::Registry(lose))
        };
        assert_eq!((moved(2), lost(2)), (Ok(()), Ok(())));
        assert_eq!(moved(3).unwrap_err(), "the caller is not node 3");
        assert!(lost(1).is_err() && lost(22).is_err());
        assert_eq!(check_request(&caller, &Request::RemoveNode(NodeId(3))), Ok(()));
    }
}
