//! A disk is slow, full, or fails: a full or failed one ends the peer's process, which is started again until it works.

use super::Fault;
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::disk_trouble::{Failing, Trouble};
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

fn disk(what: What, dice: &mut Dice) -> Box<dyn Fault> {
    let whose = if dice.one_in(3) { Whose::Leader } else { Whose::Any };
    Box::new(Disk { what, whose, on: Vec::new() })
}

fn slowness(dice: &mut Dice) -> What {
    let low = dice.between(50, 500);
    What::Slow(Range(low, low + dice.between(50, 2_500)))
}

pub fn slow(dice: &mut Dice) -> Box<dyn Fault> {
    let slowness = slowness(dice);
    disk(slowness, dice)
}

/// `disk-slow-all`.
pub fn all_slow(dice: &mut Dice) -> Box<dyn Fault> {
    Box::new(Disk { what: slowness(dice), whose: Whose::All, on: Vec::new() })
}

pub fn full(dice: &mut Dice) -> Box<dyn Fault> {
    disk(What::Full, dice)
}

/// `disk-error`.
pub fn failing(dice: &mut Dice) -> Box<dyn Fault> {
    let operation = *dice.pick(&[Failing::Sync, Failing::Sync, Failing::Write, Failing::Read]);
    disk(What::Failing(operation), dice)
}

impl What {
    fn set(self, trouble: &mut Trouble, on: bool) {
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
            cluster.peer(*id).disk().trouble(|trouble| self.what.set(trouble, true));
        }
        format!("disks of peers {:?}: {:?}", self.on, self.what)
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        for id in self.on.drain(..) {
            cluster.peer(id).disk().trouble(|trouble| self.what.set(trouble, false));
        }
    }
}
