//! What other peers call, and those who want to become peers: the caller is known before anything of a call is read.

use std::sync::Arc;

use bytes::Bytes;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream, TransportConfig, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout, timeout_at};

use super::share::{CallBytes, Share, Shares};
use super::{Caller, Handler, transport};
use crate::connection_limit::{ConnectionLimit, Permit, Source};
use crate::limits;
use crate::wire::CallKind;

/// QUIC settings of the server side.
pub fn server_config(tls: rustls::ServerConfig) -> Result<quinn::ServerConfig, String> {
    let crypto = QuicServerConfig::try_from(tls).map_err(|e| e.to_string())?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(stranger_transport()))
        .max_incoming(limits::INCOMING)
        .incoming_buffer_size(limits::INCOMING_BYTES)
        .incoming_buffer_size_total(limits::INCOMING_BYTES_IN_ALL);
    Ok(config)
}

/// What every caller has before it is known: one stream, and no more bytes than a request to join.
fn stranger_transport() -> TransportConfig {
    let mut transport = transport();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .receive_window(VarInt::from_u32(limits::STRANGER_BYTES as u32 + 1));
    transport
}

/// What a caller has once it has shown a peer's certificate.
fn open_up(connection: &Connection) {
    connection.set_receive_window(VarInt::from_u32(limits::REQUESTS_WINDOW_BYTES));
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(limits::CALLS_OF_A_PEER));
}

/// Accepts connections until the endpoint closes.
pub async fn serve(endpoint: Endpoint, handler: Arc<dyn Handler>) {
    let strangers = ConnectionLimit::new(limits::STRANGERS, limits::STRANGERS_OF_A_SOURCE);
    let server = Arc::new(Server { handler, shares: Shares::default() });
    while let Some(incoming) = endpoint.accept().await {
        if !incoming.remote_address_validated() && strangers.taken() >= limits::STRANGERS_WITHOUT_RETRY {
            // Cannot fail: an address that is not validated may be asked to show itself.
            let _ = incoming.retry();
            continue;
        }
        match strangers.acquire(Some(Source::Address(incoming.remote_address().ip()))) {
            Some(permit) => drop(tokio::spawn(server.clone().meet(incoming, permit))),
            None => incoming.refuse(),
        }
    }
}

struct Server {
    handler: Arc<dyn Handler>,
    shares: Shares,
}

/// A call with who made it.
struct Call {
    caller: Caller,
    handler: Arc<dyn Handler>,
}

impl Server {
    /// From the first packet until the caller is known.
    async fn meet(self: Arc<Self>, incoming: Incoming, permit: Permit) {
        let until = Instant::now() + limits::STRANGER_DEADLINE;
        let met = tokio::select! {
            biased;
            met = timeout_at(until, incoming) => met,
            () = permit.evicted() => return tracing::debug!("a handshake made room for another one"),
        };
        let connection = match met {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return tracing::debug!(%error, "a peer's handshake failed"),
            Err(_) => return tracing::debug!("a peer's handshake took too long"),
        };
        let certificates =
            connection.peer_identity().and_then(|i| i.downcast::<Vec<CertificateDer<'static>>>().ok());
        let caller = Caller::new(certificates.map(|c| *c).unwrap_or_default(), connection.remote_address());
        let share =
            caller.certificate.as_ref().filter(|_| caller.is_peer()).map(|c| self.shares.share_for(c));
        let call = Call { caller, handler: self.handler.clone() };
        match share {
            Some(share) => {
                drop(permit);
                serve_peer(connection, call, share).await;
            }
            None => serve_stranger(connection, call, permit, until).await,
        }
    }
}

/// One question, and its answer.
async fn serve_stranger(connection: Connection, call: Call, permit: Permit, until: Instant) {
    let question = async {
        let (send, mut receive) = connection.accept_bi().await.ok()?;
        let request = receive.read_to_end(limits::STRANGER_BYTES).await;
        Some((send, request.map_err(|error| format!("the request cannot be read: {error}"))))
    };
    let asked = tokio::select! {
        biased;
        asked = timeout_at(until, question) => asked.ok().flatten(),
        () = permit.evicted() => None,
    };
    if let Some((mut send, request)) = asked {
        let until = Instant::now() + limits::STRANGER_ANSWER;
        // Not sent away while it is answered: a leader may have to be elected for that.
        permit.state().settle();
        let answer = match request {
            Ok(request) => timeout_at(until, call.answer(request.into())).await,
            Err(why) => Ok(Err(why)),
        };
        permit.state().unsettle();
        if let Ok(answer) = answer {
            let taken = async {
                reply(&mut send, answer).await;
                // Until it has the answer: closing would take it back.
                let _ = send.stopped().await;
            };
            tokio::select! {
                biased;
                _ = timeout_at(until, taken) => {}
                // Who does not take its answer keeps nobody out.
                () = permit.evicted() => {}
            }
        }
    }
    connection.close(VarInt::from_u32(0), b"who has no certificate of a peer may ask once, for one");
}

/// Calls until the connection ends.
async fn serve_peer(connection: Connection, call: Call, share: Arc<Share>) {
    // None settles, so there is always one.
    let Some(permit) = share.connections.acquire(None) else { return };
    open_up(&connection);
    let call = Arc::new(call);
    loop {
        let next = async {
            let room = share.calls.clone().acquire_owned().await;
            (connection.accept_bi().await, room)
        };
        let (stream, room) = tokio::select! {
            biased;
            next = next => next,
            () = permit.evicted() => {
                connection.close(VarInt::from_u32(0), b"this certificate has too many newer connections");
                return;
            }
        };
        let Ok((send, receive)) = stream else { return };
        let (call, counted) = (call.clone(), share.bytes());
        tokio::spawn(async move {
            call.serve(send, receive, counted).await;
            drop(room);
        });
    }
}

impl Call {
    async fn serve(&self, mut send: SendStream, mut receive: RecvStream, mut counted: CallBytes) {
        let request = timeout(limits::TRANSFER_DEADLINE, read(&mut receive, &mut counted)).await;
        let answer = match request.unwrap_or_else(|_| Err("the request took too long".into())) {
            Ok(request) => self.answer(request).await,
            Err(why) => Err(why),
        };
        let fits = answer.as_ref().map_or(true, |body| counted.grow(body.len()));
        let answer = if fits { answer } else { Err(TOO_MUCH.into()) };
        // A caller that is gone, or takes nothing, does not want the answer.
        if timeout(limits::TRANSFER_DEADLINE, reply(&mut send, answer)).await.is_err() {
            let _ = send.reset(VarInt::from_u32(0));
        }
    }

    async fn answer(&self, request: Bytes) -> Result<Bytes, String> {
        let number = *request.first().ok_or("an empty request")?;
        let kind = CallKind::from_number(number)
            .ok_or_else(|| format!("call {number} is not known to this version"))?;
        if !kind.is_for_strangers() && !self.caller.is_peer() {
            return Err("only a peer of this cluster may call this".into());
        }
        self.handler.clone().handle(self.caller.clone(), kind, request.slice(1..)).await
    }
}

const TOO_MUCH: &str = "this peer holds too many bytes of your calls already";

/// A request whole, or why not. Copied as it comes: the parts are slices of packets, which may be much larger.
async fn read(receive: &mut RecvStream, counted: &mut CallBytes) -> Result<Bytes, String> {
    let mut request = Vec::new();
    loop {
        let part = receive.read_chunk(limits::MESSAGE_BYTES, true).await;
        let Some(part) = part.map_err(|error| format!("the request cannot be read: {error}"))? else {
            return Ok(request.into());
        };
        if request.len() + part.bytes.len() > limits::MESSAGE_BYTES {
            return Err(format!("the request has more than {} bytes", limits::MESSAGE_BYTES));
        }
        if !counted.grow(part.bytes.len()) {
            return Err(TOO_MUCH.into());
        }
        request.extend_from_slice(&part.bytes);
    }
}

async fn reply(send: &mut SendStream, answer: Result<Bytes, String>) {
    let (status, body) = match answer {
        Ok(body) => (0, body),
        Err(why) => (1, Bytes::from(why)),
    };
    // A caller that is gone does not want the answer.
    if send.write_all(&[status]).await.is_ok() && send.write_chunk(body).await.is_ok() {
        let _ = send.finish();
    }
}
