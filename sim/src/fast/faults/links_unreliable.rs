//! Messages are lost, doubled and late.

use crate::fast::event::Event;
use crate::fast::network::LinkFaults;
use crate::fast::world::World;
use crate::rng::SeededRng;

pub fn foul(world: &mut World, rng: &mut SeededRng) -> bool {
    let link_faults = LinkFaults {
        lost_one_in: rng.between(2, 12),
        doubled_one_in: rng.between(2, 6),
        late_one_in: rng.between(2, 8),
        late_ms: rng.between(20, 2_600),
    };
    begin(world, rng, link_faults)
}

/// Everything is late, nothing is lost.
pub fn late(world: &mut World, rng: &mut SeededRng) -> bool {
    let link_faults = LinkFaults {
        late_one_in: 1,
        late_ms: rng.between(100, 1_200),
        doubled_one_in: 4,
        ..LinkFaults::default()
    };
    begin(world, rng, link_faults)
}

fn begin(world: &mut World, rng: &mut SeededRng, link_faults: LinkFaults) -> bool {
    let length = rng.between(500, 8_000);
    world.say("FAULT", 12, link_faults.late_ms, || format!("{link_faults:?} for {length} ms"));
    world.network.link_faults = link_faults;
    world.network.link_epoch += 1;
    let epoch = world.network.link_epoch;
    world.queue.at(world.now + length, Event::CalmLinks { epoch });
    true
}
