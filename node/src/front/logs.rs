//! Streams an attempt's output to a client, from whichever node keeps it.

use std::sync::Arc;

use stint_protocol::{LeaseId, NodeId, v1};
use tokio::sync::mpsc;
use tonic::Status;

use super::convert::status;
use crate::limits;
use crate::node::Node;
use crate::wire::{LogAnswer, ReadLog};

/// Chunks on their way to a client; a slow one makes the reader wait, never the task.
const CHUNKS_AHEAD: usize = 4;

/// Reads until the output is complete, or once through when nobody follows.
pub fn stream(
    node: Arc<Node>,
    keeper: NodeId,
    lease: LeaseId,
    only: Option<bool>,
    follow: bool,
) -> mpsc::Receiver<Result<v1::LogChunk, Status>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    for stderr in [false, true].into_iter().filter(|s| only.is_none_or(|o| o == *s)) {
        let reader = Reader { node: node.clone(), keeper, lease, stderr, follow, sender: sender.clone() };
        tokio::spawn(reader.run());
    }
    receiver
}

struct Reader {
    node: Arc<Node>,
    keeper: NodeId,
    lease: LeaseId,
    stderr: bool,
    follow: bool,
    sender: mpsc::Sender<Result<v1::LogChunk, Status>>,
}

impl Reader {
    async fn run(self) {
        let mut offset = 0;
        while !self.sender.is_closed() {
            let wait_ms = if self.follow { limits::LOG_WAIT.as_millis() as u64 } else { 0 };
            let read = ReadLog {
                lease: self.lease,
                stderr: self.stderr,
                offset,
                wait_ms,
                file: None,
                tail: None,
                progress: None,
            };
            match self.node.read_log(self.keeper, read).await {
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
                Ok(LogAnswer::Failed(why)) => return self.fail(Status::not_found(why)).await,
                Err(refusal) => return self.fail(status(refusal)).await,
            }
        }
    }

    /// Whether the client still listens.
    async fn send(&self, offset: u64, data: Vec<u8>) -> bool {
        let stream = if self.stderr { "stderr" } else { "stdout" };
        self.sender.send(Ok(v1::LogChunk { stream: stream.into(), offset, data })).await.is_ok()
    }

    async fn fail(&self, error: Status) {
        // A client that is gone needs no error.
        let _ = self.sender.send(Err(error)).await;
    }
}
