//! A single peer with threads, real files and real time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stint_raft::*;

use crate::support::{self, info};

struct Nobody;

impl Transport for Nobody {
    fn call(&self, _: PeerId, _: &PeerInfo, _: CallClass, _: Bytes, _: Duration) -> CallFuture {
        Box::pin(async { Err(TransportError::Unreachable("there is nobody".into())) })
    }
}

/// Threads, real files and real time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_peer_on_a_real_disk_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let open = |ledger: support::SharedLedger| {
        let options = RaftOptions {
            segment_bytes: 64 * 1024,
            entry_cache_bytes: 4096,
            snapshot_every_entries: 300,
            keep_entries_after_snapshot: 20,
            ..RaftOptions::new("real")
        };
        Raft::open(1, PathBuf::from(folder.path()), options, ledger, Arc::new(Nobody))
    };
    let ledger = support::SharedLedger::default();
    let raft = open(ledger.clone()).await.unwrap();
    raft.bootstrap(info(1)).await.unwrap();
    support::wait("the lead", || raft.status().is_leader_with_quorum().then_some(())).await;
    let many: Vec<_> = (0..1000)
        .map(|n| {
            let raft = raft.clone();
            tokio::spawn(async move { raft.propose(Bytes::from(format!("{n:0300}"))).await })
        })
        .collect();
    for one in many {
        one.await.unwrap().unwrap();
    }
    let before = ledger.lock().lines.clone();
    assert!(matches!(open(support::SharedLedger::default()).await, Err(OpenError::Locked { .. })));
    raft.stop().await;

    let ledger = support::SharedLedger::default();
    let raft = open(ledger.clone()).await.unwrap();
    // The mark of what is committed may lag behind on the disk: then the rest is applied when the peer leads again.
    let known = ledger.lock().lines.clone();
    assert!(before.starts_with(&known), "open applies what is committed and nothing else");
    support::wait("the lead", || raft.status().is_leader_with_quorum().then_some(())).await;
    support::wait("all of it", || (ledger.lock().lines == before).then_some(())).await;
    let (_, count) = raft.propose(Bytes::from_static(b"again")).await.unwrap();
    assert_eq!(count, 1001);
    raft.barrier(Duration::from_secs(5)).await.unwrap();
    raft.stop().await;
}

/// Whoever looks at a peer while it works must not stop it: `status` once borrowed the metrics twice, and a writer
/// between the two borrows stopped both for good.
#[test]
fn looking_at_a_busy_peer_never_stops_it() {
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(propose_under_observation());
        done.send(()).unwrap();
    });
    let patience = Duration::from_secs(60);
    finished.recv_timeout(patience).expect("the peer hangs, or its test failed");
}

async fn propose_under_observation() {
    let folder = tempfile::tempdir().unwrap();
    let options = RaftOptions::new("watched");
    let ledger = support::SharedLedger::default();
    let raft = Raft::open(1, folder.path().into(), options, ledger, Arc::new(Nobody)).await.unwrap();
    raft.bootstrap(info(1)).await.unwrap();
    let mut watch = raft.watch();
    while raft.status().role != Role::Leader {
        watch.changed().await;
    }
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let look = |_| {
        let (raft, over) = (raft.clone(), over.clone());
        std::thread::spawn(move || {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                raft.status();
            }
        })
    };
    let lookers: Vec<_> = (0..3).map(look).collect();
    for n in 0..300 {
        raft.propose(Bytes::from(n.to_string())).await.unwrap();
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    lookers.into_iter().for_each(|looker| looker.join().unwrap());
    raft.stop().await;
}
