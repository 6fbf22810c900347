//! Images that clients send through `stint.v1`: a header, then bytes, then an end.

use bytes::Bytes;
use futures_util::{Stream, stream};
use stint_protocol::v1::register_image_request::Part;
use stint_protocol::{ImageKind, ImageName, v1};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::convert::tenant;
use super::errors::invalid;
use crate::blobs::Expected;
use crate::limits;
use crate::service::{NewImage, Principal, ServiceError};

type Parts = Streaming<v1::RegisterImageRequest>;

/// What comes first.
pub async fn header(caller: &Principal, parts: &mut Parts) -> Result<NewImage, Status> {
    let first = timeout(limits::UPLOAD_PAUSE, next(parts)).await;
    let Some(Part::Header(header)) = first.map_err(|_| ServiceError::UploadPaused)?? else {
        return Err(Status::invalid_argument("the first message must be the header"));
    };
    let kind = Some(header.kind).filter(|kind| !kind.is_empty());
    let kind: Option<ImageKind> = kind.map(|kind| kind.parse()).transpose().map_err(invalid)?;
    let digest = Some(header.digest).filter(|digest| !digest.is_empty());
    let digest = digest.map(|digest| digest.parse()).transpose().map_err(invalid)?;
    Ok(NewImage {
        tenant: tenant(caller, &header.tenant)?,
        name: ImageName::new(&header.name).map_err(invalid)?,
        description: header.description,
        kind,
        reference: header.reference,
        expected: Expected { size: header.size_bytes, digest },
    })
}

/// The bytes up to their end, without which nothing is registered.
pub fn bytes(parts: Parts) -> impl Stream<Item = Result<Bytes, Status>> + Unpin {
    Box::pin(stream::try_unfold(parts, async |mut parts| match next(&mut parts).await? {
        Some(Part::Chunk(chunk)) => Ok(Some((chunk, parts))),
        Some(Part::End(_)) => Ok(None),
        Some(Part::Header(_)) => Err(invalid("a second header: one image a call")),
        None => Err(invalid("the bytes stopped before their end: nothing is registered")),
    }))
}

async fn next(parts: &mut Parts) -> Result<Option<Part>, Status> {
    Ok(parts.message().await?.and_then(|message| message.part))
}
