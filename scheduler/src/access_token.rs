//! Access tokens: who shows the secret of one calls in its tenant and role. Only its SHA-256 is kept.

use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};
use stint_protocol::{Role, Tenant, TimeMs};

use crate::settings::ChangedBy;

/// What is kept of a token, under the hash of its secret.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AccessToken {
    /// What it acts for; none: for all tenants, as far as its role goes.
    #[n(0)]
    pub tenant: Option<Tenant>,
    #[n(1)]
    pub role: Role,
    #[n(2)]
    pub expires: TimeMs,
    #[n(3)]
    pub created: TimeMs,
    /// Who asked for it.
    #[n(4)]
    pub by: ChangedBy,
    /// What it is for, in its maker's words.
    #[n(5)]
    pub comment: String,
}

/// A token as a snapshot has it.
#[derive(Encode, Decode)]
pub(crate) struct StoredAccessToken {
    #[n(0)]
    pub hash: ByteArray<32>,
    #[n(1)]
    pub token: AccessToken,
}
