//! What runs on a machine at one time fits in what its node offers: processors, memory, slots.

use std::collections::BTreeMap;

use stint_protocol::{LeaseId, NodeOffer, Resources};

/// What each machine offers, and what runs on it.
#[derive(Default)]
pub struct NoOvercommit {
    offers: BTreeMap<u64, NodeOffer>,
    running: BTreeMap<u64, BTreeMap<LeaseId, Resources>>,
}

impl NoOvercommit {
    /// A machine offers this.
    pub fn offers(&mut self, machine: u64, offer: NodeOffer) {
        self.offers.insert(machine, offer);
    }

    /// A machine begins an attempt.
    pub fn started(&mut self, lease: LeaseId, machine: u64, needs: Resources) -> Result<(), String> {
        let running = self.running.entry(machine).or_default();
        running.insert(lease, needs);
        let Some(offer) = self.offers.get(&machine) else { return Ok(()) };
        let used = running.values().fold(Resources::default(), |sum, one| sum.plus(one));
        if !offer.resources.holds(&used) || running.len() > offer.slots as usize {
            let (many, slots) = (running.len(), offer.slots);
            return Err(format!(
                "machine {machine} runs {many} attempts with {used:?}, and offers {slots} slots with {:?}",
                offer.resources
            ));
        }
        Ok(())
    }

    /// An attempt is gone.
    pub fn stopped(&mut self, lease: LeaseId, machine: u64) {
        if let Some(running) = self.running.get_mut(&machine) {
            running.remove(&lease);
        }
    }
}
