//! What a peer knows of itself and its cluster right now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{Instant, RaftMetrics, ServerState};

use crate::log::lock;
use crate::reachability::PeerReachability;
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
    /// How old an answer of a quorum may be for the lead to count, and how old the last word of a leader for it to count
    /// as one: the longest election timeout.
    pub lease: Duration,
    /// How long ago this peer heard a leader that it follows, or led with a quorum; since it was opened, when it never did.
    pub leader_silence: Duration,
    /// How long ago each other peer gave a sign of life to this one: an answer, or a request of its own. A leader hears
    /// of all peers at each heartbeat, a candidate of all voters at each election, a follower of its leader alone.
    pub contacts: BTreeMap<PeerId, Duration>,
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
        self.role == Role::Leader
            && (is_alone(self.id, &self.voters) || self.quorum_ack_age.is_some_and(|age| age < self.lease))
    }

    /// The leader, if it counts as one: it was heard within the election timeout, or is this peer and has its quorum.
    pub fn leader_in_contact(&self) -> Option<PeerId> {
        let counts = match self.role {
            Role::Leader => self.is_leader_with_quorum(),
            _ => self.leader_silence < self.lease,
        };
        self.leader.filter(|_| counts)
    }

    /// The leader with its address, when both are known.
    pub fn leader_info(&self) -> Option<(PeerId, PeerInfo)> {
        let leader = self.leader?;
        let info = self.voters.get(&leader).or_else(|| self.learners.get(&leader))?;
        Some((leader, info.clone()))
    }

    pub(crate) fn read(metrics: &RaftMetrics<Types>, known: &Known, failed: bool) -> Self {
        let Members { voters, learners, changing, .. } = known.members.in_metrics(metrics);
        let role = if failed || metrics.running_state.is_err() { Role::Stopped } else { role(metrics.state) };
        let leads = role == Role::Leader;
        let acked = metrics.last_quorum_acked.map(|acked| acked.into_inner()).filter(|_| leads);
        let quorum_ack_age = acked.map(|acked| acked.elapsed());
        let alone = leads && is_alone(metrics.id, &voters);
        if let Some(age) = Some(Duration::ZERO).filter(|_| alone).or(quorum_ack_age) {
            known.reachability.led(age);
        }
        Self {
            id: metrics.id,
            role,
            term: metrics.current_term,
            leader: metrics.current_leader,
            last_log: metrics.last_log_index,
            committed: metrics.local_committed.as_ref().map(position),
            applied: metrics.last_applied.as_ref().map(position),
            snapshot: metrics.snapshot.as_ref().map(position),
            quorum_ack_age,
            lease: known.lease,
            leader_silence: known.reachability.leader_silence(),
            contacts: known.reachability.contacts(),
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

/// What statuses are made of beside openraft's metrics.
pub(crate) struct Known {
    pub(crate) members: Arc<LastMembers>,
    pub(crate) reachability: Arc<PeerReachability>,
    pub(crate) lease: Duration,
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

/// Whether this peer is the one voter, which needs no answer of others.
fn is_alone(id: PeerId, voters: &BTreeMap<PeerId, PeerInfo>) -> bool {
    voters.len() == 1 && voters.contains_key(&id)
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
    known: Known,
    last: Status,
    ended: bool,
}

impl StatusWatch {
    pub(crate) fn new(metrics: Metrics, known: Known) -> Self {
        let last = Status::read(&metrics.borrow_watched(), &known, false);
        Self { metrics, known, last, ended: false }
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
            let now = Status::read(&self.metrics.borrow_watched(), &self.known, self.ended);
            self.ended |= now.role == Role::Stopped;
            if !now.same_place(&self.last) {
                self.last = now.clone();
                return now;
            }
        }
    }
}
