//! What the leases promise when a node, its watchdog, or both are stopped while tasks of class gpu run: the second
//! attempt starts after the last sign of life of the first, and no device ever has two holders.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use stint_sdk::v1;
use support::marks::{Life, WORKER, lives, overlaps};
use support::{Cluster, PATIENCE, Setup, accepted, netns, signal, submit, watchdog_of};
use tokio::time::{Instant, sleep};

/// Longer than the lease of these clusters (4 s) with all its margins.
const LONGER_THAN_A_LEASE: Duration = Duration::from_secs(8);

/// Two of three peers have a device each, and each peer a pid and a network namespace of its own; the names are this test process's own, devices are locked by machine.
async fn cluster_with_gpus() -> Cluster {
    let own = std::process::id();
    let name = |n: u32| -> &'static str { Box::leak(format!("GPU-test-{own}-{n}").into_boxed_str()) };
    let gpus = vec![vec![name(1)], vec![name(2)], vec![]];
    let missing = netns::missing();
    if let Some(why) = &missing {
        eprintln!("the peers share this machine's namespaces: {why}");
    }
    let cluster = Cluster::start(Setup { gpus, namespaces: missing.is_none(), ..Setup::default() }).await;
    assert!(cluster.peers.iter().filter_map(|peer| peer.place.as_ref()).all(netns::Place::is_apart));
    cluster
}

fn work(cluster: &Cluster, seconds: &str, count: u32) -> v1::SubmitRequest {
    let marks = cluster.shared().join("marks");
    submit("gpu", &["/bin/sh", "-c", WORKER, "worker", &marks.to_string_lossy(), seconds], count)
}

fn marks(cluster: &Cluster) -> Vec<Life> {
    lives(&cluster.shared().join("marks"))
}

/// Until both devices are at work; answers a task and the place of the peer that runs it.
async fn both_at_work(cluster: &Cluster) -> (String, usize) {
    at_work(cluster, 2).await
}

/// The same of so many tasks.
async fn at_work(cluster: &Cluster, count: usize) -> (String, usize) {
    let until = Instant::now() + PATIENCE;
    while marks(cluster).len() < count {
        assert!(Instant::now() < until, "the tasks do not start");
        sleep(Duration::from_millis(20)).await;
    }
    let nodes = cluster.client().list_nodes().await.unwrap();
    let life = marks(cluster).remove(0);
    let name = &nodes.iter().find(|n| n.id.to_string() == life.node).expect("a known node").name;
    (life.task, cluster.peers.iter().position(|p| p.name == *name).expect("one of ours"))
}

/// All finished; the task that was hit had a second attempt that began after the first had ended.
async fn prove(cluster: &Cluster, ids: &[String], hit: &str) {
    let tasks = cluster.finish(ids, PATIENCE * 2).await;
    for task in &tasks {
        assert_eq!(task.outcome.as_ref().expect("finished").status, "succeeded", "{task:#?}");
    }
    let lives = marks(cluster);
    let of_hit: Vec<&Life> = lives.iter().filter(|l| l.task == hit).collect();
    assert!(of_hit.len() >= 2, "the attempt that was hit was not repeated: {of_hit:#?}");
    for pair in of_hit.windows(2) {
        assert!(pair[1].start > pair[0].last, "attempt {} began while its predecessor ran", pair[1].attempt);
    }
    let overlaps = overlaps(&lives);
    assert!(overlaps.is_empty(), "two holders: {overlaps:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_paused_for_longer_than_its_leases() {
    let cluster = cluster_with_gpus().await;
    let client = cluster.client();
    let mut ids = accepted(&client, work(&cluster, "3", 2)).await;
    let (hit, place) = both_at_work(&cluster).await;
    let pid = cluster.peers[place].pid().expect("it runs");
    signal(pid, "STOP");
    sleep(LONGER_THAN_A_LEASE).await;
    signal(pid, "CONT");
    cluster.all_ready().await;
    // The woken node's device is used again.
    ids.extend(accepted(&client, work(&cluster, "1", 4)).await);
    prove(&cluster, &ids, &hit).await;
    let device =
        marks(&cluster).iter().find(|l| l.task == hit && l.attempt == 1).expect("it ran").gpu.clone();
    let users = marks(&cluster).iter().filter(|l| l.gpu == device).count();
    assert!(users >= 2, "the woken node's device was not used again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_and_never_comes_back() {
    let mut cluster = cluster_with_gpus().await;
    let ids = accepted(&cluster.client(), work(&cluster, "6", 2)).await;
    let (hit, place) = both_at_work(&cluster).await;
    cluster.peers[place].kill().await;
    prove(&cluster, &ids, &hit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_watchdog_is_killed() {
    let cluster = cluster_with_gpus().await;
    let ids = accepted(&cluster.client(), work(&cluster, "3", 2)).await;
    let (hit, place) = both_at_work(&cluster).await;
    signal(watchdog_of(&cluster, place), "KILL");
    prove(&cluster, &ids, &hit).await;
}

/// The inits of attempts are clones of the watchdog, from which its heap is kept (`executor/src/sys/heap.rs`). The program that
/// users run must not allocate elsewhere: each init would hold what the watchdog knows of other attempts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watchdog_allocates_where_it_is_kept_from_attempts() {
    let cluster = cluster_with_gpus().await;
    let ids = accepted(&cluster.client(), work(&cluster, "1", 2)).await;
    let (_, place) = both_at_work(&cluster).await;
    let watchdog = watchdog_of(&cluster, place);
    let read = |path: String| std::fs::read_to_string(path).unwrap();
    let children = read(format!("/proc/{watchdog}/task/{watchdog}/children"));
    let init = children.split_whitespace().next().expect("an attempt");
    assert!(read(format!("/proc/{watchdog}/maps")).contains("[heap]"));
    assert!(!read(format!("/proc/{init}/maps")).contains("[heap]"));
    let data = read(format!("/proc/{init}/status"));
    let data = data.lines().find_map(|line| line.strip_prefix("VmData:")).unwrap();
    let kib: u64 = data.trim().trim_end_matches(" kB").parse().unwrap();
    // A third of a megabyte; a reservation of another allocator has a thousand.
    assert!(kib < 16_384, "an init has {kib} KiB of data");
    cluster.finish(&ids, PATIENCE * 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_and_watchdog_are_killed() {
    let mut cluster = cluster_with_gpus().await;
    let ids = accepted(&cluster.client(), work(&cluster, "3", 2)).await;
    let (hit, place) = both_at_work(&cluster).await;
    let watchdog = watchdog_of(&cluster, place);
    cluster.peers[place].kill().await;
    signal(watchdog, "KILL");
    prove(&cluster, &ids, &hit).await;
}

/// As `killall -STOP stint` does: the second attempt begins on the other device while both are stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_and_watchdog_are_stopped_together() {
    let cluster = cluster_with_gpus().await;
    let ids = accepted(&cluster.client(), work(&cluster, "10", 1)).await;
    let (hit, place) = at_work(&cluster, 1).await;
    // The watchdog goes on first: its node would replace one that hangs.
    let both = [watchdog_of(&cluster, place), cluster.peers[place].pid().expect("it runs")];
    both.iter().for_each(|pid| signal(*pid, "STOP"));
    let until = Instant::now() + PATIENCE;
    while marks(&cluster).len() < 2 {
        assert!(Instant::now() < until, "it is not tried again");
        sleep(Duration::from_millis(20)).await;
    }
    both.iter().for_each(|pid| signal(*pid, "CONT"));
    prove(&cluster, &ids, &hit).await;
}
