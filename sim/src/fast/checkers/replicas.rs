//! A replica that restarts from a snapshot and applies what follows has the same state as one that applied everything;
//! and that state is sound. Looked at now and then.

use stint_scheduler::{State, check, decode_snapshot, digest, encode_snapshot, same};

use crate::fast::log::{Log, apply_entry};

/// Commands between two looks; more of them with many tasks, of which a look sees each.
const EVERY: u64 = 50;
const TASKS_A_COMMAND: u64 = 10;

/// A replica that was restored at the last look.
#[derive(Default)]
pub struct Replicas {
    restored: State,
    index: u64,
    commands: u64,
}

impl Replicas {
    /// An entry was committed. Looks when it is time; answers whether it did.
    pub fn committed(&mut self, log: &Log) -> Result<bool, String> {
        let tasks = log.state().waiting() as u64;
        if log.commands < self.commands + EVERY + tasks / TASKS_A_COMMAND {
            return Ok(false);
        }
        self.commands = log.commands;
        for logged in &log.entries[self.index as usize..] {
            apply_entry(&mut self.restored, &logged.entry);
        }
        self.index = log.index();
        let (index, state) = (self.index, log.state());
        check(state).map_err(|broken| format!("the state at index {index} is not sound: {broken}"))?;
        if !same(state, &self.restored) {
            let (here, there) = (digest(state), digest(&self.restored));
            return Err(format!(
                "at index {index} the state is {here:016x}, a restored replica's {there:016x}"
            ));
        }
        let bytes = encode_snapshot(state);
        self.restored = decode_snapshot(&bytes).map_err(|e| format!("index {index}: {e}"))?;
        Ok(true)
    }
}
