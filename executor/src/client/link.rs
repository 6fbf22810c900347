//! The connection to the watchdog: found or started, kept, and made anew when it breaks.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::client::HELLO_TIMEOUT;
use crate::client::state::ClientState;
use crate::host::{HostError, HostEvent};
use crate::limits;
use crate::shim_api::ALREADY_RUNNING;
use crate::shim_api::layout::SOCKET;
use crate::shim_api::wire::{FromShim, Hello, ToShim, VERSION, put_frames, spoken_version, take_frames};
use crate::sys;

/// A connected watchdog that has said what it holds.
pub struct Connection {
    pub hello: Hello,
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    inbox: Vec<u8>,
    rest: Vec<FromShim>,
    /// Handle on the watchdog, to end it when it hangs.
    process: Option<OwnedFd>,
}

/// Connects to the watchdog, starting one when there is none, replacing one that hangs.
pub async fn connect(shared: &ClientState) -> Result<Connection, HostError> {
    let began = Instant::now();
    let patience = Duration::from_millis(limits::SHIM_START_MS + limits::SHIM_HUNG_MS);
    loop {
        let stream = match dial(shared).await {
            Ok(stream) => stream,
            Err(_) => {
                start_shim(shared).await?;
                match dial(shared).await {
                    Ok(stream) => stream,
                    Err(source) if began.elapsed() > patience => {
                        return Err(HostError::Connect { path: shared.layout.socket(), source });
                    }
                    Err(_) => {
                        sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                }
            }
        };
        match timeout(HELLO_TIMEOUT, greet(shared, stream)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(GreetError::Version { theirs, pid })) => {
                return Err(HostError::Version { path: shared.layout.socket(), theirs, ours: VERSION, pid });
            }
            Ok(Err(GreetError::Broken(source))) if began.elapsed() > patience => {
                return Err(HostError::Connect { path: shared.layout.socket(), source });
            }
            Ok(Err(_)) => sleep(Duration::from_millis(20)).await,
            Err(_) => kill_holder(shared),
        }
    }
}

/// Keeps the connection until the client closes.
pub async fn keep(shared: Arc<ClientState>, mut connection: Connection) {
    loop {
        let problem = session(&shared, connection).await;
        // Also when closing: whoever waits until all is sent must not wait for a connection that is gone.
        shared.lock().link_problem = Some(format!("no watchdog: {problem}"));
        if shared.lock().closing {
            return;
        }
        tracing::warn!(
            problem,
            "the watchdog's connection broke: what it ran has died with it or will be found"
        );
        connection = loop {
            match connect(&shared).await {
                Ok(connection) => break connection,
                Err(e) => {
                    tracing::error!(error = %e, "no watchdog: nothing can be started on this node");
                    shared.lock().link_problem = Some(e.to_string());
                    sleep(Duration::from_millis(500)).await;
                }
            }
        };
        let events = shared.reconcile(&connection.hello);
        shared.publish(events).await;
    }
}

async fn dial(shared: &ClientState) -> std::io::Result<UnixStream> {
    // Through a descriptor of the folder, since the path of a socket may have 107 bytes only.
    let folder = File::open(shared.layout.root())?;
    UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd())).await
}

async fn start_shim(shared: &ClientState) -> Result<(), HostError> {
    let command = &shared.settings.shim_command;
    let failed = |problem: String| HostError::StartShim {
        command: command.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" "),
        problem,
        log: shared.layout.shim_log(),
    };
    let Some((program, arguments)) = command.split_first() else {
        return Err(failed("the command is empty".into()));
    };
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).arg("--data-dir").arg(&shared.settings.data_dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    sys::as_before(&mut command);
    let patience = Duration::from_millis(limits::SHIM_START_MS);
    let output = timeout(patience, command.output()).await;
    let output =
        output.map_err(|_| failed(format!("it did not listen within {} ms", limits::SHIM_START_MS)))?;
    let output = output.map_err(|e| failed(e.to_string()))?;
    match output.status.code() {
        Some(0) => Ok(()),
        Some(code) if code == i32::from(ALREADY_RUNNING) => Ok(()),
        Some(code) => {
            Err(failed(format!("exit code {code}: {}", String::from_utf8_lossy(&output.stderr).trim())))
        }
        None => Err(failed(format!("killed by signal {}", output.status.signal().unwrap_or(0)))),
    }
}

/// Why a connection came to nothing.
#[derive(Debug, thiserror::Error)]
enum GreetError {
    #[error("the watchdog (process {pid}) speaks version {theirs}")]
    Version { theirs: u32, pid: i32 },
    #[error(transparent)]
    Broken(#[from] std::io::Error),
}

/// Hears what the watchdog says first; one of another version is not understood any further.
async fn greet(shared: &ClientState, stream: UnixStream) -> Result<Connection, GreetError> {
    let pid = sys::peer_credentials(&stream).map_or(0, |(pid, _)| pid);
    let process = sys::pidfd_open(pid).ok();
    let (mut read, write) = stream.into_split();
    let mut inbox = Vec::new();
    let theirs = loop {
        read_more(&mut read, &mut inbox).await?;
        if let Some(version) = spoken_version(&inbox).map_err(std::io::Error::other)? {
            break version;
        }
    };
    if theirs != VERSION {
        return Err(GreetError::Version { theirs, pid });
    }
    let mut messages: Vec<FromShim> = take_frames(&mut inbox).map_err(std::io::Error::other)?;
    match messages.remove(0) {
        FromShim::Hello(hello) => Ok(Connection { hello, read, write, inbox, rest: messages, process }),
        _ => {
            let problem = format!("{} did not begin with a greeting", shared.layout.socket().display());
            Err(std::io::Error::other(problem).into())
        }
    }
}

/// Ends a watchdog that holds the lock but does not answer; all it ran dies with it.
fn kill_holder(shared: &ClientState) {
    let Ok(lock) = OpenOptions::new().read(true).write(true).open(shared.layout.lock()) else { return };
    // Asked again once the handle is open: the number may have come to mean another process, which would be killed.
    if let Ok(Some(pid)) = sys::lock_holder(&lock)
        && let Ok(process) = sys::pidfd_open(pid)
        && sys::lock_holder(&lock).ok().flatten() == Some(pid)
    {
        tracing::error!(pid, "the watchdog does not answer: killing and replacing it");
        sys::pidfd_signal(&process, libc::SIGKILL);
    }
}

async fn next_messages(read: &mut OwnedReadHalf, inbox: &mut Vec<u8>) -> std::io::Result<Vec<FromShim>> {
    read_more(read, inbox).await?;
    take_frames(inbox).map_err(std::io::Error::other)
}

async fn read_more(read: &mut OwnedReadHalf, inbox: &mut Vec<u8>) -> std::io::Result<()> {
    inbox.reserve(64 * 1024);
    if read.read_buf(inbox).await? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// How alive the watchdog seems.
#[derive(Default)]
struct Pulse {
    unanswered: AtomicU32,
    /// The node does not take events at the moment: silence is not the watchdog's fault.
    publishing: AtomicBool,
}

/// Talks until the connection breaks; says why.
async fn session(shared: &ClientState, connection: Connection) -> String {
    let Connection { mut read, mut write, mut inbox, rest, process, .. } = connection;
    let pulse = Pulse::default();
    let reading = async {
        let mut messages = rest;
        loop {
            pulse.unanswered.store(0, SeqCst);
            let events = messages.into_iter().filter_map(|m| event(shared, m)).collect::<Vec<_>>();
            if !events.is_empty() {
                pulse.publishing.store(true, SeqCst);
                shared.publish(events).await;
                pulse.publishing.store(false, SeqCst);
            }
            match next_messages(&mut read, &mut inbox).await {
                Ok(next) => messages = next,
                Err(e) => return e.to_string(),
            }
        }
    };
    let writing = async {
        loop {
            let messages = shared.lock().take_outbox();
            if messages.is_empty() {
                shared.wake.notified().await;
                continue;
            }
            let mut bytes = Vec::new();
            put_frames(&mut bytes, &messages);
            if let Err(e) = write.write_all(&bytes).await {
                return e.to_string();
            }
        }
    };
    tokio::select! {
        problem = reading => problem,
        problem = writing => problem,
        () = watch(shared, &pulse, process.as_ref()) => "it did not answer and was killed".into(),
    }
}

fn event(shared: &ClientState, message: FromShim) -> Option<HostEvent> {
    match message {
        FromShim::Started(lease, at, sandbox_dir) => {
            shared.set_sandbox_dir(lease, sandbox_dir);
            Some(HostEvent::Started { lease, at })
        }
        FromShim::Ended(end) => Some(HostEvent::Ended(end)),
        FromShim::Hello(_) | FromShim::Pong => None,
    }
}

/// Pings; returns after it killed a watchdog that does not answer. Counts pings rather than time, so that a node that
/// was stopped itself does not blame the watchdog.
async fn watch(shared: &ClientState, pulse: &Pulse, process: Option<&OwnedFd>) {
    const PING_MS: u64 = 1000;
    let most = (limits::SHIM_HUNG_MS / PING_MS) as u32;
    let mut ticks = interval(Duration::from_millis(PING_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if pulse.publishing.load(SeqCst) {
            pulse.unanswered.store(0, SeqCst);
        }
        if pulse.unanswered.fetch_add(1, SeqCst) >= most {
            match process {
                Some(process) => sys::pidfd_signal(process, libc::SIGKILL),
                None => kill_holder(shared),
            }
            return;
        }
        shared.send(ToShim::Ping);
    }
}
