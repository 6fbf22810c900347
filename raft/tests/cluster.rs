//! Three peers in one process, in simulated time: what the crate promises to the node.
#![allow(clippy::unwrap_used, reason = "tests may stop at what they do not expect")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use stint_raft::*;
use support::memory_disk::{Faults, TestRng, seeds};
use support::{Cluster, info};

fn plain(_: &mut RaftOptions) {}

fn small_snapshots(options: &mut RaftOptions) {
    options.snapshot_every_entries = 50;
    options.keep_entries_after_snapshot = 10;
}

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

/// Disks whose syncs take 0.1 to 5 ms, another time each.
fn uneven_syncs(options: &mut RaftOptions) {
    small_snapshots(options);
    let rng = Mutex::new(TestRng::new(options.rng_seed.unwrap_or_default()));
    options.sync_delay =
        SyncDelay::model(move || Duration::from_micros(100 + rng.lock().unwrap().below(4900)));
}

/// All machines lose power at once, several times, under load. The number of acknowledged entries, and a trace.
async fn power_loss(seed: u64, change: fn(&mut RaftOptions)) -> (usize, String) {
    let mut cluster = Cluster::new(change);
    cluster.seed = seed;
    cluster.seed_three().await;
    let mut rng = TestRng::new(seed);
    let mut acknowledged = Vec::new();
    for life in 0..3 {
        acknowledged.extend(load_until_crash(&mut cluster, life, &mut rng).await);
        for id in 1..=3 {
            cluster.start(id).await.unwrap();
        }
        cluster.propose(&format!("{life}-end")).await;
        acknowledged.push(format!("{life}-end"));
    }
    let count = cluster.ledger(cluster.leader().await).lines.len();
    cluster.agree(&[1, 2, 3], count).await;
    let texts = cluster.ledger(1).texts();
    for text in &acknowledged {
        assert!(texts.contains(text), "seed {seed}: {text} was acknowledged and is gone");
    }
    let trace = format!("{texts:?} {:?} {:?}", cluster.raft(2).status(), cluster.ledger(3));
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    (acknowledged.len(), trace)
}

/// Proposes until the power goes; what was acknowledged by then.
async fn load_until_crash(cluster: &mut Cluster, life: usize, rng: &mut TestRng) -> Vec<String> {
    let leader = cluster.raft(cluster.leader().await);
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let mut load = tokio::task::JoinSet::new();
    for worker in 0..4 {
        let (leader, acknowledged) = (leader.clone(), acknowledged.clone());
        load.spawn(async move {
            for n in 0.. {
                let text = format!("{life}-{worker}-{n}");
                if leader.propose(Bytes::from(text.clone())).await.is_err() {
                    break;
                }
                acknowledged.lock().unwrap().push(text);
            }
        });
    }
    tokio::time::sleep(Duration::from_micros(rng.below(60_000))).await;
    for id in 1..=3 {
        cluster.peers[&id].disk.power_lost(rng, false);
    }
    // Nothing is acknowledged after the crash: no task runs between these lines.
    let acknowledged = acknowledged.lock().unwrap().clone();
    drop(load);
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    acknowledged
}

#[tokio::test(start_paused = true)]
async fn acknowledged_entries_survive_power_loss_of_all() {
    let mut acknowledged = 0;
    for seed in 0..seeds(12) {
        acknowledged += power_loss(seed, uneven_syncs).await.0;
    }
    assert!(acknowledged > 200, "too little was acknowledged to mean anything: {acknowledged}");
}

#[tokio::test(start_paused = true)]
async fn the_power_loss_test_notices_a_leader_that_takes_its_term_again() {
    fn restoring(options: &mut RaftOptions) {
        uneven_syncs(options);
        options.mutation_leader_restore = true;
    }
    for seed in 0..40 {
        // A loss shows as a failed assertion, here or in openraft.
        if tokio::spawn(power_loss(seed, restoring)).await.is_err() {
            return;
        }
    }
    panic!("no seed noticed");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (_, trace) = power_loss(5, uneven_syncs).await;
            // The age of an answer is a difference of clocks; all the rest is words and numbers of the run.
            trace
        })
    };
    assert_eq!(run(), run());
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

#[tokio::test(start_paused = true)]
async fn requests_that_are_not_for_this_peer_are_refused() {
    let cluster = Cluster::of_three(plain).await;
    let raft = cluster.raft(1);
    let refused = raft.handle(CallClass::Control, Bytes::new()).await;
    assert!(matches!(refused, Err(HandleError::Malformed(_))));
    let refused = raft.handle(CallClass::Control, Bytes::from_static(b"\x07nonsense")).await;
    assert!(matches!(refused, Err(HandleError::Malformed(what)) if what.contains("version 7")));
    let refused = raft.handle(CallClass::Control, Bytes::from_static(b"\x01nonsense")).await;
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
    assert_eq!(ledger.lock().lines, before, "committed entries are applied before open returns");
    support::wait("the lead", || raft.status().is_leader_with_quorum().then_some(())).await;
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
