//! The doors as one process of a peer has them.

use std::time::Duration;

use stint_executor::{Launch, LogChunk, LogError, LogStream};
use stint_protocol::LeaseId;
use stint_slurm_bridge::controller::Timing;
use stint_slurm_bridge::doors::{
    BoxFuture, JobCommand, JobDir, JobId, JobRecord, JobReport, ListedJob, Slurm, SubmitError, TimeGrant,
};
use stint_slurm_bridge::limits;
use stint_slurm_bridge::state::JobState;
use tokio::time::sleep;

use super::{CALL_MS, Inner, Job, SlurmWorld};
use crate::host::output;

/// Everything faster than in truth, as leases are.
pub fn timing(kill_margin_ms: u64) -> Timing {
    Timing {
        list_ms: 700,
        look_ms: 120,
        kill_margin_ms,
        guard_ms: GUARD_MS,
        settle_ms: 1_000,
        stale_ms: 6_500,
        call_ms: 3_000,
        files_ms: 1_500,
    }
}

/// Kept at the end of what a job is given, for its guard to end it, in milliseconds.
pub const GUARD_MS: u64 = 400;

/// How long what hangs does, in milliseconds: longer than anybody waits.
const HANGS_MS: u64 = 60_000;

/// Slurm and the shared folder, as node `node` of boot `boot` reaches them.
#[derive(Clone)]
pub struct Doors {
    pub world: SlurmWorld,
    pub node: u64,
    pub boot: u64,
}

impl Doors {
    /// What an earlier process of the node left; false: not all of it can be accounted for.
    pub fn open(&self) -> (Vec<JobRecord>, bool) {
        let inner = self.world.inner();
        let own = inner.folders.values().filter(|folder| folder.node == self.node && !folder.done);
        let (mut records, mut accounted) = (Vec::new(), true);
        for (boot, record) in own.filter_map(|folder| folder.record.as_ref()) {
            match *boot == self.boot || record.end.is_some() {
                true => records.push(record.clone()),
                false => accounted = false,
            }
        }
        (records, accounted)
    }

    fn call_ms(inner: &mut Inner) -> u64 {
        let range = inner.trouble.slow_ms.unwrap_or(CALL_MS);
        inner.rng.within(range)
    }

    /// Waits as long as a command takes, then asks the controller.
    fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Inner) -> T + Send + 'static,
    ) -> BoxFuture<Result<T, String>> {
        let world = self.world.clone();
        Box::pin(async move {
            let call_ms = Self::call_ms(&mut world.inner());
            sleep(Duration::from_millis(call_ms)).await;
            let mut inner = world.inner();
            if inner.trouble.down {
                return Err("Unable to contact slurm controller".into());
            }
            Ok(what(&mut inner))
        })
    }

    fn files<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Inner) -> T + Send + 'static,
    ) -> BoxFuture<Result<T, String>> {
        let world = self.world.clone();
        Box::pin(async move {
            let (away, hangs) = {
                let mut inner = world.inner();
                (inner.trouble.folder_away, inner.rng.one_in(2))
            };
            if away && hangs {
                sleep(Duration::from_millis(HANGS_MS)).await;
            }
            if away {
                return Err("Stale file handle".into());
            }
            Ok(what(&mut world.inner()))
        })
    }
}

impl Slurm for Doors {
    fn submit(&self, launch: &Launch) -> BoxFuture<Result<JobId, SubmitError>> {
        let (doors, launch) = (self.clone(), launch.clone());
        Box::pin(async move {
            let (job, lost, call_ms, down) = {
                let mut inner = doors.world.inner();
                let call_ms = Self::call_ms(&mut inner);
                let job = inner.next_job();
                let now = inner.time.ms();
                let shown = JobState::Waiting;
                let new = Job { node: doors.node, launch, shown, since_ms: now, begins_ms: now };
                // Once it is on its way it arrives, whatever becomes of who sent it.
                let at = now + inner.rng.between(0, call_ms);
                let down = inner.trouble.down;
                if !down || inner.rng.one_in(4) {
                    inner.arriving.push((at, job, new));
                }
                let lost = inner.trouble.loses_answers && inner.rng.one_in(2);
                (job, lost, call_ms, down)
            };
            sleep(Duration::from_millis(call_ms)).await;
            if lost || down || doors.world.inner().trouble.down {
                return Err(SubmitError::Unknown("Socket timed out on send/recv operation".into()));
            }
            Ok(job)
        })
    }

    fn jobs(&self) -> BoxFuture<Result<Vec<ListedJob>, String>> {
        let node = self.node;
        self.ask(move |inner| {
            if inner.trouble.empty {
                return Vec::new();
            }
            let own = inner.jobs.iter().filter(|(_, job)| job.node == node);
            let seen = own.map(|(id, job)| ListedJob {
                job: *id,
                lease: job.launch.lease,
                state: job.shown.clone(),
                message: format!("Slurm job {id}"),
            });
            seen.collect()
        })
    }

    fn cancel(&self, lease: LeaseId, job: JobId) -> BoxFuture<Result<(), String>> {
        self.ask(move |inner| {
            if inner.jobs.get(&job).is_none_or(|job| job.launch.lease != lease) {
                return;
            }
            let now = inner.time.ms();
            inner.cancel(job, now);
        })
    }
}

impl JobDir for Doors {
    fn prepare(&self, launch: &Launch) -> BoxFuture<Result<(), String>> {
        let (lease, node) = (launch.lease, self.node);
        self.files(move |inner| {
            let folder = inner.folders.entry(lease).or_default();
            // A later process of a node that never told of the end may be given the same attempt again.
            (folder.node, folder.given_up) = (node, false);
        })
    }

    fn store(&self, record: JobRecord) -> BoxFuture<Result<(), String>> {
        let boot = self.boot;
        self.files(move |inner| {
            let folder = inner.folders.entry(record.lease).or_default();
            let newer = folder.record.as_ref().is_none_or(|(_, known)| known.revision <= record.revision);
            if newer {
                folder.record = Some((boot, record));
            }
        })
    }

    fn read_report(&self, lease: LeaseId) -> BoxFuture<Result<JobReport, String>> {
        self.files(move |inner| {
            let now = inner.time.ms();
            let folder = inner.folders.entry(lease).or_default();
            JobReport { ask: folder.ask.read(now), exit: folder.exit.read(now) }
        })
    }

    fn grant(&self, lease: LeaseId, grant: TimeGrant) -> BoxFuture<Result<(), String>> {
        let node = self.node;
        self.files(move |inner| {
            let now = inner.time.ms();
            let at = inner.seen_at(now);
            let TimeGrant { number, left_ms, command: order, .. } = grant;
            inner
                .oracle
                .say(&format!("node {node} answers {number} of {lease} with {left_ms} ms, {order:?}"));
            let folder = inner.folders.entry(lease).or_default();
            if grant.revision >= folder.grant_revision {
                folder.grant_revision = grant.revision;
                folder.granted_ms.get_or_insert(now);
                if grant.command == JobCommand::Run {
                    // What its node counts with: a job is given less, for its clock.
                    let counted_ms = grant.left_ms * 100 / (100 - limits::CLOCK_DRIFT_PERCENT);
                    folder.granted_until_ms = folder.granted_until_ms.max(now + counted_ms);
                }
                folder.go.write(at, grant);
            }
        })
    }

    fn forget(&self, lease: LeaseId) -> BoxFuture<Result<(), String>> {
        self.files(move |inner| inner.folders.entry(lease).or_default().done = true)
    }

    fn read_log(
        &self,
        lease: LeaseId,
        _: LogStream,
        offset: u64,
        max: usize,
    ) -> BoxFuture<Result<LogChunk, LogError>> {
        let known = self.world.inner().folders.get(&lease).is_some_and(|folder| folder.node == self.node);
        Box::pin(async move {
            if !known {
                return Err(LogError::NotFound(lease));
            }
            let all = output(lease);
            let start = all.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
            let bytes = all[start..all.len().min(start.saturating_add(max))].to_vec();
            Ok(LogChunk { next_offset: (start + bytes.len()) as u64, bytes, complete: true })
        })
    }

    /// Simulated programs say nothing of it.
    fn progress(&self, _: LeaseId) -> BoxFuture<Result<LogChunk, LogError>> {
        Box::pin(async { Ok(LogChunk::default()) })
    }

    fn log_tail(
        &self,
        lease: LeaseId,
        stream: LogStream,
        max: usize,
    ) -> BoxFuture<Result<LogChunk, LogError>> {
        self.read_log(lease, stream, 0, max)
    }
}
