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
