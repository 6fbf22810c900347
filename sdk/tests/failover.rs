//! What the client does when peers are gone, slow, busy or say no.
#![allow(clippy::unwrap_used)]

mod fake;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fake::{Fake, chunk, running};
use stint_sdk::{Address, Client, Error, Options, v1};
use tempfile::TempDir;
use tonic::Status;

struct World {
    folder: TempDir,
    addresses: Vec<Address>,
}

impl World {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), addresses: Vec::new() }
    }

    fn socket(&mut self) -> PathBuf {
        let path = self.folder.path().join(format!("{}.sock", self.addresses.len()));
        self.addresses.push(Address::Unix(path.clone()));
        path
    }

    fn peer(&mut self) -> Arc<Fake> {
        let fake = Arc::new(Fake::default());
        fake.serve(&self.socket());
        fake
    }

    fn client(&self) -> Client {
        let patience = Duration::from_millis(200);
        let options = Options::to_any(self.addresses.clone());
        Client::new(Options { try_timeout: patience, call_timeout: 4 * patience, ..options }).unwrap()
    }
}

fn submit() -> v1::SubmitRequest {
    v1::SubmitRequest { tenant: "default".into(), count: 1, ..Default::default() }
}

#[tokio::test]
async fn a_missing_peer_is_passed_over_and_the_one_that_answered_is_asked_first() {
    let mut world = World::new();
    world.socket();
    let (second, third) = (world.peer(), world.peer());
    let client = world.client();
    client.submit(submit()).await.unwrap();
    client.submit(submit()).await.unwrap();
    assert_eq!((second.calls(), third.calls()), (2, 0));
}

#[tokio::test]
async fn a_peer_that_cannot_now_is_passed_over() {
    let mut world = World::new();
    let (first, second) = (world.peer(), world.peer());
    first.fail_next([Status::unavailable("no leader")]);
    world.client().submit(submit()).await.unwrap();
    assert_eq!((first.calls(), second.calls()), (1, 1));
}

#[tokio::test]
async fn a_lone_peer_is_asked_again_after_a_failover() {
    let mut world = World::new();
    let peer = world.peer();
    peer.fail_next([Status::unavailable("no leader"), Status::deadline_exceeded("commit")]);
    world.client().submit(submit()).await.unwrap();
    assert_eq!(peer.calls(), 3);
}

#[tokio::test]
async fn a_silent_peer_costs_one_try() {
    let mut world = World::new();
    let (first, second) = (world.peer(), world.peer());
    first.silent.store(true, Ordering::SeqCst);
    world.client().submit(submit()).await.unwrap();
    assert_eq!((first.calls(), second.calls()), (1, 1));
}

#[tokio::test]
async fn every_call_ends_and_says_where_it_was_tried() {
    let mut world = World::new();
    let silent = world.peer();
    silent.silent.store(true, Ordering::SeqCst);
    world.socket();
    let start = Instant::now();
    let error = world.client().list_nodes().await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(3), "took {:?}", start.elapsed());
    let message = error.to_string();
    assert!(message.starts_with("cannot list nodes: unix:"), "{message}");
    assert!(message.contains("0.sock: no answer within") && message.contains("No such file"), "{message}");
}

#[tokio::test]
async fn when_nobody_is_there_it_says_so_soon() {
    let mut world = World::new();
    world.socket();
    let start = Instant::now();
    let error = world.client().cluster_status().await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(1), "took {:?}", start.elapsed());
    assert!(matches!(&error, Error::Unreachable { tried, .. } if !tried[0].connected), "{error:?}");
}

#[tokio::test]
async fn a_refusal_is_final() {
    let mut world = World::new();
    let (first, second) = (world.peer(), world.peer());
    for status in [Status::invalid_argument("timeout: too long"), Status::resource_exhausted("queue is full")]
    {
        let (code, text) = (status.code(), status.message().to_string());
        first.fail_next([status]);
        let error = world.client().submit(submit()).await.unwrap_err();
        assert_eq!((error.code(), error.to_string()), (Some(code), format!("refused: {text}")));
    }
    assert_eq!((first.calls(), second.calls()), (2, 0));
}

#[tokio::test]
async fn the_idempotency_key_stays_the_same_over_retries() {
    let mut world = World::new();
    let (first, second) = (world.peer(), world.peer());
    first.fail_next([Status::unavailable("a"), Status::unavailable("b")]);
    second.fail_next([Status::unavailable("c")]);
    let client = world.client();
    client.submit(submit()).await.unwrap();
    let used: Vec<String> = [first.keys(), second.keys()].concat();
    assert_eq!(used.len(), 4, "{used:?}");
    assert!(!used[0].is_empty() && used.iter().all(|key| *key == used[0]), "{used:?}");
    client.submit(submit()).await.unwrap();
    assert_ne!(second.keys().last(), used.first(), "another submit has another key");
}

#[tokio::test]
async fn the_users_own_key_is_kept() {
    let mut world = World::new();
    let peer = world.peer();
    let request = v1::SubmitRequest { idempotency_key: "nightly".into(), ..submit() };
    world.client().submit(request).await.unwrap();
    assert_eq!(peer.keys(), ["nightly"]);
}

#[tokio::test]
async fn logs_go_on_at_another_peer_without_loss_or_repetition() {
    let mut world = World::new();
    let (first, second) = (world.peer(), world.peer());
    let broken = vec![chunk("stdout", 0, "hel"), chunk("stderr", 0, "e"), Err(Status::unavailable("stops"))];
    first.logs.lock().unwrap().push_back(broken);
    let whole = vec![chunk("stdout", 0, "hello "), chunk("stderr", 0, "e"), chunk("stdout", 6, "world")];
    first.logs.lock().unwrap().push_back(whole);
    let request = v1::LogsRequest { attempt: 1, follow: true, ..Default::default() };
    let mut logs = world.client().logs(request).await.unwrap();
    let mut text = String::new();
    while let Some(chunk) = logs.next().await.unwrap() {
        text.push_str(std::str::from_utf8(&chunk.data).unwrap());
    }
    assert_eq!(text, "hel".to_string() + "e" + "lo " + "world");
    assert_eq!((first.calls(), second.calls()), (2, 0));
}

#[tokio::test]
async fn logs_of_the_latest_attempt_are_not_taken_up_again() {
    let mut world = World::new();
    let peer = world.peer();
    peer.logs.lock().unwrap().push_back(vec![chunk("stdout", 0, "x"), Err(Status::unavailable("stops"))]);
    let mut logs = world.client().logs(v1::LogsRequest::default()).await.unwrap();
    assert!(logs.next().await.unwrap().is_some());
    assert!(matches!(logs.next().await, Err(Error::Unreachable { .. })));
}

#[tokio::test]
async fn a_bounded_wait_ends() {
    let mut world = World::new();
    let peer = world.peer();
    peer.task.lock().unwrap().push_back(running("t", 1));
    let start = Instant::now();
    let client = world.client();
    let wait = client.wait_for(v1::WaitRequest::default(), Some(Duration::from_millis(150)));
    assert!(!wait.await.unwrap().finished);
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
}

#[test]
fn a_client_without_address_or_credentials_is_refused() {
    assert!(matches!(Client::new(Options::to_any(vec![])), Err(Error::NoAddress)));
    let https: Address = "https://node-1".parse().unwrap();
    let error = Client::new(Options::to(https)).err().unwrap().to_string();
    assert!(error.contains("https://node-1:7002 needs an access token"), "{error}");
}

#[tokio::test]
async fn a_result_is_read_and_one_that_is_none_is_told() {
    let mut world = World::new();
    let peer = world.peer();
    let client = world.client();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol/tests/stored/api");
    *peer.result.lock().unwrap() =
        std::fs::read_to_string(format!("{folder}/result-succeeded.json")).unwrap();
    let request = v1::GetTaskRequest { task: "t".into(), ..Default::default() };
    let result = client.result(request.clone()).await.unwrap();
    assert_eq!((result.phase.as_str(), result.exit_code), ("succeeded", Some(0)));
    assert_eq!(result.end.unwrap().result.outputs[0].path, "model.bin");
    *peer.result.lock().unwrap() = "{}".into();
    assert!(matches!(client.result(request).await, Err(Error::Document(_))));
}
