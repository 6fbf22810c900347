//! Metrics through the real binary: read before and after, with exact differences for every class and outcome. Containers
//! need the engine and the image of `.ci/prepare`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use stint_sdk::v1;
use support::scrape::Scrape;
use support::{Cluster, PATIENCE, Setup, accepted, submit};
use tokio::time::{Instant, sleep};

const CLASSES: [&str; 3] = ["cpu_short", "cpu_long", "gpu"];
const OUTCOMES: [&str; 5] = ["completed", "failed", "timed_out", "cancelled", "denied"];
const IMAGE: &str = "stint-test/busybox:1";

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn input_of_the_node(path: &str) -> v1::InputFile {
    let source = Some(v1::input_file::Source::File(path.into()));
    v1::InputFile { path: "in".into(), source, ..v1::InputFile::default() }
}

/// A task of this class that ends like this.
fn ends_as(class: &str, outcome: &str) -> v1::SubmitRequest {
    let args: &[&str] = match outcome {
        "completed" | "denied" => &["/bin/true"],
        "failed" => &["/bin/sh", "-c", "exit 3"],
        _ => &["/bin/sleep", "100"],
    };
    let mut request = submit(class, args, 1);
    let spec = request.spec.as_mut().unwrap();
    match outcome {
        "timed_out" => spec.timeout_ms = 500,
        "denied" => spec.inputs = vec![input_of_the_node("/etc/passwd")],
        _ => {}
    }
    request
}

fn expected(series: &[(String, f64)]) -> BTreeMap<String, f64> {
    series.iter().cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_class_and_outcome_is_counted_once() {
    let gpu: &'static str = Box::leak(format!("GPU-metrics-{}", std::process::id()).into_boxed_str());
    let cluster = Cluster::start(Setup { peers: 1, gpus: vec![vec![gpu]], ..Setup::default() }).await;
    let (client, peer) = (cluster.client(), &cluster.peers[0]);
    let before = Scrape::read(peer);
    assert_eq!(before.value("stint_runtime_available{runtime=\"process\"}"), 1.0);
    for (kind, count) in [("offered", 1.0), ("leased", 0.0), ("quarantined", 0.0), ("total", 1.0)] {
        assert_eq!(before.value(&format!("stint_node_gpus{{kind=\"{kind}\"}}")), count);
    }
    let mut again = ends_as("cpu_short", "failed");
    let retry =
        v1::RetryPolicy { max_attempts: 2, retry_failures: true, backoff_ms: 10, ..Default::default() };
    again.spec.as_mut().unwrap().retry = Some(retry);
    let mut finished = cluster.finish(&accepted(&client, again).await, PATIENCE).await;
    for class in CLASSES {
        for outcome in OUTCOMES {
            let own = accepted(&client, ends_as(class, outcome)).await;
            if outcome == "cancelled" {
                let runs = format!("stint_node_active_tasks{{class=\"{class}\",runtime=\"process\"}}");
                until("it runs", || Scrape::read(peer).get(&runs) >= Some(1.0)).await;
                client.cancel(v1::CancelRequest { tasks: own.clone(), ..Default::default() }).await.unwrap();
            }
            finished.extend(cluster.finish(&own, PATIENCE).await);
        }
    }
    assert_eq!(finished.len(), 16);
    let after = Scrape::read(peer);
    let by_outcome = |family: &str| -> Vec<(String, f64)> {
        let one = |class: &str, outcome: &str| {
            let retried = class == "cpu_short" && outcome == "failed";
            (format!("{family}{{class={class:?},outcome={outcome:?}}}"), if retried { 2.0 } else { 1.0 })
        };
        CLASSES.iter().flat_map(|class| OUTCOMES.iter().map(move |outcome| one(class, outcome))).collect()
    };
    for family in ["stint_tasks_total", "stint_task_duration_seconds_count"] {
        assert_eq!(after.since(&before, &[family]), expected(&by_outcome(family)));
    }
    // The one that was tried again was leased twice.
    let waits = after.since(&before, &["stint_queue_wait_seconds_count"]);
    for (class, least) in [("cpu_short", 7.0), ("cpu_long", 5.0), ("gpu", 5.0)] {
        assert_eq!(waits[&format!("stint_queue_wait_seconds_count{{class={class:?}}}")], least, "{waits:?}");
    }
    let retried = "stint_retries_total{class=\"cpu_short\",kind=\"exited\"}".to_owned();
    assert_eq!(after.since(&before, &["stint_retries_total"]), expected(&[(retried, 1.0)]));
    let denied = "stint_policy_denied_total{rule=\"artifacts.roots\"}".to_owned();
    assert_eq!(after.since(&before, &["stint_policy_denied_total"]), expected(&[(denied, 3.0)]));
    assert_eq!(after.value("stint_tasks_finished") - before.value("stint_tasks_finished"), 16.0);
    assert_eq!(after.value("stint_attempts_leased"), 0.0);
}

fn open_folder(_: usize) -> String {
    format!("[artifacts]\nroots = [\"{}\"]\n", std::env::temp_dir().display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_files_are_counted_by_direction_and_scheme() {
    let cluster = Cluster::start(Setup { peers: 1, more: open_folder, ..Setup::default() }).await;
    let (client, peer) = (cluster.client(), &cluster.peers[0]);
    let file = cluster.root.path().join("data");
    std::fs::write(&file, [b'x'; 1_000]).unwrap();
    let before = Scrape::read(peer);
    let mut request = submit("cpu_short", &["/bin/sh", "-c", "cat in more | head -c 300 >out"], 1);
    let spec = request.spec.as_mut().unwrap();
    let content = Some(v1::input_file::Source::Content(b"content".to_vec()));
    let more = v1::InputFile { path: "more".into(), source: content, ..v1::InputFile::default() };
    spec.inputs = vec![input_of_the_node(&file.display().to_string()), more];
    spec.outputs = vec![v1::OutputPath { path: "out".into(), optional: false }];
    let ids = accepted(&client, request).await;
    let task = cluster.finish(&ids, PATIENCE).await.remove(0);
    assert_eq!(task.outcome.as_ref().unwrap().status, "succeeded", "{task:#?}");
    let series = |direction: &str, scheme: &str| {
        format!("stint_artifact_bytes_total{{direction={direction:?},scheme={scheme:?}}}")
    };
    let moved =
        [(series("in", "content"), 7.0), (series("in", "file"), 1_000.0), (series("out", "blob"), 300.0)];
    assert_eq!(Scrape::read(peer).since(&before, &["stint_artifact_bytes_total"]), expected(&moved));
}

fn our_images_and_one_that_is_nowhere(_: usize) -> String {
    "[executor.docker]\nallowed_images = [\"stint-test/*\", \"127.0.0.1:9/**\"]\n".into()
}

fn in_image(class: &str, image: &str, args: &[&str], count: u32) -> v1::SubmitRequest {
    let mut request = submit(class, args, count);
    let spec = request.spec.as_mut().unwrap();
    (spec.image, spec.runtime) = (image.into(), "docker".into());
    request
}

/// The daemon's containers of a cluster's nodes, by class.
fn containers(cluster: &Cluster) -> BTreeMap<String, usize> {
    let format = "{{.Label \"stint.executor\"}} {{.Label \"stint.class\"}}";
    let args = ["ps", "-a", "--filter", "label=stint.executor", "--format", format];
    let output =
        std::process::Command::new("docker").args(args).output().expect("no docker: run .ci/prepare");
    assert!(output.status.success(), "{output:?}");
    let root = cluster.root.path().display().to_string();
    let mut counts = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.starts_with(&root)) {
        *counts.entry(line.rsplit(' ').next().unwrap().to_owned()).or_default() += 1;
    }
    counts
}

fn gauges(peer: &support::Peer) -> BTreeMap<String, usize> {
    let scrape = Scrape::read(peer);
    let gauge =
        |class: &str| scrape.value(&format!("stint_node_active_containers{{class={class:?}}}")) as usize;
    CLASSES
        .map(|class| (class.to_owned(), gauge(class)))
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_are_counted_as_the_daemon_has_them() {
    let setup = Setup {
        peers: 1,
        runtimes: "\"docker\", \"process\"",
        more: our_images_and_one_that_is_nowhere,
        ..Setup::default()
    };
    let mut cluster = Cluster::start(setup).await;
    let client = cluster.client();
    let before = Scrape::read(&cluster.peers[0]);
    assert_eq!(gauges(&cluster.peers[0]), BTreeMap::new());
    let sleep = ["/bin/sleep", "100"];
    for (class, count) in [("cpu_long", 3), ("cpu_short", 1)] {
        let mut request = in_image(class, IMAGE, &sleep, count);
        request.spec.as_mut().unwrap().on_lost = "fail".into();
        accepted(&client, request).await;
    }
    let load = BTreeMap::from([("cpu_long".to_owned(), 3), ("cpu_short".to_owned(), 1)]);
    until("all four are there", || containers(&cluster) == load).await;
    assert_eq!(gauges(&cluster.peers[0]), load);

    let refused = accepted(&client, in_image("cpu_short", "docker.io/library/busybox:1", &["true"], 1)).await;
    let task = cluster.finish(&refused, PATIENCE).await.remove(0);
    assert_eq!(task.outcome.as_ref().unwrap().kind, "denied", "{task:#?}");
    let nowhere = accepted(&client, in_image("cpu_short", "127.0.0.1:9/none:1", &["true"], 1)).await;
    let failed = "stint_image_pull_duration_seconds_count{outcome=\"failed\",source=\"registry\"}";
    until("the pull failed", || Scrape::read(&cluster.peers[0]).value(failed) == 1.0).await;
    client.cancel(v1::CancelRequest { tasks: nowhere, ..Default::default() }).await.unwrap();
    let denied = "stint_policy_denied_total{rule=\"executor.docker.allowed_images\"}".to_owned();
    let changed = Scrape::read(&cluster.peers[0]).since(&before, &["stint_policy_denied_total"]);
    assert_eq!(changed, expected(&[(denied, 1.0)]));

    // What a killed node ran ends with its leases, and it counts what is there.
    assert_eq!((containers(&cluster), gauges(&cluster.peers[0])), (load.clone(), load));
    cluster.peers[0].kill().await;
    until("the containers are gone", || containers(&cluster).is_empty()).await;
    cluster.peers[0].spawn(&[]);
    cluster.peers[0].ready().await;
    assert_eq!(gauges(&cluster.peers[0]), BTreeMap::new());
}
