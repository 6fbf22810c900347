//! Files that a finished task left, as a stream of bytes.

use std::sync::Arc;

use stint_protocol::{KeptFile, LeaseId, NodeId, Tenant};
use stint_scheduler::State;
use tokio::sync::mpsc;

use super::access::{Operation, Scope};
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
    /// As in the outcome of the task.
    pub path: String,
    /// Where to begin, in bytes.
    pub offset: u64,
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
}

impl Service {
    /// Reads an output of a finished task, wherever it is kept.
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
    let task = state.finished(id).ok_or(ServiceError::NotFinished)?;
    let outcome = &task.fields.outcome;
    let file = outcome.outputs.iter().flatten().find(|kept| kept.path == asked.path).cloned();
    let unknown = || ServiceError::OutputNotFound { task: asked.task.clone(), path: asked.path.clone() };
    let file = file.ok_or_else(unknown)?;
    let record = task.fields.records.iter().rev().find(|record| record.number == outcome.attempt);
    let node = record.map(|record| record.node).ok_or(ServiceError::OutputNodeUnknown)?;
    Ok(Found { node, lease: LeaseId { task: id, attempt: outcome.attempt }, file })
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
        node.stored()?.fetch(found.file.blob).await?;
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
