//! A task has one running attempt at most, by what runs on the machines; no attempt starts twice; later ones have
//! higher numbers.

use std::collections::{BTreeMap, BTreeSet};

use stint_protocol::{LeaseId, TaskId};

/// What runs where.
#[derive(Default)]
pub struct OneAttempt {
    running: BTreeMap<TaskId, (u32, u64)>,
    started: BTreeSet<LeaseId>,
    highest: BTreeMap<TaskId, u32>,
}

impl OneAttempt {
    /// A machine begins an attempt.
    pub fn started(&mut self, lease: LeaseId, machine: u64) -> Result<(), String> {
        let LeaseId { task, attempt } = lease;
        if let Some((other, on)) = self.running.insert(task, (attempt, machine)) {
            return Err(format!(
                "task {task}: attempt {attempt} starts on machine {machine} while attempt {other} runs on machine {on}"
            ));
        }
        if !self.started.insert(lease) {
            return Err(format!("attempt {lease} starts a second time, on machine {machine}"));
        }
        let highest = self.highest.entry(task).or_default();
        if attempt <= *highest {
            return Err(format!("attempt {lease} starts after attempt {highest} did"));
        }
        *highest = attempt;
        Ok(())
    }

    /// An attempt is gone.
    pub fn stopped(&mut self, lease: LeaseId) {
        self.running.remove(&lease.task);
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
