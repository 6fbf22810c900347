//! The ways back, on real processes: folders that were replaced, a lost majority, everything lost, a wiped host.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use stint_sdk::v1;
use support::marks::{Life, QUICK, WORKER, lives, overlaps};
use support::{Cluster, PATIENCE, STINT, Setup, accepted, stint_at, submit};
use tokio::time::{Instant, sleep};

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Exit code, stdout and stderr of an offline command.
fn offline(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(STINT).args(args).env_remove("STINT_ADDRESS").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn document((code, out, err): (i32, String, String)) -> Value {
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        sleep(LOOK_AGAIN).await;
    }
}

/// Tasks that wait, as no node has a device: they are in the state and do nothing.
async fn waiting(cluster: &Cluster, count: u32) -> BTreeSet<String> {
    accepted(&cluster.client(), submit("gpu", &["/bin/true"], count)).await.into_iter().collect()
}

/// What one peer's own copy has.
async fn known(cluster: &Cluster, peer: usize) -> BTreeSet<String> {
    let request = v1::ListTasksRequest { limit: 1_000, ..v1::ListTasksRequest::default() };
    let listed = cluster.client_of(peer).list_tasks(request).await.unwrap();
    listed.tasks.into_iter().map(|task| task.id).collect()
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

async fn stop_all(cluster: &mut Cluster) {
    for peer in &mut cluster.peers {
        peer.stop().await;
    }
}

async fn start_all(cluster: &mut Cluster) {
    for peer in &mut cluster.peers {
        peer.spawn(&[]);
    }
    for peer in &mut cluster.peers {
        peer.ready().await;
    }
}

/// Two of three folders are replaced by older copies and go on: the third, or they, are told to unlearn and stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_told_to_unlearn_stops() {
    who_is_told_to_unlearn_stops(2).await;
}

/// The copies elect in the very term in which the lost entries were written, and maybe the peer that led then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_told_to_unlearn_in_the_term_that_it_knows_stops() {
    who_is_told_to_unlearn_stops(0).await;
}

async fn who_is_told_to_unlearn_stops(restarts: usize) {
    let mut cluster = Cluster::start(Setup::default()).await;
    waiting(&cluster, 5).await;
    stop_all(&mut cluster).await;
    for peer in &cluster.peers[1..] {
        copy(&peer.dir.join("raft"), &peer.dir.join("older"));
    }
    // So that terms are used up which the copies elect in.
    for _ in 0..restarts {
        start_all(&mut cluster).await;
        stop_all(&mut cluster).await;
    }
    start_all(&mut cluster).await;
    let lost = waiting(&cluster, 50).await;
    stop_all(&mut cluster).await;
    for peer in &cluster.peers[1..] {
        std::fs::remove_dir_all(peer.dir.join("raft")).unwrap();
        std::fs::rename(peer.dir.join("older"), peer.dir.join("raft")).unwrap();
    }
    for peer in &mut cluster.peers[1..] {
        peer.spawn(&[]);
    }
    for peer in &mut cluster.peers[1..] {
        peer.ready().await;
    }
    let other: BTreeSet<String> =
        accepted(&cluster.client_of(1), submit("gpu", &["/bin/true"], 25)).await.into_iter().collect();
    cluster.peers[0].spawn(&[]);
    until("somebody is told to unlearn", || cluster.peers.iter_mut().any(|peer| !peer.runs())).await;
    // Time for a split to show, if there is one: those that run on have one history.
    sleep(Duration::from_secs(1)).await;
    let running: Vec<usize> = (0..3).filter(|peer| cluster.peers[*peer].runs()).collect();
    let mut histories = BTreeSet::new();
    for peer in &running {
        let known = known(&cluster, *peer).await;
        match (known.intersection(&lost).count(), known.intersection(&other).count()) {
            (50, 0) => drop(histories.insert("lost")),
            (0, 25) => drop(histories.insert("other")),
            // What it has in its log waits for a leader to say that it is decided.
            (0, 0) => {}
            (of_lost, of_other) => {
                panic!("peer {peer} has {of_lost} of the one history and {of_other} of the other")
            }
        }
    }
    assert!(histories.len() < 2, "peers {running:?} go on with two histories");
    let stopped = (0..3).find(|peer| !running.contains(peer)).expect("one stopped");
    let peer = &mut cluster.peers[stopped];
    assert!(!peer.exit().await.success());
    let said = peer.log_and_forget();
    assert!(said.contains("replaced by an older copy"), "{said}");
    // Nor does a unit that starts it again change anything.
    peer.spawn(&[]);
    assert!(!peer.exit().await.success());
    let said = peer.log();
    assert!(said.contains("does not start over that by itself") && said.contains("contradicted"), "{said}");
}

/// The marks that workers of this cluster left.
fn marks(cluster: &Cluster) -> Vec<Life> {
    lives(&cluster.shared().join("marks"))
}

async fn workers(cluster: &Cluster, seconds: &str, count: u32) -> Vec<String> {
    let file = cluster.shared().join("marks");
    let work =
        submit("cpu_short", &["/bin/sh", "-c", WORKER, "worker", &file.to_string_lossy(), seconds], count);
    let ids = accepted(&cluster.client(), work).await;
    until("all workers run", || marks(cluster).len() == ids.len()).await;
    ids
}

/// Each task ran again from its beginning, alone.
fn prove_one_at_a_time(cluster: &Cluster, ids: &[String]) {
    let marks = marks(cluster);
    for id in ids {
        let mut of_task: Vec<&Life> = marks.iter().filter(|life| life.task == *id).collect();
        of_task.sort_by_key(|life| life.attempt);
        let numbers: Vec<u32> = of_task.iter().map(|life| life.attempt).collect();
        assert!(numbers[0] == 1 && *numbers.last().unwrap() > 10_000, "{id}: attempts {numbers:?}");
        assert!(of_task.last().unwrap().ended, "{id} did not end: {of_task:?}");
    }
    let overlaps = overlaps(&marks);
    assert!(overlaps.is_empty(), "it ran twice at a time: {overlaps:#?}");
}

/// Two of three peers are gone for good while tasks run everywhere: their watchdogs run them on until the leases end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_majority_is_recovered_from_a_survivor() {
    let mut cluster = Cluster::start(Setup::default()).await;
    let quick = submit("cpu_short", &["/bin/echo", "kept"], 3);
    let done = accepted(&cluster.client(), quick).await;
    cluster.finish(&done, PATIENCE).await;
    let ids = workers(&cluster, "6", 6).await;
    let waits = waiting(&cluster, 2).await;
    for peer in 0..2 {
        cluster.peers[peer].kill().await;
    }
    let dir = cluster.peers[2].dir.display().to_string();
    let recover = ["cluster", "recover", "--data-dir", &dir, "--output", "json"];
    let (code, _, err) = offline(&recover);
    assert!(code == 1 && err.contains("in use by another stint process"), "{code}: {err}");
    cluster.peers[2].stop().await;
    let seen = document(offline(&recover));
    assert_eq!(seen["cluster_id"], Value::Null);
    assert_eq!(seen["left_out"], serde_json::json!(["t1", "t2"]));
    assert_eq!((seen["running"].as_u64(), seen["finished"].as_u64()), (Some(6), Some(3)));
    let again = document(offline(&recover));
    assert_eq!(seen, again, "looking changed something");
    let made = document(offline(&[&recover[..], &["--yes"]].concat()));
    let id = made["cluster_id"].as_str().unwrap().to_owned();

    cluster.peers[2].spawn(&[]);
    cluster.peers[2].ready().await;
    let (code, _, err) = stint_at(&cluster, 2, &["cluster", "status"]);
    assert_eq!(code, 0, "{err}");
    let tasks = cluster.finish_at(2, &ids).await;
    assert!(tasks.iter().all(|task| task.outcome.as_ref().unwrap().kind == "exited"), "{tasks:#?}");
    prove_one_at_a_time(&cluster, &ids);
    assert!(known(&cluster, 2).await.is_superset(&waits), "what waited is kept");

    // A peer of before comes back: it has no part in this cluster, and says so.
    cluster.peers[0].spawn(&[]);
    let ended = cluster.peers[0].exit().await;
    let said = cluster.peers[0].log();
    assert!(!ended.success() && said.contains(&format!("this cluster was recovered as {id}")), "{said}");
    // Empty, it joins as another node.
    let token = cluster.client_of(2).create_join_token(Duration::from_secs(600), 4).await.unwrap().token;
    let address = cluster.address_of(2);
    cluster.peers[0].wipe();
    cluster.peers[0].spawn(&["--join", &address, "--token", &token]);
    cluster.peers[0].ready().await;
    let nodes = cluster.client_of(0).list_nodes().await.unwrap();
    let numbers: Vec<u64> = nodes.iter().map(|node| node.id).collect();
    let (survivor, far) = (made["node_id"].as_u64().unwrap(), numbers.last().is_some_and(|id| *id > 10_000));
    assert!(numbers.len() == 2 && numbers[0] == survivor && far, "{numbers:?}");
    let more = accepted(&cluster.client_of(0), submit("cpu_short", &["/bin/echo", "on"], 4)).await;
    cluster.finish_at(0, &more).await;
}

/// All peers and their folders are lost while tasks run, and a file of before is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_restored_from_a_file() {
    let mut cluster = Cluster::start(Setup::default()).await;
    let done = accepted(&cluster.client(), submit("cpu_short", &["/bin/echo", "kept"], 3)).await;
    cluster.finish(&done, PATIENCE).await;
    let ids = workers(&cluster, "6", 6).await;
    let waits = waiting(&cluster, 2).await;
    // Of a follower, with what was accepted just now.
    let follower = (cluster.leader().await + 1) % 3;
    let file = cluster.root.path().join("saved");
    let name = file.display().to_string();
    let saved =
        document(stint_at(&cluster, follower, &["cluster", "snapshot", "save", &name, "--output", "json"]));
    let inspected = document(offline(&["cluster", "snapshot", "inspect", &name, "--output", "json"]));
    assert_eq!(saved, inspected);
    assert_eq!((saved["queued"].as_u64(), saved["running"].as_u64()), (Some(2), Some(6)));
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap()) & 0o777, 0o600);
    let (code, _, err) = stint_at(&cluster, follower, &["cluster", "snapshot", "save", &name]);
    assert!(code == 1 && err.contains("saved"), "it is overwritten: {err}");
    prove_no_key(&cluster, &std::fs::read(&file).unwrap());
    let after = waiting(&cluster, 1).await;

    // The processes and the folders; the watchdogs run on as those of machines that nobody reaches.
    let old = std::fs::read_to_string(cluster.peers[0].dir.join("pki/ca.pem")).unwrap();
    for peer in &mut cluster.peers {
        peer.kill().await;
        std::fs::remove_dir_all(peer.dir.join("raft")).unwrap();
    }
    let dir = cluster.root.path().join("restored");
    let folder = dir.display().to_string();
    let restore = ["cluster", "snapshot", "restore", &name, "--data-dir", &folder];
    let (code, out, err) = offline(&restore);
    assert!(code == 0 && out.contains("of the new cluster stint"), "{out}{err}");
    assert!(err.contains("stint cluster join-token") && err.contains("credentials"), "{err}");
    let (code, _, err) = offline(&restore);
    assert!(code == 1 && err.contains("is not empty"), "{code}: {err}");
    let restored = cluster.another("restored");
    assert_ne!(std::fs::read_to_string(dir.join("pki/ca.pem")).unwrap(), old, "the authority is the old one");
    cluster.peers[restored].spawn(&[]);
    cluster.peers[restored].ready().await;
    cluster.finish_at(restored, &ids).await;
    prove_one_at_a_time(&cluster, &ids);
    let known = known(&cluster, restored).await;
    assert!(known.is_superset(&waits) && known.is_superset(&done.into_iter().collect()));
    assert!(known.is_disjoint(&after), "what came after the file is not in it");
    // It is a cluster as any other.
    let token =
        cluster.client_of(restored).create_join_token(Duration::from_secs(600), 4).await.unwrap().token;
    let (address, joined) = (cluster.address_of(restored), cluster.another("joined"));
    cluster.peers[joined].spawn(&["--join", &address, "--token", &token]);
    cluster.peers[joined].ready().await;
    let file = cluster.shared().join("quick").display().to_string();
    let quick = submit("cpu_short", &["/bin/sh", "-c", QUICK, "quick", &file, "2"], 8);
    let more = accepted(&cluster.client_of(joined), quick).await;
    cluster.finish_at(joined, &more).await;
}

/// Nothing of any key or certificate of the cluster is in these bytes.
fn prove_no_key(cluster: &Cluster, bytes: &[u8]) {
    let mut looked = 0;
    for peer in &cluster.peers {
        for file in ["pki/ca-key.sealed", "pki/node-key.pem", "credentials/admin-key.pem", "pki/ca.pem"] {
            let text = std::fs::read_to_string(peer.dir.join(file)).unwrap();
            for line in text.lines().filter(|line| line.len() > 20 && !line.starts_with("---")) {
                looked += 1;
                let found = bytes.windows(line.len()).any(|window| window == line.as_bytes());
                assert!(!found, "{file} of {} is in the file", peer.name);
            }
        }
    }
    assert!(looked >= 12 && !bytes.windows(7).any(|window| window == b"PRIVATE"));
}

/// The survivor is no voter, or has lost the authority's key: the new cluster has another authority.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_without_the_authoritys_key_gets_another_authority() {
    let mut cluster = Cluster::start(Setup { peers: 1, ..Setup::default() }).await;
    let kept = waiting(&cluster, 2).await;
    cluster.peers[0].stop().await;
    let pki = cluster.peers[0].dir.join("pki");
    let old = std::fs::read_to_string(pki.join("ca.pem")).unwrap();
    std::fs::write(pki.join("ca-key.sealed"), "stint-sealed1-00").unwrap();
    let dir = cluster.peers[0].dir.display().to_string();
    let (code, _, err) = offline(&["cluster", "recover", "--data-dir", &dir, "--yes"]);
    assert!(code == 0 && err.contains("the administrator's new certificate is in"), "{err}");
    for file in [pki.join("ca.pem"), cluster.peers[0].dir.join("credentials/ca.pem")] {
        assert_ne!(std::fs::read_to_string(file).unwrap(), old);
    }
    cluster.peers[0].spawn(&[]);
    cluster.peers[0].ready().await;
    assert_eq!(known(&cluster, 0).await, kept);
    let token = cluster.join_token(1).await;
    let (address, joined) = (cluster.address_of(0), cluster.another("joined"));
    cluster.peers[joined].spawn(&["--join", &address, "--token", &token]);
    cluster.peers[joined].ready().await;
}

/// A host whose folder was wiped, and whose unit still says `--bootstrap`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_host_founds_no_second_cluster_by_accident() {
    let mut cluster = Cluster::start(Setup { peers: 1, ..Setup::default() }).await;
    let peer = &mut cluster.peers[0];
    peer.stop().await;
    // As it is: the word is no harm.
    peer.spawn(&["--bootstrap"]);
    peer.ready().await;
    peer.stop().await;
    peer.wipe();
    peer.spawn(&["--bootstrap"]);
    assert!(!peer.exit().await.success());
    let said = peer.log_and_forget();
    assert!(said.contains("it was node 1 of cluster stint") && said.contains("t1.member"), "{said}");
    std::fs::remove_file(peer.dir.with_extension("member")).unwrap();
    peer.spawn(&["--bootstrap"]);
    peer.ready().await;
}
