//! What Slurm says of its jobs, and which of them nobody accounts for.

use std::collections::BTreeMap;

use stint_executor::HostEvent;
use stint_protocol::{BootMs, EndKind, LeaseId};

use super::{JobAction, JobController, OwnedJob};
use crate::doors::{JobId, ListedJob};
use crate::job::{JobPhase, SlurmJob};
use crate::limits;
use crate::state::JobState;

impl JobController {
    /// Also while Slurm does not answer: that it does again is seen by a list.
    pub(super) fn wants_lists(&self, now: BootMs) -> bool {
        self.has_jobs() || self.problem.is_some() || now < self.orphan_search_until
    }

    fn has_jobs(&self) -> bool {
        let handed = |slurm_job: &SlurmJob| matches!(slurm_job.phase, JobPhase::Handed { .. });
        !self.orphans.is_empty() || self.jobs.values().any(handed)
    }

    pub(super) fn list(&mut self, now: BootMs) {
        if self.listing.is_none() && self.wants_lists(now) && now >= self.next_list_at {
            self.listing = Some(now);
            self.work.push(JobAction::List);
        }
    }

    pub(super) fn is_orphan(&mut self, job: OwnedJob) {
        self.orphans.insert(job);
        self.to_cancel.insert(job);
    }

    pub(super) fn cancel(&mut self, lease: LeaseId, job: JobId) {
        if self.cancelling.insert((lease, job)) {
            self.work.push(JobAction::Cancel(lease, job));
        }
    }

    pub(super) fn cancel_orphans(&mut self) {
        for (lease, job) in std::mem::take(&mut self.to_cancel) {
            self.cancel(lease, job);
        }
    }

    /// The next list comes soon, but not faster than jobs are looked at.
    pub(super) fn list_soon(&mut self, now: BootMs) {
        self.next_list_at = self.next_list_at.min(now.plus(self.timing.look_ms));
    }

    pub(super) fn on_listed(&mut self, result: Result<Vec<ListedJob>, String>, now: BootMs) {
        let Some(asked_at) = self.listing.take() else { return };
        self.next_list_at = now.plus(self.timing.list_ms);
        let all = match result {
            Ok(all) => all,
            Err(why) => return self.set_problem(Some(why)),
        };
        self.set_problem(None);
        let mut of: BTreeMap<LeaseId, Vec<ListedJob>> = BTreeMap::new();
        all.into_iter().for_each(|seen| of.entry(seen.lease).or_default().push(seen));
        let is_over = |seen: &ListedJob| matches!(seen.state, JobState::Ended(_));
        let live = |lease: &LeaseId| of.get(lease).into_iter().flatten().filter(|seen| !is_over(seen));
        let unheld = of.keys().filter(|lease| !self.jobs.contains_key(lease));
        let orphans: Vec<&ListedJob> = unheld.flat_map(live).collect();
        self.orphans = orphans.iter().map(|seen| (seen.lease, seen.job)).collect();
        // One that is ending already does so without being told again, however long it takes.
        let to_cancel = orphans.iter().filter(|seen| seen.state != JobState::Completing);
        self.to_cancel = to_cancel.map(|seen| (seen.lease, seen.job)).collect();
        for slurm_job in self.jobs.values_mut() {
            slurm_job.listed |= asked_at >= slurm_job.since;
        }
        let leases: Vec<LeaseId> = self.jobs.keys().copied().collect();
        for lease in leases {
            self.on_job_listed(lease, of.remove(&lease).unwrap_or_default(), asked_at, now);
        }
    }

    fn set_problem(&mut self, trouble: Option<String>) {
        if self.problem.is_some() != trouble.is_some() {
            match &trouble {
                Some(why) => tracing::warn!(why, "Slurm does not answer: jobs go on, none is handed over"),
                None => tracing::info!("Slurm answers again"),
            }
            self.events.push(HostEvent::RuntimesChanged);
        }
        self.problem = trouble;
    }

    /// What a list says of one attempt: the jobs that bear its name.
    fn on_job_listed(&mut self, lease: LeaseId, jobs: Vec<ListedJob>, asked_at: BootMs, now: BootMs) {
        let Some(slurm_job) = self.jobs.get_mut(&lease) else { return };
        // A list that was asked for before the job was handed over says nothing of it.
        let JobPhase::Handed { since } = slurm_job.phase else { return };
        if jobs.is_empty() {
            if asked_at >= since.plus(self.timing.settle_ms) {
                self.on_job_missing(lease, asked_at, now);
            }
            return;
        }
        let own = slurm_job.record.job.filter(|own| jobs.iter().any(|seen| seen.job == *own));
        let others = |seen: &&ListedJob| Some(seen.job) != own && !matches!(seen.state, JobState::Ended(_));
        if own.is_none() && slurm_job.record.granted_until.is_some() {
            // The one that was given time is forgotten; what became of another one says nothing of it.
            let others: Vec<OwnedJob> = jobs.iter().filter(others).map(|seen| (lease, seen.job)).collect();
            others.into_iter().for_each(|job| self.is_orphan(job));
            return self.on_job_missing(lease, asked_at, now);
        }
        // Of several the one that runs, then one that is not over: a lost answer may have made two, and one begins.
        let runs = jobs.iter().find(|seen| seen.state == JobState::Running);
        let best = runs.or_else(|| jobs.iter().find(|seen| !matches!(seen.state, JobState::Ended(_))));
        let best = best.unwrap_or(&jobs[0]).job;
        let own = own.filter(|_| slurm_job.record.granted_until.is_some() || runs.is_none()).unwrap_or(best);
        for seen in jobs {
            if seen.job == own {
                slurm_job.on_listed(seen, now);
            } else if !matches!(seen.state, JobState::Ended(_)) && slurm_job.record.began.is_some() {
                // One of two that an unknown answer made: the other one runs.
                self.orphans.insert((lease, seen.job));
                self.to_cancel.insert((lease, seen.job));
            }
        }
        if slurm_job.record.job != Some(own) {
            slurm_job.record.job = Some(own);
            self.work.push(slurm_job.store());
        }
    }

    /// Slurm shows no job of it. One list may be wrong: a controller that just began forgets.
    fn on_job_missing(&mut self, lease: LeaseId, asked_at: BootMs, now: BootMs) {
        let Some(slurm_job) = self.jobs.get_mut(&lease) else { return };
        slurm_job.is_running = false;
        let (times, first) = slurm_job.missed.get_or_insert((0, asked_at));
        *times += 1;
        let sure = *times > 1 && asked_at.since(*first) >= self.timing.settle_ms;
        if slurm_job.record.granted_until.is_some() {
            return;
        }
        if !sure {
            return self.list_soon(now);
        }
        // Its program never began, and cannot without a grant: another try does no harm.
        match &slurm_job.launch {
            Some(_) if slurm_job.record.job.is_none() && slurm_job.submits < limits::SUBMITS => {
                self.submit(lease, now)
            }
            _ => self.fail(lease, EndKind::Lost, "Slurm forgot its job before it began".into(), now),
        }
    }
}
