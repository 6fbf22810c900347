//! A process is stopped for a while and wakes with stale beliefs, alone or with its watchdog; or a whole machine is suspended.

use super::Fault;
use crate::cluster::Cluster;
use crate::rng::SeededRng;

/// What stands still.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stops {
    Process,
    /// The node's process and its watchdog, as `killall -STOP stint` does.
    Host,
    Machine,
}

struct Pause {
    leader: bool,
    stops: Stops,
    stopped: Option<u64>,
}

pub fn any(_: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Pause { leader: false, stops: Stops::Process, stopped: None })
}

pub fn leader(_: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Pause { leader: true, stops: Stops::Process, stopped: None })
}

/// `machine-pause`: the watchdog stands still too, only boot time goes on.
pub fn machine(rng: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Pause { leader: rng.one_in(2), stops: Stops::Machine, stopped: None })
}

/// `host-stopped`: what runs on the machine goes on.
pub fn host(rng: &mut SeededRng) -> Box<dyn Fault> {
    Box::new(Pause { leader: rng.one_in(3), stops: Stops::Host, stopped: None })
}

impl Fault for Pause {
    fn begin(&mut self, cluster: &mut Cluster<'_>) -> String {
        let id = if self.leader { cluster.leader_or_any() } else { cluster.any() };
        let stopped = if self.stops == Stops::Machine { cluster.suspend(id) } else { cluster.stop(id) };
        self.stopped = stopped.then_some(id);
        if stopped && self.stops == Stops::Host {
            cluster.peer(id).machine().watchdog_stops();
        }
        let what = match self.stops {
            Stops::Process => "process stopped",
            Stops::Host => "process and watchdog stopped",
            Stops::Machine => "machine suspended",
        };
        format!("{what}: {:?}", self.stopped)
    }

    fn end(&mut self, cluster: &mut Cluster<'_>) {
        let Some(id) = self.stopped.take() else { return };
        match self.stops {
            Stops::Process => cluster.go_on(id),
            Stops::Host => {
                cluster.peer(id).machine().watchdog_goes_on();
                cluster.go_on(id);
            }
            Stops::Machine => cluster.wake(id),
        }
    }
}
