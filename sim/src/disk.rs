//! Door: the log's storage. What of the simulated disk is this simulation's: how long its syncs take, and who draws.

use std::sync::Mutex;
use std::time::Duration;

use stint_raft::SyncDelay;
use stint_raft::simulated_disk::Rng;

use crate::disk_faults::DiskFaults;
use crate::rng::SeededRng;

/// The disk as the world sees it; `session` gives what a peer gets.
pub type MemoryDisk = stint_raft::simulated_disk::MemoryDisk<DiskFaults>;

impl Rng for SeededRng {
    fn below(&mut self, bound: u64) -> u64 {
        SeededRng::below(self, bound)
    }
}

/// How long syncs take: most 0.5 to 3 ms, some 8, few 60; while the disk is slow, as its trouble says.
pub fn sync_delay(disk: &MemoryDisk, rng: SeededRng) -> SyncDelay {
    let (disk, rng) = (disk.clone(), Mutex::new(rng));
    SyncDelay::model(move || {
        let mut rng = rng.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(slow_ms) = disk.faults(|trouble| trouble.slow_ms) {
            return Duration::from_millis(rng.within(slow_ms));
        }
        let micros = match rng.below(100) {
            0..=89 => rng.between(500, 3_000),
            90..=98 => 8_000,
            _ => 60_000,
        };
        Duration::from_micros(micros)
    })
}
