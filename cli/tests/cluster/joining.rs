//! Join tokens: for how many nodes, until when, and what is left of their use.

use std::time::Duration;

use stint_node::peers::{PeerAddress, Peers};
use stint_node::pki::{
    CertificateRequest, KeyPair, Purpose, disk_of_key, joining_client, new_key, public_key,
};
use stint_node::wire::{CallKind, Join, JoinAnswer, JoinRequests, decode, encode};
use stint_protocol::{NodeId, version};

use crate::support::{Cluster, Setup, stint};

/// A token of the command line, with what `more` says.
fn token(cluster: &Cluster, more: &[&str]) -> String {
    let (code, out, err) = stint(cluster, &[&["cluster", "join-token", "-o", "quiet"], more].concat());
    assert_eq!(code, 0, "{err}");
    out.trim().to_owned()
}

/// The tokens that are listed.
fn listed(cluster: &Cluster) -> Vec<serde_json::Value> {
    let (code, out, err) = stint(cluster, &["cluster", "join-token", "ls", "-o", "json"]);
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

/// Starts one more peer with this token in its environment.
async fn start(cluster: &mut Cluster, name: &str, token: &str) -> usize {
    let (address, added) = (cluster.address_of(0), cluster.another(name));
    cluster.peers[added].variables.push(("STINT_JOIN_TOKEN", token.to_owned()));
    cluster.peers[added].spawn(&["--join", &address]);
    added
}

/// Why this token lets one more peer not in.
async fn refused(cluster: &mut Cluster, name: &str, token: &str) -> String {
    let added = start(cluster, name, token).await;
    let mut peer = cluster.peers.remove(added);
    assert_eq!(peer.exit().await.code(), Some(1), "{}", peer.log());
    peer.log()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_token_lets_in_as_many_nodes_as_it_was_made_for() {
    let mut cluster = Cluster::start(Setup { peers: 1, ..Setup::default() }).await;
    let once = token(&cluster, &[]);
    let second = start(&mut cluster, "t2", &once).await;
    cluster.peers[second].ready().await;
    let said = refused(&mut cluster, "t3", &once).await;
    assert!(said.contains("has let in 1 node(s) already"), "{said}");

    let tokens = listed(&cluster);
    assert_eq!((tokens.len(), &tokens[0]["uses_left"]), (1, &0.into()), "{tokens:?}");
    assert_eq!(tokens[0]["used_by"], serde_json::json!(["t2"]));
    let secret = &once["stint1-".len() + 64..];
    let id = tokens[0]["id"].as_str().unwrap().to_owned();
    assert!(!serde_json::to_string(&tokens).unwrap().contains(secret));
    let lines = |what: &str, name: &str| {
        let is = |line: &&str| [what, name, &id, "127.0.0.1:"].iter().all(|word| line.contains(word));
        cluster.peers[0].log().lines().filter(is).count()
    };
    assert_eq!((lines("a node joined", "t2"), lines("a node was refused to join", "t3")), (1, 1));
    assert!(!cluster.peers[0].log().contains(secret));

    // For two; one of them is taken back.
    let twice = token(&cluster, &["--uses", "2", "--ttl", "2h"]);
    let fourth = start(&mut cluster, "t4", &twice).await;
    cluster.peers[fourth].ready().await;
    let made = listed(&cluster).into_iter().find(|token| token["uses"] == 2).unwrap();
    assert_eq!(made["uses_left"], 1, "{made}");
    let id = made["id"].as_str().unwrap();
    let (code, out, err) = stint(&cluster, &["cluster", "join-token", "rm", &id[..6]]);
    assert_eq!((code, out), (0, format!("{id} revoked\n")), "{err}");
    let said = refused(&mut cluster, "t5", &twice).await;
    assert!(said.contains("the join token is not valid or has expired"), "{said}");
    let (code, _, err) = stint(&cluster, &["cluster", "join-token", "rm", id]);
    assert!(code == 1 && err.contains("join-token ls"), "{err}");
    cluster.all_ready().await;
}

/// A joiner that did not get its answer asks again with the same token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_was_cut_is_tried_again_with_the_same_token() {
    let cluster = Cluster::start(Setup { peers: 1, ..Setup::default() }).await;
    let text = token(&cluster, &[]);
    let digits = text.strip_prefix("stint1-").unwrap();
    let bytes: Vec<u8> =
        (0..48).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect();
    let fingerprint: [u8; 32] = bytes[..32].try_into().unwrap();
    let to = PeerAddress::any(&cluster.address_of(0));
    let disk_of = |key: &KeyPair| disk_of_key(&public_key(key).unwrap());
    let join = async |key: &KeyPair, disk: [u8; 16]| {
        let purposes = (Purpose::Peer { disk: &disk }, Purpose::Admin { disk: &disk });
        let request = |purpose| CertificateRequest::make(key, purpose).unwrap();
        // A stranger may ask once over a connection.
        let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        let peers = Peers::new(endpoint, joining_client(fingerprint).unwrap()).unwrap();
        let join = Join {
            secret: bytes[32..].to_vec().into(),
            disk: disk.into(),
            name: format!("n{}", disk[0]),
            address: "127.0.0.1:9".into(),
            speaks: version::CURRENT,
            requests: Some(JoinRequests { peer: request(purposes.0), admin: request(purposes.1) }),
        };
        let answer = peers.call(&to, CallKind::Join, encode(&join), Duration::from_secs(20)).await;
        match decode(&answer.unwrap()).unwrap() {
            JoinAnswer::Enrolled { node, .. } => Ok(node),
            JoinAnswer::Admitted { .. } => panic!("the joiner was given the key of the authority"),
            JoinAnswer::Refused(refusal) => Err(refusal.message),
        }
    };
    let (own, other) = (new_key().unwrap(), new_key().unwrap());
    assert_eq!(join(&own, disk_of(&own)).await, Ok(NodeId(2)));
    assert_eq!(join(&own, disk_of(&own)).await, Ok(NodeId(2)), "the same node, and no other use");
    assert!(join(&other, disk_of(&other)).await.unwrap_err().contains("has let in 1 node(s) already"));
    // The id of a folder is no secret: only its key makes its node's certificates.
    assert!(
        join(&other, disk_of(&own)).await.unwrap_err().contains("does not show that the asker has the key")
    );
}
