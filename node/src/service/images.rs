//! Images: registered with their bytes, looked up, listed, taken off the list.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use stint_protocol::docker_image::Reference;
use stint_protocol::{
    Blob, ImageId, ImageKind, ImageName, ImageSource, NodeId, Tenant, api, limits, version,
};
use stint_scheduler::{RegisterImage, State};
use tokio::time::timeout;

use super::access::Operation;
use super::{Principal, Service, ServiceError, documents};
use crate::blobs::message::RegistryRequest;
use crate::blobs::{BlobError, Expected, Incoming};
use crate::images::kind_of;
use crate::leader_client::unexpected;
use crate::limits as own;
use crate::wire::{Reply, Request};

/// Rows of a page when no limit is given.
const DEFAULT_ROWS: usize = 100;
/// Enough to tell a tar archive.
const FIRST_BYTES: usize = 512;

/// An image as a user registers it; its bytes come apart.
pub struct NewImage {
    pub tenant: Tenant,
    pub name: ImageName,
    pub description: String,
    /// None: told from the first bytes.
    pub kind: Option<ImageKind>,
    /// For kind docker: what the Docker runtime pulls; empty otherwise.
    pub reference: String,
    /// Other bytes than these are refused.
    pub expected: Expected,
}

/// A page of images.
#[derive(Debug, Default)]
pub struct ImagePage {
    pub images: Vec<api::Image>,
    /// Give it as `after` for the next page.
    pub next: Option<String>,
}

impl Service {
    /// Lists an image. Answers when its bytes are on as many disks as the cluster's rules say, its record on a majority.
    pub async fn register_image<E: From<ServiceError>>(
        &self,
        caller: &Principal,
        new: NewImage,
        bytes: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<api::Image, E> {
        self.check_new(caller, &new)?;
        let (source, holders) = match self.docker_reference(&new)? {
            Some(reference) => (ImageSource::Docker(reference), Vec::new()),
            None => {
                let (kind, blob) = self.take(&new, bytes).await?;
                (stored_source(kind, blob), self.spread(blob).await?)
            }
        };
        let NewImage { tenant, name, description, .. } = new;
        let id = ImageId::from_parts(self.node.clock.wall().0, self.node.rng.random_bits());
        Ok(self.enter(RegisterImage { id, tenant, name, source, description, holders }).await?)
    }

    /// Before bytes are sent in vain.
    fn check_new(&self, caller: &Principal, new: &NewImage) -> Result<(), ServiceError> {
        self.allow_in(caller, Operation::RegisterImage, &new.tenant)?.tenant()?;
        let length = new.description.len();
        if length > limits::IMAGE_DESCRIPTION_BYTES {
            return Err(ServiceError::DescriptionTooLong(length));
        }
        Ok(self.node.leader_client.check_speaks(version::IMAGES)?)
    }

    /// Kept as the Docker runtime names it; whether a node allows it is seen there. None: the image has bytes.
    fn docker_reference(&self, new: &NewImage) -> Result<Option<String>, ServiceError> {
        let docker = match new.kind {
            None => !new.reference.is_empty(),
            Some(kind) => kind == ImageKind::Docker,
        };
        match docker {
            false if new.reference.is_empty() => Ok(None),
            false => Err(ServiceError::ReferenceWithBytes),
            true if new.reference.len() > limits::IMAGE_REFERENCE_BYTES => {
                Err(ServiceError::ReferenceTooLong)
            }
            true => {
                let parsed = Reference::parse(&new.reference);
                let parsed = parsed.map_err(|error| ServiceError::InvalidReference(error.to_string()))?;
                Ok(Some(parsed.full()))
            }
        }
    }

    /// Stores the bytes, and tells what they are.
    async fn take<E: From<ServiceError>>(
        &self,
        new: &NewImage,
        mut bytes: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<(ImageKind, Blob), E> {
        let blobs = self.node.stored().map_err(ServiceError::from)?;
        let most = blobs.settings.disk.max_size;
        if new.expected.size.is_some_and(|size| size > most) {
            return Err(ServiceError::Blob(BlobError::TooLarge(most)).into());
        }
        let (incoming, _permit) = blobs.upload().ok_or(ServiceError::UploadsFull)?;
        let first = take_all(&incoming, &mut bytes).await?;
        let first = first.ok_or(ServiceError::Blob(BlobError::Empty))?;
        let blob = incoming.finish(new.expected).await.map_err(ServiceError::from)?;
        let kind = new.kind.or_else(|| kind_of(&first)).ok_or(ServiceError::UnknownImageKind)?;
        Ok((kind, blob))
    }

    async fn spread(&self, blob: Blob) -> Result<Vec<NodeId>, ServiceError> {
        Ok(self.node.stored()?.replicate(blob).await?)
    }

    async fn enter(&self, image: RegisterImage) -> Result<api::Image, ServiceError> {
        let request = Request::Registry(RegistryRequest::Register(image));
        let (id, index) = match self.ask(request).await? {
            Reply::Image { image, index } => (image, index),
            other => return Err(unexpected(&other).into()),
        };
        let state = self.node.leader_client.read_at(index).await?;
        let registered = state.image(id).ok_or(ServiceError::ImageGone)?;
        Ok(documents::image(&state, registered))
    }

    /// One page of a tenant's images, by name.
    pub async fn list_images(
        &self,
        caller: &Principal,
        tenant: &Tenant,
        after: Option<&ImageName>,
        limit: usize,
    ) -> Result<ImagePage, ServiceError> {
        let scope = self.allow_in(caller, Operation::ListImages, tenant)?;
        let state = self.read().await?;
        Ok(scope.listed().map(|tenant| page(&state, tenant, after, limit)).unwrap_or_default())
    }

    /// One image, by name, name and digest, or id.
    pub async fn image(
        &self,
        caller: &Principal,
        tenant: &Tenant,
        image: &str,
    ) -> Result<api::Image, ServiceError> {
        let scope = self.allow_in(caller, Operation::GetImage, tenant)?;
        let state = self.read().await?;
        let found = scope.find_image(&state, image)?;
        Ok(documents::image(&state, &found))
    }

    /// Takes an image off the list; what it was.
    pub async fn delete_image(
        &self,
        caller: &Principal,
        tenant: &Tenant,
        image: &str,
    ) -> Result<api::Image, ServiceError> {
        let scope = self.allow_in(caller, Operation::DeleteImage, tenant)?;
        let state = self.read().await?;
        let found = scope.find_image(&state, image)?;
        let delete = RegistryRequest::Delete { tenant: tenant.clone(), image: found.id };
        self.ask(Request::Registry(delete)).await?;
        Ok(documents::image(&state, &found))
    }
}

fn stored_source(kind: ImageKind, blob: Blob) -> ImageSource {
    match kind {
        ImageKind::Rootfs => ImageSource::Rootfs(blob),
        ImageKind::Executable | ImageKind::Docker => ImageSource::Executable(blob),
    }
}

/// Hands every part to the disk, whose pace is the client's; the first bytes, if there were any.
async fn take_all<E: From<ServiceError>>(
    incoming: &Incoming,
    bytes: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> Result<Option<Bytes>, E> {
    let mut first: Option<Bytes> = None;
    loop {
        let next = timeout(own::UPLOAD_PAUSE, bytes.next()).await;
        let part = match next.map_err(|_| ServiceError::UploadPaused)? {
            None => return Ok(first),
            Some(part) => part?,
        };
        if part.is_empty() {
            continue;
        }
        if first.as_ref().is_none_or(|first| first.len() < FIRST_BYTES) {
            let begin = first.take().unwrap_or_default();
            let more = &part[..part.len().min(FIRST_BYTES - begin.len())];
            first = Some([&begin, more].concat().into());
        }
        if !incoming.write(part).await {
            // `finish` says why.
            return Ok(first);
        }
    }
}

fn page(state: &State, tenant: &Tenant, after: Option<&ImageName>, limit: usize) -> ImagePage {
    let limit = match limit {
        0 => DEFAULT_ROWS,
        n => n.min(own::IMAGES_PAGE),
    };
    let found = state.images_after(tenant, after).take(limit + 1);
    let mut images: Vec<api::Image> = found.map(|image| documents::image(state, image)).collect();
    let more = images.len() > limit;
    images.truncate(limit);
    let next = images.last().filter(|_| more).map(|image| image.name.clone());
    ImagePage { images, next }
}
