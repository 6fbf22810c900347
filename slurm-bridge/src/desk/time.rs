//! Time for jobs: what they ask for, what they are given and told.

use stint_executor::HostEvent;
use stint_protocol::{BootMs, LeaseId};

use super::{Desk, Timing, Work};
use crate::door::{Files, Grant, JobId, Order};
use crate::entry::Glance;
use crate::limits;

/// What a job is given so that it is over within `left_ms` of this node, however slow its own clock is.
fn by_its_clock(left_ms: u64) -> u64 {
    left_ms - left_ms.div_ceil(100) * limits::CLOCK_DRIFT_PERCENT
}

impl Desk {
    pub(super) fn look(&mut self, lease: LeaseId, now: BootMs) {
        let Timing { look_ms, stale_ms, guard_ms, .. } = self.timing;
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        if entry.may_write() && entry.looking.is_none() && now >= entry.look_at {
            let last = entry.over.is_some();
            let all = last && now >= entry.over_at.plus(stale_ms);
            let late = entry.record.granted_until.is_some_and(|until| now >= until.plus(guard_ms));
            let glance = Glance { last, all, late };
            (entry.looking, entry.look_at) = (Some(glance), now.plus(look_ms));
            self.work.push(Work::Look(lease));
            if std::mem::take(&mut entry.order_again)
                && let Some(grant) = entry.granted
            {
                self.work.push(Work::Grant(lease, grant));
            }
        }
    }

    /// Tells a running program to end; one that was never given time ends with the next judgement.
    pub(super) fn order(&mut self, lease: LeaseId, order: Order, now: BootMs) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        entry.order = entry.order.max(order);
        if let Some(grant) = entry.granted.filter(|grant| grant.order < order) {
            // The same number: it is given no more time by it.
            let grant = Grant { order, revision: grant.revision + 1, ..grant };
            entry.granted = Some(grant);
            self.work.push(Work::Grant(lease, grant));
        } else if entry.granted.is_none() && entry.record.granted_until.is_some() {
            // An earlier process of this node gave it time.
            let revision = 2 * entry.record.revision + 1;
            // No question has the number 0: the job takes the order from it, and no time.
            let grant = Grant { number: 0, left_ms: 0, order, revision };
            entry.granted = Some(grant);
            self.work.push(Work::Grant(lease, grant));
        }
        let due = entry.killed_at.is_none_or(|at| now >= at.plus(self.timing.list_ms));
        if order == Order::Kill
            && due
            && let Some(job) = entry.record.job
        {
            entry.killed_at = Some(now);
            if entry.record.killed {
                self.cancel(lease, job);
            } else {
                // Kept before: a later process of this node must not take it for somebody else's.
                entry.record.killed = true;
                self.work.push(entry.store());
                entry.kill_waits = Some(entry.record.revision);
            }
        }
    }

    pub(super) fn on_looked(&mut self, lease: LeaseId, result: Result<Files, String>, now: BootMs) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        let glance = entry.looking.take();
        let was_unreadable = std::mem::replace(&mut entry.unreadable, result.is_err());
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
        entry.looked |= glance.is_some_and(|glance| glance.last);
        entry.seen_all |= glance.is_some_and(|glance| glance.all);
        entry.seen_late |= glance.is_some_and(|glance| glance.late);
        if files.exit.is_some() && entry.exit.is_none() {
            (entry.exit, entry.exit_at) = (files.exit, now);
            self.list_at = now;
        }
        if let Some((number, job)) = files.ask.filter(|(number, _)| *number > entry.asked) {
            self.on_ask(lease, number, job, now);
        }
    }

    /// A job asks for time. What is given counts from when it asked, by its own clock: never longer than the lease.
    fn on_ask(&mut self, lease: LeaseId, number: u64, job: JobId, now: BootMs) {
        let left_ms = self.time_left(lease, now);
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        let first = entry.record.began.is_none();
        if entry.order != Order::Run || entry.granting || entry.over.is_some() {
            return;
        }
        let Some(left_ms) = left_ms else { return };
        entry.asked = number;
        entry.granting = true;
        // Known, also to a later process of this node, before it is written: whether it was read cannot be said
        // afterwards.
        entry.record.granted_until = entry.record.granted_until.max(Some(now.plus(left_ms)));
        entry.record.job = Some(job);
        if first {
            entry.record.began = Some(now);
            let timeout_ms = entry.record.timeout_ms;
            self.watchdog.began(lease, now, timeout_ms);
            self.events.push(HostEvent::Started { lease, at: now });
        }
        self.work.push(entry.store());
        let since = entry.record.revision;
        let left_ms = by_its_clock(left_ms);
        // Twice the record's: an order that follows this grant has a revision of its own before the next record's.
        let grant = Grant { number, left_ms, order: Order::Run, revision: 2 * since };
        entry.waiting = Some((since, grant));
    }

    /// How long a program may run from now on; none when that is too short to stop it in time, or nobody knows.
    pub(super) fn time_left(&self, lease: LeaseId, now: BootMs) -> Option<u64> {
        let entry = self.entries.get(&lease)?;
        let end = entry.leased_until?.minus(self.reserve_ms());
        Some(end.since(now)).filter(|left| by_its_clock(*left) > entry.record.grace_ms)
    }

    pub(super) fn on_granted(&mut self, lease: LeaseId, result: Result<(), String>) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        entry.granting = false;
        if let Err(why) = result {
            tracing::warn!(%lease, why, "a job could not be given more time");
            // It goes on asking, and this number is answered once more; an order is given again with the next look.
            entry.asked = entry.asked.saturating_sub(1);
            entry.order_again = entry.order != Order::Run;
        }
    }
}
