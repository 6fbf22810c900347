//! What is forgotten, and when: finished tasks by number, age and weight, idempotency keys by age, blobs kept for
//! tenants when their time is over.

use stint_protocol::{limits, version};

use crate::apply::{
    forget_keep, forget_of_task, forget_oldest_hour, forget_oldest_outside, forget_with_task,
};
use crate::state::State;

/// Things forgotten with one command at most, so that no single entry is slow. More than any command adds
/// but a large `RecordEnds`, whose surplus goes with the next ones.
const SWEEP_PER_COMMAND: usize = 256;

pub(crate) fn sweep(state: &mut State) {
    // Instances go with their tasks, and what they have counts as well.
    sweep_things(|| forget_oldest_task(state));
    if !state.instances.is_empty() {
        sweep_things(|| forget_oldest_outside(state));
        sweep_things(|| forget_oldest_hour(state));
    }
    for _ in 0..SWEEP_PER_COMMAND {
        if !forget_oldest_key(state) {
            break;
        }
    }
    for _ in 0..SWEEP_PER_COMMAND {
        if !forget_oldest_keep(state) {
            break;
        }
    }
}

/// `forget` forgets something and answers how much that was; 0: there is nothing to forget.
fn sweep_things(mut forget: impl FnMut() -> usize) {
    let mut things = 0;
    while things < SWEEP_PER_COMMAND {
        match forget() {
            0 => return,
            more => things += more,
        }
    }
}

fn forget_oldest_keep(state: &mut State) -> bool {
    let due = state.keep_order.get_min().filter(|(until, ..)| *until <= state.time).cloned();
    due.is_some_and(|(_, tenant, digest)| forget_keep(state, tenant, digest))
}

fn forget_oldest_task(state: &mut State) -> usize {
    let Some(finished_at) = state.history.oldest_at() else { return 0 };
    let too_many = state.history.len() as u64 > state.settings.keep_finished;
    let too_old = state.time.since(finished_at) > state.settings.keep_finished_ms;
    // Earlier versions count tasks only, and all replicas forget the same.
    let weight = state.history_bytes + state.instances.ended_bytes;
    let too_heavy = state.version >= version::TASK_FILES && weight > limits::HISTORY_BYTES;
    if too_many || too_old || too_heavy { forget_first(state) } else { 0 }
}

/// Answers how much that was.
fn forget_first(state: &mut State) -> usize {
    let Some((id, task)) = state.history.remove_first() else { return 0 };
    let task = task.unpack();
    state.history_bytes = state.history_bytes.saturating_sub(task.weight());
    forget_of_task(state, &task.fields);
    state.tenant_forgot(&task.fields.tenant);
    if let Some(name) = task.fields.name {
        let name = (task.fields.tenant, name);
        if state.names.get(&name) == Some(&id) {
            state.names.remove(&name);
        }
    }
    1 + forget_with_task(state, id)
}

/// A key lives at least `DEDUPE_WINDOW_MS` and as long as one of its tasks is not finished
/// (docs/internals/leases.md#idempotency-keys).
fn forget_oldest_key(state: &mut State) -> bool {
    let Some((at, tenant, key)) = state.key_order.get_min().cloned() else { return false };
    if state.time.since(at) <= limits::DEDUPE_WINDOW_MS {
        return false;
    }
    state.key_order.remove(&(at, tenant.clone(), key.clone()));
    let owner = (tenant, key);
    if state.keys.get(&owner).is_some_and(|record| record.live > 0) {
        // Looked at again a window later.
        state.key_order.insert((state.time, owner.0, owner.1));
    } else {
        state.keys.remove(&owner);
    }
    true
}
