//! The clocks of a machine: a boot clock that drifts and starts anew at power-on, and a wall clock that may jump.

use stint_protocol::{BootMs, TimeMs};

/// Wall time when a simulation begins, in milliseconds since 1970.
const WALL_START_MS: u64 = 1_790_000_000_000;

/// The clocks of one machine; world time in milliseconds goes in.
#[derive(Clone, Debug)]
pub struct Clocks {
    /// How much faster than world time, in millionths; below zero: slower.
    pub drift_ppm: i64,
    powered_on: u64,
    /// What the boot clock showed at power-on.
    boot_start: u64,
    /// How far the wall clock is from right.
    pub wall_offset_ms: i64,
}

impl Clocks {
    pub fn new(drift_ppm: i64, boot_start: u64, wall_offset_ms: i64) -> Self {
        Self { drift_ppm, powered_on: 0, boot_start, wall_offset_ms }
    }

    /// CLOCK_BOOTTIME.
    pub fn boot(&self, now: u64) -> BootMs {
        let since = (now - self.powered_on) as i64;
        BootMs(self.boot_start + (since + since * self.drift_ppm / 1_000_000) as u64)
    }

    /// The first world time at which the boot clock shows `boot` or more; `now` when it does already.
    pub fn world_at(&self, boot: BootMs, now: u64) -> u64 {
        let wait = boot.since(self.boot(now)) as i64;
        let mut at = now + (wait * 1_000_000 / (1_000_000 + self.drift_ppm)) as u64;
        while self.boot(at) < boot {
            at += 1;
        }
        at
    }

    /// The wall clock.
    pub fn wall(&self, now: u64) -> TimeMs {
        TimeMs((WALL_START_MS + now).saturating_add_signed(self.wall_offset_ms))
    }

    /// The machine is switched on: its boot clock starts anew.
    pub fn power_on(&mut self, now: u64) {
        self.powered_on = now;
        self.boot_start = 1_000;
    }
}
