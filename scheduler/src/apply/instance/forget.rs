//! Instances that are forgotten: with their tasks, or a while after their end where the cluster did not start them.

use stint_protocol::{CheckpointId, TaskId, limits};

use super::checkpoint::weight_of_try;
use super::{drop_bytes, drop_payload, event, tables};
use crate::apply::blob;
use crate::instance::{Instance, InstanceNo};
use crate::state::State;

/// Forgets the instance of a task that is forgotten. Answers how much that was.
pub(crate) fn forget_with_task(state: &mut State, task: TaskId) -> usize {
    let Some(no) = state.instance_of_task(task) else { return 0 };
    tables(state).of_task.remove(&task);
    forget(state, no)
}

/// Forgets the instance outside the cluster that ended first, when that is long ago. Answers how much that was; 0: nothing.
pub(crate) fn forget_oldest_outside(state: &mut State) -> usize {
    let Some((at, no)) = state.instances.ended_outside.get_min().copied() else { return 0 };
    if state.time.since(at) <= limits::KEEP_OUTSIDE_MS {
        return 0;
    }
    tables(state).ended_outside.remove(&(at, no));
    forget(state, no)
}

/// Forgets how instances ended in an hour that is long ago. Answers how much that was; 0: nothing.
pub(crate) fn forget_oldest_hour(state: &mut State) -> usize {
    let now = state.time.0 / 3_600_000;
    let oldest = state.instances.hours.get_min().map(|(key, _)| key.clone());
    match oldest.filter(|(hour, _)| hour + limits::INSTANCE_HOURS < now) {
        Some(key) => {
            tables(state).hours.remove(&key);
            1
        }
        None => 0,
    }
}

/// Forgets an instance that has ended, and all that it has.
fn forget(state: &mut State, no: InstanceNo) -> usize {
    let Some(instance) = state.instance(no) else { return 0 };
    let mut instance = std::sync::Arc::unwrap_or_clone(instance);
    let mut things = 1;
    while event::drop_oldest(state, no, &mut instance) {
        things += 1;
    }
    let checkpoints: Vec<((InstanceNo, u64), CheckpointId)> = {
        let order = state.instances.checkpoint_order.range((no, 0)..=(no, u64::MAX));
        order.map(|(key, id)| (*key, id.clone())).collect()
    };
    for (place, id) in checkpoints {
        tables(state).checkpoint_order.remove(&place);
        if let Some(known) = tables(state).checkpoints.remove(&(no, id)) {
            drop_bytes(state, &mut instance, weight_of_try(&known));
            drop_payload(state, &mut instance, &known.state);
        }
        things += 1;
    }
    drop_own(state, &mut instance);
    let tables = tables(state);
    tables.ids.remove(&instance.id);
    tables.of_tenant.remove(&(instance.tenant, no));
    tables.records.remove(&no);
    things
}

/// What stands in the record itself.
fn drop_own(state: &mut State, instance: &mut Instance) {
    let given = instance.given.clone();
    for payload in given.input.iter().chain(instance.output.take().iter()) {
        blob::drop_reference(state, payload.blob());
    }
    let rest = instance.counts.bytes;
    drop_bytes(state, instance, rest);
}
