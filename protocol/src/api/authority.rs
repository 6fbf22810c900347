//! The certificate authority of a cluster.

use serde::{Deserialize, Serialize};

/// Which authority there is, and how far its change is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Authority {
    /// Of the cluster, which keeps it.
    pub cluster_id: String,
    /// SHA-256 of the authority's certificate.
    pub fingerprint: String,
    /// The old authority is trusted until then at least, in milliseconds since 1970. None: only this one is.
    pub old_until_ms: Option<u64>,
    /// `steady`; `asked`: the leader makes another one; `changing`: the old one is trusted, too.
    pub phase: String,
    /// Since when there is this one. None: since the cluster began.
    pub since_ms: Option<u64>,
    /// Members that have no certificate of it yet, by name.
    pub waits_for: Vec<String>,
}

/// As `stint.v1` carries it, both ways.
#[cfg(feature = "grpc")]
mod grpc {
    use super::Authority;
    use crate::v1;

    impl From<v1::Authority> for Authority {
        fn from(message: v1::Authority) -> Self {
            let v1::Authority { cluster_id, fingerprint, phase, since_ms, old_until_ms, waits_for } = message;
            Self { cluster_id, fingerprint, old_until_ms, phase, since_ms, waits_for }
        }
    }

    impl From<Authority> for v1::Authority {
        fn from(document: Authority) -> Self {
            let Authority { cluster_id, fingerprint, old_until_ms, phase, since_ms, waits_for } = document;
            Self { cluster_id, fingerprint, phase, since_ms, old_until_ms, waits_for }
        }
    }
}
