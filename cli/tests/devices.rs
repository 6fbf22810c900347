//! A GPU that somebody outside Stint uses is not given to an attempt: it is quarantined, said, and used again when free.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use stint_sdk::v1;
use support::scrape::Scrape;
use support::{Cluster, PATIENCE, STINT, Setup, accepted, submit};
use tokio::time::{Instant, sleep};

async fn one_peer_with_two_gpus() -> (Cluster, [String; 2]) {
    let own = std::process::id();
    let ids = [format!("GPU-busy-{own}"), format!("GPU-free-{own}")];
    let names = ids.iter().map(|id| -> &'static str { Box::leak(id.clone().into_boxed_str()) }).collect();
    (Cluster::start(Setup { peers: 1, gpus: vec![names], ..Setup::default() }).await, ids)
}

fn shows_its_device() -> v1::SubmitRequest {
    submit("gpu", &["/bin/sh", "-c", "echo $CUDA_VISIBLE_DEVICES; sleep 0.2"], 1)
}

fn stint(cluster: &Cluster, args: &[&str]) -> String {
    let socket = format!("unix:{}", cluster.peers[0].dir.join("stint.sock").display());
    let output = std::process::Command::new(STINT).args(["--address", &socket]).args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "{what}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn gpu_states(cluster: &Cluster) -> Vec<(String, String)> {
    let nodes = cluster.client().list_nodes().await.unwrap();
    nodes[0].gpus.iter().map(|gpu| (gpu.id.clone(), gpu.state.clone())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_stays_in_use_is_quarantined_until_it_is_free() {
    let (cluster, [busy, free]) = one_peer_with_two_gpus().await;
    let (client, file) = (cluster.client(), cluster.in_use_file(&busy));
    std::fs::write(&file, "process 4711 left-over\n").unwrap();
    // Whichever device they are given first, both end on the free one.
    let first = accepted(&client, shows_its_device()).await;
    let second = accepted(&client, shows_its_device()).await;
    for task in cluster.finish(&[first, second].concat(), PATIENCE).await {
        assert_eq!(task.outcome.as_ref().expect("finished").status, "succeeded", "{task:#?}");
        assert_eq!(task.attempt_records.last().unwrap().gpus, std::slice::from_ref(&free), "{task:#?}");
        for failed in task.attempt_records.iter().rev().skip(1) {
            assert!(failed.message.contains("still used by process 4711 left-over"), "{task:#?}");
        }
    }
    assert!(gpu_states(&cluster).await.contains(&(busy.clone(), "quarantined".into())));
    assert!(stint(&cluster, &["nodes"]).contains("quarantined"), "{}", stint(&cluster, &["nodes"]));
    let scrape = Scrape::read(&cluster.peers[0]);
    for (kind, count) in [("offered", 1.0), ("quarantined", 1.0), ("total", 2.0)] {
        assert_eq!(scrape.value(&format!("stint_node_gpus{{kind={kind:?}}}")), count, "{kind}");
    }

    // One runs on the free device; the other waits, and explain names the device and its user.
    let both = accepted(&client, submit("gpu", &["sleep", "3"], 2)).await;
    until("one of two gets the free device", async || {
        gpu_states(&cluster).await.contains(&(free.clone(), "leased".into()))
    })
    .await;
    let explained = both.iter().map(|id| stint(&cluster, &["explain", id])).collect::<String>();
    let reason = format!("GPU {busy} is quarantined: process 4711 left-over still uses it");
    assert!(explained.contains(&reason), "{explained}");

    std::fs::remove_file(&file).unwrap();
    until("the device is offered again", async || {
        !gpu_states(&cluster).await.contains(&(busy.clone(), "quarantined".into()))
    })
    .await;
    for task in cluster.finish(&both, PATIENCE).await {
        assert_eq!(task.outcome.as_ref().expect("finished").status, "succeeded", "{task:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_waits_for_its_device_can_be_cancelled_and_starts_when_it_is_free() {
    let (cluster, ids) = one_peer_with_two_gpus().await;
    let client = cluster.client();
    for id in &ids {
        std::fs::write(cluster.in_use_file(id), "process 1 something").unwrap();
    }
    let cancelled = accepted(&client, shows_its_device()).await;
    let kept = accepted(&client, shows_its_device()).await;
    until("both wait for their devices", async || {
        gpu_states(&cluster).await.iter().all(|(_, state)| state == "leased")
    })
    .await;
    client.cancel(v1::CancelRequest { tasks: cancelled.clone(), ..Default::default() }).await.unwrap();
    let task = cluster.finish(&cancelled, Duration::from_secs(3)).await.remove(0);
    assert_eq!((task.outcome.expect("finished").status.as_str(), task.attempts), ("cancelled", 1));
    for id in &ids {
        std::fs::remove_file(cluster.in_use_file(id)).unwrap();
    }
    let task = cluster.finish(&kept, PATIENCE).await.remove(0);
    assert_eq!((task.outcome.expect("finished").status.as_str(), task.attempts), ("succeeded", 1));
}
