//! Links are cut in one direction: what one peer says is not heard, or what is said to it.

use super::Fault;
use crate::cluster::Cluster;
use crate::rng::SeededRng;

enum Direction {
    Any,
    FromLeader,
    ToLeader,
}

struct OneWay {
    direction: Direction,
    cut: Vec<(u64, u64)>,
}

fn one_way(direction: Direction) -> Box<dyn Fault> {
    Box::new(OneWay { direction, cut: Vec::new() })
}

pub fn any(_: &mut SeededRng) -> Box<dyn Fault> {
    one_way(Direction::Any)
}

pub fn from_leader(_: &mut SeededRng) -> Box<dyn Fault> {
    one_way(Direction::FromLeader)
}

pub fn to_leader(_: &mut SeededRng) -> Box<dyn Fault> {
    one_way(Direction::ToLeader)
}

impl Fault for OneWay {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        let one = match self.direction {
            Direction::Any => cluster.any(),
            Direction::FromLeader | Direction::ToLeader => cluster.leader_or_any(),
        };
        let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != one).collect();
        self.cut = match self.direction {
            Direction::Any => cluster.any_but(one).map(|other| (one, other)).into_iter().collect(),
            Direction::FromLeader => others.iter().map(|other| (one, *other)).collect(),
            Direction::ToLeader => others.iter().map(|other| (*other, one)).collect(),
        };
        self.cut.iter().for_each(|(from, to)| cluster.cut(*from, *to));
        format!("one-way cuts {:?}", self.cut)
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        self.cut.iter().for_each(|(from, to)| cluster.mend(*from, *to));
    }
}
