//! A registered image.

use serde::{Deserialize, Serialize};

/// An image under its tenant and name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Image {
    pub id: String,
    pub tenant: String,
    pub name: String,
    /// executable, rootfs, docker
    pub kind: String,
    pub digest: Option<String>,
    pub size_bytes: Option<u64>,
    /// For kind docker: what the Docker runtime pulls.
    pub reference: Option<String>,
    pub description: String,
    pub created_at_ms: u64,
    /// Names of the nodes that have its bytes.
    pub nodes: Vec<String>,
    /// Tasks that wait or run with it.
    pub used_by: u32,
}

/// As `stint.v1` carries them, both ways.
#[cfg(feature = "grpc")]
mod grpc {
    use super::Image;
    use crate::api::grpc::{counted, given};
    use crate::v1;

    impl From<v1::Image> for Image {
        fn from(image: v1::Image) -> Self {
            Self {
                id: image.id,
                tenant: image.tenant,
                name: image.name,
                kind: image.kind,
                digest: given(image.digest),
                size_bytes: counted(image.size_bytes),
                reference: given(image.reference),
                description: image.description,
                created_at_ms: image.created_at_ms,
                nodes: image.nodes,
                used_by: image.used_by,
            }
        }
    }

    impl From<Image> for v1::Image {
        fn from(image: Image) -> Self {
            Self {
                id: image.id,
                tenant: image.tenant,
                name: image.name,
                kind: image.kind,
                digest: image.digest.unwrap_or_default(),
                size_bytes: image.size_bytes.unwrap_or_default(),
                reference: image.reference.unwrap_or_default(),
                description: image.description,
                created_at_ms: image.created_at_ms,
                nodes: image.nodes,
                used_by: image.used_by,
            }
        }
    }
}
