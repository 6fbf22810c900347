//! A task with its attempts and its outcome.

use serde::{Deserialize, Serialize};

use crate::{HostMount, TaskLimits, TaskSpec};

/// What a submit made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submitted {
    pub task_ids: Vec<String>,
    /// True when the idempotency key was known: these are the tasks of the first submit.
    pub repeated: bool,
    /// Why no node could ever run them, as the nodes are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// What a wait ended with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waited {
    pub finished: bool,
    pub tasks: Vec<Task>,
}

/// A task as it stands or ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub id: String,
    pub name: Option<String>,
    pub tenant: String,
    pub class: String,
    /// queued, starting, pending (in Slurm), running, stopping, suspended, finished
    pub state: String,
    pub priority: u32,
    pub command: Vec<String>,
    pub submitted_at_ms: u64,
    /// While a retry waits: when it may start.
    pub not_before_ms: Option<u64>,
    pub attempts: u32,
    /// Of the last attempt.
    pub node_id: Option<u64>,
    pub node: Option<String>,
    pub outcome: Option<Outcome>,
    pub attempt_records: Vec<Attempt>,
    /// As submitted.
    pub limits: Option<Limits>,
    pub comment: Option<String>,
    /// The user that its program runs as, when that is the one who submitted it.
    pub run_as_uid: Option<u32>,
    /// What each attempt is given. The native API has it; the JSON never did.
    #[serde(default, skip_serializing)]
    pub cpu_milli: u64,
    #[serde(default, skip_serializing)]
    pub memory_bytes: u64,
}

/// How a task ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// succeeded, failed, cancelled
    pub status: String,
    /// How its last attempt ended, or crash_loop.
    pub kind: String,
    /// The program's own, as results have it. Null when it did not run, or was ended.
    pub exit_code: Option<i32>,
    /// What `stint run` exits with.
    pub run_exit_code: i32,
    pub message: String,
    pub finished_at_ms: u64,
    pub run_ms: u64,
    pub attempt: u32,
    pub outputs: Vec<Kept>,
    /// What was not kept of them; the first 32.
    #[serde(default)]
    pub not_kept: Vec<NotKept>,
    pub usage: Option<Usage>,
}

/// A file that was kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    pub path: String,
    pub digest: String,
    pub size_bytes: u64,
    /// In the cluster; otherwise on the node that ran the task.
    pub stored: bool,
    #[serde(default)]
    pub executable: bool,
    /// Nobody has its bytes any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

/// A file that was not kept, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NotKept {
    pub path: String,
    pub reason: String,
}

/// One attempt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    pub number: u32,
    pub node_id: u64,
    pub node: String,
    pub started_at_ms: Option<u64>,
    pub ended_at_ms: Option<u64>,
    /// How it ended; null while it runs.
    pub end: Option<String>,
    pub message: String,
    pub gpus: Vec<String>,
    /// What was kept of its outputs, when the task did not end with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Kept>,
    /// So many were kept and are not remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs_forgotten: Option<u32>,
}

/// Limits that a task was submitted with; null is as its node gives it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    pub pids: Option<u32>,
    pub network: Option<String>,
    pub tmp_bytes: Option<u64>,
    pub shm_bytes: Option<u64>,
    pub swap_bytes: Option<u64>,
    pub working_dir: Option<String>,
    /// As they are written on the command line.
    #[serde(with = "mounts_as_text")]
    pub mounts: Vec<HostMount>,
}

/// What an attempt used, all its processes together; null where its node cannot say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    pub cpu_ms: Option<u64>,
    pub peak_memory_bytes: Option<u64>,
    pub read_bytes: Option<u64>,
    pub written_bytes: Option<u64>,
}

impl Task {
    /// What was submitted, and nothing of where the task stands.
    pub fn of_spec(spec: &TaskSpec) -> Self {
        Self {
            class: spec.class.to_string(),
            command: spec.command.clone(),
            priority: spec.priority.into(),
            cpu_milli: spec.cpu_milli,
            memory_bytes: spec.memory_bytes,
            limits: spec.limits.as_deref().map(Limits::from),
            comment: spec.comment.clone(),
            run_as_uid: spec.run_as,
            ..Self::default()
        }
    }

    /// Whether it did what it was asked to.
    pub fn succeeded(&self) -> bool {
        self.outcome.as_ref().is_some_and(|outcome| outcome.status == "succeeded")
    }
}

impl From<&TaskLimits> for Limits {
    fn from(limits: &TaskLimits) -> Self {
        let TaskLimits { pids, swap_bytes, tmp_bytes, shm_bytes, network, working_dir, mounts } =
            limits.clone();
        let network = network.map(|network| network.to_string());
        let mounts = mounts.unwrap_or_default();
        Self { pids, network, tmp_bytes, shm_bytes, swap_bytes, working_dir, mounts }
    }
}

mod mounts_as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::HostMount;

    pub fn serialize<S: Serializer>(mounts: &[HostMount], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(mounts.iter().map(HostMount::to_string))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HostMount>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

/// As `stint.v1` carries them, both ways.
#[cfg(feature = "grpc")]
mod grpc {
    use super::{Attempt, Kept, Limits, NotKept, Outcome, Submitted, Task, Usage, Waited};
    use crate::api::grpc::{all, counted, given};
    use crate::{HostMount, v1};

    impl From<v1::SubmitReply> for Submitted {
        fn from(reply: v1::SubmitReply) -> Self {
            let v1::SubmitReply { task_ids, repeated, warning } = reply;
            Self { task_ids, repeated, warning: given(warning) }
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
                comment: given(task.comment),
                run_as_uid: Some(task.run_as_uid).filter(|uid| *uid > 0),
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
                comment: task.comment.unwrap_or_default(),
                run_as_uid: task.run_as_uid.unwrap_or_default(),
            }
        }
    }

    impl From<v1::Outcome> for Outcome {
        fn from(outcome: v1::Outcome) -> Self {
            let v1::Outcome {
                status,
                kind,
                exit_code,
                message,
                finished_at_ms,
                run_ms,
                attempt,
                outputs,
                not_kept,
                usage,
            } = outcome;
            let program = match kind.as_str() {
                "exited" => Some(exit_code),
                "output_missing" => Some(0),
                _ => None,
            };
            Self {
                status,
                kind,
                exit_code: program,
                run_exit_code: exit_code,
                message,
                finished_at_ms,
                run_ms,
                attempt,
                outputs: all(outputs),
                not_kept: all(not_kept),
                usage: usage.map(Usage::from),
            }
        }
    }

    impl From<Outcome> for v1::Outcome {
        fn from(outcome: Outcome) -> Self {
            // The program's own follows from the kind of the end.
            let Outcome { exit_code: _, run_exit_code: exit_code, status, kind, message, .. } = outcome;
            let Outcome { finished_at_ms, run_ms, attempt, outputs, not_kept, usage, .. } = outcome;
            let (outputs, not_kept) = (all(outputs), all(not_kept));
            let usage = usage.map(v1::Usage::from);
            Self {
                status,
                kind,
                exit_code,
                message,
                finished_at_ms,
                run_ms,
                attempt,
                outputs,
                not_kept,
                usage,
            }
        }
    }

    impl From<v1::KeptFile> for Kept {
        fn from(kept: v1::KeptFile) -> Self {
            let v1::KeptFile { path, blob, stored, executable, gone } = kept;
            let v1::Blob { digest, size_bytes } = blob.unwrap_or_default();
            Self { path, digest, size_bytes, stored, executable, gone }
        }
    }

    impl From<Kept> for v1::KeptFile {
        fn from(kept: Kept) -> Self {
            let Kept { path, digest, size_bytes, stored, executable, gone } = kept;
            Self { path, blob: Some(v1::Blob { digest, size_bytes }), stored, executable, gone }
        }
    }

    impl From<v1::NotKept> for NotKept {
        fn from(file: v1::NotKept) -> Self {
            let v1::NotKept { path, reason } = file;
            Self { path, reason }
        }
    }

    impl From<NotKept> for v1::NotKept {
        fn from(file: NotKept) -> Self {
            let NotKept { path, reason } = file;
            Self { path, reason }
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
                outputs: all(attempt.outputs),
                outputs_forgotten: Some(attempt.outputs_forgotten).filter(|files| *files > 0),
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
                outputs: all(attempt.outputs),
                outputs_forgotten: attempt.outputs_forgotten.unwrap_or_default(),
            }
        }
    }

    impl From<v1::TaskLimits> for Limits {
        fn from(limits: v1::TaskLimits) -> Self {
            let v1::TaskLimits { pids, swap_bytes, tmp_bytes, shm_bytes, network, working_dir, mounts } =
                limits;
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
}
