//! Runs attempts on this host. The node process talks to one small watchdog process (`stint shim`) that spawns the
//! attempts, holds their deadlines, kills what was not renewed and spools their ends on disk until the cluster
//! recorded them. Knows no scheduling and no network.
//!
//! What each side does:
//!
//! | node ([`HostClient`]) | watchdog ([`shim`]) |
//! |---|---|
//! | starts the watchdog, finds it again after a restart | outlives the node, dies with nothing to hold |
//! | sends start, renew, stop, acknowledge | clones, executes, reaps; pid namespaces and cgroups |
//! | reads logs, keeps them small, removes old work folders | journal of what began and ended |
//! | what each runtime can, allows and asks for; mock attempts | process, crun and Docker attempts |
//!
//! What remains, and cannot be cured here: a machine that is paused as a whole (a virtual machine, a frozen
//! hypervisor) keeps its attempts past their deadline until it continues; then the watchdog kills them at once,
//! because CLOCK_BOOTTIME went on. With `sandbox` off, a program that daemonises, leaves its session *and* wipes its
//! environment while its watchdog is killed is not found again.

mod attempt_stage;
mod client;
mod clock;
mod confine;
#[cfg(any(test, feature = "fuzzing"))]
pub mod decoders;
mod gpu;
mod host;
mod image_config;
mod labels;
mod limits;
mod log;
mod logs;
mod mounts;
mod observer;
mod progress;
mod refusal;
mod root;
mod runtimes;
mod said;
mod settings;
pub mod shim;
mod shim_api;
mod stages;
mod store;
mod sys;
mod usage;
mod users;
pub mod watchdog;
mod working_dir;

pub use client::HostClient;
pub use client::disk_watch::DISK_PROBLEM;
pub use client::lines::TARGET as TASK_LINES;
pub use clock::boot_now;
pub use gpu::{FixedGpu, GpuError, GpuLocks, GpuSource, detect_gpus, lock_gpus};
pub use host::{
    AttemptLabels, AttemptStage, AttemptStatus, ContainersFuture, Executing, Execution, Host, HostError,
    HostEvent, HostHealth, LastOutput, LastOutputFuture, Launch, LocalUser, LogChunk, LogError, LogFuture,
    LogStream, Preparation, RunningAttempt, Said, Sandbox, SmallFile, StopReason,
};
pub use limits::RESULT_TAIL_BYTES;
pub use observer::{Artifact, Observer, PullEnd, Rule};
pub use progress::{FILE as PROGRESS_FILE, Progress, read as read_progress};
pub use runtimes::docker::credentials::{Credentials, CredentialsError};
pub use said::result_line;
pub use settings::{
    Bounds, ConfineOptions, CrunOptions, DiskLimits, DockerOptions, HostOptions, KeepEnded, MountRules,
    OutputLimits, ProcessOptions,
};
pub use shim_api::request::Pull;
pub use stages::holes::HoleReader;
pub use store::{ImageConfig, ImageFiles, Store, StoreError, StoreFuture};
pub use sys::spawn::WRITABLE as WRITABLE_FOLDERS;
pub use sys::{Allocator, MiMalloc, as_before as open_files_as_before, raise_open_files};
