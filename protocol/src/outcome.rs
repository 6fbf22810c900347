//! How attempts and tasks end, told apart.

use minicbor::{Decode, Encode};

use crate::ending::Ending;
use crate::files::{KeptFile, NotKept};
use crate::ids::LeaseId;
use crate::instance::LeftResult;
use crate::limits;
use crate::time::TimeMs;

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum EndKind {
    /// The program ended by itself with this code.
    #[n(0)]
    Exited(#[n(0)] i32),
    /// A signal ended it that Stint did not send.
    #[n(1)]
    Signalled(#[n(0)] i32),
    /// Its run time was over.
    #[n(2)]
    TimedOut,
    /// The kernel killed it for memory.
    #[n(3)]
    OutOfMemory,
    /// A user cancelled it.
    #[n(4)]
    Cancelled,
    /// Its lease ran out or its node lost it; it has provably stopped.
    #[n(5)]
    Lost,
    /// It could not be started for a reason that lies with the node (retried).
    #[n(6)]
    StartFailed,
    /// It cannot be started as specified: command not found, not executable, bad image (not retried).
    #[n(7)]
    NotRunnable,
    /// A rule forbids it (not retried).
    #[n(8)]
    Denied,
    /// It was stopped because its node drains or stops (retried, does not count).
    #[n(9)]
    Drained,
    /// The program succeeded, but an output that its task must leave is not there, or is not a file (not retried).
    #[n(10)]
    OutputMissing,
    /// What it left could not be kept, for a reason that lies with the cluster (retried).
    #[n(11)]
    OutputLost,
    /// An input or a secret that its task names is not on its node: another one may have it (retried elsewhere; says
    /// nothing about the node).
    #[n(12)]
    FilesMissing,
    /// Its runtime would not start it, and nothing shows whether that lies with the node or with the task (tried on another
    /// node; when that one refuses it, too, it is the task).
    #[n(13)]
    StartRefused,
    /// Its files took more of the node's disk than they may, or the most when little was left.
    #[n(14)]
    DiskExceeded,
    /// The program of an instance was stopped because its node's process had started anew (retried; counts as a loss).
    #[n(15)]
    Cut,
}

impl EndKind {
    /// The word users see.
    pub fn as_str(&self) -> &'static str {
        match self {
            EndKind::Exited(_) => "exited",
            EndKind::Signalled(_) => "signalled",
            EndKind::TimedOut => "timed_out",
            EndKind::OutOfMemory => "oom_killed",
            EndKind::Cancelled => "cancelled",
            EndKind::Lost => "lost",
            EndKind::StartFailed => "start_failed",
            EndKind::NotRunnable => "not_runnable",
            EndKind::Denied => "denied",
            EndKind::Drained => "drained",
            EndKind::OutputMissing => "output_missing",
            EndKind::OutputLost => "output_lost",
            EndKind::FilesMissing => "files_missing",
            EndKind::StartRefused => "start_refused",
            EndKind::DiskExceeded => "disk_exceeded",
            EndKind::Cut => "cut",
        }
    }
}

impl EndKind {
    /// What is said of such an end when nothing else is.
    pub fn default_message(&self) -> String {
        match self {
            EndKind::Exited(code) if *code != 0 => format!("exit code {code}"),
            EndKind::Signalled(signal) => format!("ended by signal {signal}"),
            EndKind::TimedOut => "its run time was over".into(),
            EndKind::OutOfMemory => "the kernel killed it: out of memory".into(),
            _ => String::new(),
        }
    }

    /// The program's own exit code; none when it did not run, or was ended.
    pub fn program_exit_code(&self) -> Option<i32> {
        match self {
            EndKind::Exited(code) => Some(*code),
            EndKind::OutputMissing => Some(0),
            _ => None,
        }
    }
}

/// What an attempt used, all its processes together. Unset: its node cannot say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Usage {
    /// User and system, in milliseconds.
    #[n(0)]
    pub cpu_ms: Option<u64>,
    /// At its highest, with what it had in `/tmp`, `/dev/shm` and the cache of files.
    #[n(1)]
    pub peak_memory_bytes: Option<u64>,
    /// Read from storage, not from the cache.
    #[n(2)]
    pub read_bytes: Option<u64>,
    #[n(3)]
    pub written_bytes: Option<u64>,
}

/// A node's report that an attempt has stopped: its processes are gone.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AttemptEnd {
    #[n(0)]
    pub lease: LeaseId,
    #[n(1)]
    pub kind: EndKind,
    /// What a user needs to know beyond the kind; at most `limits::MESSAGE_BYTES`.
    #[n(2)]
    pub message: String,
    /// Run time of the program, in milliseconds; 0 when it never started.
    #[n(3)]
    pub run_ms: u64,
    /// What was kept of its outputs.
    #[n(4)]
    #[cbor(default)]
    pub outputs: Option<Box<[KeptFile]>>,
    /// What it used.
    #[n(5)]
    #[cbor(default)]
    pub usage: Option<Box<Usage>>,
    /// What was not kept of its outputs, and why; the first `limits::NOT_KEPT`.
    #[n(6)]
    #[cbor(default)]
    pub not_kept: Option<Box<[NotKept]>>,
    /// What it wrote last. None: it wrote nothing, or that is not to be kept.
    #[n(7)]
    #[cbor(default)]
    pub ending: Option<Box<Ending>>,
    /// What the program of an instance left in its file of results.
    #[n(8)]
    #[cbor(default)]
    pub left: Option<Box<LeftResult>>,
}

impl AttemptEnd {
    /// An end that left no outputs, of which nobody says what it used.
    pub fn new(lease: LeaseId, kind: EndKind, message: String, run_ms: u64) -> Self {
        let (outputs, usage, not_kept, ending, left) = (None, None, None, None, None);
        Self { lease, kind, message, run_ms, outputs, usage, not_kept, ending, left }
    }

    /// Bytes it takes in a message or in the log, about.
    pub fn weight(&self) -> usize {
        let not_kept = weight_of_not_kept(self.not_kept.as_deref());
        let ending = self.ending.as_ref().map_or(0, |ending| ending.weight());
        let left = self.left.as_ref().map_or(0, |left| left.weight());
        96 + self.message.len() + weight_of(self.outputs.as_deref()) + not_kept + ending + left
    }
}

/// Bytes that the names of kept files take, about, with the records of those whose bytes are pinned.
pub fn weight_of(outputs: Option<&[KeptFile]>) -> usize {
    let of = |kept: &KeptFile| {
        let record = if kept.is_pinned() { limits::BLOB_RECORD_BYTES } else { 0 };
        kept.path.len() + 80 + record
    };
    outputs.unwrap_or_default().iter().map(of).sum()
}

/// Bytes that the names of files take that were not kept, about.
pub fn weight_of_not_kept(not_kept: Option<&[NotKept]>) -> usize {
    not_kept.unwrap_or_default().iter().map(|file| file.path.len() + file.reason.len() + 64).sum()
}

/// The recorded end of a task; never changes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Outcome {
    #[n(0)]
    pub kind: EndKind,
    #[n(1)]
    pub message: String,
    #[n(2)]
    pub finished_at: TimeMs,
    /// The attempt that decided it; 0 when none ran.
    #[n(3)]
    pub attempt: u32,
    #[n(4)]
    pub run_ms: u64,
    /// True when the task was given up as `crash_loop`.
    #[n(5)]
    pub crash_loop: bool,
    /// What was kept of the outputs of that attempt.
    #[n(6)]
    #[cbor(default)]
    pub outputs: Option<Box<[KeptFile]>>,
    /// What that attempt used.
    #[n(7)]
    #[cbor(default)]
    pub usage: Option<Box<Usage>>,
    /// What was not kept of the outputs of that attempt, and why.
    #[n(8)]
    #[cbor(default)]
    pub not_kept: Option<Box<[NotKept]>>,
}

impl Outcome {
    /// Whether the task did what it was asked to.
    pub fn succeeded(&self) -> bool {
        self.kind == EndKind::Exited(0)
    }

    /// The word users see: `succeeded`, `failed` or `cancelled`.
    pub fn as_str(&self) -> &'static str {
        match self.kind {
            EndKind::Exited(0) => "succeeded",
            EndKind::Cancelled => "cancelled",
            _ => "failed",
        }
    }

    /// The exit code `stint run` passes on: the program's own, 128 + signal, 124 for a timeout, 137 for memory or disk,
    /// 130 when cancelled, 127 when not runnable, 125 for everything that is not the program's doing.
    pub fn exit_code(&self) -> i32 {
        match self.kind {
            EndKind::Exited(code) => code,
            EndKind::Signalled(signal) => 128 + signal,
            EndKind::TimedOut => 124,
            EndKind::OutOfMemory | EndKind::DiskExceeded => 137,
            EndKind::Cancelled => 130,
            EndKind::NotRunnable => 127,
            EndKind::Lost
            | EndKind::StartFailed
            | EndKind::Denied
            | EndKind::Drained
            | EndKind::OutputMissing
            | EndKind::OutputLost
            | EndKind::FilesMissing
            | EndKind::StartRefused
            | EndKind::Cut => 125,
        }
    }
}
