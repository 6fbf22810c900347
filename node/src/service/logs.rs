//! The output of an attempt as a stream, from whichever node keeps it.

use stint_executor::LogStream;
use stint_protocol::limits::CLUSTER_LOG_BYTES;
use stint_protocol::{Blob, Tenant};
use stint_scheduler::State;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::access::Operation;
use super::documents::node_name;
use super::{Principal, Service, ServiceError};
use crate::attempt_output::{AttemptOutput, OutputSource, output_source};
use crate::endings::summary::{OutputTail, unpack};
use crate::limits;
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
    /// Why this is not all of the stream.
    pub note: Option<String>,
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
        let mut found = output_source(&state, id, asked.attempt);
        if found.is_none() && asked.follow {
            let begun = |state: &State| {
                found = output_source(state, id, asked.attempt);
                found.is_some() || state.task(id).is_none()
            };
            self.wait_until(&[id], limits::WAIT_MOST, begun).await?;
        }
        let source = found.ok_or(ServiceError::NoOutputYet(id))?;
        let (sender, receiver) = mpsc::channel(PARTS_AHEAD);
        let streams = [LogStream::Stdout, LogStream::Stderr];
        for stream in streams.into_iter().filter(|stream| asked.stream.is_none_or(|only| only == *stream)) {
            let (service, sender, follow) = (self.for_request(), sender.clone(), asked.follow);
            let leaderless = self.outdated().is_some();
            tokio::spawn(Reader { service, source, stream, follow, leaderless, sender }.run());
        }
        Ok(receiver)
    }
}

struct Reader {
    service: Service,
    source: OutputSource,
    stream: LogStream,
    follow: bool,
    /// The node that keeps the output is likely to be away, too.
    leaderless: bool,
    sender: mpsc::Sender<Parts>,
}

impl Reader {
    async fn run(self) {
        match self.source.ended {
            true => self.read_ended().await,
            false => match self.probe().await {
                Ok(()) => self.read_on(0).await,
                Err(error) => self.fail(error).await,
            },
        }
    }

    /// Reads from its node until the output is complete, or once through when nobody follows.
    async fn read_on(&self, mut offset: u64) {
        while !self.sender.is_closed() {
            match self.ask(offset).await {
                Ok((bytes, next_offset, complete)) => {
                    let at_end = bytes.is_empty();
                    if !at_end && !self.send(offset, bytes).await {
                        return;
                    }
                    offset = next_offset;
                    if complete || (at_end && !self.follow) {
                        return;
                    }
                }
                Err(error) => return self.fail(error).await,
            }
        }
    }

    /// A piece from its node: its bytes, where to go on, and whether that was all.
    async fn ask(&self, offset: u64) -> Result<(Vec<u8>, u64, bool), ServiceError> {
        match self.output().read_of(self.source, self.next(offset)).await? {
            LogAnswer::Chunk { bytes, next_offset, complete } => Ok((bytes.into(), next_offset, complete)),
            LogAnswer::Failed(why) => Err(ServiceError::NotKept(why)),
        }
    }

    /// Reads the output of an attempt that has ended: from its node, which has most of it, unless the end that the peers keep is all
    /// of it, or its node has it no more.
    async fn read_ended(&self) {
        let ending = match self.source.ending {
            Some(number) => self.output().ending(number, self.source.lease).await,
            None => None,
        };
        let stdout = self.stream == LogStream::Stdout;
        let tail = ending
            .as_ref()
            .and_then(unpack)
            .map(|summary| if stdout { summary.stdout } else { summary.stderr });
        if let Some(tail) = tail.as_ref().filter(|tail| tail.is_whole()) {
            if tail.total > 0 {
                self.send(0, tail.bytes.clone()).await;
            }
            return;
        }
        let error = match self.first_of_node().await {
            Ok((bytes, next_offset, complete)) => {
                let goes_on = bytes.is_empty() || self.send(0, bytes).await;
                if goes_on && !complete && next_offset > 0 {
                    self.read_on(next_offset).await;
                }
                return;
            }
            Err(error) => error,
        };
        let blob = ending.and_then(|ending| if stdout { ending.stdout } else { ending.stderr });
        if let (Some(tail), Some(blob)) = (&tail, blob)
            && self.send_kept(blob, tail.total).await.is_ok()
        {
            return;
        }
        match tail {
            Some(tail) => self.send_tail(tail).await,
            None => self.fail(error).await,
        }
    }

    /// Unless its node is known to be lost, or takes too long.
    async fn first_of_node(&self) -> Result<(Vec<u8>, u64, bool), ServiceError> {
        let patience = if self.leaderless { limits::OUTAGE_READ } else { limits::REQUEST_DEADLINE };
        tokio::select! {
            asked = timeout(patience, self.ask(0)) => asked.unwrap_or(Err(ServiceError::OutputAway)),
            () = self.service.until_gone(self.source.node) => Err(self.gone()),
        }
    }

    fn gone(&self) -> ServiceError {
        let node = self.node_name();
        ServiceError::NotKept(format!(
            "node {node} kept this output and does not answer: retry when it is back"
        ))
    }

    fn node_name(&self) -> String {
        node_name(&self.service.node.applied.view().state, self.source.node)
    }

    /// What the cluster keeps of it, where its task wanted that.
    async fn send_kept(&self, blob: Blob, total: u64) -> Result<(), ServiceError> {
        let blobs = self.service.node.stored()?.clone();
        blobs.fetch_past(blob, Some(self.source.node)).await?;
        if total > CLUSTER_LOG_BYTES as u64 {
            let (node, kept) = (self.node_name(), CLUSTER_LOG_BYTES);
            let note =
                format!("node {node} does not answer, and the cluster keeps {kept} of its {total} bytes");
            self.send_part(0, Vec::new(), note).await;
        }
        let mut offset = 0;
        while offset < blob.size {
            let (disk, digest) = (blobs.disk.clone(), blob.digest);
            let read = move || disk.read(&digest, offset, limits::LOG_CHUNK_BYTES);
            let read = tokio::task::spawn_blocking(read).await.map_err(|_| ServiceError::Stopping)?;
            let bytes = read.map_err(ServiceError::OutputUnreadable)?;
            let (at, read_bytes) = (offset, bytes.len() as u64);
            if bytes.is_empty() || !self.send(at, bytes).await {
                break;
            }
            offset += read_bytes;
        }
        Ok(())
    }

    async fn send_tail(&self, tail: OutputTail) {
        let (node, last, total) = (self.node_name(), tail.bytes.len(), tail.total);
        let note = format!(
            "node {node} does not give it, and the other peers have the last {last} of its {total} bytes"
        );
        self.send_part(tail.offset(), tail.bytes, note).await;
    }

    fn output(&self) -> &AttemptOutput {
        &self.service.node.output
    }

    /// Without a leader: whether the node that keeps the output is there, before anybody waits for it.
    async fn probe(&self) -> Result<(), ServiceError> {
        if !self.leaderless || self.source.node == self.service.node.id {
            return Ok(());
        }
        let read = ReadLog { wait_ms: 0, ..self.next(0) };
        let read = self.output().read(self.source.node, read);
        match timeout(limits::OUTAGE_READ, read).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ServiceError::OutputAway),
        }
    }

    fn next(&self, offset: u64) -> ReadLog {
        let wait_ms = if self.follow { limits::LOG_WAIT.as_millis() as u64 } else { 0 };
        let stderr = self.stream == LogStream::Stderr;
        ReadLog {
            lease: self.source.lease,
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
        self.sender.send(Ok(LogPart { stream: self.stream, offset, bytes, note: None })).await.is_ok()
    }

    async fn send_part(&self, offset: u64, bytes: Vec<u8>, note: String) {
        // A client that is gone needs nothing.
        let _ = self.sender.send(Ok(LogPart { stream: self.stream, offset, bytes, note: Some(note) })).await;
    }

    async fn fail(&self, error: ServiceError) {
        // A client that is gone needs no error.
        let _ = self.sender.send(Err(error)).await;
    }
}
