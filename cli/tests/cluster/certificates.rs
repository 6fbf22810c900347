//! Certificates of nodes and the key of their authority: renewed while all goes on, at voters only, refused to others.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use stint_node::peers::{PeerAddress, Peers};
use stint_node::pki::{
    CertificateRequest, Identity, KeyPair, Purpose, Root, Validity, carries, key_of, peer_client, public_key,
    renewing_client,
};
use stint_node::wire::{
    CallKind, KeyAnswer, KeyQuestion, RefusalCode, Renew, RenewAnswer, Request, decode, encode,
};
use tokio::time::{Instant, sleep};

use crate::quick;
use crate::removed::{call, calls_as, over_tcp};
use crate::support::{Cluster, PATIENCE, Setup, accepted, stint_at};

const DEADLINE: Duration = Duration::from_secs(10);
/// Seconds that certificates live here.
const LIFE: u64 = 12;

fn short() -> Setup {
    Setup { between_peers: "certificate_ttl = \"12s\"", ..Setup::default() }
}

fn file(dir: &Path, name: &str) -> PathBuf {
    dir.join("pki").join(name)
}

fn text(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(file(dir, name)).unwrap()
}

/// The certificate in this data folder.
fn certificate(dir: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(text(dir, "node.pem").as_bytes()).unwrap()
}

fn validity(dir: &Path) -> Validity {
    Validity::read(&certificate(dir)).unwrap()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Until the certificates that these folders have now are over.
async fn outlive(dirs: &[PathBuf]) {
    let ends = dirs.iter().map(|dir| validity(dir).to).max().unwrap();
    until("certificates end", || now() > ends).await;
}

fn votes(dir: &Path) -> bool {
    file(dir, "ca-key.sealed").exists() && !file(dir, "ca-key.pem").exists()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_renew_themselves_while_all_goes_on() {
    let mut cluster = Cluster::start(short()).await;
    let port = crate::with_api(&mut cluster, 0).await;
    cluster.all_ready().await;
    let dirs: Vec<PathBuf> = cluster.peers.iter().map(|peer| peer.dir.clone()).collect();
    let pids: Vec<_> = cluster.peers.iter().map(|peer| peer.pid()).collect();
    let term = cluster.client().cluster_status().await.unwrap().term;
    let keys: Vec<_> = dirs.iter().map(|dir| key_of(&certificate(dir))).collect();
    for dir in &dirs {
        let seen = validity(dir);
        assert!(seen.life() == Duration::from_secs(LIFE) && seen.from + 3_500 < now(), "{seen:?}");
    }
    // A connection outlives a handshake, but not the certificate that was shown there.
    let (stale, to) = (calls_as(&dirs[1]), cluster.address_of(0));
    let ask = async || call(&stale, &to, CallKind::Forward, encode(&Request::ReadIndex).to_vec()).await;
    let shown = validity(&dirs[1]).to;
    ask().await.unwrap();
    for _ in 0..2 {
        let before: Vec<_> = dirs.iter().map(|dir| validity(dir)).collect();
        let ids = accepted(&cluster.client(), quick(&cluster, "300", 6)).await;
        outlive(&dirs).await;
        for (dir, before) in dirs.iter().zip(before) {
            let (seen, now) = (validity(dir), now());
            assert!(seen.to > now && before.to <= now, "{seen:?} after {before:?} at {now}");
        }
        cluster.finish(&ids, PATIENCE).await;
        assert!(now() > shown && ask().await.unwrap_err().contains("the caller's certificate ended at"));
        // Clients see the new one, too, and members know each other over new connections.
        assert_eq!(over_tcp(port, &dirs[0].join("credentials")), (0, String::new()));
    }
    assert_eq!(cluster.peers.iter().map(|peer| peer.pid()).collect::<Vec<_>>(), pids);
    assert_eq!(cluster.client().cluster_status().await.unwrap().term, term, "nobody was missed");
    assert_eq!(dirs.iter().map(|dir| key_of(&certificate(dir))).collect::<Vec<_>>(), keys, "keys stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_were_off_longer_than_their_certificates_come_back() {
    let mut cluster = Cluster::start(short()).await;
    let dirs: Vec<PathBuf> = cluster.peers.iter().map(|peer| peer.dir.clone()).collect();
    let leader = cluster.leader().await;
    let away = (0..3).find(|peer| *peer != leader).unwrap();
    until("the voters have the key", || dirs.iter().all(|dir| votes(dir))).await;
    // One that does not have the authority's key asks for another certificate.
    cluster.peers[away].stop().await;
    std::fs::remove_file(file(&dirs[away], "ca-key.sealed")).unwrap();
    outlive(&dirs[away..=away]).await;
    cluster.peers[away].spawn(&[]);
    cluster.peers[away].ready().await;
    cluster.all_ready().await;
    assert!(validity(&dirs[away]).to > now());
    until("it has the key again, as it votes", || votes(&dirs[away])).await;
    // Then all of them: voters renew their own.
    for peer in &mut cluster.peers {
        peer.stop().await;
    }
    outlive(&dirs).await;
    for peer in &mut cluster.peers {
        peer.spawn(&[]);
    }
    for peer in &mut cluster.peers {
        peer.ready().await;
    }
    cluster.all_ready().await;
    let ids = accepted(&cluster.client(), quick(&cluster, "10", 3)).await;
    cluster.finish(&ids, PATIENCE).await;
}

/// Calls as a stranger.
fn as_stranger(dir: &Path) -> Peers {
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    Peers::new(endpoint, renewing_client(&Root(text(dir, "ca.pem"))).unwrap()).unwrap()
}

/// What becomes of a wish for another certificate than that of this folder, with this key.
async fn renew(dir: &Path, certificate: &CertificateDer<'_>, key: &KeyPair, to: &str) -> RenewAnswer {
    let request = CertificateRequest::make(key, Purpose::Renewal { of: certificate }).unwrap();
    let renew = Renew { certificate: certificate.to_vec().into(), request };
    let answer =
        as_stranger(dir).call(&PeerAddress::any(to), CallKind::Renew, encode(&renew), DEADLINE).await;
    decode(&answer.unwrap()).unwrap()
}

fn key(dir: &Path) -> KeyPair {
    KeyPair::from_pem(&text(dir, "node-key.pem")).unwrap()
}

fn refused(answer: RenewAnswer) -> (RefusalCode, String) {
    match answer {
        RenewAnswer::Refused(refusal) => (refusal.code, refusal.message),
        RenewAnswer::Renewed { .. } => panic!("it was renewed"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_member_with_its_own_key_gets_another_certificate() {
    let mut cluster = Cluster::start(short()).await;
    let dirs: Vec<PathBuf> = cluster.peers.iter().map(|peer| peer.dir.clone()).collect();
    until("the voters have the key", || dirs.iter().all(|dir| votes(dir))).await;
    let leader = cluster.leader().await;
    let gone = (0..3).find(|peer| *peer != leader).unwrap();
    let to = cluster.address_of(leader);
    let old = certificate(&dirs[gone]);
    let RenewAnswer::Renewed { certificate: new, .. } =
        renew(&dirs[gone], &old, &key(&dirs[gone]), &to).await
    else {
        panic!("a member got no certificate");
    };
    let new = CertificateDer::from_pem_slice(new.as_bytes()).unwrap();
    assert_eq!(key_of(&new), Some(public_key(&key(&dirs[gone])).unwrap()));
    let (nodes, name) = (cluster.client().list_nodes().await.unwrap(), cluster.peers[gone].name.clone());
    let id = nodes.iter().find(|node| node.name == name).unwrap().id;
    assert!(carries(&new, &format!("node-{id}.stint")) && !carries(&new, "admin.stint"));
    // With another key than the certificate's, and with the administrator's.
    let (_, why) = refused(renew(&dirs[gone], &old, &key(&dirs[leader]), &to).await);
    assert!(why.contains("does not show that the asker has the key"), "{why}");
    let admin = dirs[gone].join("credentials");
    let read = |name: &str| std::fs::read_to_string(admin.join(name)).unwrap();
    let shown = CertificateDer::from_pem_slice(read("admin.pem").as_bytes()).unwrap();
    let (_, why) =
        refused(renew(&dirs[gone], &shown, &KeyPair::from_pem(&read("admin-key.pem")).unwrap(), &to).await);
    assert!(why.contains("none that this cluster gave to a node"), "{why}");

    // Off, removed, and its certificate over: it gets none, and says why it ends.
    cluster.peers[gone].stop().await;
    let (code, _, err) = stint_at(&cluster, leader, &["node", "remove", &name]);
    assert_eq!(code, 0, "{err}");
    outlive(&dirs[gone..=gone]).await;
    let (code, why) = refused(renew(&dirs[gone], &old, &key(&dirs[gone]), &to).await);
    assert!(code == RefusalCode::NotFound && why.contains("was removed from this cluster"), "{why}");
    std::fs::remove_file(file(&dirs[gone], "ca-key.sealed")).unwrap();
    cluster.peers[gone].spawn(&[]);
    assert_eq!(cluster.peers[gone].exit().await.code(), Some(1));
    let said = cluster.peers[gone].log();
    assert!(said.contains("this peer was removed from its cluster"), "{said}");
    assert!(!file(&dirs[gone], "ca-key.sealed").exists());
}

/// Whether a file of a data folder has this text.
fn has_text(dir: &Path, text: &str) -> bool {
    let mut search = std::process::Command::new("grep");
    search.args(["--recursive", "--quiet", "--fixed-strings", "--devices=skip", "-e", text]).arg(dir);
    search.status().unwrap().success()
}

/// Eight peers of a cluster that speaks version 4 have the key in the clear; once it speaks version 5 the seven that vote
/// have it sealed, and the eighth, like who joins through it, has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_alone_have_the_key_after_an_upgrade_and_joiners_never_get_it() {
    const CAP: &str = "[cluster]\nmax_version = 4\n";
    let more = |_| CAP.to_owned();
    let mut cluster =
        Cluster::start(Setup { peers: 7, runtimes: "\"mock\"", more, ..Setup::default() }).await;
    let (token, founder) = (cluster.join_token(1).await, cluster.address_of(0));
    let learner = cluster.another("t8");
    cluster.peers[learner].spawn(&["--join", &founder, "--token", &token]);
    cluster.peers[learner].ready().await;
    let dirs: Vec<PathBuf> = cluster.peers.iter().map(|peer| peer.dir.clone()).collect();
    let secret = text(&dirs[0], "ca-key.pem");
    for dir in &dirs {
        assert_eq!(text(dir, "ca-key.pem"), secret, "programs of before read it there");
        assert!(validity(dir).is_endless());
    }
    for peer in &mut cluster.peers {
        peer.stop().await;
        peer.edit(CAP, "");
        peer.spawn(&[]);
        peer.ready().await;
    }
    until("all have certificates that end", || dirs.iter().all(|dir| !validity(dir).is_endless())).await;
    let line = secret.lines().nth(1).unwrap();
    assert!(has_text(&dirs[0], "BEGIN CERTIFICATE"));
    until("the key lies nowhere in the clear", || !dirs.iter().any(|dir| has_text(dir, line))).await;
    let holders: Vec<usize> = (0..8).filter(|peer| file(&dirs[*peer], "ca-key.sealed").exists()).collect();
    assert_eq!(holders, (0..7).collect::<Vec<_>>());

    // A joiner asks the peer that has no key.
    let token = cluster.join_token(1).await;
    let (through, joined) = (cluster.address_of(learner), cluster.another("t9"));
    cluster.peers[joined].spawn(&["--join", &through, "--token", &token]);
    cluster.peers[joined].ready().await;
    cluster.all_ready().await;
    let dir = cluster.peers[joined].dir.clone();
    assert!(!validity(&dir).is_endless());
    assert!(!file(&dir, "ca-key.sealed").exists() && !file(&dir, "ca-key.pem").exists());
    // Nor does it get it by asking as what it is.
    let identity = Identity { certificate: text(&dir, "node.pem"), key: text(&dir, "node-key.pem") };
    let tls = peer_client(&Root(text(&dir, "ca.pem")), &identity).unwrap();
    let peers = Peers::new(quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap(), tls).unwrap();
    let voter = PeerAddress::any(&cluster.address_of((learner + 1) % 8));
    let question = encode(&KeyQuestion { only_whether: false });
    let answer = peers.call(&voter, CallKind::AuthorityKey, question, DEADLINE).await.unwrap();
    assert!(matches!(decode(&answer).unwrap(), KeyAnswer::Refused(why) if why.contains("for voters alone")));
}
