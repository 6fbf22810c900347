//! A host in a temporary folder, with a watchdog of its own.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses a part; a failed set-up fails the test

pub mod outputs;

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use stint_executor::{Host, HostClient, HostEvent, HostOptions, Launch, LogStream, boot_now};
use stint_protocol::{AttemptEnd, Class, EndKind, LeaseId, Runtime, SharedSpec, TaskId, TaskSpec, Tenant};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Nothing here takes longer unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Rig {
    pub folder: TempDir,
    pub settings: HostOptions,
}

pub struct Client {
    pub host: HostClient,
    pub events: mpsc::Receiver<HostEvent>,
    pub started: Vec<LeaseId>,
    pub ends: BTreeMap<LeaseId, AttemptEnd>,
}

impl Rig {
    pub fn new(sandbox: bool) -> Self {
        Self::new_in(&std::env::temp_dir(), sandbox)
    }

    /// In a folder that is removed by somebody else, should this process be killed.
    pub fn new_in(parent: &Path, sandbox: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("stint-x").tempdir_in(parent).unwrap();
        let shim = vec![env!("CARGO_BIN_EXE_stint-shim").into(), "--idle-ms".into(), "2000".into()];
        let mut settings = HostOptions::new(folder.path().to_owned(), shim);
        settings.sandbox = sandbox;
        settings.runtimes = vec![Runtime::Process, Runtime::Crun, Runtime::Mock];
        let shared = folder.path().join("shared");
        std::fs::create_dir(&shared).unwrap();
        std::fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
        settings.process.writable = vec![shared];
        Self { folder, settings }
    }

    /// A folder of the host that sandboxed programs may write in.
    pub fn shared(&self) -> PathBuf {
        self.folder.path().join("shared")
    }

    pub async fn open(&self) -> Client {
        let (sender, events) = mpsc::channel(16);
        let host = HostClient::open(self.settings.clone(), sender).await.unwrap();
        Client { host, events, started: Vec::new(), ends: BTreeMap::new() }
    }

    pub fn executor(&self) -> PathBuf {
        self.folder.path().join("executor")
    }

    /// The watchdog's process id, from its lock.
    pub fn shim_pid(&self) -> Option<i32> {
        let lock = std::fs::metadata(self.executor().join("shim.lock")).ok()?;
        // Two file systems may use a number twice: that of the watchdog of another test.
        let (major, minor) = (rustix::fs::major(lock.dev()), rustix::fs::minor(lock.dev()));
        let file = format!(" {major:02x}:{minor:02x}:{} ", lock.ino());
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        let line = locks.lines().find(|line| line.contains("POSIX") && line.contains(&file))?;
        line.split_whitespace().nth(4)?.parse().ok()
    }

    pub fn kill_shim(&self) {
        signal(self.shim_pid().expect("a watchdog runs"), libc::SIGKILL);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // What a test leaves running must not outlive its folder; a stopped watchdog has to hear it.
        if let Some(pid) = self.shim_pid() {
            signal(pid, libc::SIGKILL);
            signal(pid, libc::SIGCONT);
            let began = Instant::now();
            while self.shim_pid().is_some() && began.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let name = self.executor();
        let label = format!("stint-{:08x}", crc32c::crc32c(name.as_os_str().as_encoded_bytes()));
        for controller in ["memory", "pids", "cpu"] {
            remove_cgroups(&Path::new("/sys/fs/cgroup").join(controller), &label, 3);
        }
    }
}

fn remove_cgroups(folder: &Path, label: &str, depth: u32) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
        if entry.file_name() == label {
            for attempt in std::fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(attempt.path());
            }
            let _ = std::fs::remove_dir(entry.path());
        } else if depth > 0 {
            remove_cgroups(&entry.path(), label, depth - 1);
        }
    }
}

impl Client {
    /// Where an attempt is, in words; empty: the host knows nothing of it.
    pub fn stage(&self, lease: LeaseId) -> String {
        let found = self.host.attempts().into_iter().find(|attempt| attempt.lease == lease);
        found.map_or(String::new(), |attempt| attempt.stage.to_string())
    }

    /// Waits for the end of an attempt.
    pub async fn end(&mut self, lease: LeaseId) -> AttemptEnd {
        self.until(|c| c.ends.contains_key(&lease), "the end of the attempt").await;
        self.ends[&lease].clone()
    }

    pub async fn started(&mut self, lease: LeaseId) {
        self.until(|c| c.started.contains(&lease) || c.ends.contains_key(&lease), "the start of the attempt")
            .await;
        assert!(self.started.contains(&lease), "it did not start: {:?}", self.ends.get(&lease));
    }

    pub async fn until(&mut self, done: impl Fn(&Self) -> bool, what: &str) {
        let began = Instant::now();
        while !done(self) {
            let left = PATIENCE.saturating_sub(began.elapsed());
            let event = tokio::time::timeout(left, self.events.recv()).await;
            match event.unwrap_or_else(|_| panic!("waited in vain for {what}")).expect("the host goes on") {
                HostEvent::Started { lease, .. } => self.started.push(lease),
                HostEvent::DevicesChanged | HostEvent::RuntimesChanged => {}
                HostEvent::Ended(end) => {
                    let before = self.ends.insert(end.lease, end.clone());
                    assert_eq!(before, None, "an end is told once");
                }
            }
        }
    }

    pub async fn run(&mut self, command: &[&str]) -> AttemptEnd {
        let launch = task(command);
        let lease = launch.lease;
        self.host.start(launch);
        self.end(lease).await
    }

    /// Waits until a running attempt has written something.
    pub async fn until_output(&self, lease: LeaseId, part: &str) {
        let began = Instant::now();
        loop {
            let chunk = self.host.read_log(lease, LogStream::Stdout, 0, 10_000).await.unwrap();
            if String::from_utf8_lossy(&chunk.bytes).contains(part) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "waited in vain for the output {part:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn log(&self, lease: LeaseId, stream: LogStream) -> String {
        let (mut text, mut offset) = (Vec::new(), 0);
        loop {
            let chunk = self.host.read_log(lease, stream, offset, 1000).await.unwrap();
            text.extend(chunk.bytes);
            offset = chunk.next_offset;
            if chunk.complete {
                return String::from_utf8(text).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub fn lease() -> LeaseId {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let n = NEXT.fetch_add(1, Ordering::SeqCst);
    LeaseId { task: TaskId(u128::from(n) << 64 | u128::from(std::process::id())), attempt: 1 }
}

pub fn spec(command: &[&str]) -> TaskSpec {
    let mut spec = TaskSpec::new(Class::CpuShort, command.iter().map(|w| (*w).to_owned()).collect());
    spec.timeout_ms = 60_000;
    spec.memory_bytes = 256 * 1024 * 1024;
    spec.cpu_milli = 1000;
    spec.stop_grace_ms = 300;
    spec
}

pub fn launch(spec: TaskSpec, runtime: Runtime) -> Launch {
    let lease = lease();
    let env = BTreeMap::from([
        ("STINT_TASK_ID".to_owned(), lease.task.to_string()),
        ("STINT_ATTEMPT".to_owned(), lease.attempt.to_string()),
    ]);
    Launch {
        lease,
        tenant: Tenant::default_tenant(),
        tenant_uid: None,
        run_as: None,
        name: None,
        spec: SharedSpec::new(spec),
        runtime,
        gpus: Vec::new(),
        deadline: boot_now().plus(60_000),
        env,
    }
}

pub fn task(command: &[&str]) -> Launch {
    launch(spec(command), Runtime::Process)
}

pub fn shell(script: &str) -> Launch {
    task(&["/bin/sh", "-c", script])
}

/// Whether this machine's users can be changed to.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

pub fn signal(pid: i32, signal: i32) {
    // The tests of this crate are the only place outside `sys` that sends signals, and only to what they started.
    let name = format!("-{signal}");
    std::process::Command::new("/bin/kill").args([name.as_str(), &pid.to_string()]).status().unwrap();
}

/// Waits for something that happens outside of this process.
pub async fn wait_until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Processes whose command line holds a word chosen by the test.
pub fn processes_with(word: &str) -> Vec<i32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(word) && *pid != std::process::id() as i32
        })
        .collect()
}

/// A duration for `sleep` that no other test uses, so that its processes can be found.
pub fn odd_seconds() -> String {
    let lease = lease();
    format!("7{}.{}", std::process::id(), lease.task.0 >> 64)
}

pub fn assert_kind(end: &AttemptEnd, kind: EndKind) {
    assert_eq!(end.kind, kind, "{end:?}");
}
