//! The watchdog of a host is killed, looks late at its clock, or is forgotten by its node.

use crate::fast::event::Event;
use crate::fast::world::World;
use crate::rng::SeededRng;

/// The pid namespaces of its attempts die with it; the next one reports them as lost.
pub fn killed(world: &mut World, rng: &mut SeededRng) -> bool {
    let node = world.any_peer(rng);
    if !world.machines[world.shape.machine_of[node]].powered {
        return false;
    }
    world.say("FAULT", 3, node as u64, || format!("the watchdog of node {} is killed", node + 1));
    let now = world.clocks(node).boot(world.now);
    let happened = world.hosts[node].watchdog_dies(now);
    world.happened(node, happened);
    true
}

/// A busy machine: it acts late, by less than the margin that is kept for killing.
pub fn slow(world: &mut World, rng: &mut SeededRng) -> bool {
    let node = world.any_peer(rng);
    let late = rng.between(10, world.shape.settings.kill_margin_ms - 50);
    world.say("FAULT", 4, node as u64, || format!("the watchdog of node {} is {late} ms late", node + 1));
    world.hosts[node].host_model.late_ms = late;
    world.queue.at(world.now + rng.between(2_000, 15_000), Event::QuickWatchdog { node });
    true
}

/// The process restarts and its journal is lost: what ran goes on under a watchdog of which nobody knows.
pub fn unaccounted(world: &mut World, rng: &mut SeededRng) -> bool {
    let node = world.any_peer(rng);
    if !world.peers[node].up || !world.hosts[node].lose_account() {
        return false;
    }
    let away = rng.between(20, 1_500);
    world.say("FAULT", 5, node as u64, || format!("node {} loses its journal, away {away} ms", node + 1));
    world.stop_process(node);
    world.queue.at(world.now + away, Event::StartProcess { peer: node });
    true
}
