//! Answers while no leader counts. What only reads is answered from this peer's own copy, and marked; what would change
//! something is refused soon, with who is missing. While there is a leader, every answer is as new as its question.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use stint_protocol::{NodeId, api};
use stint_scheduler::State;
use tokio::time::{Instant, sleep, timeout};

use super::{Service, ServiceError};
use crate::limits;
use crate::outage::{self, Outage};
use crate::wire::{Reply, Request};

/// The cluster with what is known of its peers: by the leader, or by this peer where there is none.
pub(super) struct ClusterView {
    pub state: State,
    pub leader: Option<NodeId>,
    /// Nodes that may get work; without a leader those that gave a sign of life.
    pub reachable: BTreeSet<NodeId>,
    pub lag: BTreeMap<NodeId, u64>,
    /// How long ago each other peer gave a sign of life; none when nobody tells.
    pub contacts: Option<BTreeMap<NodeId, Duration>>,
    pub alarms: Vec<String>,
    /// Voters that may be lost before no majority is left; none where that is not known, or there is none now.
    pub can_lose: Option<u32>,
}

impl ClusterView {
    /// Whether a peer gave a sign of life lately, as far as anybody tells.
    pub fn is_there(&self, peer: NodeId) -> bool {
        let heard = |contacts: &BTreeMap<NodeId, Duration>| {
            contacts.get(&peer).is_some_and(|age| !outage::is_silent(*age))
        };
        self.leader == Some(peer) || self.contacts.as_ref().is_none_or(heard)
    }
}

/// How long an answer waits for a leader.
#[derive(Clone, Copy)]
enum Patience {
    /// A second at most: the copy is there all the while.
    ToRead,
    /// As long as a majority is there and may elect a leader.
    ToWrite,
}

impl Service {
    /// The state, no older than this call; without a leader this peer's own copy, which marks the answer.
    pub(super) async fn read(&self) -> Result<State, ServiceError> {
        match self.unless_leaderless(Patience::ToRead, self.node.leader_client.read()).await {
            Ok(read) => Ok(read?),
            Err(NoLeader { outage, .. }) => Ok(self.own_copy(&outage)),
        }
    }

    /// Has a request carried out wherever the leader is.
    pub(super) async fn ask(&self, request: Request) -> Result<Reply, ServiceError> {
        match self.unless_leaderless(Patience::ToWrite, self.node.leader_client.ask(request)).await {
            Ok(reply) => Ok(reply?),
            Err(NoLeader { outage, tried }) => {
                let missing = outage.who_is_missing(&self.node.applied.view().state);
                Err(ServiceError::NoLeader { silence: outage.leaderless, missing, tried })
            }
        }
    }

    /// The cluster as its leader sees it; without one, as this peer does, which marks the answer.
    pub(super) async fn cluster_view(&self) -> Result<ClusterView, ServiceError> {
        let view = match self.unless_leaderless(Patience::ToRead, self.node.leader_client.view()).await {
            Ok(view) => view?,
            Err(NoLeader { outage, .. }) => return Ok(self.own_view(&outage)),
        };
        let (view, state) = view;
        let raft = self.node.raft.status();
        // None: a leader of an earlier version does not tell.
        let ages = view.contacts;
        let contacts: Option<BTreeMap<NodeId, Duration>> =
            ages.map(|ages| ages.into_iter().map(|(peer, ms)| (peer, Duration::from_millis(ms))).collect());
        let is_silent = |node: &NodeId| {
            let heard =
                |contacts: &BTreeMap<_, _>| contacts.get(node).is_some_and(|age| !outage::is_silent(*age));
            *node != view.leader && contacts.as_ref().is_some_and(|contacts| !heard(contacts))
        };
        let voters: Vec<NodeId> = raft.voters.keys().map(|id| NodeId(*id)).collect();
        let there = voters.iter().filter(|node| !is_silent(node)).count();
        let can_lose = contacts.as_ref().and_then(|_| there.checked_sub(voters.len() / 2 + 1));
        Ok(ClusterView {
            leader: Some(view.leader),
            // Sooner than its reports are missed.
            reachable: view.reachable.into_iter().filter(|n| !(voters.contains(n) && is_silent(n))).collect(),
            lag: view.lag.into_iter().collect(),
            can_lose: can_lose.map(|more| more as u32),
            contacts,
            alarms: view.alarms,
            state,
        })
    }

    fn own_view(&self, outage: &Outage) -> ClusterView {
        let raft = self.node.raft.status();
        let contacts: BTreeMap<NodeId, Duration> =
            raft.contacts.iter().map(|(peer, age)| (NodeId(*peer), *age)).collect();
        let there = contacts.iter().filter(|(_, age)| !outage::is_silent(**age)).map(|(peer, _)| *peer);
        ClusterView {
            reachable: there.chain([self.node.id]).collect(),
            state: self.own_copy(outage),
            leader: None,
            lag: BTreeMap::new(),
            contacts: Some(contacts),
            alarms: Vec::new(),
            can_lose: outage::spare_voters(&raft).map(|n| n as u32),
        }
    }

    /// This peer's own copy of the state; the answer is marked from now on.
    fn own_copy(&self, outage: &Outage) -> State {
        let state = self.node.applied.view().state;
        let mark = api::Outdated {
            no_leader_since_ms: self.node.clock.wall().0.saturating_sub(outage.leaderless.as_millis() as u64),
            as_of_ms: state.time().0,
            missing: outage.who_is_missing(&state),
        };
        // The first mark stays: later looks of one answer are no older.
        let _ = self.outdated.set(mark);
        state
    }

    /// Returns once a node is known to be lost: it is asked for nothing any more. A new leader has not heard of those that are there
    /// either, so one look is not enough; and most are asked nothing, as the answer is there before the first.
    pub(super) async fn until_gone(&self, node: NodeId) {
        if node == self.node.id {
            return std::future::pending().await;
        }
        let (mut pause, mut was_silent) = (limits::THERE_FIRST_LOOK, false);
        while self.node.applied.view().state.node(node).is_some() {
            sleep(pause).await;
            pause = limits::THERE_LOOK;
            let Ok(view) = self.cluster_view().await else { continue };
            let is_silent = !view.reachable.contains(&node) && !view.is_there(node);
            if is_silent && was_silent {
                return;
            }
            was_silent = is_silent;
        }
    }

    /// What another node tells, unless the answer is made without a leader and that node is likely to be away, too.
    pub(super) async fn unless_away<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        match self.outdated() {
            Some(_) => timeout(limits::OUTAGE_READ, answer).await.ok(),
            None => Some(answer.await),
        }
    }

    /// What the answer may lack, if it was made without a leader.
    pub fn outdated(&self) -> Option<&api::Outdated> {
        self.outdated.get()
    }

    /// What this peer's copy does not have may be there all the same.
    pub fn judge(&self, error: ServiceError) -> ServiceError {
        match self.outdated() {
            Some(mark) if error.is_not_found() => {
                ServiceError::NotInCopy { what: Box::new(error), missing: mark.missing.clone() }
            }
            _ => error,
        }
    }

    /// What `asked` answers, unless no leader counts for longer than anybody should wait for one.
    async fn unless_leaderless<T>(
        &self,
        patience: Patience,
        asked: impl Future<Output = T>,
    ) -> Result<T, NoLeader> {
        let (began, mut tried) = (Instant::now(), false);
        tokio::pin!(asked);
        loop {
            if let Some(outage) = self.hopeless(patience, began.elapsed()) {
                return Err(NoLeader { outage, tried });
            }
            tried = true;
            tokio::select! {
                biased;
                answer = &mut asked => return Ok(answer),
                () = sleep(limits::OUTAGE_LOOK) => {}
            }
        }
    }

    /// The outage, if there is one that whoever waits so long should not wait for.
    fn hopeless(&self, patience: Patience, waited: Duration) -> Option<Outage> {
        let status = self.node.raft.status();
        let outage = Outage::seen(&status)?;
        let beyond = match patience {
            Patience::ToRead => {
                outage.leaderless >= outage::read_patience(&status)
                    && (!outage.has_majority() || waited >= limits::READ_WAIT)
            }
            Patience::ToWrite => {
                outage.leaderless >= outage::write_patience(&status) && !outage.has_majority()
            }
        };
        beyond.then_some(outage)
    }
}

/// There is no leader to answer.
struct NoLeader {
    outage: Outage,
    /// A leader may have been asked before it was gone.
    tried: bool,
}
