//! `leader_id_std::LeaderId`, whose order can be made that of openraft's default: who leads a term loses it to a candidate
//! of the same term with a higher number.

use std::cmp::Ordering;
use std::fmt;

use openraft::vote::leader_id_std::CommittedLeaderId;
use openraft::vote::{LeaderIdCompare, RaftLeaderId};
use serde::{Deserialize, Serialize};

use super::{Mutation, planted};
use crate::types::PeerId;

/// Who leads a term, or wants to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaderId {
    pub(crate) term: u64,
    pub(crate) voted_for: PeerId,
}

impl PartialOrd for LeaderId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match planted(Mutation::SeveralLeadersATerm) {
            true => LeaderIdCompare::adv(self, other),
            false => LeaderIdCompare::std(self, other),
        }
    }
}

impl PartialEq<CommittedLeaderId<u64>> for LeaderId {
    fn eq(&self, _: &CommittedLeaderId<u64>) -> bool {
        false
    }
}

impl PartialOrd<CommittedLeaderId<u64>> for LeaderId {
    fn partial_cmp(&self, other: &CommittedLeaderId<u64>) -> Option<Ordering> {
        // In one term, who was elected comes after who is not yet.
        Some(self.term.cmp(&other.term).then(Ordering::Less))
    }
}

impl fmt::Display for LeaderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "T{}-N{}", self.term, self.voted_for)
    }
}

impl RaftLeaderId for LeaderId {
    type Term = u64;
    type NodeId = PeerId;
    type Committed = CommittedLeaderId<u64>;

    fn new(term: u64, node_id: PeerId) -> Self {
        Self { term, voted_for: node_id }
    }

    fn term(&self) -> u64 {
        self.term
    }

    fn node_id(&self) -> &PeerId {
        &self.voted_for
    }

    fn to_committed(&self) -> CommittedLeaderId<u64> {
        CommittedLeaderId::new(self.term)
    }
}
