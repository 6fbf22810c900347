//! Links between peers are cut, in one direction or both.

use crate::fast::event::Event;
use crate::fast::world::World;
use crate::rng::SeededRng;

/// One peer hears or is heard by nobody, or both.
pub fn isolate(world: &mut World, rng: &mut SeededRng) -> bool {
    let peer = world.any_peer(rng);
    isolate_one(world, rng, peer)
}

pub fn isolate_leader(world: &mut World, rng: &mut SeededRng) -> bool {
    let peer = world.leader_or_any(rng);
    isolate_one(world, rng, peer)
}

fn isolate_one(world: &mut World, rng: &mut SeededRng, peer: usize) -> bool {
    let length = world.shape.outage_ms(rng);
    let (hears, heard) =
        [(false, false), (false, false), (true, false), (false, true)][rng.below(4) as usize];
    world.say("FAULT", 6, peer as u64, || {
        format!("peer {} is cut off (hears {hears}, is heard {heard}) for {length} ms", peer + 1)
    });
    for other in (0..world.peers.len()).filter(|other| *other != peer) {
        if !hears {
            cut(world, other, peer, length);
        }
        if !heard {
            cut(world, peer, other, length);
        }
    }
    true
}

/// One link, in one direction or both.
pub fn pair(world: &mut World, rng: &mut SeededRng) -> bool {
    let (one, other) = (world.any_peer(rng), world.any_peer(rng));
    if one == other {
        return false;
    }
    let length = world.shape.outage_ms(rng);
    world
        .say("FAULT", 7, one as u64, || format!("no link from {} to {} for {length} ms", one + 1, other + 1));
    cut(world, one, other, length);
    if rng.one_in(2) {
        cut(world, other, one, length);
    }
    true
}

/// The leader and a minority on one side, everybody else on the other.
pub fn split_with_leader(world: &mut World, rng: &mut SeededRng) -> bool {
    let leader = world.leader_or_any(rng);
    let length = world.shape.outage_ms(rng) + rng.between(0, 3_000);
    let few = (world.peers.len() - 1) / 2;
    let mut side = vec![leader];
    while side.len() < few {
        let peer = world.any_peer(rng);
        if !side.contains(&peer) {
            side.push(peer);
        }
    }
    world.say("FAULT", 8, leader as u64, || format!("{side:?} are split off for {length} ms"));
    for one in (0..world.peers.len()).filter(|peer| !side.contains(peer)) {
        for other in &side {
            cut(world, one, *other, length);
            cut(world, *other, one, length);
        }
    }
    true
}

fn cut(world: &mut World, from: usize, to: usize, length: u64) {
    world.network.cut(from, to);
    world.queue.at(world.now + length, Event::Mend { from, to });
}
