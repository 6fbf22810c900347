//! Slurm fails in its ways: its controller is away, forgets, answers late or not at all, purges what it knew; its nodes
//! fail; and so does the folder that they share with ours.

use super::Fault;
use crate::cluster::Cluster;
use crate::rng::SeededRng;
use crate::scenario::Range;
use crate::slurm::SlurmFaults;

type Set = fn(&mut SlurmFaults, &Drawn, bool);

struct Drawn {
    range: Range,
    coin: bool,
}

struct Lasting {
    name: &'static str,
    drawn: Drawn,
    set: Set,
}

fn lasting(rng: &mut SeededRng, name: &'static str, set: Set) -> Box<dyn Fault> {
    let low = rng.between(20, 800);
    let drawn = Drawn { range: Range(low, low + rng.between(50, 4_500)), coin: rng.one_in(2) };
    Box::new(Lasting { name, drawn, set })
}

/// `slurm-down`: no controller answers. Half of the time it comes back without a job for a while, as one does that reads
/// its state.
pub fn down(rng: &mut SeededRng) -> Box<dyn Fault> {
    lasting(rng, "Slurm's controller is away", |trouble, drawn, on| match drawn.coin {
        true => trouble.empty = on,
        false => trouble.down = on,
    })
}

/// `slurm-slow`: commands take long, and answers get lost.
pub fn slow(rng: &mut SeededRng) -> Box<dyn Fault> {
    lasting(rng, "Slurm answers late", |trouble, drawn, on| {
        trouble.slow_ms = on.then_some(drawn.range);
        trouble.loses_answers = on;
    })
}

/// `slurm-purge`: records of ended jobs go at once.
pub fn purge(rng: &mut SeededRng) -> Box<dyn Fault> {
    lasting(rng, "Slurm purges its records", |trouble, _, on| trouble.purges = on)
}

/// `folder-away`: the shared folder cannot be reached, or hangs.
pub fn folder_away(rng: &mut SeededRng) -> Box<dyn Fault> {
    lasting(rng, "the shared folder is away", |trouble, _, on| trouble.folder_away = on)
}

/// `folder-stale`: what is written in the shared folder stays unseen elsewhere for a while.
pub fn folder_stale(rng: &mut SeededRng) -> Box<dyn Fault> {
    lasting(rng, "the shared folder is stale", |trouble, drawn, on| {
        trouble.stale_ms = on.then_some(drawn.range);
    })
}

impl Fault for Lasting {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        cluster.slurm.set_faults(|trouble| (self.set)(trouble, &self.drawn, true));
        format!("{} ({:?}, {})", self.name, self.drawn.range, self.drawn.coin)
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        cluster.slurm.set_faults(|trouble| (self.set)(trouble, &self.drawn, false));
    }
}

enum Blow {
    Forget,
    NodeFails,
    Preempt,
}

/// `slurm-forgets`: the controller crashes and comes back with what it saved some seconds ago.
pub fn forgets(_: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Blow::Forget)
}

/// `slurm-node-fails`: what runs on it goes on.
pub fn node_fails(_: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Blow::NodeFails)
}

/// `slurm-preempts` a job for another.
pub fn preempts(_: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Blow::Preempt)
}

impl Fault for Blow {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        match self {
            Blow::Forget => cluster.slurm.forget(),
            Blow::NodeFails => cluster.slurm.strike(true),
            Blow::Preempt => cluster.slurm.strike(false),
        }
    }

    fn end(&mut self, _: &mut Cluster<'_>) {}
}
