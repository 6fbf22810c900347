//! The watchdog of a machine dies, and all it runs with it; or it is slow to kill, inside the margin.

use super::Fault;
use crate::cluster::Cluster;
use crate::rng::SeededRng;

/// Longest time until the node has another watchdog, in milliseconds.
const AWAY_MS: u64 = 3_000;

struct Dead {
    away_ms: u64,
}

struct Slow {
    on: Option<u64>,
}

pub fn dead(rng: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Dead { away_ms: rng.between(20, AWAY_MS) })
}

pub fn slow(_: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Slow { on: None })
}

impl Fault for Dead {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        let id = cluster.any();
        cluster.peer(id).machine().watchdog_dies(self.away_ms);
        format!("watchdog of machine {id} dies, another comes after {} ms", self.away_ms)
    }

    fn end(&mut self, _: &mut Cluster<'_>) {}
}

impl Fault for Slow {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        let id = cluster.any();
        cluster.peer(id).machine().slow_kills(true);
        self.on = Some(id);
        format!("kills are slow on machine {id}")
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        if let Some(id) = self.on.take() {
            cluster.peer(id).machine().slow_kills(false);
        }
    }
}
