//! Power loss of all machines at once, under load: what was acknowledged is there afterwards.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use stint_raft::*;

use crate::small_snapshots;
use crate::support::Cluster;
use crate::support::memory_disk::{TestRng, seeds};

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
