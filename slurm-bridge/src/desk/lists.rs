//! What Slurm says of its jobs, and which of them nobody accounts for.

use std::collections::BTreeMap;

use stint_executor::HostEvent;
use stint_protocol::{BootMs, EndKind, LeaseId};

use super::{Desk, Named, Work};
use crate::door::{JobId, Seen};
use crate::entry::{Entry, Phase};
use crate::limits;
use crate::state::Told;

impl Desk {
    /// Also while Slurm does not answer: that it does again is seen by a list.
    pub(super) fn wants_lists(&self, now: BootMs) -> bool {
        self.has_jobs() || self.trouble.is_some() || now < self.hunts_until
    }

    fn has_jobs(&self) -> bool {
        let handed = |entry: &Entry| matches!(entry.phase, Phase::Handed { .. });
        !self.stray.is_empty() || self.entries.values().any(handed)
    }

    pub(super) fn list(&mut self, now: BootMs) {
        if self.listing.is_none() && self.wants_lists(now) && now >= self.list_at {
            self.listing = Some(now);
            self.work.push(Work::List);
        }
    }

    pub(super) fn is_stray(&mut self, job: Named) {
        self.stray.insert(job);
        self.to_cancel.insert(job);
    }

    pub(super) fn cancel(&mut self, lease: LeaseId, job: JobId) {
        if self.cancelling.insert((lease, job)) {
            self.work.push(Work::Cancel(lease, job));
        }
    }

    pub(super) fn cancel_strays(&mut self) {
        for (lease, job) in std::mem::take(&mut self.to_cancel) {
            self.cancel(lease, job);
        }
    }

    /// The next list comes soon, but not faster than jobs are looked at.
    pub(super) fn soon(&mut self, now: BootMs) {
        self.list_at = self.list_at.min(now.plus(self.timing.look_ms));
    }

    pub(super) fn on_listed(&mut self, result: Result<Vec<Seen>, String>, now: BootMs) {
        let Some(asked_at) = self.listing.take() else { return };
        self.list_at = now.plus(self.timing.list_ms);
        let all = match result {
            Ok(all) => all,
            Err(why) => return self.say_trouble(Some(why)),
        };
        self.say_trouble(None);
        let mut of: BTreeMap<LeaseId, Vec<Seen>> = BTreeMap::new();
        all.into_iter().for_each(|seen| of.entry(seen.lease).or_default().push(seen));
        let is_over = |seen: &Seen| matches!(seen.told, Told::Over(_));
        let live = |lease: &LeaseId| of.get(lease).into_iter().flatten().filter(|seen| !is_over(seen));
        let unheld = of.keys().filter(|lease| !self.entries.contains_key(lease));
        let strays: Vec<&Seen> = unheld.flat_map(live).collect();
        self.stray = strays.iter().map(|seen| (seen.lease, seen.job)).collect();
        // One that is ending already does so without being told again, however long it takes.
        let to_cancel = strays.iter().filter(|seen| seen.told != Told::Ends);
        self.to_cancel = to_cancel.map(|seen| (seen.lease, seen.job)).collect();
        for entry in self.entries.values_mut() {
            entry.listed |= asked_at >= entry.since;
        }
        let leases: Vec<LeaseId> = self.entries.keys().copied().collect();
        for lease in leases {
            self.on_seen(lease, of.remove(&lease).unwrap_or_default(), asked_at, now);
        }
    }

    fn say_trouble(&mut self, trouble: Option<String>) {
        if self.trouble.is_some() != trouble.is_some() {
            match &trouble {
                Some(why) => tracing::warn!(why, "Slurm does not answer: jobs go on, none is handed over"),
                None => tracing::info!("Slurm answers again"),
            }
            self.events.push(HostEvent::RuntimesChanged);
        }
        self.trouble = trouble;
    }

    /// What a list says of one attempt: the jobs that bear its name.
    fn on_seen(&mut self, lease: LeaseId, jobs: Vec<Seen>, asked_at: BootMs, now: BootMs) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        // A list that was asked for before the job was handed over says nothing of it.
        let Phase::Handed { since } = entry.phase else { return };
        if jobs.is_empty() {
            if asked_at >= since.plus(self.timing.settle_ms) {
                self.on_missed(lease, asked_at, now);
            }
            return;
        }
        let own = entry.record.job.filter(|own| jobs.iter().any(|seen| seen.job == *own));
        let others = |seen: &&Seen| Some(seen.job) != own && !matches!(seen.told, Told::Over(_));
        if own.is_none() && entry.record.granted_until.is_some() {
            // The one that was given time is forgotten; what became of another one says nothing of it.
            let others: Vec<Named> = jobs.iter().filter(others).map(|seen| (lease, seen.job)).collect();
            others.into_iter().for_each(|job| self.is_stray(job));
            return self.on_missed(lease, asked_at, now);
        }
        // Of several the one that runs, then one that is not over: a lost answer may have made two, and one begins.
        let runs = jobs.iter().find(|seen| seen.told == Told::Runs);
        let best = runs.or_else(|| jobs.iter().find(|seen| !matches!(seen.told, Told::Over(_))));
        let best = best.unwrap_or(&jobs[0]).job;
        let own = own.filter(|_| entry.record.granted_until.is_some() || runs.is_none()).unwrap_or(best);
        for seen in jobs {
            if seen.job == own {
                entry.see(seen, now);
            } else if !matches!(seen.told, Told::Over(_)) && entry.record.began.is_some() {
                // One of two that an unknown answer made: the other one runs.
                self.stray.insert((lease, seen.job));
                self.to_cancel.insert((lease, seen.job));
            }
        }
        if entry.record.job != Some(own) {
            entry.record.job = Some(own);
            self.work.push(entry.store());
        }
    }

    /// Slurm shows no job of it. One list may be wrong: a controller that just began forgets.
    fn on_missed(&mut self, lease: LeaseId, asked_at: BootMs, now: BootMs) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        entry.runs = false;
        let (times, first) = entry.missed.get_or_insert((0, asked_at));
        *times += 1;
        let sure = *times > 1 && asked_at.since(*first) >= self.timing.settle_ms;
        if entry.record.granted_until.is_some() {
            return;
        }
        if !sure {
            return self.soon(now);
        }
        // Its program never began, and cannot without a grant: another try does no harm.
        match &entry.launch {
            Some(_) if entry.record.job.is_none() && entry.submits < limits::SUBMITS => {
                self.submit(lease, now)
            }
            _ => self.fail(lease, EndKind::Lost, "Slurm forgot its job before it began".into(), now),
        }
    }
}
