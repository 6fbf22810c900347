//! Connections of a front: so many at a time, and each with a deadline until its caller has asked for something.

use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};
use tonic::transport::server::Connected;

use crate::connection_limit::{ConnectionLimit, Permit, PermitState, Source as Origin};
use crate::limits;

/// When a connection has to end because nothing comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It has this long until the first request of a caller that may ask, and `FIRST_REQUEST_BYTES`; whether its caller is still there is seen by probes from then on.
    FirstRequest(Duration),
    /// It has this long from answer to answer, and so many bytes for what it asks.
    EachRequest(Duration, usize),
}

/// What listens for connections.
pub trait Source: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// The user of this machine at the other end, where the kernel says so.
    fn user(stream: &Self::Stream) -> Option<u32>;

    /// The machine at the other end, where it is another one.
    fn address(stream: &Self::Stream) -> Option<SocketAddr>;
}

impl Source for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        // Answers are small, and written at once. A connection without it is slower, and works.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    fn user(_: &TcpStream) -> Option<u32> {
        None
    }

    fn address(stream: &TcpStream) -> Option<SocketAddr> {
        stream.peer_addr().ok()
    }
}

impl Source for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }

    /// Who connected, and not who has the socket by now.
    fn user(stream: &UnixStream) -> Option<u32> {
        stream.peer_cred().ok().map(|credentials| credentials.uid())
    }

    fn address(_: &UnixStream) -> Option<SocketAddr> {
        None
    }
}

/// Where the connections of one front come in.
pub struct LimitedListener<L> {
    front: &'static str,
    listener: L,
    patience: Patience,
    limit: Arc<ConnectionLimit>,
    /// Descriptors: those that are being closed have one, too.
    room: Arc<Semaphore>,
    said_full: Option<Instant>,
}

impl<L: Source> LimitedListener<L> {
    /// No more than `most` connections at a time.
    pub fn new(front: &'static str, listener: L, most: usize, patience: Patience) -> Self {
        Self::with_users(front, listener, most, usize::MAX, patience)
    }

    /// And no more than `of_a_user` for one user of this machine, so that none keeps the others out.
    pub fn with_users(
        front: &'static str,
        listener: L,
        most: usize,
        of_a_user: usize,
        patience: Patience,
    ) -> Self {
        let (limit, room) = (ConnectionLimit::new(most, of_a_user), most + limits::CLOSING_CONNECTIONS);
        Self { front, listener, patience, limit, room: Arc::new(Semaphore::new(room)), said_full: None }
    }

    /// The next connection that may stay. One that has not asked for anything makes room for it; where all have, the new
    /// one is closed.
    pub async fn accept_one(&mut self) -> Connection<L::Stream> {
        loop {
            let room = self.room.clone().acquire_owned().await;
            let stream = match self.listener.next().await {
                Ok(stream) => stream,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    tracing::warn!(front = self.front, %error, "a connection cannot be taken");
                    sleep(limits::ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let caller = Far { user: L::user(&stream), address: L::address(&stream) };
            match self.limit.acquire(caller.user.map(Origin::User)) {
                Some(permit) => return Connection::new(stream, caller, permit, self.patience, room.ok()),
                None => self.refuse(),
            }
        }
    }

    fn refuse(&mut self) {
        let pause = limits::FULL_FRONT_LINE;
        if self.said_full.is_none_or(|said| said.elapsed() >= pause) {
            self.said_full = Some(Instant::now());
            let connections = self.limit.taken();
            tracing::warn!(front = self.front, connections, "all connections are in use: closing new ones");
        }
    }

    /// All connections, one after the other.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Connection<L::Stream>>> {
        unfold(self, async |mut listener| Some((Ok(listener.accept_one().await), listener)))
    }
}

/// The caller went while its connection was taken.
fn is_of_one_connection(error: &io::Error) -> bool {
    use ErrorKind::*;
    matches!(error.kind(), ConnectionAborted | ConnectionReset | ConnectionRefused | BrokenPipe | Interrupted)
}

impl axum::serve::Listener for LimitedListener<TcpListener> {
    type Io = Connection<TcpStream>;
    type Addr = ();

    async fn accept(&mut self) -> (Self::Io, ()) {
        (self.accept_one().await, ())
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection as its requests know it.
#[derive(Clone)]
pub struct ConnectionHandle {
    permit: Arc<PermitState>,
    far: Far,
}

/// Who is at the other end, as the kernel says.
#[derive(Clone, Copy)]
struct Far {
    user: Option<u32>,
    address: Option<SocketAddr>,
}

impl ConnectionHandle {
    /// Its caller may ask, and has: it may stay.
    pub fn settle(&self) {
        self.permit.settle();
    }

    /// The user of this machine at the other end, where the kernel says so.
    pub fn user(&self) -> Option<u32> {
        self.far.user
    }

    /// The machine at the other end, where it is another one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.far.address
    }
}

/// A connection that ends when its time is over, or another one needs its place.
pub struct Connection<S> {
    stream: S,
    far: Far,
    permit: Permit,
    patience: Patience,
    deadline: Pin<Box<Sleep>>,
    /// Bytes that were read since the last answer.
    asked: usize,
    _room: Option<OwnedSemaphorePermit>,
}

impl<S> Connection<S> {
    fn new(
        stream: S,
        far: Far,
        permit: Permit,
        patience: Patience,
        room: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let (Patience::FirstRequest(time) | Patience::EachRequest(time, _)) = patience;
        Self { stream, far, permit, patience, deadline: Box::pin(sleep(time)), asked: 0, _room: room }
    }

    /// An error once it has to end.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.permit.poll_evicted(context).is_ready() {
            return Err(io::Error::new(ErrorKind::ConnectionAborted, "another connection needs its place"));
        }
        if !self.permit.state().is_settled() && self.deadline.as_mut().poll(context).is_ready() {
            return Err(io::Error::new(ErrorKind::TimedOut, "no request came in time"));
        }
        Ok(())
    }

    fn on_read(&mut self, bytes: usize) -> io::Result<()> {
        self.asked += bytes;
        match self.patience {
            Patience::EachRequest(_, most) if self.asked > most => {
                Err(io::Error::new(ErrorKind::InvalidData, "a request that is too long"))
            }
            Patience::FirstRequest(_)
                if self.asked > limits::FIRST_REQUEST_BYTES && !self.permit.state().is_settled() =>
            {
                Err(io::Error::new(ErrorKind::InvalidData, "much was sent, and no request of a known caller"))
            }
            _ => Ok(()),
        }
    }

    fn on_written(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let (Poll::Ready(Ok(1..)), Patience::EachRequest(time, _)) = (&written, self.patience) {
            self.asked = 0;
            self.permit.renew();
            self.deadline.as_mut().reset(Instant::now() + time);
        }
        written
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = ConnectionHandle;

    fn connect_info(&self) -> ConnectionHandle {
        ConnectionHandle { permit: self.permit.state().clone(), far: self.far }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        Poll::Ready(self.on_read(buffer.filled().len() - before))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let written = Pin::new(&mut self.stream).poll_write(context, buffer);
        self.on_written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.on_written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
