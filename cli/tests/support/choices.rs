//! Choices of tests that can be made again from a number.

/// A number from the system for choices that need not repeat; printed by whoever uses it.
pub fn seed() -> u64 {
    let given = std::env::var("STINT_TEST_SEED").ok().and_then(|s| s.parse().ok());
    given.unwrap_or_else(|| std::process::id().into())
}

/// A small generator for choices in tests (SplitMix64).
pub struct Choices(pub u64);

impl Choices {
    pub fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % most
    }
}
