//! Files that the attempts of a task left, as a stream of bytes.

use std::sync::Arc;

use stint_protocol::{KeptFile, LeaseId, NodeId, Tenant};
use stint_scheduler::{AttemptRecord, FinishedTask, State, Task};
use tokio::sync::mpsc;

use super::access::{Operation, Scope};
use super::documents::is_gone;
use super::{Principal, Service, ServiceError};
use crate::limits;
use crate::node::Node;
use crate::wire::{LogAnswer, ReadLog};

/// Parts on their way to a client.
const PARTS_AHEAD: usize = 4;

/// Which output to read.
pub struct OutputAsked {
    pub tenant: Tenant,
    /// Id or name.
    pub task: String,
    /// As in the outcome of the task, or in the record of the attempt.
    pub path: String,
    /// Where to begin, in bytes.
    pub offset: u64,
    /// From 1. 0: the one that decided how the task ended.
    pub attempt: u32,
}

/// A piece of an output.
#[derive(Debug)]
pub struct OutputPart {
    pub offset: u64,
    pub bytes: Vec<u8>,
}

type Parts = Result<OutputPart, ServiceError>;

/// An output, and the attempt that left it.
struct Found {
    node: NodeId,
    lease: LeaseId,
    file: KeptFile,
    /// Nobody has its bytes, by what the cluster knows.
    gone: bool,
}

impl Service {
    /// Reads an output of a task, wherever it is kept: of the attempt that it ended with, or of one before.
    pub async fn read_output(
        &self,
        caller: &Principal,
        asked: &OutputAsked,
    ) -> Result<mpsc::Receiver<Parts>, ServiceError> {
        let scope = self.allow_in(caller, Operation::ReadOutput, &asked.tenant)?;
        let found = find(scope, &self.read().await?, asked)?;
        let (sender, receiver) = mpsc::channel(PARTS_AHEAD);
        let (node, offset) = (self.node.clone(), asked.offset);
        tokio::spawn(async move {
            // A client that is gone needs no error.
            if let Err(error) = send_all(&node, &found, offset, &sender).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(receiver)
    }
}

fn find(scope: Scope<'_>, state: &State, asked: &OutputAsked) -> Result<Found, ServiceError> {
    let id = scope.find_task(state, &asked.task)?;
    let left = match (state.task(id), state.finished(id)) {
        (Some(task), _) => of_live(task, asked)?,
        (None, Some(task)) => of_finished(task, asked)?,
        (None, None) => return Err(ServiceError::TaskGone),
    };
    let Left { number: attempt, node, files } = left;
    let file = files.into_iter().find(|kept| kept.path == asked.path).ok_or_else(|| unknown(asked))?;
    let gone = is_gone(state, Some(node), &file);
    Ok(Found { node, lease: LeaseId { task: id, attempt }, file, gone })
}

/// What one attempt left.
struct Left {
    number: u32,
    node: NodeId,
    files: Box<[KeptFile]>,
}

fn unknown(asked: &OutputAsked) -> ServiceError {
    ServiceError::OutputNotFound { task: asked.task.clone(), path: asked.path.clone() }
}

fn of_live(task: &Task, asked: &OutputAsked) -> Result<Left, ServiceError> {
    match asked.attempt {
        0 => Err(ServiceError::NotFinished),
        number if task.leased().is_some() && number == task.fields.attempts => {
            Err(ServiceError::AttemptNotEnded(number))
        }
        _ => of_record(task.fields.records.iter().cloned(), asked),
    }
}

fn of_finished(task: FinishedTask, asked: &OutputAsked) -> Result<Left, ServiceError> {
    let FinishedTask { fields, .. } = task;
    let number = fields.outcome.attempt;
    if asked.attempt > 0 && asked.attempt != number {
        return of_record(fields.records.into_iter(), asked);
    }
    let files = fields.outcome.outputs.ok_or_else(|| unknown(asked))?;
    let record = fields.records.iter().rev().find(|record| record.number == number);
    let node = record.map(|record| record.node).ok_or(ServiceError::OutputNodeUnknown)?;
    Ok(Left { number, node, files })
}

fn of_record(
    mut records: impl Iterator<Item = AttemptRecord>,
    asked: &OutputAsked,
) -> Result<Left, ServiceError> {
    let OutputAsked { task, attempt, .. } = asked;
    let unknown = || ServiceError::AttemptUnknown { task: task.clone(), attempt: *attempt };
    let record = records.find(|record| record.number == *attempt).ok_or_else(unknown)?;
    match record.outputs_forgotten {
        Some(_) => Err(ServiceError::OutputsForgotten(*attempt)),
        None => {
            let files = record.outputs.unwrap_or_default();
            Ok(Left { number: record.number, node: record.node, files })
        }
    }
}

async fn send_all(
    node: &Arc<Node>,
    found: &Found,
    mut offset: u64,
    sender: &mpsc::Sender<Parts>,
) -> Result<(), ServiceError> {
    let stored = found.file.stored;
    if stored {
        // From now on this peer has a copy, so what follows is read from its own disk.
        let fetched = node.stored()?.fetch(found.file.blob).await;
        fetched.map_err(|refusal| match found.gone {
            true => ServiceError::OutputGone(found.file.path.clone()),
            false => refusal.into(),
        })?;
    }
    while offset < found.file.blob.size {
        let read = match stored {
            true => of_cluster(node, found, offset).await,
            false => of_node(node, found, offset).await,
        };
        let bytes = read?;
        if bytes.is_empty() {
            return Err(ServiceError::OutputShorter);
        }
        let read_bytes = bytes.len() as u64;
        if sender.send(Ok(OutputPart { offset, bytes })).await.is_err() {
            return Ok(());
        }
        offset += read_bytes;
    }
    Ok(())
}

/// A piece of an output that the cluster keeps.
async fn of_cluster(node: &Arc<Node>, found: &Found, offset: u64) -> Result<Vec<u8>, ServiceError> {
    let (blobs, digest) = (node.stored()?.clone(), found.file.blob.digest);
    let read = move || blobs.disk.read(&digest, offset, limits::LOG_CHUNK_BYTES);
    match tokio::task::spawn_blocking(read).await {
        Ok(read) => read.map_err(ServiceError::OutputUnreadable),
        Err(_) => Err(ServiceError::Stopping),
    }
}

/// A piece of an output that only the node has which ran the attempt.
async fn of_node(node: &Node, found: &Found, offset: u64) -> Result<Vec<u8>, ServiceError> {
    let (lease, file) = (found.lease, Some(found.file.path.clone()));
    let read =
        ReadLog { lease, stderr: false, offset, wait_ms: 0, file, tail: None, progress: None, stage: None };
    match node.output.read(found.node, read).await? {
        LogAnswer::Chunk { bytes, .. } => Ok(bytes.into()),
        LogAnswer::Failed(why) => Err(ServiceError::NotKept(why)),
    }
}
