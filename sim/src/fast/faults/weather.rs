//! Messages are lost, doubled and late.

use crate::dice::Dice;
use crate::fast::event::Event;
use crate::fast::network::Weather;
use crate::fast::world::World;

pub fn foul(world: &mut World, dice: &mut Dice) -> bool {
    let weather = Weather {
        lost_one_in: dice.between(2, 12),
        doubled_one_in: dice.between(2, 6),
        late_one_in: dice.between(2, 8),
        late_ms: dice.between(20, 2_600),
    };
    begin(world, dice, weather)
}

/// Everything is late, nothing is lost.
pub fn late(world: &mut World, dice: &mut Dice) -> bool {
    let weather = Weather {
        late_one_in: 1,
        late_ms: dice.between(100, 1_200),
        doubled_one_in: 4,
        ..Weather::default()
    };
    begin(world, dice, weather)
}

fn begin(world: &mut World, dice: &mut Dice, weather: Weather) -> bool {
    let length = dice.between(500, 8_000);
    world.say("FAULT", 12, weather.late_ms, || format!("{weather:?} for {length} ms"));
    world.network.weather = weather;
    world.network.weather_epoch += 1;
    let epoch = world.network.weather_epoch;
    world.queue.at(world.now + length, Event::CalmWeather { epoch });
    true
}
