//! Door: time and chance. Waiting uses tokio's time, which the simulator drives.

use std::sync::Mutex;

use rand::{RngExt, SeedableRng};
use stint_protocol::{BootMs, TimeMs};

/// What a node may ask about time.
pub trait Clock: Send + Sync + 'static {
    /// Wall time; may jump.
    fn wall(&self) -> TimeMs;
    /// CLOCK_BOOTTIME; never goes back, goes on in suspend.
    fn boot(&self) -> BootMs;
}

/// The host's clocks.
pub struct HostClock;

impl Clock for HostClock {
    #[allow(clippy::disallowed_methods)] // the one place that reads the wall clock
    fn wall(&self) -> TimeMs {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        TimeMs(since.map_or(0, |d| d.as_millis() as u64))
    }

    fn boot(&self) -> BootMs {
        stint_executor::boot_now()
    }
}

/// A node's source of chance: seeded from the system, or by the simulator.
pub struct Rng(Mutex<rand::rngs::StdRng>);

impl Rng {
    /// Seeded by the operating system.
    pub fn from_system() -> Self {
        Self(Mutex::new(rand::make_rng()))
    }

    /// Always the same sequence.
    pub fn seeded(seed: u64) -> Self {
        Self(Mutex::new(rand::rngs::StdRng::seed_from_u64(seed)))
    }

    /// 128 random bits.
    pub fn random_bits(&self) -> u128 {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).random()
    }
}
