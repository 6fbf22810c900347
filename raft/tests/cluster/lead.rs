//! The lead: who has it, who takes it when its holder is gone, and what a leader without a quorum may not do.

use std::time::Duration;

use bytes::Bytes;
use stint_raft::*;

use crate::support::memory_disk::Faults;
use crate::support::{Cluster, info};
use crate::{plain, small_snapshots};

#[tokio::test(start_paused = true)]
async fn another_peer_leads_when_the_leader_stops_and_all_is_kept() {
    let mut cluster = Cluster::of_three(plain).await;
    for n in 0..20 {
        cluster.propose(&n.to_string()).await;
    }
    let mut watch = cluster.raft(2).watch();
    let before = tokio::time::Instant::now();
    cluster.stop(1).await;
    let next = cluster.leader().await;
    assert_ne!(next, 1);
    assert!(before.elapsed() < Duration::from_millis(1500), "failover took {:?}", before.elapsed());
    let status = tokio::time::timeout(Duration::from_secs(2), watch.changed()).await.unwrap();
    assert!(status.term >= watch.last().term);
    cluster.propose("after").await;
    cluster.start(1).await.unwrap();
    cluster.agree(&[1, 2, 3], 21).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_counts_only_while_it_is_heard() {
    let cluster = Cluster::of_three(small_snapshots).await;
    cluster.propose("one").await;
    let leader = cluster.leader().await;
    let others: Vec<PeerId> = (1..=3).filter(|id| *id != leader).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let lease = cluster.raft(leader).status().lease;
    for id in 1..=3 {
        let status = cluster.raft(id).status();
        assert_eq!(status.leader_in_contact(), Some(leader), "{status:?}");
        assert!(status.leader_silence < lease, "{status:?}");
    }
    let heard = cluster.raft(leader).status().contacts;
    assert!(others.iter().all(|id| heard[id] < lease), "a leader hears of all: {heard:?}");
    for id in 1..=3 {
        cluster.cut(id);
    }
    tokio::time::sleep(lease * 2).await;
    for id in 1..=3 {
        let status = cluster.raft(id).status();
        assert_eq!(status.leader_in_contact(), None, "{status:?}");
        assert!(status.leader_silence >= lease, "{status:?}");
        assert!(status.contacts.values().all(|age| *age >= lease), "{status:?}");
    }
    // Two of three see each other's elections before one of them leads again.
    others.iter().for_each(|id| cluster.heal(*id));
    let again = cluster.wait("a leader again", || cluster.raft(others[0]).status().leader_in_contact()).await;
    let status = cluster.raft(others[0]).status();
    assert!(again != leader && status.leader_silence < lease, "{status:?}");
    assert!(status.contacts[&others[1]] < lease * 2 && status.contacts[&leader] > lease * 2, "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn a_barrier_needs_a_quorum() {
    let cluster = Cluster::of_three(plain).await;
    let (index, _) = cluster.propose("one").await;
    let leader = cluster.leader().await;
    let second = Duration::from_secs(1);
    assert!(cluster.raft(leader).barrier(second).await.unwrap() >= index);
    let follower = cluster.running().into_iter().find(|id| *id != leader).unwrap();
    let refused = cluster.raft(follower).barrier(second).await;
    assert_eq!(refused, Err(BarrierError::NotLeader { leader: Some((leader, info(leader))) }));

    cluster.cut(leader);
    let begun = tokio::time::Instant::now();
    let refused = cluster.raft(leader).barrier(Duration::from_millis(200)).await;
    assert_eq!(refused, Err(BarrierError::NoQuorum));
    assert!(begun.elapsed() <= Duration::from_millis(210), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_a_quorum_says_so_and_refuses() {
    let cluster = Cluster::of_three(plain).await;
    cluster.propose("one").await;
    let old = cluster.leader().await;
    cluster.cut(old);
    let isolated = cluster.raft(old);
    let late = tokio::spawn(async move { isolated.propose(Bytes::from_static(b"late")).await });
    tokio::time::sleep(Duration::from_millis(400)).await;
    let status = cluster.raft(old).status();
    assert!(!status.is_leader_with_quorum(), "{status:?}");
    let refused = cluster.raft(old).propose(Bytes::from_static(b"never")).await;
    assert!(matches!(refused, Err(ProposeError::NotLeader { .. })), "{refused:?}");
    let new = cluster.wait("another leader", || {
        cluster
            .running()
            .into_iter()
            .find(|id| *id != old && cluster.raft(*id).status().is_leader_with_quorum())
    });
    let new = new.await;
    cluster.raft(new).propose(Bytes::from_static(b"two")).await.unwrap();
    cluster.heal(old);
    // What the old leader had taken in is discarded: its proposer cannot know.
    assert!(matches!(late.await.unwrap(), Err(ProposeError::Unknown(_))));
    cluster.agree(&[1, 2, 3], 2).await;
    assert_eq!(cluster.ledger(old).texts(), ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_ends_the_peer_and_another_leads() {
    let cluster = Cluster::of_three(plain).await;
    cluster.propose("one").await;
    let old = cluster.leader().await;
    let raft = cluster.raft(old);
    let fatal = tokio::spawn({
        let raft = raft.clone();
        async move { raft.fatal().await }
    });
    cluster.peers[&old].disk.faults(|now| *now = Faults { space: Some(100), ..Faults::default() });
    let failed = raft.propose(Bytes::from("x".repeat(500))).await;
    assert!(failed.is_err(), "{failed:?}");
    let status = tokio::time::timeout(Duration::from_secs(5), fatal).await.unwrap().unwrap();
    assert!(status.contains("The disk is full"), "{status}");
    assert_eq!(raft.propose(Bytes::from_static(b"no")).await, Err(ProposeError::Stopped));
    assert_eq!(raft.status().role, Role::Stopped);
    let new = cluster.wait("another leader", || {
        cluster
            .running()
            .into_iter()
            .find(|id| *id != old && cluster.raft(*id).status().is_leader_with_quorum())
    });
    let new = new.await;
    cluster.raft(new).propose(Bytes::from_static(b"two")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_lead_can_be_handed_over() {
    let cluster = Cluster::of_three(plain).await;
    cluster.propose("one").await;
    let second = Duration::from_secs(1);
    let begun = tokio::time::Instant::now();
    cluster.raft(1).transfer_leadership(Some(3), second).await.unwrap();
    assert_eq!(cluster.leader().await, 3);
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
    cluster.raft(3).transfer_leadership(None, second).await.unwrap();
    assert_ne!(cluster.leader().await, 3);
    let refused = cluster.raft(3).transfer_leadership(None, second).await;
    assert!(matches!(refused, Err(MembershipError::NotLeader { .. })), "{refused:?}");
    cluster.propose("two").await;
    cluster.agree(&[1, 2, 3], 2).await;
}
