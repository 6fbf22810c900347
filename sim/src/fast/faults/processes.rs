//! A peer's process is killed; its host goes on, and it comes back as the same incarnation.

use crate::fast::event::Event;
use crate::fast::world::World;
use crate::rng::SeededRng;

pub fn crash(world: &mut World, rng: &mut SeededRng) -> bool {
    let peer = world.any_peer(rng);
    crash_one(world, rng, peer)
}

pub fn crash_leader(world: &mut World, rng: &mut SeededRng) -> bool {
    let peer = world.leader_or_any(rng);
    crash_one(world, rng, peer)
}

fn crash_one(world: &mut World, rng: &mut SeededRng, peer: usize) -> bool {
    if !world.peers[peer].up {
        return false;
    }
    let away = world.shape.outage_ms(rng);
    world
        .say("FAULT", 1, peer as u64, || format!("the process of peer {} is killed for {away} ms", peer + 1));
    world.stop_process(peer);
    world.queue.at(world.now + away, Event::StartProcess { peer });
    true
}
