//! Disks: those of a majority are slow, so that entries take long while everything else is fast; one loses a file.

use crate::dice::Dice;
use crate::fast::event::Event;
use crate::fast::world::World;

pub fn slow(world: &mut World, dice: &mut Dice) -> bool {
    let (most, length) = (dice.between(60, 3_000), dice.between(500, 9_000));
    world.say("FAULT", 11, most, || format!("entries take up to {most} ms for {length} ms"));
    world.trouble.slow_disks_ms = most;
    world.trouble.disks_epoch += 1;
    let epoch = world.trouble.disks_epoch;
    world.queue.at(world.now + length, Event::FastDisks { epoch });
    true
}

/// A stored file is gone.
pub fn file_lost(world: &mut World, dice: &mut Dice) -> bool {
    world.lose_file(dice)
}
