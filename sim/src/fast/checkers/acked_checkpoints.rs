//! The first state of a step stays: every later one that is saved is told that it was there, whoever saved it by another
//! request, and what a program was told is kept is in the log.

use std::collections::BTreeMap;

use stint_protocol::{CheckpointId, InstanceId, Payload};
use stint_scheduler::{InstanceAct, InstanceChange, State};

use super::Committed;

/// The first state of each step, and the request that saved it.
#[derive(Default)]
pub struct AckedCheckpoints(BTreeMap<(InstanceId, CheckpointId), (Payload, u64)>);

impl AckedCheckpoints {
    pub fn committed(&mut self, it: &Committed<'_>) -> Result<(), String> {
        let (checkpoint, saved) = match &it.command.act {
            InstanceAct::Save { checkpoint, state } | InstanceAct::Sleep { checkpoint, state, .. } => {
                (checkpoint, state)
            }
            _ => return Ok(()),
        };
        let Some(changes) = it.changes else { return Ok(()) };
        let key = (it.command.id.clone(), checkpoint.clone());
        let first = self.0.entry(key).or_insert((saved.clone(), it.command.request));
        let found = changes.iter().find_map(|change| match change {
            InstanceChange::Saved(saved) => Some(saved.found.clone()),
            _ => None,
        });
        let expected = (first.1 != it.command.request).then(|| first.0.clone());
        match found.filter(|found| *found != expected) {
            Some(found) => Err(format!(
                "step {checkpoint} of {}, saved by request {} first, answers request {} with {found:?}",
                it.command.id, first.1, it.command.request
            )),
            None => Ok(()),
        }
    }

    /// A program hears that its step is kept.
    pub fn acknowledged(
        &self,
        id: &InstanceId,
        checkpoint: &CheckpointId,
        state: &State,
    ) -> Result<(), String> {
        let Some(no) = state.instance_named(id) else { return Ok(()) };
        match state.checkpoint(no, checkpoint) {
            Some(_) => Ok(()),
            None => Err(format!("step {checkpoint} of {id} was told to be kept, and is not in the log")),
        }
    }
}
