//! A proxy in front of the Docker daemon that is as bad as a busy machine: answers come late, from before, or never.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

const DAEMON: &str = "/var/run/docker.sock";

/// Of each start.
const STALE_ANSWERS: usize = 3;

/// What it does to calls. Nothing unless said.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Each start reaches the daemon so late, also when its caller has gone.
    pub start_delay: Duration,
    /// The answer to each start never comes; the caller's connection is closed in its place.
    pub forgets_starts: bool,
    /// Of so many calls one is cut off: before the daemon gets it and after, in turn. 0: none.
    pub cuts_one_in: usize,
    /// The first questions about a container after its start have the answer of before.
    pub answers_stale: bool,
}

pub struct Proxy {
    pub socket: PathBuf,
    /// Starts that reached the daemon.
    pub starts: Arc<AtomicUsize>,
    /// Calls that were cut off.
    pub cuts: Arc<AtomicUsize>,
    listening: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

struct Shared {
    faults: Faults,
    calls: AtomicUsize,
    starts: Arc<AtomicUsize>,
    cuts: Arc<AtomicUsize>,
    /// What was right of each container before its start, and how many more questions have that answer.
    answers: Mutex<BTreeMap<String, (Vec<u8>, usize)>>,
}

impl Proxy {
    pub fn start(folder: &Path, faults: Faults) -> Self {
        let socket = folder.join("proxy.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (starts, cuts) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let shared = Arc::new(Shared {
            faults,
            calls: AtomicUsize::new(0),
            starts: starts.clone(),
            cuts: cuts.clone(),
            answers: Mutex::default(),
        });
        let listening = tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                let shared = shared.clone();
                // Errors are those of callers and of the daemon: the connection ends.
                tokio::spawn(async move { shared.serve(caller).await });
            }
        });
        Self { socket, starts, cuts, listening }
    }
}

/// A call: its first line, and all of it as it goes to the daemon.
struct Call {
    line: String,
    bytes: Vec<u8>,
    upgrades: bool,
}

/// Reads one call; none: the caller has gone.
async fn read_call(caller: &mut UnixStream) -> Option<Call> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            break at + 4;
        }
        if caller.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let header = |name: &str| {
        let found = text.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")))?;
        Some(found[name.len() + 1..].trim().to_owned())
    };
    let length: usize = header("content-length").map_or(0, |length| length.parse().unwrap());
    assert!(header("transfer-encoding").is_none(), "the proxy knows no chunks: {text}");
    while bytes.len() < head + length {
        if caller.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let (line, upgrades) = (text.lines().next()?.to_owned(), header("upgrade").is_some());
    if !upgrades {
        // One call a connection: the answer ends with it.
        let at = text.find("\r\n")? + 2;
        bytes.splice(at..at, b"Connection: close\r\n".iter().copied());
    }
    Some(Call { line, bytes, upgrades })
}

impl Shared {
    async fn serve(&self, mut caller: UnixStream) -> Option<()> {
        let call = read_call(&mut caller).await?;
        let is_start = call.line.starts_with("POST") && call.line.contains("/start");
        let number = self.calls.fetch_add(1, SeqCst) + 1;
        let every = self.faults.cuts_one_in;
        let is_cut = every > 0 && number.is_multiple_of(every);
        if is_cut {
            self.cuts.fetch_add(1, SeqCst);
            if (number / every).is_multiple_of(2) {
                return None;
            }
        }
        let container = container_of(&call.line).filter(|_| self.faults.answers_stale);
        if is_start {
            sleep(self.faults.start_delay).await;
            self.starts.fetch_add(1, SeqCst);
            if let Some((path, name)) = &container {
                let question = format!("GET {path}/json HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n");
                let answer = ask(question.as_bytes()).await?;
                self.answers.lock().unwrap().insert(name.clone(), (answer, STALE_ANSWERS));
            }
        }
        if call.upgrades {
            if is_cut {
                return None;
            }
            let mut daemon = UnixStream::connect(DAEMON).await.ok()?;
            daemon.write_all(&call.bytes).await.ok()?;
            copy_bidirectional(&mut caller, &mut daemon).await.ok()?;
            return Some(());
        }
        let mut answer = ask(&call.bytes).await?;
        if is_cut || is_start && self.faults.forgets_starts {
            return None;
        }
        if let Some((_, name)) = container
            && call.line.starts_with("GET")
            && let Some((before, left)) = self.answers.lock().unwrap().get_mut(&name)
            && *left > 0
        {
            *left -= 1;
            answer = before.clone();
        }
        caller.write_all(&answer).await.ok()
    }
}

/// The daemon's answer to a call that ends its connection.
async fn ask(call: &[u8]) -> Option<Vec<u8>> {
    let mut daemon = UnixStream::connect(DAEMON).await.ok()?;
    daemon.write_all(call).await.ok()?;
    let mut answer = Vec::new();
    daemon.read_to_end(&mut answer).await.ok()?;
    Some(answer)
}

/// The path of the one container that a call's first line is about, and its name.
fn container_of(line: &str) -> Option<(String, String)> {
    let path = line.split(' ').nth(1)?;
    let at = path.find("/containers/")? + "/containers/".len();
    let name = path[at..].split(['/', '?']).next()?;
    let is_json = ["/json", "/start"].iter().any(|end| path[at + name.len()..].starts_with(end));
    is_json.then(|| (path[..at + name.len()].to_owned(), name.to_owned()))
}
