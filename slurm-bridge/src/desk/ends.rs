//! Whether an attempt has ended, and how.

use stint_executor::HostEvent;
use stint_executor::watchdog::Why;
use stint_protocol::{AttemptEnd, BootMs, EndKind, LeaseId};

use super::Desk;
use crate::entry::Phase;

impl Desk {
    /// Ends an attempt whose program never began.
    pub(super) fn fail(&mut self, lease: LeaseId, kind: EndKind, message: String, now: BootMs) {
        let began = self.entries.get(&lease).is_some_and(|entry| entry.record.granted_until.is_some());
        // What was given time may run: only what its job wrote, or the end of that time, proves that it ended.
        if !began {
            self.end(lease, kind, message, 0, now);
        }
    }

    /// Whether it has ended, and how.
    pub(super) fn judge(&mut self, lease: LeaseId, now: BootMs) {
        let guard_ms = self.timing.guard_ms;
        let stopped_by = self.watchdog.stopped_by(lease);
        let Some(entry) = self.entries.get(&lease) else { return };
        let busy = entry.phase == Phase::Submitting;
        let Some(until) = entry.record.granted_until else {
            // It never ran, and gets no time any more.
            match (stopped_by, &entry.over) {
                (Some(why), _) if !busy => self.end(lease, why.end_kind(), String::new(), 0, now),
                (None, Some(over)) if entry.looked => {
                    let (kind, words) = entry.unbegun(over);
                    self.end(lease, kind, words, 0, now);
                }
                _ => {}
            }
            return;
        };
        let out_of_time = now >= until.plus(guard_ms);
        let run_ms = entry.record.began.map_or(0, |began| now.since(began));
        // Slurm may not notice that a job ended, when its controller was away then.
        let late = now >= entry.exit_at.plus(self.timing.settle_ms);
        let left_behind = entry.exit.is_some() && late && !entry.is_ending && entry.over.is_none();
        // After a restart both its files and Slurm are asked before anything is told, if they answer.
        let settled = now >= until.max(entry.since).plus(guard_ms + self.timing.stale_ms);
        let silent = entry.over.is_none() && entry.seen_late && entry.listed;
        if let Some((kind, words)) = entry.verdict(out_of_time || left_behind, !entry.listed && !settled) {
            self.end(lease, kind, words, run_ms, now);
        } else if out_of_time && (silent || settled) {
            let words = "its job was given no more time, and did not say how it ended".to_owned();
            self.end(lease, EndKind::Lost, words, run_ms, now);
        }
    }

    fn end(&mut self, lease: LeaseId, own: EndKind, message: String, run_ms: u64, now: BootMs) {
        let Some(entry) = self.entries.get(&lease) else { return };
        let why = self.watchdog.exited(lease).filter(|_| entry.obeyed());
        let kind = why.map_or(own, Why::end_kind);
        let end = AttemptEnd::new(lease, kind, message, run_ms);
        let Some(mut entry) = self.entries.remove(&lease) else { return };
        entry.record.end = Some(end.clone());
        self.work.push(entry.store());
        // Whatever Slurm still has of it is in nobody's name. It is cancelled when its end is kept: to a later process of
        // this node it would have been cancelled by somebody else.
        if entry.over.is_none() {
            match entry.record.job {
                Some(job) => drop(self.to_leave.insert(lease, (entry.record.revision, job))),
                None => self.hunts_until = now.plus(self.timing.hunt_ms()),
            }
        }
        self.ended.insert(lease);
        self.ends.insert(lease, end.clone());
        self.events.push(HostEvent::Ended(end));
    }
}
