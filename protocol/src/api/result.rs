//! One document that says how a task stands or ended, with the end of its output (`docs/using/results.md`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{NotKept, Usage};
use crate::TaskSpec;

/// The result of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    pub schema_version: u32,
    pub id: String,
    pub name: Option<String>,
    pub tenant: String,
    #[serde(flatten)]
    pub spec: ResultSpec,
    /// pending, running, completed, failed
    pub status: String,
    /// queued, running, retrying; at the end succeeded, failed, timed_out, cancelled, lost
    pub phase: String,
    pub attempts: u32,
    /// The program's own; a program that was ended has none.
    pub exit_code: Option<i32>,
    pub queued_at: u64,
    pub started_at: Option<u64>,
    /// Of the last attempt, as the next two.
    pub runtime: Option<String>,
    pub node: Option<String>,
    pub gpu_devices: Option<Vec<String>>,
    pub error: Option<ResultError>,
    pub logs: ResultLogs,
    /// What the last attempt said about how far it is; null when it said nothing or its node is away.
    pub progress: Value,
    /// Its keys are there once the task is finished.
    #[serde(flatten)]
    pub end: Option<ResultEnd>,
}

/// What was submitted, among its keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultSpec {
    pub class: String,
    pub image: Option<String>,
    pub comment: Option<String>,
}

impl From<&TaskSpec> for ResultSpec {
    fn from(spec: &TaskSpec) -> Self {
        let (class, image, comment) = (spec.class.to_string(), spec.image.clone(), spec.comment.clone());
        Self { class, image, comment }
    }
}

/// What only a finished task has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultEnd {
    pub signal: Option<i32>,
    pub finished_at: u64,
    /// From the submit to the end.
    pub latency_ms: u64,
    pub result: ResultOutputs,
    pub attempt_records: Vec<AttemptSummary>,
}

/// What the last attempt did and left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultOutputs {
    /// How long its program ran.
    pub latency_ms: u64,
    pub metrics: Option<Usage>,
    pub outputs: Vec<OutputFile>,
    #[serde(default)]
    pub not_kept: Vec<NotKept>,
    pub outputs_summary: OutputsSummary,
    /// What the program says its result is, on a line of its stdout.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub runner_output: Value,
    /// What is in those outputs that are small JSON, by path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub json: BTreeMap<String, Value>,
}

/// A file that was kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputFile {
    pub path: String,
    pub digest: String,
    pub size_bytes: u64,
    /// cluster, node, gone
    pub kept: String,
    #[serde(default)]
    pub executable: bool,
}

/// All of them together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputsSummary {
    pub files: u64,
    pub bytes: u64,
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptSummary {
    pub number: u32,
    pub node: String,
    pub started_at: u64,
    pub finished_at: u64,
    pub latency_ms: u64,
    pub kind: String,
    pub message: String,
    /// What was kept of its outputs, when the task did not end with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<OutputFile>,
    /// So many were kept and are not remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs_forgotten: Option<u32>,
}

/// Why a task failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultError {
    pub kind: String,
    pub message: String,
    /// Whether Stint itself tries again after such an end, unless the task asks for more.
    pub retryable: bool,
    pub exit_code: Option<i32>,
    pub stderr_excerpt: Option<String>,
}

/// The end of the last attempt's output.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResultLogs {
    pub stdout_tail: Option<String>,
    pub stderr_tail: Option<String>,
    pub truncated: bool,
    /// Why it cannot be read.
    pub problem: Option<String>,
}
