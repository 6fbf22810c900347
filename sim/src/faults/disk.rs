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

struct Disk {
    what: What,
    leader: bool,
    on: Option<u64>,
}

fn disk(what: What, dice: &mut Dice) -> Box<dyn Fault> {
    Box::new(Disk { what, leader: dice.one_in(3), on: None })
}

pub fn slow(dice: &mut Dice) -> Box<dyn Fault> {
    let low = dice.between(50, 500);
    let range = Range(low, low + dice.between(50, 2_500));
    disk(What::Slow(range), dice)
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
        let id = if self.leader { cluster.leader_or_any() } else { cluster.any() };
        cluster.peer(id).disk().trouble(|trouble| self.what.set(trouble, true));
        self.on = Some(id);
        format!("disk of peer {id}: {:?}", self.what)
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        if let Some(id) = self.on.take() {
            cluster.peer(id).disk().trouble(|trouble| self.what.set(trouble, false));
        }
    }
}
