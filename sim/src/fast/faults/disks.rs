//! Disks: those of a majority are slow, so that entries take long while everything else is fast; one loses a file.

use crate::fast::event::Event;
use crate::fast::world::World;
use crate::rng::SeededRng;

pub fn slow(world: &mut World, rng: &mut SeededRng) -> bool {
    let (most, length) = (rng.between(60, 3_000), rng.between(500, 9_000));
    world.say("FAULT", 11, most, || format!("entries take up to {most} ms for {length} ms"));
    world.trouble.slow_disks_ms = most;
    world.trouble.disks_epoch += 1;
    let epoch = world.trouble.disks_epoch;
    world.queue.at(world.now + length, Event::FastDisks { epoch });
    true
}

/// A stored file is gone.
pub fn file_lost(world: &mut World, rng: &mut SeededRng) -> bool {
    world.lose_file(rng)
}
