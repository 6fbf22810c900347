//! Door: peer transport. Real quinn over turmoil's UDP; loss and duplication are drawn here, cuts and delays by turmoil.

use std::collections::VecDeque;
use std::fmt::{self, Debug};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, TokioRuntime, UdpPoller};
use turmoil::net::UdpSocket;

use crate::dice::Dice;

/// Where peers listen.
pub const PORT: u16 = 7000;
/// Bytes of the largest datagram that is taken.
const DATAGRAM_BYTES: usize = 65_536;
/// Datagrams that wait to be read; more are dropped, as a kernel does.
const WAITING: usize = 4_096;

/// The weather on all links: how many datagrams of a hundred are lost or doubled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    pub lost_percent: u64,
    pub doubled_percent: u64,
}

/// What the faults set and the sockets read.
#[derive(Clone, Default)]
pub struct Sky(Arc<Mutex<Weather>>);

impl Sky {
    pub fn get(&self) -> Weather {
        *lock(&self.0)
    }

    pub fn set(&self, weather: Weather) {
        *lock(&self.0) = weather;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A QUIC endpoint on this turmoil host.
pub async fn endpoint(sky: Sky, mut dice: Dice) -> io::Result<Endpoint> {
    let socket = UdpSocket::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT)).await?;
    let mut seed = [0; 32];
    seed.chunks_mut(8).for_each(|part| part.copy_from_slice(&dice.next().to_le_bytes()));
    let mut config = EndpointConfig::default();
    config.rng_seed(Some(seed));
    let arrived = Arc::new(Mutex::new(Arrived::default()));
    let socket = SimUdp { socket: Arc::new(socket), arrived, sky, dice: Mutex::new(dice) };
    tokio::spawn(pump(socket.socket.clone(), socket.arrived.clone()));
    Endpoint::new_with_abstract_socket(config, None, Arc::new(socket), Arc::new(TokioRuntime))
}

#[derive(Default)]
struct Arrived {
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
}

struct SimUdp {
    socket: Arc<UdpSocket>,
    arrived: Arc<Mutex<Arrived>>,
    sky: Sky,
    dice: Mutex<Dice>,
}

impl Debug for SimUdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}

async fn pump(socket: Arc<UdpSocket>, arrived: Arc<Mutex<Arrived>>) {
    let mut buffer = vec![0; DATAGRAM_BYTES];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let waker = {
            let mut arrived = lock(&arrived);
            if arrived.datagrams.len() < WAITING {
                arrived.datagrams.push_back((from, buffer[..length].to_vec()));
            }
            arrived.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
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
        let weather = self.sky.get();
        let mut dice = lock(&self.dice);
        if dice.below(100) < weather.lost_percent {
            return 0;
        }
        if dice.below(100) < weather.doubled_percent { 2 } else { 1 }
    }
}

impl AsyncUdpSocket for SimUdp {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    /// What cannot be sent is lost: QUIC sends again.
    fn try_send(&self, transmit: &Transmit) -> io::Result<()> {
        for _ in 0..self.copies() {
            let _ = self.socket.try_send_to(transmit.contents, transmit.destination);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut arrived = lock(&self.arrived);
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
        self.socket.local_addr()
    }

    /// Switches path MTU discovery off: the simulated path has no limit to discover.
    fn may_fragment(&self) -> bool {
        true
    }
}
