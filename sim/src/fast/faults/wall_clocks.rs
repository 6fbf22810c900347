//! A machine's wall clock is set wrong.

use crate::dice::Dice;
use crate::fast::event::Event;
use crate::fast::world::World;

pub fn jump(world: &mut World, dice: &mut Dice) -> bool {
    let peer = world.leader_or_any(dice);
    let machine = world.shape.machine_of[peer];
    let far = if dice.one_in(2) { dice.between(500, 20_000) } else { dice.between(20_000, 3_600_000) } as i64;
    let far = if dice.one_in(3) { -far } else { far };
    world.say("FAULT", 13, machine as u64, || {
        format!("the wall clock of machine {machine} jumps by {far} ms")
    });
    world.machines[machine].clocks.wall_offset_ms += far;
    world.queue.at(world.now + dice.between(500, 8_000), Event::RightClock { machine });
    true
}
