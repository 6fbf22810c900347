//! A machine's wall clock is set wrong.

use crate::fast::event::Event;
use crate::fast::world::World;
use crate::rng::SeededRng;

pub fn jump(world: &mut World, rng: &mut SeededRng) -> bool {
    let peer = world.leader_or_any(rng);
    let machine = world.shape.machine_of[peer];
    let far = if rng.one_in(2) { rng.between(500, 20_000) } else { rng.between(20_000, 3_600_000) } as i64;
    let far = if rng.one_in(3) { -far } else { far };
    world.say("FAULT", 13, machine as u64, || {
        format!("the wall clock of machine {machine} jumps by {far} ms")
    });
    world.machines[machine].clocks.wall_offset_ms += far;
    world.queue.at(world.now + rng.between(500, 8_000), Event::RightClock { machine });
    true
}
