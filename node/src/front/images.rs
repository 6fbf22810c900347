//! Images in the words of `stint.v1`, and their bytes straight to the disk.

use bytes::Bytes;
use stint_executor::ImageReference;
use stint_protocol::image::Named;
use stint_protocol::v1::register_image_request::Part;
use stint_protocol::{Blob, ImageKind, ImageName, ImageSource, Tenant, limits as words, v1};
use stint_scheduler::{Image, State};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::convert::{self, node_name, status};
use crate::blobs::{BlobError, Content, Expected, Incoming, NewImage};
use crate::images::kind_of;
use crate::limits;
use crate::node::Node;
use crate::wire::{Refusal, RefusalCode};

/// Rows of a listing when no limit is given.
const LIST_DEFAULT: usize = 100;

type Parts = Streaming<v1::RegisterImageRequest>;

fn invalid(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

/// Takes an image in.
pub async fn register(node: &Node, mut parts: Parts) -> Result<v1::Image, Status> {
    let Some(Part::Header(header)) = next(&mut parts).await? else {
        return Err(Status::invalid_argument("the first message must be the header"));
    };
    let tenant = convert::tenant(&header.tenant)?;
    let name = ImageName::new(&header.name).map_err(invalid)?;
    if header.description.len() > words::IMAGE_DESCRIPTION_BYTES {
        let most = words::IMAGE_DESCRIPTION_BYTES;
        return Err(invalid(format!("description: {} bytes; {most} at most", header.description.len())));
    }
    node.check_images().map_err(status)?;
    let content = content(node, &header, &mut parts).await?;
    let new = NewImage { tenant, name, description: header.description, content };
    let (id, state) = node.register(new).await.map_err(status)?;
    let gone = || Status::not_found("the image was replaced or deleted at once");
    Ok(image(&state, state.image(id).ok_or_else(gone)?))
}

async fn content(node: &Node, header: &v1::ImageHeader, parts: &mut Parts) -> Result<Content, Status> {
    let kind: Option<ImageKind> = match header.kind.as_str() {
        "" if header.reference.is_empty() => None,
        "" => Some(ImageKind::Docker),
        word => Some(word.parse().map_err(invalid)?),
    };
    if kind == Some(ImageKind::Docker) {
        return docker(header);
    }
    if !header.reference.is_empty() {
        return Err(invalid("reference: is for kind docker only"));
    }
    let digest = Some(&header.digest).filter(|digest| !digest.is_empty());
    let digest = digest.map(|digest| digest.parse()).transpose().map_err(invalid)?;
    let expected = Expected { size: header.size_bytes, digest };
    let (blob, first) = take_bytes(node, expected, parts).await?;
    let told = || kind_of(&first).ok_or_else(|| invalid(UNKNOWN_KIND));
    Ok(Content::Stored(kind.map_or_else(told, Ok)?, blob))
}

const UNKNOWN_KIND: &str = "kind: the bytes are neither a program (ELF or #!) nor a tar archive (plain, gzip or \
                            zstd): give the kind, executable or rootfs";

/// Kept as the Docker runtime names it; whether a node allows it is seen there.
fn docker(header: &v1::ImageHeader) -> Result<Content, Status> {
    if header.reference.len() > words::IMAGE_REFERENCE_BYTES {
        return Err(invalid(format!("reference: {} bytes at most", words::IMAGE_REFERENCE_BYTES)));
    }
    Ok(Content::Docker(ImageReference::parse(&header.reference).map_err(invalid)?.full()))
}

/// The stored bytes, and the first of them. The disk's pace is the client's.
async fn take_bytes(node: &Node, expected: Expected, parts: &mut Parts) -> Result<(Blob, Bytes), Status> {
    let blobs = node.stored().map_err(status)?;
    let most = blobs.settings.disk.max_size;
    if expected.size.is_some_and(|size| size > most) {
        return Err(refused(BlobError::TooLarge(most)));
    }
    let busy = format!("{} images are on their way to this peer: retry in a moment", limits::UPLOADS);
    let (incoming, _permit) = blobs.upload().ok_or_else(|| Status::resource_exhausted(busy))?;
    let Some(first) = take_all(&incoming, parts).await? else {
        return Err(refused(BlobError::Empty));
    };
    Ok((incoming.finish(expected).await.map_err(refused)?, first))
}

/// Hands every part over; the first one, if there was any byte.
async fn take_all(incoming: &Incoming, parts: &mut Parts) -> Result<Option<Bytes>, Status> {
    let mut first: Option<Bytes> = None;
    loop {
        match next(parts).await? {
            Some(Part::Chunk(chunk)) if chunk.is_empty() => {}
            Some(Part::Chunk(chunk)) => {
                if first.as_ref().is_none_or(|first| first.len() < FIRST_BYTES) {
                    let begin = first.take().unwrap_or_default();
                    let more = &chunk[..chunk.len().min(FIRST_BYTES - begin.len())];
                    first = Some([&begin, more].concat().into());
                }
                if !incoming.write(chunk).await {
                    // `finish` says why.
                    return Ok(first);
                }
            }
            Some(Part::End(_)) => return Ok(first),
            Some(Part::Header(_)) => return Err(invalid("a second header: one image a call")),
            None => return Err(invalid("the bytes stopped before their end: nothing is registered")),
        }
    }
}

/// Enough to tell a tar archive.
const FIRST_BYTES: usize = 512;

fn refused(error: BlobError) -> Status {
    status(error.into())
}

async fn next(parts: &mut Parts) -> Result<Option<Part>, Status> {
    let slow = || Refusal::new(RefusalCode::Unavailable, "the client sent nothing for a minute");
    let message = timeout(limits::UPLOAD_PAUSE, parts.message()).await;
    let message = message.map_err(|_| status(slow()))??;
    Ok(message.and_then(|message| message.part))
}

/// One page of a tenant's images.
pub fn list(state: &State, request: &v1::ListImagesRequest) -> Result<v1::ListImagesReply, Status> {
    let tenant = convert::tenant(&request.tenant)?;
    let limit = match request.limit as usize {
        0 => LIST_DEFAULT,
        n => n.min(limits::IMAGES_PAGE),
    };
    let after = Some(&request.after).filter(|after| !after.is_empty());
    let after =
        after.map(|after| ImageName::new(after)).transpose().map_err(|e| invalid(format!("after: {e}")))?;
    let mut images: Vec<v1::Image> =
        state.images_after(&tenant, after.as_ref()).take(limit + 1).map(|i| image(state, i)).collect();
    let more = images.len() > limit;
    images.truncate(limit);
    let next = images.last().filter(|_| more).map(|image| image.name.clone()).unwrap_or_default();
    Ok(v1::ListImagesReply { images, next })
}

/// Finds a listed image of the tenant by name, name and digest, or id; another tenant's is not found.
pub fn find<'a>(state: &'a State, tenant: &Tenant, text: &str) -> Result<&'a Image, Status> {
    let by_id = text.parse().ok().and_then(|id| state.image(id));
    let by_id = by_id.filter(|image| image.tenant == *tenant && image.listed);
    let by_name = || {
        let named: Option<Named> = text.parse().ok();
        named.and_then(|named| state.image_named(tenant, &named))
    };
    let found = by_id.or_else(by_name).map(|image| &**image);
    found.ok_or_else(|| {
        Status::not_found(format!(
            "no image {text:?} in tenant {tenant}: `stint image ls` lists those that are"
        ))
    })
}

/// An image as clients see it.
pub fn image(state: &State, image: &Image) -> v1::Image {
    let blob = image.source.blob();
    let holders = blob.and_then(|blob| state.blob(&blob.digest)).map(|record| record.holders.clone());
    v1::Image {
        id: image.id.to_string(),
        tenant: image.tenant.to_string(),
        name: image.name.to_string(),
        kind: image.source.kind().to_string(),
        digest: blob.map(|blob| blob.digest.to_string()).unwrap_or_default(),
        size_bytes: blob.map_or(0, |blob| blob.size),
        reference: match &image.source {
            ImageSource::Docker(reference) => reference.clone(),
            _ => String::new(),
        },
        description: image.description.clone(),
        created_at_ms: image.created_at.0,
        nodes: holders.unwrap_or_default().into_iter().map(|id| node_name(state, id)).collect(),
        used_by: state.image_uses(image.id),
    }
}
