//! Snapshots: when they are taken, how they reach a peer that is far behind, and what a restart makes of them.

use std::path::Path;

use stint_raft::*;

use crate::small_snapshots;
use crate::support::{Cluster, info};

#[tokio::test(start_paused = true)]
async fn a_restart_of_all_keeps_everything() {
    let mut cluster = Cluster::of_three(small_snapshots).await;
    for n in 0..130 {
        cluster.propose(&n.to_string()).await;
    }
    cluster.agree(&[1, 2, 3], 130).await;
    let term = cluster.raft(1).status().term;
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    for id in 1..=3 {
        cluster.start(id).await.unwrap();
    }
    cluster.propose("after").await;
    cluster.agree(&[1, 2, 3], 131).await;
    assert!(cluster.ledger(1).restored >= 1, "a snapshot was used");
    let leader = cluster.leader().await;
    assert!(cluster.raft(leader).status().term > term, "a restarted leader needs an election");
    let again = cluster.raft(leader).bootstrap(info(leader)).await;
    assert_eq!(again, Err(MembershipError::AlreadyInitialized));
}

#[tokio::test(start_paused = true)]
async fn a_peer_far_behind_gets_a_snapshot_in_pieces_although_answers_are_lost() {
    let mut cluster = Cluster::of_three(small_snapshots).await;
    for id in 1..=3 {
        cluster.peers[&id].ledger.lock().ballast = 5 * 1024 * 1024;
    }
    for n in 0..200 {
        cluster.propose(&n.to_string()).await;
    }
    cluster.wait("a snapshot", || cluster.raft(1).status().snapshot).await;
    cluster.net.lock().lose_every_snapshot_answer = Some(3);
    cluster.start(4).await.unwrap();
    let leader = cluster.raft(cluster.leader().await);
    leader.add_learner(4, info(4)).await.unwrap();
    cluster.agree(&[1, 2, 3, 4], 200).await;
    assert_eq!(cluster.ledger(4).restored, 1, "it came by a snapshot");
    let calls = cluster.net.lock().snapshot_calls;
    assert!((6..40).contains(&calls), "{calls} requests for 6 pieces");
    assert_eq!(cluster.raft(4).status().role, Role::Learner);
    leader.promote(4).await.unwrap();
    assert!(leader.status().voters.contains_key(&4));

    // The installed snapshot is on its disk, and nothing else is left of the transfer.
    cluster.stop(4).await;
    let names = cluster.peers[&4].disk.session().list(Path::new("/data/snapshots")).unwrap();
    assert!(names.len() == 1 && names[0].ends_with(".snap"), "{names:?}");
    cluster.start(4).await.unwrap();
    cluster.agree(&[1, 2, 3, 4], 200).await;
}

#[tokio::test(start_paused = true)]
async fn snapshots_are_taken_by_bytes_too_and_the_log_stays_small() {
    let cluster = Cluster::of_three(|options| {
        options.snapshot_every_bytes = 50_000;
        options.keep_entries_after_snapshot = 0;
    })
    .await;
    for _ in 0..100 {
        cluster.propose(&"x".repeat(2000)).await;
    }
    let snapshot = cluster.wait("a snapshot", || cluster.raft(2).status().snapshot).await;
    assert!(snapshot.index < 200);
    let names = cluster.peers[&2].disk.session().list(Path::new("/data/log")).unwrap();
    let segments = names.iter().filter(|name| name.starts_with("segment-")).count();
    assert!(segments < 8, "200 kB in 16 kB segments would be 13: {names:?}");
}

#[tokio::test(start_paused = true)]
async fn snapshots_without_a_log_are_refused() {
    let mut cluster = Cluster::of_three(small_snapshots).await;
    for n in 0..120 {
        cluster.propose(&n.to_string()).await;
    }
    cluster.wait("a snapshot", || cluster.raft(2).status().snapshot).await;
    cluster.stop(2).await;
    let disk = cluster.peers[&2].disk.clone();
    let dir = Path::new("/data/snapshots");
    let snapshot = dir.join(disk.session().list(dir).unwrap().pop().unwrap());
    disk.corrupt(&snapshot, 60);
    let error = cluster.start(2).await.unwrap_err();
    assert!(matches!(&error, OpenError::Corrupt { path, .. } if *path == snapshot), "{error}");
    disk.corrupt(&snapshot, 60);
    let log = Path::new("/data/log");
    for name in disk.session().list(log).unwrap() {
        disk.session().remove(&log.join(name)).unwrap();
    }
    let error = cluster.start(2).await.unwrap_err();
    assert!(matches!(error, OpenError::LogMissing { .. }), "{error}");
}
