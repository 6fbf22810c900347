//! Access tokens: made, listed and revoked. The cluster keeps the hash of a secret, so nobody can read a token again.

use std::time::Duration;

use stint_protocol::limits::TOKEN_COMMENT_BYTES;
use stint_protocol::{Role, Tenant, TimeMs, api, version};
use stint_scheduler::{AccessToken, AddAccessToken, ChangedBy};
use tokio::time::sleep;

use super::access::Operation;
use super::principal::Proof;
use super::{Principal, Service, ServiceError};
use crate::access_token::AccessSecret;
use crate::join::token_id;
use crate::leader_client::unexpected;
use crate::limits;
use crate::wire::{Reply, Request};

const DAY: Duration = Duration::from_secs(24 * 3_600);
/// Validity of a token when none is given, and at most.
const VALID: Duration = Duration::from_secs(30 * DAY.as_secs());
const VALID_MOST: Duration = Duration::from_secs(366 * DAY.as_secs());
/// Hexadecimal digits of an id that are enough to name a token.
const ID_DIGITS: usize = 4;

/// A token as its maker wants it.
pub struct NewToken {
    /// What it acts for; none: for all tenants.
    pub tenant: Option<Tenant>,
    pub role: Role,
    pub valid: Option<Duration>,
    pub comment: String,
}

impl Service {
    /// Returns once the token that a caller showed is valid no more: it expired or was revoked. Never for other proofs.
    pub fn until_invalid(&self, proof: &Proof) -> impl Future<Output = ()> + Send + 'static {
        let (node, proof) = (self.node.clone(), proof.clone());
        async move {
            let Proof::Token { id } = proof else { return std::future::pending().await };
            let is_valid = || {
                let now = node.clock.wall();
                let state = node.applied.view().state;
                state.access_tokens().any(|(hash, token)| token.expires > now && token_id(hash) == id)
            };
            while is_valid() {
                sleep(limits::TOKEN_LOOK).await;
            }
        }
    }

    /// Makes a token with which clients call without a certificate.
    pub async fn create_token(&self, caller: &Principal, new: NewToken) -> Result<api::Token, ServiceError> {
        self.allow(caller, Operation::CreateToken)?;
        let NewToken { tenant, role, valid, comment } = new;
        match (&tenant, role) {
            (None, Role::Read | Role::Submit) => return Err(ServiceError::TokenNeedsTenant(role)),
            (Some(_), Role::Admin) => return Err(ServiceError::AdminOfOneTenant),
            _ => {}
        }
        let valid = valid.unwrap_or(VALID);
        if valid > VALID_MOST {
            return Err(ServiceError::AccessValidTooLong);
        }
        if comment.len() > TOKEN_COMMENT_BYTES {
            return Err(ServiceError::TokenCommentTooLong(comment.len()));
        }
        self.node.leader_client.check_speaks(version::ACCESS_TOKENS)?;
        let secret = AccessSecret(self.node.rng.random_bits().to_be_bytes());
        let hash = secret.hash();
        let by = ChangedBy {
            role: caller.role.as_str().into(),
            proof: caller.proof.describe(),
            peer: self.node.id,
        };
        let valid_ms = valid.as_millis() as u64;
        let add = AddAccessToken { hash: hash.into(), tenant: tenant.clone(), role, valid_ms, by, comment };
        let expires = match self.ask(Request::CreateAccessToken(add)).await? {
            Reply::JoinToken { expires } => expires,
            other => return Err(unexpected(&other).into()),
        };
        let (id, by) = (token_id(&hash), caller.proof.describe());
        let of = tenant.as_ref().map_or("all", Tenant::as_str);
        tracing::info!(token = id, tenant = of, %role, days = valid.as_secs() / DAY.as_secs(), by, "access token made");
        let tenant = tenant.map(|tenant| tenant.to_string());
        Ok(api::Token {
            expires_at_ms: expires.0,
            id,
            role: role.as_str().into(),
            tenant,
            token: secret.text(),
        })
    }

    /// Tokens that are valid.
    pub async fn list_tokens(&self, caller: &Principal) -> Result<Vec<api::ListedToken>, ServiceError> {
        self.allow(caller, Operation::ListTokens)?;
        let (state, now) = (self.read().await?, self.node.clock.wall());
        let valid = state.access_tokens().filter(|(_, token)| token.expires > now);
        Ok(valid.map(|(hash, token)| listed(hash, token)).collect())
    }

    /// Nobody calls any more with the token whose id is this, or begins like this; its whole id.
    pub async fn revoke_token(&self, caller: &Principal, id: &str) -> Result<String, ServiceError> {
        self.allow(caller, Operation::RevokeToken)?;
        let state = self.read().await?;
        let meant = |hash: &&[u8; 32]| id.len() >= ID_DIGITS && token_id(hash).starts_with(id);
        let mut found = state.access_tokens().map(|(hash, _)| hash).filter(meant);
        let (Some(hash), None) = (found.next(), found.next()) else {
            return Err(ServiceError::AccessTokenNotFound(id.into()));
        };
        self.ask(Request::RevokeAccessToken { hash: (*hash).into() }).await?;
        let id = token_id(hash);
        tracing::info!(token = id, by = caller.proof.describe(), "access token revoked");
        Ok(id)
    }
}

fn listed(hash: &[u8; 32], token: &AccessToken) -> api::ListedToken {
    let AccessToken { tenant, role, expires, created, by, comment } = token;
    let TimeMs(created_at_ms) = *created;
    api::ListedToken {
        comment: comment.clone(),
        created_at_ms,
        created_by: format!("{} ({})", by.role, by.proof),
        expires_at_ms: expires.0,
        id: token_id(hash),
        role: role.as_str().into(),
        tenant: tenant.as_ref().map(Tenant::to_string),
    }
}
