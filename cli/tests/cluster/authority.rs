//! Another certificate authority for a cluster that runs, and the end of the administrator's certificate.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use stint_node::peers::PeerAddress;
use stint_node::pki::{Root, Validity};
use stint_node::wire::{CallKind, Request, encode};
use stint_sdk::v1;
use tokio::time::{Instant, sleep};

use crate::removed::{call, calls_as, over_tcp};
use crate::support::{Cluster, PATIENCE, Setup, accepted, stint_at};
use crate::{prove, quick};

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn read(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(name)).unwrap()
}

fn certificate(dir: &Path, name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(read(dir, name).as_bytes()).unwrap()
}

/// What `stint cluster ca` with these arguments says at this peer.
fn ca(cluster: &Cluster, peer: usize, arguments: &[&str]) -> Value {
    let (code, out, err) =
        stint_at(cluster, peer, &[&["cluster", "ca"], arguments, &["-o", "json"]].concat());
    assert_eq!(code, 0, "{arguments:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

/// None: no leader answers just now.
fn status(cluster: &Cluster, peer: usize) -> Option<Value> {
    let (code, out, _) = stint_at(cluster, peer, &["cluster", "ca", "status", "-o", "json"]);
    (code == 0).then(|| serde_json::from_str(&out).unwrap())
}

fn all_have_new_ones(status: &Value) -> bool {
    status["phase"] == "changing" && status["waits_for"].as_array().unwrap().is_empty()
}

/// A copy of a peer's credentials, as on another machine.
fn copied(cluster: &Cluster, peer: usize, name: &str) -> PathBuf {
    let to = cluster.root.path().join(name);
    std::fs::create_dir(&to).unwrap();
    for file in ["ca.pem", "admin.pem", "admin-key.pem"] {
        std::fs::copy(cluster.peers[peer].dir.join("credentials").join(file), to.join(file)).unwrap();
    }
    to
}

async fn one_more_ends(cluster: &Cluster) {
    let ids = accepted(&cluster.client(), quick(cluster, "1", 1)).await;
    cluster.finish(&ids, PATIENCE).await;
}

/// Twice the one that leads, or another one where clients know its port.
async fn kill_leaders(cluster: &mut Cluster) {
    for _ in 0..2 {
        let leader = cluster.leader().await;
        let victim = if leader == 0 { 1 } else { leader };
        cluster.peers[victim].kill().await;
        sleep(Duration::from_millis(200)).await;
        cluster.peers[victim].spawn(&[]);
        cluster.peers[victim].ready().await;
    }
}

/// The files of a peer are of the new authority.
async fn has_changed_over(dir: &Path, old_node: &CertificateDer<'_>) {
    let root = Root(read(dir, "pki/ca.pem"));
    assert!(root.issued(&certificate(dir, "pki/node.pem")) && !root.issued(old_node));
    until("the administrator's certificate is a new one", || {
        root.issued(&certificate(dir, "credentials/admin.pem"))
    })
    .await;
    until("the key is sealed as the authority's, and the old one gone", || {
        !dir.join("pki/ca-key-next.sealed").exists() && dir.join("pki/ca-key.sealed").exists()
    })
    .await;
}

/// Neither file of before is of use, and the message says what to do.
fn refused_with_old_files(port: u16, dir: &Path, old: &Path, new: &Path) {
    std::fs::copy(old.join("ca.pem"), new.join("ca.pem")).unwrap();
    for credentials in [old, new] {
        let (code, err) = over_tcp(port, credentials);
        assert!(code == 3 && err.contains("credentials of a peer again"), "exit {code}: {err}");
    }
    std::fs::copy(dir.join("credentials/ca.pem"), old.join("ca.pem")).unwrap();
    std::fs::copy(dir.join("credentials/ca.pem"), new.join("ca.pem")).unwrap();
    let (code, err) = over_tcp(port, old);
    assert!(code != 0 && err.contains("credentials of a peer again"), "exit {code}: {err}");
}

/// A joiner's token is of the new authority, and another change goes the same way.
async fn change_again(cluster: &mut Cluster, done: &Value) {
    let (token, founder) = (cluster.join_token(1).await, cluster.address_of(0));
    let joined = cluster.another("t4");
    cluster.peers[joined].spawn(&["--join", &founder, "--token", &token]);
    cluster.peers[joined].ready().await;
    ca(cluster, joined, &["rotate", "--overlap", "1ms"]);
    until("the second change ends by itself", || {
        let status = status(cluster, 0);
        status
            .is_some_and(|status| status["phase"] == "steady" && status["fingerprint"] != done["fingerprint"])
    })
    .await;
    one_more_ends(cluster).await;
    assert_eq!(ca(cluster, joined, &["status"])["cluster_id"], done["cluster_id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authority_changes_under_running_tasks_and_killed_leaders() {
    let mut cluster = Cluster::start(Setup::default()).await;
    let port = crate::with_api(&mut cluster, 0).await;
    cluster.all_ready().await;
    let dirs: Vec<PathBuf> = cluster.peers.iter().map(|peer| peer.dir.clone()).collect();
    let before = ca(&cluster, 0, &["status"]);
    assert_eq!((&before["phase"], &before["since_ms"]), (&Value::from("steady"), &Value::Null));
    let (old, old_node) = (copied(&cluster, 0, "old"), certificate(&dirs[1], "pki/node.pem"));
    let old_root = Root(read(&dirs[0], "pki/ca.pem"));
    let stale = calls_as(&dirs[1]);
    let to = cluster.address_of(0);
    let ask = async |peers| call(peers, &to, CallKind::Forward, encode(&Request::ReadIndex).to_vec()).await;
    ask(&stale).await.unwrap();
    let mut ids = accepted(&cluster.client(), quick(&cluster, "800", 6)).await;

    // The leader is killed as soon as it was asked, and the next one a moment later, wherever that is with it. Not the one
    // whose port clients know.
    ca(&cluster, 0, &["rotate", "--overlap", "1h"]);
    let (code, _, err) = stint_at(&cluster, 0, &["cluster", "ca", "rotate"]);
    assert!(code == 1 && err.contains("is being changed already"), "{err}");
    kill_leaders(&mut cluster).await;
    until("all have certificates of the new authority", || {
        status(&cluster, 0).is_some_and(|status| all_have_new_ones(&status))
    })
    .await;
    let changing = ca(&cluster, 0, &["status"]);
    assert_eq!(changing["cluster_id"], before["cluster_id"], "the cluster keeps its id");
    assert_ne!(changing["fingerprint"], before["fingerprint"]);
    for dir in &dirs {
        has_changed_over(dir, &old_node).await;
    }
    // Both are trusted: what was copied before opens the API with both old and new files, and peers take old certificates.
    let new = copied(&cluster, 0, "new");
    let mixed = copied(&cluster, 0, "mixed");
    std::fs::copy(old.join("ca.pem"), mixed.join("ca.pem")).unwrap();
    for credentials in [&old, &new] {
        assert_eq!(over_tcp(port, credentials), (0, String::new()), "{}", credentials.display());
    }
    let (code, warned) = over_tcp(port, &mixed);
    assert!(code == 0 && warned.contains("are of two authorities"), "exit {code}: {warned}");
    ask(&stale).await.unwrap();
    ids.extend(accepted(&cluster.client(), quick(&cluster, "100", 3)).await);

    // The end.
    let done = ca(&cluster, 0, &["rotate", "--finish"]);
    assert_eq!((&done["phase"], &done["cluster_id"]), (&Value::from("steady"), &before["cluster_id"]));
    let (code, _, err) = stint_at(&cluster, 0, &["cluster", "ca", "rotate", "--finish"]);
    assert!(code == 1 && err.contains("no change of the authority is going on"), "{err}");
    until("peers trust the new one alone", || {
        dirs.iter().all(|dir| !Root(read(dir, "pki/ca.pem")).vouches_for(&old_node, &[]))
    })
    .await;
    let refused = ask(&stale).await.unwrap_err();
    assert!(refused.contains("the authority of the cluster was changed"), "{refused}");
    refused_with_old_files(port, &dirs[0], &old, &new);
    assert_eq!(over_tcp(port, &new), (0, String::new()));
    assert_eq!(read(&dirs[2], "credentials/ca.pem").matches("BEGIN CERTIFICATE").count(), 1);
    assert_ne!(read(&dirs[2], "credentials/ca.pem"), old_root.0);
    let tasks = cluster.finish(&ids, PATIENCE).await;
    prove(&cluster, &ids, &tasks);

    change_again(&mut cluster, &done).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_was_off_while_the_authority_changed_comes_back() {
    let mut cluster = Cluster::start(Setup::default()).await;
    let dirs: Vec<PathBuf> = cluster.peers.iter().map(|peer| peer.dir.clone()).collect();
    until("the voters have the key", || dirs.iter().all(|dir| dir.join("pki/ca-key.sealed").exists())).await;
    let leader = cluster.leader().await;
    let away = (0..3).find(|peer| *peer != leader).unwrap();
    let name = cluster.peers[away].name.clone();
    cluster.peers[away].kill().await;
    let old_node = certificate(&dirs[away], "pki/node.pem");
    ca(&cluster, leader, &["rotate", "--overlap", "1h"]);
    until("the others have certificates of the new authority", || {
        status(&cluster, leader)
            .is_some_and(|s| s["phase"] == "changing" && s["waits_for"] == Value::from(vec![name.clone()]))
    })
    .await;
    let (code, _, err) = stint_at(&cluster, leader, &["cluster", "ca", "rotate", "--finish"]);
    assert!(code == 1 && err.contains(&format!("no certificate of the new authority yet: {name}")), "{err}");
    ca(&cluster, leader, &["rotate", "--finish", "--force"]);
    until("the leader trusts the new one alone", || {
        !Root(read(&dirs[leader], "pki/ca.pem")).vouches_for(&old_node, &[])
    })
    .await;
    let stale = calls_as(&dirs[away]);
    let ask = encode(&Request::ReadIndex).to_vec();
    for peer in (0..3).filter(|peer| *peer != away) {
        let to = PeerAddress::any(&cluster.address_of(peer));
        let end = Instant::now() + PATIENCE;
        while stale.call(&to, CallKind::Forward, ask.clone().into(), Duration::from_secs(10)).await.is_ok() {
            assert!(Instant::now() < end, "an old certificate is taken");
            sleep(Duration::from_millis(20)).await;
        }
    }
    // It knows nothing of all that, and all refuse its certificate.
    cluster.peers[away].spawn(&[]);
    cluster.peers[away].ready().await;
    until("it has a certificate of the new authority", || {
        let root = Root(read(&dirs[away], "pki/ca.pem"));
        !root.vouches_for(&old_node, &[]) && root.issued(&certificate(&dirs[away], "pki/node.pem"))
    })
    .await;
    until("it has the key of the new one, as it votes", || {
        let said = cluster.peers[away].log();
        said.contains("this peer votes, and has the key of the cluster's authority now")
    })
    .await;
    cluster.all_ready().await;
    let ids = accepted(&cluster.client(), quick(&cluster, "10", 6)).await;
    cluster.finish(&ids, PATIENCE).await;
    // The one that was off is needed for the majority now.
    let other = (0..3).find(|peer| ![leader, away].contains(peer)).unwrap();
    cluster.peers[other].kill().await;
    let request = v1::SubmitRequest { ..quick(&cluster, "10", 2) };
    let ids = accepted(&cluster.client_of(away), request).await;
    cluster.finish_at(away, &ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_administrators_certificate_ends_and_its_node_renews_it() {
    const LIFE: u64 = 12;
    let setup = Setup { peers: 1, between_peers: "admin_certificate_ttl = \"12s\"", ..Setup::default() };
    let mut cluster = Cluster::start(setup).await;
    let port = crate::with_api(&mut cluster, 0).await;
    // One that does not vote asks another one for it.
    let (token, founder) = (cluster.join_token(1).await, cluster.address_of(0));
    let joined = cluster.another("t2");
    cluster.peers[joined].spawn(&["--join", &founder, "--token", &token]);
    cluster.peers[joined].ready().await;
    let dirs = [cluster.peers[0].dir.clone(), cluster.peers[joined].dir.clone()];
    let validity = |dir: &Path| Validity::read(&certificate(dir, "credentials/admin.pem")).unwrap();
    let (first, copy) = (dirs.each_ref().map(|dir| validity(dir)), copied(&cluster, 0, "copy"));
    let key = read(&dirs[0], "credentials/admin-key.pem");
    for seen in first {
        assert_eq!(seen.life(), Duration::from_secs(LIFE), "{seen:?}");
    }
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    until("the copy ends", || first.iter().all(|first| now() > first.to)).await;
    for dir in &dirs {
        assert!(validity(dir).to > now(), "its node has another one in time");
    }
    assert_eq!(over_tcp(port, &dirs[0].join("credentials")), (0, String::new()));
    assert_eq!(over_tcp(port, &dirs[1].join("credentials")), (0, String::new()));
    assert_eq!(read(&dirs[0], "credentials/admin-key.pem"), key, "one file changes, as a whole");
    let (code, err) = over_tcp(port, &copy);
    assert!(code == 1 && err.contains("admin.pem ended at") && err.contains("of a peer again"), "{err}");
}
