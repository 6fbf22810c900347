//! Another peer is elected though the leader is well; the old one may hear of it late.

use crate::dice::Dice;
use crate::fast::world::World;

/// Any peer that has a quorum.
pub fn replaced(world: &mut World, dice: &mut Dice) -> bool {
    let peer = world.any_peer(dice);
    if !world.has_quorum(peer) {
        return false;
    }
    world.say("FAULT", 9, peer as u64, || format!("peer {} is elected", peer + 1));
    world.elect(peer);
    true
}

/// The leader is elected again: a new term, and nothing of the old one is known.
pub fn replaced_and_back(world: &mut World, dice: &mut Dice) -> bool {
    let peer = world.leader_or_any(dice);
    if !world.has_quorum(peer) {
        return false;
    }
    world.say("FAULT", 10, peer as u64, || format!("peer {} is elected again", peer + 1));
    world.elect(peer);
    true
}
