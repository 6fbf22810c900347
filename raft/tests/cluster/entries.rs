//! Entries: they reach every machine in order, and what is no proper entry or request is refused.

use std::time::Duration;

use bytes::Bytes;
use stint_raft::*;

use crate::plain;
use crate::support::{Cluster, info};

#[tokio::test(start_paused = true)]
async fn a_thousand_entries_reach_every_machine_in_order() {
    let cluster = Cluster::of_three(plain).await;
    let leader = cluster.raft(1);
    let many = (0..1000).map(|n| {
        let leader = leader.clone();
        tokio::spawn(async move { leader.propose(Bytes::from(n.to_string())).await.unwrap() })
    });
    let many: Vec<_> = many.collect();
    let mut replies = Vec::new();
    for one in many {
        replies.push(one.await.unwrap());
    }
    replies.sort_unstable();
    let counts: Vec<usize> = replies.iter().map(|(_, count)| *count).collect();
    assert_eq!(counts, (1..=1000).collect::<Vec<_>>(), "each reply is its own");
    cluster.agree(&[1, 2, 3], 1000).await;
    assert!(cluster.ledger(1).advanced >= 1, "the leader's blank entry went by");
    let status = leader.status();
    assert_eq!(status.voters.keys().copied().collect::<Vec<_>>(), vec![1, 2, 3]);
    assert!(status.learners.is_empty() && !status.membership_changing);
    assert_eq!(status.applied, status.committed);
    assert_eq!(cluster.raft(2).status().leader_info(), Some((1, info(1))));
}

/// A certificate speaks for its own peer alone: the requests of a leader are none when another one's certificate brings them.
#[tokio::test(start_paused = true)]
async fn a_peer_that_speaks_for_another_one_is_refused() {
    let cluster = Cluster::of_three(plain).await;
    let leader = cluster.leader().await;
    let other = leader % 3 + 1;
    cluster.net.lock().posing.insert(leader, 9);
    let led = || cluster.raft(other).status().leader_in_contact().filter(|led| *led != leader);
    cluster.wait("another leader", led).await;
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_not_for_this_peer_are_refused() {
    let cluster = Cluster::of_three(plain).await;
    let raft = cluster.raft(1);
    let refused = raft.handle(None, CallClass::Control, Bytes::new()).await;
    assert!(matches!(refused, Err(HandleError::Malformed(_))));
    let refused = raft.handle(None, CallClass::Control, Bytes::from_static(b"\x07nonsense")).await;
    assert!(matches!(refused, Err(HandleError::Malformed(what)) if what.contains("version 7")));
    let refused = raft.handle(None, CallClass::Control, Bytes::from_static(b"\x01nonsense")).await;
    assert!(matches!(refused, Err(HandleError::Malformed(_))));
}

#[tokio::test(start_paused = true)]
async fn too_large_and_too_late_entries_are_never_proposed() {
    let mut cluster = Cluster::of_three(|options| options.max_entry_bytes = 100).await;
    let raft = cluster.raft(1);
    let refused = raft.propose(Bytes::from(vec![0; 101])).await;
    assert_eq!(refused, Err(ProposeError::TooLarge { bytes: 101, limit: 100 }));
    raft.propose(Bytes::from(vec![0; 100])).await.unwrap();
    let refused = cluster.raft(2).propose(Bytes::from_static(b"x")).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some((1, info(1))) }));
    cluster.stop(1).await;
    assert_eq!(raft.propose(Bytes::from_static(b"x")).await, Err(ProposeError::Stopped));
    assert_eq!(raft.barrier(Duration::from_secs(1)).await, Err(BarrierError::Stopped));
    assert_eq!(raft.status().role, Role::Stopped);
}
