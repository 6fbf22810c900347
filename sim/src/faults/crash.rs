//! Processes are killed, or machines lose their power: one, the leader's, or all.

use super::Fault;
use crate::cluster::Cluster;
use crate::dice::Dice;

enum Whom {
    Any,
    Leader,
    All,
}

struct Crash {
    whom: Whom,
    power: bool,
    down: Vec<u64>,
}

fn crash(whom: Whom, dice: &mut Dice) -> Box<dyn Fault> {
    Box::new(Crash { whom, power: dice.one_in(2), down: Vec::new() })
}

pub fn one(dice: &mut Dice) -> Box<dyn Fault> {
    crash(Whom::Any, dice)
}

pub fn leader(dice: &mut Dice) -> Box<dyn Fault> {
    crash(Whom::Leader, dice)
}

pub fn all(dice: &mut Dice) -> Box<dyn Fault> {
    crash(Whom::All, dice)
}

impl Fault for Crash {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        let whom = match self.whom {
            Whom::Any => vec![cluster.any()],
            Whom::Leader => vec![cluster.leader_or_any()],
            Whom::All => cluster.ids(),
        };
        let power = self.power;
        self.down = whom.into_iter().filter(|id| cluster.crash(*id, power)).collect();
        let what = if power { "power lost" } else { "process killed" };
        format!("{what} on peers {:?}", self.down)
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        self.down.iter().for_each(|id| cluster.restart(*id));
    }
}
