//! Machines: their power, their clocks, and the locks of their devices.

use std::collections::BTreeMap;

use stint_protocol::{GpuId, GpuInfo};

use super::clock::Clocks;
use super::event::Event;
use super::host_model::AttemptEvent;
use super::plant::FastPlant;
use super::world::World;

/// One machine; it may hold two peers.
pub struct Machine {
    pub clocks: Clocks,
    pub powered: bool,
    /// Which peer's process holds the lock of each device.
    locks: BTreeMap<GpuId, usize>,
}

impl Machine {
    pub fn new(clocks: Clocks) -> Self {
        Self { clocks, powered: true, locks: BTreeMap::new() }
    }

    /// The devices whose locks were free: they are the process's now.
    pub fn lock(&mut self, peer: usize, gpus: &[GpuInfo]) -> Vec<GpuInfo> {
        let mut locked = Vec::new();
        for gpu in gpus {
            if *self.locks.entry(gpu.id.clone()).or_insert(peer) == peer {
                locked.push(gpu.clone());
            }
        }
        locked
    }

    /// The process is gone, and its locks with it.
    pub fn unlock(&mut self, peer: usize) {
        self.locks.retain(|_, holder| *holder != peer);
    }
}

impl World {
    fn peers_of(&self, machine: usize) -> Vec<usize> {
        (0..self.peers.len()).filter(|peer| self.shape.machine_of[*peer] == machine).collect()
    }

    /// Everything on the machine is gone at once.
    pub fn power_off(&mut self, machine: usize) {
        self.say("power-off", machine as u64, 0, || format!("machine {machine}"));
        self.machines[machine].powered = false;
        for peer in self.peers_of(machine) {
            self.stop_process(peer);
            let false_account = self.plant == Some(FastPlant::FalseAccount);
            let happened = self.hosts[peer].power_lost(false_account);
            for event in happened {
                if let AttemptEvent::Ended { lease, since: Some(_), .. } = event {
                    self.oracle.gone(lease);
                }
            }
        }
    }

    /// The machine is switched on, its boot clock begins anew, and its peers start.
    pub fn power_on(&mut self, machine: usize) {
        if self.machines[machine].powered {
            return;
        }
        self.machines[machine].powered = true;
        self.machines[machine].clocks.power_on(self.now);
        for peer in self.peers_of(machine) {
            self.queue.at(self.now + 50 + peer as u64 * 7, Event::StartProcess { peer });
        }
    }
}
