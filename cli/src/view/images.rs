//! Images as commands show them.

use serde::Serialize;
use stint_sdk::{units, v1};

#[derive(Debug, Serialize)]
pub struct ImageView {
    pub id: String,
    pub tenant: String,
    pub name: String,
    pub kind: String,
    pub digest: Option<String>,
    pub size_bytes: Option<u64>,
    pub reference: Option<String>,
    pub description: String,
    pub created_at_ms: u64,
    pub nodes: Vec<String>,
    pub used_by: u32,
}

impl From<v1::Image> for ImageView {
    fn from(image: v1::Image) -> Self {
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        Self {
            id: image.id,
            tenant: image.tenant,
            name: image.name,
            kind: image.kind,
            digest: given(image.digest),
            size_bytes: Some(image.size_bytes).filter(|size| *size > 0),
            reference: given(image.reference),
            description: image.description,
            created_at_ms: image.created_at_ms,
            nodes: image.nodes,
            used_by: image.used_by,
        }
    }
}

impl ImageView {
    /// For people; empty when the cluster has no bytes of it.
    pub fn size(&self) -> String {
        self.size_bytes.map(units::show_bytes).unwrap_or_default()
    }

    /// How long it is registered.
    pub fn age(&self, now_ms: u64) -> String {
        units::show_duration(now_ms.saturating_sub(self.created_at_ms))
    }

    /// What names its content.
    pub fn what(&self) -> String {
        self.digest.clone().or_else(|| self.reference.clone()).unwrap_or_default()
    }
}
