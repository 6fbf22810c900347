//! A peer's process is killed; its host goes on, and it comes back as the same incarnation.

use crate::dice::Dice;
use crate::fast::event::Event;
use crate::fast::world::World;

pub fn crash(world: &mut World, dice: &mut Dice) -> bool {
    let peer = world.any_peer(dice);
    crash_one(world, dice, peer)
}

pub fn crash_leader(world: &mut World, dice: &mut Dice) -> bool {
    let peer = world.leader_or_any(dice);
    crash_one(world, dice, peer)
}

fn crash_one(world: &mut World, dice: &mut Dice, peer: usize) -> bool {
    if !world.peers[peer].up {
        return false;
    }
    let away = world.shape.outage_ms(dice);
    world
        .say("FAULT", 1, peer as u64, || format!("the process of peer {} is killed for {away} ms", peer + 1));
    world.stop_process(peer);
    world.queue.at(world.now + away, Event::StartProcess { peer });
    true
}
