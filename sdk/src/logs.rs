//! A stream of output that outlives its connection.

use std::collections::BTreeMap;

use stint_protocol::api::NO_LEADER;
use stint_protocol::v1::{LogChunk, LogsRequest};
use tonic::{Status, Streaming};

use crate::address::Address;
use crate::call::{innermost, is_transient, refused};
use crate::client::Client;
use crate::error::{Error, Try};
use crate::limits;

const OPERATION: &str = "read logs";

/// Chunks of one attempt's output, in order within each of stdout and stderr.
pub struct LogStream {
    client: Client,
    request: LogsRequest,
    chunks: Streaming<LogChunk>,
    /// Bytes already given out, by stream.
    seen: BTreeMap<String, u64>,
    /// A part was left out.
    gaps: bool,
    /// What the cluster says of parts that are not to be had.
    note: Option<String>,
    reconnects_left: u32,
}

impl LogStream {
    pub(crate) async fn open(client: Client, request: LogsRequest) -> Result<Self, Error> {
        let chunks = connect(&client, &request).await?;
        let seen = BTreeMap::new();
        let (note, reconnects_left) = (None, limits::LOG_RECONNECTS);
        Ok(Self { client, request, chunks, seen, gaps: false, note, reconnects_left })
    }

    /// The next chunk; none at the end. A followed stream may be silent for as long as its task is; a dead
    /// connection shows by keep-alive.
    pub async fn next(&mut self) -> Result<Option<LogChunk>, Error> {
        loop {
            match self.message().await {
                Ok(None) => return Ok(None),
                Ok(Some(chunk)) => {
                    if let Some(fresh) = self.unseen(chunk) {
                        self.reconnects_left = limits::LOG_RECONNECTS;
                        return Ok(Some(fresh));
                    }
                }
                Err(status) => self.resume(status).await?,
            }
        }
    }

    /// Opens the stream again after `next` failed; what was given out is not repeated. For a caller that knows the
    /// attempt to go on.
    pub async fn reopen(&mut self) -> Result<(), Error> {
        self.reconnects_left = limits::LOG_RECONNECTS;
        self.chunks = connect(&self.client, &self.request).await?;
        Ok(())
    }

    /// Whether a part of what was given out so far is missing: the node keeps a bounded amount, the beginning and the end.
    pub fn has_gaps(&self) -> bool {
        self.gaps
    }

    /// Why what was given out so far is not all of a stream, when the cluster says so: its node is away, and others have a part.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    async fn message(&mut self) -> Result<Option<LogChunk>, Status> {
        if self.request.follow {
            return self.chunks.message().await;
        }
        match tokio::time::timeout(limits::CALL_TIMEOUT, self.chunks.message()).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded("the stream of logs stood still for 30 s")),
        }
    }

    async fn resume(&mut self, status: Status) -> Result<(), Error> {
        if !is_transient(&status) {
            return Err(refused(OPERATION, self.address(), &status));
        }
        let leaderless = status.metadata().contains_key(NO_LEADER);
        if self.request.attempt == 0 || self.reconnects_left == 0 || leaderless {
            let problem = innermost(&status);
            let tried = vec![Try { address: self.address().clone(), problem, connected: true, leaderless }];
            return Err(Error::Unreachable { operation: OPERATION, tried });
        }
        let used = limits::LOG_RECONNECTS - self.reconnects_left;
        self.reconnects_left -= 1;
        tokio::time::sleep(limits::FIRST_BACKOFF * 2u32.pow(used)).await;
        self.chunks = connect(&self.client, &self.request).await?;
        Ok(())
    }

    /// The part of a chunk that was not given out before.
    fn unseen(&mut self, mut chunk: LogChunk) -> Option<LogChunk> {
        if !chunk.note.is_empty() {
            self.note = Some(std::mem::take(&mut chunk.note));
        }
        let seen = self.seen.entry(chunk.stream.clone()).or_default();
        let end = chunk.offset + chunk.data.len() as u64;
        if end <= *seen {
            return None;
        }
        self.gaps |= chunk.offset > *seen;
        let known = seen.saturating_sub(chunk.offset) as usize;
        chunk.data.drain(..known);
        chunk.offset += known as u64;
        *seen = end;
        Some(chunk)
    }

    fn address(&self) -> &Address {
        self.client.peers.last_good()
    }
}

async fn connect(client: &Client, request: &LogsRequest) -> Result<Streaming<LogChunk>, Error> {
    client
        .peers
        .call(client.operation(OPERATION), request.clone(), |mut s, r| async move { s.logs(r).await })
        .await
}
