//! A GPU has one holder at most, by what runs on the machines.

use std::collections::BTreeMap;

use stint_protocol::{GpuId, LeaseId};

/// Which attempt uses each device, and on which machine.
#[derive(Default)]
pub struct OneHolder(BTreeMap<GpuId, (LeaseId, u64)>);

impl OneHolder {
    /// An attempt begins to use these devices.
    pub fn taken(&mut self, lease: LeaseId, machine: u64, gpus: &[GpuId]) -> Result<(), String> {
        for gpu in gpus {
            if let Some((holder, _)) = self.0.insert(gpu.clone(), (lease, machine)) {
                return Err(format!("GPU {gpu} is taken by attempt {lease} while attempt {holder} uses it"));
            }
        }
        Ok(())
    }

    /// An attempt is gone.
    pub fn freed(&mut self, lease: LeaseId) {
        self.0.retain(|_, (holder, _)| *holder != lease);
    }

    /// Nothing on this machine runs any more.
    pub fn suspended(&mut self, machine: u64) {
        self.0.retain(|_, (_, on)| *on != machine);
    }
}
