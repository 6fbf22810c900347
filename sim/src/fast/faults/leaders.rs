//! Another peer is elected though the leader is well; the old one may hear of it late.

use crate::fast::world::World;
use crate::rng::SeededRng;

/// Any peer that has a quorum.
pub fn replaced(world: &mut World, rng: &mut SeededRng) -> bool {
    let peer = world.any_peer(rng);
    if !world.has_quorum(peer) {
        return false;
    }
    world.say("FAULT", 9, peer as u64, || format!("peer {} is elected", peer + 1));
    world.elect(peer);
    true
}

/// The leader is elected again: a new term, and nothing of the old one is known.
pub fn replaced_and_back(world: &mut World, rng: &mut SeededRng) -> bool {
    let peer = world.leader_or_any(rng);
    if !world.has_quorum(peer) {
        return false;
    }
    world.say("FAULT", 10, peer as u64, || format!("peer {} is elected again", peer + 1));
    world.elect(peer);
    true
}
