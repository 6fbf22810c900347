//! The controller as an execution host: what Slurm runs is done here, everything else by the local host.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use stint_executor::{
    AttemptStage, AttemptStatus, ContainersFuture, Executing, Execution, Host, HostEvent, HostHealth,
    LastOutput, LastOutputFuture, Launch, LogChunk, LogError, LogFuture, LogStream, Progress,
    RESULT_TAIL_BYTES, RunningAttempt, Said, StopReason, result_line,
};
use stint_protocol::{Allowance, AttemptEnd, BootMs, LeaseId, Network, QuarantinedGpu, Runtime};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use crate::controller::{ActionResult, JobAction, JobController, Timing};
use crate::doors::{BoxFuture, JobDir, JobRecord, Slurm, SubmitError};
use crate::limits;

/// What a bridge stands on.
#[derive(Clone)]
pub struct Doors {
    pub slurm: Arc<dyn Slurm>,
    pub job_dir: Arc<dyn JobDir>,
    /// The clock of leases.
    pub now: Arc<dyn Fn() -> BootMs + Send + Sync>,
    pub timing: Timing,
}

/// A local host and a Slurm cluster as one host; a copy is the same one.
#[derive(Clone)]
pub struct Bridge(Arc<Inner>);

struct Inner {
    local: Arc<dyn Host>,
    doors: Doors,
    controller: Mutex<JobController>,
    /// Something is to be done.
    bell: Notify,
    /// Bounds the calls to Slurm under way.
    calls: Semaphore,
    events: mpsc::Sender<HostEvent>,
}

impl Bridge {
    /// With the records that lay in the job folder. [`Bridge::run`] does the work.
    pub fn new(
        local: Arc<dyn Host>,
        doors: Doors,
        records: Vec<JobRecord>,
        events: mpsc::Sender<HostEvent>,
    ) -> Self {
        let controller = Mutex::new(JobController::open(doors.timing, records, (doors.now)()));
        let calls = Semaphore::new(limits::CALLS);
        Self(Arc::new(Inner { local, doors, controller, bell: Notify::new(), calls, events }))
    }

    /// Does what is due until it is dropped.
    pub async fn run(self) {
        loop {
            let (work, wake, events) = {
                let mut controller = self.controller();
                let (work, wake) = controller.work(self.now());
                (work, wake, controller.events())
            };
            for event in events {
                // A node that does not listen looks at `running` and `unacknowledged` instead.
                let _ = self.0.events.try_send(event);
            }
            for work in work {
                tokio::spawn(self.clone().perform(work));
            }
            let pause = wake.map(|at| Duration::from_millis(at.since(self.now())));
            tokio::select! {
                () = self.0.bell.notified() => {}
                () = sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        }
    }

    fn now(&self) -> BootMs {
        (self.0.doors.now)()
    }

    fn controller(&self) -> MutexGuard<'_, JobController> {
        self.0.controller.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn with_controller(&self, what: impl FnOnce(&mut JobController, BootMs)) {
        let now = self.now();
        what(&mut self.controller(), now);
        self.0.bell.notify_one();
    }

    async fn perform(self, work: JobAction) {
        let Doors { slurm, job_dir, .. } = &self.0.doors;
        let done = match work {
            JobAction::Prepare(launch) => {
                ActionResult::Prepared(launch.lease, self.files(job_dir.prepare(&launch)).await)
            }
            JobAction::Store(record) => {
                let (lease, revision) = (record.lease, record.revision);
                ActionResult::Stored(lease, revision, self.files(job_dir.store(record)).await)
            }
            JobAction::Submit(launch) => {
                let lease = launch.lease;
                // The time for an answer begins with its turn: given up while it waited, it would count as sent
                // and be looked for in Slurm's lists, which it never reached.
                let _turn = self.0.calls.acquire().await;
                let late = || Err(SubmitError::Unknown("sbatch did not answer".into()));
                ActionResult::Submitted(
                    lease,
                    timeout(self.call_time(), slurm.submit(&launch)).await.unwrap_or_else(|_| late()),
                )
            }
            JobAction::List => ActionResult::Listed(self.call(slurm.jobs()).await),
            JobAction::Cancel(lease, job) => {
                ActionResult::Cancelled(lease, job, self.call(slurm.cancel(lease, job)).await)
            }
            JobAction::ReadReport(lease) => {
                ActionResult::ReportRead(lease, self.files(job_dir.read_report(lease)).await)
            }
            JobAction::Grant(lease, grant) => {
                ActionResult::Granted(lease, self.files(job_dir.grant(lease, grant)).await)
            }
            JobAction::Forget(lease) => {
                if let Err(why) = self.files(job_dir.forget(lease)).await {
                    tracing::warn!(%lease, why, "the folder of an ended attempt could not be marked");
                }
                return;
            }
        };
        self.with_controller(|controller, now| controller.done(done, now));
    }

    async fn call<T>(&self, call: BoxFuture<Result<T, String>>) -> Result<T, String> {
        let _turn = self.0.calls.acquire().await;
        timeout(self.call_time(), call).await.unwrap_or_else(|_| Err("Slurm did not answer".into()))
    }

    fn call_time(&self) -> Duration {
        Duration::from_millis(self.0.doors.timing.call_ms)
    }

    /// A shared file system may hang.
    async fn files<T>(&self, work: BoxFuture<Result<T, String>>) -> Result<T, String> {
        let late = || Err("the folder that is shared with Slurm's nodes does not answer".to_owned());
        timeout(self.files_time(), work).await.unwrap_or_else(|_| late())
    }

    fn files_time(&self) -> Duration {
        Duration::from_millis(self.0.doors.timing.files_ms)
    }

    /// Output of an attempt from where it ran. What is not known to be a job's is looked for here first: the shared folder
    /// may hang.
    async fn output_of(
        &self,
        lease: LeaseId,
        local: LogFuture,
        job: BoxFuture<Result<LogChunk, LogError>>,
    ) -> Result<LogChunk, LogError> {
        if !self.knows(lease) {
            match local.await {
                Err(LogError::NotFound(_)) => {}
                output => return output,
            }
        }
        let runs = self.controller().holds(lease);
        match self.output(lease, job).await {
            // Its program did not begin yet.
            Err(LogError::NotFound(_)) if runs => Ok(LogChunk::default()),
            Ok(chunk) => Ok(LogChunk { complete: chunk.complete && !runs, ..chunk }),
            failed => failed,
        }
    }

    async fn output(
        &self,
        lease: LeaseId,
        read: BoxFuture<Result<LogChunk, LogError>>,
    ) -> Result<LogChunk, LogError> {
        let late = || Err(LogError::Read { lease, source: io::ErrorKind::TimedOut.into() });
        timeout(self.files_time(), read).await.unwrap_or_else(|_| late())
    }

    /// Whether an attempt is or was handed to Slurm here.
    pub fn knows(&self, lease: LeaseId) -> bool {
        self.controller().knows(lease)
    }

    /// How Slurm does: usable, or why not.
    fn state(&self) -> Result<(), String> {
        self.controller().problem().map_or(Ok(()), |why| Err(format!("Slurm does not answer: {why}")))
    }

    /// For the controller, and for the local host.
    fn split<T>(&self, all: Vec<T>, lease: impl Fn(&T) -> LeaseId) -> (Vec<T>, Vec<T>) {
        let controller = self.controller();
        all.into_iter().partition(|one| controller.knows(lease(one)))
    }
}

impl Host for Bridge {
    fn start(&self, launch: Launch) {
        match launch.runtime {
            Runtime::Slurm => self.with_controller(|controller, now| controller.start(launch, now)),
            _ => self.0.local.start(launch),
        }
    }

    fn renew(&self, renewals: Vec<(LeaseId, BootMs)>) {
        let (own, local) = self.split(renewals, |(lease, _)| *lease);
        if !own.is_empty() {
            self.with_controller(|controller, _| controller.renew(&own));
        }
        self.0.local.renew(local);
    }

    fn stop(&self, lease: LeaseId, reason: StopReason) {
        if self.knows(lease) {
            self.with_controller(|controller, _| controller.stop(lease, reason));
        } else {
            self.0.local.stop(lease, reason);
        }
    }

    fn acknowledge(&self, leases: Vec<LeaseId>) {
        let (own, local) = self.split(leases, |lease| *lease);
        if !own.is_empty() {
            self.with_controller(|controller, _| controller.acknowledge(&own));
        }
        self.0.local.acknowledge(local);
    }

    fn running(&self) -> Vec<RunningAttempt> {
        let mut running = self.0.local.running();
        running.extend(self.controller().running());
        running
    }

    fn attempts(&self) -> Vec<AttemptStatus> {
        let mut attempts = self.0.local.attempts();
        let controller = self.controller();
        attempts.extend(controller.running().iter().map(in_slurm));
        attempts.extend(controller.unacknowledged().iter().map(|end| AttemptStatus::ended(end.lease)));
        attempts
    }

    fn unacknowledged(&self) -> Vec<AttemptEnd> {
        let mut ends = self.0.local.unacknowledged();
        ends.extend(self.controller().unacknowledged());
        ends
    }

    fn read_log(&self, lease: LeaseId, stream: LogStream, offset: u64, max: usize) -> LogFuture {
        let bridge = self.clone();
        let local = self.0.local.read_log(lease, stream, offset, max);
        let job = self.0.doors.job_dir.read_log(lease, stream, offset, max);
        Box::pin(async move { bridge.output_of(lease, local, job).await })
    }

    fn log_tail(&self, lease: LeaseId, stream: LogStream, max: usize) -> LogFuture {
        let bridge = self.clone();
        let local = self.0.local.log_tail(lease, stream, max);
        let job = self.0.doors.job_dir.log_tail(lease, stream, max);
        Box::pin(async move { bridge.output_of(lease, local, job).await })
    }

    fn progress(&self, lease: LeaseId) -> LogFuture {
        let bridge = self.clone();
        Box::pin(async move {
            if !bridge.knows(lease) {
                return bridge.0.local.progress(lease).await;
            }
            let said = bridge.output(lease, bridge.0.doors.job_dir.progress(lease)).await;
            // Before its program says anything, what its job waits for.
            let waits = bridge.controller().waiting_reason(lease).map(str::to_owned);
            match (said, waits) {
                (Ok(chunk), Some(message)) if chunk.bytes.is_empty() => {
                    Ok(Progress { message: Some(message), ..Progress::default() }.to_chunk())
                }
                (said, _) => said,
            }
        })
    }

    fn may_have_written(&self, lease: LeaseId) -> bool {
        self.knows(lease) || self.0.local.may_have_written(lease)
    }

    fn last_output(&self, lease: LeaseId, max: usize) -> LastOutputFuture {
        if !self.knows(lease) {
            return self.0.local.last_output(lease, max);
        }
        let stdout = self.log_tail(lease, LogStream::Stdout, RESULT_TAIL_BYTES);
        let stderr = self.log_tail(lease, LogStream::Stderr, max);
        let progress = self.progress(lease);
        Box::pin(async move {
            let (stdout, stderr) = (stdout.await.unwrap_or_default(), stderr.await.unwrap_or_default());
            // Tasks of Slurm have neither secrets nor outputs.
            let said = Said { result: result_line(&stdout), ..Said::default() };
            let (stdout, progress) = (stdout.cut_to(max), progress.await.unwrap_or_default().bytes);
            LastOutput { stdout, stderr, progress, said }
        })
    }

    fn read_output(&self, lease: LeaseId, path: &str, offset: u64, max: usize) -> LogFuture {
        self.0.local.read_output(lease, path, offset, max)
    }

    fn quarantined(&self) -> Vec<QuarantinedGpu> {
        self.0.local.quarantined()
    }

    fn containers(&self) -> ContainersFuture {
        self.0.local.containers()
    }

    fn health(&self) -> HostHealth {
        let mut health = self.0.local.health();
        health.runtimes.insert(Runtime::Slurm, self.state());
        health.allows.retain(|allows| allows.runtime != Runtime::Slurm);
        health.allows.push(allowance());
        health
    }
}

/// Where an attempt is that Slurm has, or is to get.
fn in_slurm(running: &RunningAttempt) -> AttemptStatus {
    let execution = match (running.stopping, running.started) {
        (true, started) => Execution::Stopping { started },
        (false, true) => Execution::Running,
        (false, false) => Execution::Starting,
    };
    let stage = AttemptStage::With(Executing::Slurm, execution);
    AttemptStatus { lease: running.lease, stage, stop: None, deadline: Some(running.deadline), labels: None }
}

/// What tasks may ask of Slurm beside what every task may: where they begin.
fn allowance() -> Allowance {
    Allowance {
        runtime: Runtime::Slurm,
        networks: vec![Network::Host],
        pids: 0,
        tmp_bytes: 0,
        shm_bytes: 0,
        swap_bytes: 0,
        mounts: None,
    }
}
