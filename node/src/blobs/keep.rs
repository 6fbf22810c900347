//! Keeping files for a tenant: their bytes come to enough disks first, then the cluster learns of them.

use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use stint_executor::HoleReader;
use stint_protocol::{Blob, NodeId, Tenant, version};
use stint_scheduler::KeepBlob;

use super::message::RegistryRequest;
use super::{BlobError, Blobs, Expected};
use crate::limits;
use crate::wire::{Refusal, RefusalCode, Request};

impl BlobError {
    /// What it means to whoever asked for bytes to be stored.
    pub fn refusal_code(&self) -> RefusalCode {
        match self {
            BlobError::Full { .. } => RefusalCode::Full,
            BlobError::TooLarge(_)
            | BlobError::WrongSize { .. }
            | BlobError::WrongDigest { .. }
            | BlobError::Empty => RefusalCode::Invalid,
            BlobError::Io { .. } | BlobError::Interrupted => RefusalCode::Unavailable,
        }
    }
}

impl From<BlobError> for Refusal {
    fn from(error: BlobError) -> Self {
        Refusal::new(error.refusal_code(), error.to_string())
    }
}

impl Blobs {
    /// Stores the bytes of a file for a tenant, on as many peers as the rules say.
    pub async fn keep_file(&self, tenant: Tenant, file: PathBuf) -> Result<Blob, Refusal> {
        self.cluster.leader_client.check_speaks(version::IMAGES)?;
        let blob = self.take_file(&file).await?;
        let holders: Vec<NodeId> = self.replicate(blob).await?;
        let keep_ms = self.settings.keep_files.as_millis() as u64;
        let keep = KeepBlob { tenant, blob, keep_ms, holders };
        self.cluster.leader_client.ask(Request::Registry(RegistryRequest::Keep(keep))).await?;
        Ok(blob)
    }

    async fn take_file(&self, file: &Path) -> Result<Blob, Refusal> {
        let failed = |action, source| Refusal::from(BlobError::Io { action, path: file.into(), source });
        let busy = || Refusal::new(RefusalCode::Full, "too many bytes are on their way to this peer");
        let mut reader = HoleReader::open(file).map_err(|e| failed("opening", e))?;
        let (incoming, _permit) = self.upload().ok_or_else(busy)?;
        loop {
            let (same, part) = tokio::task::spawn_blocking(move || next_part(reader))
                .await
                .unwrap_or_else(|e| Err(std::io::Error::other(e)))
                .map_err(|e| failed("reading", e))?;
            reader = same;
            if part.is_empty() || !incoming.write(part).await {
                return Ok(incoming.finish(Expected::default()).await?);
            }
        }
    }
}

/// Reads on; empty at the end.
fn next_part(mut reader: HoleReader) -> std::io::Result<(HoleReader, Bytes)> {
    let mut part = vec![0; limits::BLOB_CHUNK_BYTES];
    let read = reader.read(&mut part)?;
    part.truncate(read);
    Ok((reader, Bytes::from(part)))
}
