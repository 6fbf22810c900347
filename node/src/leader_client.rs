//! The way to whoever leads, this peer or another: where a request is carried out, what is tried again, and for how long.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stint_protocol::{NodeId, Version};
use stint_raft::Raft;
use stint_scheduler::State;
use tokio::time::{Instant, sleep, timeout};

use crate::applied_state::{AppliedState, NodeStateMachine};
use crate::leader::Leader;
use crate::limits;
use crate::mutations::{Mutation, planted};
use crate::peers::{PeerAddress, Peers};
use crate::requests::Requests;
use crate::wire::{
    CallKind, ForwardAnswer, LeaderView, Refusal, RefusalCode, Reply, Request, decode, encode,
};

/// Asks the leader for one peer.
pub struct LeaderClient {
    pub id: NodeId,
    pub raft: Raft<NodeStateMachine>,
    pub shared: Arc<AppliedState>,
    pub leader: Arc<Leader>,
    pub requests: Arc<Requests>,
    pub peers: Arc<Peers>,
}

/// How the leader is looked for. A repetition is harmless for every request here (submits carry a key).
struct Search {
    /// All tries together.
    deadline: Duration,
    /// One try.
    call_deadline: Duration,
    pause: Duration,
    /// Whether a refusal that says that nothing was done ends the search.
    takes_refusals: bool,
}

/// For clients: whoever waits for the answer can decide better than this peer what to do about a refusal.
const FOR_CLIENTS: Search = Search {
    deadline: limits::REQUEST_DEADLINE,
    call_deadline: limits::FORWARD_DEADLINE,
    pause: limits::RETRY_PAUSE,
    takes_refusals: true,
};

/// For a peer that is to be a member, or has moved: it is of no use before. Adding and promoting a learner is the longest
/// call, and another change of the membership that is under way refuses it.
const FOR_MEMBERSHIP: Search = Search {
    deadline: Duration::from_secs(60),
    call_deadline: Duration::from_secs(45),
    pause: limits::RETRY_PAUSE.saturating_mul(4),
    takes_refusals: false,
};

/// Whom one try asks.
#[derive(Clone)]
enum Target {
    /// The leader that this peer's log knows.
    Leader,
    /// A peer that may lead, or know who does.
    At(PeerAddress),
}

/// What one try came to.
#[derive(Debug)]
enum ForwardResult {
    Done(Reply),
    /// Nothing was done.
    Refused(Refusal),
    /// Nothing was done: another peer leads, if known.
    Elsewhere(Option<PeerAddress>),
    /// There was no leader, or it may or may not have been done.
    Open(Refusal),
}

/// Why a search ended without a reply.
enum SearchFailure {
    Refused(Refusal),
    TimeOver(Refusal),
}

fn judge(answer: Result<ForwardAnswer, Refusal>) -> ForwardResult {
    match answer {
        Ok(ForwardAnswer::Reply(reply)) => ForwardResult::Done(reply),
        Ok(ForwardAnswer::NotLeader(known)) => {
            ForwardResult::Elsewhere(known.map(|(id, address)| PeerAddress::node(id, &address)))
        }
        Ok(ForwardAnswer::Refused(refusal)) if refusal.code != RefusalCode::Unknown => {
            ForwardResult::Refused(refusal)
        }
        Ok(ForwardAnswer::Refused(refusal)) | Err(refusal) => ForwardResult::Open(refusal),
    }
}

/// Once a try may have been carried out, that is what the caller must know.
fn remember(last: &mut Refusal, new: Refusal) {
    if last.code != RefusalCode::Unknown || new.code == RefusalCode::Unknown {
        *last = new;
    }
}

impl LeaderClient {
    /// Has a request carried out wherever the leader is.
    pub async fn ask(&self, request: Request) -> Result<Reply, Refusal> {
        match self.search(&FOR_CLIENTS, &[Target::Leader], request).await {
            Ok(reply) => Ok(reply),
            Err(SearchFailure::Refused(refusal)) => Err(refusal),
            Err(SearchFailure::TimeOver(last)) => {
                let waited = FOR_CLIENTS.deadline.as_secs();
                let message =
                    format!("no leader answered within {waited} s ({last}): is a majority of the peers up?");
                Err(Refusal::new(last.code, message))
            }
        }
    }

    /// Asks these peers, and where they say the leader is, for a peer whom the leader cannot call: not a member yet, or
    /// moved. The log's index once it is done.
    pub async fn ask_at(&self, peers: &[PeerAddress], request: Request) -> Result<u64, Refusal> {
        let targets: Vec<Target> = peers.iter().cloned().map(Target::At).collect();
        match self.search(&FOR_MEMBERSHIP, &targets, request).await {
            Ok(Reply::Done { index }) => Ok(index),
            Ok(other) => Err(unexpected(&other)),
            Err(SearchFailure::Refused(refusal) | SearchFailure::TimeOver(refusal)) => Err(refusal),
        }
    }

    async fn search(
        &self,
        search: &Search,
        targets: &[Target],
        request: Request,
    ) -> Result<Reply, SearchFailure> {
        let until = Instant::now() + search.deadline;
        let mut last = Refusal::new(RefusalCode::Unavailable, "no leader is known");
        let mut next = targets.to_vec();
        loop {
            for target in std::mem::take(&mut next) {
                match judge(self.attempt(&target, &request, search.call_deadline).await) {
                    ForwardResult::Done(reply) => return Ok(reply),
                    ForwardResult::Refused(refusal) if search.takes_refusals => {
                        return Err(SearchFailure::Refused(refusal));
                    }
                    ForwardResult::Refused(refusal) | ForwardResult::Open(refusal) => {
                        remember(&mut last, refusal)
                    }
                    // Its own log tells a member soon who leads.
                    ForwardResult::Elsewhere(Some(address)) if matches!(target, Target::At(_)) => {
                        next.push(Target::At(address));
                    }
                    ForwardResult::Elsewhere(_) => {}
                }
            }
            if Instant::now() + search.pause >= until {
                return Err(SearchFailure::TimeOver(last));
            }
            if next.is_empty() {
                sleep(search.pause).await;
                next = targets.to_vec();
            }
        }
    }

    async fn attempt(
        &self,
        target: &Target,
        request: &Request,
        deadline: Duration,
    ) -> Result<ForwardAnswer, Refusal> {
        if self.leader.leads() {
            // In a box: all that a leader does would lie in the future of each caller.
            return Ok(Box::pin(self.requests.answer(request.clone())).await);
        }
        let unknown = |why: String| Refusal::new(RefusalCode::Unknown, why);
        let body = match target {
            Target::Leader => self.call(CallKind::Forward, encode(request), deadline).await?,
            Target::At(address) => {
                let answer = self.peers.call(address, CallKind::Forward, encode(request), deadline).await;
                answer.map_err(|e| unknown(e.to_string()))?
            }
        };
        decode(&body).map_err(unknown)
    }

    /// Calls the leader; gives up at once when another peer leads, or none is known any more. `Unavailable`: the
    /// call was never sent.
    pub async fn call(&self, kind: CallKind, body: Bytes, deadline: Duration) -> Result<Bytes, Refusal> {
        let mut watch = self.raft.watch();
        let Some((leader, address)) = self.leader_address() else {
            return Err(Refusal::new(RefusalCode::Unavailable, "no leader is known"));
        };
        let unknown = |why: String| Refusal::new(RefusalCode::Unknown, why);
        let replaced = async { while watch.changed().await.leader == Some(leader.0) {} };
        tokio::select! {
            answer = self.peers.call(&address, kind, body, deadline) => answer.map_err(|e| unknown(e.to_string())),
            () = replaced => Err(unknown(format!("node {leader} does not lead any more"))),
        }
    }

    fn leader_address(&self) -> Option<(NodeId, PeerAddress)> {
        let (leader, info) = self.raft.status().leader_info().filter(|(id, _)| *id != self.id.0)?;
        Some((NodeId(leader), PeerAddress::node(NodeId(leader), &info.addr)))
    }

    /// The state, no older than this call: every peer gives the same answers.
    pub async fn read(&self) -> Result<State, Refusal> {
        if planted(Mutation::StaleRead) {
            return Ok(self.shared.view().state);
        }
        match self.ask(Request::ReadIndex).await? {
            Reply::Index(index) => self.read_at(index).await,
            other => Err(unexpected(&other)),
        }
    }

    /// The state once this peer has applied `index`.
    pub async fn read_at(&self, index: u64) -> Result<State, Refusal> {
        let mut applied = self.shared.applied();
        let caught_up = applied.wait_for(|at| *at >= index);
        match timeout(limits::REQUEST_DEADLINE, caught_up).await {
            Ok(Ok(_)) => Ok(self.shared.view().state),
            _ => Err(Refusal::new(
                RefusalCode::Unavailable,
                "this peer lags behind the leader: ask another one",
            )),
        }
    }

    /// What only the leader knows, with the state it belongs to.
    pub async fn view(&self) -> Result<(LeaderView, State), Refusal> {
        match self.ask(Request::LeaderView).await? {
            Reply::LeaderView(view) => {
                let state = self.read_at(view.index).await?;
                Ok((view, state))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Refuses what the cluster does not speak yet: a leader that runs an earlier program would not see it.
    pub fn check_speaks(&self, needed: Version) -> Result<(), Refusal> {
        let state = self.shared.view().state;
        if state.version() >= needed {
            return Ok(());
        }
        Err(Refusal::new(RefusalCode::Conflict, state.version_too_low().to_string()))
    }
}

/// A reply that does not belong to its request; what became of the request is not known.
pub fn unexpected(reply: &Reply) -> Refusal {
    Refusal::new(RefusalCode::Unknown, format!("the leader gave an answer of another kind: {reply:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: RefusalCode) -> Refusal {
        Refusal::new(code, "why")
    }

    #[test]
    fn a_refusal_ends_a_search_unless_the_request_may_have_been_carried_out() {
        for code in [RefusalCode::Invalid, RefusalCode::Unavailable, RefusalCode::Conflict] {
            let verdict = judge(Ok(ForwardAnswer::Refused(refusal(code))));
            assert!(matches!(verdict, ForwardResult::Refused(refusal) if refusal.code == code), "{code:?}");
        }
        let unknown = refusal(RefusalCode::Unknown);
        for answer in [Ok(ForwardAnswer::Refused(unknown.clone())), Err(refusal(RefusalCode::Unavailable))] {
            assert!(matches!(judge(answer), ForwardResult::Open(_)));
        }
        let known = Some((NodeId(2), "10.0.0.2:7001".to_string()));
        let ForwardResult::Elsewhere(found) = judge(Ok(ForwardAnswer::NotLeader(known))) else {
            panic!("another peer leads");
        };
        assert_eq!(found, Some(PeerAddress::node(NodeId(2), "10.0.0.2:7001")));
    }

    #[test]
    fn what_may_have_been_done_is_not_forgotten_for_what_was_not() {
        let mut last = refusal(RefusalCode::Unavailable);
        remember(&mut last, refusal(RefusalCode::Unknown));
        remember(&mut last, refusal(RefusalCode::Unavailable));
        assert_eq!(last.code, RefusalCode::Unknown);
        remember(&mut last, Refusal::new(RefusalCode::Unknown, "newer"));
        assert_eq!(last.message, "newer");
    }
}
