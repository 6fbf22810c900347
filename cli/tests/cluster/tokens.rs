//! Access tokens: clients without a certificate, over TCP.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use stint_sdk::v1;
use stint_sdk::v1::stint_client::StintClient;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::pushed::memory;
use crate::support::{Cluster, PATIENCE, STINT, Setup, stint, stint_at};

/// The section `[api]` of peers that answer over TCP.
pub const TCP: &str = "listen = \"127.0.0.1:0\"";

/// One peer with its API at a port that the system chose.
pub struct World {
    pub cluster: Cluster,
    pub api: SocketAddr,
}

impl World {
    async fn start(peers: usize) -> Self {
        let setup = Setup { peers, api: TCP, ..Setup::default() };
        Self::with_api(Cluster::start(setup).await).await
    }

    /// A cluster that was started with `TCP`.
    pub async fn with_api(cluster: Cluster) -> Self {
        let until = Instant::now() + PATIENCE;
        loop {
            let log = cluster.peers[0].log();
            if let Some((_, rest)) = log.split_once("gRPC over TLS on https://") {
                let api = rest.split(';').next().unwrap().parse().unwrap();
                return Self { cluster, api };
            }
            assert!(Instant::now() < until, "{log}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// `stint` from a machine that has the CA's certificate and this token.
    pub fn with_token(&self, token: &str, args: &[&str]) -> (i32, String, String) {
        let output = self.command(token, args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    fn command(&self, token: &str, args: &[&str]) -> Command {
        let mut command = Command::new(STINT);
        command.env_clear().env("HOME", "/nonexistent").env("STINT_TOKEN", token);
        command.args(["--address", &format!("https://{}", self.api), "--ca"]).arg(self.ca()).args(args);
        command
    }

    fn ca(&self) -> std::path::PathBuf {
        self.cluster.peers[0].dir.join("credentials/ca.pem")
    }

    fn done(&self, token: &str, args: &[&str]) -> String {
        let (code, out, err) = self.with_token(token, args);
        assert_eq!(code, 0, "{args:?}: {out}{err}");
        out.trim_end().to_owned()
    }

    fn refused(&self, token: &str, args: &[&str], why: &str) {
        let (code, out, err) = self.with_token(token, args);
        assert!(code == 1 && err.contains(why), "{args:?}: {code} {out}{err}");
        assert!(token.is_empty() || !err.contains(token), "{err}");
    }

    /// Its text and its id.
    pub fn make(&self, args: &[&str]) -> (String, String) {
        let (code, out, err) = stint(&self.cluster, &[&["token", "create", "-o", "json"], args].concat());
        assert_eq!(code, 0, "{err}");
        let made: Value = serde_json::from_str(&out).unwrap();
        (made["token"].as_str().unwrap().into(), made["id"].as_str().unwrap().into())
    }
}

#[tokio::test]
async fn a_token_acts_in_its_tenant_and_role_until_it_is_revoked_or_expires() {
    let world = World::start(1).await;
    let (physics, id) = world.make(&["--tenant", "physics", "--role", "submit", "--comment", "nightly"]);
    let (chem, _) = world.make(&["--tenant", "chem", "--role", "submit"]);
    let who: Value = serde_json::from_str(&world.done(&physics, &["whoami", "-o", "json"])).unwrap();
    let said = [&who["tenant"], &who["role"], &who["proof"], &who["token_id"], &who["all_tenants"]];
    assert_eq!(serde_json::json!(said), serde_json::json!(["physics", "submit", "token", id, false]));
    let run =
        ["run", "--class", "cpu_short", "--memory", "32MiB", "--name", "mine", "--", "echo", "of physics"];
    assert_eq!(world.with_token(&physics, &run).1, "of physics\n");
    assert_eq!(world.done(&physics, &["logs", "mine"]), "of physics");
    // Nothing of it is there for another one, nor for itself of others.
    world.refused(&chem, &["status", "mine"], "no task \"mine\"");
    world.refused(&chem, &["status", "--tenant", "physics", "mine"], "no task \"mine\"");
    world.refused(&chem, &["submit", "--tenant", "physics", "--", "true"], "may not act for tenant physics");
    world.refused(&physics, &["node", "drain", "t1"], "takes the role operator, and yours is submit");
    world.refused(&physics, &["token", "ls"], "takes the role admin");
    world.refused(&physics, &["token", "create", "--role", "admin"], "takes the role admin");
    // An image with its bytes comes through, too.
    let program = world.cluster.root.path().join("tool");
    std::fs::write(&program, "#!/bin/sh\necho tool\n").unwrap();
    world.done(&physics, &["image", "register", "tool", &program.to_string_lossy()]);
    assert!(world.done(&physics, &["image", "ls"]).contains("tool"));
    assert!(!world.done(&chem, &["image", "ls", "--tenant", "physics"]).contains("tool"));
    // One of an operator without a tenant reads all, and one bound to a tenant its own alone.
    let (operator, _) = world.make(&["--role", "operator"]);
    world.done(&operator, &["status", "--tenant", "physics", "mine"]);
    world.done(&operator, &["node", "cordon", "t1"]);
    world.done(&operator, &["node", "resume", "t1"]);
    let (bound, _) = world.make(&["--tenant", "chem", "--role", "operator"]);
    world.refused(&bound, &["status", "--tenant", "physics", "mine"], "no task \"mine\"");
    // Listed without its secret, revoked by its id, and expired by itself.
    let (_, listed, _) = stint(&world.cluster, &["token", "ls"]);
    assert!(listed.contains(&id) && listed.contains("nightly") && !listed.contains(&physics), "{listed}");
    assert_eq!(stint(&world.cluster, &["token", "rm", &id]).0, 0);
    world.refused(&physics, &["whoami"], "the token is not valid");
    let (short, _) = world.make(&["--tenant", "chem", "--role", "read", "--ttl", "1s"]);
    let until = Instant::now() + PATIENCE;
    while world.with_token(&short, &["whoami"]).0 == 0 {
        assert!(Instant::now() < until, "the token does not expire");
        sleep(Duration::from_millis(50)).await;
    }
    world.refused(&short, &["whoami"], "the token is not valid");
    // What opens the door is written nowhere: not in the log, nor in any file of the peer.
    let log = world.cluster.peers[0].log();
    assert!(log.contains("access token made") && log.contains(&id), "{log}");
    for token in [&physics, &chem, &operator, &short] {
        assert!(!log.contains(token.trim_start_matches("stintat1-")), "the log tells a token");
    }
}

/// What was asked for before a token was revoked does not go on for ever.
#[tokio::test]
async fn a_long_answer_ends_with_the_token_that_asked_for_it() {
    let world = World::start(1).await;
    let (physics, id) = world.make(&["--tenant", "physics", "--role", "submit"]);
    let task = world.done(
        &physics,
        &[
            "submit",
            "-o",
            "quiet",
            "--memory",
            "32MiB",
            "--",
            "sh",
            "-c",
            "while :; do echo on; sleep 0.1; done",
        ],
    );
    let begin = |args: &[&str]| {
        let mut command = world.command(&physics, args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut follower = begin(&["logs", "-f", &task]);
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "on");
    let waiter = begin(&["wait", &task]);
    assert_eq!(stint(&world.cluster, &["token", "rm", &id]).0, 0);
    let revoked = Instant::now();
    let rest = lines.count();
    // The second one may have come after the revocation.
    for (asked, said) in [(follower, "valid no more"), (waiter, "valid")] {
        let output = asked.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && err.contains("the token is ") && err.contains(said), "{err}");
    }
    assert!(revoked.elapsed() < Duration::from_secs(10), "{:?} and {rest} lines", revoked.elapsed());
}

#[tokio::test]
async fn who_shows_nothing_or_something_else_does_not_get_in() {
    let world = World::start(1).await;
    let nothing = "show a token (--token-file or STINT_TOKEN";
    world.refused("stintat1-00000000000000000000000000000000", &["nodes"], "the token is not valid");
    world.refused("stint1-1234", &["nodes"], "the token is not one");
    let address = format!("https://{}", world.api);
    let credentials = world.cluster.peers[0].dir.join("credentials");
    let with_certificate = |more: &[&str]| {
        let mut command = Command::new(STINT);
        command.env_clear().args(["--address", &address, "--credentials"]).arg(&credentials).args(more);
        command.output().unwrap()
    };
    assert!(
        with_certificate(&["whoami"]).status.success(),
        "the administrator's certificate opens it as ever"
    );
    let file = world.cluster.root.path().join("token");
    std::fs::write(&file, "stintat1-00000000000000000000000000000000\n").unwrap();
    let shown = file.to_string_lossy().into_owned();
    let mode =
        |mode| std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    mode(0o644);
    let output = with_certificate(&["whoami", "--token-file", &shown]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("can be read by others"), "{output:?}");
    mode(0o600);
    // Who shows a token is no more than that says.
    let output = with_certificate(&["whoami", "--token-file", &shown]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("the token is not valid"), "{output:?}");
    let (good, _) = world.make(&["--tenant", "chem", "--role", "read"]);
    std::fs::write(&file, &good).unwrap();
    let output = with_certificate(&["whoami", "--token-file", &shown]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("chem"), "{output:?}");
    let mut stub = stub(world.api, &std::fs::read(world.ca()).unwrap()).await.unwrap();
    let answer = stub.list_nodes(v1::ListNodesRequest {}).await.unwrap_err();
    assert!(answer.code() == tonic::Code::Unauthenticated && answer.message().contains(nothing), "{answer}");
}

/// Who has no token may send as much as it likes: nothing of it is read, and its connection ends after ten seconds.
#[tokio::test]
async fn who_has_no_token_pushes_nothing_into_a_peer() {
    let world = World::start(1).await;
    let ca = std::fs::read(world.ca()).unwrap();
    let before = memory(&world.cluster.peers[0]);
    let mut pushing = JoinSet::new();
    for _ in 0..60 {
        let (api, ca) = (world.api, ca.clone());
        pushing.spawn(async move {
            let Ok(mut stub) = stub(api, &ca).await else { return 0 };
            let mut refused = 0;
            loop {
                let part = || v1::RegisterImageRequest {
                    part: Some(v1::register_image_request::Part::Chunk(vec![7; 256 << 10].into())),
                };
                let endless = tokio_stream::iter(std::iter::repeat_with(part));
                match stub.register_image(endless).await {
                    Err(status) if status.code() == tonic::Code::Unauthenticated => refused += 1,
                    // It was cut, as it never asked for anything that it may.
                    _ => return refused,
                }
            }
        });
    }
    let (until, mut most) = (Instant::now() + Duration::from_secs(5), 0);
    while Instant::now() < until {
        most = most.max(memory(&world.cluster.peers[0]).saturating_sub(before));
        let began = Instant::now();
        let (code, _, err) = stint(&world.cluster, &["nodes"]);
        assert_eq!(code, 0, "{err}");
        assert!(began.elapsed() < Duration::from_secs(5), "an answer takes {:?}", began.elapsed());
        sleep(Duration::from_millis(50)).await;
    }
    eprintln!("60 strangers take {} KiB", most >> 10);
    assert!(most < 96 << 20, "strangers take {} MiB of a peer", most >> 20);
    let ended = tokio::time::timeout(PATIENCE, pushing.join_all()).await;
    assert!(ended.expect("no connection of a stranger stays").iter().sum::<usize>() > 0);
}

/// A client that has the CA's certificate and nothing to show.
async fn stub(api: SocketAddr, ca: &[u8]) -> Result<StintClient<Channel>, tonic::transport::Error> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    let endpoint = Endpoint::from_shared(format!("https://{api}")).unwrap();
    Ok(StintClient::new(endpoint.tls_config(tls).unwrap().connect().await?))
}

#[tokio::test]
async fn every_peer_knows_a_token_and_a_new_leader_does() {
    let mut world = World::start(3).await;
    let (token, id) = world.make(&["--tenant", "physics", "--role", "read"]);
    let leader = world.cluster.leader().await;
    world.cluster.peers[leader].kill().await;
    let other = (0..3).find(|peer| *peer != leader).unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        let (code, out, err) = stint_at(&world.cluster, other, &["token", "ls", "-o", "quiet"]);
        if code == 0 && out.trim() == id {
            break;
        }
        assert!(Instant::now() < until, "{out}{err}");
    }
    if leader != 0 {
        assert!(world.done(&token, &["whoami"]).contains("physics"));
    }
    assert_eq!(stint_at(&world.cluster, other, &["token", "rm", &id]).0, 0);
    if leader != 0 {
        let until = Instant::now() + PATIENCE;
        while world.with_token(&token, &["whoami"]).0 == 0 {
            assert!(Instant::now() < until, "a revoked token still opens the door");
        }
    }
}
