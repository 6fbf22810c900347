//! The node's side: an execution host that talks to the watchdog of this machine.

mod adopt;
mod attempt;
mod devices;
pub mod disk_use;
pub mod disk_watch;
mod health;
mod housekeeping;
mod keep_logs;
mod keeping;
pub mod lines;
mod link;
mod staging;
pub mod state;
mod turns;

use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stint_protocol::limits::clip;
use stint_protocol::{AttemptEnd, BootMs, KeptFile, LeaseId, QuarantinedGpu};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::clock::boot_now;
use crate::host::{
    AttemptStage, AttemptStatus, ContainersFuture, Executing, Execution, Host, HostError, HostEvent,
    HostHealth, LastOutput, LastOutputFuture, Launch, LogChunk, LogError, LogFuture, LogStream,
    RunningAttempt, Said, StopReason,
};
use crate::refusal::Refusal;
use crate::runtimes::mock::{self, ToMock};
use crate::said;
use crate::settings::HostOptions;
use crate::shim_api::layout::Layout;
use crate::shim_api::wire::ToShim;
use crate::stages::mask::Masks;
use crate::stages::{self, StageRecord, Staged};
use crate::watchdog::AttemptTimes;
use crate::{limits, logs, progress};

use attempt::AttemptState;
use state::ClientState;

/// The real execution host. Clones are handles on the same one; when the last goes, the connection goes, and attempts
/// run on until their leases end.
#[derive(Clone)]
pub struct HostClient {
    shared: Arc<ClientState>,
    mock: mpsc::UnboundedSender<ToMock>,
    tasks: Arc<Tasks>,
}

/// Tasks that end with the last handle.
struct Tasks(Vec<JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl HostClient {
    /// Finds or starts the watchdog and adopts what it holds: see `running`, `unacknowledged` and `health().accounted`.
    /// Events come through `events`; while it is full they wait in the watchdog, and nothing else does.
    pub async fn open(settings: HostOptions, events: mpsc::Sender<HostEvent>) -> Result<Self, HostError> {
        let layout =
            Layout::new(&std::path::absolute(&settings.data_dir).unwrap_or(settings.data_dir.clone()));
        for folder in layout.folders() {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(|source| HostError::Folder { path: folder, source })?;
        }
        let (finisher, finishing) = mpsc::unbounded_channel();
        let shared = Arc::new(ClientState::new(settings, layout, events, finisher));
        let connection = link::connect(&shared).await?;
        let accounted = connection.hello.accounted && !shared.layout.mock_mark().exists();
        let _ = std::fs::remove_file(shared.layout.mock_mark());
        shared.adopt(&connection.hello, accounted);
        for runtime in shared.runtimes.values() {
            runtime.look(shared.holds()).await;
        }
        let (mock, inbox) = mpsc::unbounded_channel();
        let mut all = vec![
            tokio::spawn(link::keep(shared.clone(), connection)),
            tokio::spawn(mock::run(shared.publisher(), inbox)),
            tokio::spawn(housekeeping::run(shared.clone())),
            tokio::spawn(devices::watch(shared.clone())),
            tokio::spawn(disk_watch::run(shared.clone())),
            tokio::spawn(disk_use::run(shared.clone())),
            tokio::spawn(staging::finish_all(shared.clone(), finishing)),
            tokio::spawn(staging::hold_images(shared.clone())),
        ];
        let (publisher, holds) = (shared.publisher(), shared.holds());
        let beside =
            shared.runtimes.values().flat_map(|runtime| runtime.background_futures(&publisher, &holds));
        all.extend(beside.map(tokio::spawn));
        Ok(Self { shared, mock, tasks: Arc::new(Tasks(all)) })
    }

    /// Lets go of the watchdog. `kill`: stops every attempt first (as drained) and waits until all have ended; the
    /// watchdog then leaves. Otherwise attempts go on until their leases end, and the next node adopts them.
    pub async fn shutdown(self, kill: bool) {
        const PATIENCE: Duration = Duration::from_secs(60);
        let began = Instant::now();
        if kill {
            for running in self.running() {
                self.stop(running.lease, StopReason::Drained);
            }
            while !self.shared.lock().running.is_empty() && began.elapsed() < PATIENCE {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            self.shared.send(ToShim::Leave);
        }
        self.shared.lock().closing = true;
        let flushed = || self.shared.lock().is_flushed();
        while !flushed() && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.tasks.0.iter().for_each(JoinHandle::abort);
        while !self.tasks.0.iter().all(JoinHandle::is_finished) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends an attempt that cannot be executed at all.
    fn refuse(&self, lease: LeaseId, refusal: Refusal) {
        let end = AttemptEnd::new(lease, refusal.kind, clip(refusal.message), 0);
        let _ = self.mock.send(ToMock::Publish(end));
    }

    /// Has the watchdog start an attempt.
    fn send_request(&self, launch: &Launch, staged: &Staged) {
        let request = self.shared.enabled(launch.runtime);
        let request = request.and_then(|runtime| runtime.request(launch, staged, self.shared.permits()));
        match request {
            Ok(request) => self.shared.send(ToShim::Start(Box::new(request))),
            Err(refusal) => {
                self.shared.is_local(launch.lease);
                self.refuse(launch.lease, refusal);
            }
        }
    }

    /// Where an attempt is that was just launched.
    fn first_stage(&self, launch: &Launch) -> AttemptStage {
        let executing =
            self.shared.enabled(launch.runtime).map_or(Executing::Node, |runtime| runtime.executing());
        match executing {
            Executing::Watchdog if self.must_prepare(launch) => {
                AttemptStage::Preparing(staging::first(launch))
            }
            Executing::Watchdog => AttemptStage::Outbox,
            here => AttemptStage::With(here, Execution::Starting),
        }
    }

    /// Whether something is to be done, or to be waited for, before the watchdog gets it.
    fn must_prepare(&self, launch: &Launch) -> bool {
        let shared = &self.shared;
        staging::must_wait(launch)
            || devices::must_look(shared, launch)
            || shared.turns.are_of(launch.runtime)
    }

    fn start_mock(&self, launch: Launch) {
        if let Err(e) = self.shared.mark_mock() {
            let refusal = Refusal::start_failed(format!("marking the use of the mock runtime: {e}"));
            return self.refuse(launch.lease, refusal);
        }
        let limits = AttemptTimes {
            deadline: launch.deadline,
            grace_ms: launch.spec.stop_grace_ms,
            kill_margin_ms: self.shared.settings.kill_margin_ms,
            run_timeout_ms: launch.spec.timeout_ms,
            started_at: boot_now(),
        };
        let command = launch.spec.command.clone();
        let _ = self.mock.send(ToMock::Start { lease: launch.lease, command, limits });
    }
}

impl Host for HostClient {
    fn start(&self, launch: Launch) {
        let stage = self.first_stage(&launch);
        if !self.shared.begin(&launch, stage) {
            return;
        }
        lines::leased(&launch);
        if self.shared.needs_disk(launch.runtime) {
            self.shared.disk.look();
        }
        let usable = self.shared.usable(launch.runtime).map(|_| ());
        match (usable.and_then(|()| self.shared.takes(&launch.tenant)), stage) {
            (Err(refusal), _) => self.refuse(launch.lease, refusal),
            (Ok(()), AttemptStage::With(..)) => self.start_mock(launch),
            (Ok(()), AttemptStage::Preparing(_)) => drop(tokio::spawn(staging::start(self.clone(), launch))),
            (Ok(()), _) => self.send_request(&launch, &Staged::default()),
        }
    }

    fn renew(&self, renewals: Vec<(LeaseId, BootMs)>) {
        for (lease, deadline) in self.shared.renew(renewals) {
            let _ = self.mock.send(ToMock::Renew(lease, deadline));
        }
    }

    fn stop(&self, lease: LeaseId, reason: StopReason) {
        self.shared.log_stop(lease, reason);
        match self.shared.ask_to_stop(lease, reason) {
            // Whoever prepares it finds the reason.
            Some(AttemptStage::Preparing(_)) => {}
            Some(AttemptStage::With(Executing::Node, _)) => drop(self.mock.send(ToMock::Stop(lease, reason))),
            Some(_) => self.shared.send(ToShim::Stop(lease, reason)),
            None => {}
        }
    }

    fn acknowledge(&self, leases: Vec<LeaseId>) {
        self.shared.acknowledge(&leases);
    }

    fn running(&self) -> Vec<RunningAttempt> {
        let state = self.shared.lock();
        let running = |(lease, attempt): (&LeaseId, &AttemptState)| RunningAttempt {
            lease: *lease,
            started: attempt.stage.has_started(),
            stopping: attempt.is_stopping(),
            deadline: attempt.deadline,
        };
        state.running.iter().map(running).collect()
    }

    fn attempts(&self) -> Vec<AttemptStatus> {
        self.shared.lock().attempts()
    }

    fn unacknowledged(&self) -> Vec<AttemptEnd> {
        self.shared.lock().ended.values().cloned().collect()
    }

    fn read_log(&self, lease: LeaseId, stream: LogStream, offset: u64, max: usize) -> LogFuture {
        let shared = self.shared.clone();
        Box::pin(async move {
            let read = move || read_log(&shared, lease, stream, offset, max);
            let crashed = |e| Err(LogError::Read { lease, source: std::io::Error::other(e) });
            tokio::task::spawn_blocking(read).await.unwrap_or_else(crashed)
        })
    }

    fn log_tail(&self, lease: LeaseId, stream: LogStream, max: usize) -> LogFuture {
        let shared = self.shared.clone();
        Box::pin(async move {
            let read = move || log_tail(&shared, lease, stream, max);
            let crashed = |e| Err(LogError::Read { lease, source: std::io::Error::other(e) });
            tokio::task::spawn_blocking(read).await.unwrap_or_else(crashed)
        })
    }

    fn progress(&self, lease: LeaseId) -> LogFuture {
        let shared = self.shared.clone();
        Box::pin(async move {
            let read = move || read_progress(&shared, lease);
            let crashed = |e| Err(LogError::Read { lease, source: std::io::Error::other(e) });
            tokio::task::spawn_blocking(read).await.unwrap_or_else(crashed)
        })
    }

    fn may_have_written(&self, lease: LeaseId) -> bool {
        !self.shared.lock().silent.contains(&lease)
    }

    fn last_output(&self, lease: LeaseId, max: usize) -> LastOutputFuture {
        let shared = self.shared.clone();
        Box::pin(async move {
            let read = move || last_output(&shared, lease, max);
            tokio::task::spawn_blocking(read).await.unwrap_or_default()
        })
    }

    fn read_output(&self, lease: LeaseId, path: &str, offset: u64, max: usize) -> LogFuture {
        let (shared, path) = (self.shared.clone(), path.to_owned());
        Box::pin(async move {
            let read = move || read_output(&shared, lease, &path, offset, max);
            let crashed = |e| Err(LogError::Read { lease, source: std::io::Error::other(e) });
            tokio::task::spawn_blocking(read).await.unwrap_or_else(crashed)
        })
    }

    fn quarantined(&self) -> Vec<QuarantinedGpu> {
        self.shared.lock().quarantine.values().cloned().collect()
    }

    fn containers(&self) -> ContainersFuture {
        let of_one = self.shared.runtimes.values().find_map(|runtime| runtime.containers());
        of_one.unwrap_or_else(|| Box::pin(async { None }))
    }

    fn health(&self) -> HostHealth {
        self.shared.health()
    }
}

/// Reads a piece of an attempt's output wherever it is at the moment.
fn read_log(
    shared: &ClientState,
    lease: LeaseId,
    stream: LogStream,
    offset: u64,
    max: usize,
) -> Result<LogChunk, LogError> {
    loop {
        // Whether it has ended is asked before the file is read: what it wrote until then is in the file.
        let (folder, ended) = shared.output_folder(lease);
        let path = folder.join(stream.as_str());
        let result = match shared.masks(lease) {
            Some(masks) => masks.read(&path, offset, max, ended),
            None => logs::read(&path, offset, max, ended),
        };
        if shared.output_folder(lease).0 != folder {
            // It moved while it was read. Its sandbox folder may be another attempt's by now, whose output must not be shown.
            continue;
        }
        let nothing = LogChunk { bytes: Vec::new(), next_offset: offset, complete: ended };
        return match result {
            Ok(chunk) => Ok(chunk),
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(LogError::Read { lease, source: e }),
            Err(_) if !ended || shared.left_nothing(lease) => Ok(nothing),
            Err(_) => Err(LogError::NotFound(lease)),
        };
    }
}

/// Reads the end of an attempt's output wherever it is at the moment.
fn log_tail(
    shared: &ClientState,
    lease: LeaseId,
    stream: LogStream,
    max: usize,
) -> Result<LogChunk, LogError> {
    let max = max.clamp(1, limits::LOG_CHUNK_BYTES);
    let path = shared.output_folder(lease).0.join(stream.as_str());
    let size = std::fs::metadata(path).map_or(0, |meta| meta.len());
    let mut tail = read_log(shared, lease, stream, size.saturating_sub(max as u64), max)?;
    while !tail.complete && tail.bytes.len() < max {
        let more = read_log(shared, lease, stream, tail.next_offset, max - tail.bytes.len())?;
        if more.bytes.is_empty() {
            break;
        }
        tail.bytes.extend_from_slice(&more.bytes);
        (tail.next_offset, tail.complete) = (more.next_offset, more.complete);
    }
    Ok(tail)
}

/// What an attempt said of its progress, as JSON, with its secrets hidden.
fn read_progress(shared: &ClientState, lease: LeaseId) -> Result<LogChunk, LogError> {
    let failed = |source| LogError::Read { lease, source };
    let (folder, ended) = shared.output_folder(lease);
    let said = progress::read(&folder, shared.masks(lease).as_ref()).map_err(failed)?;
    if shared.output_folder(lease).0 != folder {
        // It moved while it was read: what was found may be another attempt's.
        return Ok(LogChunk::default());
    }
    let text = match said {
        Some(progress) => serde_json::to_string(&progress).map_err(|e| failed(e.into()))?,
        None => String::new(),
    };
    Ok(LogChunk { next_offset: text.len() as u64, bytes: text.into_bytes(), complete: ended })
}

/// What an attempt wrote last, if its task does not keep that to its node.
fn last_output(shared: &ClientState, lease: LeaseId, max: usize) -> LastOutput {
    let record = StageRecord::of_attempt(&shared.layout, lease);
    if record.as_ref().is_some_and(|record| record.record == Some(false)) {
        return LastOutput::default();
    }
    let stdout = end_of_stdout(shared, lease);
    let said = match record.is_some_and(|record| record.secrets) {
        true => stages::said(&shared.layout, lease).unwrap_or_default(),
        false => {
            let end = stages::finished(&shared.layout, lease);
            let kept = end.and_then(|end| end.outputs).unwrap_or_default();
            said(shared, lease, &stdout, &kept, None)
        }
    };
    LastOutput {
        stdout: stdout.cut_to(max),
        stderr: log_tail(shared, lease, LogStream::Stderr, max).unwrap_or_default(),
        progress: read_progress(shared, lease).unwrap_or_default().bytes,
        said,
    }
}

/// As much of it as is looked at for what a program said.
fn end_of_stdout(shared: &ClientState, lease: LeaseId) -> LogChunk {
    log_tail(shared, lease, LogStream::Stdout, limits::RESULT_TAIL_BYTES).unwrap_or_default()
}

/// What the program of an attempt that has ended says its result is.
fn said(
    shared: &ClientState,
    lease: LeaseId,
    stdout: &LogChunk,
    kept: &[KeptFile],
    masks: Option<&Masks>,
) -> Said {
    let folder = shared.layout.attempt(lease);
    let (work, packed) = (folder.join("work"), folder.join(stages::PACKED));
    let read =
        |path: &str, most| stages::outputs::read(&work, &packed, path, 0, most).ok().map(|(bytes, _)| bytes);
    Said { result: said::find_result(stdout, masks), files: said::small_files(kept, masks, read) }
}

/// Notes it of an attempt with secrets, which nobody can hide later.
fn keep_said(shared: &ClientState, lease: LeaseId, kept: &[KeptFile], masks: &Masks) -> std::io::Result<()> {
    let said = said(shared, lease, &end_of_stdout(shared, lease), kept, Some(masks));
    stages::keep_said(&shared.layout, lease, &said)
}

/// Reads a piece of a file that an attempt left; only those that were kept as its outputs.
fn read_output(
    shared: &ClientState,
    lease: LeaseId,
    path: &str,
    offset: u64,
    max: usize,
) -> Result<LogChunk, LogError> {
    let end = stages::finished(&shared.layout, lease).ok_or(LogError::NotFound(lease))?;
    if !end.outputs.iter().flatten().any(|kept| kept.path == path) {
        return Err(LogError::NotFound(lease));
    }
    let folder = shared.layout.attempt(lease);
    let (work, packed) = (folder.join("work"), folder.join(stages::PACKED));
    let mut read = stages::outputs::read(&work, &packed, path, offset, max);
    if read.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        // The work folder went while it was looked into: what counts of it is beside it now.
        read = stages::outputs::read(&work, &packed, path, offset, max);
    }
    let (bytes, complete) = read.map_err(|source| LogError::Read { lease, source })?;
    let next_offset = offset + bytes.len() as u64;
    Ok(LogChunk { bytes, next_offset, complete })
}

/// Bounds how long a new connection may take until the watchdog has said what it holds.
const HELLO_TIMEOUT: Duration = Duration::from_millis(limits::SHIM_HUNG_MS);
