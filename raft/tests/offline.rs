//! Folders of stopped peers: read whole, and made anew for one voter.
#![allow(clippy::unwrap_used, reason = "tests may stop at what they do not expect")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stint_raft::*;
use support::memory_disk::MemoryDisk;
use support::{Cluster, Ledger, SharedLedger, info};

/// Nobody is there.
struct Nobody;

impl Transport for Nobody {
    fn call(&self, _: PeerId, _: &PeerInfo, _: CallClass, _: Bytes, _: Duration) -> CallFuture {
        Box::pin(async { Err(TransportError::Unreachable("nobody".into())) })
    }
}

async fn open(id: PeerId, dir: &Path, ledger: &SharedLedger) -> Result<Raft<SharedLedger>, OpenError> {
    let options = RaftOptions {
        disk_id: Some(info(id).disk_id),
        snapshot_every_entries: 40,
        keep_entries_after_snapshot: 5,
        ..RaftOptions::new("test")
    };
    Raft::open(id, dir.to_owned(), options, ledger.clone(), Arc::new(Nobody)).await
}

async fn leads(raft: &Raft<SharedLedger>) {
    support::wait("a leader", || raft.status().is_leader_with_quorum().then_some(())).await;
}

/// A peer of a cluster that has a snapshot, entries after it, a learner, and a change of the voters that needs one who
/// is not there.
async fn lonely(dir: &Path) -> Ledger {
    let ledger = SharedLedger::default();
    let raft = open(7, dir, &ledger).await.unwrap();
    raft.bootstrap(info(7)).await.unwrap();
    leads(&raft).await;
    for n in 0..100 {
        raft.propose(Bytes::from(n.to_string())).await.unwrap();
    }
    support::wait("a snapshot", || raft.status().snapshot).await;
    raft.add_learner(8, info(8)).await.unwrap();
    raft.propose(Bytes::from_static(b"last")).await.unwrap();
    let known = ledger.lock().clone();
    raft.stop().await;
    known
}

#[tokio::test]
async fn a_folder_is_read_whole_and_begun_anew_by_one_voter() {
    let root = tempfile::tempdir().unwrap();
    let (old, new) = (root.path().join("old"), root.path().join("new"));
    let known = lonely(&old).await;
    let mut machine = SharedLedger::default();
    let read = read_log(&old, &mut machine).unwrap();
    assert_eq!(machine.lock().lines, known.lines);
    assert_eq!(read.voters.keys().collect::<Vec<_>>(), [&7]);
    assert_eq!(read.learners.keys().collect::<Vec<_>>(), [&8]);
    assert!(read.last.index > 100 && read.committed <= read.last, "{read:?}");

    let at = Position { index: read.last.index + 1_000, term: read.term + 10 };
    write_folder(&new, 9, info(9), at, machine.capture()).unwrap();
    let ledger = SharedLedger::default();
    let raft = open(9, &new, &ledger).await.unwrap();
    leads(&raft).await;
    let status = raft.status();
    assert!(status.term > at.term && status.learners.is_empty(), "{status:?}");
    assert_eq!(status.voters.keys().collect::<Vec<_>>(), [&9]);
    assert_eq!(ledger.lock().lines, known.lines);
    let (index, count) = raft.propose(Bytes::from_static(b"goes on")).await.unwrap();
    assert!(index > at.index && count == known.lines.len() + 1);
    for n in 0..100 {
        raft.propose(Bytes::from(n.to_string())).await.unwrap();
    }
    assert_eq!(raft.bootstrap(info(9)).await, Err(MembershipError::AlreadyInitialized));
    raft.stop().await;
    let again = SharedLedger::default();
    let raft = open(9, &new, &again).await.unwrap();
    leads(&raft).await;
    assert_eq!(again.lock().lines.len(), count + 100);
    raft.stop().await;
}

/// The files of a disk in memory, in a real folder.
fn write_out(disk: &MemoryDisk, to: &Path) {
    let from = disk.session();
    for part in ["log", "snapshots"] {
        let (dir, real) = (Path::new("/data").join(part), to.join(part));
        std::fs::create_dir_all(&real).unwrap();
        for name in from.list(&dir).unwrap() {
            let file = from.open(&dir.join(&name), OpenMode::Existing).unwrap();
            std::fs::write(real.join(&name), file.read_at(0, file.len().unwrap() as usize).unwrap()).unwrap();
        }
    }
}

/// The majority is lost in the middle of a change of the voters, which the survivor's log has and nobody committed: it may be one
/// of the old voters or the one that came, and a voter was added or taken out.
#[tokio::test]
async fn a_survivor_of_a_change_of_the_voters_begins_anew() {
    for takes_out in [false, true] {
        tokio::time::pause();
        let mut cluster = Cluster::of_three(|_| ()).await;
        cluster.propose("before").await;
        let leader = cluster.leader().await;
        let raft = cluster.raft(leader);
        let other = (1..=3).find(|id| *id != leader).unwrap();
        if !takes_out {
            cluster.start(4).await.unwrap();
            raft.add_learner(4, info(4)).await.unwrap();
            // A voter's promotion waits until it has what there is.
            support::wait("the learner's log", || (cluster.ledger(4).lines.len() == 1).then_some(())).await;
        }
        let last = raft.status().last_log;
        (1..=3).filter(|id| *id != leader).for_each(|id| cluster.cut(id));
        let change = tokio::spawn({
            let raft = raft.clone();
            async move { if takes_out { raft.remove(other).await } else { raft.promote(4).await } }
        });
        support::wait("the change in the log", || (raft.status().last_log > last).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!change.is_finished(), "it cannot be committed");
        change.abort();
        for id in cluster.running() {
            cluster.stop(id).await;
        }

        // From here on with a real disk, whose thread knows no paused clock.
        tokio::time::resume();
        let root = tempfile::tempdir().unwrap();
        let (old, new) = (root.path().join("old"), root.path().join("new"));
        write_out(&cluster.peers[&leader].disk, &old);
        let mut machine = SharedLedger::default();
        let read = read_log(&old, &mut machine).unwrap();
        // Both sets: whoever was a voter in either of them must be stopped for good.
        let expected: Vec<PeerId> = if takes_out { vec![1, 2, 3] } else { vec![1, 2, 3, 4] };
        assert_eq!(read.voters.keys().copied().collect::<Vec<_>>(), expected, "takes out: {takes_out}");
        assert!(read.committed < read.last, "{read:?}");
        let at = Position { index: read.last.index + 1_000, term: read.term + 10 };
        write_folder(&new, leader, info(leader), at, machine.capture()).unwrap();
        let ledger = SharedLedger::default();
        let raft = open(leader, &new, &ledger).await.unwrap();
        leads(&raft).await;
        assert_eq!(raft.status().voters.keys().copied().collect::<Vec<_>>(), [leader]);
        raft.propose(Bytes::from_static(b"after")).await.unwrap();
        assert_eq!(ledger.lock().texts(), ["before", "after"]);
        raft.stop().await;
    }
}

#[tokio::test]
async fn a_folder_that_is_in_use_is_not_read() {
    let root = tempfile::tempdir().unwrap();
    let ledger = SharedLedger::default();
    let raft = open(7, root.path(), &ledger).await.unwrap();
    let refused = read_log(root.path(), &mut SharedLedger::default()).unwrap_err();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    raft.stop().await;
}
