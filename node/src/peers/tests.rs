//! Real endpoints on loopback: what strangers and peers may take of a peer.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use futures_util::future::join_all;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep};

use super::*;
use crate::pki::Authority;

const PATIENCE: Duration = Duration::from_secs(20);
/// What three calls of others may take while strangers have all that they can get, on a busy machine.
const SOON: Duration = Duration::from_secs(3);

/// Answers how many bytes a call had; remembers how many there were, and which node made the last one.
#[derive(Default)]
struct Counting(AtomicUsize, Mutex<Option<NodeId>>);

impl Handler for Counting {
    fn handle(self: Arc<Self>, caller: Caller, _: CallKind, body: Bytes) -> BoxFuture<Result<Bytes, String>> {
        self.0.fetch_add(1, SeqCst);
        *self.1.lock().unwrap() = caller.node();
        Box::pin(async move { Ok(Bytes::from(body.len().to_string())) })
    }
}

/// A peer that serves.
struct Served {
    authority: Authority,
    address: SocketAddr,
    handler: Arc<Counting>,
    endpoint: Endpoint,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
    }
}

fn loopback() -> Endpoint {
    Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap()
}

fn served() -> Served {
    let authority = Authority::make().unwrap();
    let own = authority.issue_peer(NodeId(1), None).unwrap();
    let config = server_config(pki::peer_server(&authority.root(), &own).unwrap()).unwrap();
    let endpoint = Endpoint::server(config, ([127, 0, 0, 1], 0).into()).unwrap();
    let (address, handler) = (endpoint.local_addr().unwrap(), Arc::new(Counting::default()));
    tokio::spawn(serve(endpoint.clone(), handler.clone()));
    Served { authority, address, handler, endpoint }
}

impl Served {
    fn peer(&self) -> Peers {
        let own = self.authority.issue_peer(NodeId(2), None).unwrap();
        Peers::new(loopback(), pki::peer_client(&self.authority.root(), &own).unwrap()).unwrap()
    }

    fn to(&self) -> PeerAddress {
        PeerAddress::any(&self.address.to_string())
    }

    /// A call as this peer, over a connection that may have to be made.
    async fn call(&self, peer: &Peers, kind: CallKind, bytes: usize) -> Result<String, String> {
        let answer = peer.call(&self.to(), kind, Bytes::from(vec![7; bytes]), PATIENCE).await;
        answer.map(|answer| String::from_utf8_lossy(&answer).into_owned()).map_err(|e| e.to_string())
    }

    fn client(&self, tls: rustls::ClientConfig) -> quinn::ClientConfig {
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        config.transport_config(Arc::new(transport()));
        config
    }

    async fn stranger_at(&self, endpoint: &Endpoint, address: SocketAddr) -> Result<Connection, String> {
        let tls = pki::joining_client(self.authority.root().fingerprint().unwrap()).unwrap();
        let connecting = endpoint.connect_with(self.client(tls), address, PEER_NAME).unwrap();
        timeout(PATIENCE, connecting).await.unwrap().map_err(|e| e.to_string())
    }

    /// A connection without a certificate.
    async fn stranger(&self, endpoint: &Endpoint) -> Connection {
        self.stranger_at(endpoint, self.address).await.unwrap()
    }
}

/// How many are still open.
fn open(connections: &[Connection]) -> usize {
    connections.iter().filter(|connection| connection.close_reason().is_none()).count()
}

/// Until no more than so many are open.
async fn shrink_to(connections: &[Connection], most: usize) {
    let until = Instant::now() + PATIENCE;
    while open(connections) > most {
        assert!(Instant::now() < until, "{} are open", open(connections));
        sleep(Duration::from_millis(10)).await;
    }
}

/// One question on a connection, and its answer.
async fn ask(connection: &Connection, kind: CallKind, bytes: usize) -> Result<Vec<u8>, String> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(|e| e.to_string())?;
    // Who is refused need not be able to send it all.
    let _ = send.write_all(&[&[kind as u8][..], &vec![7; bytes]].concat()).await;
    let _ = send.finish();
    timeout(PATIENCE, receive.read_to_end(1_000)).await.unwrap().map_err(|e| e.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_asks_once_and_only_to_join() {
    let (served, endpoint) = (served(), loopback());
    let connection = served.stranger(&endpoint).await;
    assert_eq!(ask(&connection, CallKind::Join, 300).await.unwrap(), b"\x00300");
    timeout(PATIENCE, connection.closed()).await.expect("it may ask only once");

    let connection = served.stranger(&endpoint).await;
    let answer = ask(&connection, CallKind::Forward, 300).await.unwrap();
    assert_eq!(answer, b"\x01only a peer of this cluster may call this");

    let connection = served.stranger(&endpoint).await;
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    let mut taken = 0;
    while let Ok(Ok(bytes)) = timeout(PATIENCE, send.write(&[7; 1_000])).await {
        taken += bytes;
    }
    assert!(taken <= limits::STRANGER_BYTES + 1, "{taken} bytes of a stranger are read");
    let answer = receive.read_to_end(1_000).await;
    assert!(answer.as_ref().is_ok_and(|answer| answer.starts_with(b"\x01")), "{answer:?}");
    assert_eq!(served.handler.0.load(SeqCst), 1, "only the one that joins was handled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_has_one_stream_and_five_seconds() {
    let (served, endpoint) = (served(), loopback());
    let (connection, began) = (served.stranger(&endpoint).await, Instant::now());
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    // Not whole, and less than it may ask with.
    send.write_all(&[7; limits::STRANGER_BYTES - 100]).await.unwrap();
    assert!(timeout(Duration::from_millis(300), connection.open_bi()).await.is_err(), "a second stream");
    assert!(connection.close_reason().is_none());
    timeout(PATIENCE, connection.closed()).await.expect("it has a deadline");
    let took = began.elapsed();
    assert!(took < limits::STRANGER_DEADLINE + Duration::from_secs(2), "{took:?}");
    assert_eq!(served.handler.0.load(SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_of_one_address_are_few_and_keep_nobody_out() {
    let (served, endpoint) = (served(), loopback());
    let before = served.peer();
    assert_eq!(served.call(&before, CallKind::Report, 10).await.unwrap(), "10");
    let mut strangers = Vec::new();
    for _ in 0..limits::STRANGERS_OF_A_SOURCE + 40 {
        strangers.push(served.stranger(&endpoint).await);
    }
    shrink_to(&strangers, limits::STRANGERS_OF_A_SOURCE).await;
    // Who was here, who comes, and who joins.
    let began = Instant::now();
    assert_eq!(served.call(&before, CallKind::Report, 10).await.unwrap(), "10");
    assert_eq!(served.call(&served.peer(), CallKind::Report, 20).await.unwrap(), "20");
    assert_eq!(ask(&served.stranger(&endpoint).await, CallKind::Join, 30).await.unwrap(), b"\x0030");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

/// They ask, and take no byte of the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_take_no_answer_keep_nobody_out() {
    let (served, endpoint) = (served(), loopback());
    let tls = pki::joining_client(served.authority.root().fingerprint().unwrap()).unwrap();
    let mut config = served.client(tls);
    let mut deaf = transport();
    deaf.stream_receive_window(VarInt::from_u32(0));
    config.transport_config(Arc::new(deaf));
    let mut strangers = Vec::new();
    for _ in 0..limits::STRANGERS_OF_A_SOURCE {
        let connecting = endpoint.connect_with(config.clone(), served.address, PEER_NAME).unwrap();
        let connection = timeout(PATIENCE, connecting).await.unwrap().unwrap();
        let (mut send, receive) = connection.open_bi().await.unwrap();
        send.write_all(&[CallKind::Report as u8]).await.unwrap();
        send.finish().unwrap();
        strangers.push((connection, send, receive));
    }
    let began = Instant::now();
    assert_eq!(served.call(&served.peer(), CallKind::Report, 20).await.unwrap(), "20");
    assert_eq!(ask(&served.stranger(&endpoint).await, CallKind::Join, 30).await.unwrap(), b"\x0030");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_peer_have_room_side_by_side() {
    let served = served();
    let peer = served.peer();
    let (served, peer) = (&served, &peer);
    let sizes = (0..300).map(|n| if n % 15 == 0 { 1 << 20 } else { n });
    let calls =
        join_all(sizes.map(|bytes| async move {
            (bytes.to_string(), served.call(peer, CallKind::Forward, bytes).await)
        }));
    for (bytes, answer) in calls.await {
        assert_eq!(answer.as_ref(), Ok(&bytes));
    }
    let whole = limits::MESSAGE_BYTES - 1;
    assert_eq!(served.call(peer, CallKind::RaftAppend, whole).await.unwrap(), whole.to_string());
    assert!(served.call(peer, CallKind::RaftAppend, whole + 1).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_has_so_many_connections_and_the_newest_stay() {
    let (served, endpoint) = (served(), loopback());
    let own = served.authority.issue_peer(NodeId(2), None).unwrap();
    let config = served.client(pki::peer_client(&served.authority.root(), &own).unwrap());
    let mut connections = Vec::new();
    for _ in 0..limits::CONNECTIONS_OF_A_PEER + 5 {
        let connecting = endpoint.connect_with(config.clone(), served.address, PEER_NAME).unwrap();
        connections.push(timeout(PATIENCE, connecting).await.unwrap().unwrap());
        assert_eq!(ask(connections.last().unwrap(), CallKind::Report, 1).await.unwrap(), b"\x001");
    }
    shrink_to(&connections, limits::CONNECTIONS_OF_A_PEER).await;
    assert_eq!(open(&connections[5..]), limits::CONNECTIONS_OF_A_PEER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_takes_over_and_no_call_waits_for_it() {
    let served = served();
    let peer = served.peer();
    assert_eq!(served.call(&peer, CallKind::Report, 3).await.unwrap(), "3");
    let root = served.authority.root();
    let other = served.authority.issue_peer(NodeId(3), None).unwrap();
    let before = peer.attempt(&served.to(), false).await.unwrap().stable_id();
    let (server, client) = (pki::peer_server(&root, &other), pki::peer_client(&root, &other));
    peer.show(server.unwrap(), client.unwrap()).unwrap();
    let until = Instant::now() + PATIENCE;
    while *served.handler.1.lock().unwrap() != Some(NodeId(3)) {
        assert_eq!(served.call(&peer, CallKind::Report, 3).await.unwrap(), "3", "calls go on meanwhile");
        assert!(Instant::now() < until, "the new certificate is not shown");
        sleep(Duration::from_millis(1)).await;
    }
    assert_ne!(peer.attempt(&served.to(), false).await.unwrap().stable_id(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_trusted_no_more_is_not_called_over_a_connection_of_before() {
    let served = served();
    let peer = served.peer();
    assert_eq!(served.call(&peer, CallKind::Report, 3).await.unwrap(), "3");
    let (other, root) = (Authority::make().unwrap(), served.authority.root());
    let own = served.authority.issue_peer(NodeId(2), None).unwrap();
    let server = pki::peer_server(&root, &own).unwrap();
    peer.show(server, pki::peer_client(&other.root(), &own).unwrap()).unwrap();
    peer.renew_connections();
    let until = Instant::now() + PATIENCE;
    let refused = loop {
        match served.call(&peer, CallKind::Report, 3).await {
            Ok(_) => assert!(Instant::now() < until, "it is called for ever"),
            Err(why) => break why,
        }
        sleep(Duration::from_millis(1)).await;
    };
    assert!(refused.contains("invalid peer certificate"), "{refused}");
}

/// Carries packets of one client to the server and back; counts those that ask the client to show its address.
async fn relay(to: SocketAddr, retries: Arc<AtomicUsize>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut client, mut packet) = (None, vec![0; 65_536]);
        while let Ok((bytes, from)) = socket.recv_from(&mut packet).await {
            // The first bits of a Retry (RFC 9000, 17.2.5).
            if from == to && packet[0] & 0xf0 == 0xf0 {
                retries.fetch_add(1, SeqCst);
            }
            client = if from == to { client } else { Some(from) };
            let target = if from == to { client } else { Some(to) };
            if let Some(target) = target {
                let _ = socket.send_to(&packet[..bytes], target).await;
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_show_themselves_when_handshakes_pile_up() {
    let (served, endpoint, retries) = (served(), loopback(), Arc::new(AtomicUsize::new(0)));
    let through = relay(served.address, retries.clone()).await;
    served.stranger_at(&endpoint, through).await.unwrap();
    assert_eq!(retries.load(SeqCst), 0, "one alone is believed");
    let mut strangers = Vec::new();
    for _ in 0..limits::STRANGERS_WITHOUT_RETRY {
        strangers.push(served.stranger(&endpoint).await);
    }
    let connection = served.stranger_at(&loopback(), relay(served.address, retries.clone()).await).await;
    assert_eq!(retries.load(SeqCst), 1);
    assert_eq!(ask(&connection.unwrap(), CallKind::Join, 3).await.unwrap(), b"\x003");
}
