//! Registered images.

use stint_protocol::{ImageSource, api};
use stint_scheduler::{Image, State};

use super::node_name;

/// An image with who has its bytes.
pub fn image(state: &State, image: &Image) -> api::Image {
    let blob = image.source.blob();
    let holders = blob.and_then(|blob| state.blob(&blob.digest)).map(|record| record.holders.clone());
    api::Image {
        id: image.id.to_string(),
        tenant: image.tenant.to_string(),
        name: image.name.to_string(),
        kind: image.source.kind().to_string(),
        digest: blob.map(|blob| blob.digest.to_string()),
        size_bytes: blob.map(|blob| blob.size),
        reference: match &image.source {
            ImageSource::Docker(reference) => Some(reference.clone()),
            ImageSource::Rootfs(_) | ImageSource::Executable(_) => None,
        },
        description: image.description.clone(),
        created_at_ms: image.created_at.0,
        nodes: holders.unwrap_or_default().into_iter().map(|id| node_name(state, id)).collect(),
        used_by: state.image_uses(image.id),
    }
}
