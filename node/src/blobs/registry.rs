//! Registering images: their bytes come to enough disks first, then the cluster learns of them.

use std::path::PathBuf;

use bytes::Bytes;
use stint_protocol::{Blob, ImageId, ImageKind, ImageName, ImageSource, NodeId, Tenant, version};
use stint_scheduler::{KeepBlob, RegisterImage, State};
use tokio::io::AsyncReadExt;

use super::message::RegistryRequest;
use super::{BlobError, Expected};
use crate::limits;
use crate::node::Node;
use crate::wire::{Refusal, RefusalCode, Reply, Request};

/// An image as a user registers it.
#[derive(Clone, Debug)]
pub struct NewImage {
    pub tenant: Tenant,
    pub name: ImageName,
    pub description: String,
    pub content: Content,
}

/// What it is.
#[derive(Clone, Debug)]
pub enum Content {
    /// Bytes that this peer has stored.
    Stored(ImageKind, Blob),
    /// What the Docker runtime pulls.
    Docker(String),
}

impl From<BlobError> for Refusal {
    fn from(error: BlobError) -> Self {
        let code = match error {
            BlobError::Full { .. } => RefusalCode::Full,
            BlobError::TooLarge(_)
            | BlobError::WrongSize { .. }
            | BlobError::WrongDigest { .. }
            | BlobError::Empty => RefusalCode::Invalid,
            BlobError::Io { .. } | BlobError::Interrupted => RefusalCode::Unavailable,
        };
        Refusal::new(code, error.to_string())
    }
}

impl Node {
    /// Refuses while the cluster does not speak of images: before bytes are sent in vain.
    pub fn check_images(&self) -> Result<(), Refusal> {
        self.check_speaks(version::IMAGES)
    }

    /// Lists an image. Answers when its bytes are on enough disks and its record on a majority: which it is, and the
    /// state that has it.
    pub async fn register(&self, new: NewImage) -> Result<(ImageId, State), Refusal> {
        self.check_images()?;
        let id = ImageId::from_parts(self.clock.wall().0, self.chance.bits());
        let NewImage { tenant, name, description, content } = new;
        let (source, holders) = match content {
            Content::Stored(kind, blob) => (stored_source(kind, blob), self.spread(blob).await?),
            Content::Docker(reference) => (ImageSource::Docker(reference), Vec::new()),
        };
        let image = RegisterImage { id, tenant, name, source, description, holders };
        match self.ask(Request::Registry(RegistryRequest::Register(image))).await? {
            Reply::Image { image, index } => Ok((image, self.read_at(index).await?)),
            other => Err(crate::node::unexpected(&other)),
        }
    }

    /// Stores the bytes of a file for a tenant, on as many peers as the rules say.
    pub async fn keep_file(&self, tenant: Tenant, file: PathBuf) -> Result<Blob, Refusal> {
        self.check_images()?;
        let blob = self.take_file(&file).await?;
        let holders: Vec<NodeId> = self.spread(blob).await?;
        let keep_ms = self.stored()?.settings.keep_files.as_millis() as u64;
        let keep = KeepBlob { tenant, blob, keep_ms, holders };
        self.ask(Request::Registry(RegistryRequest::Keep(keep))).await?;
        Ok(blob)
    }

    async fn take_file(&self, file: &std::path::Path) -> Result<Blob, Refusal> {
        let failed = |action, source| Refusal::from(BlobError::Io { action, path: file.into(), source });
        let busy = || Refusal::new(RefusalCode::Full, "too many bytes are on their way to this peer");
        let mut reader = tokio::fs::File::open(file).await.map_err(|e| failed("opening", e))?;
        let (incoming, _permit) = self.stored()?.upload().ok_or_else(busy)?;
        loop {
            let mut part = bytes::BytesMut::with_capacity(limits::BLOB_CHUNK_BYTES);
            let read = reader.read_buf(&mut part).await.map_err(|e| failed("reading", e))?;
            if read == 0 || !incoming.write(Bytes::from(part)).await {
                return Ok(incoming.finish(Expected::default()).await?);
            }
        }
    }
}

fn stored_source(kind: ImageKind, blob: Blob) -> ImageSource {
    match kind {
        ImageKind::Rootfs => ImageSource::Rootfs(blob),
        ImageKind::Executable | ImageKind::Docker => ImageSource::Executable(blob),
    }
}
