//! A disk is slow, full, or fails: a full or failed one ends the peer's process, which is started again until it works.

use super::Fault;
use crate::cluster::Cluster;
use crate::disk_faults::{DiskFaults, Failing};
use crate::rng::SeededRng;
use crate::scenario::Range;

#[derive(Clone, Copy, Debug)]
enum What {
    Slow(Range),
    Full,
    Failing(Failing),
}

enum Whose {
    Any,
    Leader,
    /// As where all machines store on one array.
    All,
}

struct Disk {
    what: What,
    whose: Whose,
    on: Vec<u64>,
}

fn disk(what: What, rng: &mut SeededRng) -> Box<dyn Fault> {
    let whose = if rng.one_in(3) { Whose::Leader } else { Whose::Any };
    Box::new(Disk { what, whose, on: Vec::new() })
}

fn slowness(rng: &mut SeededRng) -> What {
    let low = rng.between(50, 500);
    What::Slow(Range(low, low + rng.between(50, 2_500)))
}

pub fn slow(rng: &mut SeededRng) -> Box<dyn Fault> {
    let slowness = slowness(rng);
    disk(slowness, rng)
}

/// `disk-slow-all`.
pub fn all_slow(rng: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Disk { what: slowness(rng), whose: Whose::All, on: Vec::new() })
}

pub fn full(rng: &mut SeededRng) -> Box<dyn Fault> {
    disk(What::Full, rng)
}

/// `disk-error`.
pub fn failing(rng: &mut SeededRng) -> Box<dyn Fault> {
    let operation = *rng.pick(&[Failing::Sync, Failing::Sync, Failing::Write, Failing::Read]);
    disk(What::Failing(operation), rng)
}

impl What {
    fn set(self, trouble: &mut DiskFaults, on: bool) {
        match self {
            What::Slow(range) => trouble.slow_ms = on.then_some(range),
            What::Full => trouble.full = on,
            What::Failing(operation) => trouble.failing = on.then_some(operation),
        }
    }
}

impl Fault for Disk {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        self.on = match self.whose {
            Whose::Any => vec![cluster.any()],
            Whose::Leader => vec![cluster.leader_or_any()],
            Whose::All => cluster.ids(),
        };
        for id in &self.on {
            cluster.peer(*id).disk().faults(|trouble| self.what.set(trouble, true));
        }
        format!("disks of peers {:?}: {:?}", self.on, self.what)
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        for id in self.on.drain(..) {
            cluster.peer(id).disk().faults(|trouble| self.what.set(trouble, false));
        }
    }
}
