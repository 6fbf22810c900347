//! Links are cut and mended over and over: one link, or all of one peer.

use super::Fault;
use crate::cluster::Cluster;
use crate::rng::SeededRng;

struct Flap {
    /// How long links are cut, and how long whole, in milliseconds at most.
    most_ms: u64,
    all_of_peer: bool,
    rng: SeededRng,
    links: Vec<(u64, u64)>,
    cut: bool,
    next_ms: u64,
}

pub fn links(rng: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Flap {
        most_ms: rng.between(50, 1_500),
        all_of_peer: rng.one_in(2),
        rng: SeededRng::new(rng.next(), 1),
        links: Vec::new(),
        cut: false,
        next_ms: 0,
    })
}

impl Flap {
    fn turn(&mut self, cluster: &mut Cluster<'_>) {
        self.cut = !self.cut;
        for (from, to) in &self.links {
            if self.cut {
                cluster.cut(*from, *to);
            } else {
                cluster.mend(*from, *to);
            }
        }
    }
}

impl Fault for Flap {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        let one = cluster.any();
        let others: Vec<u64> = match cluster.any_but(one) {
            Some(other) if !self.all_of_peer => vec![other],
            _ => cluster.ids().into_iter().filter(|id| *id != one).collect(),
        };
        self.links = others.iter().flat_map(|other| [(one, *other), (*other, one)]).collect();
        format!("links between peer {one} and {others:?} come and go within {} ms", self.most_ms)
    }

    fn step(&mut self, now_ms: u64, cluster: &mut Cluster<'_>) {
        if self.next_ms <= now_ms {
            self.next_ms = now_ms + self.rng.between(10, self.most_ms);
            self.turn(cluster);
        }
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        if self.cut {
            self.turn(cluster);
        }
    }
}
