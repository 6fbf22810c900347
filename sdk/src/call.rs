//! One call with its failover: tries the addresses in turn, starting with the one that answered last, until one
//! gives an answer that counts, the rounds are over or the time is.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use stint_protocol::api::{NO_LEADER, Outdated};
use stint_protocol::v1::stint_client::StintClient;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::address::Address;
use crate::error::{Error, Try};
use crate::limits;

/// How one peer is called.
pub(crate) type Stub = StintClient<Channel>;

/// The peers of one client.
pub(crate) struct Peers {
    peers: Vec<Peer>,
    /// Index of the peer that answered last.
    preferred: AtomicUsize,
    on_outdated: Option<fn(&Outdated)>,
}

pub(crate) struct Peer {
    pub(crate) address: Address,
    pub(crate) stub: StintClient<Channel>,
    /// The header of an access token.
    pub(crate) authorization: Option<MetadataValue<Ascii>>,
}

impl Peer {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        request
    }
}

/// What to call and how long it may take.
#[derive(Clone, Copy)]
pub(crate) struct Operation {
    /// A verb and its object: "cancel tasks".
    pub(crate) name: &'static str,
    /// One try at one address.
    pub(crate) try_timeout: Duration,
    /// All tries together.
    pub(crate) call_timeout: Duration,
}

impl Peers {
    pub(crate) fn new(peers: Vec<Peer>, on_outdated: Option<fn(&Outdated)>) -> Self {
        Self { peers, preferred: AtomicUsize::new(0), on_outdated }
    }

    /// Sends `request` until it is answered or refused, or the bounds are reached.
    pub(crate) async fn call<T, R, F, Fut>(
        &self,
        operation: Operation,
        request: T,
        send: F,
    ) -> Result<R, Error>
    where
        T: Clone,
        F: Fn(StintClient<Channel>, Request<T>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let give_up = Instant::now() + operation.call_timeout;
        let mut tried = BTreeMap::new();
        // What a peer without a leader answers counts once no other peer has one.
        let mut outdated = None;
        for round in 0..limits::ROUNDS {
            if outdated.is_some() || !pause_before(round, &tried, give_up).await {
                break;
            }
            for index in self.in_order() {
                let peer = &self.peers[index];
                let start = Instant::now();
                let most = match () {
                    () if outdated.is_some() => limits::ASK_ANOTHER,
                    () if tried.values().any(|tried| tried.leaderless) => limits::ASK_ANOTHER_TO_WRITE,
                    () => operation.try_timeout,
                };
                let until = give_up.min(start + most.min(operation.try_timeout));
                let sent = send(peer.stub.clone(), peer.request(request.clone()));
                match timeout_at(until, sent).await {
                    Ok(Ok(response)) => {
                        let Some(mark) = Outdated::taken(response.metadata()) else {
                            self.preferred.store(index, Ordering::Relaxed);
                            return Ok(response.into_inner());
                        };
                        outdated.get_or_insert((mark, response.into_inner()));
                    }
                    Ok(Err(status)) => {
                        tried.insert(index, judge(operation, peer, status)?);
                    }
                    // Cut short by the end of the call: an earlier problem there says more.
                    Err(_) if until == give_up => {
                        tried.entry(index).or_insert_with(|| timed_out(peer, start));
                    }
                    Err(_) => {
                        tried.insert(index, timed_out(peer, start));
                    }
                }
                tracing::debug!(operation = operation.name, address = %peer.address, round, "try failed");
            }
        }
        if let Some((mark, answer)) = outdated {
            self.tell(&mark);
            return Ok(answer);
        }
        Err(Error::Unreachable { operation: operation.name, tried: tried.into_values().collect() })
    }

    fn tell(&self, mark: &Outdated) {
        tracing::debug!(
            since_ms = mark.no_leader_since_ms,
            missing = mark.missing,
            "answered without a leader"
        );
        if let Some(on_outdated) = self.on_outdated {
            on_outdated(mark);
        }
    }

    /// The address that answered last.
    pub(crate) fn last_good(&self) -> &Address {
        &self.peers[self.preferred.load(Ordering::Relaxed)].address
    }

    fn in_order(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, count) = (self.preferred.load(Ordering::Relaxed), self.peers.len());
        (0..count).map(move |step| (first + step) % count)
    }
}

/// Waits between two rounds; false when the rounds or the time are over.
async fn pause_before(round: u32, tried: &BTreeMap<usize, Try>, give_up: Instant) -> bool {
    if round == 0 {
        return true;
    }
    // Whoever is there has waited for a leader already.
    if !tried.is_empty()
        && tried.values().all(|t| t.leaderless || !t.connected)
        && tried.values().any(|t| t.leaderless)
    {
        return false;
    }
    let no_contact = tried.values().all(|t| !t.connected);
    if no_contact && round >= limits::ROUNDS_WITHOUT_CONTACT {
        return false;
    }
    let resume = Instant::now() + limits::FIRST_BACKOFF * 2u32.pow(round - 1);
    if resume >= give_up {
        return false;
    }
    sleep_until(resume).await;
    true
}

/// Only "not now" and broken connections are worth another address; every other answer is the cluster's.
fn judge(operation: Operation, peer: &Peer, status: Status) -> Result<Try, Error> {
    let local = std::error::Error::source(&status).is_some();
    let not_now = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded);
    if !local && !not_now {
        return Err(refused(operation.name, &peer.address, &status));
    }
    let connected = !(local && status.code() == Code::Unavailable);
    let leaderless = status.metadata().contains_key(NO_LEADER);
    Ok(Try { address: peer.address.clone(), problem: innermost(&status), connected, leaderless })
}

/// Whether a failed stream is worth another address.
pub(crate) fn is_transient(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
        || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
}

pub(crate) fn refused(operation: &'static str, address: &Address, status: &Status) -> Error {
    let text = if status.message().is_empty() { status.code().description() } else { status.message() };
    let message = text.chars().take(limits::MESSAGE_BYTES).collect();
    Error::Refused { operation, address: address.clone(), code: status.code(), message }
}

fn timed_out(peer: &Peer, start: Instant) -> Try {
    let problem = format!("no answer within {:.1} s", start.elapsed().as_secs_f64());
    Try { address: peer.address.clone(), problem, connected: true, leaderless: false }
}

/// The cause at the bottom: "No such file or directory" says more than "transport error".
pub(crate) fn innermost(status: &Status) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    let mut text = status.message().to_string();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    if text.is_empty() { status.code().description().into() } else { text }
}
