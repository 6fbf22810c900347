//! Processes are killed, or machines lose their power: one, the leader's, or all.

use super::Fault;
use crate::cluster::Cluster;
use crate::rng::SeededRng;

enum Whom {
    Any,
    Leader,
    All,
}

struct Crash {
    whom: Whom,
    power: bool,
    /// What was not synced is partly damaged after the power comes back.
    garbage: bool,
    down: Vec<u64>,
}

fn crash(whom: Whom, rng: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Crash { whom, power: rng.one_in(2), garbage: false, down: Vec::new() })
}

pub fn one(rng: &mut SeededRng) -> Box<dyn Fault> {
    crash(Whom::Any, rng)
}

pub fn leader(rng: &mut SeededRng) -> Box<dyn Fault> {
    crash(Whom::Leader, rng)
}

pub fn all(rng: &mut SeededRng) -> Box<dyn Fault> {
    crash(Whom::All, rng)
}

/// `disk-corrupt-tail`.
pub fn with_garbage(rng: &mut SeededRng) -> Box<dyn Fault> {
    let whom = if rng.one_in(3) { Whom::All } else { Whom::Any };
    Box::new(Crash { whom, power: true, garbage: true, down: Vec::new() })
}

impl Fault for Crash {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        let whom = match self.whom {
            Whom::Any => vec![cluster.any()],
            Whom::Leader => vec![cluster.leader_or_any()],
            Whom::All => cluster.ids(),
        };
        let (power, garbage) = (self.power, self.garbage);
        self.down = whom.into_iter().filter(|id| cluster.crash(*id, power, garbage)).collect();
        let what = match (power, garbage) {
            (true, true) => "power lost in the middle of writes",
            (true, false) => "power lost",
            (false, _) => "process killed",
        };
        format!("{what} on peers {:?}", self.down)
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        self.down.iter().for_each(|id| cluster.restart(*id));
    }
}
