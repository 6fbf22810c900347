//! Datagrams take long, and overtake each other.

use super::Fault;
use crate::cluster::{CALM_LATENCY_MS, Cluster};
use crate::rng::SeededRng;

struct Spike(u64);

pub fn spike(rng: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Spike(rng.between(20, 600)))
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
