//! Links are cut in both directions: around one peer, or between two.

use super::Fault;
use crate::cluster::Cluster;
use crate::dice::Dice;

enum Shape {
    AroundAny,
    AroundLeader,
    Pair,
}

struct Partition {
    shape: Shape,
    cut: Vec<(u64, u64)>,
}

fn partition(shape: Shape) -> Box<dyn Fault> {
    Box::new(Partition { shape, cut: Vec::new() })
}

pub fn isolate(_: &mut Dice) -> Box<dyn Fault> {
    partition(Shape::AroundAny)
}

pub fn isolate_leader(_: &mut Dice) -> Box<dyn Fault> {
    partition(Shape::AroundLeader)
}

pub fn pair(_: &mut Dice) -> Box<dyn Fault> {
    partition(Shape::Pair)
}

impl Fault for Partition {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        let one = match self.shape {
            Shape::AroundLeader => cluster.leader_or_any(),
            Shape::AroundAny | Shape::Pair => cluster.any(),
        };
        let mut others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != one).collect();
        if let Shape::Pair = self.shape {
            others = vec![*cluster.dice.pick(&others)];
        }
        self.cut = others.iter().flat_map(|other| [(one, *other), (*other, one)]).collect();
        self.cut.iter().for_each(|(from, to)| cluster.cut(*from, *to));
        format!("cut between peer {one} and {others:?}")
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        self.cut.iter().for_each(|(from, to)| cluster.mend(*from, *to));
    }
}
