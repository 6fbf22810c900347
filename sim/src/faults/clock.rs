//! The wall clock of one machine jumps, and is set right again.

use super::Fault;
use crate::cluster::Cluster;
use crate::rng::SeededRng;

struct Jump {
    ms: i64,
    leader: bool,
    on: Option<u64>,
}

pub fn jump(rng: &mut SeededRng) -> Box<dyn Fault> {
    let most_ms = *rng.pick(&[2_000, 60_000, 3_600_000, 8 * 3_600_000]);
    let ms = rng.between(500, most_ms) as i64;
    let ms = if rng.one_in(3) { -ms } else { ms };
    Box::new(Jump { ms, leader: rng.one_in(2), on: None })
}

impl Fault for Jump {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        let id = if self.leader { cluster.leader_or_any() } else { cluster.any() };
        cluster.peer(id).clock().jump(self.ms);
        self.on = Some(id);
        format!("wall clock of peer {id} jumps by {} ms", self.ms)
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        if let Some(id) = self.on.take() {
            cluster.peer(id).clock().jump(0);
        }
    }
}
