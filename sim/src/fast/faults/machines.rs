//! A machine loses its power: what runs on it is gone, its spool too, and it comes back as a new incarnation.

use crate::fast::event::Event;
use crate::fast::world::World;
use crate::rng::SeededRng;

pub fn power_loss(world: &mut World, rng: &mut SeededRng) -> bool {
    let peer = world.any_peer(rng);
    lose_power(world, rng, peer)
}

pub fn power_loss_of_leader(world: &mut World, rng: &mut SeededRng) -> bool {
    let peer = world.leader_or_any(rng);
    lose_power(world, rng, peer)
}

fn lose_power(world: &mut World, rng: &mut SeededRng, peer: usize) -> bool {
    let machine = world.shape.machine_of[peer];
    if !world.machines[machine].powered {
        return false;
    }
    let away = if rng.one_in(2) { rng.between(100, 2_000) } else { rng.between(2_000, 15_000) };
    world.say("FAULT", 2, machine as u64, || format!("machine {machine} loses its power for {away} ms"));
    world.power_off(machine);
    world.queue.at(world.now + away, Event::PowerOn { machine });
    true
}
