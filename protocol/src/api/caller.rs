//! Who calls.

use serde::{Deserialize, Serialize};

/// A caller, as the peer that answers sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Caller {
    /// Its own tenant: the one of a request that names none.
    pub tenant: String,
    /// read, submit, operator, admin
    pub role: String,
    /// Whether it reaches other tenants, as far as its role goes.
    pub all_tenants: bool,
    /// local_socket, local_user, admin_certificate, token
    pub proof: String,
    /// The user of the peer's machine that calls, where the kernel says so.
    pub uid: Option<u32>,
    /// The token that it showed, by its id.
    pub token_id: Option<String>,
}

/// As `stint.v1` carries it, both ways.
#[cfg(feature = "grpc")]
mod grpc {
    use super::Caller;
    use crate::v1;

    impl From<v1::Caller> for Caller {
        fn from(caller: v1::Caller) -> Self {
            let v1::Caller { tenant, role, all_tenants, proof, uid, token_id } = caller;
            Self {
                tenant,
                role,
                all_tenants,
                proof,
                uid,
                token_id: Some(token_id).filter(|id| !id.is_empty()),
            }
        }
    }

    impl From<Caller> for v1::Caller {
        fn from(caller: Caller) -> Self {
            let Caller { tenant, role, all_tenants, proof, uid, token_id } = caller;
            Self { tenant, role, all_tenants, proof, uid, token_id: token_id.unwrap_or_default() }
        }
    }
}
