//! What commands show: the stable JSON of tasks, nodes and the cluster, and their words for people. Fields are only
//! added. Times are milliseconds since 1970; what is not there is null.

mod images;
#[cfg(test)]
mod pins;

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use stint_sdk::{units, v1};

pub use images::ImageView;

use crate::limits::{LimitsView, UsageView};
use crate::table::{Cell, Tone};

#[derive(Debug, Serialize)]
pub struct TaskView {
    pub id: String,
    pub name: Option<String>,
    pub tenant: String,
    pub class: String,
    pub state: String,
    pub priority: u32,
    pub command: Vec<String>,
    pub submitted_at_ms: u64,
    pub not_before_ms: Option<u64>,
    pub attempts: u32,
    pub node_id: Option<u64>,
    pub node: Option<String>,
    pub outcome: Option<OutcomeView>,
    pub attempt_records: Vec<AttemptView>,
    pub limits: Option<LimitsView>,
}

#[derive(Debug, Serialize)]
pub struct OutcomeView {
    pub status: String,
    pub kind: String,
    pub exit_code: i32,
    pub message: String,
    pub finished_at_ms: u64,
    pub run_ms: u64,
    pub attempt: u32,
    pub outputs: Vec<KeptView>,
    pub usage: Option<UsageView>,
}

/// A file that was kept.
#[derive(Clone, Debug, Serialize)]
pub struct KeptView {
    pub path: String,
    pub digest: String,
    pub size_bytes: u64,
    /// In the cluster; otherwise on the node that ran the task.
    pub stored: bool,
}

#[derive(Debug, Serialize)]
pub struct AttemptView {
    pub number: u32,
    pub node_id: u64,
    pub node: String,
    pub started_at_ms: Option<u64>,
    pub ended_at_ms: Option<u64>,
    pub end: Option<String>,
    pub message: String,
    pub gpus: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct NodeView {
    pub id: u64,
    pub name: String,
    pub address: String,
    pub state: String,
    pub role: String,
    pub cpu_milli: u64,
    pub cpu_used_milli: u64,
    pub memory_bytes: u64,
    pub memory_used_bytes: u64,
    pub running: u32,
    pub slots: u32,
    pub gpus: Vec<GpuView>,
    pub runtimes: Vec<String>,
    pub classes: Vec<String>,
    pub labels: std::collections::BTreeMap<String, String>,
    pub problems: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct GpuView {
    pub id: String,
    pub model: String,
    pub memory_bytes: u64,
    pub state: String,
    pub holder: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct ClusterView {
    pub cluster: String,
    pub version: String,
    pub node_id: u64,
    pub leader_id: Option<u64>,
    pub term: u64,
    pub applied_index: u64,
    pub queued: u64,
    pub running: u64,
    pub finished: u64,
    pub peers: Vec<PeerView>,
    pub alarms: Vec<String>,
    pub cluster_version: u32,
    pub held_back_by: Vec<HeldBackView>,
}

#[derive(Debug, Serialize)]
pub struct HeldBackView {
    pub name: String,
    pub speaks: u32,
}

#[derive(Debug, Serialize)]
pub struct PeerView {
    pub id: u64,
    pub name: String,
    pub address: String,
    pub role: String,
    pub lag: Option<u64>,
}

#[derive(Debug, Serialize)]
pub struct ExplainView {
    pub summary: String,
    pub ahead_in_queue: u64,
    pub nodes: Vec<NodeReasonView>,
    pub advice: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct NodeReasonView {
    pub node_id: u64,
    pub node: String,
    pub missing: Vec<String>,
}

fn some_text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn some_number(number: u64) -> Option<u64> {
    (number != 0).then_some(number)
}

impl From<v1::Task> for TaskView {
    fn from(task: v1::Task) -> Self {
        Self {
            id: task.id,
            name: some_text(task.name),
            tenant: task.tenant,
            class: task.class,
            state: task.state,
            priority: task.priority,
            command: task.command,
            submitted_at_ms: task.submitted_at_ms,
            not_before_ms: some_number(task.not_before_ms),
            attempts: task.attempts,
            node_id: some_number(task.node_id),
            node: some_text(task.node_name),
            outcome: task.outcome.map(OutcomeView::from),
            attempt_records: task.attempt_records.into_iter().map(AttemptView::from).collect(),
            limits: task.limits.map(LimitsView::from),
        }
    }
}

impl From<v1::Outcome> for OutcomeView {
    fn from(outcome: v1::Outcome) -> Self {
        let v1::Outcome { status, kind, exit_code, message, finished_at_ms, run_ms, attempt, outputs, usage } =
            outcome;
        let outputs = outputs.into_iter().map(KeptView::from).collect();
        let usage = usage.map(UsageView::from);
        Self { status, kind, exit_code, message, finished_at_ms, run_ms, attempt, outputs, usage }
    }
}

impl From<v1::KeptFile> for KeptView {
    fn from(kept: v1::KeptFile) -> Self {
        let v1::Blob { digest, size_bytes } = kept.blob.unwrap_or_default();
        Self { path: kept.path, digest, size_bytes, stored: kept.stored }
    }
}

impl From<v1::Attempt> for AttemptView {
    fn from(attempt: v1::Attempt) -> Self {
        Self {
            number: attempt.number,
            node_id: attempt.node_id,
            node: attempt.node_name,
            started_at_ms: some_number(attempt.started_at_ms),
            ended_at_ms: some_number(attempt.ended_at_ms),
            end: some_text(attempt.end),
            message: attempt.message,
            gpus: attempt.gpus,
        }
    }
}

impl From<v1::Node> for NodeView {
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
            gpus: node.gpus.into_iter().map(GpuView::from).collect(),
            runtimes: node.runtimes,
            classes: node.classes,
            labels: node.labels.into_iter().collect(),
            problems: node.problems,
        }
    }
}

impl From<v1::Gpu> for GpuView {
    fn from(gpu: v1::Gpu) -> Self {
        let v1::Gpu { id, model, memory_bytes, state, holder } = gpu;
        Self { id, model, memory_bytes, state, holder: some_text(holder) }
    }
}

impl From<v1::ClusterStatusReply> for ClusterView {
    fn from(reply: v1::ClusterStatusReply) -> Self {
        let peer =
            |p: v1::Peer| PeerView { id: p.id, name: p.name, address: p.address, role: p.role, lag: p.lag };
        let held_back = |by: v1::HeldBack| HeldBackView { name: by.name, speaks: by.speaks };
        Self {
            cluster: reply.cluster,
            version: reply.version,
            node_id: reply.node_id,
            leader_id: some_number(reply.leader_id),
            term: reply.term,
            applied_index: reply.applied_index,
            queued: reply.queued,
            running: reply.running,
            finished: reply.finished,
            peers: reply.peers.into_iter().map(peer).collect(),
            alarms: reply.alarms,
            cluster_version: reply.cluster_version,
            held_back_by: reply.held_back_by.into_iter().map(held_back).collect(),
        }
    }
}

impl From<v1::ExplainReply> for ExplainView {
    fn from(reply: v1::ExplainReply) -> Self {
        let reason =
            |r: v1::NodeReason| NodeReasonView { node_id: r.node_id, node: r.node_name, missing: r.missing };
        Self {
            summary: reply.summary,
            ahead_in_queue: reply.ahead_in_queue,
            nodes: reply.nodes.into_iter().map(reason).collect(),
            advice: reply.advice,
        }
    }
}

impl TaskView {
    /// The state in a word or two: how it ended, or when it is tried again.
    pub fn state_cell(&self, now_ms: u64) -> Cell {
        match &self.outcome {
            Some(outcome) => outcome.cell(),
            None => {
                let wait = self.not_before_ms.and_then(|at| at.checked_sub(now_ms)).filter(|ms| *ms > 0);
                match wait {
                    Some(ms) => {
                        Cell::new(format!("queued (retry in {})", units::show_duration(ms)), Tone::Plain)
                    }
                    None => Cell::new(&self.state, state_tone(&self.state)),
                }
            }
        }
    }

    /// How long its last attempt ran, or has been running.
    pub fn run_time(&self, now_ms: u64) -> String {
        let running = || {
            let start = self.attempt_records.iter().rev().find(|a| a.ended_at_ms.is_none())?.started_at_ms?;
            Some(now_ms.saturating_sub(start))
        };
        let ms = self.outcome.as_ref().map(|o| o.run_ms).filter(|ms| *ms > 0).or_else(running);
        ms.map(units::show_duration).unwrap_or_default()
    }

    /// Time since the submit.
    pub fn age(&self, now_ms: u64) -> String {
        units::show_duration(now_ms.saturating_sub(self.submitted_at_ms))
    }

    /// Whether it did what it was asked to.
    pub fn succeeded(&self) -> bool {
        self.outcome.as_ref().is_some_and(|outcome| outcome.status == "succeeded")
    }
}

impl OutcomeView {
    fn cell(&self) -> Cell {
        let detail = match (self.status.as_str(), self.kind.as_str()) {
            ("succeeded" | "cancelled", _) => String::new(),
            (_, "exited") => format!(" (exit {})", self.exit_code),
            (_, "signalled") => format!(" (signal {})", self.exit_code - 128),
            (_, kind) => format!(" ({kind})"),
        };
        let tone = match self.status.as_str() {
            "succeeded" => Tone::Good,
            "failed" => Tone::Bad,
            _ => Tone::Faint,
        };
        Cell::new(format!("{}{detail}", self.status), tone)
    }
}

/// The tone of a state of a task, a node or a GPU.
pub fn state_tone(state: &str) -> Tone {
    match state {
        "running" | "starting" | "stopping" | "leased" | "draining" => Tone::Busy,
        "ready" | "free" | "leader" => Tone::Good,
        "lost" | "quarantined" | "conflict" => Tone::Bad,
        "cordoned" | "drained" => Tone::Faint,
        _ => Tone::Plain,
    }
}

/// A command on one line, as a shell would take it; cut to `most` characters.
pub fn command_line(command: &[String], most: usize) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    let quoted = |word: &String| match word {
        w if !w.is_empty() && w.chars().all(plain) => w.clone(),
        w => format!("'{}'", w.replace('\'', r"'\''").escape_debug().to_string().replace("\\'", "'")),
    };
    let line = command.iter().map(quoted).collect::<Vec<_>>().join(" ");
    if line.chars().count() <= most {
        return line;
    }
    line.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// The wall clock.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
