//! One execution host: what its watchdog guards, what ended and is not acknowledged, and what an earlier watchdog,
//! of which nobody knows any more, still guards.

use std::collections::BTreeMap;

use stint_executor::Held;
use stint_executor::watchdog::Why;
use stint_node::agent::core::Act;
use stint_protocol::{AttemptEnd, BootMs, LeaseId};

use super::shape::Pace;
use super::ward::{Habits, Happening, Ward};
use crate::dice::Dice;

/// The executing side of one peer's machine. Outlives the peer's process.
pub struct Host {
    pub ward: Ward,
    orphans: Ward,
    /// Spooled until acknowledged.
    ends: BTreeMap<LeaseId, AttemptEnd>,
    pub habits: Habits,
    dice: Dice,
    accounted: bool,
    pub incarnation: u64,
    /// The world time of the event that is arranged for it.
    pub wake: Option<u64>,
}

impl Host {
    pub fn new(kill_margin_ms: u64, pace: Pace, dice: Dice) -> Self {
        Self {
            ward: Ward::default(),
            orphans: Ward::default(),
            ends: BTreeMap::new(),
            habits: Habits { kill_margin_ms, pace, healed: false },
            dice,
            accounted: true,
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

    pub fn held(&self) -> Vec<Held> {
        self.ward.held()
    }

    pub fn unacknowledged(&self) -> Vec<AttemptEnd> {
        self.ends.values().cloned().collect()
    }

    /// Whether nothing runs and nothing waits to be acknowledged.
    pub fn is_idle(&self) -> bool {
        self.ward.is_empty() && self.orphans.is_empty() && self.ends.is_empty()
    }

    pub fn carry_out(&mut self, act: Act, now: BootMs) {
        match act {
            Act::Acknowledge(leases) => leases.iter().for_each(|lease| drop(self.ends.remove(lease))),
            Act::Renew(renewals) => renewals.into_iter().for_each(|(l, at)| self.ward.renew(l, at)),
            Act::Stop(lease, reason) => self.ward.stop(lease, Why::from(reason)),
            Act::Start(launch) => {
                // A lease that is held or has ended is left as it is.
                if !self.ward.holds(launch.lease) && !self.ends.contains_key(&launch.lease) {
                    self.ward.start(launch, self.habits, now, &mut self.dice);
                }
            }
        }
    }

    /// When something is due next, by the boot clock.
    pub fn next_wake(&self) -> Option<BootMs> {
        [self.ward.next_wake(), self.orphans.next_wake()].into_iter().flatten().min()
    }

    /// Does what is due; spools the ends of what it still knows of.
    pub fn advance(&mut self, now: BootMs) -> Vec<Happening> {
        let mut happened = self.ward.advance(now, self.habits, &mut self.dice);
        self.spool(&happened, now);
        happened.extend(self.orphans.advance(now, self.habits, &mut self.dice));
        happened
    }

    fn spool(&mut self, happened: &[Happening], now: BootMs) {
        for happening in happened {
            if let Happening::Ended { lease, kind, since } = happening {
                let run_ms = since.map_or(0, |since| now.since(since));
                let (lease, kind) = (*lease, kind.clone());
                self.ends.insert(lease, AttemptEnd::new(lease, kind, String::new(), run_ms));
            }
        }
    }

    /// The watchdog is killed: its attempts die with it, and the next one reports them as lost.
    pub fn watchdog_dies(&mut self, now: BootMs) -> Vec<Happening> {
        let happened = self.ward.die();
        self.spool(&happened, now);
        happened
    }

    /// The machine loses its power: everything is gone, the spool too.
    pub fn power_lost(&mut self, false_account: bool) -> Vec<Happening> {
        let nothing_lost = self.ward.is_empty() && self.ends.is_empty();
        self.accounted = (self.accounted && nothing_lost) || false_account;
        self.ends.clear();
        let mut happened = self.ward.die();
        happened.extend(self.orphans.die());
        happened
    }

    /// The journal is lost: an old watchdog goes on guarding what it runs until the leases end, and nobody knows.
    /// Answers false when an earlier one is still there.
    pub fn lose_account(&mut self) -> bool {
        if !self.orphans.is_empty() {
            return false;
        }
        self.orphans = std::mem::take(&mut self.ward);
        self.ward.forgets_ends = self.orphans.forgets_ends;
        self.ends.clear();
        self.accounted = false;
        true
    }
}
