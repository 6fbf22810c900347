//! A task has one running attempt at most, by what runs on the machines; no attempt starts twice, and none after the
//! task's outcome is recorded.

use std::collections::{BTreeMap, BTreeSet};

use stint_protocol::{LeaseId, TaskId};

/// What runs where.
#[derive(Default)]
pub struct OneAttempt {
    running: BTreeMap<TaskId, (u32, u64)>,
    started: BTreeSet<LeaseId>,
}

impl OneAttempt {
    /// A machine begins an attempt.
    pub fn started(&mut self, lease: LeaseId, machine: u64) -> Result<(), String> {
        if !self.started.insert(lease) {
            return Err(format!("attempt {lease} starts a second time, on machine {machine}"));
        }
        self.runs(lease, machine)
    }

    /// An attempt runs, from its start or again after its machine was suspended.
    pub fn runs(&mut self, lease: LeaseId, machine: u64) -> Result<(), String> {
        let LeaseId { task, attempt } = lease;
        match self.running.insert(task, (attempt, machine)) {
            Some((other, on)) => Err(format!(
                "task {task}: attempt {attempt} runs on machine {machine} while attempt {other} runs on machine {on}"
            )),
            None => Ok(()),
        }
    }

    /// An attempt is gone.
    pub fn stopped(&mut self, lease: LeaseId) {
        if self.running.get(&lease.task).is_some_and(|(attempt, _)| *attempt == lease.attempt) {
            self.running.remove(&lease.task);
        }
    }

    /// Nothing on this machine runs any more. Answers what did.
    pub fn suspended(&mut self, machine: u64) -> Vec<LeaseId> {
        let here = self.running.iter().filter(|(_, (_, on))| *on == machine);
        let leases: Vec<LeaseId> =
            here.map(|(task, (attempt, _))| LeaseId { task: *task, attempt: *attempt }).collect();
        leases.iter().for_each(|lease| self.stopped(*lease));
        leases
    }

    /// Attempts that run now.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Attempts that ever ran.
    pub fn total(&self) -> usize {
        self.started.len()
    }
}
