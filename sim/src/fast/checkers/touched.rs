//! What an entry changed is sound, looked at right after it; the whole state is looked at now and then.

use stint_scheduler::{Change, State};

/// Looks at what the changes of one entry touched, in the state after the entry.
pub fn touched(changes: &[Change], state: &State) -> Result<(), String> {
    changes.iter().try_for_each(|change| one(change, state))
}

fn one(change: &Change, state: &State) -> Result<(), String> {
    match change {
        Change::Leased { lease, node } => {
            let record = state.node(*node).ok_or_else(|| format!("{lease} is leased to no member"))?;
            let fits = record.offer.resources.holds(&record.used) && record.running <= record.offer.slots;
            if !fits {
                return Err(format!("{node} holds {:?} in {} slots", record.used, record.running));
            }
            let Some(task) = state.task(lease.task) else { return Ok(()) };
            let Some(leased) = task.leased().filter(|_| task.fields.attempts == lease.attempt) else {
                return Ok(());
            };
            let holds = |gpu| state.gpu(gpu).is_some_and(|record| record.holder == Some(*lease));
            match leased.gpus.iter().find(|gpu| !holds(gpu)) {
                Some(gpu) => Err(format!("{lease} is not the holder of its device {gpu}")),
                None if leased.gpus.len() != task.spec.leased_gpus() as usize => {
                    Err(format!("{lease} has {} devices", leased.gpus.len()))
                }
                None => Ok(()),
            }
        }
        Change::Released { lease, node } => {
            let is_leased = state.leases_of(*node).any(|known| known == *lease);
            if is_leased { Err(format!("{lease} was released and is held")) } else { Ok(()) }
        }
        Change::Finished { task, .. } if state.task(*task).is_some() => {
            Err(format!("task {task} is finished and lives"))
        }
        _ => Ok(()),
    }
}
