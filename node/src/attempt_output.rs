//! What attempts wrote and left, from whichever node keeps it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use stint_executor::{Host, LogChunk, LogStream};
use stint_protocol::{Ending, LeaseId, NodeId, TaskId};
use stint_scheduler::{AttemptRecord, Node, State};
use tokio::time::{Instant, sleep};

use crate::applied_state::AppliedState;
use crate::limits;
use crate::peers::{PeerAddress, Peers};
use crate::wire::{
    CallKind, EndingsAnswer, LogAnswer, ReadEndings, ReadLog, Refusal, RefusalCode, decode, encode,
};

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

    /// Output of an attempt, by what this peer knows of it. As long as its node has not got it, there is nothing yet: who follows
    /// waits as for new bytes.
    pub async fn read_of(&self, source: OutputSource, read: ReadLog) -> Result<LogAnswer, Refusal> {
        let OutputSource { node, lease, ended, .. } = source;
        let until = Instant::now() + Duration::from_millis(read.wait_ms).min(limits::LOG_WAIT);
        let mut pause = limits::LOG_FIRST_POLL;
        loop {
            let answer = self.read(node, read.clone()).await?;
            if ended || matches!(answer, LogAnswer::Chunk { .. }) {
                return Ok(answer);
            }
            if self.stage(node, lease).await.is_some() || self.has_ended(lease) {
                // It came to its node after that was asked.
                return self.read(node, read).await;
            }
            if Instant::now() >= until {
                return Ok(log_answer(LogChunk { next_offset: read.offset, ..LogChunk::default() }));
            }
            sleep(pause).await;
            pause = (pause * 2).min(limits::LOG_POLL);
        }
    }

    fn has_ended(&self, lease: LeaseId) -> bool {
        let now = output_source(&self.shared.view().state, lease.task, lease.attempt);
        now.is_none_or(|source| source.ended)
    }

    /// What an attempt wrote last, from this peer's disk, or from any other's that has it.
    pub async fn ending(&self, number: u64, lease: LeaseId) -> Option<Ending> {
        let endings = self.shared.endings.get()?.clone();
        let own = tokio::task::spawn_blocking(move || endings.get(number, lease)).await;
        if let Ok(Some(ending)) = own {
            return Some(ending);
        }
        let state = self.shared.view().state;
        let read = encode(&ReadEndings { from: number, lease: Some(lease) });
        let ask = |other: &Arc<Node>| {
            let (address, body, peers) =
                (PeerAddress::node(other.id, &other.address), read.clone(), self.peers.clone());
            async move {
                let answer =
                    peers.call(&address, CallKind::ReadEndings, body, limits::ENDING_ASK).await.ok()?;
                let found = decode::<EndingsAnswer>(&answer).ok()?.endings.into_iter().next()?;
                Some(found.ending)
            }
        };
        // Every peer keeps it: one of the first has it, unless nobody has.
        let others = state.nodes().filter(|other| other.id != self.id).take(limits::ENDING_ASKED);
        let others: Vec<_> = others.map(ask).collect();
        let mut asked = stream::iter(others).buffer_unordered(limits::ENDING_ASKED_AT_ONCE);
        while let Some(answer) = asked.next().await {
            let Some(ending) = answer else { continue };
            if let Some(endings) = self.shared.endings.get().cloned() {
                let kept = (number, lease, Arc::new(ending.clone()));
                // The next one who asks need not wait.
                drop(tokio::task::spawn_blocking(move || endings.keep(&[kept])));
            }
            return Some(ending);
        }
        None
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

/// An attempt whose output somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputSource {
    /// The node that ran it, or does.
    pub node: NodeId,
    pub lease: LeaseId,
    /// Its end is recorded.
    pub ended: bool,
    /// Under which number peers keep what it wrote last.
    pub ending: Option<u64>,
}

/// Where the output of an attempt is. Attempt 0 is the newest one; none when the task or the attempt is not known.
pub fn output_source(state: &State, task: TaskId, attempt: u32) -> Option<OutputSource> {
    let of = |record: &AttemptRecord| OutputSource {
        node: record.node,
        lease: LeaseId { task, attempt: record.number },
        ended: true,
        ending: record.ending,
    };
    if let Some(live) = state.task(task) {
        let current = live.leased().map(|leased| OutputSource {
            node: leased.node,
            lease: LeaseId { task, attempt: live.fields.attempts },
            ended: false,
            ending: None,
        });
        return pick_attempt(attempt, live.fields.records.iter().map(of).chain(current));
    }
    pick_attempt(attempt, state.finished(task)?.fields.records.iter().map(of))
}

fn pick_attempt(wanted: u32, attempts: impl Iterator<Item = OutputSource>) -> Option<OutputSource> {
    attempts.filter(|source| wanted == 0 || source.lease.attempt == wanted).last()
}
