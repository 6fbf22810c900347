//! A node falls silent at the worst moment: right after it was renewed, or before it hears what it should launch.
//! Armed by the schedule, begun by the orders that make the moment.

use stint_node::wire::{Grant, Orders, Report};

use crate::fast::event::{Call, Event};
use crate::fast::shape::Pace;
use crate::fast::world::World;
use crate::rng::SeededRng;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Armed {
    /// Orders that renew without having been held: the leader waits hardly longer than the node.
    AfterRenewal,
    /// Orders that launch something: they do not arrive, and the node is back when the leader gives the lease up.
    BeforeLaunch,
}

pub fn after_renewal(world: &mut World, _: &mut SeededRng) -> bool {
    world.trouble.armed.push(Armed::AfterRenewal);
    true
}

pub fn before_launch(world: &mut World, _: &mut SeededRng) -> bool {
    world.trouble.armed.push(Armed::BeforeLaunch);
    true
}

impl World {
    /// Orders are about to be sent to another peer: perhaps this is the moment.
    pub fn spring(&mut self, leader: usize, call: Call, report: &Report, orders: &Orders) {
        if self.now < self.trouble.silent_until || self.trouble.armed.is_empty() {
            return;
        }
        let launches = orders.grants.iter().find(|grant| grant.launch.is_some());
        let at_once = report.hold_ms == 0 && report.register.is_none();
        // Where leases are long, the clocks count: the leader's must be the faster one.
        let apart = self.clocks(leader).drift_ppm > self.clocks(call.node).drift_ppm;
        let host_model = &self.hosts[call.node].host_model;
        let lasts = |grant: &Grant| host_model.outlasts(grant.lease, report.sent.plus(grant.ttl_ms));
        let renews = at_once
            && (apart || self.shape.pace != Pace::Long)
            && orders.grants.iter().any(|grant| grant.launch.is_none() && lasts(grant));
        let fits = |armed: &Armed| match armed {
            Armed::AfterRenewal => renews,
            Armed::BeforeLaunch => launches.is_some(),
        };
        let Some(place) = self.trouble.armed.iter().position(fits) else { return };
        let margin = self.shape.longest_wait_ms();
        match self.trouble.armed.remove(place) {
            Armed::AfterRenewal => {
                // Nothing leaves the node from now on; what is on its way to it arrives.
                let length = margin + self.rng.between(1_000, 4_000);
                self.trouble.silent_until = self.now + length;
                for to in (0..self.peers.len()).filter(|to| *to != call.node) {
                    self.network.cut(call.node, to);
                    self.queue.at(self.now + length, Event::Mend { from: call.node, to });
                }
                self.queue.at(self.now + 15, Event::Silence { node: call.node, length });
            }
            Armed::BeforeLaunch => {
                let ttl = launches.map_or(0, |grant| grant.ttl_ms);
                let waits = ttl + ttl / 100 + self.shape.settings.lease_margin_ms;
                let length = waits + self.rng.between(0, 1_500);
                self.trouble.silent_until = self.now + length;
                self.silence(call.node, length);
            }
        }
    }

    /// Cuts a node off in both directions.
    pub fn silence(&mut self, node: usize, length: u64) {
        self.say("silence", node as u64, length, || format!("node {} for {length} ms", node + 1));
        for other in (0..self.peers.len()).filter(|other| *other != node) {
            for (from, to) in [(node, other), (other, node)] {
                self.network.cut(from, to);
                self.queue.at(self.now + length, Event::Mend { from, to });
            }
        }
        self.watch_leader();
    }
}
