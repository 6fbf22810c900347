//! The connections between peers: QUIC with mutual TLS, one stream a call, a deadline on every call.

mod server;
mod share;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::Shared;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, TransportConfig, VarInt};
use rustls::pki_types::CertificateDer;
use stint_protocol::{NodeId, TimeMs};
use tokio::time::timeout;

pub use server::{serve, server_config};

use crate::limits;
use crate::pki::{self, PEER_NAME, Root, Validity};
use crate::wire::CallKind;

/// A boxed future, for doors.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A call to a peer that brought no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    #[error("peer {0} cannot be reached: {1}")]
    Unreachable(String, String),
    #[error("peer {0} did not answer within {1:?}")]
    TimedOut(String, Duration),
    #[error("peer {0} refused the call: {1}")]
    Refused(String, String),
}

/// Who calls, for the length of a connection.
#[derive(Clone, Debug)]
pub struct Caller {
    certificate: Option<CertificateDer<'static>>,
    /// What was shown behind it.
    by_way_of: Arc<[CertificateDer<'static>]>,
    /// As of so many changes of the authority it is known that one that is trusted issued it.
    vouched_as_of: Arc<AtomicU64>,
    node: Option<NodeId>,
    validity: Option<Validity>,
    from: SocketAddr,
    /// Whether the log has that it is refused.
    is_logged: Arc<AtomicBool>,
}

impl Caller {
    /// The holder of the first of these certificates, which was verified by way of the others.
    pub(crate) fn new(certificates: Vec<CertificateDer<'static>>, from: SocketAddr) -> Self {
        let mut certificates = certificates.into_iter();
        let (certificate, by_way_of) = (certificates.next(), certificates.collect());
        let node = certificate.as_ref().and_then(pki::node_of);
        let validity = certificate.as_ref().and_then(Validity::read);
        let vouched_as_of = Arc::default();
        Self { certificate, by_way_of, vouched_as_of, node, validity, from, is_logged: Arc::default() }
    }

    /// Whether an authority that is trusted now issued its certificate: a connection lives longer than a handshake.
    pub fn is_vouched_for(&self, changes: u64, root: impl Fn() -> Arc<Root>) -> bool {
        if self.vouched_as_of.load(SeqCst) == changes {
            return true;
        }
        let own = self.certificate.as_ref();
        let vouched = own.is_some_and(|own| root().vouches_for(own, &self.by_way_of));
        if vouched {
            self.vouched_as_of.store(changes, SeqCst);
        }
        vouched
    }

    /// Whether it holds a certificate of a peer of this cluster.
    pub fn is_peer(&self) -> bool {
        self.certificate.as_ref().is_some_and(|c| pki::carries(c, PEER_NAME))
    }

    /// Whether its certificate has this name.
    pub fn carries(&self, name: &str) -> bool {
        self.certificate.as_ref().is_some_and(|c| pki::carries(c, name))
    }

    /// The node whose certificate it holds.
    pub fn node(&self) -> Option<NodeId> {
        self.node
    }

    /// Until when its certificate was valid, if it is over by now: a connection lives longer than a handshake.
    pub fn expired(&self, now: TimeMs) -> Option<u64> {
        self.validity.filter(|validity| validity.is_over(now)).map(|validity| validity.to)
    }

    /// Where it calls from.
    pub fn from(&self) -> SocketAddr {
        self.from
    }

    /// Tells the log that its calls are refused: once for each connection.
    pub fn log_refusal(&self, kind: CallKind, why: &str) {
        if !self.is_logged.swap(true, SeqCst) {
            let (node, from) = (self.node.map(|node| node.0), self.from);
            tracing::warn!(node, %from, ?kind, why, "a caller was refused");
        }
    }
}

/// Serves what peers call.
pub trait Handler: Send + Sync + 'static {
    /// Answers one call, or says why not.
    fn handle(
        self: Arc<Self>,
        caller: Caller,
        kind: CallKind,
        body: Bytes,
    ) -> BoxFuture<Result<Bytes, String>>;
}

/// Where a peer listens, and which name its certificate must carry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerAddress {
    pub address: String,
    pub name: String,
}

impl PeerAddress {
    /// A member.
    pub fn node(node: NodeId, address: &str) -> Self {
        Self { address: address.into(), name: pki::node_name(node) }
    }

    /// Any peer of the cluster at this address.
    pub fn any(address: &str) -> Self {
        Self { address: address.into(), name: PEER_NAME.into() }
    }
}

/// A connection being made, or made: one attempt for all that wait for it, and no caller's deadline cuts it short
/// (a heartbeat's is shorter than a handshake).
type ConnectAttempt = Shared<BoxFuture<Result<Connection, String>>>;

/// The client side of one endpoint.
pub struct Peers {
    endpoint: Endpoint,
    /// How this side proves itself, and which way that is, counted from 0.
    shown: RwLock<(quinn::ClientConfig, u64)>,
    /// By peer, and whether for bulk: stored bytes have a connection of their own.
    attempts: Mutex<BTreeMap<(PeerAddress, bool), Attempts>>,
}

/// Attempts at a connection to one peer.
struct Attempts {
    current: ConnectAttempt,
    /// The way in which this side proved itself.
    way: u64,
    /// One that takes over once it is made: this side proves itself in a newer way.
    next: Option<(ConnectAttempt, u64)>,
}

/// Settings of a connection: a dead peer is noticed within two seconds, and a lost first packet is sent again soon.
fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .initial_rtt(Duration::from_millis(30))
        .max_idle_timeout(Some(VarInt::from_u32(2_000).into()))
        .keep_alive_interval(Some(Duration::from_millis(500)))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None);
    transport
}

/// Those of a connection that this side made: who answers asks for nothing.
fn calling_transport() -> TransportConfig {
    let mut transport = transport();
    transport.receive_window(VarInt::from_u32(limits::ANSWERS_WINDOW_BYTES));
    transport
}

impl Attempts {
    /// The next one becomes the current one if it is made, and is forgotten if it failed: there will be another.
    fn take_over(&mut self) {
        let Some((next, way)) = self.next.take() else { return };
        match next.clone().now_or_never() {
            None => self.next = Some((next, way)),
            Some(Ok(_)) => (self.current, self.way) = (next, way),
            // Whom this side does not trust any more, or who does not trust it, is not talked to over the old one either.
            Some(Err(why)) if is_refused(&why) => (self.current, self.way) = (next, way),
            Some(Err(_)) => {}
        }
    }
}

/// Whether a connection failed for what one side proved itself with, and not for the network.
fn is_refused(why: &str) -> bool {
    why.contains("certificate")
}

/// Whether it is being made, or up.
fn is_usable(attempt: &ConnectAttempt) -> bool {
    match attempt.peek() {
        None => true,
        Some(made) => made.as_ref().is_ok_and(|c| c.close_reason().is_none()),
    }
}

fn client_config(tls: rustls::ClientConfig) -> Result<quinn::ClientConfig, String> {
    let crypto = QuicClientConfig::try_from(tls).map_err(|e| e.to_string())?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(calling_transport()));
    Ok(config)
}

impl Peers {
    /// The client side of `endpoint`.
    pub fn new(endpoint: Endpoint, tls: rustls::ClientConfig) -> Result<Self, String> {
        let shown = RwLock::new((client_config(tls)?, 0));
        Ok(Self { endpoint, shown, attempts: Mutex::new(BTreeMap::new()) })
    }

    /// Another client side of the same endpoint.
    pub fn beside(&self, tls: rustls::ClientConfig) -> Result<Self, String> {
        Self::new(self.endpoint.clone(), tls)
    }

    /// Proves itself in another way from now on, as a server and as a client. A connection that there is serves until a new
    /// one is made: no heartbeat waits for a handshake.
    pub fn show(&self, server: rustls::ServerConfig, client: rustls::ClientConfig) -> Result<(), String> {
        let (server, client) = (server_config(server)?, client_config(client)?);
        self.endpoint.set_server_config(Some(server));
        let mut shown = self.shown.write().unwrap_or_else(|e| e.into_inner());
        *shown = (client, shown.1 + 1);
        Ok(())
    }

    /// Makes new connections at once to all to whom there is one: soon what was shown before is good for nothing.
    pub fn renew_connections(&self) {
        let shown = self.shown.read().unwrap_or_else(|e| e.into_inner());
        let mut attempts = self.attempts.lock().unwrap_or_else(|e| e.into_inner());
        for ((to, _), known) in attempts.iter_mut() {
            known.take_over();
            if is_usable(&known.current) && known.way != shown.1 {
                known.next = Some((self.begin(&shown.0, to), shown.1));
            }
        }
    }

    /// Calls a peer. An error does not say whether the peer acted on the call.
    pub async fn call(
        &self,
        to: &PeerAddress,
        kind: CallKind,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let result = timeout(deadline, self.exchange(to, kind, body)).await;
        result.unwrap_or_else(|_| Err(CallError::TimedOut(to.address.clone(), deadline)))
    }

    async fn exchange(&self, to: &PeerAddress, kind: CallKind, body: Bytes) -> Result<Bytes, CallError> {
        let unreachable = |e: String| CallError::Unreachable(to.address.clone(), e);
        let connection = self.attempt(to, kind.is_bulk()).await.map_err(unreachable)?;
        let (mut send, mut receive) = connection.open_bi().await.map_err(|e| unreachable(e.to_string()))?;
        if kind == CallKind::RaftSnapshot || kind.is_bulk() {
            // Votes and heartbeats go first. A failure here shows in the write below.
            let _ = send.set_priority(-1);
        }
        send.write_all(&[kind as u8]).await.map_err(|e| unreachable(e.to_string()))?;
        send.write_chunk(body).await.map_err(|e| unreachable(e.to_string()))?;
        // Fails only on a stream that was reset, which the read shows.
        let _ = send.finish();
        let answer =
            receive.read_to_end(limits::MESSAGE_BYTES).await.map_err(|e| unreachable(e.to_string()))?;
        split_answer(to, answer.into())
    }

    /// The connection that is up or being made, or a new attempt.
    fn attempt(&self, to: &PeerAddress, bulk: bool) -> ConnectAttempt {
        let shown = self.shown.read().unwrap_or_else(|e| e.into_inner());
        let (config, way) = (&shown.0, shown.1);
        let mut attempts = self.attempts.lock().unwrap_or_else(|e| e.into_inner());
        let key = (to.clone(), bulk);
        if let Some(known) = attempts.get_mut(&key) {
            known.take_over();
            if is_usable(&known.current) {
                let next = known.next.as_ref().map_or(known.way, |(_, way)| *way);
                if next != way {
                    known.next = Some((self.begin(config, to), way));
                }
                return known.current.clone();
            }
        }
        let current = self.begin(config, to);
        attempts.insert(key, Attempts { current: current.clone(), way, next: None });
        current
    }

    fn begin(&self, config: &quinn::ClientConfig, to: &PeerAddress) -> ConnectAttempt {
        let (endpoint, config, peer) = (self.endpoint.clone(), config.clone(), to.clone());
        let task = tokio::spawn(async move {
            let made = timeout(limits::CONNECT_DEADLINE, connect(endpoint, config, peer)).await;
            made.unwrap_or_else(|_| Err("the handshake took too long".into()))
        });
        let joined: BoxFuture<Result<Connection, String>> =
            Box::pin(async move { task.await.unwrap_or_else(|_| Err("this peer is stopping".into())) });
        joined.shared()
    }

    /// Tells every peer that this process goes.
    pub fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"stopping");
    }
}

async fn connect(
    endpoint: Endpoint,
    config: quinn::ClientConfig,
    to: PeerAddress,
) -> Result<Connection, String> {
    let address = resolve(&to.address).await?;
    let connecting = endpoint.connect_with(config, address, &to.name).map_err(|e| e.to_string())?;
    connecting.await.map_err(|e| e.to_string())
}

async fn resolve(address: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = address.parse() {
        return Ok(address);
    }
    let mut found = tokio::net::lookup_host(address).await.map_err(|e| format!("{address}: {e}"))?;
    found.next().ok_or_else(|| format!("{address} has no address"))
}

/// First byte of an answer: 0 = what follows is the answer, 1 = why there is none.
fn split_answer(to: &PeerAddress, answer: Bytes) -> Result<Bytes, CallError> {
    match answer.first() {
        Some(0) => Ok(answer.slice(1..)),
        Some(_) => {
            Err(CallError::Refused(to.address.clone(), String::from_utf8_lossy(&answer[1..]).into_owned()))
        }
        None => Err(CallError::Refused(to.address.clone(), "an empty answer".into())),
    }
}
