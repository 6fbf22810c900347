//! What the bridge does when. Pure: time, what was asked of it and what its doors answered are handed in; what is to be
//! done comes out. The host's loop and the simulator run the same code.

mod ends;
mod lists;
mod time;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use stint_executor::watchdog::{Action, AttemptTimes, Watchdog};
use stint_executor::{HostEvent, Launch, RunningAttempt, StopReason};
use stint_protocol::{AttemptEnd, BootMs, EndKind, LeaseId};

use crate::doors::{JobCommand, JobId, JobRecord, JobReport, ListedJob, SubmitError, TimeGrant};
use crate::job::{JobPhase, SlurmJob};
use crate::limits;
use crate::mutations::{Mutation, planted};

/// How often things are looked at, and what is kept for what takes time; in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two lists of all jobs.
    pub list_ms: u64,
    /// Between two looks at what a job wrote.
    pub look_ms: u64,
    /// Kept at the end of a lease for the watchdog of other runtimes: nothing is given beyond it.
    pub kill_margin_ms: u64,
    /// Kept at the end of what a job is given, for its guard to end it: it looks once a second.
    pub guard_ms: u64,
    /// How long after an unknown answer Slurm may make a job known.
    pub settle_ms: u64,
    /// How long what a job wrote may stay unseen here: file systems keep what they know of a folder for a while.
    pub stale_ms: u64,
    /// How long one call to Slurm may take.
    pub call_ms: u64,
    /// How long reading or writing an attempt's files may take: a shared file system may hang.
    pub files_ms: u64,
}

impl Default for Timing {
    /// Slurm's clients give up on a silent controller after `MessageTimeout` (10 s usually, up to 100 s) and try again
    /// within it; sites ask their users not to list jobs more often than some times a minute; NFS looks at a folder anew
    /// after a minute at the latest (`acdirmax`).
    fn default() -> Self {
        Self {
            list_ms: 10_000,
            look_ms: 1_000,
            kill_margin_ms: 500,
            guard_ms: 5_000,
            settle_ms: 10_000,
            stale_ms: 60_000,
            call_ms: 60_000,
            files_ms: 30_000,
        }
    }
}

impl Timing {
    /// How long a job of which nothing is known is looked for: until it must have arrived, and some lists more.
    fn orphan_search_ms(&self) -> u64 {
        self.call_ms + self.settle_ms + 3 * self.list_ms
    }
}

/// How long a restarted node waits for its leader before it gives up what never began, in milliseconds.
const RESTORE_MS: u64 = 300_000;

/// One thing to be done by the doors.
#[derive(Clone, Debug)]
pub enum JobAction {
    Prepare(Box<Launch>),
    Store(JobRecord),
    Submit(Box<Launch>),
    List,
    ReadReport(LeaseId),
    Grant(LeaseId, TimeGrant),
    Cancel(LeaseId, JobId),
    Forget(LeaseId),
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum ActionResult {
    Prepared(LeaseId, Result<(), String>),
    /// With the revision of the record.
    Stored(LeaseId, u64, Result<(), String>),
    Submitted(LeaseId, Result<JobId, SubmitError>),
    Listed(Result<Vec<ListedJob>, String>),
    ReportRead(LeaseId, Result<JobReport, String>),
    Granted(LeaseId, Result<(), String>),
    Cancelled(LeaseId, JobId, Result<(), String>),
}

/// A job with whose it is: a controller that crashed gives the number of a job that it lost to another one.
type OwnedJob = (LeaseId, JobId);

/// Everything of one node that Slurm has.
pub struct JobController {
    timing: Timing,
    watchdog: Watchdog,
    jobs: BTreeMap<LeaseId, SlurmJob>,
    ends: BTreeMap<LeaseId, AttemptEnd>,
    ended: BTreeSet<LeaseId>,
    /// Those whose end is recorded, in order: what is remembered of them is bounded.
    acknowledged: VecDeque<LeaseId>,
    /// Jobs that nobody accounts for; cancelled after each list that shows them.
    orphans: BTreeSet<OwnedJob>,
    /// Until when lists look for jobs that Slurm may have without anybody's knowing.
    orphan_search_until: BootMs,
    /// Jobs of ended attempts that are cancelled once their end is kept, as the record of that revision.
    to_leave: BTreeMap<LeaseId, (u64, JobId)>,
    to_cancel: BTreeSet<OwnedJob>,
    cancelling: BTreeSet<OwnedJob>,
    /// When the list under way was asked for.
    listing: Option<BootMs>,
    next_list_at: BootMs,
    problem: Option<String>,
    work: Vec<JobAction>,
    events: Vec<HostEvent>,
}

impl JobController {
    /// With what an earlier process of this node left in the job folder.
    pub fn open(timing: Timing, records: Vec<JobRecord>, now: BootMs) -> Self {
        let mut controller = Self {
            timing,
            watchdog: Watchdog::default(),
            jobs: BTreeMap::new(),
            ends: BTreeMap::new(),
            ended: BTreeSet::new(),
            acknowledged: VecDeque::new(),
            orphans: BTreeSet::new(),
            orphan_search_until: now.plus(timing.orphan_search_ms()),
            to_leave: BTreeMap::new(),
            to_cancel: BTreeSet::new(),
            cancelling: BTreeSet::new(),
            listing: None,
            next_list_at: now,
            problem: None,
            work: Vec::new(),
            events: Vec::new(),
        };
        records.into_iter().for_each(|record| controller.restore(record, now));
        controller
    }

    fn restore(&mut self, record: JobRecord, now: BootMs) {
        let lease = record.lease;
        if let Some(end) = &record.end {
            self.ended.insert(lease);
            self.ends.insert(lease, end.clone());
            return;
        }
        // Its lease is not known before the leader renews it; until then it is given no time. What may run ends with
        // what it was given, and what never began waits for the leader.
        let until = record.granted_until.unwrap_or(now.plus(RESTORE_MS + record.grace_ms));
        self.watchdog.start(lease, self.limits(&record, until.plus(self.reserve_ms())));
        let mut slurm_job = SlurmJob::new(None, record, now);
        slurm_job.phase = JobPhase::Handed { since: now };
        self.jobs.insert(lease, slurm_job);
    }

    /// Kept at the end of a lease: what is given ends before it.
    fn reserve_ms(&self) -> u64 {
        self.timing.kill_margin_ms + self.timing.guard_ms
    }

    fn limits(&self, record: &JobRecord, deadline: BootMs) -> AttemptTimes {
        AttemptTimes {
            deadline,
            grace_ms: record.grace_ms,
            kill_margin_ms: self.reserve_ms(),
            run_timeout_ms: record.timeout_ms,
            // Its run time counts from its first grant.
            started_at: record.began.unwrap_or(BootMs(u64::MAX / 4)),
        }
    }

    /// As `Host::start`.
    pub fn start(&mut self, launch: Launch, now: BootMs) {
        let lease = launch.lease;
        if self.knows(lease) {
            return;
        }
        let record = JobRecord {
            lease,
            job: None,
            grace_ms: launch.spec.stop_grace_ms,
            timeout_ms: launch.spec.timeout_ms,
            began: None,
            granted_until: None,
            end: None,
            revision: 0,
            killed: false,
        };
        self.watchdog.start(lease, self.limits(&record, launch.deadline));
        let launch = Box::new(launch);
        let mut slurm_job = SlurmJob::new(Some(launch.clone()), record, now);
        slurm_job.leased_until = Some(launch.deadline);
        self.jobs.insert(lease, slurm_job);
        self.work.push(JobAction::Prepare(launch));
    }

    /// Whether an attempt is or was here.
    pub fn knows(&self, lease: LeaseId) -> bool {
        self.jobs.contains_key(&lease) || self.ended.contains(&lease)
    }

    /// As `Host::renew`.
    pub fn renew(&mut self, renewals: &[(LeaseId, BootMs)]) {
        for (lease, deadline) in renewals {
            let Some(slurm_job) = self.jobs.get_mut(lease) else { continue };
            let waited = slurm_job.leased_until.is_none() && slurm_job.record.granted_until.is_none();
            if waited && planted(Mutation::GrantWhileWaiting) {
                slurm_job.leased_until = self.watchdog.deadline(*lease);
                continue;
            }
            slurm_job.leased_until = slurm_job.leased_until.max(Some(*deadline));
            if waited && self.watchdog.stopping(*lease).is_none() {
                // It was only waiting for its leader: from now on its lease counts.
                let record = slurm_job.record.clone();
                self.watchdog.exited(*lease);
                self.watchdog.start(*lease, self.limits(&record, *deadline));
            }
            self.watchdog.renew(*lease, *deadline);
        }
    }

    /// As `Host::stop`.
    pub fn stop(&mut self, lease: LeaseId, reason: StopReason) {
        self.watchdog.stop(lease, reason.into());
    }

    /// As `Host::acknowledge`.
    pub fn acknowledge(&mut self, leases: &[LeaseId]) {
        for lease in leases {
            if self.ends.remove(lease).is_some() {
                self.work.push(JobAction::Forget(*lease));
                self.acknowledged.push_back(*lease);
            }
        }
        while self.acknowledged.len() > limits::PAST {
            self.acknowledged.pop_front().iter().for_each(|lease| {
                self.ended.remove(lease);
            });
        }
    }

    /// As `Host::running`.
    pub fn running(&self) -> Vec<RunningAttempt> {
        let one = |(lease, slurm_job): (&LeaseId, &SlurmJob)| RunningAttempt {
            lease: *lease,
            started: slurm_job.record.began.is_some(),
            stopping: self.watchdog.stopping(*lease).is_some(),
            deadline: slurm_job.leased_until.or(slurm_job.record.granted_until).unwrap_or_default(),
        };
        self.jobs.iter().map(one).collect()
    }

    /// As `Host::unacknowledged`.
    pub fn unacknowledged(&self) -> Vec<AttemptEnd> {
        self.ends.values().cloned().collect()
    }

    /// Whether an attempt has not ended.
    pub fn holds(&self, lease: LeaseId) -> bool {
        self.jobs.contains_key(&lease)
    }

    /// Slurm's words for an attempt whose program has not begun.
    pub fn waiting_reason(&self, lease: LeaseId) -> Option<&str> {
        let slurm_job = self.jobs.get(&lease).filter(|slurm_job| slurm_job.record.began.is_none())?;
        Some(slurm_job.message.as_str()).filter(|message| !message.is_empty())
    }

    /// What Slurm said last instead of a list; none when it answers.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// What happened since the last call.
    pub fn events(&mut self) -> Vec<HostEvent> {
        std::mem::take(&mut self.events)
    }

    /// What is to be begun now, and when to ask again.
    pub fn work(&mut self, now: BootMs) -> (Vec<JobAction>, Option<BootMs>) {
        for action in self.watchdog.tick(now) {
            let (Action::Term(lease, _) | Action::Kill(lease, _)) = action;
            let order = if matches!(action, Action::Term(..)) { JobCommand::Term } else { JobCommand::Kill };
            self.send_command(lease, order, now);
        }
        let leases: Vec<LeaseId> = self.jobs.keys().copied().collect();
        for lease in leases {
            self.poll(lease, now);
            self.judge(lease, now);
        }
        self.list(now);
        self.cancel_orphans();
        (std::mem::take(&mut self.work), self.next_wake(now))
    }

    fn next_wake(&self, now: BootMs) -> Option<BootMs> {
        let looks =
            self.jobs.values().filter(|slurm_job| slurm_job.may_write() && slurm_job.polling.is_none());
        let looks = looks.map(|slurm_job| slurm_job.poll_at).min();
        let Timing { guard_ms, stale_ms, .. } = self.timing;
        let granted = self.jobs.values().filter_map(|slurm_job| slurm_job.record.granted_until);
        let granted = granted.flat_map(|until| [until.plus(guard_ms), until.plus(guard_ms + stale_ms)]);
        let since = self.jobs.values().map(|slurm_job| slurm_job.since.plus(guard_ms + stale_ms));
        let over = self.jobs.values().filter(|slurm_job| slurm_job.ended.is_some());
        let over = over.map(|slurm_job| slurm_job.ended_at.plus(stale_ms));
        let exits = self.jobs.values().filter(|slurm_job| slurm_job.exit.is_some());
        let exits = exits.map(|slurm_job| slurm_job.exit_at.plus(self.timing.settle_ms));
        // What is past changes nothing any more.
        let waits = granted.chain(since).chain(over).chain(exits).filter(|at| *at > now).min();
        let list = (self.listing.is_none() && self.wants_lists(now)).then_some(self.next_list_at);
        [looks, waits, list, self.watchdog.next_wake()].into_iter().flatten().min()
    }

    /// What came of work.
    pub fn done(&mut self, done: ActionResult, now: BootMs) {
        match done {
            ActionResult::Prepared(lease, result) => self.on_prepared(lease, result, now),
            ActionResult::Stored(lease, revision, result) => self.on_stored(lease, revision, result, now),
            ActionResult::Submitted(lease, result) => self.on_submitted(lease, result, now),
            ActionResult::Listed(result) => self.on_listed(result, now),
            ActionResult::ReportRead(lease, result) => self.on_polled(lease, result, now),
            ActionResult::Granted(lease, result) => self.on_granted(lease, result),
            ActionResult::Cancelled(lease, job, result) => {
                self.cancelling.remove(&(lease, job));
                if let Err(why) = result {
                    tracing::warn!(%job, why, "a job of Slurm could not be cancelled yet");
                }
                self.list_soon(now);
            }
        }
    }

    fn on_prepared(&mut self, lease: LeaseId, result: Result<(), String>, now: BootMs) {
        let Some(slurm_job) = self.jobs.get_mut(&lease) else { return };
        match result {
            Ok(()) => {
                slurm_job.phase = JobPhase::Storing;
                self.work.push(slurm_job.store());
            }
            Err(why) => self.fail(lease, EndKind::StartFailed, why, now),
        }
    }

    fn on_stored(&mut self, lease: LeaseId, revision: u64, result: Result<(), String>, now: BootMs) {
        let Some(slurm_job) = self.jobs.get_mut(&lease) else {
            if let Some((_, job)) = self.to_leave.get(&lease).filter(|(kept, _)| *kept <= revision) {
                let job = *job;
                self.to_leave.remove(&lease);
                self.is_orphan((lease, job));
            }
            return;
        };
        // Also when it could not be kept: what hangs is not to keep a program alive.
        let kill = slurm_job.kill_waits.take_if(|since| *since <= revision).and(slurm_job.record.job);
        if let Some((_, grant)) = slurm_job.waiting.take_if(|(since, _)| *since <= revision) {
            self.work
                .extend(slurm_job.may_grant(grant, result.is_ok()).then_some(JobAction::Grant(lease, grant)));
        }
        kill.into_iter().for_each(|job| self.cancel(lease, job));
        let Some(slurm_job) = self.jobs.get_mut(&lease) else { return };
        if slurm_job.phase != JobPhase::Storing {
            if let Err(why) = result {
                tracing::warn!(%lease, why, "what is known of an attempt could not be kept");
            }
            return;
        }
        match result {
            Ok(()) => self.submit(lease, now),
            Err(why) => self.fail(lease, EndKind::StartFailed, why, now),
        }
    }

    /// Hands it over, unless it is to stop or its lease leaves no time.
    fn submit(&mut self, lease: LeaseId, now: BootMs) {
        let time_left = self.time_left(lease, now);
        let stopping = self.watchdog.stopping(lease).is_some();
        let Some(slurm_job) = self.jobs.get_mut(&lease) else { return };
        match &slurm_job.launch {
            Some(launch) if !stopping && time_left.is_some() => {
                slurm_job.submits += 1;
                slurm_job.phase = JobPhase::Submitting;
                self.work.push(JobAction::Submit(launch.clone()));
            }
            _ => self.fail(
                lease,
                EndKind::Lost,
                "its lease was over before it could be handed to Slurm".into(),
                now,
            ),
        }
    }

    fn on_submitted(&mut self, lease: LeaseId, result: Result<JobId, SubmitError>, now: BootMs) {
        self.list_soon(now);
        let Some(slurm_job) = self.jobs.get_mut(&lease) else {
            // It ended meanwhile.
            if let Ok(job) = result {
                self.is_orphan((lease, job));
            }
            return;
        };
        slurm_job.phase = JobPhase::Handed { since: now };
        slurm_job.missed = None;
        match result {
            Ok(job) => {
                slurm_job.record.job.get_or_insert(job);
                self.work.push(slurm_job.store());
            }
            Err(SubmitError::Unknown(why)) => {
                tracing::warn!(%lease, why, "whether Slurm took an attempt is not known: looking for it");
                slurm_job.message = why;
            }
            // An earlier try may have made a job, of which this answer says nothing: the task would end as not
            // runnable, although that job may run it.
            Err(SubmitError::Refused(why)) if slurm_job.submits > 1 => {
                tracing::warn!(%lease, why, "Slurm refuses another try");
                slurm_job.message = why;
            }
            Err(SubmitError::Refused(why)) => self.fail(lease, EndKind::NotRunnable, why, now),
        }
    }
}
