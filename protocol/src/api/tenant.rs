//! Tenants that the cluster has anything of.

use serde::{Deserialize, Serialize};

/// A tenant, its rules, and how much the cluster has of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedTenant {
    pub tenant: String,
    pub max_priority: u32,
    pub weight: u32,
    /// The user that its programs run as, for ever; none: it was given none yet.
    pub uid: Option<u32>,
    /// Tasks that wait or run.
    pub unfinished: u64,
    /// Tasks that are finished and not forgotten.
    pub finished: u64,
    pub images: u64,
    /// Valid ones.
    pub tokens: u64,
    /// Patterns of images that its tasks may name; none: any image.
    #[serde(default)]
    pub allowed_images: Vec<String>,
    /// It shares its nodes with nobody.
    #[serde(default)]
    pub dedicated: bool,
}

/// As `stint.v1` carries them, both ways.
#[cfg(feature = "grpc")]
mod grpc {
    use super::ListedTenant;
    use crate::v1;

    impl From<v1::Tenant> for ListedTenant {
        fn from(listed: v1::Tenant) -> Self {
            let v1::Tenant {
                tenant,
                max_priority,
                weight,
                uid,
                allowed_images,
                dedicated,
                unfinished,
                finished,
                images,
                tokens,
            } = listed;
            let uid = Some(uid).filter(|uid| *uid > 0);
            Self {
                tenant,
                max_priority,
                weight,
                uid,
                allowed_images,
                dedicated,
                unfinished,
                finished,
                images,
                tokens,
            }
        }
    }

    impl From<ListedTenant> for v1::Tenant {
        fn from(listed: ListedTenant) -> Self {
            let ListedTenant {
                tenant,
                max_priority,
                weight,
                uid,
                allowed_images,
                dedicated,
                unfinished,
                finished,
                images,
                tokens,
            } = listed;
            let uid = uid.unwrap_or_default();
            Self {
                tenant,
                max_priority,
                weight,
                uid,
                allowed_images,
                dedicated,
                unfinished,
                finished,
                images,
                tokens,
            }
        }
    }
}
