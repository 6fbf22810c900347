//! What is kept of an attempt's output is what it wrote, and no other has its number.

use std::collections::BTreeMap;

use stint_protocol::{Ending, LeaseId};
use stint_scheduler::{AttemptRecord, Change, State};

/// What every simulated attempt writes.
pub fn ending_of(lease: LeaseId) -> Ending {
    let text = format!("this is attempt {} of task {}", lease.attempt, lease.task);
    Ending { summary: Some(text.into_bytes().into()), ..Ending::default() }
}

/// The endings so far, by number.
#[derive(Default)]
pub struct Endings(BTreeMap<u64, LeaseId>);

impl Endings {
    /// An entry was applied.
    pub fn changed(&mut self, changes: &[Change], state: &State) -> Result<(), String> {
        changes.iter().try_for_each(|change| match change {
            Change::EndingKept { lease, number, ending } => self.kept(*lease, *number, ending, state),
            _ => Ok(()),
        })
    }

    fn kept(&mut self, lease: LeaseId, number: u64, ending: &Ending, state: &State) -> Result<(), String> {
        if *ending != ending_of(lease) {
            return Err(format!("the ending of {lease} is {ending:?}"));
        }
        if let Some(other) = self.0.insert(number, lease) {
            return Err(format!("the endings of {other} and {lease} have the number {number}"));
        }
        let of_it = |record: &&AttemptRecord| record.number == lease.attempt;
        let record = match state.task(lease.task) {
            Some(task) => task.fields.records.iter().find(of_it).cloned(),
            None => {
                state.finished(lease.task).and_then(|task| task.fields.records.iter().find(of_it).cloned())
            }
        };
        match record {
            Some(record) if record.ending != Some(number) => {
                Err(format!("the ending of {lease} has the number {number}, and its record says {record:?}"))
            }
            // Forgotten, or over the number of records that a task keeps.
            _ => Ok(()),
        }
    }
}
