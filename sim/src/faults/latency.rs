//! Datagrams take long, and overtake each other.

use super::Fault;
use crate::cluster::{CALM_LATENCY_MS, Cluster};
use crate::dice::Dice;

struct Spike(u64);

pub fn spike(dice: &mut Dice) -> Box<dyn Fault> {
    Box::new(Spike(dice.between(20, 600)))
}

impl Fault for Spike {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        cluster.latency(self.0);
        format!("latency up to {} ms", self.0)
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        cluster.latency(CALM_LATENCY_MS);
    }
}
