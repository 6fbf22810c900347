//! What runs on a node fits on it: processors, memory and slots, as its host sees them.

use std::collections::BTreeMap;

use stint_protocol::{LeaseId, NodeOffer, Resources, SharedSpec};

/// What each node has, and what runs on it.
pub struct Room {
    offers: Vec<NodeOffer>,
    used: Vec<(Resources, u32)>,
    running: BTreeMap<LeaseId, (usize, Resources)>,
}

impl Room {
    pub fn new(offers: &[NodeOffer]) -> Self {
        let used = vec![(Resources::default(), 0); offers.len()];
        Self { offers: offers.to_vec(), used, running: BTreeMap::new() }
    }

    pub fn began(&mut self, node: usize, lease: LeaseId, spec: &SharedSpec) -> Result<(), String> {
        let need = spec.resources();
        self.running.insert(lease, (node, need));
        let (used, slots) = &mut self.used[node];
        (*used, *slots) = (used.plus(&need), *slots + 1);
        let offer = &self.offers[node];
        if offer.resources.holds(used) && *slots <= offer.slots {
            return Ok(());
        }
        Err(format!("attempt {lease} makes it {used:?} in {slots} slots on node {}", node + 1))
    }

    pub fn ended(&mut self, lease: LeaseId) {
        if let Some((node, need)) = self.running.remove(&lease) {
            let (used, slots) = &mut self.used[node];
            (*used, *slots) = (used.minus(&need), *slots - 1);
        }
    }
}
