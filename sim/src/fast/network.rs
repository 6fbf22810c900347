//! Messages between peers: links that are cut in one direction, and weather that delays, drops and repeats.

use crate::dice::Dice;

/// Longest time a message takes without a fault, in milliseconds.
const CALM_MS: u64 = 4;

/// What the weather does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
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
    pub weather: Weather,
    pub weather_epoch: u64,
}

impl Network {
    pub fn new(peers: usize) -> Self {
        Self { peers, cuts: vec![0; peers * peers], weather: Weather::default(), weather_epoch: 0 }
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
        self.weather = Weather::default();
    }

    /// How long each copy of a message takes, in milliseconds; none when it is lost.
    pub fn delays(&self, dice: &mut Dice) -> [Option<u64>; 2] {
        let Weather { lost_one_in, doubled_one_in, late_one_in, late_ms } = self.weather;
        let happens = |one_in: u64, dice: &mut Dice| one_in > 0 && dice.one_in(one_in);
        let takes = |dice: &mut Dice| {
            if happens(late_one_in, dice) { dice.between(CALM_MS, late_ms) } else { dice.between(1, CALM_MS) }
        };
        let first = (!happens(lost_one_in, dice)).then(|| takes(dice));
        let second = happens(doubled_one_in, dice).then(|| takes(dice) + dice.between(0, 3_000));
        [first, second]
    }
}
