//! What a peer knows of an outage: since when no leader counts, and which voters are missing. Pure: it reads what Raft
//! shows of one moment.

use std::time::Duration;

use stint_protocol::NodeId;
use stint_raft::Status;
use stint_scheduler::State;

use crate::limits;

/// No leader counts: none was heard within the election timeout, and this peer does not lead with a quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// How long ago there was one.
    pub leaderless: Duration,
    /// Voters of the cluster.
    pub voters: usize,
    /// Voters that gave this peer no sign of life for two elections, and how long ago each gave its last one.
    pub missing: Vec<(NodeId, Option<Duration>)>,
}

impl Outage {
    /// The outage that a peer sees, if it sees one.
    pub fn seen(status: &Status) -> Option<Self> {
        if status.leader_in_contact().is_some() {
            return None;
        }
        let elections = (status.lease * 2).max(limits::VOTER_SILENCE);
        let missing = silent_voters(status, |age| age > elections);
        Some(Self { leaderless: status.leader_silence, voters: status.voters.len(), missing })
    }

    /// Whether the voters that are there can elect a leader: then one comes soon.
    pub fn has_majority(&self) -> bool {
        self.voters - self.missing.len() > self.voters / 2
    }

    /// Who is missing, in words: by name, with how long ago each was heard.
    pub fn who_is_missing(&self, state: &State) -> String {
        let (missing, voters) = (self.missing.len(), self.voters);
        if missing == 0 {
            return format!("all {voters} voters are there, and elect one");
        }
        let one = |(node, heard): &(NodeId, Option<Duration>)| {
            let name = state.node(*node).map_or_else(|| node.to_string(), |node| node.name.clone());
            match heard {
                Some(age) => format!("{name} (silent for {} s)", age.as_secs()),
                None => format!("{name} (not heard)"),
            }
        };
        let names: Vec<String> = self.missing.iter().map(one).collect();
        format!("{missing} of {voters} voters missing: {}", names.join(", "))
    }
}

/// The other voters that never gave a sign of life, or so long ago that they count as silent.
fn silent_voters(status: &Status, silent: impl Fn(Duration) -> bool) -> Vec<(NodeId, Option<Duration>)> {
    let others = status.voters.keys().filter(|id| **id != status.id);
    let heard = others.map(|id| (NodeId(*id), status.contacts.get(id).copied()));
    heard.filter(|(_, age)| age.is_none_or(&silent)).collect()
}

/// Whether a peer that was heard so long ago counts as unreachable.
pub fn is_silent(age: Duration) -> bool {
    age > limits::PEER_SILENCE
}

/// How many voters more may be lost before no majority is left: none when there is no majority now.
pub fn spare_voters(status: &Status) -> Option<usize> {
    let (voters, missing) = (status.voters.len(), silent_voters(status, is_silent).len());
    (voters - missing).checked_sub(voters / 2 + 1)
}

/// How long no leader may be there before a peer answers from its own copy: an election takes less.
pub fn read_patience(status: &Status) -> Duration {
    (status.lease * 2).min(limits::READ_PATIENCE)
}

/// How long no leader may be there, and no majority, before a peer refuses what would change something.
pub fn write_patience(status: &Status) -> Duration {
    status.lease * 2 + limits::WRITE_PATIENCE
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use stint_raft::{PeerInfo, Role};

    use super::*;

    const LEASE: Duration = Duration::from_millis(300);

    /// A follower, peer 1 of three, that heard its leader, peer 2, and peer 3 so many milliseconds ago.
    fn follower(leader_silence: u64, third: Option<u64>) -> Status {
        let ms = Duration::from_millis;
        let voters = (1..=3).map(|id| (id, PeerInfo::default())).collect();
        let contacts = [(2, Some(leader_silence)), (3, third)];
        Status {
            id: 1,
            role: Role::Follower,
            term: 4,
            leader: Some(2),
            last_log: None,
            committed: None,
            applied: None,
            snapshot: None,
            quorum_ack_age: None,
            lease: LEASE,
            leader_silence: ms(leader_silence),
            contacts: contacts.into_iter().filter_map(|(id, age)| Some((id, ms(age?)))).collect(),
            voters: Arc::new(voters),
            learners: Arc::default(),
            membership_changing: false,
            lag: BTreeMap::new(),
        }
    }

    #[test]
    fn a_leader_that_was_heard_within_the_election_timeout_is_no_outage() {
        assert_eq!(Outage::seen(&follower(299, None)), None);
        assert!(Outage::seen(&follower(300, None)).is_some());
    }

    #[test]
    fn an_election_with_a_majority_is_told_from_a_lost_majority() {
        let one_is_there = Outage::seen(&follower(5_000, Some(200))).unwrap();
        assert!(one_is_there.has_majority(), "{one_is_there:?}");
        assert_eq!(one_is_there.missing, [(NodeId(2), Some(Duration::from_secs(5)))]);
        let alone = Outage::seen(&follower(5_000, None)).unwrap();
        assert!(!alone.has_majority(), "{alone:?}");
        let said = alone.who_is_missing(&State::default());
        assert_eq!(said, "2 of 3 voters missing: 2 (silent for 5 s), 3 (not heard)");
    }

    #[test]
    fn spare_voters_are_those_beyond_a_majority() {
        assert_eq!(spare_voters(&follower(10, Some(10))), Some(1));
        assert_eq!(spare_voters(&follower(10, Some(5_000))), Some(0));
        assert_eq!(spare_voters(&follower(5_000, Some(5_000))), None);
    }
}
