//! Time for jobs: what they ask for, what they are given and told.

use stint_executor::HostEvent;
use stint_protocol::{BootMs, LeaseId};

use super::{JobAction, JobController, Timing};
use crate::doors::{JobCommand, JobId, JobReport, TimeGrant};
use crate::job::Poll;
use crate::limits;

/// What a job is given so that it is over within `left_ms` of this node, however slow its own clock is.
fn by_job_clock(left_ms: u64) -> u64 {
    left_ms - left_ms.div_ceil(100) * limits::CLOCK_DRIFT_PERCENT
}

impl JobController {
    pub(super) fn poll(&mut self, lease: LeaseId, now: BootMs) {
        let Timing { look_ms, stale_ms, guard_ms, .. } = self.timing;
        let Some(slurm_job) = self.jobs.get_mut(&lease) else { return };
        if slurm_job.may_write() && slurm_job.polling.is_none() && now >= slurm_job.poll_at {
            let last = slurm_job.ended.is_some();
            let all = last && now >= slurm_job.ended_at.plus(stale_ms);
            let late = slurm_job.record.granted_until.is_some_and(|until| now >= until.plus(guard_ms));
            let poll = Poll { last, all, late };
            (slurm_job.polling, slurm_job.poll_at) = (Some(poll), now.plus(look_ms));
            self.work.push(JobAction::ReadReport(lease));
            if std::mem::take(&mut slurm_job.command_again)
                && let Some(grant) = slurm_job.granted
            {
                self.work.push(JobAction::Grant(lease, grant));
            }
        }
    }

    /// Tells a running program to end; one that was never given time ends with the next judgement.
    pub(super) fn send_command(&mut self, lease: LeaseId, order: JobCommand, now: BootMs) {
        let Some(slurm_job) = self.jobs.get_mut(&lease) else { return };
        slurm_job.command = slurm_job.command.max(order);
        if let Some(grant) = slurm_job.granted.filter(|grant| grant.command < order) {
            // The same number: it is given no more time by it.
            let grant = TimeGrant { command: order, revision: grant.revision + 1, ..grant };
            slurm_job.granted = Some(grant);
            self.work.push(JobAction::Grant(lease, grant));
        } else if slurm_job.granted.is_none() && slurm_job.record.granted_until.is_some() {
            // An earlier process of this node gave it time.
            let revision = 2 * slurm_job.record.revision + 1;
            // No question has the number 0: the job takes the order from it, and no time.
            let grant = TimeGrant { number: 0, left_ms: 0, command: order, revision };
            slurm_job.granted = Some(grant);
            self.work.push(JobAction::Grant(lease, grant));
        }
        let due = slurm_job.killed_at.is_none_or(|at| now >= at.plus(self.timing.list_ms));
        if order == JobCommand::Kill
            && due
            && let Some(job) = slurm_job.record.job
        {
            slurm_job.killed_at = Some(now);
            if slurm_job.record.killed {
                self.cancel(lease, job);
            } else {
                // Kept before: a later process of this node must not take it for somebody else's.
                slurm_job.record.killed = true;
                self.work.push(slurm_job.store());
                slurm_job.kill_waits = Some(slurm_job.record.revision);
            }
        }
    }

    pub(super) fn on_polled(&mut self, lease: LeaseId, result: Result<JobReport, String>, now: BootMs) {
        let Some(slurm_job) = self.jobs.get_mut(&lease) else { return };
        let poll = slurm_job.polling.take();
        let was_unreadable = std::mem::replace(&mut slurm_job.unreadable, result.is_err());
        let files = match result {
            Ok(files) => files,
            Err(why) if was_unreadable => {
                tracing::debug!(%lease, why, "what a job wrote still cannot be read");
                return;
            }
            Err(why) => {
                tracing::warn!(%lease, why, "what a job wrote cannot be read: trying again");
                return;
            }
        };
        slurm_job.polled |= poll.is_some_and(|poll| poll.last);
        slurm_job.seen_all |= poll.is_some_and(|poll| poll.all);
        slurm_job.seen_late |= poll.is_some_and(|poll| poll.late);
        if files.exit.is_some() && slurm_job.exit.is_none() {
            (slurm_job.exit, slurm_job.exit_at) = (files.exit, now);
            self.next_list_at = now;
        }
        if let Some((number, job)) = files.ask.filter(|(number, _)| *number > slurm_job.asked) {
            self.on_ask(lease, number, job, now);
        }
    }

    /// A job asks for time. What is given counts from when it asked, by its own clock: never longer than the lease.
    fn on_ask(&mut self, lease: LeaseId, number: u64, job: JobId, now: BootMs) {
        let left_ms = self.time_left(lease, now);
        let Some(slurm_job) = self.jobs.get_mut(&lease) else { return };
        let first = slurm_job.record.began.is_none();
        if slurm_job.command != JobCommand::Run || slurm_job.granting || slurm_job.ended.is_some() {
            return;
        }
        let Some(left_ms) = left_ms else { return };
        slurm_job.asked = number;
        slurm_job.granting = true;
        // Known, also to a later process of this node, before it is written: whether it was read cannot be said
        // afterwards.
        slurm_job.record.granted_until = slurm_job.record.granted_until.max(Some(now.plus(left_ms)));
        slurm_job.record.job = Some(job);
        if first {
            slurm_job.record.began = Some(now);
            let timeout_ms = slurm_job.record.timeout_ms;
            self.watchdog.began(lease, now, timeout_ms);
            self.events.push(HostEvent::Started { lease, at: now });
        }
        self.work.push(slurm_job.store());
        let since = slurm_job.record.revision;
        let left_ms = by_job_clock(left_ms);
        // Twice the record's: an order that follows this grant has a revision of its own before the next record's.
        let grant = TimeGrant { number, left_ms, command: JobCommand::Run, revision: 2 * since };
        slurm_job.waiting = Some((since, grant));
    }

    /// How long a program may run from now on; none when that is too short to stop it in time, or nobody knows.
    pub(super) fn time_left(&self, lease: LeaseId, now: BootMs) -> Option<u64> {
        let slurm_job = self.jobs.get(&lease)?;
        let end = slurm_job.leased_until?.minus(self.reserve_ms());
        Some(end.since(now)).filter(|left| by_job_clock(*left) > slurm_job.record.grace_ms)
    }

    pub(super) fn on_granted(&mut self, lease: LeaseId, result: Result<(), String>) {
        let Some(slurm_job) = self.jobs.get_mut(&lease) else { return };
        slurm_job.granting = false;
        if let Err(why) = result {
            tracing::warn!(%lease, why, "a job could not be given more time");
            // It goes on asking, and this number is answered once more; an order is given again with the next look.
            slurm_job.asked = slurm_job.asked.saturating_sub(1);
            slurm_job.command_again = slurm_job.command != JobCommand::Run;
        }
    }
}
