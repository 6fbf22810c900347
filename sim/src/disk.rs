//! Door: the log's storage. What of the simulated disk is this simulation's: how long its syncs take, and who draws.

use std::sync::Mutex;
use std::time::Duration;

use stint_raft::SyncDelay;
use stint_raft::simulated_disk::Chance;

use crate::dice::Dice;
use crate::disk_trouble::Trouble;

/// The disk as the world sees it; `session` gives what a peer gets.
pub type MemoryDisk = stint_raft::simulated_disk::MemoryDisk<Trouble>;

impl Chance for Dice {
    fn below(&mut self, bound: u64) -> u64 {
        Dice::below(self, bound)
    }
}

/// How long syncs take: most 0.5 to 3 ms, some 8, few 60; while the disk is slow, as its trouble says.
pub fn sync_delay(disk: &MemoryDisk, dice: Dice) -> SyncDelay {
    let (disk, dice) = (disk.clone(), Mutex::new(dice));
    SyncDelay::model(move || {
        let mut dice = dice.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(slow_ms) = disk.trouble(|trouble| trouble.slow_ms) {
            return Duration::from_millis(dice.within(slow_ms));
        }
        let micros = match dice.below(100) {
            0..=89 => dice.between(500, 3_000),
            90..=98 => 8_000,
            _ => 60_000,
        };
        Duration::from_micros(micros)
    })
}
