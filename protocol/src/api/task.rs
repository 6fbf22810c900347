//! A task with its attempts and its outcome.

use serde::{Deserialize, Serialize};

use crate::HostMount;

/// What a submit made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submitted {
    pub task_ids: Vec<String>,
    /// True when the idempotency key was known: these are the tasks of the first submit.
    pub repeated: bool,
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
    /// queued, running (from its lease on), stopping, finished
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
    /// What `stint run` exits with.
    pub exit_code: i32,
    pub message: String,
    pub finished_at_ms: u64,
    pub run_ms: u64,
    pub attempt: u32,
    pub outputs: Vec<Kept>,
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
    /// Whether it did what it was asked to.
    pub fn succeeded(&self) -> bool {
        self.outcome.as_ref().is_some_and(|outcome| outcome.status == "succeeded")
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
