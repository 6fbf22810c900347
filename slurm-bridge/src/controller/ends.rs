//! Whether an attempt has ended, and how.

use stint_executor::HostEvent;
use stint_executor::watchdog::StopCause;
use stint_protocol::{AttemptEnd, BootMs, EndKind, LeaseId};

use super::JobController;
use crate::job::JobPhase;

impl JobController {
    /// Ends an attempt whose program never began.
    pub(super) fn fail(&mut self, lease: LeaseId, kind: EndKind, message: String, now: BootMs) {
        let began = self.jobs.get(&lease).is_some_and(|slurm_job| slurm_job.record.granted_until.is_some());
        // What was given time may run: only what its job wrote, or the end of that time, proves that it ended.
        if !began {
            self.end(lease, kind, message, 0, now);
        }
    }

    /// Whether it has ended, and how.
    pub(super) fn judge(&mut self, lease: LeaseId, now: BootMs) {
        let guard_ms = self.timing.guard_ms;
        let stopped_by = self.watchdog.stopped_by(lease);
        let Some(slurm_job) = self.jobs.get(&lease) else { return };
        let busy = slurm_job.phase == JobPhase::Submitting;
        let Some(until) = slurm_job.record.granted_until else {
            // It never ran, and gets no time any more.
            match (stopped_by, &slurm_job.ended) {
                (Some(why), _) if !busy => self.end(lease, why.end_kind(), String::new(), 0, now),
                (None, Some(over)) if slurm_job.polled => {
                    let (kind, message) = slurm_job.end_before_start(over);
                    self.end(lease, kind, message, 0, now);
                }
                _ => {}
            }
            return;
        };
        let out_of_time = now >= until.plus(guard_ms);
        let run_ms = slurm_job.record.began.map_or(0, |began| now.since(began));
        // Slurm may not notice that a job ended, when its controller was away then.
        let late = now >= slurm_job.exit_at.plus(self.timing.settle_ms);
        let left_behind =
            slurm_job.exit.is_some() && late && !slurm_job.is_ending && slurm_job.ended.is_none();
        // After a restart both its files and Slurm are asked before anything is told, if they answer.
        let settled = now >= until.max(slurm_job.since).plus(guard_ms + self.timing.stale_ms);
        let silent = slurm_job.ended.is_none() && slurm_job.seen_late && slurm_job.listed;
        if let Some((kind, message)) =
            slurm_job.verdict(out_of_time || left_behind, !slurm_job.listed && !settled)
        {
            self.end(lease, kind, message, run_ms, now);
        } else if out_of_time && (silent || settled) {
            let message = "its job was given no more time, and did not say how it ended".to_owned();
            self.end(lease, EndKind::Lost, message, run_ms, now);
        }
    }

    fn end(&mut self, lease: LeaseId, own: EndKind, message: String, run_ms: u64, now: BootMs) {
        let Some(slurm_job) = self.jobs.get(&lease) else { return };
        let why = self.watchdog.exited(lease).filter(|_| slurm_job.obeyed());
        let kind = why.map_or(own, StopCause::end_kind);
        let end = AttemptEnd::new(lease, kind, message, run_ms);
        let Some(mut slurm_job) = self.jobs.remove(&lease) else { return };
        slurm_job.record.end = Some(end.clone());
        self.work.push(slurm_job.store());
        // Whatever Slurm still has of it is in nobody's name. It is cancelled when its end is kept: to a later process of
        // this node it would have been cancelled by somebody else.
        if slurm_job.ended.is_none() {
            match slurm_job.record.job {
                Some(job) => drop(self.to_leave.insert(lease, (slurm_job.record.revision, job))),
                None => self.orphan_search_until = now.plus(self.timing.orphan_search_ms()),
            }
        }
        self.ended.insert(lease);
        self.ends.insert(lease, end.clone());
        self.events.push(HostEvent::Ended(end));
    }
}
