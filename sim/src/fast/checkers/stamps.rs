//! The cluster's time goes on with real time: it never goes back, and inside one term it does not fall behind, nor
//! run ahead by more than a second an entry, whatever the wall clocks show.

use stint_node::limits::TIME_JUMP_MS;
use stint_protocol::TimeMs;

/// Rounding of clocks, in milliseconds.
const ROUNDING_MS: u64 = 4;

/// The last entry's term, its time, and when it was stamped with it.
#[derive(Default)]
pub struct Stamps(Option<(u64, TimeMs, u64)>);

impl Stamps {
    /// An entry of `term`, stamped with `time` at `now`.
    pub fn committed(&mut self, term: u64, time: TimeMs, now: u64) -> Result<(), String> {
        let Some((last_term, last, then)) = self.0.replace((term, time, now)) else { return Ok(()) };
        if time < last {
            return Err(format!("the cluster's time went back by {} ms", last.since(time)));
        }
        if term != last_term {
            return Ok(());
        }
        let (went_on, passed) = (time.since(last), now - then);
        let drift = passed / 200 + ROUNDING_MS;
        if went_on > passed + drift + TIME_JUMP_MS {
            return Err(format!("in {passed} ms the cluster's time went on by {went_on} ms"));
        }
        if went_on + drift < passed {
            return Err(format!("in {passed} ms the cluster's time went on by {went_on} ms only"));
        }
        Ok(())
    }
}
