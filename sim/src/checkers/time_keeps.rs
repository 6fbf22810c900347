//! The cluster's time goes with real time: within one office it runs ahead by a second an entry at most, whatever the
//! leader's wall clock does.

use stint_protocol::TimeMs;
use stint_raft::Position;

/// What an entry may run ahead of elapsed time, in milliseconds (`stint_node::limits::TIME_JUMP_MS`).
const AHEAD_MS: u64 = 1_000;
/// Steps of the simulation, rounding.
const SLACK_MS: u64 = 50;

#[derive(Clone, Copy)]
struct Seen {
    at: Position,
    time: TimeMs,
    seen_ms: u64,
    /// An earlier entry of this term was stamped too: only the first of an office may catch up with any clock.
    settled: bool,
}

/// The last entries seen, newest last.
#[derive(Default)]
pub struct TimeKeeps {
    before: Option<Seen>,
    last: Option<Seen>,
}

impl TimeKeeps {
    /// A replica is the first that shows the state at this index.
    pub fn first_seen(&mut self, at: Position, time: TimeMs, seen_ms: u64) -> Result<(), String> {
        if self.last.is_some_and(|last| last.at.index >= at.index) {
            return Ok(());
        }
        let same_term = self.last.filter(|last| last.at.term == at.term);
        let stamped = same_term.is_some_and(|last| last.settled || time > last.time);
        let result = match (self.before, same_term) {
            (Some(before), Some(last)) if before.at.term == at.term && last.settled => {
                within(&before, &last, at, time, seen_ms)
            }
            _ => Ok(()),
        };
        self.before = self.last;
        self.last = Some(Seen { at, time, seen_ms, settled: stamped });
        result
    }
}

/// The entry was stamped after the one before `last` was applied.
fn within(before: &Seen, last: &Seen, at: Position, time: TimeMs, seen_ms: u64) -> Result<(), String> {
    let elapsed = seen_ms - before.seen_ms;
    let entries = at.index - last.at.index;
    let most = elapsed + elapsed / 50 + AHEAD_MS * entries + SLACK_MS;
    let ran = time.since(last.time);
    if ran <= most {
        return Ok(());
    }
    Err(format!("with index {} the cluster's time ran {ran} ms in {elapsed} ms and {entries} entries", at.index))
}
