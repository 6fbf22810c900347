//! A process is stopped for a while and wakes with stale beliefs; or a whole machine is suspended.

use super::Fault;
use crate::cluster::Cluster;
use crate::rng::SeededRng;

struct Pause {
    leader: bool,
    machine: bool,
    stopped: Option<u64>,
}

pub fn any(_: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Pause { leader: false, machine: false, stopped: None })
}

pub fn leader(_: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Pause { leader: true, machine: false, stopped: None })
}

/// `machine-pause`: the watchdog stands still too, only boot time goes on.
pub fn machine(rng: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Pause { leader: rng.one_in(2), machine: true, stopped: None })
}

impl Fault for Pause {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        let id = if self.leader { cluster.leader_or_any() } else { cluster.any() };
        let stopped = if self.machine { cluster.suspend(id) } else { cluster.stop(id) };
        self.stopped = stopped.then_some(id);
        let what = if self.machine { "machine suspended" } else { "process stopped" };
        format!("{what}: {:?}", self.stopped)
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        match self.stopped.take() {
            Some(id) if self.machine => cluster.wake(id),
            Some(id) => cluster.go_on(id),
            None => {}
        }
    }
}
