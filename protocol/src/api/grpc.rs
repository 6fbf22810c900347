//! Documents as `stint.v1` carries them, both ways. There, 0 and an empty text stand for what is not there.

use super::{
    Attempt, Cluster, Explanation, Gpu, HeldBack, Image, Kept, Limits, Node, NodeReason, Outcome, Peer,
    Submitted, Task, Usage, Waited,
};
use crate::{HostMount, v1};

fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn counted(number: u64) -> Option<u64> {
    Some(number).filter(|number| *number != 0)
}

/// Each document's elements, turned into the other form.
fn all<A, B: From<A>>(elements: Vec<A>) -> Vec<B> {
    elements.into_iter().map(B::from).collect()
}

impl From<v1::SubmitReply> for Submitted {
    fn from(reply: v1::SubmitReply) -> Self {
        let v1::SubmitReply { task_ids, repeated } = reply;
        Self { task_ids, repeated }
    }
}

impl From<v1::WaitReply> for Waited {
    fn from(reply: v1::WaitReply) -> Self {
        Self { finished: reply.finished, tasks: all(reply.tasks) }
    }
}

impl From<Waited> for v1::WaitReply {
    fn from(waited: Waited) -> Self {
        Self { finished: waited.finished, tasks: all(waited.tasks) }
    }
}

impl From<v1::Task> for Task {
    fn from(task: v1::Task) -> Self {
        Self {
            id: task.id,
            name: given(task.name),
            tenant: task.tenant,
            class: task.class,
            state: task.state,
            priority: task.priority,
            command: task.command,
            submitted_at_ms: task.submitted_at_ms,
            not_before_ms: counted(task.not_before_ms),
            attempts: task.attempts,
            node_id: counted(task.node_id),
            node: given(task.node_name),
            outcome: task.outcome.map(Outcome::from),
            attempt_records: all(task.attempt_records),
            limits: task.limits.map(Limits::from),
            cpu_milli: task.cpu_milli,
            memory_bytes: task.memory_bytes,
        }
    }
}

impl From<Task> for v1::Task {
    fn from(task: Task) -> Self {
        Self {
            id: task.id,
            name: task.name.unwrap_or_default(),
            tenant: task.tenant,
            class: task.class,
            state: task.state,
            submitted_at_ms: task.submitted_at_ms,
            attempts: task.attempts,
            node_id: task.node_id.unwrap_or_default(),
            node_name: task.node.unwrap_or_default(),
            outcome: task.outcome.map(v1::Outcome::from),
            attempt_records: all(task.attempt_records),
            command: task.command,
            priority: task.priority,
            not_before_ms: task.not_before_ms.unwrap_or_default(),
            cpu_milli: task.cpu_milli,
            memory_bytes: task.memory_bytes,
            limits: task.limits.map(v1::TaskLimits::from),
        }
    }
}

impl From<v1::Outcome> for Outcome {
    fn from(outcome: v1::Outcome) -> Self {
        let v1::Outcome { status, kind, exit_code, message, finished_at_ms, run_ms, attempt, outputs, usage } =
            outcome;
        let (outputs, usage) = (all(outputs), usage.map(Usage::from));
        Self { status, kind, exit_code, message, finished_at_ms, run_ms, attempt, outputs, usage }
    }
}

impl From<Outcome> for v1::Outcome {
    fn from(outcome: Outcome) -> Self {
        let Outcome { status, kind, exit_code, message, finished_at_ms, run_ms, attempt, outputs, usage } =
            outcome;
        let (outputs, usage) = (all(outputs), usage.map(v1::Usage::from));
        Self { status, kind, exit_code, message, finished_at_ms, run_ms, attempt, outputs, usage }
    }
}

impl From<v1::KeptFile> for Kept {
    fn from(kept: v1::KeptFile) -> Self {
        let v1::Blob { digest, size_bytes } = kept.blob.unwrap_or_default();
        Self { path: kept.path, digest, size_bytes, stored: kept.stored }
    }
}

impl From<Kept> for v1::KeptFile {
    fn from(kept: Kept) -> Self {
        let Kept { path, digest, size_bytes, stored } = kept;
        Self { path, blob: Some(v1::Blob { digest, size_bytes }), stored }
    }
}

impl From<v1::Attempt> for Attempt {
    fn from(attempt: v1::Attempt) -> Self {
        Self {
            number: attempt.number,
            node_id: attempt.node_id,
            node: attempt.node_name,
            started_at_ms: counted(attempt.started_at_ms),
            ended_at_ms: counted(attempt.ended_at_ms),
            end: given(attempt.end),
            message: attempt.message,
            gpus: attempt.gpus,
        }
    }
}

impl From<Attempt> for v1::Attempt {
    fn from(attempt: Attempt) -> Self {
        Self {
            number: attempt.number,
            node_id: attempt.node_id,
            node_name: attempt.node,
            started_at_ms: attempt.started_at_ms.unwrap_or_default(),
            ended_at_ms: attempt.ended_at_ms.unwrap_or_default(),
            end: attempt.end.unwrap_or_default(),
            message: attempt.message,
            gpus: attempt.gpus,
        }
    }
}

impl From<v1::TaskLimits> for Limits {
    fn from(limits: v1::TaskLimits) -> Self {
        let v1::TaskLimits { pids, swap_bytes, tmp_bytes, shm_bytes, network, working_dir, mounts } = limits;
        let (network, working_dir, mounts) = (given(network), given(working_dir), all(mounts));
        Self { pids, network, tmp_bytes, shm_bytes, swap_bytes, working_dir, mounts }
    }
}

impl From<Limits> for v1::TaskLimits {
    fn from(limits: Limits) -> Self {
        let Limits { pids, network, tmp_bytes, shm_bytes, swap_bytes, working_dir, mounts } = limits;
        let (network, working_dir) = (network.unwrap_or_default(), working_dir.unwrap_or_default());
        Self { pids, swap_bytes, tmp_bytes, shm_bytes, network, working_dir, mounts: all(mounts) }
    }
}

impl From<v1::HostMount> for HostMount {
    fn from(mount: v1::HostMount) -> Self {
        let v1::HostMount { source, target, writable } = mount;
        Self { source, target: given(target), writable }
    }
}

impl From<HostMount> for v1::HostMount {
    fn from(mount: HostMount) -> Self {
        let HostMount { source, target, writable } = mount;
        Self { source, target: target.unwrap_or_default(), writable }
    }
}

impl From<v1::Usage> for Usage {
    fn from(usage: v1::Usage) -> Self {
        let v1::Usage { cpu_ms, peak_memory_bytes, read_bytes, written_bytes } = usage;
        Self { cpu_ms, peak_memory_bytes, read_bytes, written_bytes }
    }
}

impl From<Usage> for v1::Usage {
    fn from(usage: Usage) -> Self {
        let Usage { cpu_ms, peak_memory_bytes, read_bytes, written_bytes } = usage;
        Self { cpu_ms, peak_memory_bytes, read_bytes, written_bytes }
    }
}

impl From<v1::Node> for Node {
    fn from(node: v1::Node) -> Self {
        Self {
            id: node.id,
            name: node.name,
            address: node.address,
            state: node.state,
            role: node.role,
            cpu_milli: node.cpu_milli,
            cpu_used_milli: node.cpu_used_milli,
            memory_bytes: node.memory_bytes,
            memory_used_bytes: node.memory_used_bytes,
            running: node.running,
            slots: node.slots,
            gpus: all(node.gpus),
            runtimes: node.runtimes,
            classes: node.classes,
            labels: node.labels.into_iter().collect(),
            problems: node.problems,
        }
    }
}

impl From<Node> for v1::Node {
    fn from(node: Node) -> Self {
        Self {
            id: node.id,
            name: node.name,
            address: node.address,
            state: node.state,
            role: node.role,
            cpu_milli: node.cpu_milli,
            cpu_used_milli: node.cpu_used_milli,
            memory_bytes: node.memory_bytes,
            memory_used_bytes: node.memory_used_bytes,
            running: node.running,
            slots: node.slots,
            gpus: all(node.gpus),
            runtimes: node.runtimes,
            classes: node.classes,
            labels: node.labels.into_iter().collect(),
            problems: node.problems,
        }
    }
}

impl From<v1::Gpu> for Gpu {
    fn from(gpu: v1::Gpu) -> Self {
        let v1::Gpu { id, model, memory_bytes, state, holder } = gpu;
        Self { id, model, memory_bytes, state, holder: given(holder) }
    }
}

impl From<Gpu> for v1::Gpu {
    fn from(gpu: Gpu) -> Self {
        let Gpu { id, model, memory_bytes, state, holder } = gpu;
        Self { id, model, memory_bytes, state, holder: holder.unwrap_or_default() }
    }
}

impl From<v1::ClusterStatusReply> for Cluster {
    fn from(reply: v1::ClusterStatusReply) -> Self {
        Self {
            cluster: reply.cluster,
            version: reply.version,
            node_id: reply.node_id,
            leader_id: counted(reply.leader_id),
            term: reply.term,
            applied_index: reply.applied_index,
            queued: reply.queued,
            running: reply.running,
            finished: reply.finished,
            peers: all(reply.peers),
            alarms: reply.alarms,
            cluster_version: reply.cluster_version,
            held_back_by: all(reply.held_back_by),
        }
    }
}

impl From<Cluster> for v1::ClusterStatusReply {
    fn from(cluster: Cluster) -> Self {
        Self {
            cluster: cluster.cluster,
            node_id: cluster.node_id,
            leader_id: cluster.leader_id.unwrap_or_default(),
            term: cluster.term,
            applied_index: cluster.applied_index,
            peers: all(cluster.peers),
            queued: cluster.queued,
            running: cluster.running,
            finished: cluster.finished,
            version: cluster.version,
            alarms: cluster.alarms,
            cluster_version: cluster.cluster_version,
            held_back_by: all(cluster.held_back_by),
        }
    }
}

impl From<v1::Peer> for Peer {
    fn from(peer: v1::Peer) -> Self {
        let v1::Peer { id, name, address, role, lag } = peer;
        Self { id, name, address, role, lag }
    }
}

impl From<Peer> for v1::Peer {
    fn from(peer: Peer) -> Self {
        let Peer { id, name, address, role, lag } = peer;
        Self { id, name, address, role, lag }
    }
}

impl From<v1::HeldBack> for HeldBack {
    fn from(by: v1::HeldBack) -> Self {
        let v1::HeldBack { name, speaks } = by;
        Self { name, speaks }
    }
}

impl From<HeldBack> for v1::HeldBack {
    fn from(by: HeldBack) -> Self {
        let HeldBack { name, speaks } = by;
        Self { name, speaks }
    }
}

impl From<v1::ExplainReply> for Explanation {
    fn from(reply: v1::ExplainReply) -> Self {
        let v1::ExplainReply { summary, nodes, advice, ahead_in_queue } = reply;
        Self { summary, ahead_in_queue, nodes: all(nodes), advice }
    }
}

impl From<Explanation> for v1::ExplainReply {
    fn from(explanation: Explanation) -> Self {
        let Explanation { summary, ahead_in_queue, nodes, advice } = explanation;
        Self { summary, nodes: all(nodes), advice, ahead_in_queue }
    }
}

impl From<v1::NodeReason> for NodeReason {
    fn from(reason: v1::NodeReason) -> Self {
        let v1::NodeReason { node_id, node_name, missing } = reason;
        Self { node_id, node: node_name, missing }
    }
}

impl From<NodeReason> for v1::NodeReason {
    fn from(reason: NodeReason) -> Self {
        let NodeReason { node_id, node, missing } = reason;
        Self { node_id, node_name: node, missing }
    }
}

impl From<v1::Image> for Image {
    fn from(image: v1::Image) -> Self {
        Self {
            id: image.id,
            tenant: image.tenant,
            name: image.name,
            kind: image.kind,
            digest: given(image.digest),
            size_bytes: counted(image.size_bytes),
            reference: given(image.reference),
            description: image.description,
            created_at_ms: image.created_at_ms,
            nodes: image.nodes,
            used_by: image.used_by,
        }
    }
}

impl From<Image> for v1::Image {
    fn from(image: Image) -> Self {
        Self {
            id: image.id,
            tenant: image.tenant,
            name: image.name,
            kind: image.kind,
            digest: image.digest.unwrap_or_default(),
            size_bytes: image.size_bytes.unwrap_or_default(),
            reference: image.reference.unwrap_or_default(),
            description: image.description,
            created_at_ms: image.created_at_ms,
            nodes: image.nodes,
            used_by: image.used_by,
        }
    }
}
