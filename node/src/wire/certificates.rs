//! What peers say to each other about certificates and the authority's key.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use stint_protocol::TimeMs;

use super::Refusal;
use crate::pki::CertificateRequest;

/// What a joiner wants certificates for.
#[derive(Clone, Debug, Encode, Decode)]
pub struct JoinRequests {
    #[n(0)]
    pub peer: CertificateRequest,
    #[n(1)]
    pub admin: CertificateRequest,
}

/// A member wants another certificate instead of this one, which may have expired.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Renew {
    /// DER.
    #[n(0)]
    pub certificate: ByteVec,
    /// Of the same key.
    #[n(1)]
    pub request: CertificateRequest,
}

/// The answer to it.
#[derive(Clone, Debug, Encode, Decode)]
pub enum RenewAnswer {
    #[n(0)]
    Renewed {
        /// PEM.
        #[n(0)]
        certificate: String,
        /// The clock of who issued it.
        #[n(1)]
        now: TimeMs,
    },
    /// `NotFound`: it is no member any more, and never will be.
    #[n(1)]
    Refused(#[n(0)] Refusal),
}

/// A member asks for the key of the authority.
#[derive(Clone, Copy, Debug, Encode, Decode)]
pub struct KeyQuestion {
    /// Not for the key, but whether it is here.
    #[n(0)]
    pub only_whether: bool,
}

/// The answer to it.
#[derive(Clone, Encode, Decode)]
pub enum KeyAnswer {
    /// PEM; for voters alone.
    #[n(0)]
    Key(#[n(0)] String),
    #[n(1)]
    Held(#[n(0)] bool),
    #[n(2)]
    Refused(#[n(0)] String),
}
