//! An outcome is what happened: the end that is recorded of an attempt is the one its machine saw.

use std::collections::BTreeMap;

use stint_protocol::{EndKind, LeaseId, Outcome, TaskId};

/// How each attempt ended on its machine.
#[derive(Default)]
pub struct HonestOutcome(BTreeMap<LeaseId, Vec<EndKind>>);

impl HonestOutcome {
    /// An attempt has ended; more than once where there are several honest words for one end.
    pub fn ended(&mut self, lease: LeaseId, kind: &EndKind) {
        self.0.entry(lease).or_default().push(kind.clone());
    }

    /// An outcome is recorded. That an attempt was lost or cancelled may be said without its machine.
    pub fn recorded(&self, task: TaskId, outcome: &Outcome) -> Result<(), String> {
        if matches!(outcome.kind, EndKind::Lost | EndKind::Cancelled) {
            return Ok(());
        }
        let lease = LeaseId { task, attempt: outcome.attempt };
        match self.0.get(&lease) {
            Some(seen) if seen.contains(&outcome.kind) => Ok(()),
            seen => Err(format!("attempt {lease} is recorded as {:?}, and ended as {seen:?}", outcome.kind)),
        }
    }
}
