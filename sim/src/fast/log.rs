//! The abstract log: committed entries, the state after each of them, who leads, and what is on its way. It stands
//! for Raft: a committed entry stays, a new leader has every one, and what a deposed leader proposed is kept or lost.

use stint_node::applied_state::{LogEntry, Results, concerned};
use stint_protocol::NodeId;
use stint_scheduler::{Command, StampedCommand, State, apply};

/// Entries that a new leader may not have applied yet at most.
pub const BEHIND: u64 = 30;
/// Longer than it takes a proposer to hear of its entry, in milliseconds.
const HEARD_MS: u64 = 1_000;

/// A committed entry. A new leader's first one holds no command.
pub struct Logged {
    pub term: u64,
    committed_at: u64,
    pub entry: LogEntry,
    /// Nodes whose orders it may change.
    pub touched: Vec<NodeId>,
}

/// A proposed entry that is not committed.
pub struct Flight {
    pub number: u64,
    pub peer: usize,
    pub life: u64,
    pub term: u64,
    pub proposed_at: u64,
    pub entry: LogEntry,
    /// The new leader's own-term entry: nobody waits for it.
    pub blank: bool,
}

/// The log by the authority of its quorum.
pub struct Log {
    pub term: u64,
    /// Who leads `term`, and the life of its process.
    pub leader: Option<(usize, u64)>,
    pub entries: Vec<Logged>,
    /// `states[n]`: after the first `n` entries, as long as a peer may ask for it. They share their structure.
    states: Vec<Option<State>>,
    /// States before this index were forgotten, but for those that peers had applied then.
    forgotten: usize,
    pub flights: Vec<Flight>,
    /// What became of committed entries that their proposers have not heard of: by number, with the index.
    pub results: Vec<(u64, u64, Results)>,
    pub next_number: u64,
    /// Counts elections and what is arranged for them.
    pub epoch: u64,
    pub election_arranged: bool,
    pub commands: u64,
}

impl Log {
    /// A cluster that was just founded: its settings and members are in the log.
    pub fn new(founding: LogEntry) -> Self {
        let mut log = Self {
            term: 0,
            leader: None,
            entries: Vec::new(),
            states: vec![Some(State::default())],
            forgotten: 0,
            flights: Vec::new(),
            results: Vec::new(),
            next_number: 0,
            epoch: 0,
            election_arranged: false,
            commands: 0,
        };
        log.append(0, 0, founding);
        log
    }

    /// The index of the last committed entry.
    pub fn index(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The state by every committed entry.
    pub fn state(&self) -> &State {
        self.state_at(self.index())
    }

    pub fn state_at(&self, index: u64) -> &State {
        let state = self.states[index as usize].as_ref();
        state.unwrap_or_else(|| panic!("the state at index {index} was forgotten and is asked for"))
    }

    /// The term of the entry at `index`.
    pub fn term_at(&self, index: u64) -> u64 {
        if index == 0 { 0 } else { self.entries[index as usize - 1].term }
    }

    /// Forgets states for which no peer can ask any more; these have applied the log up to `applied`.
    pub fn forget(&mut self, now: u64, applied: impl Iterator<Item = u64> + Clone) {
        while self.forgotten + (BEHIND as usize) < self.entries.len() {
            let at = self.forgotten;
            if at > 0 && self.entries[at - 1].committed_at + HEARD_MS >= now {
                return;
            }
            if !applied.clone().any(|index| index == at as u64) {
                self.states[at] = None;
            }
            self.forgotten += 1;
        }
    }

    /// Commits an entry: applies it to the state.
    pub fn append(&mut self, now: u64, term: u64, entry: LogEntry) -> Results {
        let mut state = self.state().clone();
        self.commands += entry.commands.len() as u64;
        let results = apply_entry(&mut state, &entry);
        let mut touched: Vec<NodeId> = results.iter().flatten().flatten().filter_map(concerned).collect();
        touched.sort_unstable_by_key(|node| node.0);
        touched.dedup();
        self.entries.push(Logged { term, committed_at: now, entry, touched });
        self.states.push(Some(state));
        results
    }

    /// Takes a flight that is still on its way.
    pub fn land(&mut self, number: u64) -> Option<Flight> {
        let place = self.flights.iter().position(|flight| flight.number == number)?;
        Some(self.flights.remove(place))
    }
}

/// What every replica does with an entry.
pub fn apply_entry(state: &mut State, entry: &LogEntry) -> Results {
    let one = |command: &Command| apply(state, StampedCommand { now: entry.now, command: command.clone() });
    entry.commands.iter().map(one).collect()
}
