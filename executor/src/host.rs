//! The door between a node and the machine that executes its attempts.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use minicbor::{Decode, Encode};
use stint_protocol::{
    Allowance, AttemptEnd, BootMs, Class, GpuInfo, LeaseId, NodeRules, QuarantinedGpu, Runtime, SharedSpec,
    TaskName, Tenant,
};

pub use crate::attempt_stage::{AttemptStage, Executing, Execution, Preparation};
pub use crate::shim_api::request::AttemptLabels;
pub use crate::shim_api::wire::{RunningAttempt, Sandbox, StopReason};

/// What one attempt needs to be started.
#[derive(Clone, Debug)]
pub struct Launch {
    pub lease: LeaseId,
    pub tenant: Tenant,
    /// The user, and group, that programs of the tenant run as where the operator named no other. None: it has none yet.
    pub tenant_uid: Option<u32>,
    /// Who its spec says that it runs as, as this host found that user. None: nobody is named, or was not looked for yet.
    pub run_as: Option<LocalUser>,
    /// The task's, when its user gave it one.
    pub name: Option<TaskName>,
    /// Resolved: no field asks for a default any more.
    pub spec: SharedSpec,
    /// Chosen by the node among what class and host offer.
    pub runtime: Runtime,
    pub gpus: Vec<GpuInfo>,
    /// When the lease ends; the attempt is dead and reaped by then.
    pub deadline: BootMs,
    /// Variables the node sets (`STINT_TASK_ID`, `STINT_ATTEMPT`, …); they win over the task's own.
    pub env: BTreeMap<String, String>,
}

/// A user of this machine, as its directory of users has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalUser {
    pub name: String,
    /// The numbers of the user and of its group.
    pub ids: (u32, u32),
    /// All groups beside that one.
    pub groups: Vec<u32>,
    pub home: PathBuf,
}

/// What happened on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// The program runs since `at`.
    Started { lease: LeaseId, at: BootMs },
    /// The attempt has provably stopped: its pid namespace or cgroup was seen empty.
    Ended(AttemptEnd),
    /// `Host::quarantined` answers something else than before.
    DevicesChanged,
    /// `HostHealth::runtimes` answers something else than before: Docker's daemon came or went.
    RuntimesChanged,
}

impl Launch {
    /// What is remembered of whose it is.
    pub fn labels(&self) -> AttemptLabels {
        AttemptLabels {
            tenant: self.tenant.clone(),
            class: self.spec.class,
            task_name: self.name.clone(),
            runtime: self.runtime,
            image: self.spec.image.clone(),
        }
    }
}

/// Where an attempt is, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptStatus {
    pub lease: LeaseId,
    pub stage: AttemptStage,
    /// Why it was asked to stop, while it has not ended.
    pub stop: Option<StopReason>,
    /// End of its lease; none: it has ended.
    pub deadline: Option<BootMs>,
    /// None: it has ended, or nobody remembers.
    pub labels: Option<AttemptLabels>,
}

impl AttemptStatus {
    /// One that has ended and is not acknowledged yet.
    pub fn ended(lease: LeaseId) -> Self {
        Self { lease, stage: AttemptStage::Ended, stop: None, deadline: None, labels: None }
    }
}

/// DOOR: an execution host. Real: `HostClient`. A simulated one lives in the `sim` crate.
pub trait Host: Send + Sync + 'static {
    /// Starts an attempt. Never blocks; what comes of it arrives as events. A lease that is already held or has
    /// ended is left as it is.
    fn start(&self, launch: Launch);
    /// Lets leases run until later. Deadlines only grow; a shorter one counts after the old has run out.
    fn renew(&self, renewals: Vec<(LeaseId, BootMs)>);
    /// TERM now, KILL after the task's grace or at the end of its lease. Unknown leases are ignored.
    fn stop(&self, lease: LeaseId, reason: StopReason);
    /// The cluster recorded these ends: they need not be kept any longer.
    fn acknowledge(&self, leases: Vec<LeaseId>);
    /// What runs or is being stopped now.
    fn running(&self) -> Vec<RunningAttempt>;
    /// Where each attempt of this host is that has not ended, or whose end was not acknowledged yet: for people who look.
    fn attempts(&self) -> Vec<AttemptStatus> {
        Vec::new()
    }
    /// What has ended and was not acknowledged yet.
    fn unacknowledged(&self) -> Vec<AttemptEnd>;
    /// A piece of an attempt's output from `offset`, `max` bytes at most.
    fn read_log(&self, lease: LeaseId, stream: LogStream, offset: u64, max: usize) -> LogFuture;
    /// What an attempt wrote last, `max` bytes at most; `next_offset` is all that it wrote.
    fn log_tail(&self, lease: LeaseId, stream: LogStream, max: usize) -> LogFuture {
        let _ = (stream, max);
        Box::pin(async move { Err(LogError::NotFound(lease)) })
    }
    /// How far an attempt says it is, as JSON (`Progress`); empty when it said nothing.
    fn progress(&self, lease: LeaseId) -> LogFuture {
        Box::pin(async move { Err(LogError::NotFound(lease)) })
    }
    /// Whether there may be a last output of an attempt that has ended: a mock writes nothing, nor does one that was refused.
    fn may_have_written(&self, lease: LeaseId) -> bool {
        let _ = lease;
        true
    }
    /// What an attempt that has ended wrote last, `max` bytes of each stream at most. Nothing, where its task wants it so.
    fn last_output(&self, lease: LeaseId, max: usize) -> LastOutputFuture {
        let stdout = self.log_tail(lease, LogStream::Stdout, max);
        let stderr = self.log_tail(lease, LogStream::Stderr, max);
        let progress = self.progress(lease);
        Box::pin(async move {
            LastOutput {
                stdout: stdout.await.unwrap_or_default(),
                stderr: stderr.await.unwrap_or_default(),
                progress: progress.await.unwrap_or_default().bytes,
                said: Said::default(),
            }
        })
    }
    /// A piece of a file that an ended attempt left as an output, from `offset`, `max` bytes at most.
    fn read_output(&self, lease: LeaseId, path: &str, offset: u64, max: usize) -> LogFuture {
        let _ = (path, offset, max);
        Box::pin(async move { Err(LogError::NotFound(lease)) })
    }
    /// Devices that somebody else uses: not to be offered now.
    fn quarantined(&self) -> Vec<QuarantinedGpu> {
        Vec::new()
    }
    /// Containers of this host that its daemon has now, in whatever state, by class; none: no daemon says.
    fn containers(&self) -> ContainersFuture {
        Box::pin(async { None })
    }
    /// What this host can do, and what it lacks.
    fn health(&self) -> HostHealth;
}

/// What an attempt wrote last. What cannot be read is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastOutput {
    /// `next_offset` is all that it wrote.
    pub stdout: LogChunk,
    pub stderr: LogChunk,
    /// As `Host::progress` answers.
    pub progress: Vec<u8>,
    pub said: Said,
}

/// What a program says its result is, as JSON without blanks and with secrets hidden.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Said {
    /// Empty: it said nothing.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub result: Vec<u8>,
    #[n(1)]
    pub files: Vec<SmallFile>,
}

/// An output that is small JSON.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SmallFile {
    /// As in the outputs of the attempt.
    #[n(0)]
    pub path: String,
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub json: Vec<u8>,
}

impl LogChunk {
    /// Leaves so many bytes, those at its end.
    pub fn cut_to(mut self, most: usize) -> Self {
        self.bytes.drain(..self.bytes.len().saturating_sub(most));
        self
    }
}

/// The answer to `Host::last_output`.
pub type LastOutputFuture = Pin<Box<dyn Future<Output = LastOutput> + Send>>;

/// The answer to `Host::read_log`.
pub type LogFuture = Pin<Box<dyn Future<Output = Result<LogChunk, LogError>> + Send>>;

/// Takes what has happened; the answer comes when the node has taken it.
pub type Publisher = Arc<dyn Fn(Vec<HostEvent>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The answer to `Host::containers`.
pub type ContainersFuture = Pin<Box<dyn Future<Output = Option<BTreeMap<Class, u64>>> + Send>>;

/// One of the two outputs of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    Stdout,
    Stderr,
}

impl LogStream {
    /// The file's name in the attempt's folder.
    pub fn as_str(self) -> &'static str {
        match self {
            LogStream::Stdout => "stdout",
            LogStream::Stderr => "stderr",
        }
    }
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LogChunk {
    /// What the program wrote; where the size cap dropped something, one line says how much.
    pub bytes: Vec<u8>,
    /// Where to read on.
    pub next_offset: u64,
    /// The attempt has ended and everything was read.
    pub complete: bool,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(
        "no output of attempt {0} is kept on this node: it never ran here, or its folder was removed after keep_ended"
    )]
    NotFound(LeaseId),
    #[error("reading the output of attempt {lease}")]
    Read {
        lease: LeaseId,
        #[source]
        source: std::io::Error,
    },
}

/// What this host can do, and what it lacks.
#[derive(Clone, Debug)]
pub struct HostHealth {
    pub sandbox: Sandbox,
    /// For each enabled runtime: usable, or why not and what to do.
    pub runtimes: BTreeMap<Runtime, Result<(), String>>,
    /// What tasks may ask for with each of them.
    pub allows: Vec<Allowance>,
    /// What of the images, inputs and secrets that they name it lets them have.
    pub rules: NodeRules,
    /// False when something from before this process started could not be accounted for: start a new incarnation.
    pub accounted: bool,
    /// What is not enforced or does not work, in words for the operator.
    pub problems: Vec<String>,
}

/// Why the execution host could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("making the folder {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("starting the watchdog with {command:?}: {problem}; its messages are in {log}")]
    StartShim { command: String, problem: String, log: PathBuf },
    #[error("talking to the watchdog at {path}")]
    Connect {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "a watchdog of another version runs at {path}: it speaks protocol {theirs}, this node speaks {ours}. Its attempts end \
         with their leases, and it leaves a minute after the last: start this node again then. To stop it and its attempts \
         now: kill {pid}. To lose none of them: start the earlier version again and drain this node before the upgrade"
    )]
    Version { path: PathBuf, theirs: u32, ours: u32, pid: i32 },
}
