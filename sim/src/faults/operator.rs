//! What an operator does in the middle of everything: drains a node, changes who votes, moves the lead.

use super::Fault;
use crate::cluster::Cluster;
use crate::membership::VOTERS;
use crate::rng::SeededRng;

struct Drain(Option<u64>);

struct Transfer;

/// Who gets or loses a vote.
enum Change {
    Demoted(u64),
    Evicted(u64),
    Promoted(u64),
}

struct Membership {
    evict: bool,
    promote: bool,
    done: Option<Change>,
}

pub fn drain(_: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Drain(None))
}

pub fn transfer(_: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Transfer)
}

pub fn membership(rng: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Membership { evict: rng.one_in(3), promote: rng.one_in(3), done: None })
}

impl Fault for Drain {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        let id = cluster.any();
        cluster.operator.set_draining(id, true);
        self.0 = Some(id);
        format!("node {id} is to be drained")
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        if let Some(id) = self.0.take() {
            cluster.operator.set_draining(id, false);
        }
    }
}

impl Fault for Transfer {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        cluster.operator.transfer();
        "another peer is to lead".into()
    }

    fn end(&mut self, _: &mut Cluster<'_>) {}
}

impl Membership {
    fn choose(&self, cluster: &mut Cluster<'_>) -> Option<Change> {
        let voters: Vec<u64> = cluster.operator.voters().iter().copied().collect();
        let others: Vec<u64> = cluster.ids().into_iter().filter(|id| !voters.contains(id)).collect();
        if self.promote && !others.is_empty() && (voters.len() as u64) < VOTERS {
            return Some(Change::Promoted(*cluster.rng.pick(&others)));
        }
        if voters.len() < 2 {
            return None;
        }
        let id = *cluster.rng.pick(&voters);
        Some(if self.evict { Change::Evicted(id) } else { Change::Demoted(id) })
    }
}

impl Fault for Membership {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        self.done = self.choose(cluster);
        match &self.done {
            Some(Change::Demoted(id)) => {
                cluster.operator.set_voter(*id, false);
                format!("peer {id} is to lose its vote")
            }
            Some(Change::Evicted(id)) => {
                cluster.operator.evict(*id);
                format!("peer {id} is to leave the membership")
            }
            Some(Change::Promoted(id)) => {
                cluster.operator.set_voter(*id, true);
                format!("peer {id} is to vote")
            }
            None => "nobody is there to lose a vote".into(),
        }
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        match self.done.take() {
            Some(Change::Demoted(id) | Change::Evicted(id)) => cluster.operator.set_voter(id, true),
            Some(Change::Promoted(id)) => cluster.operator.set_voter(id, false),
            None => {}
        }
    }
}
