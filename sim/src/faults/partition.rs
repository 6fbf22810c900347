//! Links are cut in both directions: around one peer, between two, or between two halves.

use super::Fault;
use crate::cluster::Cluster;
use crate::rng::SeededRng;

enum Shape {
    AroundAny,
    AroundLeader,
    Pair,
    Halves,
}

struct Partition {
    shape: Shape,
    cut: Vec<(u64, u64)>,
}

fn partition(shape: Shape) -> Box<dyn Fault> {
    Box::new(Partition { shape, cut: Vec::new() })
}

pub fn isolate(_: &mut SeededRng) -> Box<dyn Fault> {
    partition(Shape::AroundAny)
}

pub fn isolate_leader(_: &mut SeededRng) -> Box<dyn Fault> {
    partition(Shape::AroundLeader)
}

pub fn pair(_: &mut SeededRng) -> Box<dyn Fault> {
    partition(Shape::Pair)
}

/// `partition-halves`: no peer of one group hears any of the other.
pub fn halves(_: &mut SeededRng) -> Box<dyn Fault> {
    partition(Shape::Halves)
}

impl Partition {
    fn groups(&self, cluster: &mut Cluster<'_>) -> (Vec<u64>, Vec<u64>) {
        let one = match self.shape {
            Shape::AroundLeader => cluster.leader_or_any(),
            Shape::AroundAny | Shape::Pair | Shape::Halves => cluster.any(),
        };
        let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != one).collect();
        match self.shape {
            Shape::Pair => (vec![one], cluster.any_but(one).into_iter().collect()),
            Shape::Halves => {
                let (mut here, mut there) = (vec![one], Vec::new());
                others
                    .iter()
                    .for_each(|id| if cluster.rng.one_in(2) { here.push(*id) } else { there.push(*id) });
                (here, there)
            }
            Shape::AroundAny | Shape::AroundLeader => (vec![one], others),
        }
    }
}

impl Fault for Partition {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        let (here, there) = self.groups(cluster);
        let both = |(one, other): (&u64, &u64)| [(*one, *other), (*other, *one)];
        let pairs = here.iter().flat_map(|one| there.iter().map(move |other| (one, other)));
        self.cut = pairs.flat_map(both).collect();
        self.cut.iter().for_each(|(from, to)| cluster.cut(*from, *to));
        format!("cut between peers {here:?} and {there:?}")
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        self.cut.iter().for_each(|(from, to)| cluster.mend(*from, *to));
    }
}
