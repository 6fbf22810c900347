//! What goes wrong, one kind a file, and when: three lanes (machines, links, weather) of faults one after another.

mod crash;
mod hold;
mod latency;
mod loss;
mod one_way;
mod partition;

use crate::cluster::Cluster;
use crate::dice::Dice;

/// One kind of fault.
pub trait Fault {
    /// Begins; answers what was done, in words for the trace.
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String;
    /// Takes back what was done.
    fn end(&mut self, cluster: &mut Cluster<'_>);
}

type Draw = fn(&mut Dice) -> Box<dyn Fault>;

const MACHINES: &[Draw] = &[crash::one, crash::one, crash::leader, crash::leader, crash::all];
const LINKS: &[Draw] = &[
    partition::isolate,
    partition::pair,
    partition::isolate_leader,
    one_way::any,
    one_way::from_leader,
    one_way::to_leader,
    hold::pair,
];
const WEATHER: &[Draw] = &[loss::some, latency::spike];

/// Faults of one lane, one after another.
struct Lane {
    draws: &'static [Draw],
    longest_ms: u64,
    pause_ms: u64,
    dice: Dice,
    next_at_ms: u64,
    now: Option<(u64, Box<dyn Fault>)>,
}

impl Lane {
    fn new(draws: &'static [Draw], longest_ms: u64, pause_ms: u64, mut dice: Dice) -> Self {
        let next_at_ms = dice.between(500, pause_ms);
        Self { draws, longest_ms, pause_ms, dice, next_at_ms, now: None }
    }

    fn step(&mut self, now_ms: u64, cluster: &mut Cluster<'_>) {
        if self.now.as_ref().is_some_and(|(until, _)| *until <= now_ms) {
            self.heal(cluster);
            self.next_at_ms = now_ms + self.dice.between(100, self.pause_ms);
        }
        if self.now.is_none() && self.next_at_ms <= now_ms {
            let draw = self.dice.pick(self.draws);
            let mut fault = draw(&mut self.dice);
            let length = self.dice.between(50, self.longest_ms);
            let done = fault.begin(cluster);
            cluster.oracle.say(&format!("FAULT {done} for {length} ms"));
            self.now = Some((now_ms + length, fault));
        }
    }

    fn heal(&mut self, cluster: &mut Cluster<'_>) {
        if let Some((_, mut fault)) = self.now.take() {
            fault.end(cluster);
        }
    }
}

/// The whole schedule of a seed.
pub struct Faults(Vec<Lane>);

impl Faults {
    /// Drawn as time goes on; the first ones come soon after `from_ms`.
    pub fn new(seed: u64, from_ms: u64) -> Self {
        let mut lanes = vec![
            Lane::new(MACHINES, 9_000, 5_000, Dice::new(seed, 0x3001)),
            Lane::new(LINKS, 12_000, 4_000, Dice::new(seed, 0x3002)),
            Lane::new(WEATHER, 5_000, 6_000, Dice::new(seed, 0x3003)),
        ];
        for lane in &mut lanes {
            lane.next_at_ms += from_ms;
        }
        Self(lanes)
    }

    /// Begins and ends what is due.
    pub fn step(&mut self, now_ms: u64, cluster: &mut Cluster<'_>) {
        self.0.iter_mut().for_each(|lane| lane.step(now_ms, cluster));
    }

    /// Ends everything.
    pub fn heal(&mut self, cluster: &mut Cluster<'_>) {
        self.0.iter_mut().for_each(|lane| lane.heal(cluster));
    }
}
