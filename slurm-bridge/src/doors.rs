//! The doors of the bridge: Slurm, and the folder that Slurm's nodes share with this one.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use minicbor::{Decode, Encode};
use stint_executor::{Launch, LogChunk, LogError, LogStream};
use stint_protocol::{AttemptEnd, BootMs, LeaseId};

use crate::state::JobState;

/// What comes later.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Slurm's number of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct JobId(#[n(0)] pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What became of a submit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// Slurm says no: there is no such job.
    Refused(String),
    /// No answer, or none that says: there may be one.
    Unknown(String),
}

/// A job as Slurm shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedJob {
    pub job: JobId,
    /// Whose it is, by its name.
    pub lease: LeaseId,
    pub state: JobState,
    /// Slurm's words for its state and why.
    pub message: String,
}

/// DOOR: a Slurm cluster. Real: the command line. A simulated one lives in the `sim` crate.
pub trait Slurm: Send + Sync + 'static {
    /// Hands over an attempt as one job. Its script lies in the job folder.
    fn submit(&self, launch: &Launch) -> BoxFuture<Result<JobId, SubmitError>>;
    /// Every job of this node that Slurm has a record of, in whatever state.
    fn jobs(&self) -> BoxFuture<Result<Vec<ListedJob>, String>>;
    /// Ends a job at once, or takes it out of the queue, if it is this attempt's: another's may have its number. One that
    /// is over already is no error.
    fn cancel(&self, lease: LeaseId, job: JobId) -> BoxFuture<Result<(), String>>;
}

/// What this node knows of an attempt, kept in its job folder: written before Slurm hears of it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct JobRecord {
    #[n(0)]
    pub lease: LeaseId,
    #[n(1)]
    pub job: Option<JobId>,
    /// Time between TERM and KILL, in milliseconds.
    #[n(2)]
    pub grace_ms: u64,
    /// Longest run time, in milliseconds.
    #[n(3)]
    pub timeout_ms: u64,
    /// When its program began; none: not yet.
    #[n(4)]
    pub began: Option<BootMs>,
    /// Until when its job was given time; none: never.
    #[n(5)]
    pub granted_until: Option<BootMs>,
    /// How it ended.
    #[n(6)]
    pub end: Option<AttemptEnd>,
    /// Grows with each change: of two that are written at a time, the later one stays.
    #[n(7)]
    pub revision: u64,
    /// Its node had Slurm end its job, or was about to.
    #[n(8)]
    #[cbor(default)]
    pub killed: bool,
}

/// What an attempt's job wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobReport {
    /// What it asks for time with: a number that grows, and which job it is.
    pub ask: Option<(u64, JobId)>,
    pub exit: Option<ProgramExit>,
}

/// How a job says that its program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramExit {
    /// As a shell tells it: 128 and the signal's number where one ended it.
    Code { code: i32, by: StoppedBy },
    /// It could not be begun: not found, or not executable.
    NotRunnable,
    /// Its time was over before it was given more: its own guard told it to end, or ended it.
    OutOfTime,
}

/// Who told a program to end, as its job knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoppedBy {
    /// Nobody: it ended by itself.
    Itself,
    /// Its node.
    Node,
    /// Slurm, for whoever asked it to: its node may be among them.
    Slurm,
}

/// What the program of a job is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobCommand {
    Run,
    /// It is sent TERM.
    Term,
    /// It is sent KILL.
    Kill,
}

/// The answer to what a job asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeGrant {
    /// The number of what is answered.
    pub number: u64,
    /// How long the program may run, counted from when the job asked, in milliseconds.
    pub left_ms: u64,
    pub command: JobCommand,
    /// As of a record.
    pub revision: u64,
}

/// DOOR: the folder that Slurm's nodes share with this one. Real: files. A simulated one lives in the `sim` crate.
/// Errors are in words for the operator.
pub trait JobDir: Send + Sync + 'static {
    /// Makes the folder of an attempt, with its script. One that is there already is left as it is.
    fn prepare(&self, launch: &Launch) -> BoxFuture<Result<(), String>>;
    /// Keeps a record so that it outlives this process.
    fn store(&self, record: JobRecord) -> BoxFuture<Result<(), String>>;
    /// What its job wrote.
    fn read_report(&self, lease: LeaseId) -> BoxFuture<Result<JobReport, String>>;
    fn grant(&self, lease: LeaseId, grant: TimeGrant) -> BoxFuture<Result<(), String>>;
    /// Its end is recorded: the folder may go some time.
    fn forget(&self, lease: LeaseId) -> BoxFuture<Result<(), String>>;
    /// A piece of its output.
    fn read_log(
        &self,
        lease: LeaseId,
        stream: LogStream,
        offset: u64,
        max: usize,
    ) -> BoxFuture<Result<LogChunk, LogError>>;
    /// How far it says it is, as `Host::progress`.
    fn progress(&self, lease: LeaseId) -> BoxFuture<Result<LogChunk, LogError>>;
    /// What it wrote last.
    fn log_tail(
        &self,
        lease: LeaseId,
        stream: LogStream,
        max: usize,
    ) -> BoxFuture<Result<LogChunk, LogError>>;
}
