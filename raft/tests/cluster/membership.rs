//! Membership: peers come and go one at a time, and one that lost its data is a new one.

use std::time::Duration;

use stint_raft::*;

use crate::plain;
use crate::support::{Cluster, info};

#[tokio::test(start_paused = true)]
async fn membership_changes_one_peer_at_a_time() {
    let mut cluster = Cluster::of_three(plain).await;
    let leader = cluster.raft(1);
    assert_eq!(leader.add_learner(2, info(2)).await, Err(MembershipError::AlreadyVoter(2)));
    let wiped = PeerInfo { disk_id: "new".into(), ..info(2) };
    assert!(matches!(leader.add_learner(2, wiped).await, Err(MembershipError::OtherDisk { id: 2, .. })));
    assert_eq!(leader.promote(9).await, Err(MembershipError::UnknownPeer(9)));
    assert!(matches!(cluster.raft(2).remove(3).await, Err(MembershipError::NotLeader { .. })));

    let moved = PeerInfo { addr: "elsewhere:2".into(), ..info(2) };
    leader.update_peer(2, moved.clone()).await.unwrap();
    assert_eq!(leader.status().voters[&2], moved);
    cluster.propose("one").await;
    cluster
        .wait("calls to the new address", || {
            cluster.net.lock().addresses.contains("elsewhere:2").then_some(())
        })
        .await;

    leader.demote(3).await.unwrap();
    assert!(leader.status().learners.contains_key(&3));
    leader.remove(3).await.unwrap();
    leader.remove(2).await.unwrap();
    let status = leader.status();
    assert_eq!((status.voters.len(), status.learners.len()), (1, 0), "{status:?}");
    assert_eq!(leader.remove(1).await, Err(MembershipError::LastVoter(1)));
    assert!(leader.status().is_leader_with_quorum(), "alone it is its own quorum");
    cluster.propose("two").await;

    cluster.start(4).await.unwrap();
    leader.add_learner(4, info(4)).await.unwrap();
    leader.add_learner(4, info(4)).await.unwrap();
    leader.promote(4).await.unwrap();
    cluster.agree(&[1, 4], 2).await;
    leader.remove(1).await.unwrap();
    let next =
        cluster.wait("the other to lead", || cluster.raft(4).status().is_leader_with_quorum().then_some(4));
    assert_eq!(next.await, 4);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_lost_its_data_is_refused_until_it_joins_anew() {
    let mut cluster = Cluster::of_three(plain).await;
    cluster.propose("one").await;
    let leader = cluster.raft(1);
    cluster.stop(3).await;
    cluster.peers.remove(&3);
    cluster.change = |options| {
        if options.disk_id.as_deref() == Some("disk-3") {
            options.disk_id = Some("disk-3-new".into());
        }
    };
    cluster.start(3).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let status = cluster.raft(3).status();
    assert_eq!((status.term, status.last_log), (0, None), "it takes neither votes nor entries: {status:?}");
    cluster.propose("two").await;

    let new = PeerInfo { disk_id: "disk-3-new".into(), ..info(3) };
    leader.remove(3).await.unwrap();
    leader.add_learner(3, new).await.unwrap();
    leader.promote(3).await.unwrap();
    cluster.agree(&[1, 2, 3], 2).await;
}
