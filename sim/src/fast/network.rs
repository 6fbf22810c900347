//! Messages between peers: links that are cut in one direction, and faults that delay, drop and repeat.

use crate::rng::SeededRng;

/// Longest time a message takes without a fault, in milliseconds.
const CALM_MS: u64 = 4;

/// What faulty links do.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkFaults {
    /// One message in so many is lost; 0 = none.
    pub lost_one_in: u64,
    pub doubled_one_in: u64,
    pub late_one_in: u64,
    /// Longest delay of a late one, in milliseconds.
    pub late_ms: u64,
}

/// The links.
pub struct Network {
    peers: usize,
    /// How many faults cut each directed link.
    cuts: Vec<u32>,
    pub link_faults: LinkFaults,
    pub link_epoch: u64,
}

impl Network {
    pub fn new(peers: usize) -> Self {
        Self { peers, cuts: vec![0; peers * peers], link_faults: LinkFaults::default(), link_epoch: 0 }
    }

    pub fn open(&self, from: usize, to: usize) -> bool {
        self.cuts[from * self.peers + to] == 0
    }

    pub fn both(&self, one: usize, other: usize) -> bool {
        self.open(one, other) && self.open(other, one)
    }

    pub fn cut(&mut self, from: usize, to: usize) {
        self.cuts[from * self.peers + to] += 1;
    }

    pub fn mend(&mut self, from: usize, to: usize) {
        let cuts = &mut self.cuts[from * self.peers + to];
        *cuts = cuts.saturating_sub(1);
    }

    pub fn heal(&mut self) {
        self.cuts.fill(0);
        self.link_faults = LinkFaults::default();
    }

    /// How long each copy of a message takes, in milliseconds; none when it is lost.
    pub fn delays(&self, rng: &mut SeededRng) -> [Option<u64>; 2] {
        let LinkFaults { lost_one_in, doubled_one_in, late_one_in, late_ms } = self.link_faults;
        let happens = |one_in: u64, rng: &mut SeededRng| one_in > 0 && rng.one_in(one_in);
        let takes = |rng: &mut SeededRng| {
            if happens(late_one_in, rng) { rng.between(CALM_MS, late_ms) } else { rng.between(1, CALM_MS) }
        };
        let first = (!happens(lost_one_in, rng)).then(|| takes(rng));
        let second = happens(doubled_one_in, rng).then(|| takes(rng) + rng.between(0, 3_000));
        [first, second]
    }
}
