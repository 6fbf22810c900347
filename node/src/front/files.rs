//! Files of tasks: between the words of `stint.v1` and ours, and the bytes of outputs on their way to a client.

use std::sync::Arc;

use stint_protocol::v1::input_file::Source;
use stint_protocol::{
    Blob, InputFile, InputSource, KeptFile, LeaseId, NodeId, OutputPath, SecretUse, TaskFiles, v1,
};
use stint_scheduler::State;
use tokio::sync::mpsc;
use tonic::Status;

use super::convert::{find_task, invalid, status, tenant};
use crate::limits;
use crate::node::Node;
use crate::wire::{LogAnswer, ReadLog};

/// Chunks on their way to a client.
const CHUNKS_AHEAD: usize = 4;

/// Inputs, outputs and secrets as they came in; none when there are none.
pub fn task_files(
    inputs: Vec<v1::InputFile>,
    outputs: Vec<v1::OutputPath>,
    secrets: Vec<v1::SecretUse>,
) -> Result<Option<Box<TaskFiles>>, Status> {
    let output = |output: v1::OutputPath| OutputPath { path: output.path, optional: output.optional };
    let secret = |secret: v1::SecretUse| SecretUse {
        name: secret.name,
        variable: Some(secret.variable).filter(|variable| !variable.is_empty()),
    };
    let files = TaskFiles {
        inputs: inputs.into_iter().map(input).collect::<Result<_, _>>()?,
        outputs: outputs.into_iter().map(output).collect(),
        secrets: secrets.into_iter().map(secret).collect(),
    };
    Ok((!files.is_empty()).then(|| Box::new(files)))
}

fn input(input: v1::InputFile) -> Result<InputFile, Status> {
    let v1::InputFile { path, source, digest, executable } = input;
    let source = match source {
        Some(Source::Content(bytes)) => InputSource::Content(bytes),
        Some(Source::File(path)) => InputSource::File(path),
        Some(Source::Blob(blob)) => InputSource::Blob(self::blob(blob)?),
        None => return Err(invalid(format!("inputs: {path:?} has no source: give content, file or blob"))),
    };
    let digest = Some(digest).filter(|digest| !digest.is_empty());
    let digest = digest.map(|digest| digest.parse()).transpose().map_err(invalid)?;
    Ok(InputFile { path, source, digest, executable })
}

fn blob(blob: v1::Blob) -> Result<Blob, Status> {
    Ok(Blob { digest: blob.digest.parse().map_err(invalid)?, size: blob.size_bytes })
}

/// A kept output.
pub fn kept(kept: &KeptFile) -> v1::KeptFile {
    let KeptFile { path, blob, stored } = kept;
    let blob = v1::Blob { digest: blob.digest.to_string(), size_bytes: blob.size };
    v1::KeptFile { path: path.clone(), blob: Some(blob), stored: *stored }
}

/// The node that ran the attempt which left an output.
pub struct Keeper {
    node: NodeId,
    lease: LeaseId,
    file: KeptFile,
    offset: u64,
}

/// Finds an output of a finished task.
pub fn find_output(state: &State, request: &v1::ReadOutputRequest) -> Result<Keeper, Status> {
    let id = find_task(state, &tenant(&request.tenant)?, &request.task)?;
    let Some(task) = state.finished(id) else {
        return Err(Status::failed_precondition("the task is not finished: its outputs are kept at its end"));
    };
    let outcome = &task.fields.outcome;
    let file = outcome.outputs.iter().flatten().find(|kept| kept.path == request.path).cloned();
    let file = file.ok_or_else(|| {
        Status::not_found(format!(
            "the task left no output {:?}: see `stint outputs {}`",
            request.path, request.task
        ))
    })?;
    let record = task.fields.records.iter().rev().find(|record| record.number == outcome.attempt);
    let node = record.map(|record| record.node);
    let node = node.ok_or_else(|| Status::not_found("which node ran the task is not known any more"))?;
    Ok(Keeper { node, lease: LeaseId { task: id, attempt: outcome.attempt }, file, offset: request.offset })
}

/// Streams an output from the node that keeps it.
pub fn stream(node: Arc<Node>, keeper: Keeper) -> mpsc::Receiver<Result<v1::OutputChunk, Status>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    tokio::spawn(async move {
        // A client that is gone needs no error.
        if let Err(error) = send_all(&node, &keeper, &sender).await {
            let _ = sender.send(Err(error)).await;
        }
    });
    receiver
}

async fn send_all(
    node: &Arc<Node>,
    keeper: &Keeper,
    sender: &mpsc::Sender<Result<v1::OutputChunk, Status>>,
) -> Result<(), Status> {
    let mut offset = keeper.offset;
    let stored = keeper.file.stored;
    if stored {
        // From now on this peer has a copy, so what follows is read from its own disk.
        node.have(keeper.file.blob).await.map_err(status)?;
    }
    while offset < keeper.file.blob.size {
        let read =
            if stored { of_cluster(node, keeper, offset).await } else { of_node(node, keeper, offset).await };
        let bytes = read?;
        if bytes.is_empty() {
            return Err(Status::data_loss("the output is shorter than it was when it was kept"));
        }
        let data_bytes = bytes.len() as u64;
        if sender.send(Ok(v1::OutputChunk { offset, data: bytes })).await.is_err() {
            return Ok(());
        }
        offset += data_bytes;
    }
    Ok(())
}

/// A piece of an output that the cluster keeps.
async fn of_cluster(node: &Arc<Node>, keeper: &Keeper, offset: u64) -> Result<Vec<u8>, Status> {
    let (node, digest) = (node.clone(), keeper.file.blob.digest);
    let read = move || {
        let blobs = node.stored().map_err(status)?;
        let read = blobs.disk.read(&digest, offset, limits::LOG_CHUNK_BYTES);
        read.map_err(|error| Status::unavailable(format!("reading the output: {error}")))
    };
    let stopping = |_| Err(Status::unavailable("this peer is stopping"));
    tokio::task::spawn_blocking(read).await.unwrap_or_else(stopping)
}

/// A piece of an output that only the node has which ran the attempt.
async fn of_node(node: &Node, keeper: &Keeper, offset: u64) -> Result<Vec<u8>, Status> {
    let file = Some(keeper.file.path.clone());
    let read =
        ReadLog { lease: keeper.lease, stderr: false, offset, wait_ms: 0, file, tail: None, progress: None };
    match node.read_log(keeper.node, read).await {
        Ok(LogAnswer::Chunk { bytes, .. }) => Ok(bytes.into()),
        Ok(LogAnswer::Failed(why)) => Err(Status::not_found(why)),
        Err(refusal) => Err(status(refusal)),
    }
}
