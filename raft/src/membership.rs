//! Changes of the membership, and of the lead. All of them are for the leader to do.
//!
//! A change waits, 10 s at most, for the one before it to be committed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::error::MembershipError;
use crate::machine::StateMachine;
use crate::mutations::{Mutation, planted};
use crate::options::{CATCH_UP_DEADLINE, CATCH_UP_LAG, MEMBERSHIP_DEADLINE};
use crate::raft::{Raft, leader_of};
use crate::status::{Role, Status};
use crate::types::{PeerId, PeerInfo, Types};

type Change = ChangeMembers<PeerId, PeerInfo>;

/// Whether removed voters stay as learners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removed {
    Stay,
    Go,
}

/// One try's end.
enum ChangeFailure {
    /// The leader is too new, or another change is not committed yet: soon it may go.
    NotYet,
    Failed(MembershipError),
}

impl<M: StateMachine> Raft<M> {
    /// Lets a peer receive the log without a vote. Adding a learner again, with another address, updates it; with
    /// another data folder, it begins anew. A voter is refused: with another data folder it must be removed first.
    pub async fn add_learner(&self, id: PeerId, info: PeerInfo) -> Result<(), MembershipError> {
        let status = self.leading()?;
        if let Some(known) = status.voters.get(&id) {
            return Err(match known.disk_id == info.disk_id {
                true => MembershipError::AlreadyVoter(id),
                false => MembershipError::OtherDisk { id, known: known.disk_id.clone(), given: info.disk_id },
            });
        }
        match status.learners.get(&id) {
            Some(known) if *known == info => return Ok(()),
            Some(known) if known.disk_id == info.disk_id => return self.update_peer(id, info).await,
            // What the old folder acknowledged is kept by the peer's number: without the removal an empty folder
            // would pass for caught up, and get a vote.
            Some(_) => self.remove(id).await?,
            None => {}
        }
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(id, info)])), Removed::Stay).await
    }

    /// Gives a learner a vote, once it has caught up; waits up to 30 s for that.
    pub async fn promote(&self, id: PeerId) -> Result<(), MembershipError> {
        let status = self.leading()?;
        if status.voters.contains_key(&id) {
            return Err(MembershipError::AlreadyVoter(id));
        }
        if !status.learners.contains_key(&id) {
            return Err(MembershipError::UnknownPeer(id));
        }
        self.catch_up(id).await?;
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id])), Removed::Stay).await
    }

    /// Waits until a peer has caught up with this leader, up to 30 s.
    pub async fn catch_up(&self, id: PeerId) -> Result<(), MembershipError> {
        self.caught_up(id, CATCH_UP_DEADLINE).await
    }

    /// Takes a voter's vote; it stays as a learner.
    pub async fn demote(&self, id: PeerId) -> Result<(), MembershipError> {
        self.take_vote(id, Removed::Stay).await
    }

    /// Takes a peer out of the cluster. A leader may remove itself: it leads until that is committed.
    pub async fn remove(&self, id: PeerId) -> Result<(), MembershipError> {
        let status = self.leading()?;
        if status.learners.contains_key(&id) {
            return self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id])), Removed::Go).await;
        }
        self.take_vote(id, Removed::Go).await
    }

    /// Changes what the membership knows of a peer, such as its address. Its data folder must be the same.
    pub async fn update_peer(&self, id: PeerId, info: PeerInfo) -> Result<(), MembershipError> {
        let status = self.leading()?;
        let known = status.voters.get(&id).or_else(|| status.learners.get(&id));
        let known = known.ok_or(MembershipError::UnknownPeer(id))?;
        if known.disk_id != info.disk_id {
            return Err(MembershipError::OtherDisk { id, known: known.disk_id.clone(), given: info.disk_id });
        }
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(id, info)])), Removed::Stay).await
    }

    /// Hands the lead to a voter (the one that is least behind, when `None`) and waits until another peer leads.
    pub async fn transfer_leadership(
        &self,
        to: Option<PeerId>,
        deadline: Duration,
    ) -> Result<(), MembershipError> {
        let status = self.leading()?;
        let to = match to {
            Some(to) if to == self.0.id => return Ok(()),
            Some(to) if status.voters.contains_key(&to) => to,
            Some(to) => return Err(MembershipError::UnknownPeer(to)),
            None => successor(&status)
                .ok_or_else(|| MembershipError::Refused("no other voter is in contact".into()))?,
        };
        let triggered = self.seeded(self.0.core.trigger().transfer_leader(to)).await;
        triggered.map_err(|_| MembershipError::Stopped)?;
        let moved = |status: &Status| status.leader.is_some_and(|leader| leader != self.0.id);
        self.until(deadline, moved).await.map_err(|_| MembershipError::TimedOut)
    }

    async fn take_vote(&self, id: PeerId, removed: Removed) -> Result<(), MembershipError> {
        let status = self.leading()?;
        if !status.voters.contains_key(&id) {
            return Err(MembershipError::UnknownPeer(id));
        }
        if status.voters.len() == 1 {
            return Err(MembershipError::LastVoter(id));
        }
        self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id])), removed).await
    }

    async fn caught_up(&self, id: PeerId, deadline: Duration) -> Result<(), MembershipError> {
        // A leader that lost its own vote lags behind nobody, and no report says so.
        if id == self.0.id && !planted(Mutation::AwaitOwnReport) {
            return self.leading().map(drop);
        }
        let lag = |status: &Status| status.lag.get(&id).copied().flatten();
        let enough = |status: &Status| {
            status.role != Role::Leader || lag(status).is_some_and(|lag| lag <= CATCH_UP_LAG)
        };
        if let Err(last) = self.until(deadline, enough).await {
            let behind = lag(&last).or(last.last_log).unwrap_or_default();
            return Err(MembershipError::NotCaughtUp { id, lag: behind });
        }
        self.leading().map(drop)
    }

    /// Waits until the status satisfies `enough`; the last status, when it does not in time.
    async fn until(&self, deadline: Duration, enough: impl Fn(&Status) -> bool) -> Result<(), Box<Status>> {
        let mut metrics = self.0.core.metrics();
        let wait = async {
            while !enough(&self.status()) {
                if metrics.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        timeout(deadline, wait).await.map_err(|_| Box::new(self.status()))
    }

    fn leading(&self) -> Result<Status, MembershipError> {
        let status = self.status();
        match status.role {
            Role::Leader => Ok(status),
            Role::Stopped => Err(MembershipError::Stopped),
            _ => Err(MembershipError::NotLeader { leader: status.leader_info() }),
        }
    }

    async fn change(&self, change: Change, removed: Removed) -> Result<(), MembershipError> {
        let until = Instant::now() + MEMBERSHIP_DEADLINE;
        loop {
            let attempt = timeout_at(until, self.try_change(change.clone(), removed)).await;
            match attempt {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(ChangeFailure::Failed(error))) => return Err(error),
                Ok(Err(ChangeFailure::NotYet)) if Instant::now() < until => sleep(self.heartbeat()).await,
                Ok(Err(ChangeFailure::NotYet)) => return Err(MembershipError::InProgress),
                Err(_) => return Err(MembershipError::Unknown("not committed in time".into())),
            }
        }
    }

    async fn try_change(&self, change: Change, removed: Removed) -> Result<(), ChangeFailure> {
        let retain = removed == Removed::Stay;
        let changed = self.seeded(self.0.core.change_membership(change, retain)).await;
        changed.map(drop).map_err(attempt_error)
    }
}

/// The voter that is least behind, of those that were heard lately, and of equals the one with the lowest number.
fn successor(status: &Status) -> Option<PeerId> {
    let heard = |id: &PeerId| status.contacts.get(id).is_some_and(|age| *age < status.lease * 2);
    let others = status.voters.keys().filter(|id| **id != status.id && heard(id));
    others.min_by_key(|id| status.lag.get(*id).copied().flatten().unwrap_or(u64::MAX)).copied()
}

fn attempt_error(error: RaftError<Types, ClientWriteError<Types>>) -> ChangeFailure {
    let error = match error {
        RaftError::Fatal(error) => return ChangeFailure::Failed(MembershipError::Unknown(error.to_string())),
        RaftError::APIError(error) => error,
    };
    ChangeFailure::Failed(match error {
        ClientWriteError::ForwardToLeader(forward) => {
            MembershipError::NotLeader { leader: leader_of(&forward) }
        }
        ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::UncommittedLeaderLog(_) | ChangeMembershipError::InProgress(_),
        ) => return ChangeFailure::NotYet,
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::LearnerNotFound(missing)) => {
            MembershipError::UnknownPeer(missing.node_id)
        }
        ClientWriteError::ChangeMembershipError(error) => MembershipError::Refused(error.to_string()),
        ClientWriteError::PreconditionFailed(error) => MembershipError::Refused(error.to_string()),
        error @ ClientWriteError::LogEntryDiscarded(_) => MembershipError::Unknown(error.to_string()),
    })
}
