//! The desk as an execution host: what Slurm runs is done here, everything else by the local host.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use stint_executor::{
    AttemptStage, AttemptStatus, ContainersFuture, Executing, Execution, Held, Host, HostEvent, HostHealth,
    Launch, LogChunk, LogError, LogFuture, LogStream, Progress, StopReason,
};
use stint_protocol::{Allowance, AttemptEnd, BootMs, LeaseId, Network, QuarantinedGpu, Runtime};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use crate::desk::{Desk, Done, Timing, Work};
use crate::door::{Later, Record, Shelf, Slurm, SubmitError};
use crate::limits;

/// What a bridge stands on.
#[derive(Clone)]
pub struct Doors {
    pub slurm: Arc<dyn Slurm>,
    pub shelf: Arc<dyn Shelf>,
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
    desk: Mutex<Desk>,
    /// Something is to be done.
    bell: Notify,
    /// Bounds the calls to Slurm under way.
    calls: Semaphore,
    events: mpsc::Sender<HostEvent>,
}

impl Bridge {
    /// With the records that lay on the shelf. [`Bridge::run`] does the work.
    pub fn new(
        local: Arc<dyn Host>,
        doors: Doors,
        records: Vec<Record>,
        events: mpsc::Sender<HostEvent>,
    ) -> Self {
        let desk = Mutex::new(Desk::open(doors.timing, records, (doors.now)()));
        let calls = Semaphore::new(limits::CALLS);
        Self(Arc::new(Inner { local, doors, desk, bell: Notify::new(), calls, events }))
    }

    /// Does what is due until it is dropped.
    pub async fn run(self) {
        loop {
            let (work, wake, events) = {
                let mut desk = self.desk();
                let (work, wake) = desk.work(self.now());
                (work, wake, desk.events())
            };
            for event in events {
                // A node that does not listen looks at `held` and `unacknowledged` instead.
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

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.0.desk.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn tell(&self, what: impl FnOnce(&mut Desk, BootMs)) {
        let now = self.now();
        what(&mut self.desk(), now);
        self.0.bell.notify_one();
    }

    async fn perform(self, work: Work) {
        let Doors { slurm, shelf, .. } = &self.0.doors;
        let done = match work {
            Work::Prepare(launch) => Done::Prepared(launch.lease, self.files(shelf.prepare(&launch)).await),
            Work::Store(record) => {
                let (lease, revision) = (record.lease, record.revision);
                Done::Stored(lease, revision, self.files(shelf.store(record)).await)
            }
            Work::Submit(launch) => {
                let lease = launch.lease;
                // The time for an answer begins with its turn: given up while it waited, it would count as sent
                // and be looked for in Slurm's lists, which it never reached.
                let _turn = self.0.calls.acquire().await;
                let late = || Err(SubmitError::Unknown("sbatch did not answer".into()));
                Done::Submitted(
                    lease,
                    timeout(self.call_time(), slurm.submit(&launch)).await.unwrap_or_else(|_| late()),
                )
            }
            Work::List => Done::Listed(self.call(slurm.jobs()).await),
            Work::Cancel(lease, job) => {
                Done::Cancelled(lease, job, self.call(slurm.cancel(lease, job)).await)
            }
            Work::Look(lease) => Done::Looked(lease, self.files(shelf.look(lease)).await),
            Work::Grant(lease, grant) => Done::Granted(lease, self.files(shelf.grant(lease, grant)).await),
            Work::Forget(lease) => {
                if let Err(why) = self.files(shelf.forget(lease)).await {
                    tracing::warn!(%lease, why, "the folder of an ended attempt could not be marked");
                }
                return;
            }
        };
        self.tell(|desk, now| desk.done(done, now));
    }

    async fn call<T>(&self, call: Later<Result<T, String>>) -> Result<T, String> {
        let _turn = self.0.calls.acquire().await;
        timeout(self.call_time(), call).await.unwrap_or_else(|_| Err("Slurm did not answer".into()))
    }

    fn call_time(&self) -> Duration {
        Duration::from_millis(self.0.doors.timing.call_ms)
    }

    /// A shared file system may hang.
    async fn files<T>(&self, work: Later<Result<T, String>>) -> Result<T, String> {
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
        job: Later<Result<LogChunk, LogError>>,
    ) -> Result<LogChunk, LogError> {
        if !self.knows(lease) {
            match local.await {
                Err(LogError::NotFound(_)) => {}
                told => return told,
            }
        }
        let runs = self.desk().holds(lease);
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
        read: Later<Result<LogChunk, LogError>>,
    ) -> Result<LogChunk, LogError> {
        let late = || Err(LogError::Read { lease, source: io::ErrorKind::TimedOut.into() });
        timeout(self.files_time(), read).await.unwrap_or_else(|_| late())
    }

    /// Whether an attempt is or was handed to Slurm here.
    pub fn knows(&self, lease: LeaseId) -> bool {
        self.desk().knows(lease)
    }

    /// How Slurm does: usable, or why not.
    fn state(&self) -> Result<(), String> {
        self.desk().trouble().map_or(Ok(()), |why| Err(format!("Slurm does not answer: {why}")))
    }

    /// For the desk, and for the local host.
    fn split<T>(&self, all: Vec<T>, lease: impl Fn(&T) -> LeaseId) -> (Vec<T>, Vec<T>) {
        let desk = self.desk();
        all.into_iter().partition(|one| desk.knows(lease(one)))
    }
}

impl Host for Bridge {
    fn start(&self, launch: Launch) {
        match launch.runtime {
            Runtime::Slurm => self.tell(|desk, now| desk.start(launch, now)),
            _ => self.0.local.start(launch),
        }
    }

    fn renew(&self, renewals: Vec<(LeaseId, BootMs)>) {
        let (own, local) = self.split(renewals, |(lease, _)| *lease);
        if !own.is_empty() {
            self.tell(|desk, _| desk.renew(&own));
        }
        self.0.local.renew(local);
    }

    fn stop(&self, lease: LeaseId, reason: StopReason) {
        if self.knows(lease) {
            self.tell(|desk, _| desk.stop(lease, reason));
        } else {
            self.0.local.stop(lease, reason);
        }
    }

    fn acknowledge(&self, leases: Vec<LeaseId>) {
        let (own, local) = self.split(leases, |lease| *lease);
        if !own.is_empty() {
            self.tell(|desk, _| desk.acknowledge(&own));
        }
        self.0.local.acknowledge(local);
    }

    fn held(&self) -> Vec<Held> {
        let mut held = self.0.local.held();
        held.extend(self.desk().held());
        held
    }

    fn attempts(&self) -> Vec<AttemptStatus> {
        let mut attempts = self.0.local.attempts();
        let desk = self.desk();
        attempts.extend(desk.held().iter().map(in_slurm));
        attempts.extend(desk.unacknowledged().iter().map(|end| AttemptStatus::ended(end.lease)));
        attempts
    }

    fn unacknowledged(&self) -> Vec<AttemptEnd> {
        let mut ends = self.0.local.unacknowledged();
        ends.extend(self.desk().unacknowledged());
        ends
    }

    fn read_log(&self, lease: LeaseId, stream: LogStream, offset: u64, max: usize) -> LogFuture {
        let bridge = self.clone();
        let local = self.0.local.read_log(lease, stream, offset, max);
        let job = self.0.doors.shelf.read_log(lease, stream, offset, max);
        Box::pin(async move { bridge.output_of(lease, local, job).await })
    }

    fn log_tail(&self, lease: LeaseId, stream: LogStream, max: usize) -> LogFuture {
        let bridge = self.clone();
        let local = self.0.local.log_tail(lease, stream, max);
        let job = self.0.doors.shelf.log_tail(lease, stream, max);
        Box::pin(async move { bridge.output_of(lease, local, job).await })
    }

    fn progress(&self, lease: LeaseId) -> LogFuture {
        let bridge = self.clone();
        Box::pin(async move {
            if !bridge.knows(lease) {
                return bridge.0.local.progress(lease).await;
            }
            let said = bridge.output(lease, bridge.0.doors.shelf.progress(lease)).await;
            // Before its program says anything, what its job waits for.
            let waits = bridge.desk().waits(lease).map(str::to_owned);
            match (said, waits) {
                (Ok(chunk), Some(words)) if chunk.bytes.is_empty() => {
                    Ok(Progress { message: Some(words), ..Progress::default() }.to_chunk())
                }
                (said, _) => said,
            }
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
fn in_slurm(held: &Held) -> AttemptStatus {
    let execution = match (held.stopping, held.started) {
        (true, started) => Execution::Stopping { started },
        (false, true) => Execution::Running,
        (false, false) => Execution::Starting,
    };
    let stage = AttemptStage::With(Executing::Slurm, execution);
    AttemptStatus { lease: held.lease, stage, stop: None, deadline: Some(held.deadline), labels: None }
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
