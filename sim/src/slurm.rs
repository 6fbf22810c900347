//! Doors: Slurm, and the folder that its nodes share with ours. One Slurm cluster for the whole world: it goes on
//! whatever becomes of the peers, and its controller forgets, times out, begins jobs again and purges its records.
//!
//! What the controller says of a job and what runs of it are two things: a job that was forgotten runs on, and what runs
//! of one that is begun again may still be there.

mod doors;
mod folder;
mod job;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use stint_executor::Launch;
use stint_protocol::{EndKind, LeaseId, NodeOffer, Resources};
use stint_slurm_bridge::doors::JobId;
use stint_slurm_bridge::state::{EndReason, JobEnd, JobState};

use crate::clock::WorldTime;
use crate::oracle::{Oracle, Severity};
use crate::plant::Plant;
use crate::rng::SeededRng;
use crate::scenario::{Range, Workload};

pub use doors::{Doors, timing};
use folder::Folder;
use job::{Ending, Script};

/// The machine that events name for what runs in Slurm.
pub const SLURM: u64 = 100;

/// How long a job waits in Slurm's queue, in milliseconds.
const QUEUE_MS: Range = Range(20, 2_500);
/// How long a command of Slurm takes, in milliseconds.
const CALL_MS: Range = Range(5, 120);
/// How long Slurm takes to kill a job, in milliseconds.
const KILL_MS: Range = Range(20, 900);
/// How long what runs of a job that was forgotten is not found by its node's daemon, in milliseconds.
const ORPHAN_MS: Range = Range(100, 6_000);
/// How long the record of an ended job is kept, in milliseconds (`MinJobAge`; 300 s usually).
const MIN_JOB_AGE_MS: u64 = 6_000;
/// How much of the latest the controller loses when it crashes, in milliseconds: its state is saved every 5 s.
const UNSAVED_MS: u64 = 5_000;
/// How long a written file may stay unseen elsewhere, in milliseconds.
const STALE_MS: Range = Range(0, 40);

/// What is wrong with Slurm now; faults set it.
#[derive(Clone, Default)]
pub struct SlurmFaults {
    /// No controller answers.
    pub down: bool,
    /// One that was just started answers, and knows of no job yet.
    pub empty: bool,
    /// Commands take this long.
    pub slow_ms: Option<Range>,
    /// Some answers to `sbatch` get lost.
    pub loses_answers: bool,
    /// Records of ended jobs go at once.
    pub purges: bool,
    /// The shared folder cannot be reached from the peers.
    pub folder_away: bool,
    /// What is written there stays unseen elsewhere for this long.
    pub stale_ms: Option<Range>,
}

/// The Slurm cluster; a copy is the same one.
#[derive(Clone)]
pub struct SlurmWorld(Arc<Mutex<Inner>>);

struct Inner {
    time: WorldTime,
    oracle: Oracle,
    rng: SeededRng,
    rules: Workload,
    plant: Option<Plant>,
    /// Jobs that run at a time.
    slots: usize,
    trouble: SlurmFaults,
    arriving: Vec<(u64, JobId, Job)>,
    jobs: BTreeMap<JobId, Job>,
    last_job: u64,
    /// What runs, whatever the controller knows of it.
    scripts: Vec<Script>,
    folders: BTreeMap<LeaseId, Folder>,
    /// Until when each lease was given to its node, by the world's time.
    deadlines: BTreeMap<LeaseId, u64>,
}

/// A job as the controller has it.
#[derive(Clone)]
struct Job {
    node: u64,
    launch: Launch,
    shown: JobState,
    /// Since when it is like that.
    since_ms: u64,
    /// When it begins, if nothing comes between.
    begins_ms: u64,
}

impl SlurmWorld {
    /// A cluster that runs so many jobs at a time.
    pub fn new(
        time: WorldTime,
        oracle: Oracle,
        rng: SeededRng,
        rules: Workload,
        plant: Option<Plant>,
        slots: u32,
    ) -> Self {
        let resources = Resources { cpu_milli: u64::MAX / 2, memory_bytes: u64::MAX / 2 };
        // One more while a killed one and the next one overlap in the controller's eyes: it counts by what it was told.
        oracle.on_offer(SLURM, NodeOffer { resources, slots: u32::MAX, ..NodeOffer::default() });
        Self(Arc::new(Mutex::new(Inner {
            time,
            oracle,
            rng,
            rules,
            plant,
            slots: slots as usize,
            trouble: SlurmFaults::default(),
            arriving: Vec::new(),
            jobs: BTreeMap::new(),
            last_job: 0,
            scripts: Vec::new(),
            folders: BTreeMap::new(),
            deadlines: BTreeMap::new(),
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Changes what is wrong.
    pub fn set_faults(&self, change: impl FnOnce(&mut SlurmFaults)) {
        change(&mut self.inner().trouble);
    }

    /// Goes on for one step of the world.
    pub fn advance(&self) {
        let mut inner = self.inner();
        let now = inner.time.ms();
        inner.take_in(now);
        inner.begin_jobs(now);
        inner.run_scripts(now);
        inner.purge(now);
    }

    /// The controller crashes and comes back with what it saved last: jobs that came since are unknown, those that began
    /// since wait again, and what runs of them is found and killed some time later.
    pub fn forget(&self) -> String {
        let mut inner = self.inner();
        let now = inner.time.ms();
        let saved = now.saturating_sub(inner.rng.between(0, UNSAVED_MS));
        let (mut unknown, mut again) = (0, 0);
        let recent: Vec<JobId> =
            inner.jobs.iter().filter(|(_, job)| job.since_ms > saved).map(|(id, _)| *id).collect();
        for id in recent {
            let begins_ms = now + inner.rng.within(QUEUE_MS);
            let found_ms = now + inner.rng.within(ORPHAN_MS);
            let lost = inner.rng.one_in(2);
            let Some(job) = inner.jobs.get_mut(&id) else { continue };
            if lost || job.shown == JobState::Waiting {
                inner.jobs.remove(&id);
                unknown += 1;
                // The next job gets a number that was given already.
                inner.last_job = inner.last_job.min(id.0 - 1);
            } else {
                (job.shown, job.since_ms, job.begins_ms) = (JobState::Waiting, now, begins_ms);
                again += 1;
            }
            let of_job = inner.scripts.iter_mut().filter(|script| script.job == id);
            of_job.for_each(|script| script.dies(found_ms, Ending::Orphaned));
        }
        format!(
            "Slurm's controller lost what it knew since {saved} ms: {unknown} jobs unknown, {again} wait again"
        )
    }

    /// Ends one running job in its own way: its node fails (what runs goes on until its time is over), or another job
    /// takes its place.
    pub fn strike(&self, node_fails: bool) -> String {
        let mut inner = self.inner();
        let (now, kill_ms) = (inner.time.ms(), inner.rng.clone().within(KILL_MS));
        let running: Vec<JobId> =
            inner.jobs.iter().filter(|(_, job)| job.shown == JobState::Running).map(|(id, _)| *id).collect();
        if running.is_empty() {
            return "no job of Slurm runs".into();
        }
        let id = *inner.rng.pick(&running);
        if node_fails {
            inner.over(id, EndReason::NodeFailed, None, now);
            return format!("the node of Slurm job {id} fails");
        }
        let of_job = inner.scripts.iter_mut().filter(|script| script.job == id);
        of_job.for_each(|script| script.dies(now + kill_ms, Ending::Preempted));
        format!("Slurm job {id} is preempted")
    }

    /// A peer's node was given a lease that has so much left.
    pub fn given(&self, lease: LeaseId, left_ms: i64) {
        let mut inner = self.inner();
        let until_ms = inner.time.ms().saturating_add_signed(left_ms);
        let known = inner.deadlines.entry(lease).or_default();
        *known = until_ms.max(*known);
    }

    /// A node says that an attempt has ended. One whose program never began must never begin.
    pub fn told_ended(&self, lease: LeaseId, end: &EndKind) {
        let mut inner = self.inner();
        let folder = inner.folders.entry(lease).or_default();
        if folder.began_program || std::mem::replace(&mut folder.given_up, true) {
            return;
        }
        inner.oracle.say(&format!("a node says that {lease} never began: {}", end.as_str()));
        let (node, oracle) = (SLURM, inner.oracle.clone());
        oracle.on_end(node, lease, end, false);
    }
}

impl Inner {
    /// A number that no job has now; one that was lost may have had it.
    fn next_job(&mut self) -> JobId {
        loop {
            self.last_job += 1;
            let job = JobId(self.last_job);
            let taken =
                self.jobs.contains_key(&job) || self.arriving.iter().any(|(_, other, _)| *other == job);
            if !taken {
                return job;
            }
        }
    }

    fn take_in(&mut self, now: u64) {
        if self.trouble.down {
            return;
        }
        let (due, later) = std::mem::take(&mut self.arriving).into_iter().partition(|(at, ..)| *at <= now);
        self.arriving = later;
        let due: Vec<(u64, JobId, Job)> = due;
        for (_, id, mut job) in due {
            (job.since_ms, job.begins_ms) = (now, now + self.rng.within(QUEUE_MS));
            self.jobs.insert(id, job);
        }
    }

    fn begin_jobs(&mut self, now: u64) {
        if self.trouble.down {
            return;
        }
        let running = self.jobs.values().filter(|job| job.shown == JobState::Running).count();
        let waits = |job: &Job| job.shown == JobState::Waiting && job.begins_ms <= now;
        let due: Vec<JobId> = self.jobs.iter().filter(|(_, job)| waits(job)).map(|(id, _)| *id).collect();
        for id in due.into_iter().take(self.slots.saturating_sub(running)) {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            (job.shown, job.since_ms) = (JobState::Running, now);
            let script = Script::new(id, job.launch.clone(), &mut self.rng, now);
            self.scripts.push(script);
        }
    }

    fn run_scripts(&mut self, now: u64) {
        let mut scripts = std::mem::take(&mut self.scripts);
        let mut going_on = Vec::with_capacity(scripts.len());
        for mut script in scripts.drain(..) {
            match script.step(self, now) {
                Some((how, code)) => self.ended(&script, how, code, now),
                None => going_on.push(script),
            }
        }
        self.scripts = going_on;
    }

    /// What ran of a job is gone: the controller is told, if it knows the job as one that runs.
    fn ended(&mut self, script: &Script, how: EndReason, code: Option<(i32, i32)>, now: u64) {
        let again = self.scripts.iter().any(|other| other.job == script.job);
        let runs = self.jobs.get(&script.job).is_some_and(|job| job.shown == JobState::Running);
        if runs && !again && script.is_current {
            self.over(script.job, how, code, now);
        }
    }

    fn over(&mut self, id: JobId, how: EndReason, code: Option<(i32, i32)>, now: u64) {
        if let Some(job) = self.jobs.get_mut(&id) {
            (job.shown, job.since_ms) = (JobState::Ended(JobEnd { reason: how, code }), now);
        }
    }

    fn cancel(&mut self, id: JobId, now: u64) {
        let kill_ms = now + self.rng.within(KILL_MS);
        let Some(job) = self.jobs.get(&id) else { return };
        match job.shown {
            JobState::Waiting => self.over(id, EndReason::Cancelled, None, now),
            JobState::Running | JobState::Completing => {
                let of_job = self.scripts.iter_mut().filter(|script| script.job == id);
                of_job.for_each(|script| script.dies(kill_ms, Ending::Cancelled));
            }
            JobState::Ended(_) => {}
        }
    }

    fn purge(&mut self, now: u64) {
        let age_ms = if self.trouble.purges { 0 } else { MIN_JOB_AGE_MS };
        self.jobs.retain(|_, job| !matches!(job.shown, JobState::Ended(_)) || now < job.since_ms + age_ms);
    }

    /// When what is written now is seen elsewhere.
    fn seen_at(&mut self, now: u64) -> u64 {
        let stale = self.trouble.stale_ms.unwrap_or(STALE_MS);
        now + self.rng.within(stale)
    }

    fn violate(&self, rule: &'static str, what: String) {
        self.oracle.violate(Severity::Safety, rule, what);
    }
}
