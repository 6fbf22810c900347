//! A lease is taken back only when its attempt has provably stopped: its machine said so, or its deadline is past by most
//! of the margin that the leader waits beyond it.

use std::collections::{BTreeMap, BTreeSet};

use stint_protocol::LeaseId;
use stint_scheduler::State;

/// How much less than the margin it may be, in milliseconds: the drift of two clocks over a lease.
const DRIFT_MS: u64 = 150;

struct Given {
    /// When it runs out, by the world's time.
    until_ms: u64,
    ended: bool,
}

/// The leases that reached a machine, and those in force.
#[derive(Default)]
pub struct Released {
    given: BTreeMap<LeaseId, Given>,
    in_force: BTreeSet<LeaseId>,
    newest: u64,
    margin_ms: u64,
}

impl Released {
    /// Nothing is leased; a leader waits for this margin beyond a deadline.
    pub fn new(margin_ms: u64) -> Self {
        Self { margin_ms: margin_ms.saturating_sub(DRIFT_MS), ..Self::default() }
    }

    /// A machine was given a lease, or more time of it.
    pub fn given(&mut self, lease: LeaseId, until_ms: u64) {
        let given = self.given.entry(lease).or_insert(Given { until_ms, ended: false });
        given.until_ms = given.until_ms.max(until_ms);
    }

    /// A machine says that the attempt is gone.
    pub fn ended(&mut self, lease: LeaseId) {
        if let Some(given) = self.given.get_mut(&lease) {
            given.ended = true;
        }
    }

    /// A replica is the first that shows this index; one that lags behind has no news.
    pub fn first_seen(&mut self, index: u64, state: &State, now_ms: u64) -> Result<(), String> {
        if index <= self.newest {
            return Ok(());
        }
        self.newest = index;
        let in_force: BTreeSet<LeaseId> = state.leases().map(|(_, lease)| lease).collect();
        let before = std::mem::replace(&mut self.in_force, in_force);
        for lease in before.difference(&self.in_force) {
            let Some(given) = self.given.get(lease).filter(|given| !given.ended) else { continue };
            let least = given.until_ms + self.margin_ms;
            if now_ms < least {
                let early = least - now_ms;
                return Err(format!(
                    "attempt {lease} lost its lease {early} ms before it had surely stopped"
                ));
            }
        }
        Ok(())
    }
}
