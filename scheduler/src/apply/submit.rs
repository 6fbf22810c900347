//! Accepting tasks.

use std::sync::Arc;

use stint_protocol::{TaskId, TaskName, limits, version};

use super::image;
use crate::command::{Change, Rejection, Submit};
use crate::demand::Demand;
use crate::state::{FinishedTasks, KeyRecord, State};
use crate::task::{Task, TaskFields, TaskState};

pub(super) fn submit(state: &mut State, submit: Submit, changes: &mut Vec<Change>) -> Result<(), Rejection> {
    if let Some(change) = known_request(state, &submit)? {
        changes.push(change);
        return Ok(());
    }
    let submit = Submit { spec: image::pin(state, &submit.tenant, &submit.spec)?, ..submit };
    take_in(state, submit, changes)
}

/// Accepts what is no repetition, with the image that its spec names.
pub(super) fn take_in(state: &mut State, submit: Submit, changes: &mut Vec<Change>) -> Result<(), Rejection> {
    let names = check(state, &submit)?;
    image::add_use(state, &submit.spec, submit.count);
    remember_key(state, &submit);
    state.give_uid(&submit.tenant);
    let demand = state.queue.intern(Demand::from_spec(&submit.spec), &submit.tenant);
    for (index, name) in (0..submit.count).zip(names) {
        accept(state, &submit, &demand, index, name);
    }
    changes.push(Change::Submitted { first: submit.first, count: submit.count, repeated: false });
    Ok(())
}

/// The id of the `index`th task of a submit.
fn nth(first: TaskId, index: u32) -> TaskId {
    TaskId(first.0 + u128::from(index))
}

/// A repetition of a request that was accepted answers with the first one's tasks.
pub(super) fn known_request(state: &State, submit: &Submit) -> Result<Option<Change>, Rejection> {
    let Some(key) = &submit.key else { return Ok(None) };
    match state.keys.get(&(submit.tenant.clone(), key.clone())) {
        Some(known) if known.digest == submit.digest => {
            Ok(Some(Change::Submitted { first: known.first, count: known.count, repeated: true }))
        }
        Some(known) => Err(Rejection::KeyReused { key: key.clone(), first: known.first }),
        None => {
            let oldest = state.time.0.saturating_sub(limits::DEDUPE_WINDOW_MS);
            let too_old = submit.key_made_ms.is_some_and(|made| made < oldest);
            if too_old { Err(Rejection::KeyTooOld(key.clone())) } else { Ok(None) }
        }
    }
}

/// Every bound and every name, before anything changes. Answers the tasks' names.
fn check(state: &State, submit: &Submit) -> Result<Vec<Option<TaskName>>, Rejection> {
    let most = limits::TASKS_PER_SUBMIT;
    if !(1..=most).contains(&submit.count) {
        return Err(Rejection::BadCount { asked: submit.count, most });
    }
    check_priority(state, submit)?;
    state.settings.tenants.check_image(&submit.tenant, &submit.spec)?;
    if !state.has_uid_for(&submit.tenant) {
        return Err(Rejection::NoUidLeft(state.settings.rules.tenant_uids));
    }
    let live = state.tasks.len() as u64;
    if live + u64::from(submit.count) > state.settings.max_live_tasks {
        return Err(Rejection::TooManyTasks {
            live,
            asked: submit.count,
            most: state.settings.max_live_tasks,
        });
    }
    let bytes = state.spec_bytes + submit.spec.weight();
    if bytes > limits::LIVE_SPEC_BYTES {
        return Err(Rejection::SpecsTooLarge { bytes, most: limits::LIVE_SPEC_BYTES });
    }
    if submit.key.is_some() && state.keys.len() >= limits::IDEMPOTENCY_KEYS {
        return Err(Rejection::KeysFull(state.keys.len()));
    }
    let last = nth(submit.first, submit.count - 1);
    let taken = state.tasks.range(submit.first..=last).next().map(|(id, _)| *id);
    let taken = taken.or_else(|| state.history.first_in(submit.first..=last));
    if let Some(id) = taken {
        return Err(Rejection::IdTaken(id));
    }
    names(state, submit)
}

/// Earlier versions know no rules of tenants, and all replicas do the same.
fn check_priority(state: &State, submit: &Submit) -> Result<(), Rejection> {
    let (asked, most) = (submit.spec.priority, state.settings.tenants.rules(&submit.tenant).max_priority);
    if state.version >= version::TENANT_RULES && asked > most {
        return Err(Rejection::PriorityTooHigh { tenant: submit.tenant.clone(), asked, most });
    }
    Ok(())
}

fn names(state: &State, submit: &Submit) -> Result<Vec<Option<TaskName>>, Rejection> {
    let Some(base) = &submit.name else {
        return Ok(vec![None; submit.count as usize]);
    };
    // Names of one submit were of one before, most often: tasks that are packed together.
    let mut finished = state.finished_tasks();
    let mut one = |index: u32| -> Result<Option<TaskName>, Rejection> {
        let name =
            if submit.count == 1 { Ok(base.clone()) } else { TaskName::new(&format!("{base}-{index}")) };
        // A front refuses names that leave no room for the index.
        let Ok(name) = name else { return Ok(None) };
        match state.named(&submit.tenant, &name) {
            Some(holder) if !gives_up_name(state, &mut finished, holder, nth(submit.first, index)) => {
                Err(Rejection::NameTaken { name, holder })
            }
            _ => Ok(Some(name)),
        }
    };
    (0..submit.count).map(&mut one).collect()
}

/// Whether a task's name may pass on to a new one: it has finished. Earlier versions let it go when the task is forgotten,
/// and all replicas do the same. Among finished tasks, time of submit and id say which is the latest, so a task of the same
/// millisecond with a higher id keeps it: whoever reads a snapshot could not tell otherwise.
fn gives_up_name(state: &State, finished: &mut FinishedTasks<'_>, holder: TaskId, next: TaskId) -> bool {
    let mut before = || finished.get(holder).map(|task| (task.fields.submitted_at, holder));
    state.version >= version::NAMES_AGAIN && before().is_some_and(|before| before < (state.time, next))
}

fn remember_key(state: &mut State, submit: &Submit) {
    let Some(key) = &submit.key else { return };
    let record = KeyRecord {
        first: submit.first,
        count: submit.count,
        digest: submit.digest,
        at: state.time,
        live: submit.count,
    };
    state.keys.insert((submit.tenant.clone(), key.clone()), record);
    state.key_order.insert((state.time, submit.tenant.clone(), key.clone()));
}

fn accept(state: &mut State, submit: &Submit, demand: &Demand, index: u32, name: Option<TaskName>) {
    let id = nth(submit.first, index);
    let fields = TaskFields {
        tenant: submit.tenant.clone(),
        name: name.clone(),
        index,
        sequence: state.next_sequence,
        submitted_at: state.time,
        state: TaskState::Queued { since: state.time, not_before: state.time },
        attempts: 0,
        failures: 0,
        losses: 0,
        failed_starts: 0,
        records: Vec::new(),
        key: submit.key.clone(),
    };
    let task = Task { spec: submit.spec.clone(), demand: demand.clone(), fields };
    state.next_sequence += 1;
    state.spec_bytes += share_of_spec(&task);
    if let Some(name) = name {
        state.names.insert((submit.tenant.clone(), name), id);
    }
    state.queue.insert(id, &task);
    state.tenant_accepted(&submit.tenant, id);
    state.tasks.insert(id, Arc::new(task));
}

/// Each task accounts for a record; the first of a submit also for the spec that all share.
pub(crate) fn share_of_spec(task: &Task) -> u64 {
    if task.fields.index == 0 { task.spec.weight() } else { 64 }
}
