//! An attempt is gone when its lease ends, by its node's own clock: `ttl` after the last report that a leader answered
//! with its renewal was sent.

use std::collections::BTreeMap;

use stint_node::wire::{Orders, Report};
use stint_protocol::{BootMs, LeaseId};

/// The latest end of each lease that any leader has promised.
#[derive(Default)]
pub struct Deadlines(BTreeMap<LeaseId, BootMs>);

impl Deadlines {
    /// A leader answers a report.
    pub fn ordered(&mut self, report: &Report, orders: &Orders) {
        for grant in &orders.grants {
            let end = report.sent.plus(grant.ttl_ms);
            let known = self.0.entry(grant.lease).or_insert(end);
            *known = (*known).max(end);
        }
    }

    /// An attempt ended on its node.
    pub fn ended(&mut self, lease: LeaseId, now: BootMs) -> Result<(), String> {
        match self.0.remove(&lease) {
            Some(end) if now > end => {
                Err(format!("attempt {lease} ran {} ms beyond the end of its lease", now.since(end)))
            }
            Some(_) => Ok(()),
            None => Err(format!("attempt {lease} ran without a lease that any leader promised")),
        }
    }

    /// An attempt is gone with its machine.
    pub fn gone(&mut self, lease: LeaseId) {
        self.0.remove(&lease);
    }
}
