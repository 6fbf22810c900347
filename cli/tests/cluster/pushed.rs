//! Peers that strangers push: by connections between peers without a certificate, and by idle and slow ones at their fronts.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};
use stint_node::pki::{PEER_NAME, Root, joining_client};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Cluster, PATIENCE, Peer, STINT, Setup, leftovers, stint, stint_at, submit};

/// What anybody may wait for an answer of a peer that is pushed, start of the command included.
const SOON: Duration = Duration::from_secs(1);

pub fn memory(peer: &Peer) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", peer.pid().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Less than a request may have.
pub static BODY: [u8; 2 << 20] = [7; 2 << 20];

/// One connection without a certificate: as many streams as it gets, each with as many of these bytes as are taken and never
/// whole, until it is closed.
async fn push_once(endpoint: &Endpoint, config: &ClientConfig, address: SocketAddr, body: &'static [u8]) {
    let Ok(connecting) = endpoint.connect_with(config.clone(), address, PEER_NAME) else { return };
    let Ok(connection) = connecting.await else { return };
    let mut streams = JoinSet::new();
    while let Ok(Ok((mut send, receive))) = timeout(Duration::from_millis(500), connection.open_bi()).await {
        streams.spawn(async move {
            let _ = send.write_all(body).await;
            sleep(PATIENCE).await;
            drop((send, receive));
        });
        if streams.len() == 500 {
            break;
        }
    }
    connection.closed().await;
}

/// Again and again, each from a socket of its own.
pub async fn push(config: ClientConfig, address: SocketAddr, body: &'static [u8]) {
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    loop {
        push_once(&endpoint, &config, address, body).await;
        sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_take_little_of_a_peer_and_others_are_answered() {
    let cluster = Cluster::start(Setup { peers: 2, ..Setup::default() }).await;
    let ca = std::fs::read_to_string(cluster.peers[0].dir.join("pki/ca.pem")).unwrap();
    let tls = joining_client(Root(ca).fingerprint().unwrap()).unwrap();
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let address: SocketAddr = cluster.address_of(0).parse().unwrap();
    let before = memory(&cluster.peers[0]);
    let mut pushing = JoinSet::new();
    for number in 0..200 {
        // Two push all they can. All together would only lose each other's packets.
        let body = if number < 2 { &BODY[..] } else { &BODY[..1_000] };
        pushing.spawn(push(config.clone(), address, body));
    }
    let (until, mut most, mut times) = (Instant::now() + Duration::from_secs(8), 0, Vec::new());
    while Instant::now() < until {
        most = most.max(memory(&cluster.peers[0]).saturating_sub(before));
        assert!(most < 24 << 20, "strangers take {} MiB of a peer", most >> 20);
        for peer in 0..2 {
            let began = Instant::now();
            let (code, _, err) = stint_at(&cluster, peer, &["nodes"]);
            assert_eq!(code, 0, "{err}");
            times.push(began.elapsed());
        }
        sleep(Duration::from_millis(50)).await;
    }
    eprintln!("200 strangers take {} KiB; answers take {times:?}", most >> 10);
    // Who pushes shares this machine with the peers: one answer may be late.
    times.sort();
    assert!(times[times.len() / 2] < SOON && times.last().is_some_and(|last| *last < 5 * SOON), "{times:?}");
    assert_eq!(stint(&cluster, &["run", "--class", "cpu_short", "--", "true"]).0, 0);
    pushing.shutdown().await;
}

/// One peer with all its fronts and this limit of open files. The address of its API over TCP.
async fn one_peer(executor: &'static str, open_files: &'static str) -> (Cluster, SocketAddr) {
    let mut cluster = Cluster::start(Setup { peers: 1, executor, ..Setup::default() }).await;
    let peer = &mut cluster.peers[0];
    peer.stop().await;
    // With its watchdog, which has the limit of before.
    leftovers::clear(&peer.dir);
    peer.edit("[api]\nlisten = \"\"", "[api]\nlisten = \"127.0.0.1:0\"");
    peer.open_files = Some(open_files);
    peer.log_and_forget();
    peer.spawn(&[]);
    peer.ready().await;
    let until = Instant::now() + PATIENCE;
    loop {
        let log = cluster.peers[0].log();
        if let Some((_, rest)) = log.split_once("gRPC over TLS on https://") {
            let api = rest.split(';').next().unwrap().parse().unwrap();
            cluster.all_ready().await;
            return (cluster, api);
        }
        assert!(Instant::now() < until, "{log}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// `stint` at the address of the API over TCP.
fn stint_over_tcp(cluster: &Cluster, api: SocketAddr, args: &[&str]) -> (bool, String) {
    let credentials = cluster.peers[0].dir.join("credentials");
    let mut command = std::process::Command::new(STINT);
    command.args(["--address", &format!("https://{api}")]).arg("--credentials").arg(credentials);
    let output = command.args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

fn health(http: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", http)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Connections that say nothing.
pub fn idle(count: usize, http: u16, api: SocketAddr, socket: &Path) -> (Vec<TcpStream>, Vec<UnixStream>) {
    let tcp = |address: SocketAddr| (0..count).map(move |_| TcpStream::connect(address).unwrap());
    let unix = (0..count).map(|_| UnixStream::connect(socket).unwrap());
    (tcp(([127, 0, 0, 1], http).into()).chain(tcp(api)).collect(), unix.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_silence_no_front_and_stop_no_peer() {
    // This test holds the other end of each.
    if stint_executor::raise_open_files() < 6_000 {
        eprintln!("skipped: this process may open too few files");
        return;
    }
    let (mut cluster, api) = one_peer("", "-n 1024").await;
    let (http, socket) = (cluster.peers[0].http, cluster.peers[0].dir.join("stint.sock"));
    let idle_ones = timeout(PATIENCE, spawn_blocking(move || idle(1_500, http, api, &socket)));
    let idle_ones = idle_ones.await.expect("the fronts take connections").unwrap();
    // A second time: also once deadlines are over and places are given on.
    for round in 0..2 {
        let began = Instant::now();
        assert!(health(http).contains("200 OK"), "round {round}");
        let (done, said) = stint_over_tcp(&cluster, api, &["nodes"]);
        assert!(done, "round {round}: {said}");
        assert_eq!(stint(&cluster, &["run", "--class", "cpu_short", "--", "true"]).0, 0, "round {round}");
        assert!(began.elapsed() < 5 * SOON, "{:?}", began.elapsed());
        sleep(Duration::from_secs(1)).await;
    }
    assert!(cluster.peers[0].runs());
    let files = std::fs::read_dir(format!("/proc/{}/fd", cluster.peers[0].pid().unwrap())).unwrap().count();
    assert!(files < 3 * 1_024 / 4, "{files} files are open");
    drop(idle_ones);
}

/// Sends a header a byte at a time, until the peer closes the connection or `over`; how long that took.
pub fn drip(http: u16, over: &AtomicBool) -> Duration {
    let mut stream = TcpStream::connect(("127.0.0.1", http)).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").unwrap();
    let began = Instant::now();
    while !over.load(SeqCst) && stream.write_all(b"x").is_ok() {
        match stream.read(&mut [0; 64]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => break,
        }
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_slowly_is_cut_and_who_waits_is_not() {
    let (cluster, api) = one_peer("", "-n 4096").await;
    let over = Arc::new(AtomicBool::new(false));
    let (http, seen) = (cluster.peers[0].http, over.clone());
    let slow = spawn_blocking(move || drip(http, &seen));
    let task = cluster.client().submit(submit("cpu_short", &["/bin/sleep", "14"], 1)).await.unwrap();
    let id = task.task_ids[0].clone();
    // Held for longer than any deadline of a connection that has not asked yet.
    std::thread::scope(|scope| {
        let over_tcp = scope.spawn(|| stint_over_tcp(&cluster, api, &["logs", "-f", &id]));
        let (code, _, err) = stint(&cluster, &["wait", &id]);
        assert_eq!(code, 0, "{err}");
        let (done, said) = over_tcp.join().unwrap();
        assert!(done, "{said}");
    });
    over.store(true, SeqCst);
    let took = slow.await.unwrap();
    assert!(took < Duration::from_secs(12), "a slow header is read for {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_opens_as_many_files_as_it_may_and_programs_get_the_limit_of_before() {
    let (cluster, _) = one_peer("sandbox = false\n", "-Sn 700").await;
    let limits =
        std::fs::read_to_string(format!("/proc/{}/limits", cluster.peers[0].pid().unwrap())).unwrap();
    let files: Vec<&str> =
        limits.lines().find_map(|l| l.strip_prefix("Max open files")).unwrap().split_whitespace().collect();
    assert_eq!(files[0], files[1], "the limit at first is not the highest");
    let (code, out, err) = stint(&cluster, &["run", "--class", "cpu_short", "--", "sh", "-c", "ulimit -Sn"]);
    assert_eq!((code, out.trim()), (0, "700"), "{err}");
}
