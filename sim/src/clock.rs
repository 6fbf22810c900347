//! Door: time. One virtual world time, and a clock of each machine that drifts, is set wrong and starts anew at power-on.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use stint_node::clock::Clock;
use stint_protocol::{BootMs, TimeMs};

/// Wall time when a simulation begins, in milliseconds since 1970.
const WALL_START_MS: i64 = 1_790_000_000_000;

/// Virtual time since the simulation began, as nobody in it can see it. Moves once a step.
#[derive(Clone, Default)]
pub struct WorldTime(Arc<AtomicU64>);

impl WorldTime {
    /// Milliseconds since the beginning.
    pub fn ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Moves on.
    pub fn set_ms(&self, ms: u64) {
        self.0.store(ms, Ordering::SeqCst);
    }
}

/// The clocks of one machine.
pub struct MachineClock {
    world: WorldTime,
    /// How much faster than world time, in millionths; below zero: slower.
    drift_ppm: i64,
    /// How far the wall clock is set wrong.
    wall_offset_ms: i64,
    /// What a jump adds to it.
    jump_ms: AtomicI64,
    powered_on_ms: AtomicU64,
    /// What the boot clock showed at power-on.
    boot_start_ms: u64,
}

impl MachineClock {
    /// A machine that is switched on now.
    pub fn new(world: WorldTime, drift_ppm: i64, wall_offset_ms: i64, boot_start_ms: u64) -> Self {
        let powered_on_ms = AtomicU64::new(world.ms());
        Self { world, drift_ppm, wall_offset_ms, jump_ms: AtomicI64::new(0), powered_on_ms, boot_start_ms }
    }

    /// How long the world takes until this boot clock has gone on by so much.
    pub fn in_world_ms(&self, boot_ms: u64) -> u64 {
        (boot_ms as i64 * 1_000_000 / (1_000_000 + self.drift_ppm)) as u64
    }

    /// The machine starts anew: its boot clock does too.
    pub fn power_on(&self) {
        self.powered_on_ms.store(self.world.ms(), Ordering::SeqCst);
    }

    /// Sets the wall clock wrong by this much more; zero sets it right again.
    pub fn jump(&self, ms: i64) {
        self.jump_ms.store(ms, Ordering::SeqCst);
    }

    fn drifted(&self, ms: u64) -> u64 {
        (ms as i64 + ms as i64 * self.drift_ppm / 1_000_000) as u64
    }
}

impl Clock for MachineClock {
    fn wall(&self) -> TimeMs {
        let set_wrong = self.wall_offset_ms + self.jump_ms.load(Ordering::SeqCst);
        TimeMs((WALL_START_MS + set_wrong) as u64 + self.drifted(self.world.ms()))
    }

    fn boot(&self) -> BootMs {
        let since = self.world.ms() - self.powered_on_ms.load(Ordering::SeqCst);
        BootMs(self.boot_start_ms + self.drifted(since))
    }
}
