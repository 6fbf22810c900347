//! What the certificates of a node that was removed are still good for: nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stint_node::peers::{CallError, PeerAddress, Peers};
use stint_node::pki::{Identity, Root, peer_client};
use stint_node::wire::{CallKind, ForwardAnswer, ReadLog, Report, ReportAnswer, Request, decode, encode};
use stint_protocol::{BootMs, Incarnation, LeaseId, NodeId, Nonce, TaskId};
use tokio::time::{Instant, sleep};

use crate::support::{Cluster, PATIENCE, STINT, Setup, stint_at};

const DEADLINE: Duration = Duration::from_secs(10);
const REMOVED: &str = "was removed from this cluster";

/// Calls with the certificate in this data folder.
pub fn calls_as(data_dir: &Path) -> Peers {
    let read = |name: &str| std::fs::read_to_string(data_dir.join("pki").join(name)).unwrap();
    let identity = Identity { certificate: read("node.pem"), key: read("node-key.pem") };
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    Peers::new(endpoint, peer_client(&Root(read("ca.pem")), &identity).unwrap()).unwrap()
}

pub async fn call(peers: &Peers, to: &str, kind: CallKind, body: Vec<u8>) -> Result<Vec<u8>, String> {
    match peers.call(&PeerAddress::any(to), kind, body.into(), DEADLINE).await {
        Ok(answer) => Ok(answer.to_vec()),
        Err(CallError::Refused(_, why)) => Err(why),
        Err(other) => panic!("{to} does not answer: {other}"),
    }
}

async fn forward(peers: &Peers, to: &str, request: &Request) -> ForwardAnswer {
    let answer = call(peers, to, CallKind::Forward, encode(request).to_vec()).await;
    decode(&answer.expect("an answer")).unwrap()
}

fn report(node: u64) -> Vec<u8> {
    let report = Report {
        node: NodeId(node),
        incarnation: Incarnation(1),
        nonce: Nonce(1),
        sequence: 1,
        sent: BootMs(1),
        register: None,
        running: Vec::new(),
        ends: Vec::new(),
        hold_ms: 0,
        not_begun: None,
    };
    encode(&report).to_vec()
}

/// Everything that a peer may ask of another one is refused, by words that say why.
async fn all_refused(peers: &Peers, to: &str, node: u64) {
    let hash = [7; 32].into();
    for request in [
        Request::CreateJoinToken { hash, valid_ms: 60_000, uses: None },
        Request::Cancel(vec![TaskId(1)]),
        Request::RemoveNode(NodeId(1)),
        Request::Enlist(NodeId(node)),
        Request::ReadIndex,
        Request::LeaderView,
    ] {
        match forward(peers, to, &request).await {
            ForwardAnswer::Refused(refusal) => assert!(refusal.message.contains(REMOVED), "{refusal}"),
            other => panic!("{request:?} came to {other:?}"),
        }
    }
    let lease = LeaseId { task: TaskId(1), attempt: 1 };
    let log = ReadLog {
        lease,
        stderr: false,
        offset: 0,
        wait_ms: 0,
        file: None,
        tail: None,
        progress: None,
        stage: None,
    };
    for (kind, body) in [
        (CallKind::RaftControl, b"\x01a vote".to_vec()),
        (CallKind::RaftAppend, b"\x01entries".to_vec()),
        (CallKind::RaftSnapshot, b"\x01a chunk".to_vec()),
        (CallKind::ReadLog, encode(&log).to_vec()),
        (CallKind::ReadBlob, Vec::new()),
        (CallKind::OfferBlob, Vec::new()),
    ] {
        let refused = call(peers, to, kind, body).await;
        assert!(refused.as_ref().is_err_and(|why| why.contains(REMOVED)), "{kind:?} came to {refused:?}");
    }
    let answer = call(peers, to, CallKind::Report, report(node)).await.unwrap();
    assert!(matches!(decode(&answer).unwrap(), ReportAnswer::Stale(why) if why.contains(REMOVED)));
}

/// Exit code and stderr of a command over TCP.
pub fn over_tcp(port: u16, credentials: &Path) -> (i32, String) {
    let output = std::process::Command::new(STINT)
        .args(["--address", &format!("https://127.0.0.1:{port}"), "nodes", "--credentials"])
        .arg(credentials)
        .output()
        .unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_can_do_nothing() {
    let mut cluster = Cluster::start(Setup::default()).await;
    let port = crate::with_api(&mut cluster, 0).await;
    cluster.all_ready().await;
    let leader = cluster.leader().await;
    let gone = (1..3).find(|peer| *peer != leader).unwrap();
    let others: Vec<usize> = (0..3).filter(|peer| *peer != gone).collect();
    let (name, dir) = (cluster.peers[gone].name.clone(), cluster.peers[gone].dir.clone());
    let id = cluster.client().list_nodes().await.unwrap().iter().find(|node| node.name == name).unwrap().id;
    let peers = Arc::new(calls_as(&dir));
    let at: Vec<String> = others.iter().map(|peer| cluster.address_of(*peer)).collect();

    // It is served while it is a member; over these connections it goes on asking.
    for to in &at {
        assert!(!matches!(forward(&peers, to, &Request::ReadIndex).await, ForwardAnswer::Refused(_)));
        let junk = call(&peers, to, CallKind::RaftControl, b"\x01a vote".to_vec()).await;
        assert!(junk.unwrap_err().contains("not a request of this version"));
    }
    // A certificate of a peer is no administrator's.
    let posing = cluster.root.path().join("posing");
    std::fs::create_dir(&posing).unwrap();
    for (from, to) in [("ca.pem", "ca.pem"), ("node.pem", "admin.pem"), ("node-key.pem", "admin-key.pem")] {
        std::fs::copy(dir.join("pki").join(from), posing.join(to)).unwrap();
    }
    let (code, err) = over_tcp(port, &posing);
    assert!(code != 0 && err.contains("use the administrator's certificate"), "{err}");
    assert_eq!(over_tcp(port, &dir.join("credentials")), (0, String::new()));
    let (code, _, err) = stint_at(&cluster, leader, &["node", "remove", &name]);
    assert_eq!(code, 0, "{err}");
    cluster.peers[gone].exit().await;
    let until = Instant::now() + PATIENCE;
    for peer in &others {
        while cluster.client_of(*peer).cluster_status().await.unwrap().peers.len() > 2 {
            assert!(Instant::now() < until, "peer {peer} still counts it");
            sleep(Duration::from_millis(10)).await;
        }
    }
    let term = cluster.client_of(leader).cluster_status().await.unwrap().term;
    let anew = calls_as(&dir);
    for to in &at {
        all_refused(&peers, to, id).await;
        all_refused(&anew, to, id).await;
    }
    let (code, err) = over_tcp(port, &dir.join("credentials"));
    assert!(code != 0 && err.contains(&format!("of node {id}, which was removed")), "{err}");
    assert_eq!(over_tcp(port, &cluster.peers[leader].dir.join("credentials")), (0, String::new()));
    // Nor can the whole peer, as often as it is started.
    for _ in 0..2 {
        cluster.peers[gone].spawn(&[]);
        assert_eq!(cluster.peers[gone].exit().await.code(), Some(1), "{}", cluster.peers[gone].log());
    }
    assert_eq!(
        cluster.client_of(leader).cluster_status().await.unwrap().term,
        term,
        "its votes count for nothing"
    );

    // Who joins later has another id, and is served.
    let token = cluster.client_of(leader).create_join_token(Duration::from_secs(600), 1).await.unwrap().token;
    let another = cluster.another("t4");
    cluster.peers[another].spawn(&["--join", &at[0], "--token", &token]);
    cluster.peers[another].ready().await;
    let served = calls_as(&cluster.peers[another].dir);
    for to in &at {
        assert!(!matches!(forward(&served, to, &Request::ReadIndex).await, ForwardAnswer::Refused(_)));
        all_refused(&peers, to, id).await;
    }
}
