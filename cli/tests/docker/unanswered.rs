//! Whole clusters behind a daemon whose answers are late, of before, or cut off: each program runs once.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use stint_sdk::v1;

use crate::proxy::{Faults, Proxy};
use crate::support::{Cluster, PATIENCE, Setup, accepted, stint_at};
use crate::{IMAGE, containers, docker, in_image, kind, outputs};

fn behind_the_proxy(_: usize) -> String {
    "[executor.docker]\nallowed_images = [\"stint-test/*\"]\nsocket = \"ROOT/proxy.sock\"\n".into()
}

/// Tasks that are never tried again. Each line of output is a program that ran.
async fn each_program_runs_once(count: u32, faults: Faults, patience: Duration) {
    docker(&["image", "inspect", "--format", "{{.Id}}", IMAGE]);
    let root = tempfile::Builder::new().prefix("stint-test-").tempdir().unwrap();
    let proxy = Proxy::start(root.path(), faults);
    let (runtimes, more) = ("\"docker\"", behind_the_proxy as fn(usize) -> String);
    // So many start at once that two cores are busy with them: a node may be late by a second or two.
    let setup = Setup { peers: 3, runtimes, more, lease_ttl: "10s", ..Setup::default() };
    let cluster = Cluster::start_in(root, setup).await;
    let mut request = in_image("cpu_long", &["/bin/sh", "-c", "echo ran"], count);
    let spec = request.spec.as_mut().unwrap();
    spec.on_lost = "fail".into();
    spec.retry = Some(v1::RetryPolicy { max_attempts: 1, ..Default::default() });
    let ids = accepted(&cluster.client(), request).await;
    for task in cluster.finish(&ids, patience).await {
        assert_eq!(kind(&task), "exited", "{task:#?}");
        assert_eq!(task.outcome.as_ref().unwrap().status, "succeeded", "{task:#?}");
    }
    let lines: usize = outputs(&cluster).values().map(|text| text.lines().count()).sum();
    assert_eq!(lines, count as usize);
    assert_eq!(proxy.starts.load(SeqCst), count as usize, "a start was sent twice");
    assert!(proxy.cuts.load(SeqCst) > 0, "the proxy cut off nothing");
    assert_eq!(containers(&cluster), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_program_runs_once_though_the_daemons_answers_are_lost_or_stale() {
    let faults = Faults { answers_stale: true, cuts_one_in: 5, ..Faults::default() };
    each_program_runs_once(20, faults, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "for make soak: each start takes longer than a call may"]
async fn two_hundred_programs_run_once_though_their_starts_are_late() {
    let start_delay = Duration::from_secs(33);
    let faults = Faults { start_delay, answers_stale: true, cuts_one_in: 5, ..Faults::default() };
    each_program_runs_once(200, faults, Duration::from_secs(900)).await;
}

/// `running` says that a program has begun: while its node prepares it, each peer says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_program_has_not_begun_is_starting() {
    docker(&["image", "inspect", "--format", "{{.Id}}", IMAGE]);
    let root = tempfile::Builder::new().prefix("stint-test-").tempdir().unwrap();
    let faults = Faults { start_delay: Duration::from_secs(6), ..Faults::default() };
    let _proxy = Proxy::start(root.path(), faults);
    let (runtimes, more) = ("\"docker\"", behind_the_proxy as fn(usize) -> String);
    let setup = Setup { peers: 3, runtimes, more, lease_ttl: "10s", ..Setup::default() };
    let cluster = Cluster::start_in(root, setup).await;
    let ids = accepted(&cluster.client(), in_image("cpu_long", &["/bin/sleep", "600"], 1)).await;
    let listed = |peer: usize, state: &str| {
        let (code, listed, _) = stint_at(&cluster, peer, &["ps", "--state", state, "-o", "quiet"]);
        assert_eq!(code, 0);
        listed.trim().to_owned()
    };
    for state in ["starting", "running"] {
        for peer in 0..3 {
            until(&format!("peer {peer} says {state}"), || listed(peer, state) == ids[0]).await;
            let status = stint_at(&cluster, peer, &["status", &ids[0]]).1;
            assert!(status.contains(&format!("state      {state}")), "{status}");
        }
    }
    assert_eq!(listed(0, "starting"), "");
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
