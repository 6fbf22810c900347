//! What a peer knows of itself and its cluster right now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{Instant, RaftMetrics, ServerState};

use crate::log::lock;
use crate::types::{LogId, PeerId, PeerInfo, Position, Types, position};

/// A peer's part in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Leads its term. It may have lost its quorum without knowing: see `Status::is_leader_with_quorum`.
    Leader,
    Follower,
    Candidate,
    /// Receives the log without a vote; also a peer that is in no cluster yet.
    Learner,
    /// Stopped, or its storage failed.
    Stopped,
}

/// A picture of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub id: PeerId,
    pub role: Role,
    pub term: u64,
    /// The leader of this term, when known.
    pub leader: Option<PeerId>,
    /// Index of the last entry in this peer's log.
    pub last_log: Option<u64>,
    /// The last entry this peer knows to be committed.
    pub committed: Option<Position>,
    /// The last entry the machine has applied.
    pub applied: Option<Position>,
    /// The last entry held by the newest snapshot.
    pub snapshot: Option<Position>,
    /// On a leader: how long ago the newest request was sent that a quorum has answered. `None`: never.
    pub quorum_ack_age: Option<Duration>,
    /// How old an answer of a quorum may be for the lead to count.
    pub lease: Duration,
    /// The voters of the newest membership in this peer's log; both sets while it changes. Shared by all pictures of one
    /// membership.
    pub voters: Arc<BTreeMap<PeerId, PeerInfo>>,
    pub learners: Arc<BTreeMap<PeerId, PeerInfo>>,
    /// True while two sets of voters hold.
    pub membership_changing: bool,
    /// On a leader: how many entries each other peer is behind. `None`: not known yet.
    pub lag: BTreeMap<PeerId, Option<u64>>,
}

impl Status {
    /// Whether this peer leads and a quorum answered within the lease: what health and planning go by.
    pub fn is_leader_with_quorum(&self) -> bool {
        let alone = self.voters.len() == 1 && self.voters.contains_key(&self.id);
        self.role == Role::Leader && (alone || self.quorum_ack_age.is_some_and(|age| age < self.lease))
    }

    /// The leader with its address, when both are known.
    pub fn leader_info(&self) -> Option<(PeerId, PeerInfo)> {
        let leader = self.leader?;
        let info = self.voters.get(&leader).or_else(|| self.learners.get(&leader))?;
        Some((leader, info.clone()))
    }

    pub(crate) fn read(
        metrics: &RaftMetrics<Types>,
        members: &LastMembers,
        lease: Duration,
        failed: bool,
    ) -> Self {
        let Members { voters, learners, changing, .. } = members.in_metrics(metrics);
        let role = if failed || metrics.running_state.is_err() { Role::Stopped } else { role(metrics.state) };
        let leads = role == Role::Leader;
        let acked = metrics.last_quorum_acked.map(|acked| acked.into_inner()).filter(|_| leads);
        Self {
            id: metrics.id,
            role,
            term: metrics.current_term,
            leader: metrics.current_leader,
            last_log: metrics.last_log_index,
            committed: metrics.local_committed.as_ref().map(position),
            applied: metrics.last_applied.as_ref().map(position),
            snapshot: metrics.snapshot.as_ref().map(position),
            quorum_ack_age: acked.map(|acked| acked.elapsed()),
            lease,
            voters,
            learners,
            membership_changing: changing,
            lag: if leads { lag(metrics) } else { BTreeMap::new() },
        }
    }

    /// Whether the parts that a watch tells about are the same.
    fn same_place(&self, other: &Self) -> bool {
        (self.role, self.term, self.leader, self.membership_changing)
            == (other.role, other.term, other.leader, other.membership_changing)
            && self.voters == other.voters
            && self.learners == other.learners
    }
}

/// A membership as statuses show it.
#[derive(Debug, Clone)]
struct Members {
    /// The entry that holds it: another membership has another entry.
    entry: Option<LogId>,
    voters: Arc<BTreeMap<PeerId, PeerInfo>>,
    learners: Arc<BTreeMap<PeerId, PeerInfo>>,
    changing: bool,
}

/// The membership that was shown last. Statuses are asked for several times with each request and each report, and
/// memberships change once in a while: so none of them copies it.
#[derive(Debug, Default)]
pub(crate) struct LastMembers(Mutex<Option<Members>>);

impl LastMembers {
    fn in_metrics(&self, metrics: &RaftMetrics<Types>) -> Members {
        let mut last = lock(&self.0);
        match &*last {
            Some(known) if known.entry == *metrics.membership_config.log_id() => known.clone(),
            _ => last.insert(Members::read(metrics)).clone(),
        }
    }
}

impl Members {
    fn read(metrics: &RaftMetrics<Types>) -> Self {
        let membership = metrics.membership_config.membership();
        let voters: Vec<PeerId> = membership.voter_ids().collect();
        let (mut voting, mut learning) = (BTreeMap::new(), BTreeMap::new());
        for (id, info) in membership.nodes() {
            let side = if voters.contains(id) { &mut voting } else { &mut learning };
            side.insert(*id, info.clone());
        }
        Self {
            entry: *metrics.membership_config.log_id(),
            voters: Arc::new(voting),
            learners: Arc::new(learning),
            changing: membership.get_joint_config().len() > 1,
        }
    }
}

fn role(state: ServerState) -> Role {
    match state {
        ServerState::Leader => Role::Leader,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner => Role::Learner,
        ServerState::Shutdown => Role::Stopped,
    }
}

fn lag(metrics: &RaftMetrics<Types>) -> BTreeMap<PeerId, Option<u64>> {
    let next = metrics.last_log_index.map_or(0, |index| index + 1);
    let peers = metrics.replication.iter().flatten().filter(|(id, _)| **id != metrics.id);
    peers
        .map(|(id, matched)| {
            let behind = matched.as_ref().map(|matched| next.saturating_sub(matched.index + 1));
            (*id, behind)
        })
        .collect()
}

type Metrics = openraft::alias::WatchReceiverOf<Types, RaftMetrics<Types>>;

/// Tells of changes of role, term, leader and membership.
pub struct StatusWatch {
    metrics: Metrics,
    members: Arc<LastMembers>,
    lease: Duration,
    last: Status,
    ended: bool,
}

impl StatusWatch {
    pub(crate) fn new(metrics: Metrics, members: Arc<LastMembers>, lease: Duration) -> Self {
        let last = Status::read(&metrics.borrow_watched(), &members, lease, false);
        Self { metrics, members, lease, last, ended: false }
    }

    /// The status when the last change was told (or the watch was made).
    pub fn last(&self) -> &Status {
        &self.last
    }

    /// Waits for the next change. After the peer stopped, it tells so once and then waits for ever.
    pub async fn changed(&mut self) -> Status {
        loop {
            if self.ended {
                std::future::pending::<()>().await;
            }
            self.ended = self.metrics.changed().await.is_err();
            let now = Status::read(&self.metrics.borrow_watched(), &self.members, self.lease, self.ended);
            self.ended |= now.role == Role::Stopped;
            if !now.same_place(&self.last) {
                self.last = now.clone();
                return now;
            }
        }
    }
}
