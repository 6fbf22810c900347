//! Door: peer transport. Real quinn on a simulated network card; loss and duplication are drawn here, cuts and delays
//! by turmoil, whose hosts are the cards: a stopped process does not stop its card.

use std::collections::VecDeque;
use std::fmt::{self, Debug};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, TokioRuntime, UdpPoller};
use tokio::sync::Notify;
use turmoil::net::UdpSocket;

use crate::rng::SeededRng;

/// Where peers listen.
pub const PORT: u16 = 7000;
/// Bytes of the largest datagram that is taken.
const DATAGRAM_BYTES: usize = 65_536;
/// Datagrams that wait to be read; more are dropped, as a kernel does.
const WAITING: usize = 1_024;

/// What is wrong on all links: how many datagrams of a hundred are lost or doubled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkFaults {
    pub lost_percent: u64,
    pub doubled_percent: u64,
}

/// What the faults set and the sockets read.
#[derive(Clone, Default)]
pub struct SharedLinkFaults(Arc<Mutex<LinkFaults>>);

impl SharedLinkFaults {
    pub fn get(&self) -> LinkFaults {
        *lock(&self.0)
    }

    pub fn set(&self, link_faults: LinkFaults) {
        *lock(&self.0) = link_faults;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

type Datagram = (SocketAddr, Vec<u8>);

/// The network card of one machine, with the socket buffers of its peer.
#[derive(Clone, Default)]
pub struct Card(Arc<CardState>);

#[derive(Default)]
struct CardState {
    arrived: Mutex<Arrived>,
    sending: Mutex<VecDeque<Datagram>>,
    send: Notify,
}

#[derive(Default)]
struct Arrived {
    /// Whether a process listens: what arrives otherwise is lost.
    open: bool,
    datagrams: VecDeque<Datagram>,
    waker: Option<Waker>,
}

impl Card {
    /// Moves datagrams between the network and the buffers. Runs as a turmoil host.
    pub async fn run(self) -> turmoil::Result {
        let socket = UdpSocket::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT)).await?;
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            self.send_all(&socket);
            tokio::select! {
                biased;
                () = self.0.send.notified() => {}
                received = socket.recv_from(&mut buffer) => {
                    let (length, from) = received?;
                    self.take_in(from, &buffer[..length]);
                }
            }
        }
    }

    /// What cannot be sent is lost: QUIC sends again.
    fn send_all(&self, socket: &UdpSocket) {
        for (to, bytes) in std::mem::take(&mut *lock(&self.0.sending)) {
            let _ = socket.try_send_to(&bytes, to);
        }
    }

    fn take_in(&self, from: SocketAddr, bytes: &[u8]) {
        let waker = {
            let mut arrived = lock(&self.0.arrived);
            if arrived.open && arrived.datagrams.len() < WAITING {
                arrived.datagrams.push_back((from, bytes.to_vec()));
            }
            arrived.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The process that listened is gone; with the machine's power also what waited to be sent.
    pub fn close(&self, power: bool) {
        *lock(&self.0.arrived) = Arrived::default();
        if power {
            lock(&self.0.sending).clear();
        }
    }

    /// A QUIC endpoint of the process that begins now.
    pub fn endpoint(
        &self,
        own: SocketAddr,
        link_faults: SharedLinkFaults,
        mut rng: SeededRng,
    ) -> io::Result<Endpoint> {
        *lock(&self.0.arrived) = Arrived { open: true, ..Arrived::default() };
        let mut seed = [0; 32];
        seed.chunks_mut(8).for_each(|part| part.copy_from_slice(&rng.next().to_le_bytes()));
        let mut config = EndpointConfig::default();
        config.rng_seed(Some(seed));
        let socket = SimUdp { own, card: self.clone(), link_faults, rng: Mutex::new(rng) };
        Endpoint::new_with_abstract_socket(config, None, Arc::new(socket), Arc::new(TokioRuntime))
    }
}

struct SimUdp {
    own: SocketAddr,
    card: Card,
    link_faults: SharedLinkFaults,
    rng: Mutex<SeededRng>,
}

impl Debug for SimUdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulated socket {}", self.own)
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl SimUdp {
    fn copies(&self) -> u32 {
        let link_faults = self.link_faults.get();
        let mut rng = lock(&self.rng);
        if rng.below(100) < link_faults.lost_percent {
            return 0;
        }
        if rng.below(100) < link_faults.doubled_percent { 2 } else { 1 }
    }
}

impl AsyncUdpSocket for SimUdp {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit) -> io::Result<()> {
        for _ in 0..self.copies() {
            let datagram = (transmit.destination, transmit.contents.to_vec());
            lock(&self.card.0.sending).push_back(datagram);
        }
        self.card.0.send.notify_one();
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut arrived = lock(&self.card.0.arrived);
        let Some((addr, bytes)) = arrived.datagrams.pop_front() else {
            arrived.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let len = bytes.len().min(buffers[0].len());
        buffers[0][..len].copy_from_slice(&bytes[..len]);
        metas[0] = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.own)
    }

    /// Switches path MTU discovery off: the simulated path has no limit to discover.
    fn may_fragment(&self) -> bool {
        true
    }
}
