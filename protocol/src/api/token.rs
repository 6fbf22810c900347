//! Access tokens.

use serde::{Deserialize, Serialize};

/// A token with which a client calls, as its maker is told it once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Token {
    /// In milliseconds since 1970.
    pub expires_at_ms: u64,
    /// By which it is listed and revoked.
    pub id: String,
    pub role: String,
    /// What it acts for; none: for all tenants.
    pub tenant: Option<String>,
    pub token: String,
}

/// A token as it is listed: without its secret, which the cluster does not know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ListedToken {
    /// What it is for, in its maker's words.
    pub comment: String,
    pub created_at_ms: u64,
    /// Role and proof of whoever made it.
    pub created_by: String,
    pub expires_at_ms: u64,
    pub id: String,
    pub role: String,
    /// What it acts for; none: for all tenants.
    pub tenant: Option<String>,
}

/// A token opens nothing any more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenRevoked {
    pub revoked: String,
}

/// As `stint.v1` carries them, both ways.
#[cfg(feature = "grpc")]
mod grpc {
    use super::{ListedToken, Token};
    use crate::v1;

    fn named(tenant: String) -> Option<String> {
        Some(tenant).filter(|tenant| !tenant.is_empty())
    }

    impl From<v1::CreateTokenReply> for Token {
        fn from(reply: v1::CreateTokenReply) -> Self {
            let v1::CreateTokenReply { token, id, expires_at_ms, tenant, role } = reply;
            Self { expires_at_ms, id, role, tenant: named(tenant), token }
        }
    }

    impl From<Token> for v1::CreateTokenReply {
        fn from(made: Token) -> Self {
            let Token { expires_at_ms, id, role, tenant, token } = made;
            Self { token, id, expires_at_ms, tenant: tenant.unwrap_or_default(), role }
        }
    }

    impl From<v1::Token> for ListedToken {
        fn from(token: v1::Token) -> Self {
            let v1::Token { id, tenant, role, expires_at_ms, created_at_ms, created_by, comment } = token;
            Self { comment, created_at_ms, created_by, expires_at_ms, id, role, tenant: named(tenant) }
        }
    }

    impl From<ListedToken> for v1::Token {
        fn from(token: ListedToken) -> Self {
            let ListedToken { comment, created_at_ms, created_by, expires_at_ms, id, role, tenant } = token;
            let tenant = tenant.unwrap_or_default();
            Self { id, tenant, role, expires_at_ms, created_at_ms, created_by, comment }
        }
    }
}
