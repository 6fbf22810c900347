//! The operator: says how the cluster should be (who votes, which nodes drain), and repeats it until it is so.

use std::collections::BTreeSet;

use stint_node::wire::Request;
use stint_protocol::{NodeId, version};
use stint_raft::{Role, Status};
use stint_scheduler::{NodeMode, State};

use crate::peer::Peer;

/// How often the operator looks, in milliseconds.
const LOOK_MS: u64 = 400;
/// How long a change is given before it is asked for again, in milliseconds.
const PATIENCE_MS: u64 = 3_000;

/// What still runs on a draining node after this is stopped, in milliseconds.
const DRAIN_MS: u64 = 1_500;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Gets nothing new, or again; what runs there is stopped after so many milliseconds.
    Drain(u64, bool, Option<u64>),
    /// Becomes a learner and then a voter.
    Enlist(u64),
    /// Becomes a learner.
    Demote(u64),
    /// Leaves the membership; its node stays known.
    Evict(u64),
    /// The lead goes to another voter.
    Transfer,
}

impl Operation {
    /// As any peer takes it; none for what only the leader can do itself.
    pub fn request(&self) -> Option<Request> {
        let mode = |drains: &bool| if *drains { NodeMode::Draining } else { NodeMode::Ready };
        match self {
            Operation::Drain(node, drains, within_ms) => {
                Some(Request::SetNodeMode { node: NodeId(*node), mode: mode(drains), within_ms: *within_ms })
            }
            Operation::Enlist(node) => Some(Request::Enlist(NodeId(*node))),
            Operation::Transfer => Some(Request::TransferLeader(None)),
            Operation::Demote(_) | Operation::Evict(_) => None,
        }
    }
}

/// What is wanted, and when it was asked for last.
#[derive(Default)]
pub struct Operator {
    voters: BTreeSet<u64>,
    evicted: BTreeSet<u64>,
    draining: BTreeSet<u64>,
    transfers: u32,
    next_look_ms: u64,
    asked: Option<(Operation, u64)>,
    tries: u64,
}

impl Operator {
    /// These vote, the others only execute.
    pub fn new(voters: BTreeSet<u64>) -> Self {
        Self { voters, ..Self::default() }
    }

    /// Who should vote now.
    pub fn voters(&self) -> &BTreeSet<u64> {
        &self.voters
    }

    /// Gives or takes a vote.
    pub fn set_voter(&mut self, id: u64, votes: bool) {
        if votes {
            self.voters.insert(id);
            self.evicted.remove(&id);
        } else {
            self.voters.remove(&id);
        }
    }

    /// Takes a voter out of the membership altogether, until it is to vote again.
    pub fn evict(&mut self, id: u64) {
        self.voters.remove(&id);
        self.evicted.insert(id);
    }

    /// Drains a node or lets it work again.
    pub fn set_draining(&mut self, id: u64, draining: bool) {
        if draining {
            self.draining.insert(id);
        } else {
            self.draining.remove(&id);
        }
    }

    /// Asks once for another leader.
    pub fn transfer(&mut self) {
        self.transfers += 1;
    }

    /// What to ask for now, and of whom only the leader will do.
    pub fn step(&mut self, now_ms: u64, peers: &[Peer]) -> Option<Operation> {
        if now_ms < self.next_look_ms {
            return None;
        }
        self.next_look_ms = now_ms + LOOK_MS;
        if self.transfers > 0 {
            self.transfers -= 1;
            return Some(Operation::Transfer);
        }
        let next = self.difference(peers)?;
        if self.asked.as_ref().is_some_and(|(last, at)| *last == next && now_ms < at + PATIENCE_MS) {
            return None;
        }
        self.asked = Some((next.clone(), now_ms));
        self.tries += 1;
        Some(next)
    }

    /// What a leader still has to change, if one is known.
    fn difference(&self, peers: &[Peer]) -> Option<Operation> {
        let leads = |peer: &&Peer| peer.node().is_some_and(|node| node.raft.status().role == Role::Leader);
        let newest =
            peers.iter().filter(leads).filter_map(Peer::node).max_by_key(|n| n.raft.status().term)?;
        self.membership(&newest.raft.status()).or_else(|| {
            let state = newest.applied.view().state;
            let wrong = |id: u64, mode: NodeMode| self.draining.contains(&id) != (mode == NodeMode::Draining);
            let node = state.nodes().find(|node| wrong(node.id.0, node.mode))?;
            let drains = self.draining.contains(&node.id.0);
            Some(Operation::Drain(node.id.0, drains, self.within_ms(&state, node.id.0).filter(|_| drains)))
        })
    }

    /// Every other node is to be empty soon; the rest may take their time. Where the cluster does not speak that yet, it
    /// is tried with every other request: it is refused, and the next one does without.
    fn within_ms(&self, state: &State, node: u64) -> Option<u64> {
        let spoken = state.version() >= version::DRAIN_DEADLINE;
        let number = if spoken { node } else { self.tries };
        number.is_multiple_of(2).then_some(DRAIN_MS)
    }

    fn membership(&self, status: &Status) -> Option<Operation> {
        if let Some(id) = self.voters.iter().find(|id| !status.voters.contains_key(id)) {
            return Some(Operation::Enlist(*id));
        }
        let members = status.voters.keys().chain(status.learners.keys());
        if let Some(id) = members.clone().find(|id| self.evicted.contains(id)) {
            return Some(Operation::Evict(*id));
        }
        let too_many = status.voters.keys().find(|id| !self.voters.contains(id));
        too_many.map(|id| Operation::Demote(*id))
    }

    /// Everything is as wanted; if not, what is still to be done.
    pub fn content(&self, peers: &[Peer]) -> Result<(), String> {
        match self.difference(peers) {
            Some(operation) => Err(format!("the operator still asks for {operation:?}")),
            None => Ok(()),
        }
    }
}
