//! The leader and one other peer are cut off from the rest together: they still hear each other.

use super::Fault;
use crate::cluster::Cluster;
use crate::rng::SeededRng;

struct PairCut(Vec<(u64, u64)>);

pub fn leader_and_one(_: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(PairCut(Vec::new()))
}

impl Fault for PairCut {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        let leader = cluster.leader_or_any();
        let mut rest: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
        if rest.is_empty() {
            return "nobody to cut off".into();
        }
        let one = *cluster.rng.pick(&rest);
        rest.retain(|id| *id != one);
        let away = |other: &u64| [(leader, *other), (*other, leader), (one, *other), (*other, one)];
        self.0 = rest.iter().flat_map(away).collect();
        self.0.iter().for_each(|(from, to)| cluster.cut(*from, *to));
        format!("cut between leader {leader} with peer {one} and {rest:?}")
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        self.0.iter().for_each(|(from, to)| cluster.mend(*from, *to));
    }
}
