//! What users see while peers are lost, on real processes: three peers on loopback, killed or stopped.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use support::marks::{Life, WORKER, lives, overlaps};
use support::{Cluster, PATIENCE, Setup, accepted, leftovers, submit};
use tokio::time::{Instant, sleep};

const LOOK_AGAIN: Duration = Duration::from_millis(20);

fn marks(cluster: &Cluster) -> Vec<Life> {
    lives(&cluster.shared().join("marks"))
}

/// Until there is such a life of a task.
async fn life(cluster: &Cluster, what: &str, found: impl Fn(&Life) -> bool) -> Life {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(life) = marks(cluster).into_iter().find(&found) {
            return life;
        }
        assert!(Instant::now() < until, "{what}: {:#?}", marks(cluster));
        sleep(LOOK_AGAIN).await;
    }
}

/// How long a task waits that ran on a machine which is gone, until it runs elsewhere.
async fn waits_after_the_loss_of_its_node(lease_ttl: &'static str) -> Duration {
    let mut cluster = Cluster::start(Setup { lease_ttl, ..Setup::default() }).await;
    let leader = cluster.leader().await;
    let file = cluster.shared().join("marks");
    // On a follower: the failover of a leader comes on top, and is measured elsewhere.
    let leads = cluster.peers[leader].name.clone();
    let cordon =
        stint_sdk::v1::SetNodeModeRequest { node: leads.clone(), mode: "cordon".into(), within_ms: None };
    cluster.client().set_node_mode(cordon).await.unwrap();
    let work = submit("cpu_short", &["/bin/sh", "-c", WORKER, "worker", &file.to_string_lossy(), "40"], 1);
    accepted(&cluster.client(), work).await;
    let first = life(&cluster, "the task does not start", |life| life.attempt == 1).await;
    let nodes = cluster.client().list_nodes().await.unwrap();
    let name = &nodes.iter().find(|node| node.id.to_string() == first.node).expect("a known node").name;
    let lost = cluster.peers.iter().position(|peer| peer.name == *name).expect("one of ours");
    assert_ne!(lost, leader);
    cluster.peers[lost].kill().await;
    let since = Instant::now();
    // Its watchdog, too: the machine is gone.
    leftovers::clear(&cluster.peers[lost].dir);
    life(&cluster, "the task does not run elsewhere", |life| life.attempt == 2).await;
    let waited = since.elapsed();
    let overlaps = overlaps(&marks(&cluster));
    assert!(overlaps.is_empty(), "it ran twice at a time: {overlaps:#?}");
    waited
}

/// The margin after a lease is its own: the ten minutes that a job of Slurm has are no matter of other classes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_nodes_task_starts_elsewhere_in_time() {
    let waited = waits_after_the_loss_of_its_node("10s").await;
    eprintln!("elsewhere after {waited:?} with a lease of 10 s");
    assert!(waited > Duration::from_secs(8), "the lease was not waited for: {waited:?}");
    assert!(waited <= Duration::from_secs(12), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_nodes_task_starts_elsewhere_within_five_seconds_of_a_short_lease() {
    let waited = waits_after_the_loss_of_its_node("3s").await;
    eprintln!("elsewhere after {waited:?} with a lease of 3 s");
    assert!(waited <= Duration::from_secs(5), "{waited:?}");
}
