//! A replica that restarts from a snapshot and applies what follows has the same state as one that applied everything;
//! and that state is sound. Looked at now and then.

use stint_scheduler::{State, decode_snapshot, encode_snapshot};

use crate::checkers::SameState;
use crate::fast::log::{Log, apply_entry};

/// Commands between two looks.
const EVERY: u64 = 50;

/// A replica that was restored at the last look.
#[derive(Default)]
pub struct Replicas {
    same: SameState,
    restored: State,
    index: u64,
    commands: u64,
}

impl Replicas {
    /// An entry was committed. Looks when it is time; answers whether it did.
    pub fn committed(&mut self, log: &Log) -> Result<bool, String> {
        if log.commands < self.commands + EVERY {
            return Ok(false);
        }
        self.commands = log.commands;
        for logged in &log.entries[self.index as usize..] {
            apply_entry(&mut self.restored, &logged.entry, log.frees_on_new_incarnation);
        }
        self.index = log.index();
        self.same.seen(1, self.index, log.state())?;
        self.same.seen(2, self.index, &self.restored)?;
        let bytes = encode_snapshot(log.state());
        self.restored = decode_snapshot(&bytes).map_err(|e| format!("index {}: {e}", self.index))?;
        Ok(true)
    }
}
