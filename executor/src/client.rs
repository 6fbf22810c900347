//! The node's side: an execution host that talks to the watchdog of this machine.

mod devices;
mod housekeeping;
mod link;
mod order;
pub mod state;

use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stint_protocol::limits::clip;
use stint_protocol::{AttemptEnd, BootMs, EndKind, LeaseId, QuarantinedGpu, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::clock::boot_now;
use crate::docker::watch;
use crate::host::{
    Held, Host, HostError, HostEvent, HostHealth, HostSettings, Launch, LogChunk, LogError, LogFuture,
    LogStream, StopReason,
};
use crate::layout::Layout;
use crate::mock::{self, ToMock};
use crate::watchdog::Limits;
use crate::wire::ToShim;
use crate::{limits, logs};

pub use order::Refusal;
use state::{Shared, Where};

/// The real execution host. Clones are handles on the same one; when the last goes, the connection goes, and attempts
/// run on until their leases end.
#[derive(Clone)]
pub struct HostClient {
    shared: Arc<Shared>,
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
    /// Finds or starts the watchdog and adopts what it holds: see `held`, `unacknowledged` and `health().accounted`.
    /// Events come through `events`; while it is full they wait in the watchdog, and nothing else does.
    pub async fn open(settings: HostSettings, events: mpsc::Sender<HostEvent>) -> Result<Self, HostError> {
        let layout =
            Layout::new(&std::path::absolute(&settings.data_dir).unwrap_or(settings.data_dir.clone()));
        for folder in layout.folders() {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(|source| HostError::Folder { path: folder, source })?;
        }
        let shared = Arc::new(Shared::new(settings, layout, events));
        let connection = link::connect(&shared).await?;
        let accounted = connection.hello.accounted && !shared.layout.mock_mark().exists();
        let _ = std::fs::remove_file(shared.layout.mock_mark());
        shared.adopt(&connection.hello, accounted);
        if shared.settings.runtimes.contains(&Runtime::Docker) {
            watch::look(&shared).await;
        }
        let (mock, inbox) = mpsc::unbounded_channel();
        let all = vec![
            tokio::spawn(watch::run(shared.clone())),
            tokio::spawn(link::keep(shared.clone(), connection)),
            tokio::spawn(mock::run(shared.clone(), inbox)),
            tokio::spawn(housekeeping::run(shared.clone())),
            tokio::spawn(devices::watch(shared.clone())),
        ];
        Ok(Self { shared, mock, tasks: Arc::new(Tasks(all)) })
    }

    /// Lets go of the watchdog. `kill`: stops every attempt first (as drained) and waits until all have ended; the
    /// watchdog then leaves. Otherwise attempts go on until their leases end, and the next node adopts them.
    pub async fn shutdown(self, kill: bool) {
        const PATIENCE: Duration = Duration::from_secs(60);
        let began = Instant::now();
        if kill {
            for held in self.held() {
                self.stop(held.lease, StopReason::Drained);
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
    fn refuse(&self, lease: LeaseId, kind: EndKind, message: String) {
        let end = AttemptEnd { lease, kind, message: clip(message), run_ms: 0 };
        let _ = self.mock.send(ToMock::Publish(end));
    }

    /// Has the watchdog start an attempt.
    fn send_order(&self, launch: &Launch) {
        match order::make(&self.shared, launch, None) {
            Ok(order) => self.shared.send(ToShim::Start(order)),
            Err((kind, message)) => {
                self.shared.stays_here(launch.lease);
                self.refuse(launch.lease, kind, message);
            }
        }
    }

    fn start_mock(&self, launch: Launch) {
        if let Err(e) = self.shared.mark_mock() {
            return self.refuse(
                launch.lease,
                EndKind::StartFailed,
                format!("marking the use of the mock runtime: {e}"),
            );
        }
        let limits = Limits {
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
        let lease = launch.lease;
        let place = match launch.runtime {
            Runtime::Mock => Where::Here,
            _ if devices::must_look(&self.shared, &launch) => Where::Waiting,
            Runtime::Process | Runtime::Crun | Runtime::Docker => Where::Queued,
            _ => Where::Here,
        };
        if !self.shared.begin(lease, launch.deadline, place) {
            return;
        }
        match self.shared.runtime_problem(launch.runtime) {
            Some(problem) => self.refuse(lease, EndKind::StartFailed, problem),
            None if launch.runtime == Runtime::Mock => self.start_mock(launch),
            None if place == Where::Waiting => {
                tokio::spawn(devices::start_when_free(self.clone(), launch));
            }
            None => self.send_order(&launch),
        }
    }

    fn renew(&self, renewals: Vec<(LeaseId, BootMs)>) {
        for (lease, deadline) in self.shared.renew(renewals) {
            let _ = self.mock.send(ToMock::Renew(lease, deadline));
        }
    }

    fn stop(&self, lease: LeaseId, reason: StopReason) {
        match self.shared.stopping(lease, reason) {
            // Whoever waits for its devices finds the reason.
            Some(Where::Waiting) => {}
            Some(Where::Here) => drop(self.mock.send(ToMock::Stop(lease, reason))),
            Some(_) => self.shared.send(ToShim::Stop(lease, reason)),
            None => {}
        }
    }

    fn acknowledge(&self, leases: Vec<LeaseId>) {
        self.shared.acknowledge(&leases);
    }

    fn held(&self) -> Vec<Held> {
        let state = self.shared.lock();
        let held = |(lease, entry): (&LeaseId, &state::Entry)| Held {
            lease: *lease,
            started: entry.started,
            stopping: entry.stopping,
            deadline: entry.deadline,
        };
        state.running.iter().map(held).collect()
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

    fn quarantined(&self) -> Vec<QuarantinedGpu> {
        self.shared.lock().quarantine.values().cloned().collect()
    }

    fn health(&self) -> HostHealth {
        self.shared.health()
    }
}

/// Reads a piece of an attempt's output wherever it is at the moment.
fn read_log(
    shared: &Shared,
    lease: LeaseId,
    stream: LogStream,
    offset: u64,
    max: usize,
) -> Result<LogChunk, LogError> {
    loop {
        // Whether it has ended is asked before the file is read: what it wrote until then is in the file.
        let (folder, ended) = shared.output_folder(lease);
        let result = logs::read(&folder.join(stream.as_str()), offset, max, ended);
        if shared.output_folder(lease).0 != folder {
            // It moved while it was read. Its home may be another attempt's by now, whose output must not be shown.
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

/// Bounds how long a new connection may take until the watchdog has said what it holds.
const HELLO_TIMEOUT: Duration = Duration::from_millis(limits::SHIM_HUNG_MS);
