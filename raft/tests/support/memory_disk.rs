//! The simulated disk for tests: chance from a seed, and faults on demand.

use std::io;

use super::simulated_disk::{self, DiskFaults, Rng};

/// How many seeds a test runs: `STINT_RAFT_SEEDS` when it is set, for a longer search.
pub fn seeds(usual: u64) -> u64 {
    std::env::var("STINT_RAFT_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(usual)
}

/// A small seeded generator.
#[derive(Debug, Clone)]
pub struct TestRng(u64);

impl TestRng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

impl Rng for TestRng {
    fn below(&mut self, bound: u64) -> u64 {
        TestRng::below(self, bound)
    }
}

/// What goes wrong. All off by default.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Bytes that may still be written before the disk is full.
    pub space: Option<u64>,
    /// Syncs that may still succeed before they fail.
    pub good_syncs: Option<u64>,
    /// Syncs say they worked and do nothing: a lying disk, which the tests must notice.
    pub lying_syncs: bool,
}

impl DiskFaults for Faults {
    fn on_write(&mut self, bytes: usize) -> io::Result<()> {
        if let Some(space) = &mut self.space {
            *space = space.checked_sub(bytes as u64).ok_or(io::ErrorKind::StorageFull)?;
        }
        Ok(())
    }

    fn on_sync(&mut self) -> io::Result<()> {
        if let Some(good) = &mut self.good_syncs {
            *good = good.checked_sub(1).ok_or_else(|| io::Error::other("input/output error"))?;
        }
        Ok(())
    }

    fn lies(&self) -> bool {
        self.lying_syncs
    }
}

/// The disk as tests see it; `session` gives what a peer gets.
pub type MemoryDisk = simulated_disk::MemoryDisk<Faults>;
