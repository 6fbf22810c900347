//! A GPU has one holder at most, by what runs on the machines.

use std::collections::BTreeMap;

use stint_protocol::{GpuId, LeaseId};

/// Which attempt uses each device.
#[derive(Default)]
pub struct OneHolder(BTreeMap<GpuId, LeaseId>);

impl OneHolder {
    /// An attempt begins to use these devices.
    pub fn taken(&mut self, lease: LeaseId, gpus: &[GpuId]) -> Result<(), String> {
        for gpu in gpus {
            if let Some(holder) = self.0.insert(gpu.clone(), lease) {
                return Err(format!("GPU {gpu} is taken by attempt {lease} while attempt {holder} uses it"));
            }
        }
        Ok(())
    }

    /// An attempt is gone.
    pub fn freed(&mut self, lease: LeaseId) {
        self.0.retain(|_, holder| *holder != lease);
    }
}
