//! At the same index every replica has the same state, also after a restart and from a snapshot; and it is sound.

use std::collections::BTreeMap;

use stint_scheduler::{State, check, digest};

/// The state at each index, as the first replica had it.
#[derive(Default)]
pub struct SameState(BTreeMap<u64, (u64, u64)>);

impl SameState {
    /// A replica has applied `index`. Answers the digest when no other replica showed this index before.
    pub fn seen(&mut self, peer: u64, index: u64, state: &State) -> Result<Option<u64>, String> {
        let found = digest(state);
        match self.0.get(&index) {
            None => {
                check(state)
                    .map_err(|broken| format!("the state at index {index} is not sound: {broken}"))?;
                self.0.insert(index, (found, peer));
                Ok(Some(found))
            }
            Some((known, _)) if *known == found => Ok(None),
            Some((known, other)) => Err(format!(
                "at index {index} peer {peer} has state {found:016x}, peer {other} had {known:016x}"
            )),
        }
    }
}
