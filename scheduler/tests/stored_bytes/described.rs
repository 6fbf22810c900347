//! What the stored snapshots hold, in words.

use stint_protocol::*;
use stint_scheduler::*;

use crate::tasks::team;

/// What the stored snapshot holds, in words. That the state was made by commands does not matter here: what they do may
/// change, what was stored may not.
pub fn describe(state: &State) -> Vec<String> {
    let mut lines = vec![state.version().to_string()];
    lines.push(format!(
        "{} {:?} at {}: {} queued, {} wait, {} run, {} finished ever",
        state.settings().cluster,
        state.settings().placement,
        state.time().0,
        Class::ALL.into_iter().map(|class| state.queued(class)).sum::<usize>(),
        state.waiting(),
        state.running(),
        state.finished_total()
    ));
    for node in state.nodes() {
        let backoff = node.backing_off(state.time()).map(|backoff| (backoff.tasks, backoff.message.clone()));
        let (mode, gpus, running) = (node.mode, node.offer.gpus.len(), node.running);
        let by = node.drain_by.map(|at| at.0);
        let facts = format!("{mode:?} by {by:?}, {gpus} GPUs, runs {running}, held {backoff:?}");
        lines.push(format!("{:?} speaks {}, {facts}", node.id, node.speaks.0));
    }
    for (id, task) in state.tasks_before(TaskId(u128::MAX)) {
        let (name, fields) = (task.fields.name.as_ref().map(TaskName::as_str), &task.fields);
        let (records, starts) = (fields.records.len(), fields.failed_starts);
        let leased = task.leased().map(|leased| (leased.node, &leased.gpus, leased.is_cancelled()));
        let facts = format!("{:?} index {}, leased {leased:?}", task.spec.class, fields.index);
        lines.push(format!("{id} {name:?} {facts}, {records} ended, {starts} failed starts"));
    }
    for (id, task) in state.finished_before(TaskId(u128::MAX)) {
        lines.push(format!("{id} {}: {}", task.fields.outcome.as_str(), task.fields.outcome.message));
    }
    lines.push(format!("join token valid: {}", state.join_token_valid(&[0x71; 32])));
    lines
}

/// What the snapshots hold; the first one knows of no versions.
pub fn described(version: u32) -> Vec<String> {
    let nodes = [
        "Draining by Some(1790003600220), 0 GPUs, runs 0, held None",
        "Ready by None, 2 GPUs, runs 1, held Some((3, \"the disk is full\"))",
    ];
    let nodes = nodes.iter().zip(1..).map(|(facts, id)| format!("node {id} speaks {version}, {facts}"));
    let mut lines = vec![format!("version {version}")];
    let more = u32::from(version == 3);
    let (queued, wait) = (2 + more, 5 + more);
    lines.push(format!(
        "stored Spread at 1790000000230: {queued} queued, {wait} wait, 1 run, 1 finished ever"
    ));
    lines.extend(nodes);
    lines.extend((version == 3).then(|| TASK_7.to_string()));
    lines.extend(TASKS.iter().map(|line| line.to_string()));
    lines
}

const TASK_7: &str = "00000000-0000-0000-0000-000000070000 Some(\"task-7\") CpuShort index 0, leased None, 0 ended, 0 failed starts";
const TASKS: &[&str] = &[
    "00000000-0000-0000-0000-000000060000 Some(\"task-6\") CpuShort index 0, leased None, 1 ended, 1 failed starts",
    "00000000-0000-0000-0000-000000050000 Some(\"task-5\") CpuShort index 0, leased None, 1 ended, 1 failed starts",
    "00000000-0000-0000-0000-000000040001 None CpuLong index 1, leased None, 0 ended, 0 failed starts",
    "00000000-0000-0000-0000-000000040000 None CpuLong index 0, leased None, 0 ended, 0 failed starts",
    "00000000-0000-0000-0000-000000030000 Some(\"task-3\") CpuShort index 0, leased None, 1 ended, 1 failed starts",
    "00000000-0000-0000-0000-000000010000 Some(\"task-1\") Gpu index 0, leased Some((node 2, [\"GPU-1\"], true)), 0 ended, 0 failed starts",
    "00000000-0000-0000-0000-000000020000 failed: exit code 3",
    "join token valid: true",
];

pub fn describe_images(state: &State) -> Vec<String> {
    let mut lines = Vec::new();
    for (id, task) in state.tasks_before(TaskId(u128::MAX)) {
        let pinned = task.spec.pinned.as_ref().and_then(|pinned| state.image(pinned.id));
        lines
            .extend(pinned.map(|image| format!("{id} uses {:x}, listed {}", image.id.0 >> 64, image.listed)));
    }
    for image in state.images_after(&team(), None) {
        lines.push(format!("{:x} {} listed: {}", image.id.0 >> 64, image.name, image.description));
    }
    for (digest, record) in state.blobs() {
        let (number, kept) = (digest.bytes()[0], state.tenant_has(&team(), digest));
        lines.push(format!(
            "blob {number} on {:?}, unused {:?}, kept {kept}",
            record.holders, record.unused_since
        ));
    }
    lines
}

pub const IMAGES: &[&str] = &[
    "00000000-0000-0000-0000-000000070000 uses 7, listed false",
    "8 team/tool:2 listed: what it does",
    "blob 7 on [node 1, node 2], unused None, kept true",
    "blob 8 on [node 2], unused None, kept true",
    "blob 9 on [node 2], unused Some(TimeMs(1790000000230)), kept false",
];
