//! Leases: granted by a plan, ended by a node's report or by running out.

use std::sync::Arc;

use stint_protocol::limits::clip;
use stint_protocol::{
    AttemptEnd, EndKind, Ending, LeaseId, NodeId, OnLost, Outcome, RetryPolicy, TaskId, TimeMs, limits,
    version,
};

use crate::apply::image;
use crate::apply::instance::{self, Next as OfInstance};
use crate::apply::outputs;
use crate::apply::submit::share_of_spec;
use crate::apply::suspend;
use crate::command::{Change, Rejection};
use crate::history::EncodedTask;
use crate::plan::{Assignment, Plan, assignment_holds, could_run};
use crate::state::State;
use crate::task::{AttemptRecord, FinishedFields, FinishedTask, Leased, SuspendReason, Task, TaskState};

/// Grants each assignment that still holds; the others are dropped one by one.
pub(super) fn commit_plan(state: &mut State, plan: Plan, changes: &mut Vec<Change>) -> Result<(), Rejection> {
    for assignment in plan.assignments {
        if assignment_holds(state, &assignment) {
            grant(state, assignment, changes);
        }
    }
    Ok(())
}

fn grant(state: &mut State, assignment: Assignment, changes: &mut Vec<Change>) {
    let Assignment { task: id, node, incarnation, runtime, gpus } = assignment;
    let since = state.time;
    let Some(task) = state.tasks.get(&id) else { return };
    state.queue.remove(id, task);
    let Some(task) = state.tasks.get_mut(&id).map(Arc::make_mut) else { return };
    task.fields.attempts += 1;
    let lease = LeaseId { task: id, attempt: task.fields.attempts };
    let need = task.spec.resources();
    for gpu in &gpus {
        if let Some(record) = state.gpus.get_mut(gpu) {
            assert!(record.holder.is_none(), "GPU {gpu} would get a second holder, {lease}");
            record.holder = Some(lease);
        }
    }
    task.fields.state = TaskState::Leased(Leased { node, incarnation, since, runtime, gpus, stop: None });
    if let Some(record) = state.nodes.get_mut(&node).map(Arc::make_mut) {
        record.used = record.used.plus(&need);
        record.running += 1;
    }
    state.leases.insert((node, lease));
    changes.push(Change::Leased { lease, node });
}

/// Records what a node says has stopped. Reports of leases it does not hold are stale and change nothing.
pub(super) fn record_ends(
    state: &mut State,
    node: NodeId,
    ends: Vec<AttemptEnd>,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    for end in ends {
        end_attempt(state, node, end, changes);
    }
    Ok(())
}

/// The leader waited long enough: these attempts have provably stopped (docs/internals/leases.md#leader-waits-longer).
pub(super) fn expire(
    state: &mut State,
    leases: Vec<LeaseId>,
    changes: &mut Vec<Change>,
) -> Result<(), Rejection> {
    for lease in leases {
        let holder = state.tasks.get(&lease.task).and_then(|t| t.leased()).map(|l| l.node);
        let Some(node) = holder else { continue };
        // The task may be leased anew by now: only this attempt is over, and the next one must go on.
        if !state.leases.contains(&(node, lease)) {
            continue;
        }
        let name = state.nodes.get(&node).map_or_else(|| node.to_string(), |n| n.name.clone());
        let message = format!("node {name} did not renew its lease: the attempt was stopped with it");
        end_attempt(state, node, AttemptEnd::new(lease, EndKind::Lost, message, 0), changes);
    }
    Ok(())
}

/// The cluster begins anew without what this attempt did: it is lost, which is no loss that its task is to blame for.
pub(super) fn abandon(state: &mut State, node: NodeId, lease: LeaseId, changes: &mut Vec<Change>) {
    let Some((mut task, released)) = release(state, node, lease) else { return };
    let now = state.time;
    let message = "the cluster began anew from a copy: what became of this attempt is not known";
    let end = AttemptEnd::new(lease, EndKind::Lost, message.into(), 0);
    let oldest = record_attempt(&mut task, &released, &end, None, now);
    outputs::forget_of(state, oldest.as_ref());
    if let Some(wake_at) = instance::goes_on_suspended(state, lease) {
        let reason = if wake_at.is_some() { SuspendReason::Sleep } else { SuspendReason::Paused };
        return suspend::after_attempt(state, (lease.task, task), reason, wake_at, changes);
    }
    let ended = instance::end_of_task(state, lease.task);
    let kind = match released.is_cancelled() {
        true => EndKind::Cancelled,
        false if ended.is_some() => EndKind::Lost,
        false if task.spec.on_lost == OnLost::Fail => EndKind::Lost,
        false => return requeue(state, lease.task, task, now, changes),
    };
    let mut outcome = Outcome {
        kind,
        message: end.message,
        finished_at: now,
        attempt: lease.attempt,
        run_ms: 0,
        crash_loop: false,
        outputs: None,
        not_kept: None,
        usage: None,
    };
    ended.into_iter().for_each(|how| instance::settle_outcome(&mut outcome, how));
    remember(state, lease.task, task, outcome, changes);
}

/// An attempt is over, unless its lease was over before: such an end is stale, and changes nothing.
fn end_attempt(state: &mut State, node: NodeId, mut end: AttemptEnd, changes: &mut Vec<Change>) {
    let id = end.lease.task;
    let Some((mut task, released)) = release(state, node, end.lease) else { return };
    let verdict = Verdict::read(state, &task, &released, &end);
    changes.push(Change::Released { lease: end.lease, node });
    let now = state.time;
    let kept = end.outputs.take();
    let ending = end.ending.take().map(|ending| keep_ending(state, end.lease, *ending, changes));
    let oldest = record_attempt(&mut task, &released, &end, ending, now);
    if let Some(node) = state.nodes.get_mut(&node).map(Arc::make_mut) {
        if state.version >= version::HOLDS {
            node.note_end(&end, &released, &task.fields.tenant, now);
        } else {
            node.note_end_for_all(&end, released.since, now);
        }
    }
    let of_instance = instance::after_attempt(state, node, &mut end, changes);
    if verdict.refused_elsewhere {
        for node in refusing_nodes(&task) {
            if let Some(node) = state.nodes.get_mut(&node).map(Arc::make_mut) {
                node.forget_refusals(released.runtime, &task.fields.tenant);
            }
        }
    }
    outputs::forget_of(state, oldest.as_ref());
    let next = match of_instance {
        OfInstance::Finish(how) => {
            let mut outcome = outcome_of(end, now);
            instance::settle_outcome(&mut outcome, how);
            Next::Finish(outcome)
        }
        OfInstance::Suspend(reason, wake_at) => Next::Suspend(reason, wake_at),
        OfInstance::Queue => Next::Retry(now),
        OfInstance::AsTask => decide(id, &mut task, &released, end, now, verdict),
    };
    match next {
        Next::Finish(mut outcome) => {
            outcome.outputs = outputs::hold(state, kept);
            remember(state, id, task, outcome, changes);
        }
        Next::Retry(not_before) => {
            outputs::remember(state, &mut task, kept);
            requeue(state, id, task, not_before, changes);
        }
        Next::Suspend(reason, wake_at) => {
            outputs::remember(state, &mut task, kept);
            suspend::after_attempt(state, (id, task), reason, wake_at, changes);
        }
    }
}

/// Has each peer keep what an attempt wrote last, and says under which number: of the same row as the tasks', as it is in
/// snapshots already.
fn keep_ending(state: &mut State, lease: LeaseId, ending: Ending, changes: &mut Vec<Change>) -> u64 {
    let number = state.next_sequence;
    state.next_sequence += 1;
    changes.push(Change::EndingKept { lease, number, ending: Arc::new(ending) });
    number
}

/// The nodes that refused to start a task.
fn refusing_nodes(task: &Task) -> Vec<NodeId> {
    let refused = task.fields.records.iter().filter(|record| record.end == EndKind::StartRefused);
    refused.map(|record| record.node).collect()
}

/// Takes the lease from its node and its GPUs, and its task out of the state: whoever asks puts it back, or into the history.
/// Looked up once, and copied at most once, as nearly all that is leased ends with this.
fn release(state: &mut State, node: NodeId, lease: LeaseId) -> Option<(Task, Leased)> {
    state.leases.remove(&(node, lease))?;
    let task = state.tasks.remove(&lease.task).map(Arc::unwrap_or_clone);
    let mut task = task.unwrap_or_else(|| panic!("task {} has a lease and no record", lease.task));
    let waits = TaskState::Queued { since: state.time, not_before: state.time };
    let TaskState::Leased(leased) = std::mem::replace(&mut task.fields.state, waits) else {
        panic!("task {} has a lease and does not know it", lease.task)
    };
    let need = task.spec.resources();
    if let Some(record) = state.nodes.get_mut(&node).map(Arc::make_mut) {
        record.used = record.used.minus(&need);
        record.running = record.running.saturating_sub(1);
    }
    for gpu in &leased.gpus {
        let Some(record) = state.gpus.get_mut(gpu) else { continue };
        record.holder = None;
        if record.unused() {
            state.gpus.remove(gpu);
        }
    }
    Some((task, leased))
}

/// Notes an attempt that ended with its task, which remembers so many: answers the oldest one when that goes for it.
fn record_attempt(
    task: &mut Task,
    leased: &Leased,
    end: &AttemptEnd,
    ending: Option<u64>,
    now: TimeMs,
) -> Option<AttemptRecord> {
    let record = AttemptRecord {
        number: end.lease.attempt,
        node: leased.node,
        leased_at: leased.since,
        ended_at: now,
        end: end.kind.clone(),
        message: end.message.clone(),
        gpus: leased.gpus.clone(),
        run_ms: end.run_ms,
        runtime: Some(leased.runtime),
        ending,
        outputs: None,
        outputs_forgotten: None,
    };
    let is_full = task.fields.records.len() >= limits::ATTEMPT_RECORDS;
    let oldest = is_full.then(|| task.fields.records.remove(0));
    // Most have one.
    task.fields.records.reserve_exact(1);
    task.fields.records.push(record);
    oldest
}

enum Next {
    Finish(Outcome),
    Retry(TimeMs),
    Suspend(SuspendReason, Option<TimeMs>),
}

/// What the state says of an end beyond its task. By version: all replicas decide the same.
struct Verdict {
    /// Losses that end a task.
    losses_at_most: u32,
    /// The loss may be the task's doing.
    loss_counts: bool,
    /// It ran for so long before it was lost that its earlier losses say nothing.
    losses_forgotten: bool,
    /// Every node that could run it said that its files are not there, or the time it may run would be over.
    files_are_nowhere: bool,
    /// No node that could run it is left that has not refused it by a rule of its operator.
    denied_everywhere: bool,
    /// Another node refused to start it in the same words.
    refused_elsewhere: bool,
}

impl Verdict {
    fn read(state: &State, task: &Task, leased: &Leased, end: &AttemptEnd) -> Self {
        let losses_at_most = state.settings.rules.crash_loop_losses;
        let plain = Self {
            losses_at_most,
            loss_counts: true,
            losses_forgotten: false,
            files_are_nowhere: false,
            denied_everywhere: true,
            refused_elsewhere: false,
        };
        if state.version < version::FAIR_VERDICTS {
            return plain;
        }
        let held_ms = state.time.since(leased.since);
        let waited_ms = state.longest_lease_ms(task.spec.class) + state.settings.lease_margin_ms;
        let lost_there = |record: &AttemptRecord| record.end == EndKind::Lost && record.node == leased.node;
        // With fewer nodes than losses that end a task, one node has to count more than once.
        let few_nodes = (state.nodes.len() as u32) < state.settings.rules.crash_loop_losses;
        let refused_so = |record: &AttemptRecord| {
            let elsewhere = record.end == EndKind::StartRefused && record.node != leased.node;
            elsewhere && is_same_failure(&record.message, &end.message)
        };
        let elsewhere = few_nodes || !task.fields.records.iter().any(lost_there);
        Self {
            losses_at_most,
            loss_counts: elsewhere && held_ms <= limits::LOST_SOON_MS + waited_ms,
            losses_forgotten: held_ms >= limits::LOSSES_FORGOTTEN_MS,
            // Looks at every node: only when it matters.
            files_are_nowhere: end.kind == EndKind::FilesMissing && files_are_nowhere(state, task, leased),
            denied_everywhere: end.kind != EndKind::Denied || denied_everywhere(state, task, leased),
            refused_elsewhere: end.kind == EndKind::StartRefused
                && task.fields.records.iter().any(refused_so),
        }
    }
}

/// Whether to give up on files that an attempt did not find.
fn files_are_nowhere(state: &State, task: &Task, leased: &Leased) -> bool {
    let lately = task.fields.records.iter().rev().take_while(|record| record.end == EndKind::FilesMissing);
    let without: Vec<NodeId> = lately.clone().map(|record| record.node).chain([leased.node]).collect();
    let first = lately.map(|record| record.leased_at).min().unwrap_or(leased.since);
    let too_late = state.time.since(first) > task.spec.timeout_ms;
    let mut able =
        state.nodes.values().filter(|node| could_run(state, node, &task.fields.tenant, &task.spec));
    let everywhere = able.all(|node| without.contains(&node.id));
    too_late || (everywhere && without.len() as u32 >= limits::FILES_MISSING_TRIES)
}

/// Whether two nodes say the same of a start that they refused: words with digits or slashes are places and numbers, and differ.
fn is_same_failure(one: &str, other: &str) -> bool {
    let is_common = |part: &&str| !part.contains(|c: char| c.is_ascii_digit() || c == '/');
    one.split_whitespace().filter(is_common).eq(other.split_whitespace().filter(is_common))
}

/// Whether every node that could run a task, as far as its offer says, has refused it by now.
fn denied_everywhere(state: &State, task: &Task, leased: &Leased) -> bool {
    if state.version < version::NODE_RULES {
        return true;
    }
    let denied_on = |node: NodeId| {
        let mut records = task.fields.records.iter();
        node == leased.node || records.any(|record| record.node == node && record.end == EndKind::Denied)
    };
    let mut others = state.nodes.values().filter(|node| !denied_on(node.id));
    !others.any(|node| could_run(state, node, &task.fields.tenant, &task.spec))
}

/// What follows the end of an attempt (docs/using/results.md has the table of what is tried again).
fn decide(
    id: TaskId,
    task: &mut Task,
    leased: &Leased,
    end: AttemptEnd,
    now: TimeMs,
    verdict: Verdict,
) -> Next {
    let mut outcome = outcome_of(end, now);
    // A success that came before the stop stays one: what the program did is done, and who reads `cancelled` might
    // have it done again.
    if leased.is_cancelled() && !outcome.succeeded() {
        outcome.kind = EndKind::Cancelled;
        return Next::Finish(outcome);
    }
    let policy = &task.spec.retry;
    match outcome.kind {
        EndKind::Exited(0) | EndKind::NotRunnable | EndKind::Cancelled => Next::Finish(outcome),
        EndKind::Denied if verdict.denied_everywhere => Next::Finish(outcome),
        // Tried again without `retry_failures`, too: the program did its work, and only what it left was lost.
        EndKind::OutputLost => {
            let count = one_more(&mut task.fields.failures);
            let again = count < policy.max_attempts;
            if again { retry_after(id, policy, count, now) } else { Next::Finish(outcome) }
        }
        EndKind::Drained => Next::Retry(now),
        EndKind::Lost | EndKind::Cut => {
            let is_cut = outcome.kind == EndKind::Cut;
            if verdict.losses_forgotten {
                task.fields.losses = 0;
            }
            task.fields.losses += u32::from(verdict.loss_counts || is_cut);
            outcome.crash_loop = task.fields.losses >= verdict.losses_at_most;
            if outcome.crash_loop {
                let losses = task.fields.losses;
                outcome.message =
                    format!("crash_loop: lost its node {losses} times; last: {}", outcome.message);
            }
            let give_up = outcome.crash_loop || (task.spec.on_lost == OnLost::Fail && !is_cut);
            if give_up { Next::Finish(outcome) } else { Next::Retry(now) }
        }
        EndKind::StartRefused if verdict.refused_elsewhere => {
            outcome.kind = EndKind::NotRunnable;
            outcome.message =
                clip(format!("no node is at fault, as another one says the same: {}", outcome.message));
            Next::Finish(outcome)
        }
        EndKind::StartFailed | EndKind::StartRefused | EndKind::FilesMissing | EndKind::Denied => {
            let count = one_more(&mut task.fields.failed_starts);
            let again = count < limits::FAILED_STARTS && !verdict.files_are_nowhere;
            if again { retry_after(id, policy, count, now) } else { Next::Finish(outcome) }
        }
        EndKind::Exited(_)
        | EndKind::Signalled(_)
        | EndKind::TimedOut
        | EndKind::OutOfMemory
        | EndKind::DiskExceeded
        | EndKind::OutputMissing => {
            let count = one_more(&mut task.fields.failures);
            let again = policy.retry_failures && count < policy.max_attempts;
            if again { retry_after(id, policy, count, now) } else { Next::Finish(outcome) }
        }
    }
}

/// The end of an attempt as that of its task.
fn outcome_of(end: AttemptEnd, now: TimeMs) -> Outcome {
    Outcome {
        kind: end.kind,
        message: end.message,
        finished_at: now,
        attempt: end.lease.attempt,
        run_ms: end.run_ms,
        crash_loop: false,
        outputs: end.outputs,
        usage: end.usage,
        not_kept: end.not_kept,
    }
}

fn one_more(count: &mut u32) -> u32 {
    *count += 1;
    *count
}

fn retry_after(id: TaskId, policy: &RetryPolicy, count: u32, now: TimeMs) -> Next {
    let wait = policy.backoff_after(count);
    Next::Retry(now.plus(wait + jitter(id, count, wait)))
}

/// Up to a quarter of the wait, from the task's id: the same on every replica, different between tasks.
fn jitter(id: TaskId, failures: u32, wait: u64) -> u64 {
    let mixed = ((id.0 >> 64) as u64 ^ id.0 as u64 ^ u64::from(failures)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) % (wait / 4 + 1)
}

/// A task that was released waits again.
fn requeue(state: &mut State, id: TaskId, mut task: Task, not_before: TimeMs, changes: &mut Vec<Change>) {
    let since = state.time;
    task.fields.state = TaskState::Queued { since, not_before };
    if not_before > since {
        state.delayed.insert((not_before, id));
    } else {
        state.queue.insert(id, &task);
    }
    state.tasks.insert(id, Arc::new(task));
    changes.push(Change::Queued { task: id });
}

/// Records the outcome of a task that holds no lease, once.
pub(super) fn finish(state: &mut State, id: TaskId, outcome: Outcome, changes: &mut Vec<Change>) {
    suspend::leave_place(state, id);
    let Some(task) = state.tasks.remove(&id) else { return };
    remember(state, id, Arc::unwrap_or_clone(task), outcome, changes);
}

/// A task that was taken out of the live state goes into the history.
fn remember(state: &mut State, id: TaskId, task: Task, outcome: Outcome, changes: &mut Vec<Change>) {
    instance::task_finished(state, id, &outcome, changes);
    state.earlier_outputs -= outputs::count_of(&task);
    state.spec_bytes = state.spec_bytes.saturating_sub(share_of_spec(&task));
    image::drop_use(state, &task.spec);
    let class = task.spec.class;
    if let Some(key) = task.fields.key
        && let Some(record) = state.keys.get_mut(&(task.fields.tenant.clone(), key))
    {
        record.live = record.live.saturating_sub(1);
    }
    state.tenant_finished(&task.fields.tenant, id);
    let fields = FinishedFields {
        tenant: task.fields.tenant,
        name: task.fields.name,
        index: task.fields.index,
        submitted_at: task.fields.submitted_at,
        attempts: task.fields.attempts,
        records: task.fields.records.into(),
        outcome: outcome.clone(),
    };
    state.finished_total += 1;
    let finished = FinishedTask { spec: task.spec, fields };
    state.history_bytes += finished.weight();
    let encoded = EncodedTask::new(&finished);
    let is_new = state.history.insert((outcome.finished_at, id), finished.fields.tenant, encoded);
    assert!(is_new, "task {id} would get a second outcome");
    changes.push(Change::Finished { task: id, class, outcome });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_wait_grows_by_up_to_a_quarter_the_same_for_every_replica() {
        let policy = RetryPolicy::default();
        for count in 1..10 {
            let wait = policy.backoff_after(count);
            let first = 0x0192_f3a4_5b6c_7d8e_9fa0_b1c2_d3e4_0000;
            let added: BTreeSet<u64> =
                (first..first + 100).map(|id| jitter(TaskId(id), count, wait)).collect();
            assert!(added.iter().all(|more| more * 4 <= wait), "{added:?} beyond {wait}");
            assert!(added.len() > 30, "tasks that failed together come back together: {added:?}");
        }
        assert_eq!(jitter(TaskId(7), 3, 2_000), jitter(TaskId(7), 3, 2_000));
    }
}
