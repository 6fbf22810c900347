//! The cluster's time goes with real time: within one term it runs ahead by a second an entry at most, whatever the
//! leader's wall clock does.

use stint_protocol::TimeMs;
use stint_raft::Position;

/// What an entry may run ahead of elapsed time, in milliseconds (`stint_node::limits::TIME_JUMP_MS`).
const AHEAD_MS: u64 = 1_000;
/// Steps of the simulation, rounding.
const SLACK_MS: u64 = 50;

/// An entry with a time of its own (changes of the membership have none).
#[derive(Clone, Copy)]
struct Stamp {
    at: Position,
    time: TimeMs,
    /// No entry of its term was made before this: the blank one that began it was seen then. When a later one was
    /// made nobody can tell from outside: several that waited for a quorum may be seen at once.
    term_since_ms: u64,
}

/// The stamps seen, one term after another.
#[derive(Default)]
pub struct TimeKeeps {
    last: Option<Stamp>,
    /// The second time of a term, which the later ones are compared with. The first may be an older term's, shown
    /// together with the blank entry of this one; and the first of this one may catch up with any clock.
    anchor: Option<Stamp>,
    seen: Option<(Position, u64)>,
}

impl TimeKeeps {
    /// A replica is the first that shows the state at this index.
    pub fn first_seen(&mut self, at: Position, time: TimeMs, seen_ms: u64) -> Result<(), String> {
        let Some((before, before_ms)) = self.seen else {
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
        let term_since_ms = same_term.map_or(before_ms, |last| last.term_since_ms);
        let stamp = Stamp { at, time, term_since_ms };
        self.last = Some(stamp);
        match self.anchor.filter(|anchor| anchor.at.term == at.term) {
            Some(anchor) => within(&anchor, at, time, seen_ms),
            None => {
                self.anchor = same_term.map(|_| stamp);
                Ok(())
            }
        }
    }
}

fn within(anchor: &Stamp, at: Position, time: TimeMs, seen_ms: u64) -> Result<(), String> {
    let elapsed = seen_ms - anchor.term_since_ms;
    let entries = at.index - anchor.at.index;
    let most = elapsed + elapsed / 50 + AHEAD_MS * entries + SLACK_MS;
    let ran = time.since(anchor.time);
    if ran <= most {
        return Ok(());
    }
    Err(format!(
        "with index {} the cluster's time ran {ran} ms in {elapsed} ms and {entries} entries",
        at.index
    ))
}
