//! Seeded chance of the simulation: each part has a sequence of its own, so that one more draw here changes nothing there.

use std::collections::BTreeMap;

use crate::scenario::Range;

/// A small generator (SplitMix64).
#[derive(Debug, Clone)]
pub struct SeededRng(u64);

impl SeededRng {
    /// The same seed and label always give the same sequence.
    pub fn new(seed: u64, label: u64) -> Self {
        let mut rng = Self(seed ^ label.wrapping_mul(0xd6e8_feb8_6659_fd93));
        rng.next();
        rng
    }

    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is above zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// Within a range of a scenario.
    pub fn within(&mut self, range: Range) -> u64 {
        self.between(range.0, range.1.max(range.0))
    }

    /// One of these, by weight; none when all weights are zero.
    pub fn weighted<'a, K>(&mut self, of: &'a BTreeMap<K, u64>) -> Option<&'a K> {
        let mut at = self.below(of.values().sum::<u64>().max(1));
        let chosen = of.iter().find(|(_, weight)| {
            let here = at < **weight;
            at = at.saturating_sub(**weight);
            here
        });
        chosen.map(|(key, _)| key)
    }

    /// True once in `n` draws.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}
