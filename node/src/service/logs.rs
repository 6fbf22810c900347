//! The output of an attempt as a stream, from whichever node keeps it.

use std::sync::Arc;

use stint_executor::LogStream;
use stint_protocol::{LeaseId, NodeId, Tenant};
use stint_scheduler::State;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::access::Operation;
use super::{Principal, Service, ServiceError};
use crate::attempt_output::log_node_of;
use crate::limits;
use crate::node::Node;
use crate::wire::{LogAnswer, ReadLog};

/// Parts on their way to a client; a slow one makes the reader wait, never the task.
const PARTS_AHEAD: usize = 4;

/// Which output to read.
pub struct LogsAsked {
    pub tenant: Tenant,
    /// Id or name.
    pub task: String,
    /// 0: the latest.
    pub attempt: u32,
    /// None: both.
    pub stream: Option<LogStream>,
    /// Until the attempt has ended, not only what is there.
    pub follow: bool,
}

/// A piece of one stream.
#[derive(Debug)]
pub struct LogPart {
    pub stream: LogStream,
    pub offset: u64,
    pub bytes: Vec<u8>,
}

type Parts = Result<LogPart, ServiceError>;

impl Service {
    /// Reads the output of an attempt; a follower waits for its first one to begin.
    pub async fn logs(
        &self,
        caller: &Principal,
        asked: LogsAsked,
    ) -> Result<mpsc::Receiver<Parts>, ServiceError> {
        let scope = self.allow_in(caller, Operation::ReadLogs, &asked.tenant)?;
        let state = self.read().await?;
        let id = scope.find_task(&state, &asked.task)?;
        let mut found = log_node_of(&state, id, asked.attempt);
        if found.is_none() && asked.follow {
            let begun = |state: &State| {
                found = log_node_of(state, id, asked.attempt);
                found.is_some() || state.task(id).is_none()
            };
            self.wait_until(&[id], limits::WAIT_MOST, begun).await?;
        }
        let (log_node, lease) = found.ok_or(ServiceError::NoOutputYet(id))?;
        let (sender, receiver) = mpsc::channel(PARTS_AHEAD);
        let streams = [LogStream::Stdout, LogStream::Stderr];
        for stream in streams.into_iter().filter(|stream| asked.stream.is_none_or(|only| only == *stream)) {
            let (node, sender, follow) = (self.node.clone(), sender.clone(), asked.follow);
            let leaderless = self.outdated().is_some();
            tokio::spawn(Reader { node, log_node, lease, stream, follow, leaderless, sender }.run());
        }
        Ok(receiver)
    }
}

struct Reader {
    node: Arc<Node>,
    log_node: NodeId,
    lease: LeaseId,
    stream: LogStream,
    follow: bool,
    /// The node that keeps the output is likely to be away, too.
    leaderless: bool,
    sender: mpsc::Sender<Parts>,
}

impl Reader {
    /// Reads until the output is complete, or once through when nobody follows.
    async fn run(self) {
        if let Err(error) = self.probe().await {
            return self.fail(error).await;
        }
        let mut offset = 0;
        while !self.sender.is_closed() {
            match self.node.output.read(self.log_node, self.next(offset)).await {
                Ok(LogAnswer::Chunk { bytes, next_offset, complete }) => {
                    let at_end = bytes.is_empty();
                    if !at_end && !self.send(offset, bytes.into()).await {
                        return;
                    }
                    offset = next_offset;
                    if complete || (at_end && !self.follow) {
                        return;
                    }
                }
                Ok(LogAnswer::Failed(why)) => return self.fail(ServiceError::NotKept(why)).await,
                Err(refusal) => return self.fail(refusal.into()).await,
            }
        }
    }

    /// Without a leader: whether the node that keeps the output is there, before anybody waits for it.
    async fn probe(&self) -> Result<(), ServiceError> {
        if !self.leaderless || self.log_node == self.node.id {
            return Ok(());
        }
        let read = ReadLog { wait_ms: 0, ..self.next(0) };
        let read = self.node.output.read(self.log_node, read);
        match timeout(limits::OUTAGE_READ, read).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ServiceError::OutputAway),
        }
    }

    fn next(&self, offset: u64) -> ReadLog {
        let wait_ms = if self.follow { limits::LOG_WAIT.as_millis() as u64 } else { 0 };
        let stderr = self.stream == LogStream::Stderr;
        ReadLog {
            lease: self.lease,
            stderr,
            offset,
            wait_ms,
            file: None,
            tail: None,
            progress: None,
            stage: None,
        }
    }

    /// Whether the client still listens.
    async fn send(&self, offset: u64, bytes: Vec<u8>) -> bool {
        self.sender.send(Ok(LogPart { stream: self.stream, offset, bytes })).await.is_ok()
    }

    async fn fail(&self, error: ServiceError) {
        // A client that is gone needs no error.
        let _ = self.sender.send(Err(error)).await;
    }
}
