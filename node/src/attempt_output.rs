//! What attempts wrote and left, from whichever node keeps it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use stint_executor::{Host, LogChunk, LogStream};
use stint_protocol::{LeaseId, NodeId, TaskId};
use stint_scheduler::State;
use tokio::time::{Instant, sleep};

use crate::applied_state::AppliedState;
use crate::limits;
use crate::peers::{PeerAddress, Peers};
use crate::wire::{CallKind, LogAnswer, ReadLog, Refusal, RefusalCode, decode, encode};

/// Reads output for one peer, and for the others what its own host keeps.
pub struct AttemptOutput {
    pub id: NodeId,
    pub shared: Arc<AppliedState>,
    pub peers: Arc<Peers>,
    /// Empty on a peer that executes nothing.
    pub host: OnceLock<Arc<dyn Host>>,
}

impl AttemptOutput {
    /// Output of an attempt, from the node that keeps it.
    pub async fn read(&self, log_node: NodeId, read: ReadLog) -> Result<LogAnswer, Refusal> {
        if log_node == self.id {
            return Ok(self.read_own(read).await);
        }
        let view = self.shared.view();
        let Some(node) = view.state.node(log_node) else {
            let message = format!("node {log_node}, which kept this output, is no member any more");
            return Err(Refusal::new(RefusalCode::NotFound, message));
        };
        let deadline = Duration::from_millis(read.wait_ms) + limits::FORWARD_DEADLINE;
        let address = PeerAddress::node(log_node, &node.address);
        let body = self.peers.call(&address, CallKind::ReadLog, encode(&read), deadline).await;
        let away = |e: String| {
            let message = format!(
                "node {} keeps this output and cannot be asked now ({e}): retry when it is back",
                node.name
            );
            Refusal::new(RefusalCode::Unavailable, message)
        };
        decode(&body.map_err(|e| away(e.to_string()))?).map_err(away)
    }

    /// Where an attempt is on its node, in words; none: its node has none, or does not say.
    pub async fn stage(&self, node: NodeId, lease: LeaseId) -> Option<String> {
        let (progress, stage) = (Some(true), Some(true));
        let read =
            ReadLog { lease, stderr: false, offset: 0, wait_ms: 0, file: None, tail: None, progress, stage };
        let Ok(LogAnswer::Chunk { bytes, .. }) = self.read(node, read).await else { return None };
        let said = String::from_utf8_lossy(&bytes).into_owned();
        // The progress of a program, as an earlier version answers, is JSON.
        Some(said).filter(|said| !said.is_empty() && !said.starts_with('{'))
    }

    /// Output that this node keeps.
    pub async fn read_own(&self, read: ReadLog) -> LogAnswer {
        let Some(host) = self.host.get() else {
            return LogAnswer::Failed("this node executes nothing and keeps no output".into());
        };
        if read.stage == Some(true) {
            return log_answer(stage_on(host.as_ref(), read.lease));
        }
        let stream = if read.stderr { LogStream::Stderr } else { LogStream::Stdout };
        let at_once = match (read.file, read.tail) {
            _ if read.progress == Some(true) => Some(host.progress(read.lease)),
            (Some(file), _) => {
                Some(host.read_output(read.lease, &file, read.offset, limits::LOG_CHUNK_BYTES))
            }
            (None, Some(most)) => Some(host.log_tail(read.lease, stream, most as usize)),
            (None, None) => None,
        };
        if let Some(reading) = at_once {
            return reading.await.map_or_else(|error| LogAnswer::Failed(error.to_string()), log_answer);
        }
        let until = Instant::now() + Duration::from_millis(read.wait_ms).min(limits::LOG_WAIT);
        let mut pause = limits::LOG_FIRST_POLL;
        loop {
            match host.read_log(read.lease, stream, read.offset, limits::LOG_CHUNK_BYTES).await {
                Err(error) => return LogAnswer::Failed(error.to_string()),
                Ok(chunk) if !chunk.bytes.is_empty() || chunk.complete || Instant::now() >= until => {
                    return log_answer(chunk);
                }
                Ok(_) => sleep(pause).await,
            }
            pause = (pause * 2).min(limits::LOG_POLL);
        }
    }
}

fn stage_on(host: &dyn Host, lease: LeaseId) -> LogChunk {
    let found = host.attempts().into_iter().find(|attempt| attempt.lease == lease);
    let bytes = found.map_or_else(Vec::new, |attempt| attempt.stage.to_string().into_bytes());
    LogChunk { next_offset: bytes.len() as u64, bytes, complete: true }
}

fn log_answer(chunk: LogChunk) -> LogAnswer {
    let LogChunk { bytes, next_offset, complete } = chunk;
    LogAnswer::Chunk { bytes: bytes.into(), next_offset, complete }
}

/// The node that keeps the output of an attempt, and its lease. Attempt 0 is the newest one; none when the task or the
/// attempt is not known.
pub fn log_node_of(state: &State, task: TaskId, attempt: u32) -> Option<(NodeId, LeaseId)> {
    if let Some(live) = state.task(task) {
        let current = live.leased().map(|l| (live.fields.attempts, l.node));
        let earlier = live.fields.records.iter().map(|r| (r.number, r.node));
        return pick_attempt(task, attempt, earlier.chain(current));
    }
    let done = state.finished(task)?;
    pick_attempt(task, attempt, done.fields.records.iter().map(|r| (r.number, r.node)))
}

fn pick_attempt(
    task: TaskId,
    wanted: u32,
    attempts: impl Iterator<Item = (u32, NodeId)>,
) -> Option<(NodeId, LeaseId)> {
    let found = attempts.filter(|(number, _)| wanted == 0 || *number == wanted).last()?;
    Some((found.1, LeaseId { task, attempt: found.0 }))
}
