//! What a node writes to stderr as JSON, through the real binary: every line is one object, and those about a task say
//! which task, attempt, tenant and class.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use stint_sdk::v1;
use support::{Cluster, PATIENCE, Setup, accepted, signal, submit};
use tokio::time::{Instant, sleep};

fn in_json(_: usize) -> String {
    "[log]\nformat = \"json\"\nfilter = \"info,stint::task=debug\"\n".into()
}

fn everything_in_json(_: usize) -> String {
    "[log]\nformat = \"json\"\nfilter = \"trace\"\n".into()
}

fn lines(log: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    log.lines().map(parse).collect()
}

/// The lines about a task, each with all that names it.
fn lines_about<'a>(lines: &'a [Value], id: &str, class: &str) -> Vec<&'a Value> {
    let mentions = |line: &&Value| line.to_string().contains(id);
    let own: Vec<&Value> = lines.iter().filter(mentions).collect();
    for line in &own {
        assert_eq!(line["task"], id, "{line}");
        assert_eq!((&line["tenant"], &line["class"]), (&"team-a".into(), &class.into()), "{line}");
        assert!(
            line["attempt"].is_u64() && line["timestamp"].is_string() && line["level"].is_string(),
            "{line}"
        );
    }
    own
}

async fn until_said(cluster: &Cluster, id: &str, message: &str) {
    let end = Instant::now() + PATIENCE;
    let message = format!("{message:?}");
    while !cluster.peers[0].log().lines().any(|line| line.contains(id) && line.contains(&message)) {
        assert!(Instant::now() < end, "{message} is not said of {id}:\n{}", cluster.peers[0].log());
        sleep(Duration::from_millis(20)).await;
    }
}

fn args<'a>(lines: &[&'a Value]) -> Vec<&'a str> {
    lines.iter().map(|line| line["message"].as_str().unwrap()).collect()
}

/// A task, its class, and how it ends: the kinds of its attempts' ends.
fn tasks() -> Vec<(&'static str, v1::SubmitRequest, &'static [&'static str])> {
    let shell = |script: &str| submit("cpu_short", &["/bin/sh", "-c", script], 1);
    let mut slow = submit("cpu_long", &["/bin/sleep", "100"], 1);
    slow.spec.as_mut().unwrap().timeout_ms = 300;
    let mut again = shell("[ $STINT_ATTEMPT = 2 ]");
    let retry =
        v1::RetryPolicy { max_attempts: 3, retry_failures: true, backoff_ms: 10, ..Default::default() };
    again.spec.as_mut().unwrap().retry = Some(retry);
    let mut mock = submit("cpu_short", &["mock", "run=10ms"], 1);
    mock.spec.as_mut().unwrap().runtime = "mock".into();
    let mut with_file = shell("cat in");
    let content = Some(v1::input_file::Source::Content(b"content".to_vec()));
    let input = v1::InputFile { path: "in".into(), source: content, ..v1::InputFile::default() };
    with_file.spec.as_mut().unwrap().inputs = vec![input];
    vec![
        ("cpu_short", shell("exit 0"), &["exited"]),
        ("cpu_short", shell("exit 3"), &["exited"]),
        ("cpu_long", slow, &["timed_out"]),
        ("cpu_short", again, &["exited", "exited"]),
        ("cpu_short", mock, &["exited"]),
        ("cpu_short", with_file, &["exited"]),
        ("cpu_short", submit("cpu_short", &["/no/such/program"], 1), &["not_runnable"]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_of_a_task_is_a_line_that_names_it() {
    let mut cluster = Cluster::start(Setup { peers: 1, more: in_json, ..Setup::default() }).await;
    let client = cluster.client();
    let mut run = Vec::new();
    for (class, mut request, ends) in tasks() {
        request.tenant = "team-a".into();
        run.push((class, accepted(&client, request).await.remove(0), ends));
    }
    let mut cancelled = submit("cpu_short", &["/bin/sleep", "100"], 1);
    cancelled.tenant = "team-a".into();
    let id = accepted(&client, cancelled).await.remove(0);
    until_said(&cluster, &id, "started").await;
    let cancel = v1::CancelRequest { tasks: vec![id.clone()], tenant: "team-a".into() };
    client.cancel(cancel).await.unwrap();
    run.push(("cpu_short", id, &["cancelled"]));
    let wait = v1::WaitRequest {
        tasks: run.iter().map(|(_, id, _)| id.clone()).collect(),
        tenant: "team-a".into(),
        timeout_ms: PATIENCE.as_millis() as u64,
        ..v1::WaitRequest::default()
    };
    assert!(client.wait(wait).await.unwrap().finished);
    signal(cluster.peers[0].pid().unwrap(), "TERM");
    assert!(cluster.peers[0].exit().await.success());

    let log = lines(&cluster.peers[0].log());
    let said = args(&log.iter().collect::<Vec<_>>()).join("\n");
    for part in ["warning: ", "is ready on unix:", "peer is up", "a second signal stops at once"] {
        assert!(said.contains(part), "{part:?} is not said in\n{said}");
    }
    for (class, id, ends) in run {
        let own = lines_about(&log, &id, class);
        let shown = args(&own);
        let count = |word: &str| shown.iter().filter(|shown| **shown == word).count();
        for once in ["submitted", "finished"] {
            assert_eq!(count(once), 1, "{shown:?}");
        }
        for each in ["placed", "leased to this node", "ended"] {
            assert_eq!(count(each), ends.len(), "{shown:?}");
        }
        assert_eq!(count("queued again"), ends.len() - 1, "{shown:?}");
        assert_eq!(count("started"), if ends == ["not_runnable"] { 0 } else { ends.len() }, "{shown:?}");
        assert_eq!(count("preparing"), count("prepared"), "{shown:?}");
        let kinds: Vec<&Value> = own.iter().filter(|l| l["message"] == "ended").map(|l| &l["kind"]).collect();
        assert_eq!(kinds, ends.iter().collect::<Vec<_>>(), "{own:#?}");
        let attempts: Vec<u64> =
            own.iter().filter(|l| l["message"] == "ended").map(|l| l["attempt"].as_u64().unwrap()).collect();
        assert_eq!(attempts, (1..=ends.len() as u64).collect::<Vec<_>>());
    }
    let codes: BTreeMap<i64, usize> =
        log.iter().filter(|l| l["message"] == "ended").fold(BTreeMap::new(), |mut codes, line| {
            line["exit_code"].as_i64().into_iter().for_each(|code| *codes.entry(code).or_default() += 1);
            codes
        });
    assert_eq!(codes, BTreeMap::from([(0, 4), (1, 1), (3, 1)]));
    let started = log.iter().filter(|l| l["message"] == "started");
    let runtimes: Vec<&str> = started.map(|line| line["runtime"].as_str().unwrap()).collect();
    assert_eq!(runtimes.iter().filter(|runtime| **runtime == "mock").count(), 1, "{runtimes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_adopts_an_attempt_still_says_whose_it_is() {
    let mut cluster = Cluster::start(Setup { peers: 1, more: in_json, ..Setup::default() }).await;
    let mut request = submit("cpu_short", &["/bin/sh", "-c", "sleep 2; exit 4"], 1);
    request.tenant = "team-a".into();
    let id = accepted(&cluster.client(), request).await.remove(0);
    until_said(&cluster, &id, "started").await;
    cluster.peers[0].kill().await;
    cluster.peers[0].log_and_forget();
    cluster.peers[0].spawn(&[]);
    cluster.peers[0].ready().await;
    until_said(&cluster, &id, "finished").await;
    let log = cluster.peers[0].log();
    let log = lines(&log[..=log.rfind('\n').unwrap()]);
    let own = lines_about(&log, &id, "cpu_short");
    let ended = own.iter().find(|line| line["message"] == "ended").expect("its end is told");
    assert_eq!((&ended["attempt"], &ended["exit_code"]), (&1.into(), &4.into()), "{ended}");
}

fn docker_in_json(peer: usize) -> String {
    in_json(peer) + "[executor.docker]\nallowed_images = [\"stint-test/*\"]\n"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_is_told_with_its_image_and_a_denial_with_its_rule() {
    let setup = Setup { peers: 1, runtimes: "\"docker\"", more: docker_in_json, ..Setup::default() };
    let cluster = Cluster::start(setup).await;
    for (image, last) in [("stint-test/busybox:1", "exited"), ("docker.io/library/busybox:1", "denied")] {
        let mut request = submit("cpu_long", &["/bin/true"], 1);
        request.tenant = "team-a".into();
        let spec = request.spec.as_mut().unwrap();
        (spec.image, spec.runtime) = (image.into(), "docker".into());
        let id = accepted(&cluster.client(), request).await.remove(0);
        until_said(&cluster, &id, "finished").await;
        let log = cluster.peers[0].log();
        let log = lines(&log[..=log.rfind('\n').unwrap()]);
        let own = lines_about(&log, &id, "cpu_long");
        let line = |message: &str| own.iter().find(|line| line["message"] == message);
        let began = line("started").or(line("leased to this node")).unwrap();
        assert_eq!((&began["runtime"], &began["image"]), (&"docker".into(), &image.into()), "{began}");
        assert_eq!(line("started").is_some(), last == "exited");
        assert_eq!(line("ended").unwrap()["kind"], last);
        let reason = line("finished").unwrap()["reason"].as_str().unwrap();
        assert_eq!(reason.contains("executor.docker.allowed_images"), last == "denied", "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_is_an_object_however_much_is_said() {
    let cluster = Cluster::start(Setup { peers: 1, more: everything_in_json, ..Setup::default() }).await;
    let ids = accepted(&cluster.client(), submit("cpu_short", &["/bin/true"], 1)).await;
    cluster.finish(&ids, PATIENCE).await;
    let log = cluster.peers[0].log();
    // The last line may be on its way.
    let whole = &log[..=log.rfind('\n').unwrap()];
    assert!(lines(whole).iter().any(|line| line["message"] == "ended" && line["task"] == ids[0].as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_are_quiet_unless_asked_for() {
    let cluster = Cluster::start(Setup { peers: 1, ..Setup::default() }).await;
    let ids = accepted(&cluster.client(), submit("cpu_short", &["/bin/true"], 3)).await;
    cluster.finish(&ids, PATIENCE).await;
    let log = cluster.peers[0].log();
    assert!(!ids.iter().any(|id| log.contains(id)), "{log}");
}
