//! A sleep is over when its time has come by the log, and not before; each suspension ends once; and only a program that does
//! nothing else is stopped because it sleeps.

use std::collections::{BTreeMap, BTreeSet};

use stint_protocol::{CheckpointId, InstanceId, TaskId, TimeMs, Writer};
use stint_scheduler::{Change, InstanceAct, InstanceChange, InstanceNo, InstanceState, State, Why};

use super::Committed;

#[derive(Default)]
pub struct Wakes {
    /// The ends of the sleeps on each id, in their order.
    sleeps: BTreeMap<(InstanceId, CheckpointId), Vec<TimeMs>>,
    /// How many each launch asked for, with the requests that did.
    asked: BTreeMap<(InstanceId, CheckpointId, u32), Vec<u64>>,
    suspended: BTreeSet<TaskId>,
    /// Somebody wants these to go on, whatever the time is.
    resumed: BTreeSet<InstanceNo>,
}

impl Wakes {
    /// A command about an instance, at this time by the log.
    pub fn committed(&mut self, it: &Committed<'_>, now: TimeMs) -> Result<(), String> {
        let Some(changes) = it.changes else { return Ok(()) };
        match (&it.command.act, it.command.by) {
            (InstanceAct::Resume | InstanceAct::Signal { .. }, _) => {
                self.resumed.extend(it.state.instance_named(&it.command.id));
                Ok(())
            }
            (InstanceAct::Sleep { checkpoint, duration_ms, .. }, Writer::Launch(lease)) => {
                let until = changes.iter().find_map(|change| match change {
                    InstanceChange::Slept { until, .. } => Some(*until),
                    _ => None,
                });
                let asked = (it.command.request, lease.attempt, *duration_ms);
                until.map_or(Ok(()), |until| self.slept(&it.command.id, checkpoint, asked, now, until))
            }
            (InstanceAct::Hibernate { calls }, _) => {
                let no = it.state.instance_named(&it.command.id);
                let after = no.and_then(|no| it.state.instance(no));
                match after.filter(|after| !changes.is_empty() && after.calls != *calls) {
                    Some(after) => Err(format!(
                        "{} was stopped for its sleep after {} calls, and its node had seen {calls}",
                        it.command.id, after.calls
                    )),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn slept(
        &mut self,
        id: &InstanceId,
        checkpoint: &CheckpointId,
        (request, attempt, duration_ms): (u64, u32, u64),
        now: TimeMs,
        until: TimeMs,
    ) -> Result<(), String> {
        let asked = self.asked.entry((id.clone(), checkpoint.clone(), attempt)).or_default();
        if asked.contains(&request) {
            return Ok(());
        }
        asked.push(request);
        let number = asked.len();
        let ends = self.sleeps.entry((id.clone(), checkpoint.clone())).or_default();
        let expected = match ends.get(number - 1) {
            Some(end) => (*end).max(now),
            None => {
                ends.push(now.plus(duration_ms));
                now.plus(duration_ms)
            }
        };
        if until.max(now) == expected {
            return Ok(());
        }
        Err(format!(
            "sleep {number} of attempt {attempt} on {checkpoint} of {id} is over at {}, not at {}",
            until.0, expected.0
        ))
    }

    /// What one command changed.
    pub fn changed(&mut self, changes: &[Change], state: &State) -> Result<(), String> {
        let mut released = BTreeSet::new();
        for change in changes {
            match change {
                Change::Released { lease, .. } => {
                    released.insert(lease.task);
                }
                Change::Suspended { task } => {
                    self.suspended.insert(*task);
                }
                Change::Queued { task } => {
                    let was_suspended = self.suspended.remove(task);
                    if !was_suspended && !released.contains(task) {
                        return Err(format!("task {task} waits again, and was neither suspended nor run"));
                    }
                }
                Change::Leased { lease, .. } => self.leased(lease.task, state)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn leased(&mut self, task: TaskId, state: &State) -> Result<(), String> {
        let Some(no) = state.instance_of_task(task) else { return Ok(()) };
        let resumed = self.resumed.remove(&no);
        match state.instance(no).map(|instance| instance.state) {
            Some(InstanceState::Suspended { why: Why::Asleep(at), .. }) if at > state.time() && !resumed => {
                Err(format!("task {task} sleeps until {}, and is started at {}", at.0, state.time().0))
            }
            _ => Ok(()),
        }
    }
}
