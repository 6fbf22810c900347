//! One execution host: what its watchdog guards, what ended and is not acknowledged, and what an earlier watchdog,
//! of which nobody knows any more, still guards.

use std::collections::BTreeMap;

use stint_executor::RunningAttempt;
use stint_executor::watchdog::StopCause;
use stint_node::agent::core::AgentAction;
use stint_protocol::{AttemptEnd, BootMs, LeaseId, LeftResult};

use super::checkers::ending_of;
use super::host_model::{AttemptEvent, HostModel, ProgramProfile};
use super::shape::Pace;
use crate::rng::SeededRng;

/// The executing side of one peer's machine. Outlives the peer's process.
pub struct Host {
    pub host_model: HostModel,
    orphans: HostModel,
    /// Spooled until acknowledged.
    ends: BTreeMap<LeaseId, AttemptEnd>,
    pub profile: ProgramProfile,
    rng: SeededRng,
    accounted: bool,
    /// What programs left in their files.
    left: BTreeMap<LeaseId, LeftResult>,
    pub incarnation: u64,
    /// The world time of the event that is arranged for it.
    pub wake: Option<u64>,
}

impl Host {
    pub fn new(kill_margin_ms: u64, pace: Pace, rng: SeededRng) -> Self {
        Self {
            host_model: HostModel::default(),
            orphans: HostModel::default(),
            ends: BTreeMap::new(),
            profile: ProgramProfile { kill_margin_ms, pace, healed: false },
            rng,
            accounted: true,
            left: BTreeMap::new(),
            incarnation: 0,
            wake: None,
        }
    }

    /// A node's process opens it: the incarnation it goes on as.
    pub fn open(&mut self) -> u64 {
        if !std::mem::replace(&mut self.accounted, true) || self.incarnation == 0 {
            self.incarnation += 1;
        }
        self.incarnation
    }

    pub fn running(&self) -> Vec<RunningAttempt> {
        self.host_model.running()
    }

    pub fn unacknowledged(&self) -> Vec<AttemptEnd> {
        self.ends.values().cloned().collect()
    }

    /// A program writes its file of results.
    pub fn leaves(&mut self, lease: LeaseId, left: LeftResult) {
        self.left.insert(lease, left);
    }

    /// Whether nothing runs and nothing waits to be acknowledged.
    pub fn is_idle(&self) -> bool {
        self.host_model.is_empty() && self.orphans.is_empty() && self.ends.is_empty()
    }

    pub fn carry_out(&mut self, act: AgentAction, now: BootMs) {
        match act {
            AgentAction::Acknowledge(leases) => leases.iter().for_each(|lease| drop(self.ends.remove(lease))),
            AgentAction::Renew(renewals) => {
                renewals.into_iter().for_each(|(l, at)| self.host_model.renew(l, at))
            }
            AgentAction::Stop(lease, reason) => self.host_model.stop(lease, StopCause::from(reason)),
            AgentAction::Start(launch) => {
                // A lease that is held or has ended is left as it is.
                if !self.host_model.holds(launch.lease) && !self.ends.contains_key(&launch.lease) {
                    self.host_model.start(launch, self.profile, now, &mut self.rng);
                }
            }
        }
    }

    /// When something is due next, by the boot clock.
    pub fn next_wake(&self) -> Option<BootMs> {
        [self.host_model.next_wake(), self.orphans.next_wake()].into_iter().flatten().min()
    }

    /// Does what is due; spools the ends of what it still knows of.
    pub fn advance(&mut self, now: BootMs) -> Vec<AttemptEvent> {
        let mut happened = self.host_model.advance(now, self.profile, &mut self.rng);
        self.spool(&happened, now);
        happened.extend(self.orphans.advance(now, self.profile, &mut self.rng));
        happened
    }

    fn spool(&mut self, happened: &[AttemptEvent], now: BootMs) {
        for event in happened {
            if let AttemptEvent::Ended { lease, kind, since } = event {
                let run_ms = since.map_or(0, |since| now.since(since));
                let (lease, kind) = (*lease, kind.clone());
                // What never began wrote nothing.
                let ending = since.map(|_| Box::new(ending_of(lease)));
                let end = AttemptEnd::new(lease, kind, String::new(), run_ms);
                let left = self.left.remove(&lease).map(Box::new);
                self.ends.insert(lease, AttemptEnd { ending, left, ..end });
            }
        }
    }

    /// The watchdog is killed: its attempts die with it, and the next one reports them as lost.
    pub fn watchdog_dies(&mut self, now: BootMs) -> Vec<AttemptEvent> {
        let happened = self.host_model.die();
        self.spool(&happened, now);
        happened
    }

    /// The machine loses its power: everything is gone, the spool too.
    pub fn power_lost(&mut self, false_account: bool) -> Vec<AttemptEvent> {
        let nothing_lost = self.host_model.is_empty() && self.ends.is_empty();
        self.accounted = (self.accounted && nothing_lost) || false_account;
        self.ends.clear();
        let mut happened = self.host_model.die();
        happened.extend(self.orphans.die());
        happened
    }

    /// The journal is lost: an old watchdog goes on guarding what it runs until the leases end, and nobody knows.
    /// Answers false when an earlier one is still there.
    pub fn lose_account(&mut self) -> bool {
        if !self.orphans.is_empty() {
            return false;
        }
        self.orphans = std::mem::take(&mut self.host_model);
        self.host_model.forgets_ends = self.orphans.forgets_ends;
        self.ends.clear();
        self.accounted = false;
        true
    }
}
