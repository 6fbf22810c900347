//! A step that is recorded is never done again; one in progress is done again at most once for each launch that ended in it;
//! none is skipped, but by a program that records it first, where the launch that recorded it was lost before doing it.

use std::collections::BTreeMap;

use stint_protocol::{CheckpointId, InstanceId, Writer};
use stint_scheduler::{InstanceAct, InstanceChange};

use super::Committed;

/// What became of one step.
#[derive(Debug, Default)]
struct Step {
    /// The attempts that did it.
    done_by: Vec<u32>,
    /// The attempt that recorded it.
    recorded_by: Option<u32>,
}

#[derive(Default)]
pub struct Steps(BTreeMap<(InstanceId, CheckpointId), Step>);

impl Steps {
    pub fn committed(&mut self, it: &Committed<'_>) {
        let (InstanceAct::Save { checkpoint, .. }, Writer::Launch(lease)) = (&it.command.act, it.command.by)
        else {
            return;
        };
        let is_new =
            |change: &InstanceChange| matches!(change, InstanceChange::Saved(s) if s.found.is_none());
        if it.changes.is_some_and(|changes| changes.iter().any(is_new)) {
            let step = self.0.entry((it.command.id.clone(), checkpoint.clone())).or_default();
            step.recorded_by.get_or_insert(lease.attempt);
        }
    }

    /// A launch does a step. `records_first`: it recorded the step before.
    pub fn did(
        &mut self,
        id: &InstanceId,
        checkpoint: &CheckpointId,
        attempt: u32,
        records_first: bool,
    ) -> Result<(), String> {
        let step = self.0.entry((id.clone(), checkpoint.clone())).or_default();
        let wrong = |what: &str, step: &Step| Err(format!("step {checkpoint} of {id} {what}: {step:?}"));
        if !records_first && step.recorded_by.is_some() {
            return wrong(&format!("is recorded, and attempt {attempt} does it again"), step);
        }
        if step.done_by.contains(&attempt) {
            return wrong(&format!("is done twice by attempt {attempt}"), step);
        }
        step.done_by.push(attempt);
        Ok(())
    }

    /// A launch passes over a step, as it was told that the step is done.
    pub fn skipped(
        &self,
        id: &InstanceId,
        checkpoint: &CheckpointId,
        attempt: u32,
        records_first: bool,
    ) -> Result<(), String> {
        let step = self.0.get(&(id.clone(), checkpoint.clone()));
        let done = step.is_some_and(|step| !step.done_by.is_empty());
        // Who recorded it was lost before doing it.
        let lost = step.and_then(|step| step.recorded_by).is_some_and(|by| by < attempt);
        if done || (records_first && lost) {
            return Ok(());
        }
        Err(format!(
            "step {checkpoint} of {id} is passed over by attempt {attempt}, and nobody did it: {step:?}"
        ))
    }
}
