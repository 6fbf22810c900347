//! Data folders that are replaced by older copies: whoever is told to unlearn stops, and no history is split.
#![allow(clippy::unwrap_used, reason = "tests may stop at what they do not expect")]

mod support;

use std::path::Path;
use std::time::Duration;

use stint_raft::*;
use support::Cluster;
use support::memory_disk::{MemoryDisk, seeds};

/// A disk with the same files, all of them stored.
fn copy(disk: &MemoryDisk) -> MemoryDisk {
    let copy = MemoryDisk::default();
    let (from, to) = (disk.session(), copy.session());
    for dir in ["/data/log", "/data/snapshots"].map(Path::new) {
        to.create_dir_all(dir).unwrap();
        for name in from.list(dir).unwrap() {
            let file = from.open(&dir.join(&name), OpenMode::Existing).unwrap();
            let bytes = file.read_at(0, file.len().unwrap() as usize).unwrap();
            let new = to.open(&dir.join(&name), OpenMode::Fresh).unwrap();
            new.write_at(0, &bytes).unwrap();
            new.sync_data().unwrap();
        }
        to.sync_dir(dir).unwrap();
    }
    copy
}

async fn stop_all(cluster: &mut Cluster) {
    for id in 1..=3 {
        cluster.stop(id).await;
    }
}

/// Three peers with 25 entries, whose copies are taken; then so many terms and 50 entries more, and two get the copies.
async fn two_of_three_replaced(change: fn(&mut RaftOptions), restarts: usize) -> Cluster {
    two_of_three_replaced_in(Cluster::new(change), restarts).await
}

async fn two_of_three_replaced_in(mut cluster: Cluster, restarts: usize) -> Cluster {
    cluster.seed_three().await;
    for n in 0..25 {
        cluster.propose(&format!("before {n}")).await;
    }
    cluster.agree(&[1, 2, 3], 25).await;
    stop_all(&mut cluster).await;
    let copies = [2, 3].map(|id| (id, copy(&cluster.peers[&id].disk)));
    for _ in 0..restarts {
        for id in 1..=3 {
            cluster.start(id).await.unwrap();
        }
        cluster.leader().await;
        stop_all(&mut cluster).await;
    }
    for id in 1..=3 {
        cluster.start(id).await.unwrap();
    }
    for n in 0..50 {
        cluster.propose(&format!("lost {n}")).await;
    }
    cluster.agree(&[1, 2, 3], 75).await;
    stop_all(&mut cluster).await;
    for (id, disk) in copies {
        cluster.peers.get_mut(&id).unwrap().disk = disk;
    }
    cluster
}

/// The two that forgot go on without the third, which is started then.
async fn two_go_on(cluster: &mut Cluster, added: usize) {
    for id in 2..=3 {
        cluster.start(id).await.unwrap();
    }
    for n in 0..added {
        cluster.propose(&format!("other {n}")).await;
    }
    cluster.agree(&[2, 3], 25 + added).await;
    cluster.start(1).await.unwrap();
}

/// The third one meets the history of the two that forgot.
async fn the_third_stops(mut cluster: Cluster, added: usize) {
    two_go_on(&mut cluster, added).await;
    let raft = cluster.raft(1);
    let why = tokio::time::timeout(Duration::from_secs(10), raft.fatal()).await.expect("it goes on");
    assert!(why.contains("replaced by an older copy"), "{why}");
    assert_eq!(raft.contradiction(), Some(why));
    assert_eq!(raft.status().role, Role::Stopped);
    let known = cluster.ledger(1).texts();
    assert!(known.iter().all(|line| !line.starts_with("other")), "it took both histories: {known:?}");
    // The others do not mind.
    cluster.propose("after").await;
    cluster.agree(&[2, 3], 26 + added).await;
    // Nor does it come back by itself.
    cluster.stop(1).await;
    let refused = cluster.start(1).await.unwrap_err();
    assert!(
        matches!(&refused, OpenError::Contradicted { what, .. } if what.contains("older copy")),
        "{refused}"
    );
    // Somebody who removes the mark gets the same answer again: nothing was forgotten.
    cluster.peers[&1].disk.session().remove(Path::new("/data/log/contradicted")).unwrap();
    cluster.start(1).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), cluster.raft(1).fatal()).await.expect("it goes on");
}

fn plain(_: &mut RaftOptions) {}

fn little_cache(options: &mut RaftOptions) {
    options.entry_cache_bytes = 300;
}

fn small_snapshots(options: &mut RaftOptions) {
    options.snapshot_every_entries = 20;
    options.keep_entries_after_snapshot = 60;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_told_to_cut_what_it_applied_stops() {
    // Terms enough were used since the copies were taken: the copies elect in a term that was used before, or in a later
    // one; with few entries or with more than were lost.
    for (restarts, added) in [(0, 0), (0, 10), (0, 80), (1, 10), (3, 10), (3, 80)] {
        the_third_stops(two_of_three_replaced(plain, restarts).await, added).await;
    }
}

/// Those that go on have one history.
fn nothing_is_split(cluster: &Cluster, case: &str) {
    let on: Vec<PeerId> = (1..=3).filter(|id| cluster.raft(*id).status().role != Role::Stopped).collect();
    let lines: Vec<Vec<String>> = on.iter().map(|id| cluster.ledger(*id).texts()).collect();
    let longest = lines.iter().max_by_key(|lines| lines.len()).unwrap();
    for (id, lines) in on.iter().zip(&lines) {
        assert!(longest.starts_with(lines), "{case}: peer {id} has another history: {lines:?}");
    }
}

/// Snapshots hold much of what was before. The third may lead, as its log is of later terms, and its snapshot replaces the
/// history of the two.
#[tokio::test(start_paused = true)]
async fn no_history_is_split_where_logs_are_in_snapshots() {
    for (restarts, added) in [(2, 10), (3, 10), (3, 0), (3, 80)] {
        let case = format!("{restarts} restarts, {added} entries");
        let mut cluster = two_of_three_replaced(small_snapshots, restarts).await;
        for id in 2..=3 {
            cluster.start(id).await.unwrap();
        }
        for n in 0..added {
            cluster.propose(&format!("other {n}")).await;
        }
        cluster.start(1).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        nothing_is_split(&cluster, &case);
    }
}

/// All start at once: whoever leads.
#[tokio::test(start_paused = true)]
async fn no_history_is_split_whoever_leads() {
    for restarts in 0..3 {
        let mut cluster = two_of_three_replaced(plain, restarts).await;
        for id in 1..=3 {
            cluster.start(id).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        nothing_is_split(&cluster, &format!("{restarts} restarts"));
    }
}

/// The same with other elections: the copies may elect whoever led when the entries were lost, in the same term, so that
/// their entries have the numbers and the terms of the lost ones.
#[tokio::test(start_paused = true)]
async fn no_history_is_split_whoever_led_before() {
    for seed in 1..=seeds(4) {
        for (restarts, added) in [(0, 10), (0, 60), (1, 60)] {
            let case = format!("seed {seed}, {restarts} restarts, {added} entries");
            let change = if seed % 2 == 0 { plain } else { little_cache };
            let mut cluster = Cluster { seed, ..Cluster::new(change) };
            cluster = two_of_three_replaced_in(cluster, restarts).await;
            two_go_on(&mut cluster, added).await;
            tokio::time::sleep(Duration::from_secs(10)).await;
            nothing_is_split(&cluster, &case);
            let stopped = (1..=3).filter(|id| cluster.raft(*id).status().role == Role::Stopped).count();
            assert!(stopped > 0, "{case}: nobody was told to unlearn, and nobody stopped");
            stop_all(&mut cluster).await;
        }
    }
}

/// A sound cluster never stops for this: leaders die in the middle of everything.
#[tokio::test(start_paused = true)]
async fn a_sound_cluster_does_not_stop() {
    let cluster = Cluster::of_three(small_snapshots).await;
    for round in 0..12 {
        let leader = cluster.leader().await;
        let raft = cluster.raft(leader);
        for n in 0..40 {
            let (raft, line) = (raft.clone(), format!("{round} {n}"));
            tokio::spawn(async move { raft.propose(line.into_bytes().into()).await });
        }
        tokio::time::sleep(Duration::from_micros(300 * round)).await;
        cluster.cut(leader);
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.propose(&format!("{round} by another")).await;
        cluster.heal(leader);
        tokio::time::sleep(Duration::from_secs(1)).await;
        for id in 1..=3 {
            assert_eq!(cluster.raft(id).contradiction(), None);
            assert_ne!(cluster.raft(id).status().role, Role::Stopped);
        }
    }
}
