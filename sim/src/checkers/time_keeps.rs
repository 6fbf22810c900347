//! The cluster's time goes with real time: within one office it runs ahead by a second an entry at most, whatever the
//! leader's wall clock does.

use stint_protocol::TimeMs;
use stint_raft::Position;

/// What an entry may run ahead of elapsed time, in milliseconds (`stint_node::limits::TIME_JUMP_MS`).
const AHEAD_MS: u64 = 1_000;
/// Steps of the simulation, rounding.
const SLACK_MS: u64 = 50;

/// The last entry with a time of its own (changes of the membership have none).
#[derive(Clone, Copy)]
struct Stamp {
    at: Position,
    time: TimeMs,
    /// It was made after this: the entry before it was seen then.
    after_ms: u64,
    /// An earlier time was seen in this term. The first may be an older office's, shown together with the blank entry of
    /// this one; and the first of this one may catch up with any clock.
    settled: bool,
}

/// The stamps seen, one office after another.
#[derive(Default)]
pub struct TimeKeeps {
    last: Option<Stamp>,
    seen: Option<(Position, u64)>,
}

impl TimeKeeps {
    /// A replica is the first that shows the state at this index.
    pub fn first_seen(&mut self, at: Position, time: TimeMs, seen_ms: u64) -> Result<(), String> {
        let Some((before, after_ms)) = self.seen else {
            self.seen = Some((at, seen_ms));
            return Ok(());
        };
        if before.index >= at.index {
            return Ok(());
        }
        self.seen = Some((at, seen_ms));
        if self.last.is_some_and(|last| last.time == time) {
            return Ok(());
        }
        let same_term = self.last.filter(|last| last.at.term == at.term);
        self.last = Some(Stamp { at, time, after_ms, settled: same_term.is_some() });
        let compared = same_term.filter(|last| last.settled);
        compared.map_or(Ok(()), |last| within(&last, at, time, seen_ms))
    }
}

fn within(last: &Stamp, at: Position, time: TimeMs, seen_ms: u64) -> Result<(), String> {
    let elapsed = seen_ms - last.after_ms;
    let entries = at.index - last.at.index;
    let most = elapsed + elapsed / 50 + AHEAD_MS * entries + SLACK_MS;
    let ran = time.since(last.time);
    if ran <= most {
        return Ok(());
    }
    Err(format!(
        "with index {} the cluster's time ran {ran} ms in {elapsed} ms and {entries} entries",
        at.index
    ))
}
